"""Tasks on texts: `pipeline(task, path)` loads a checkpoint and returns a callable for the task."""

from minitransformer.tasks.pipeline import pipeline

__all__ = ["pipeline"]

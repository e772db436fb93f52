"""What a user asks for: `pipeline(task, path)` loads a checkpoint and answers."""

from minitransformer.tasks.pipeline import pipeline

__all__ = ["pipeline"]

"""The one entrance to the tasks."""

from pathlib import Path

import torch

from minitransformer.names import unexpected_name
from minitransformer.tasks.fill_mask import FillMask

TASKS = {"fill-mask": FillMask}


def pipeline(task: str, path: str | Path, *, device: str | torch.device = "cpu") -> FillMask:
    """Load the checkpoint and its tokenizer, and give a callable that does the task.

    Example:
        >>> pipeline("fill-mask", "path")("ciao, come <mask>?")

    Args:
        task: "fill-mask".
        path: a directory, or a name on the hub.
        device: to run on.

    Raises:
        ValueError: the task is unknown, or the checkpoint is not made for it.
        CheckpointError: the checkpoint cannot be loaded.
    """
    if task not in TASKS:
        raise ValueError(unexpected_name("task", task, TASKS))
    return TASKS[task].from_pretrained(path, device=device)

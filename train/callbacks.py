"""Callbacks: what a run calls after each step and each evaluation.

A callback is any callable that takes the progress of the run and a record:

    def __call__(self, progress: Progress, record: Record) -> bool | None

The record of a step has the keys `step`, `epoch`, `loss`, `learning_rate`, `gradient_norm`,
`tokens` and `seconds`; that of an evaluation `step` and, with the prefix `eval_`, the metrics. If a
callback returns True, the run saves a checkpoint and ends there; it can be resumed. A callback must
not change PyTorch's random numbers, or a resumed run would end with other weights.
"""

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

Record = dict[str, Any]


def is_evaluation(record: Record) -> bool:
    """Whether a record is that of an evaluation, not of a step."""
    return any(name.startswith("eval_") for name in record)


class PrintSamples:
    """Prints what the model does, after each evaluation.

    Args:
        model: that is trained.
        sample: called in evaluation mode, without gradients; what it returns is printed, such as
            the results of a pipeline or a generated text.
    """

    def __init__(self, model: nn.Module, sample: Callable[[], object]) -> None:
        self.model = model
        self.sample = sample

    def __call__(self, progress: Any, record: Record) -> None:
        """See the module."""
        if not is_evaluation(record):
            return
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad(), torch.random.fork_rng():
            tqdm.write(f"step {record['step']}: {self.sample()}")
        self.model.train(was_training)


class CSVLog:
    """Writes every number of every record to a CSV file: step, name, value.

    The rows of a resumed run follow those before its first record.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._is_open = False

    def __call__(self, progress: Any, record: Record) -> None:
        """See the module."""
        if not self._is_open:
            self._begin(record)
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            for name, value in record.items():
                if name != "step" and isinstance(value, int | float):
                    writer.writerow([record["step"], name, value])

    def _begin(self, record: Record) -> None:
        """Write the header, or drop the rows that a resumed run writes again."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        if self.path.exists():
            with open(self.path, encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))[1:]
        first = record["step"], is_evaluation(record)
        rows = [r for r in rows if (int(r[0]), r[1].startswith("eval_")) < first]
        with open(self.path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["step", "name", "value"], *rows])
        self._is_open = True


class StopAfter:
    """Ends a run after some time, which is counted from the first record.

    Args:
        seconds, minutes, hours: added up.

    Raises:
        ValueError: they are not positive.
    """

    def __init__(self, *, seconds: float = 0.0, minutes: float = 0.0, hours: float = 0.0) -> None:
        self.limit = seconds + 60 * minutes + 3600 * hours
        if not self.limit > 0:
            raise ValueError(f"a limit of {self.limit} seconds must be positive")
        self._started: float | None = None

    def __call__(self, progress: Any, record: Record) -> bool:
        """See the module."""
        if self._started is None:
            self._started = time.monotonic()
        return time.monotonic() - self._started >= self.limit

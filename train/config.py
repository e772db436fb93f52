"""The training settings that all jobs have in common."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from minitransformer.arguments import NOT_NEEDED, OTHER_NAMES
from minitransformer.names import shortened, unexpected_name
from train.optimizer import SCHEDULES


class _ConfigType(type):
    """What making a config does before its dataclass does: the names of its fields are checked."""

    def __call__(cls, *arguments: Any, **values: Any) -> Any:
        """Make a config.

        Raises:
            TypeError: a field is unknown, or has no name.
        """
        if arguments:
            raise TypeError(f"{cls.__name__} takes fields by name, as in output='runs/one'")
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        for name in values:
            if name not in known:
                raise TypeError(_unknown_field(name, known))
        return super().__call__(**values)


def _unknown_field(name: str, known: list[str]) -> str:
    """What to type instead of a field that there is not, such as one of TrainingArguments."""
    option = name.replace("_", "-")
    for others, reason in NOT_NEEDED.items():
        if option in others.split():
            return f"TrainingConfig has no field {shortened(name)}; leave it out: {reason}"
    options = [ours for ours, others in OTHER_NAMES.items() if option in others.split()]
    names = [ours.removeprefix("--").replace("-", "_") for ours in options]
    if "batch_size" in [name, *names]:
        return (
            f"TrainingConfig has no field {shortened(name)}: the size of a batch is that of the "
            "DataLoader, or, of a Dataset, train(model, dataset, config, batch_size=...)"
        )
    guess = next((ours for ours in names if ours in known), None)
    return unexpected_name("TrainingConfig field", name, known, guess)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(metaclass=_ConfigType):
    """How to train; all other settings belong to the model or the data.

    Raises:
        TypeError: a field is unknown.
        ValueError: a value is invalid; the message names the field.
    """

    output: Path  # a str is converted
    epochs: int = 1
    max_steps: int | None = None  # replaces `epochs`
    accumulate: int = 1  # batches per step, whose gradients are accumulated
    learning_rate: float = 5e-4
    schedule: str = "linear"  # one of train.optimizer.SCHEDULES
    warmup: float = 0.06  # fraction of the steps
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    label_smoothing: float = 0.0  # of the training loss; evaluations are not smoothed
    freeze: str | None = None  # parts that are not trained, such as "embeddings,0-5"
    evaluate_every: int | str = 500  # in steps, or "epoch"
    save_every: int | str = 500  # in steps, or "epoch"
    keep_checkpoints: int = 2
    patience: int | None = None  # evaluations without a better metric before the run ends
    best_metric: str | None = None  # keep the weights that are best by it; with patience: the loss
    greater_is_better: bool | None = None  # of the metric; None: it follows from the name
    device: str = "cpu"  # a torch.device is converted
    bf16: bool = False
    fp16: bool = False  # with loss scaling; needs a CUDA device
    gradient_checkpointing: bool = False  # recompute layers in the backward pass, to save memory
    compile: bool = False
    resume: bool = False

    @property
    def checkpoints(self) -> Path:
        """The directory that contains the checkpoints."""
        return self.output / "checkpoints"

    @property
    def best(self) -> Path:
        """The directory of the best weights, which are saved if `keeps_best`."""
        return self.checkpoints / "best"

    @property
    def keeps_best(self) -> bool:
        """Whether the weights that are best by a metric are saved, and restored at the end."""
        return self.patience is not None or self.best_metric is not None

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for a forward pass: autocast with `bf16` or `fp16`, else nothing."""
        if not (self.bf16 or self.fp16):
            return nullcontext()
        dtype = torch.bfloat16 if self.bf16 else torch.float16
        return torch.autocast(torch.device(self.device).type, dtype)

    def __post_init__(self) -> None:
        object.__setattr__(self, "output", Path(self.output))
        object.__setattr__(self, "device", str(self.device))
        counts = ["epochs", "accumulate", "keep_checkpoints"]
        counts += [name for name in ("max_steps", "patience") if getattr(self, name) is not None]
        for name in counts:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}={shortened(value)} must be an integer of at least 1")
        for name in ("evaluate_every", "save_every"):
            value = getattr(self, name)
            if value != "epoch" and (type(value) is not int or value < 1):
                raise ValueError(
                    f"{name}={shortened(value)} must be a number of steps, at least 1, or 'epoch'"
                )
        for name in ("learning_rate", "clip_norm", "warmup", "weight_decay", "label_smoothing"):
            if not isinstance(getattr(self, name), int | float):
                raise ValueError(f"{name}={shortened(getattr(self, name))} must be a number")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be positive and finite")
        if self.schedule not in SCHEDULES:
            raise ValueError(unexpected_name("schedule", self.schedule, SCHEDULES))
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup={self.warmup} must be a fraction of the steps, from 0 to 1")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay} must be finite, and not negative")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing={self.label_smoothing} must be at least 0 and less than 1"
            )
        if not isinstance(self.freeze, str | None):
            raise ValueError(
                f"freeze={shortened(self.freeze)} must be one text, as in 'embeddings,0-5'"
            )
        if self.device.split(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"device={shortened(self.device)} is unknown; choose cpu or cuda")
        if self.fp16 and self.bf16:
            raise ValueError("fp16 and bf16 exclude each other; leave one of the two out")
        if self.fp16 and torch.device(self.device).type != "cuda":
            raise ValueError(
                f"fp16 needs a CUDA device, but device={self.device!r}; on a CPU use bf16, or "
                "leave fp16 out"
            )

"""The training settings that all jobs have in common."""

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train; all other settings belong to the model or the data."""

    output: Path
    epochs: int = 1
    max_steps: int | None = None  # replaces `epochs`
    accumulate: int = 1  # batches per step, whose gradients are accumulated
    learning_rate: float = 5e-4
    warmup: float = 0.06  # fraction of the steps
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    evaluate_every: int = 500  # in steps
    save_every: int = 500  # in steps
    keep_checkpoints: int = 2
    patience: int | None = None  # evaluations without a better loss before the run ends
    device: str = "cpu"
    bf16: bool = False
    compile: bool = False
    resume: bool = False

    @property
    def checkpoints(self) -> Path:
        """The directory that contains the checkpoints."""
        return self.output / "checkpoints"

    @property
    def best(self) -> Path:
        """The directory of the weights with the best loss, which are saved with `patience`."""
        return self.checkpoints / "best"

    def __post_init__(self) -> None:
        counts = ["epochs", "accumulate", "evaluate_every", "save_every", "keep_checkpoints"]
        counts += [name for name in ("max_steps", "patience") if getattr(self, name) is not None]
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be positive and finite")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup={self.warmup} must be a fraction of the steps, from 0 to 1")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay} must not be negative")

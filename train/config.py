"""How to train: what all jobs have in common."""

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train; what is not said here is said by model and data."""

    output: Path
    epochs: int = 1
    max_steps: int | None = None  # ends the run early, or lets it go through the data again
    accumulate: int = 1  # batches whose gradients make one step
    learning_rate: float = 5e-4
    warmup: float = 0.06  # share of the steps
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    evaluate_every: int = 500  # steps
    save_every: int = 500  # steps
    keep_checkpoints: int = 2
    patience: int | None = None  # evaluations without a better loss before the run is ended
    device: str = "cpu"
    bf16: bool = False
    compile: bool = False
    resume: bool = False

    @property
    def checkpoints(self) -> Path:
        """The directory of the checkpoints."""
        return self.output / "checkpoints"

    @property
    def best(self) -> Path:
        """The weights of the best evaluation, where `patience` asks for them."""
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
            raise ValueError(f"warmup={self.warmup} is a share of the steps, from 0 to 1")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay} must not be negative")

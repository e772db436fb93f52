"""The training loop, written by hand: one function, :func:`train`, top to bottom.

It works for any model with a `summed_loss(**batch)` and any data that can name its batches by
epoch and number, which is what makes resuming exact: the place in the data is two integers.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from minitransformer.files import remove_unfinished
from minitransformer.models.base import Model, TaskModel
from minitransformer.models.inputs import IGNORED_LABEL
from train.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from train.metrics import MetricsFile
from train.optimizer import build_optimizer, learning_rate_factor
from train.signals import StopSignals

Batch = dict[str, Tensor]
Record = dict[str, Any]


class Data(Protocol):
    """Batches by their number: the same epoch and index give the same batch in any process."""

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""

    def batch(self, epoch: int, index: int) -> Batch:
        """The arguments of the model's loss, `labels` among them."""


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


# What may differ between a run and its resumption without changing a single weight.
_FREE_TO_CHANGE = {"output", "resume", "save_every", "keep_checkpoints"}


@dataclass
class Progress:
    """Where a run is; all of it is in a checkpoint."""

    step: int = 0
    evaluated_step: int = -1
    best_loss: float = math.inf
    stale_evaluations: int = 0  # evaluations since the best one
    metrics_bytes: int = 0  # how much of metrics.jsonl belongs to the checkpoint
    stop_signal: int | None = None  # of a run that was stopped; None in every checkpoint


class NonFiniteError(ArithmeticError):
    """The loss or a gradient is NaN or infinite; the step was not taken."""


def train(
    model: TaskModel,
    data: Data,
    config: TrainingConfig,
    *,
    evaluate: Callable[[Callable[[], bool]], Record | None] | None = None,
    callbacks: Sequence[Callable[[Progress, Record], None]] = (),
    fingerprint: Record | None = None,
) -> Progress:
    """Train `model` on `data`; leave checkpoints and metrics.jsonl under `config.output`.

    The gradient of a step is that of the mean loss over all supervised tokens of its batches,
    however they are spread over them. After SIGINT or SIGTERM the step is finished, a checkpoint
    is written and the function returns; with `config.resume` the next run goes on from there, and
    ends with the same weights, bit for bit, as one that never stopped.

    Args:
        model: has `summed_loss(**batch)`, giving the sum of the losses and their number.
        data: the batches.
        config: how to train.
        evaluate: called every `evaluate_every` steps and at the end, in evaluation mode, with a
            function that says whether to give up; returns figures, "loss" among them, or None if
            it gave up. With `patience` the model ends with the weights of the best loss.
        callbacks: called with the progress and the record of each step and each evaluation.
        fingerprint: whatever else must be the same when the run is resumed.

    Returns:
        The progress; its `stop_signal` is None if the run is finished.

    Raises:
        NonFiniteError: the loss or a gradient is not finite. The last checkpoint is good.
        ValueError: there is nothing to resume, or a run that would be overwritten, or the run to
            be resumed was another.
    """
    device = torch.device(config.device)
    model.to(device).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = build_optimizer(model, config.learning_rate, config.weight_decay)
    summed_loss = torch.compile(model.summed_loss) if config.compile else model.summed_loss

    steps_per_epoch = math.ceil(data.num_batches / config.accumulate)
    total_steps = config.max_steps or config.epochs * steps_per_epoch
    warmup_steps = round(config.warmup * total_steps)

    checkpoints = config.output / "checkpoints"
    identity = json.loads(
        json.dumps(
            {k: v for k, v in asdict(config).items() if k not in _FREE_TO_CHANGE}
            | (fingerprint or {})
        )
    )
    progress = _start_or_resume(config, checkpoints, model, optimizer, identity)

    def save() -> None:
        progress.metrics_bytes = metrics.size()
        state = asdict(replace(progress, stop_signal=None))
        save_checkpoint(
            checkpoints,
            model,
            optimizer,
            {"progress": state, "run": identity},
            step=progress.step,
            keep=config.keep_checkpoints,
        )

    with (
        MetricsFile(config.output / "metrics.jsonl", progress.metrics_bytes) as metrics,
        StopSignals() as stop,
        tqdm(total=total_steps, initial=progress.step, mininterval=1.0, unit="step") as bar,
    ):
        while not stop.requested:
            finished = progress.step == total_steps
            due = finished or (progress.step and progress.step % config.evaluate_every == 0)
            if evaluate and due and progress.evaluated_step < progress.step:
                model.eval()
                figures = evaluate(lambda: stop.requested)
                model.train()
                if figures is None:
                    break
                _note_evaluation(progress, figures, model, config)
                record = {"step": progress.step} | {f"eval_{k}": v for k, v in figures.items()}
                metrics.write(record)
                for callback in callbacks:
                    callback(progress, record)
            if finished or (config.patience and progress.stale_evaluations >= config.patience):
                break

            # One step.
            started = time.perf_counter()
            epoch, group = divmod(progress.step, steps_per_epoch)
            first = group * config.accumulate
            last = min(first + config.accumulate, data.num_batches)
            batches = [data.batch(epoch, index) for index in range(first, last)]
            num_supervised = sum(int((b["labels"] != IGNORED_LABEL).sum()) for b in batches)

            optimizer.zero_grad(set_to_none=True)
            loss = torch.zeros((), device=device)
            for batch in batches:
                batch = {name: tensor.to(device) for name, tensor in batch.items()}
                with torch.autocast(device.type, torch.bfloat16) if config.bf16 else nullcontext():
                    total, _ = summed_loss(**batch)
                part = total / max(1, num_supervised)
                part.backward()
                loss += part.detach()
            gradient_norm = torch.nn.utils.get_total_norm(
                [p.grad for p in parameters if p.grad is not None]
            )
            _require_finite(progress.step, float(loss), float(gradient_norm), model)
            torch.nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, gradient_norm)
            rate = config.learning_rate * learning_rate_factor(
                progress.step, total_steps, warmup_steps
            )
            for param_group in optimizer.param_groups:
                param_group["lr"] = rate
            optimizer.step()
            progress.step += 1

            record = {
                "step": progress.step,
                "epoch": epoch,
                "loss": float(loss),
                "learning_rate": rate,
                "gradient_norm": float(gradient_norm),
                "tokens": sum(batch["input_ids"].numel() for batch in batches),
                "seconds": round(time.perf_counter() - started, 4),
            }
            metrics.write(record)
            for callback in callbacks:
                callback(progress, record)
            bar.set_description(f"epoch {epoch + 1}", refresh=False)
            bar.set_postfix(loss=f"{record['loss']:.3f}", refresh=False)
            bar.update()
            if progress.step % config.save_every == 0:
                save()
        save()
        progress.stop_signal = stop.signal
    if config.patience and progress.stop_signal is None and (config.output / "best").exists():
        model.load_state_dict(type(model).from_pretrained(config.output / "best").state_dict())
    model.eval()
    return progress


def _start_or_resume(
    config: TrainingConfig,
    checkpoints: Path,
    model: Model,
    optimizer: torch.optim.Optimizer,
    identity: Record,
) -> Progress:
    """A fresh start in an unused directory, or the last checkpoint of the same run."""
    remove_unfinished(checkpoints)
    existing = list_checkpoints(checkpoints)
    if not config.resume:
        if existing:
            raise ValueError(
                f"{config.output} already holds a run, at {existing[-1].name}; "
                "go on with --resume, or choose another --output"
            )
        return Progress()
    if not existing:
        return Progress()  # it was stopped before its first checkpoint
    state = load_checkpoint(existing[-1], model, optimizer)
    before = state["run"]
    changed = [
        f"{name} was {before.get(name)!r}, is {identity.get(name)!r}"
        for name in sorted(before.keys() | identity.keys())
        if before.get(name) != identity.get(name)
    ]
    if changed:
        raise ValueError(f"{existing[-1]} belongs to another run: {'; '.join(changed)}")
    return Progress(**state["progress"])


def _note_evaluation(
    progress: Progress, figures: Record, model: Model, config: TrainingConfig
) -> None:
    """Remember whether the loss got better, and with `patience` the weights that made it so."""
    progress.evaluated_step = progress.step
    if figures["loss"] < progress.best_loss:
        progress.best_loss = figures["loss"]
        progress.stale_evaluations = 0
        if config.patience:
            model.save_pretrained(config.output / "best")
    else:
        progress.stale_evaluations += 1


def _require_finite(step: int, loss: float, gradient_norm: float, model: Model) -> None:
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    culprit = next(
        (
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
        ),
        None,
    )
    where = f"; the gradient of {culprit} is the first that is not finite" if culprit else ""
    raise NonFiniteError(
        f"step {step + 1}: the loss is {loss}, the gradient's norm {gradient_norm}{where}. "
        "The step was not taken and the last checkpoint is good; try a lower learning rate or a "
        "longer warm-up"
    )

"""The training loop.

:func:`take_step` is a step: zero_grad, forward, backward, clip, schedule, step. :func:`train` is
the loop around it, with evaluation, checkpoints, stopping and resuming. Both work for any model
with `loss_sum(**batch)` and any data whose batches are numbered by epoch and index. So the position
in the data is two integers, and a run can be resumed exactly.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from tqdm import tqdm

from minitransformer.fast import is_optimized, optimize
from minitransformer.fast.linear import measured_library, set_library
from minitransformer.fast.measuring import SPEEDUPS
from minitransformer.files import remove_unfinished
from minitransformer.hf.config import reference_class
from minitransformer.models.base import Model, TaskModel
from train.checkpoints import (
    differences,
    list_checkpoints,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from train.config import TrainingConfig
from train.metrics import MetricsFile
from train.optimizer import build_optimizer, learning_rate_factor

Batch = dict[str, Tensor]
Record = dict[str, Any]


class Data(Protocol):
    """Batches numbered by epoch and index, which give the same batch in every process."""

    @property
    def num_batches(self) -> int:
        """Number of batches per epoch."""

    def batch(self, epoch: int, index: int) -> Batch:
        """The arguments of the model's `loss_sum`, including labels and `attention_mask`."""


# The settings that may be changed when a run is resumed, because no weight depends on them.
_FREE_TO_CHANGE = {"output", "resume", "save_every", "keep_checkpoints"}


@dataclass
class Progress:
    """The position of a run, which is saved in its checkpoints."""

    step: int = 0
    evaluated_step: int = -1
    best_loss: float | None = None
    stale_evaluations: int = 0  # number of evaluations since the best one
    metrics_bytes: int = 0  # size of metrics.jsonl at the checkpoint
    stop_signal: int | None = None  # the signal that stopped the run; always None in a checkpoint


class NonFiniteError(ArithmeticError):
    """The loss or a gradient is NaN or infinite; the weights were not changed."""


def train(
    model: TaskModel,
    data: Data,
    config: TrainingConfig,
    *,
    evaluate: Callable[[Callable[[], bool]], Record | None] | None = None,
    callbacks: Sequence[Callable[[Progress, Record], None]] = (),
    fingerprint: Record | None = None,
) -> Progress:
    """Train `model` on `data`; write checkpoints and metrics.jsonl to `config.output`.

    The gradient of a step is that of the mean loss over all supervised tokens of its batches,
    regardless of how they are divided into batches. After SIGINT or SIGTERM the current step is
    finished, a checkpoint is written and the function returns; with `config.resume` the next run
    continues from there. On a CPU, with the same number of threads, the final weights are bit for
    bit those of a run that was never stopped; on CUDA, if PyTorch's kernels are deterministic.

    The model may be plain or optimized. The checkpoints record which, and which library multiplies
    its matrices; a resumed run uses the same.

    Args:
        model: has `loss_sum(**batch)`, which returns the sum of the losses and their number.
        data: the batches.
        config: how to train.
        evaluate: called every `evaluate_every` steps and at the end, in evaluation mode, with a
            function that returns whether to stop early. It returns metrics, including "loss", or
            None if it stopped early. With `patience` the model gets the weights of the best loss.
        callbacks: called with the progress and the record of each step and each evaluation.
        fingerprint: further settings that must be the same when the run is resumed.

    Returns:
        The progress; its `stop_signal` is None if the run is finished.

    Raises:
        NonFiniteError: the loss or a gradient is not finite. The last checkpoint is still valid.
        CheckpointError: the checkpoint to resume from is damaged.
        ValueError: a run would be overwritten, or the run to be resumed had other settings.
    """
    device = torch.device(config.device)
    model.to(device).train()
    optimizer = build_optimizer(model, config.learning_rate, config.weight_decay)
    loss_sum = torch.compile(model.loss_sum) if config.compile else model.loss_sum

    steps_per_epoch = math.ceil(data.num_batches / config.accumulate)
    total_steps = config.max_steps or config.epochs * steps_per_epoch
    warmup_steps = round(config.warmup * total_steps)
    run = _identity(model, config, fingerprint)
    progress = _start_or_resume(config, model, optimizer, run)

    def save() -> None:
        progress.metrics_bytes = metrics_file.size()
        state = {
            "progress": asdict(replace(progress, stop_signal=None)),
            "run": run,
            "library": measured_library() if is_optimized(model) and device.type == "cpu" else None,
            "measured": dict(SPEEDUPS),  # about this processor; decides how evaluations round
        }
        save_checkpoint(config, model, optimizer, state, step=progress.step)

    def log(record: Record) -> None:
        metrics_file.write(record)
        for callback in callbacks:
            callback(progress, record)

    with (
        MetricsFile(config.output / "metrics.jsonl", progress.metrics_bytes) as metrics_file,
        StopSignals() as stop,
        tqdm(total=total_steps, initial=progress.step, mininterval=1.0, unit="step") as bar,
    ):
        while not stop.requested:
            finished = progress.step == total_steps
            due = finished or (progress.step > 0 and progress.step % config.evaluate_every == 0)
            if evaluate and due and progress.evaluated_step < progress.step:
                model.eval()
                metrics = evaluate(lambda: stop.requested)
                model.train()
                if metrics is None:
                    break
                _record_evaluation(progress, metrics, model, config)
                log({"step": progress.step} | {f"eval_{k}": v for k, v in metrics.items()})
            if finished or (config.patience and progress.stale_evaluations >= config.patience):
                break

            started = time.perf_counter()
            epoch, group = divmod(progress.step, steps_per_epoch)
            first = group * config.accumulate
            last = min(first + config.accumulate, data.num_batches)
            batches = [data.batch(epoch, index) for index in range(first, last)]
            rate = config.learning_rate * learning_rate_factor(
                progress.step, total_steps, warmup_steps
            )
            loss, gradient_norm = take_step(
                model, loss_sum, batches, optimizer, rate, progress.step + 1, config
            )
            progress.step += 1
            log(
                {
                    "step": progress.step,
                    "epoch": epoch,
                    "loss": loss,
                    "learning_rate": rate,
                    "gradient_norm": gradient_norm,
                    "tokens": sum(int(batch["attention_mask"].sum()) for batch in batches),
                    "seconds": round(time.perf_counter() - started, 4),
                }
            )
            bar.set_description(f"epoch {epoch + 1}", refresh=False)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if progress.step % config.save_every == 0:
                save()
        save()
        progress.stop_signal = stop.signal
    if config.patience and progress.stop_signal is None and progress.best_loss is not None:
        best = reference_class(model).from_pretrained(config.best)
        model.load_state_dict(best.state_dict())
    model.eval()
    return progress


def take_step(
    model: TaskModel,
    loss_sum: Callable[..., tuple[Tensor, Tensor]],
    batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    step: int,
    config: TrainingConfig,
) -> tuple[float, float]:
    """One step on one or several batches: zero_grad, forward, backward, clip, schedule, step.

    Returns:
        The mean loss over the supervised tokens of all batches, and the norm of its gradient before
        clipping.

    Raises:
        NonFiniteError: one of the two is not finite; the weights were not changed.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    num_supervised = sum(int(model.num_supervised_tokens(batch)) for batch in batches)

    optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=device)
    for batch in batches:
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16) if config.bf16 else nullcontext():
            total, _ = loss_sum(**batch)
        # Divided by the number in all batches, because sums can be added, but means cannot.
        part = total / max(1, num_supervised)
        part.backward()
        loss += part.detach()

    gradients = [p.grad for p in parameters if p.grad is not None]
    gradient_norm = torch.nn.utils.get_total_norm(gradients)
    _require_finite(step, float(loss), float(gradient_norm), model)
    torch.nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, gradient_norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    return float(loss), float(gradient_norm)


def last_checkpoint(config: TrainingConfig) -> Path | None:
    """The checkpoint that a run with this config resumes from; None for a new run.

    Raises:
        ValueError: the output contains a run and `config.resume` is False, or is no directory.
    """
    if config.output.exists() and not config.output.is_dir():
        raise ValueError(f"{config.output} is a file; --output must be a directory")
    existing = list_checkpoints(config.checkpoints)
    if not existing:
        if (config.output / "config.json").exists():
            raise ValueError(
                f"{config.output} already contains a model, but no checkpoint to resume from; "
                "choose another --output"
            )
        return None
    if not config.resume:
        raise ValueError(
            f"{config.output} already contains a run, at {existing[-1].name}; "
            "continue it with --resume, or choose another --output"
        )
    return existing[-1]


def optimize_unless_plain(model: TaskModel, config: TrainingConfig, *, plain: bool) -> None:
    """Optimize the model of a job, except in a plain run; a resumed run stays what it was.

    Args:
        model: the plain model.
        config: of the run.
        plain: whether the user asked for a plain run.

    Raises:
        ValueError: `plain`, but the run to be resumed was optimized; or as in
            :func:`last_checkpoint`.
    """
    path = last_checkpoint(config)
    before = None if path is None else read_state(path)["run"]["implementation"]
    if plain and before == "optimized":
        raise ValueError(
            f"--plain contradicts {path}, which belongs to a run of an optimized model; leave it "
            "out, or choose another --output"
        )
    if not plain and before != "plain":
        optimize(model)


def _identity(model: TaskModel, config: TrainingConfig, fingerprint: Record | None) -> Record:
    """The settings that must be the same when a run is resumed, as JSON restores them."""
    settings = {k: v for k, v in asdict(config).items() if k not in _FREE_TO_CHANGE}
    # Implementations differ in rounding, and in which numbers dropout drops.
    settings["attention"] = model.attention
    settings["implementation"] = "optimized" if is_optimized(model) else "plain"
    return json.loads(json.dumps(settings | (fingerprint or {})))


def _start_or_resume(
    config: TrainingConfig, model: TaskModel, optimizer: torch.optim.Optimizer, run: Record
) -> Progress:
    """The progress of a new run, or that of the last checkpoint, which is loaded."""
    path = last_checkpoint(config)
    for directory in (config.output, config.checkpoints, config.best):
        remove_unfinished(directory)
    if path is None:
        if config.resume:
            tqdm.write(f"no checkpoint in {config.output}: starting a new run", file=sys.stderr)
        return Progress()
    state = read_state(path)
    if changed := differences(state["run"], run):
        raise ValueError(
            f"{path} belongs to another run: {'; '.join(changed)}. Resume with the same settings, "
            "or choose another --output"
        )
    SPEEDUPS.update(state.get("measured", {}))
    if library := state.get("library"):
        try:
            set_library(library)  # the libraries differ in the last bit
        except ValueError as error:
            raise ValueError(
                f"{path} belongs to a run that multiplies with {library}, which this PyTorch does "
                "not have; choose another --output, and load the weights there"
            ) from error
    load_checkpoint(path, model, optimizer)
    return Progress(**state["progress"])


def _record_evaluation(
    progress: Progress, metrics: Record, model: Model, config: TrainingConfig
) -> None:
    """Record whether the loss is the best so far and, with `patience`, save the best weights."""
    if not math.isfinite(metrics["loss"]):
        raise NonFiniteError(
            f"step {progress.step}: the held-out loss is {metrics['loss']}; lower the learning rate"
        )
    progress.evaluated_step = progress.step
    if progress.best_loss is None or metrics["loss"] < progress.best_loss:
        progress.best_loss = metrics["loss"]
        progress.stale_evaluations = 0
        if config.patience:
            model.save_pretrained(config.best)
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
    where = f"; the gradient of {culprit} is the first one that is not finite" if culprit else ""
    raise NonFiniteError(
        f"step {step}: the loss is {loss}, and the norm of the gradient {gradient_norm}{where}. "
        "The weights were not changed, and the last checkpoint is valid; try a lower learning rate "
        "or a longer warm-up"
    )


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a request to stop; a second one acts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal was received."""
        return self.signal is not None

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Only the main thread can set handlers; in other threads signals act as usual.
            try:
                self._previous[number] = signal.signal(number, self._receive)
            except ValueError:
                break
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        for other, handler in self._previous.items():
            signal.signal(other, handler)
        tqdm.write(f"{signal.Signals(number).name}: finishing the step, then saving a checkpoint")

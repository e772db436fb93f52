"""The training loop.

:func:`take_step` is a step: zero_grad, forward, backward, clip, schedule, step. :func:`train` is
the loop around it, with evaluation, checkpoints, stopping and resuming. Both work for any model
with `loss_sum(**batch)` and any data whose batches are numbered by epoch and index. So the position
in the data is two integers, and a run can be resumed exactly. DataLoaders and Datasets are numbered
by :mod:`train.loaders`.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.utils.data import DataLoader
from tqdm import tqdm

from minitransformer.fast import is_optimized, optimize
from minitransformer.fast.linear import measured_library, set_library
from minitransformer.fast.measuring import SPEEDUPS
from minitransformer.files import remove_unfinished
from minitransformer.hf.config import reference_class
from minitransformer.models.base import Model, TaskModel
from minitransformer.names import shortened, unexpected_name
from minitransformer.tokenization import Tokenizer
from train.checkpoints import (
    differences,
    list_checkpoints,
    load_checkpoint,
    read_state,
    save_checkpoint,
    save_model,
)
from train.config import TrainingConfig
from train.freezing import frozen
from train.loaders import (
    Batch,
    Data,
    Examples,
    LoaderBatches,
    build_loader,
    describe,
    is_numbered,
    num_tokens,
)
from train.metrics import MetricsFile
from train.optimizer import SCHEDULES, build_optimizer
from train.recomputation import recomputed_layers
from train.smoothing import check_can_smooth, smoothed_loss_sum

Record = dict[str, Any]
# The settings that may be changed when a run is resumed, because no weight depends on them.
_FREE_TO_CHANGE = {"output", "resume", "save_every", "keep_checkpoints"}


@dataclass
class Progress:
    """The position of a run, which is saved in its checkpoints."""

    step: int = 0
    evaluated_step: int = -1
    best_value: float | None = None  # of the loss, or of another metric that the config names
    stale_evaluations: int = 0  # number of evaluations since the best one
    metrics_bytes: int = 0  # size of metrics.jsonl at the checkpoint
    data_seed: int = 0  # decides what is random in a DataLoader
    stop_signal: int | None = None  # the signal that stopped the run; always None in a checkpoint
    stopped_by_callback: bool = False  # always False in a checkpoint


Callback = Callable[[Progress, Record], bool | None]  # see train.callbacks


class NonFiniteError(ArithmeticError):
    """The loss or a gradient is NaN or infinite; the weights were not changed."""


def train(
    model: TaskModel,
    data: Data | DataLoader[Any] | Examples,
    config: TrainingConfig,
    *,
    evaluate: Callable[[Callable[[], bool]], Record | None] | None = None,
    evaluate_first: bool = False,
    callbacks: Sequence[Callback] = (),
    tokenizer: Tokenizer | None = None,
    batch_size: int | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    fingerprint: Record | None = None,
) -> Progress:
    """Train `model` on `data`; write checkpoints and metrics.jsonl to `config.output`.

    The gradient of a step is that of the mean loss over all supervised tokens of its batches,
    regardless of how they are divided into batches. After SIGINT or SIGTERM, or if a callback
    returns True, the current step is finished, a checkpoint is written and the function returns;
    with `config.resume` the next run continues from there. On a CPU, with the same number of
    threads, the final weights are bit for bit those of a run that was never stopped; on CUDA, if
    PyTorch's kernels are deterministic.

    The model may be plain or optimized. The checkpoints record which, and which library multiplies
    its matrices; a resumed run uses the same.

    Args:
        model: has `loss_sum(**batch)`, which returns the sum of the losses and their number.
        data: batches numbered by epoch and index (:class:`train.loaders.Data`); or a DataLoader of
            dicts of tensors, with which a resumed run is exact if its order is that of PyTorch's
            samplers or of one with `set_epoch` (else the run says so); or a Dataset of dicts.
        config: how to train.
        evaluate: called every `evaluate_every` steps and at the end, in evaluation mode, with a
            function that returns whether to stop early. It returns metrics, such as {"loss": 2.5},
            or None if it stopped early.
        evaluate_first: whether to evaluate before the first step of a new run, too.
        callbacks: called with the progress and the record of each step and each evaluation; see
            :mod:`train.callbacks`.
        tokenizer: saved in each checkpoint; pads the examples of a Dataset.
        batch_size, collate_fn: of a Dataset, see :func:`train.loaders.build_loader`.
        fingerprint: further settings that must be the same when the run is resumed.

    Returns:
        The progress; its `stop_signal` is None if the run is finished or a callback ended it. Then,
        with `patience` or `best_metric`, the model has the best weights of all evaluations.

    Raises:
        NonFiniteError: the loss or a gradient is not finite. The last checkpoint is still valid.
        CheckpointError: the checkpoint to resume from is damaged.
        TypeError: the model, the data, a batch or a callback is of a wrong type.
        ValueError: a run would be overwritten, the run to be resumed had other settings, a setting
            does not fit the model, or a batch has a key that the model does not take.
    """
    _check_settings(model, config, evaluate, callbacks)
    device = torch.device(config.device)
    model.to(device).train()
    loader = (
        None
        if is_numbered(data)
        else build_loader(data, batch_size=batch_size, collate_fn=collate_fn, tokenizer=tokenizer)
    )
    with ExitStack() as until_the_end:
        until_the_end.enter_context(frozen(model, config.freeze))
        if config.gradient_checkpointing:
            until_the_end.enter_context(recomputed_layers(model))
        loss_sum = _loss_function(model, config)
        optimizer = build_optimizer(model, config.learning_rate, config.weight_decay)
        scaler = GradScaler(device.type, enabled=config.fp16)  # without fp16 it does nothing

        run = _identity(model, config, fingerprint, loader, evaluate_first)
        progress = _start_or_resume(config, model, optimizer, scaler, run)
        if loader is not None:
            data = until_the_end.enter_context(closing(_numbered(loader, model, config, progress)))
        assert is_numbered(data)

        steps_per_epoch = math.ceil(data.num_batches / config.accumulate)
        total_steps = config.max_steps or config.epochs * steps_per_epoch
        warmup_steps = round(config.warmup * total_steps)
        evaluate_every, save_every = (
            steps_per_epoch if every == "epoch" else int(every)
            for every in (config.evaluate_every, config.save_every)
        )

        def save() -> None:
            progress.metrics_bytes = metrics_file.size()
            is_fast_on_cpu = is_optimized(model) and device.type == "cpu"
            state = {
                "progress": asdict(replace(progress, stop_signal=None, stopped_by_callback=False)),
                "run": run,
                "scaler": scaler.state_dict(),
                "library": measured_library() if is_fast_on_cpu else None,
                "measured": dict(SPEEDUPS),  # about this processor; decides how evaluations round
            }
            save_checkpoint(
                config, model, optimizer, state, step=progress.step, tokenizer=tokenizer
            )

        def log(record: Record) -> None:
            metrics_file.write(record)
            for callback in callbacks:
                if callback(progress, record) is True:
                    progress.stopped_by_callback = True

        with (
            MetricsFile(config.output / "metrics.jsonl", progress.metrics_bytes) as metrics_file,
            StopSignals() as stop,
            tqdm(total=total_steps, initial=progress.step, mininterval=1.0, unit="step") as bar,
        ):
            while not (stop.requested or progress.stopped_by_callback):
                finished = progress.step == total_steps
                due = finished or progress.step % evaluate_every == 0
                if progress.step == 0:
                    due = evaluate_first
                if evaluate and due and progress.evaluated_step < progress.step:
                    model.eval()
                    metrics = evaluate(lambda: stop.requested)
                    model.train()
                    if metrics is None and stop.requested:
                        break
                    metrics = _checked_metrics(metrics)
                    _record_evaluation(progress, metrics, model, config, tokenizer)
                    log({"step": progress.step} | {f"eval_{k}": v for k, v in metrics.items()})
                is_stale = config.patience and progress.stale_evaluations >= config.patience
                if finished or is_stale or progress.stopped_by_callback:
                    break

                started = time.perf_counter()
                epoch, group = divmod(progress.step, steps_per_epoch)
                first = group * config.accumulate
                last = min(first + config.accumulate, data.num_batches)
                batches = [data.batch(epoch, index) for index in range(first, last)]
                factor = SCHEDULES[config.schedule](progress.step, total_steps, warmup_steps)
                rate = config.learning_rate * factor
                loss, gradient_norm = take_step(
                    model, loss_sum, batches, optimizer, rate, progress.step + 1, config, scaler
                )
                progress.step += 1
                log(
                    {
                        "step": progress.step,
                        "epoch": epoch,
                        "loss": loss,
                        "learning_rate": rate,
                        "gradient_norm": gradient_norm if math.isfinite(gradient_norm) else None,
                        "tokens": sum(map(num_tokens, batches)),
                        "seconds": round(time.perf_counter() - started, 4),
                    }
                )
                bar.set_description(f"epoch {epoch + 1}", refresh=False)
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()
                if progress.step % save_every == 0:
                    save()
            save()
            progress.stop_signal = stop.signal
    if config.keeps_best and progress.stop_signal is None and progress.best_value is not None:
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
    scaler: GradScaler | None = None,
) -> tuple[float, float]:
    """One step on one or several batches: zero_grad, forward, backward, clip, schedule, step.

    With fp16, the loss is multiplied by a large number, the scale, so that small gradients do not
    become 0 in float16 (Micikevicius et al. 2017). Where a gradient overflows, the weights stay as
    they are, and the scale is halved; after 2,000 steps without an overflow it is doubled.

    Args:
        model: the model.
        loss_sum: gives the sum of the losses of a batch, and their number.
        batches: of the step.
        optimizer: of :func:`train.optimizer.build_optimizer`.
        learning_rate: of this step.
        step: its number, for messages.
        config: for the precision and the largest norm.
        scaler: scales the loss and the gradients, with fp16; None for none.

    Returns:
        The mean loss over the supervised tokens of all batches, and the norm of its gradient before
        clipping, which is not finite if the step was skipped.

    Raises:
        NonFiniteError: one of the two is not finite, unless a lower scale may prevent it; the
            weights were not changed.
    """
    scaler = scaler or GradScaler(enabled=False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    num_supervised = sum(int(model.num_supervised_tokens(batch)) for batch in batches)

    optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=device)
    for batch in batches:
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with config.autocast():
            total, _ = loss_sum(**batch)
        # Divided by the number in all batches, because sums can be added, but means cannot.
        part = total / max(1, num_supervised)
        scaler.scale(part).backward()
        loss += part.detach()

    scaler.unscale_(optimizer)
    gradients = [p.grad for p in parameters if p.grad is not None]
    gradient_norm = torch.nn.utils.get_total_norm(gradients)
    _require_finite(step, float(loss), float(gradient_norm), model, scaler)
    torch.nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, gradient_norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    scaler.step(optimizer)  # optimizer.step(), unless a gradient has overflowed
    scaler.update()
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


def _check_settings(
    model: TaskModel, config: TrainingConfig, evaluate: object, callbacks: Sequence[object]
) -> None:
    """Check what the config cannot know by itself."""
    if not hasattr(model, "loss_sum"):
        raise TypeError(
            f"a {type(model).__name__} has no loss to train on; take a model for a task, such as "
            "RobertaForMaskedLM"
        )
    if callable(callbacks) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks={shortened(callbacks)} must be a list of functions")
    if config.keeps_best and evaluate is None:
        name = "patience" if config.patience is not None else "best_metric"
        raise ValueError(f"{name} needs evaluations; pass evaluate, or leave it out")
    if config.label_smoothing:
        check_can_smooth(model)
    if config.fp16 and model.overflows_in_float16:
        raise ValueError(
            f"fp16: the hidden values of {reference_class(model).__name__} grow beyond what "
            "float16 can hold; use bf16"
        )
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={config.device!r}: PyTorch finds no CUDA device here; choose cpu")
    if config.fp16 and any(p.dtype == torch.float16 for p in model.parameters()):
        raise ValueError("fp16 needs weights in float32, which autocast converts: model.float()")


def _loss_function(
    model: TaskModel, config: TrainingConfig
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The loss to train on: the model's, or that with smoothed labels; compiled, if asked for."""
    loss_sum: Any = model.loss_sum
    if config.label_smoothing:
        loss_sum = partial(smoothed_loss_sum, model, config.label_smoothing)
    return torch.compile(loss_sum) if config.compile else loss_sum


def _numbered(
    loader: DataLoader[Any], model: TaskModel, config: TrainingConfig, progress: Progress
) -> LoaderBatches:
    """The batches of a loader; prints why the run cannot be resumed exactly, if so."""
    endless = None if config.max_steps is None else config.max_steps * config.accumulate
    batches = LoaderBatches(loader, model, seed=progress.data_seed, num_batches=endless)
    if batches.why_inexact:
        tqdm.write(
            f"note: if this run is stopped and resumed, it may not be the same run: "
            f"{batches.why_inexact}",
            file=sys.stderr,
        )
    return batches


def _identity(
    model: TaskModel,
    config: TrainingConfig,
    fingerprint: Record | None,
    loader: DataLoader[Any] | None,
    evaluate_first: bool,
) -> Record:
    """The settings that must be the same when a run is resumed, as JSON restores them."""
    settings = {k: v for k, v in asdict(config).items() if k not in _FREE_TO_CHANGE}
    settings["evaluate_first"] = evaluate_first
    if loader is not None:
        settings["data"] = describe(loader)
    # Implementations differ in rounding, and in which numbers dropout drops.
    settings["attention"] = model.attention
    settings["implementation"] = "optimized" if is_optimized(model) else "plain"
    return json.loads(json.dumps(settings | (fingerprint or {})))


def _start_or_resume(
    config: TrainingConfig,
    model: TaskModel,
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler,
    run: Record,
) -> Progress:
    """The progress of a new run, or that of the last checkpoint, which is loaded."""
    path = last_checkpoint(config)
    for directory in (config.output, config.checkpoints, config.best):
        remove_unfinished(directory)
    if path is None:
        if config.resume:
            tqdm.write(f"no checkpoint in {config.output}: starting a new run", file=sys.stderr)
        return Progress(data_seed=torch.initial_seed())
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
    scaler.load_state_dict(state["scaler"])
    return Progress(**state["progress"])


def _checked_metrics(metrics: Any) -> Record:
    """The metrics that a user's `evaluate` returned, as JSON can hold them.

    Raises:
        TypeError: it returned something else than a dict, or a value is no number, text or list.
    """
    if not isinstance(metrics, dict):
        raise TypeError(
            f"evaluate returned a {type(metrics).__name__}; it must return its metrics as a dict, "
            'such as {"loss": 2.5, "accuracy": 0.75}'
        )
    # JSON cannot hold NumPy's and PyTorch's numbers, which have `item`.
    values = {k: v.item() if getattr(v, "ndim", None) == 0 else v for k, v in metrics.items()}
    try:
        json.dumps(values)
    except TypeError as error:
        raise TypeError(f"evaluate returned {shortened(metrics)}: {error}") from error
    return values


def _record_evaluation(
    progress: Progress,
    metrics: Record,
    model: Model,
    config: TrainingConfig,
    tokenizer: Tokenizer | None,
) -> None:
    """Record whether the metric is the best so far and, if asked for, save the best weights."""
    loss = metrics.get("loss", 0.0)
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"step {progress.step}: the held-out loss is {loss}; lower the learning rate"
        )
    progress.evaluated_step = progress.step
    name = (config.best_metric or "loss").removeprefix("eval_")
    value = metrics.get(name)
    if config.keeps_best and not _is_number(value):
        numbers = [known for known, each in metrics.items() if _is_number(each)]
        raise ValueError(unexpected_name("best_metric", name, numbers))
    if value is None:
        return
    if _is_better(value, progress.best_value, name, config.greater_is_better):
        progress.best_value = value
        progress.stale_evaluations = 0
        if config.keeps_best:
            save_model(config.best, model, tokenizer)
    else:
        progress.stale_evaluations += 1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _is_better(value: float, best: float | None, name: str, greater_is_better: bool | None) -> bool:
    """Whether a metric is better than the best so far; NaN never is."""
    if math.isnan(value):
        return False
    if greater_is_better is None:
        greater_is_better = not _SMALLER_IS_BETTER.intersection(name.lower().split("_"))
    return best is None or (value > best if greater_is_better else value < best)


# A metric with one of these words in its name is better where it is smaller.
_SMALLER_IS_BETTER = {
    *("loss", "perplexity", "ppl", "bits", "error", "wer", "cer", "ter"),
    *("mse", "rmse", "mae", "distance"),
}


def _require_finite(
    step: int, loss: float, gradient_norm: float, model: Model, scaler: GradScaler
) -> None:
    """Raise an error for a loss or gradient that is not finite, unless a lower scale may help."""
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    if math.isfinite(loss) and scaler.is_enabled() and scaler.get_scale() >= 1:
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

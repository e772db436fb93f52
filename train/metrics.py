"""The metrics of a run: a file with one JSON record per line, and a picture of the loss curve."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from minitransformer.names import unexpected_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MetricsFile:
    """A file with one JSON record per line, truncated to its size at the resumed checkpoint."""

    def __init__(self, path: Path, keep_bytes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")  # noqa: SIM115 (closed by __exit__)
        self._file.truncate(min(keep_bytes, self._file.seek(0, os.SEEK_END)))

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def size(self) -> int:
        """Flush the file to the disk, and return its size in bytes."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def new_figure(height: float = 4.5) -> "Figure":
    """An empty figure, eight inches wide.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(8, height), dpi=120, layout="constrained")


def try_to_draw(draw: Callable[..., None], *arguments: Any) -> None:
    """Draw a picture; print a note without matplotlib, so that a long run does not fail."""
    try:
        draw(*arguments)
    except ImportError as error:
        print(f"no picture was drawn: {error}")


def draw_curve(
    metrics: Path,
    picture: Path,
    baselines: Mapping[str, float] | None = None,
    unit: str = "supervised token",
) -> None:
    """Draw the training loss and the held-out loss over the steps.

    Args:
        metrics: the metrics file of the run.
        picture: the PNG file to write.
        baselines: name to loss; each is drawn as a horizontal line.
        unit: what the loss is averaged over.

    Raises:
        ImportError: matplotlib is not installed.
    """
    records = read_metrics(metrics)
    steps, losses = _series(records, "loss")
    evaluated = [(r["step"], r["eval_loss"]) for r in records if "eval_loss" in r]
    smooth, window = _smoothed(losses)

    figure, axes = _axes_over_steps()
    axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8, label="each step")
    name = f"mean of {window} steps" if window > 1 else "loss"
    marker = "o" if len(steps) == 1 else None  # a line through one point is invisible
    axes.plot(steps, smooth, color="tab:blue", marker=marker, markersize=4, label=name)
    if evaluated:
        axes.plot(
            *zip(*evaluated, strict=True), "o-", color="tab:orange", markersize=4, label="held-out"
        )
    for number, (name, loss) in enumerate((baselines or {}).items()):
        axes.axhline(loss, color="gray", linestyle=("--", ":")[number % 2], label=name)
    axes.set_ylabel(f"loss (nats per {unit})")
    axes.set_ylim(0, 1.1 * axes.dataLim.y1 or 1)  # room above a flat curve; 1 if all is zero
    axes.legend()
    figure.savefig(picture)


def draw_curves(
    runs: Mapping[str, str | Path], picture: str | Path, metric: str = "eval_loss"
) -> None:
    """Draw one metric of several runs over their steps, in one picture.

    Args:
        runs: label to run: its directory, or its metrics.jsonl.
        picture: the file to write, such as a PNG.
        metric: a key of the records with a number: "loss", "learning_rate", "eval_accuracy", ...
            The losses of single steps are smoothed.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no run, a run has no metrics.jsonl or a damaged one, no record has the
            metric, or matplotlib does not know the kind of picture.
    """
    if not runs:
        raise ValueError("there is no run to draw; give at least one")
    records = {label: _records_of_run(Path(run)) for label, run in runs.items()}
    curves = {label: _series(of_run, metric) for label, of_run in records.items()}
    for label, (steps, _) in curves.items():
        if not steps:
            known = {n for r in records[label] for n, v in r.items() if _is_number(v)} - {"step"}
            raise ValueError(
                f"{runs[label]}: "
                + (unexpected_name("metric", metric, sorted(known)) if known else "no step yet")
            )
    figure, axes = _axes_over_steps()
    for label, (steps, values) in curves.items():
        if metric == "loss":
            values, _ = _smoothed(values)
        marker = "o" if metric.startswith("eval_") or len(steps) == 1 else None
        axes.plot(steps, values, marker=marker, markersize=4, label=label)
    axes.set_ylabel(metric.replace("eval_", "held-out ").replace("_", " "))
    axes.legend()
    Path(picture).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)


def _records_of_run(run: Path) -> list[dict[str, Any]]:
    """The records of a run, which is its directory or its metrics file."""
    path = run / "metrics.jsonl" if run.is_dir() else run
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist; a run is the --output of a training job, which contains "
            "metrics.jsonl"
        )
    try:
        records = read_metrics(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a file with one JSON record per line: {error}") from error
    if not all(isinstance(record, dict) and "step" in record for record in records):
        raise ValueError(f"{path} is not the metrics.jsonl of a run: a record lacks its step")
    return records


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _series(records: list[dict[str, Any]], metric: str) -> tuple[list[int], list[float]]:
    """The steps of the records that have a metric, and its values."""
    found = [(r["step"], r[metric]) for r in records if _is_number(r.get(metric))]
    return [step for step, _ in found], [value for _, value in found]


def _smoothed(values: list[float]) -> tuple[list[float], int]:
    """The means of each value and some before it, and of how many.

    The mean over about fifty steps removes most of the noise of single batches.
    """
    window = max(1, min(50, len(values) // 10))
    means = [
        sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))
    ]
    return means, window


def _axes_over_steps() -> tuple["Figure", Any]:
    """A new figure, and its axes with the steps from left to right."""
    figure = new_figure()
    from matplotlib.ticker import MaxNLocator  # after new_figure, which says what to install

    axes = figure.add_subplot()
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    return figure, axes

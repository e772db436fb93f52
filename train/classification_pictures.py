"""Pictures of what a classifier confuses, which labels it finds, and how far a number is off."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train import metrics
from train.entities import Score

_LONGEST_NAME = 24  # characters
_MOST_NUMBERS = 30  # classes whose counts are written into the cells


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def draw_confusion(matrix: np.ndarray, classes: Sequence[str], picture: Path) -> None:
    """Draw a (C, C) confusion matrix: a row for each true class, shaded by the share of the row.

    Raises:
        ImportError: matplotlib is not installed.
    """
    count = len(classes)
    names = [_short(name) for name in classes]
    figure = metrics.new_figure(height=min(4 + 0.3 * count, 16))
    figure.set_figwidth(min(5 + 0.35 * count, 18))
    axes = figure.add_subplot()
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if count <= _MOST_NUMBERS:
        size = 11 if count < 8 else 8 if count < 18 else 6
        for row, column in np.argwhere(matrix > 0):
            color = "white" if shares[row, column] > 0.6 else "black"
            text = f"{matrix[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)
    ticks = range(0, count, 1 + (count - 1) // 100)  # at most a hundred names can be read
    size = 10 if count < 18 else 8 if count <= 40 else 5
    rotation = 0 if count < 8 and max(map(len, names)) < 10 else 90
    shown = [names[tick] for tick in ticks]
    axes.set_xticks(ticks, shown, rotation=rotation, fontsize=size)
    axes.set_yticks(ticks, shown, fontsize=size)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    figure.savefig(picture)


def draw_label_scores(scores: Sequence[Score], names: Sequence[str], picture: Path) -> None:
    """Draw the F1 of each label as a bar, with its precision and its recall.

    Raises:
        ImportError: matplotlib is not installed.
    """
    shown = [f"{_short(n)} ({s.gold:,})" for n, s in zip(names, scores, strict=True)]
    figure = metrics.new_figure(height=min(1.8 + 0.3 * len(names), 30))
    axes = figure.add_subplot()
    rows = range(len(names))
    axes.barh(rows, [score.f1 for score in scores], color="tab:blue", alpha=0.5, label="F1")
    axes.plot([score.precision for score in scores], rows, "|", color="black", label="precision")
    axes.plot([score.recall for score in scores], rows, ".", color="tab:orange", label="recall")
    axes.set_yticks(rows, shown)
    axes.invert_yaxis()
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylabel("label (number of texts)")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3)
    figure.savefig(picture)


def draw_numbers(true: np.ndarray, predicted: np.ndarray, picture: Path) -> None:
    """Draw each predicted number over the true one, (N,) each; on the line both are equal.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = metrics.new_figure()
    figure.set_figwidth(5.5)
    axes = figure.add_subplot()
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    axes.plot(ends, ends, color="gray", linewidth=0.8)
    axes.plot(true, predicted, ".", alpha=max(0.1, min(0.6, 100 / len(true))))
    axes.set_xlabel("true number")
    axes.set_ylabel("predicted number")
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.3)
    figure.savefig(picture)

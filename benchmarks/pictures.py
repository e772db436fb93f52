"""The pictures of training, inference and generation, from the rows of their CSV files."""

from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.report import machine, read_all
from benchmarks.runs import Row, records
from train.metrics import new_figure

RATIO_PANELS = {
    "default": "transformers, default settings\nsequences in random order; ours sorts by length",
    "best": "transformers, best settings\nboth get the same sequences, sorted by length",
}
VARIANT = ("implementation", "dtype", "dropout")  # a line each, in every case
DTYPE_COLOURS = {"float32": "tab:blue", "bfloat16": "tab:orange"}
SIDE_COLOURS = {
    ("transformers", "float32"): "tab:gray",
    ("transformers", "bfloat16"): "black",
    ("transformers compiled", "float32"): "tab:green",
    ("transformers compiled", "bfloat16"): "darkgreen",
    ("plain", "float32"): "skyblue",
    ("plain", "bfloat16"): "navajowhite",
    ("optimized", "float32"): "tab:blue",
    ("optimized", "bfloat16"): "tab:orange",
}


def _base(name: str) -> str:
    """The name of the picture of a file: one of all dtypes."""
    return name.removesuffix("_float32").removesuffix("_bfloat16")


def _distinct(rows: list[Row], *names: str) -> list[tuple[Any, ...]]:
    """The values that rows have in some columns, in their order; None where a row has none."""
    return list(dict.fromkeys(tuple(row.get(name) for name in names) for row in rows))


def draw_ratios(directory: Path, name: str) -> None:
    """Draw NAME.png from the files of all dtypes: of training or of inference.

    A panel for transformers with default settings and one for best settings; in it a line for each
    case, implementation, dtype and dropout, with the ratio and its quartiles.
    """
    name = _base(name)
    frame = read_all(directory, name)
    rows = records(frame[frame["implementation"].isin(["plain", "optimized"])])
    cases = [case for (case,) in _distinct(rows, "case")]
    variants = _distinct(rows, *VARIANT)
    figure = new_figure(height=1.8 + len(cases) * (0.35 + 0.2 * len(variants)))
    figure.set_figwidth(10)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, (settings, title) in zip(panels, RATIO_PANELS.items(), strict=True):
        for row in rows:
            at = cases.index(row["case"])
            number = variants.index(tuple(row.get(name) for name in VARIANT))
            place = at + (number - (len(variants) - 1) / 2) * 0.8 / len(variants)
            if f"times_{settings}" in row:
                _draw_ratio(panel, row, f"times_{settings}", place)
            if settings == "default" and "times_same" in row:
                panel.plot(row["times_same"], place, "x", ms=6, color="gray")
            if target := row.get(f"{settings}_target"):
                panel.plot([target] * 2, [at - 0.45, at + 0.45], color="tab:red", linewidth=2)
        panel.axvline(1, color="black", linewidth=1)
        _separate(panel, cases)
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("times faster (median and quartiles)", fontsize=9)
    panels[0].set_ylim(len(cases) - 0.5, -0.5)
    shown = ("times_default_high", "times_best_high", "default_target", "best_target")
    # Room for the numbers behind the dots, and for targets that were not reached.
    panels[0].set_xlim(right=1.12 * max(row.get(n, 0) for row in rows for n in shown))
    figure.suptitle(
        f"{name.replace('_', ', ').capitalize()}: how many times faster minitransformer is than "
        f"transformers\n{machine(rows[0])}",
        fontsize=11,
    )
    for variant in variants:
        row = {key: value for key, value in zip(VARIANT, variant, strict=True) if value is not None}
        label = ", ".join(map(str, variant[:2]))
        label += f", dropout {row['dropout']:g}" if "dropout" in row else ""
        panels[0].plot([], [], label=label, **_marker(row))
    panels[0].plot([], [], "x", ms=6, color="gray", label="ours unsorted, on their batches")
    panels[0].plot([], [], color="tab:red", linewidth=2, label="target")
    panels[0].plot([], [], color="black", linewidth=1, label="equally fast")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(directory / f"{name}.png")


def _separate(axes: Any, cases: list[str]) -> None:
    """A tick for each case, and a line between two."""
    axes.set_yticks(range(len(cases)), cases)
    for border in range(1, len(cases)):
        axes.axhline(border - 0.5, color="lightgray", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)


def _marker(row: Row) -> dict[str, Any]:
    """A diamond for plain, a dot for optimized; hollow without dropout."""
    colour, plain = DTYPE_COLOURS[row["dtype"]], row["implementation"] == "plain"
    style = {"marker": "d" if plain else "o", "ms": 5 if plain else 7, "linestyle": ""}
    return style | {"color": colour, "mfc": "white" if row.get("dropout") == 0 else colour}


def quartiles(row: Row, name: str) -> list[list[float]]:
    """How far the quartiles are from the median, as matplotlib wants it."""
    return [[row[name] - row[f"{name}_low"]], [row[f"{name}_high"] - row[name]]]


def _draw_ratio(axes: Any, row: Row, name: str, place: float) -> None:
    """A mark with its quartiles and its number."""
    axes.errorbar(row[name], place, xerr=quartiles(row, name), capsize=3, **_marker(row))
    annotate(axes, f"{row[name]:.2f}", (row[f"{name}_high"], place), (6, 0), va="center")


def annotate(axes: Any, text: str, xy: tuple[float, float], offset: Any, **style: Any) -> None:
    """Small text beside a point."""
    axes.annotate(text, xy, offset, textcoords="offset points", fontsize=8, **style)


def draw_generation(directory: Path, name: str) -> None:
    """Draw NAME.png: tokens per second."""
    frame = read_all(directory, name)
    figure = new_figure(height=2 + 1.1 * frame["case"].nunique())
    title = f"generate() beside that of transformers\n{machine(frame.iloc[0])}"
    figure.suptitle(title, fontsize=10)
    _draw_speeds(figure.subplots(), records(frame))
    figure.savefig(directory / f"{name}.png")


def _draw_speeds(axes: Any, rows: list[Row]) -> None:
    """Tokens a second with their quartiles, one group a case, and the floor of the memory."""
    cases = [case for (case,) in _distinct(rows, "case")]
    sides = _distinct(rows, "implementation", "dtype")
    for row in rows:
        side, speed = (row["implementation"], row["dtype"]), row["tokens_per_second"]
        colour, number = SIDE_COLOURS[side], sides.index(side)
        place = cases.index(row["case"]) + (number - (len(sides) - 1) / 2) * 0.78 / len(sides)
        errors = quartiles(row, "tokens_per_second")
        name = " ".join(side) if row["case"] == cases[0] else None
        axes.errorbar(speed, place, xerr=errors, fmt="o", ms=6, capsize=4, color=colour, label=name)
        if side[0] == "optimized":
            limit = speed / row["share_of_floor"]
            axes.plot([speed, limit], [place] * 2, ":", color=colour, linewidth=1)
            axes.plot(limit, place, "|", ms=11, mew=2, color=colour)
            times = f"{row['times_faster']:.1f} x"
            annotate(axes, times, (speed, place), (0, 5), ha="center", fontweight="bold")
    axes.plot([], [], "|", ms=11, mew=2, color="black", label="if memory were the only limit")
    _separate(axes, cases)
    axes.set_ylim(len(cases) - 0.45, -0.55)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("tokens per second, all sequences together (median and quartiles; log scale)")
    axes.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.4, 1.0))


def draw_line(axes: Any, curve: pd.DataFrame, across: str, up: str, **style: Any) -> None:
    """A line of medians with a band of quartiles, if there are any."""
    axes.plot(curve[across], curve[up], marker="o", ms=3, **style)
    if f"{up}_low" in curve:
        band = {"color": style["color"], "alpha": 0.22, "linewidth": 0}
        axes.fill_between(curve[across], curve[f"{up}_low"], curve[f"{up}_high"], **band)

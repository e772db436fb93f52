"""What the benchmarks of training and inference have found: a table, files, and a picture.

The picture is drawn from the files alone, so `python -m benchmarks.draw` can draw it again.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import reporting
from benchmarks.comparison import SAME_BATCHES
from benchmarks.measuring import DTYPES
from benchmarks.reporting import Found, around
from train.metrics import new_figure

Row = Mapping[str, Any]

COLOURS = {"float32": "tab:blue", "bfloat16": "tab:orange"}
PANELS = {
    "as it comes": "rows in random order, padded; ours sorts by length",
    "at its best": "both get the same rows, sorted by length",
}


def table(found: Found) -> str:
    """The sides of every case, and under them the ratios."""
    lines = [around(found)]
    lines += [f"{name} rows: {source}" for name, source in found["rows"].items()]
    lines.append("\nin brackets: quartiles of the passes")
    for case in dict.fromkeys(title(row) for row in found["sides"]):
        lines.append(f"\n{case}")
        lines.append(
            f"{'':34}{'ms/batch':>9}{'real tokens/s':>24}{'padding':>9}{'necessary':>11}"
            f"{'executed':>10}{'peak MB':>9}"
        )
        lines += [_side_line(row) for row in found["sides"] if title(row) == case]
        lines += [_ratio_line(row) for row in found["ratios"] if title(row) == case]
    lines.append(
        "\nnecessary, executed: FLOPs by formula, as shares of those of a plain product of large "
        "matrices\nin the same time"
    )
    return "\n".join(lines)


def title(row: Row) -> str:
    """The case that a row is of, and in which variant, for people."""
    return f"{row['case']}, {_variant(row)}"


def _variant(row: Row) -> str:
    """The dtype, and where it is a matter of training the dropout."""
    return row["dtype"] + (f", dropout {row['dropout']:g}" if "dropout" in row else "")


def _side_line(row: Row) -> str:
    speed, peak = row["real_tokens_per_second"], row["peak_megabytes"]
    return (
        f"  {row['side']:32}{1e3 * row['seconds']['median']:>9.1f}"
        f"{speed['median']:>10.1f} {_brackets(speed, 0):>13}{row['padding']:>9.0%}"
        f"{row['necessary_share_of_ceiling']['median']:>11.1%}"
        f"{row['executed_share_of_ceiling']['median']:>10.1%}"
        f"{'?' if peak is None else f'{peak:.0f}':>9}"
    )


def _ratio_line(row: Row) -> str:
    target = "" if row["target"] is None else f", to reach {row['target']:g}"
    return (
        f"  -> against transformers {row['against']}: {row['ratio']['median']:.2f} "
        f"{_brackets(row['ratio'], 2)}{target}"
    )


def _brackets(spread: Mapping[str, float], digits: int) -> str:
    return f"({spread['low']:.{digits}f}-{spread['high']:.{digits}f})"


def asked_for(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was asked for on the command line, as far as the numbers depend on it."""
    names = ("quick", "seed", "dtype", "attention", "plain", "compile_theirs")
    return {name: getattr(arguments, name) for name in names}


def stem(name: str, plan: Mapping[str, Any]) -> str:
    """What the files of a run are called: name_dtype.

    A quick run is called name_quick_dtype, so that it never takes the place of a whole one.
    """
    return f"{picture(name, plan)}_{plan['dtype']}"


def picture(name: str, plan: Mapping[str, Any]) -> str:
    """What the picture of such runs, of all dtypes, is called."""
    return f"{name}{'_quick' * plan['quick']}"


def save(found: Found, directory: Path, name: str) -> None:
    """Write name_dtype.json and .csv."""
    plan = found["plan"]
    same = {key: plan[key] for key in ("quick", "seed", "attention", "plain", "compile_theirs")}
    same |= plan["sizes"]
    rows = [{"measured": "side", **row, **same} for row in found["sides"]]
    rows += [{"measured": "ratio", **row, **same} for row in found["ratios"]]
    reporting.save(found, rows, directory / stem(name, plan))


def draw(directory: Path, name: str) -> None:
    """Draw name.png from the name_dtype.json of every dtype of a directory.

    A panel for transformers as it comes and one for it at its best; in it a line for each case, and
    a dot for each ratio with its quartiles.

    Raises:
        ImportError: matplotlib is not installed.
    """
    found = read(directory, name)
    rows: list[Row] = [row for part in found for row in part["ratios"]]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    variants = list(dict.fromkeys(_variant(row) for row in rows))
    figure = new_figure(height=1.8 + len(cases) * (0.35 + 0.2 * len(variants)))
    figure.set_figwidth(10)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, (against, explained) in zip(panels, PANELS.items(), strict=True):
        shown = [row for row in rows if row["against"].startswith(against)]
        _draw_panel(panel, shown, cases, variants)
        panel.set_title(f"transformers {against}\n{explained}", fontsize=9)
        panel.set_xlabel("times faster (median and quartiles)", fontsize=9)
    panels[0].set_yticks(range(len(cases)), cases)
    panels[0].set_ylim(len(cases) - 0.5, -0.5)
    # Room for the numbers behind the dots, and for bars that were not reached.
    panels[0].set_xlim(
        right=1.12 * max(max(row["ratio"]["high"], row["target"] or 0) for row in rows)
    )
    figure.suptitle(_title(found[0], name), fontsize=11)
    _explain(panels[0], variants)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(directory / f"{name}.png")


def read(directory: Path, name: str) -> list[Found]:
    """What the files of a benchmark hold, float32 first; those of quick runs are another's.

    Raises:
        ValueError: there are none, or they were not measured under the same conditions.
    """
    files = [directory / f"{name}_{dtype}.json" for dtype in sorted(DTYPES, reverse=True)]
    files = [file for file in files if file.is_file()]
    if not files:
        raise ValueError(
            f"{directory} holds no {name}_*.json; "
            f"python -m benchmarks.{name.removesuffix('_quick')} first"
        )
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for file, other in zip(files[1:], found[1:], strict=True):
        _check_same_conditions(files[0], found[0], file, other)
    return found


def _check_same_conditions(file: Path, found: Found, other_file: Path, other: Found) -> None:
    """Only what was measured under the same conditions stands side by side.

    Raises:
        ValueError: device, threads or versions differ.
    """
    first, second = _conditions(found), _conditions(other)
    for what, value in first.items():
        if second[what] != value:
            raise ValueError(
                f"{file} and {other_file.name} were not measured under the same conditions: "
                f"{what} {value} and {second[what]}; measure one of them again"
            )


def _conditions(found: Found) -> dict[str, Any]:
    where = found["environment"]
    versions = {name: where["versions"][name] for name in ("torch", "transformers")}
    return {"device": where["device"], "threads": where["threads"]} | versions


def _title(found: Found, name: str) -> str:
    where = found["environment"]
    threads = f"{where['threads']} thread{'s' * (where['threads'] > 1)}"
    return (
        f"{name.replace('_', ', ').capitalize()}: how many times faster minitransformer is than "
        f"transformers {where['versions']['transformers']}\n{where['device']}, {threads}"
    )


def _draw_panel(
    axes: Any, rows: Sequence[Row], cases: Sequence[str], variants: Sequence[str]
) -> None:
    for row in rows:
        number = variants.index(_variant(row))
        place = cases.index(row["case"]) + (number - (len(variants) - 1) / 2) * 0.8 / len(variants)
        if row["against"] == SAME_BATCHES:
            axes.plot(row["ratio"]["median"], place, "x", ms=6, color="gray")
        else:
            _draw_ratio(axes, row, place)
    for case, target in {row["case"]: row["target"] for row in rows if row["target"]}.items():
        place = cases.index(case)
        axes.plot([target] * 2, [place - 0.45, place + 0.45], color="tab:red", linewidth=2)
    axes.axvline(1, color="black", linewidth=1)
    for border in range(1, len(cases)):
        axes.axhline(border - 0.5, color="lightgray", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)


def _draw_ratio(axes: Any, row: Row, place: float) -> None:
    """A dot with its quartiles and its number; hollow where there is no dropout."""
    ratio, colour = row["ratio"], COLOURS[row["dtype"]]
    filling = "white" if row.get("dropout") == 0 else colour
    errors = [[ratio["median"] - ratio["low"]], [ratio["high"] - ratio["median"]]]
    style = {"fmt": "o", "ms": 7, "capsize": 3, "color": colour, "mfc": filling}
    axes.errorbar(ratio["median"], place, xerr=errors, **style)
    axes.annotate(
        f"{ratio['median']:.2f}",
        (ratio["high"], place),
        (6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )


def _explain(axes: Any, variants: Sequence[str]) -> None:
    """Give the legend a line for each kind of mark."""
    for variant in variants:
        colour = COLOURS[variant.split(",")[0]]
        filling = "white" if variant.endswith("dropout 0") else colour
        axes.plot([], [], "o", ms=7, color=colour, mfc=filling, label=variant)
    axes.plot([], [], "x", ms=6, color="gray", label="ours unsorted, on their batches")
    axes.plot([], [], color="tab:red", linewidth=2, label="bar to reach")
    axes.plot([], [], color="black", linewidth=1, label="equally fast")

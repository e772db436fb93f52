"""Two runs of a benchmark, of two commits or two machines: how many times faster the new one is."""

from pathlib import Path

import pandas as pd

from benchmarks.pictures import quartiles
from benchmarks.report import cells, machine
from benchmarks.runs import records
from train.metrics import new_figure

MOST = 5  # rows that are printed at either end


def measured(frame: pd.DataFrame) -> list[str]:
    """The columns that have quartiles beside them."""
    return [str(name) for name in frame if f"{name}_low" in frame]


def compare(new: pd.DataFrame, old: pd.DataFrame) -> pd.DataFrame:
    """Rows of both that are the same work, and how many times faster the new one is.

    What a row is stands before what was measured of it: in the columns up to the first that has
    quartiles, which is the one that is compared.

    Returns:
        The columns that say what a row is, and `ratio`, `ratio_low` and `ratio_high`: of medians,
        and of the quartiles that are closest and farthest.

    Raises:
        ValueError: no row is the same work.
    """
    value = measured(new)[0]
    what = [str(name) for name in new.columns[: list(new).index(value)] if name in old]
    before, after = (
        frame[frame[value].notna()].assign(
            number=lambda rows: rows.groupby(what, dropna=False).cumcount()
        )
        for frame in (old, new)
    )
    both = before.merge(after, on=[*what, "number"], suffixes=("_before", "_after"))
    if both.empty:
        raise ValueError("the two runs have no row that is the same work")
    above, below = ("after", "before") if value.endswith("_per_second") else ("before", "after")
    for end, opposite in (("", ""), ("_low", "_high"), ("_high", "_low")):
        both[f"ratio{end}"] = both[f"{value}{end}_{above}"] / both[f"{value}{opposite}_{below}"]
    return both[[*what, "ratio", "ratio_low", "ratio_high"]]


def comparison(stem: str, new: pd.DataFrame, old: pd.DataFrame) -> str:
    """How many times faster each implementation is now, and the rows at either end."""
    rows = compare(new, old)
    lines = [f"{stem}: how many times faster than before, in the {len(rows)} rows of both"]
    for name, frame in (("before", old), ("now", new)):
        one = frame.iloc[0]
        lines.append(f"{name}: {machine(one)}, commit {one['commit']}, load {one['load']:g}")
    sides = rows.groupby("implementation", sort=False)["ratio"]
    summary = sides.describe()[["25%", "50%", "75%", "min", "max"]].round(2)
    summary.insert(0, "rows", sides.size())
    lines += ["", "the rows of each implementation", summary.reset_index().to_string(index=False)]
    rows = rows.assign(times=cells(rows, "ratio")).sort_values("ratio")
    table = rows.drop(columns=["ratio", "ratio_low", "ratio_high"])
    table = table[[name for name in table if table[name].nunique() > 1 or name == "times"]]
    for title, some in (("slowest", table.head(MOST)), ("fastest", table.tail(MOST))):
        lines += ["", f"{title}; in brackets: by the quartiles", some.to_string(index=False)]
    return "\n".join(lines) + "\n"


def draw_comparison(directory: Path, stem: str, new: pd.DataFrame, old: pd.DataFrame) -> None:
    """Draw compare_STEM.png: a line for each implementation, a dot for each row."""
    rows = compare(new, old)
    sides = list(rows.groupby("implementation", sort=False))
    figure = new_figure(height=1.8 + 0.5 * len(sides))
    axes = figure.subplots()
    for place, (_, mine) in enumerate(sides):
        for number, row in enumerate(records(mine)):
            at = place + 0.7 * ((number + 0.5) / len(mine) - 0.5)
            errors = quartiles(row, "ratio")
            axes.errorbar(row["ratio"], at, xerr=errors, fmt=".", alpha=0.5, color="tab:blue")
        axes.plot([mine["ratio"].median()] * 2, [place - 0.4, place + 0.4], color="tab:red")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=8)
    axes.set_yticks(range(len(sides)), [str(name) for name, _ in sides])
    axes.set_ylim(len(sides) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("times faster than before (a dot a row, with its quartiles; red: median)")
    axes.set_title(
        f"{stem}\nbefore: {machine(old.iloc[0])}, {old['commit'].iloc[0]}\n"
        f"now: {machine(new.iloc[0])}, {new['commit'].iloc[0]}",
        fontsize=9,
    )
    figure.savefig(directory / f"compare_{stem}.png")

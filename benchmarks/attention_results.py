"""The table and the pictures of `benchmarks/attention_cost.py`, from the rows of its CSV file.

T tokens of a sequence.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.formulas import equal_length, exponent
from benchmarks.pictures import annotate, draw_line
from benchmarks.report import cells, machine, printed
from benchmarks.runs import Row, read
from minitransformer.cost.answer import crossing
from train.metrics import new_figure

ATTENTION, LAYER = "attention alone", "whole layer"
FORWARD, BOTH = "forward", "forward + backward"
FIXED_BATCH, FIXED_TOKENS = "fixed batch", "fixed tokens"
CURVE = ["sweep", "part", "passes", "implementation"]
# The column that changes in a sweep, and what the picture says about it.
SWEEPS = {
    FIXED_BATCH: ("length", "tokens of a sequence", "as the sequence grows"),
    FIXED_TOKENS: ("length", "tokens of a sequence", "as sequences grow and get fewer"),
    "heads": ("heads", "heads", "with more heads of the same size"),
    "head size": ("head_size", "head size", "where the same width is cut into fewer, larger heads"),
    "key heads": (
        "key_heads",
        "heads of keys and values",
        "where queries share keys and values (1: multi-query, all: multi-head)",
    ),
    "window": ("window", "window in tokens", "where a token sees only those near it"),
}
TIME, MEMORY = "milliseconds", "peak_megabytes"
COLOURS = {
    "no attention": "goldenrod",
    "ours eager": "tab:red",
    "ours sdpa": "tab:blue",
    "ours optimized": "tab:green",
    "sdpa: math": "tab:pink",
    "sdpa: flash": "tab:cyan",
    "sdpa: efficient": "tab:olive",
    "sdpa: cudnn": "darkgreen",
    "flex": "tab:purple",
    "varlen_attn": "tab:orange",
    "transformers eager": "black",
    "transformers sdpa": "tab:gray",
    "ours optimized, unpadded": "limegreen",
    "ours sdpa, padded": "cornflowerblue",
    "transformers sdpa, padded": "tab:brown",
}
# What is predicted, and what is measured.
PREDICTED = {"predicted_milliseconds": TIME, "predicted_megabytes": MEMORY}


def timed(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a time."""
    return frame[frame[TIME].notna()]


def is_full(rows: Any) -> Any:
    """Whether all sequences of a row are equally long."""
    return rows["rows"] * rows["length"] == rows["tokens"]


def crossings(frame: pd.DataFrame) -> list[Row]:
    """The length from which on attention alone takes longer than the layer without it.

    Of implementations whose sequences are full, for the formula knows no others; and of our layer,
    with whatever kernel, for it is our layer that is timed without attention.
    """
    full = timed(frame)[is_full]
    result = []
    for (sweep, passes), rows in full.groupby(["sweep", "passes"], sort=False):
        rest = rows[rows["implementation"] == "no attention"]
        alone = rows[
            (rows["part"] == ATTENTION) & ~rows["implementation"].str.startswith("transformers")
        ]
        for name, curve in alone.groupby("implementation", sort=False):
            both = curve.merge(rest, on="length", suffixes=("", "_rest"))
            if both.empty:
                continue
            lengths, mine, others = (
                both[column].to_list() for column in ("length", TIME, f"{TIME}_rest")
            )
            row = {"sweep": sweep, "passes": passes, "implementation": name}
            if place := crossing(lengths, mine, others):
                row |= {"length": place[0], TIME: place[1], "where": f"{place[0]:,.0f}"}
            elif mine[-1] < others[-1]:
                row["where"] = f"beyond {lengths[-1]:.0f}"
            else:
                row["where"] = f"below {lengths[0]:.0f}"
            result.append(row)
    return result


def errors(frame: pd.DataFrame) -> list[str]:
    """How far predictions were off, as a share of what was measured: a line for each of them."""
    lines = []
    for name, measured in PREDICTED.items():
        if name not in frame:
            continue
        rows = frame[frame[name].notna() & (frame[measured] > 0)]
        for part, mine in rows.groupby("part", sort=False):
            error = (mine[name] / mine[measured] - 1).abs()
            lines.append(
                f"{name.replace('_', ' ')}, {part}: median error {error.median():.0%}, nine in ten "
                f"below {error.quantile(0.9):.0%}, {len(mine)} rows"
            )
    return lines


def table(frame: pd.DataFrame) -> str:
    """Of each sweep a line for each curve: milliseconds, exponent, and what the last one took."""
    frame = frame[frame["sweep"].isin(SWEEPS)]
    plan = frame.iloc[0]
    rows = timed(frame).copy()
    if rows.empty:
        return f"nothing was timed: {frame['reason'].iloc[0]}"
    rows["cell"] = cells(rows, TIME, "{:.3g}")
    tables = []
    for sweep, mine in rows.groupby("sweep", sort=False):
        across = SWEEPS[str(sweep)][0]
        pivot = mine.pivot(index=CURVE, columns=across, values="cell").fillna("-")
        for key, curve in mine.groupby(CURVE, sort=False):
            power = exponent(curve[across].to_list(), curve[TIME].to_list())
            last = curve.iloc[[-1]]
            pivot.loc[key, ["exponent", "R2"]] = [f"{x:.3f}" for x in power] if power else ["-"] * 2
            pivot.loc[key, "peak MB"] = cells(last, MEMORY, "{:.0f}").iloc[0]
            pivot.loc[key, "x transformers"] = cells(last, "times_faster").iloc[0]
        pivot = pivot.loc[:, pivot.ne("").any()].reset_index().rename(columns={"sweep": across})
        tables.append(printed(mine, dict(pivot.items())))
    formula, length = equal_length(int(plan["hidden"]), int(plan["intermediate"]), plan["causal"])
    found = [
        f"{row['sweep']}, {row['passes']}, {row['implementation']}: {row['where']}"
        for row in crossings(frame)
    ]
    ends = frame[frame["reason"].notna()].drop_duplicates(["implementation", "reason"])
    ends = ends.drop_duplicates(CURVE)
    found += [
        f"not from {r.length} on, {', '.join(r[:4])}: {r.reason}"
        for r in ends[[*CURVE, "length", "reason"]].itertuples(index=False)
    ]
    return (
        "\n".join(tables) + "\nmilliseconds; exponent: over the upper half; peak memory and times "
        "faster than transformers' sdpa in the last column\n"
        f"attention alone takes as long as the rest of the layer at length {length:,} by "
        f"FLOPs ({formula}); as measured:\n" + "\n".join(found + errors(frame))
    )


def draw(directory: Path, name: str) -> None:
    """Draw NAME_SWEEP.png for each sweep, and where layers are measured NAME_SWEEP_memory.png.

    Above without the backward pass, below with it; all axes are logarithmic.
    """
    frame = read(directory / f"{name}.csv")
    frame = frame[frame["implementation"].isin(COLOURS) & frame["sweep"].isin(SWEEPS)]
    for sweep, rows in frame.groupby("sweep", sort=False):
        file = f"{name}_{str(sweep).replace(' ', '_')}"
        pictures = {"": [(ATTENTION, TIME), (ATTENTION, MEMORY)]}
        if LAYER in set(timed(rows)["part"]):
            pictures = {"": [(ATTENTION, TIME), (LAYER, TIME)]}
            pictures["_memory"] = [(ATTENTION, MEMORY), (LAYER, MEMORY)]
        for ending, columns in pictures.items():
            if any((rows.get(value, pd.Series()) > 0).any() for _, value in columns):
                _draw_sweep(rows, columns).savefig(directory / f"{file}{ending}.png")


def _draw_sweep(rows: pd.DataFrame, columns: list[tuple[str, str]]) -> Any:
    """A picture with a column of two panels for each part and what was measured of it."""
    one = timed(rows)[is_full].iloc[0]
    across, _, title = SWEEPS[one["sweep"]]
    fixed = {
        FIXED_BATCH: f"{one['rows']:.0f} sequence{'s' * bool(one['rows'] > 1)}",
        FIXED_TOKENS: f"{one['tokens']:,.0f} tokens in all",
    }.get(one["sweep"], f"one sequence of {one['length']:,.0f} tokens")
    what = [fixed, "causal" * bool(one["causal"]), one["dtype"]]
    what.append(f"dropout {one['dropout']:g}" if one.get("dropout") else "")
    what.append(f"hidden size {one['hidden']:.0f}" if across != "heads" else "")
    if across not in ("heads", "head_size"):
        what.append(f"{one['heads']:.0f} head{'s' * bool(one['heads'] > 1)}")
    what.append(f"intermediate size {one['intermediate']:.0f}" if across == "length" else "")
    notes = ["medians and quartiles"]
    if across == "length":
        notes += [
            "exponents of the upper half of the lengths",
            "dashed: sequences of unequal length",
        ]
        notes += ["rings: attention takes as much as the rest"] * (columns[0][1] == TIME)
    notes += ["dotted: predicted"] * any(name in rows for name in PREDICTED)
    passes = [name for name in (FORWARD, BOTH) if name in set(timed(rows)["passes"])]
    figure = new_figure()
    figure.set_size_inches(13, 0.8 + 4.6 * len(passes))
    figure.suptitle(
        f"What attention costs {title}\n{', '.join(filter(None, what))}\n{machine(one)}\n"
        f"{'; '.join(notes)}",
        fontsize=10,
    )
    panels = figure.subplots(len(passes), len(columns), sharex=True, squeeze=False)
    for down, name in enumerate(passes):
        for right, (part, value) in enumerate(columns):
            panel = panels[down][right]
            kind = (
                "attention alone (softmax(Q K$^T$) V)" if part == ATTENTION else "the whole layer"
            )
            panel.set_title(f"{kind}, {name}", fontsize=10)
            panel.set_ylabel("milliseconds" if value == TIME else "peak memory, MB")
            _draw_panel(panel, rows[rows["passes"] == name], part, value)
            panels[-1][right].set_xlabel(SWEEPS[one["sweep"]][1])
    return figure


def _draw_panel(axes: Any, rows: pd.DataFrame, part: str, value: str) -> None:
    """A line for each implementation, and the layer without attention to compare with."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    shown = rows[(rows["part"] == part) | (rows["implementation"] == "no attention")]
    measured = shown[shown[value] > 0]
    if measured.empty:
        return
    sweep = rows["sweep"].iloc[0]
    across = SWEEPS[sweep][0]
    predicted = {measured: name for name, measured in PREDICTED.items()}[value]
    # From the highest to the lowest at the end, so is the legend.
    curves = measured.groupby("implementation", sort=False)
    for name in curves[value].last().sort_values(ascending=False).index:
        curve, rest = curves.get_group(name), name == "no attention"
        style: dict[str, Any] = {"linestyle": "-" if is_full(curve.iloc[0]) else "--"}
        style |= {"linewidth": 4 if rest else 1.3, "alpha": 0.5 if rest else 1}
        style["label"] = "the layer without attention" if rest else name
        power = exponent(curve[across].to_list(), curve[value].to_list())
        style["label"] += f"  T$^{{{power[0]:.2f}}}$" if power and across == "length" else ""
        draw_line(axes, curve, across, value, color=COLOURS[name], **style)
    if predicted in shown:
        for name, curve in shown[shown[predicted] > 0].groupby("implementation", sort=False):
            axes.plot(curve[across], curve[predicted], ":", color=COLOURS[name], linewidth=2)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    if across == "length":
        _draw_slopes(axes, measured, value, (1, 2) if sweep == FIXED_BATCH else (0, 1))
        if part == ATTENTION and value == TIME:
            _draw_crossings(axes, rows)
    places = sorted(shown[across].unique())
    axes.set_xticks(places, [f"{place:,.0f}" for place in places])
    axes.tick_params(axis="x", labelrotation=30 if len(places) > 7 else 0)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.minorticks_off()
    axes.grid(alpha=0.25)


def _draw_slopes(axes: Any, rows: pd.DataFrame, value: str, slopes: tuple[int, int]) -> None:
    """Thin lines that show how steep a power of the length is."""
    (first, last), (low, high) = (
        (rows[column].min(), rows[column].max()) for column in ("length", value)
    )
    axes.set_ylim(low / 2, high * 2)
    # From the middle of the bottom on, where no curve is: all of them rise.
    start = (first * last) ** 0.5, low / 1.7
    for slope in slopes:
        end = last, start[1] * (last / start[0]) ** slope
        axes.plot(*zip(start, end, strict=True), ":", color="dimgray", linewidth=1, zorder=0)
        annotate(axes, ("level", "T", "T$^2$")[slope], end, (0, 3), ha="right", color="dimgray")


def _draw_crossings(axes: Any, rows: pd.DataFrame) -> None:
    """Rings where attention overtakes the rest of the layer, and where it should by FLOPs."""
    plan = rows.iloc[0]
    formula, equal = equal_length(int(plan["hidden"]), int(plan["intermediate"]), plan["causal"])
    texts = {f"equal by FLOPs: {formula} = {equal:,}": "goldenrod"}
    low, high = axes.get_xlim()
    if low < equal < high:
        axes.axvline(equal, color="goldenrod", linewidth=0.8, linestyle="--")
    for row in crossings(rows):
        colour = COLOURS[row["implementation"]]
        if row["implementation"] == "ours sdpa":
            texts[f"as measured, ours sdpa: {row['where']}"] = colour
        if "length" in row:
            axes.plot(row["length"], row[TIME], "o", ms=9, mfc="none", mec=colour, mew=1.5)
    for line, (text, colour) in enumerate(texts.items()):  # top left, where no curve is
        where = {"transform": axes.transAxes, "va": "top", "fontsize": 8}
        axes.text(0.02, 0.98 - 0.05 * line, text, color=colour, **where)

"""The picture of `benchmarks/attention_cost.py`: time over length, both in logarithms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.attention_implementations import NAMED, NO_ATTENTION, OURS_SDPA
from benchmarks.attention_points import ATTENTION, BOTH, FORWARD, LAYER
from benchmarks.reporting import Found
from train.metrics import new_figure

COLOURS = {
    NO_ATTENTION: "goldenrod",
    "ours eager": "tab:red",
    OURS_SDPA: "tab:blue",
    "sdpa: math": "tab:pink",
    "sdpa: flash": "tab:cyan",
    "sdpa: efficient": "tab:olive",
    "sdpa: cudnn": "tab:purple",
    "transformers eager": "black",
    "transformers sdpa": "tab:gray",
    "ours optimized": "tab:green",
    "ours packed": "tab:green",  # as files of 0.4 name it
    "ours sdpa, padded": "cornflowerblue",
    "transformers sdpa, padded": "tab:brown",
}
TITLES = {
    ATTENTION: "attention alone (softmax(Q K$^T$) V)",
    LAYER: "the whole layer",
}
_GAP = 0.058  # between labels, of the height of a panel


def draw(found: Found, sweep: str, picture: Path) -> None:
    """Draw one sweep: attention alone and the whole layer, without and with the backward pass.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure()
    figure.set_size_inches(13, 10)
    where, plan = found["environment"], found["plan"]
    fixed = (
        f"{plan['batch']} row{'s' * (plan['batch'] > 1)}"
        if sweep == "fixed batch"
        else f"{plan['tokens']:,} tokens in rows of that length"
    )
    figure.suptitle(
        f"What attention costs as the sequence grows: {fixed}, "
        f"{'causal, ' if plan['causal'] else ''}{plan['dtype']}, hidden size {plan['hidden']}, "
        f"{plan['heads']} heads, intermediate size {plan['intermediate']}\n"
        f"{where['device']}, {where['threads']} thread{'s' * (where['threads'] > 1)}, "
        f"PyTorch {where['versions']['torch']}, transformers {where['versions']['transformers']}\n"
        "medians and quartiles; exponents of the upper half of the lengths; dashed: as many "
        "tokens in rows of unequal length; rings: attention alone takes as long as the rest",
        fontsize=10,
    )
    panels = figure.subplots(2, 2, sharex=True)
    for down, passes in enumerate((FORWARD, BOTH)):
        for across, part in enumerate((ATTENTION, LAYER)):
            _draw_panel(panels[down][across], found, sweep, part, passes)
            panels[down][across].set_title(f"{TITLES[part]}, {passes}", fontsize=10)
        panels[down][0].set_ylabel("milliseconds")
    for panel in panels[-1]:
        panel.set_xlabel("tokens of a row")
    figure.savefig(picture)


def _draw_panel(axes: Any, found: Found, sweep: str, part: str, passes: str) -> None:
    """A line for each implementation, and the layer without attention to compare with."""
    points = [
        row
        for row in found["points"]
        if not row["reason"]
        and (row["sweep"], row["passes"]) == (sweep, passes)
        and (row["part"] == part or row["implementation"] == NO_ATTENTION)
        and row["implementation"] not in twins(found["points"])
    ]
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    labels = []
    for name in dict.fromkeys(row["implementation"] for row in points):
        curve = [row for row in points if row["implementation"] == name]
        labels.append(_draw_curve(axes, name, curve, _exponent(found, curve[0])))
    _draw_slopes(axes, points, (1, 2) if sweep == "fixed batch" else (0, 1))
    if part == ATTENTION:
        _draw_crossings(axes, found, sweep, passes)
    lengths = sorted({row["length"] for row in found["points"] if row["sweep"] == sweep})
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    _write_labels(axes, labels)


def twins(points: Sequence[Mapping[str, Any]]) -> set[str]:
    """PyTorch's kernels by name that ours runs anyway: one line would lie on the other."""
    ran: dict[str, set[str]] = {}
    for row in points:
        if row["kernel"]:
            ran.setdefault(row["implementation"], set()).add(row["kernel"])
    return {
        name for name, kernels in ran.items() if name in NAMED and kernels == ran.get(OURS_SDPA)
    }


def _draw_curve(
    axes: Any, name: str, curve: list[Mapping[str, Any]], exponent: str
) -> tuple[float, float, str, str]:
    """One line with its quartiles; gives where it ends, its label and its colour."""
    lengths, times = [row["length"] for row in curve], [row["milliseconds"] for row in curve]
    full = curve[0]["rows"] * curve[0]["length"] == curve[0]["tokens"]
    colour, middle = COLOURS[name], [time["median"] for time in times]
    rest = name == NO_ATTENTION
    axes.plot(
        lengths,
        middle,
        "o-" if full else "o--",
        ms=3,
        color=colour,
        linewidth=4 if rest else 1.3,
        alpha=0.5 if rest else 1,
    )
    low, high = ([time[edge] for time in times] for edge in ("low", "high"))
    axes.fill_between(lengths, low, high, color=colour, alpha=0.25, linewidth=0)
    text = "the layer without attention" if rest else name
    return lengths[-1], middle[-1], f"{text}{exponent}", colour


def _exponent(found: Found, row: Mapping[str, Any]) -> str:
    """The fitted exponent of the curve that a row belongs to."""
    names = ("sweep", "part", "passes", "implementation")
    for fit in found["fits"]:
        if all(fit[name] == row[name] for name in names) and not fit["reason"]:
            return f"  T$^{{{fit['exponent']:.2f}}}$"
    return ""


def _draw_slopes(axes: Any, points: list[Mapping[str, Any]], slopes: tuple[int, int]) -> None:
    """Thin lines that show how steep a power of the length is."""
    if not points:
        return
    lengths = sorted({row["length"] for row in points})
    times = [row["milliseconds"]["median"] for row in points]
    axes.set_ylim(min(times) / 2, max(times) * 2)
    # From the middle of the bottom on, where no curve is: all of them rise.
    start = (lengths[0] * lengths[-1]) ** 0.5, min(times) / 1.7
    for slope in slopes:
        end = lengths[-1], start[1] * (lengths[-1] / start[0]) ** slope
        axes.plot(*zip(start, end, strict=True), ":", color="dimgray", linewidth=1, zorder=0)
        power = ("level", "T", "T$^2$")[slope]
        axes.annotate(
            power, end, (0, 3), textcoords="offset points", ha="right", fontsize=8, color="dimgray"
        )


def _draw_crossings(axes: Any, found: Found, sweep: str, passes: str) -> None:
    """Rings where attention overtakes the rest of the layer, and where it should by FLOPs."""
    formula = "2 (2 h + f) - 1" if found["plan"]["causal"] else "2 h + f"
    _write_in_corner(axes, f"equal by FLOPs: {formula} = {found['equal_length']:,}", 0, "goldenrod")
    low, high = axes.get_xlim()
    if low < found["equal_length"] < high:
        axes.axvline(found["equal_length"], color="goldenrod", linewidth=0.8, linestyle="--")
    for row in found["crossings"]:
        name = row["implementation"]
        if (row["sweep"], row["passes"]) != (sweep, passes) or name in twins(found["points"]):
            continue
        if name == OURS_SDPA:
            where = row["reason"] or f"{row['length']:,.0f}"
            _write_in_corner(axes, f"as measured, {name}: {where}", 1, COLOURS[name])
        if not row["reason"]:
            place = (row["length"], row["milliseconds"])
            axes.plot(*place, "o", ms=9, mfc="none", mec=COLOURS[name], mew=1.5)


def _write_in_corner(axes: Any, text: str, line: int, colour: str) -> None:
    """Top left, where no curve is: all of them rise."""
    place = (0.02, 0.98 - 0.05 * line)
    axes.text(*place, text, transform=axes.transAxes, va="top", fontsize=8, color=colour)


def _write_labels(axes: Any, labels: list[tuple[float, float, str, str]]) -> None:
    """A label to the right of each line's end, moved so that none lies on another."""
    labels = sorted(labels, key=lambda label: label[1])
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [to_axes.transform((x, y))[1] for x, y, *_ in labels]
    heights = apart(ends, _GAP)
    too_high = max(0, heights[-1] - 1) if heights else 0
    for (x, y, text, colour), height in zip(labels, heights, strict=True):
        axes.annotate(
            text,
            (x, y),
            (1.07, height - too_high),
            textcoords="axes fraction",
            fontsize=8,
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.5,
                "relpos": (0, 0.5),  # from its left edge
                "shrinkA": 1,
                "shrinkB": 3,
            },
        )


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places, moved as little as it takes for neighbours to be `gap` apart.

    Those that meet form a pile, which stays around the mean of where its members wanted to be.
    """
    piles: list[list[float]] = []
    for place in places:
        piles.append([place])
        while len(piles) > 1 and _top(piles[-2], gap) + gap > _bottom(piles[-1], gap):
            last = piles.pop()
            piles[-1] += last
    return [_bottom(pile, gap) + gap * number for pile in piles for number in range(len(pile))]


def _bottom(pile: list[float], gap: float) -> float:
    return sum(pile) / len(pile) - gap * (len(pile) - 1) / 2


def _top(pile: list[float], gap: float) -> float:
    return sum(pile) / len(pile) + gap * (len(pile) - 1) / 2

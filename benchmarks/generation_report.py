"""What `benchmarks/generation.py` has found, as a table, a picture, and files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import reporting
from benchmarks.reporting import Found, around
from train.metrics import new_figure, try_to_draw

# A colour for each side, and a darker one for what it cannot be faster than.
COLOURS = {
    ("transformers", "float32"): "tab:gray",
    ("minitransformer", "float32"): "tab:blue",
    ("transformers", "bfloat16"): "black",
    ("transformers compiled", "float32"): "tab:olive",
    ("transformers compiled", "bfloat16"): "tab:brown",
    ("minitransformer", "bfloat16"): "tab:orange",
}


def table(found: Found) -> str:
    """One line for each case and side."""
    lines = [
        around(found),
        f"\n{'':28}{'tokens a second':>26}{'times transformers':>24}{'ms/step':>9}{'MB/step':>9}"
        f"{'of floor':>9}",
    ]
    for row in found["speeds"]:
        if row["library"] == "transformers":
            lines.append(row["case"])
        speed, times = row["tokens_per_second"], row["times_faster"]
        lines.append(
            f"  {label(row):26}"
            f"{speed['median']:>10.1f} ({speed['low']:>6.1f}-{speed['high']:>6.1f})"
            f"{times['median']:>10.2f} ({times['low']:.2f}-{times['high']:.2f})"
            f"{row['ms_per_step']:>9.1f}{row['megabytes_per_step']:>9.0f}"
            f"{row['share_of_floor']['median']:>9.0%}{_beside_compiled(row)}"
        )
    lines.append("\nin brackets: quartiles")
    if seconds := found["seconds_to_copy_weights"]:
        paid = ", ".join(f"{name} {second:.2f} s" for name, second in seconds.items())
        lines.append(f"paid once for a model, prepacked weights: {paid}")
    return "\n".join(lines)


def _beside_compiled(row: Mapping[str, Any]) -> str:
    """How many times as fast as the compiled side, where there is one, and how alike the texts."""
    if "times_faster_than_compiled" not in row:
        return ""
    times = row["times_faster_than_compiled"]["median"]
    return f"  {times:.2f} times compiled, {row['same_tokens']:.0%} of the tokens"


def label(row: Mapping[str, Any]) -> str:
    """The side's name."""
    return f"{row['library']} {row['dtype']}"


def save(found: Found, directory: Path) -> None:
    """Write generation.json, .csv and .png.

    A quick run is called generation_quick, so that it never takes the place of a whole one.
    """
    rows = [{"measured": "text", **row} for row in found["speeds"]]
    rows += [{"measured": "one token", **row} for row in found["curves"]]
    stem = directory / f"generation{'_quick' * found['plan']['quick']}"
    reporting.save(found, rows, stem)
    try_to_draw(draw, found, stem.with_suffix(".png"))


def draw(found: Found, picture: Path) -> None:
    """Draw speeds above, and time per token against the context below.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows = list(dict.fromkeys(row["rows"] for row in found["curves"]))
    figure = new_figure(height=9)
    parts: Any = figure.subfigures(2, height_ratios=[1.15, 1])
    above, below = parts
    where = found["environment"]
    above.suptitle(
        f"generate() beside that of transformers {where['versions']['transformers']}, "
        f"{where['device']}, {where['threads']} threads",
        fontsize=10,
    )
    _draw_speeds(above.subplots(), found)
    panels = below.subplots(1, len(rows), squeeze=False)[0]
    for panel, number in zip(panels, rows, strict=True):
        _draw_curve(panel, [row for row in found["curves"] if row["rows"] == number])
        panel.set_title(f"GPT-2, {number} prompt{'s' * (number > 1)}", fontsize=10)
    panels[0].set_ylabel("milliseconds for the next token")
    panels[0].legend(fontsize=8)
    figure.savefig(picture)


def _draw_speeds(axes: Any, found: Found) -> None:
    """Tokens a second with their quartiles, one group a case, and the floor of the memory."""
    speeds = found["speeds"]
    cases = list(dict.fromkeys(row["case"] for row in speeds))
    sides = list(dict.fromkeys((row["library"], row["dtype"]) for row in speeds))
    for row in speeds:
        side = (row["library"], row["dtype"])
        place = cases.index(row["case"]) + (sides.index(side) - (len(sides) - 1) / 2) * 0.26
        speed, times = row["tokens_per_second"], row["times_faster"]["median"]
        errors = [[speed["median"] - speed["low"]], [speed["high"] - speed["median"]]]
        name = label(row) if row["case"] == cases[0] else None
        style = {"fmt": "o", "ms": 7, "capsize": 4, "color": COLOURS[side], "label": name}
        axes.errorbar(speed["median"], place, xerr=errors, **style)
        if row["library"] == "minitransformer":
            limit = speed["median"] / row["share_of_floor"]["median"]
            axes.plot([speed["median"], limit], [place] * 2, ":", color=COLOURS[side], linewidth=1)
            axes.plot(limit, place, "|", ms=11, mew=2, color=COLOURS[side])
            axes.annotate(
                f"{times:.1f} x",
                (speed["median"], place),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                fontweight="bold",
            )
    axes.plot([], [], "|", ms=11, mew=2, color="black", label="if only the memory were waited for")
    axes.set_yticks(range(len(cases)), cases)
    axes.set_ylim(len(cases) - 0.45, -0.55)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("tokens a second, all rows together (median and quartiles; log scale)")
    for border in range(1, len(cases)):
        axes.axhline(border - 0.5, color="lightgray", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.4, 1.0))


def _draw_curve(axes: Any, curve: list[Mapping[str, Any]]) -> None:
    """Milliseconds a token over the context, a line a side, and the memory's floor, dotted."""
    for side in dict.fromkeys((row["library"], row["dtype"]) for row in curve):
        mine = [row for row in curve if (row["library"], row["dtype"]) == side]
        contexts, times = [row["context"] for row in mine], [row["ms_per_step"] for row in mine]
        colour = COLOURS[side]
        axes.plot(
            contexts, [t["median"] for t in times], "o-", ms=3, color=colour, label=label(mine[0])
        )
        low, high = ([t[edge] for t in times] for edge in ("low", "high"))
        axes.fill_between(contexts, low, high, color=colour, alpha=0.2, linewidth=0)
        if side[0] == "minitransformer":
            axes.plot(contexts, [row["floor_ms"] for row in mine], ":", color=colour)
    axes.set_xlabel("tokens before it (dotted: memory at full speed)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)

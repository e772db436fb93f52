"""The pictures of all benchmarks, drawn from the rows of their CSV files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.report import (
    ATTENTION,
    BOTH,
    CURVE,
    FIXED_BATCH,
    FIXED_TOKENS,
    FORWARD,
    LAYER,
    crossings,
    equal_length,
    exponent,
    group,
    machine,
    read_all,
    timed,
)
from benchmarks.runs import Row, read
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
    ("transformers compiled", "float32"): "tab:olive",
    ("transformers compiled", "bfloat16"): "tab:brown",
    ("plain", "float32"): "skyblue",
    ("plain", "bfloat16"): "navajowhite",
    ("optimized", "float32"): "tab:blue",
    ("optimized", "bfloat16"): "tab:orange",
}
ATTENTION_COLOURS = {
    "no attention": "goldenrod",
    "ours eager": "tab:red",
    "ours sdpa": "tab:blue",
    "sdpa: math": "tab:pink",
    "sdpa: flash": "tab:cyan",
    "sdpa: efficient": "tab:olive",
    "sdpa: cudnn": "tab:purple",
    "transformers eager": "black",
    "transformers sdpa": "tab:gray",
    "ours optimized": "tab:green",
    "ours sdpa, padded": "cornflowerblue",
    "transformers sdpa, padded": "tab:brown",
}


def draw_all(directory: Path) -> list[str]:
    """Draw every picture that a directory has rows for; gives their names.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the directory has no results.
    """
    drawn = []
    for base, draw in (
        ("training", draw_ratios),
        ("inference", draw_ratios),
        ("generation", draw_generation),
    ):
        for name in (base, f"{base}_quick"):
            if any(
                (directory / f"{name}{end}.csv").is_file() for end in ("", "_float32", "_bfloat16")
            ):
                draw(directory, name)
                drawn.append(name)
    for file in sorted(directory.glob("attention_cost_*.csv")):
        if not file.stem.endswith(".unfinished"):
            draw_attention(directory, file.stem)
            drawn.append(file.stem)
    if not drawn:
        raise ValueError(f"{directory} holds no CSV files of benchmarks")
    return drawn


def draw_ratios(directory: Path, name: str) -> None:
    """Draw NAME.png from the files of all dtypes: of training or of inference.

    A panel for transformers with default settings and one for best settings; in it a line for each
    case, implementation, dtype and dropout, with the ratio and its quartiles.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows = [
        row for row in read_all(directory, name) if row["implementation"] in ("plain", "optimized")
    ]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    variants = list(group(rows, *VARIANT))
    figure = new_figure(height=1.8 + len(cases) * (0.35 + 0.2 * len(variants)))
    figure.set_figwidth(10)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, (settings, title) in zip(panels, RATIO_PANELS.items(), strict=True):
        for row in rows:
            number = variants.index(tuple(row.get(name) for name in VARIANT))
            place = float(cases.index(row["case"]))
            place += (number - (len(variants) - 1) / 2) * 0.8 / len(variants)
            if f"times_{settings}" in row:
                _draw_ratio(panel, row, f"times_{settings}", place)
            if settings == "default" and "times_same" in row:
                panel.plot(row["times_same"], place, "x", ms=6, color="gray")
            if target := row.get(f"{settings}_target"):
                at = cases.index(row["case"])
                panel.plot([target] * 2, [at - 0.45, at + 0.45], color="tab:red", linewidth=2)
        panel.axvline(1, color="black", linewidth=1)
        for border in range(1, len(cases)):
            panel.axhline(border - 0.5, color="lightgray", linewidth=0.8)
        panel.grid(axis="x", alpha=0.3)
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("times faster (median and quartiles)", fontsize=9)
    panels[0].set_yticks(range(len(cases)), cases)
    panels[0].set_ylim(len(cases) - 0.5, -0.5)
    shown = ("times_default_high", "times_best_high", "default_target", "best_target")
    # Room for the numbers behind the dots, and for targets that were not reached.
    panels[0].set_xlim(right=1.12 * max(row.get(n, 0) for row in rows for n in shown))
    figure.suptitle(
        f"{name.replace('_', ', ').capitalize()}: how many times faster minitransformer is than "
        f"transformers\n{machine(rows[0])}",
        fontsize=11,
    )
    for variant, (row, *_) in group(rows, *VARIANT).items():
        label = ", ".join(map(str, variant[:2]))
        label += f", dropout {row['dropout']:g}" if "dropout" in row else ""
        panels[0].plot([], [], label=label, **_marker(row))
    panels[0].plot([], [], "x", ms=6, color="gray", label="ours unsorted, on their batches")
    panels[0].plot([], [], color="tab:red", linewidth=2, label="target")
    panels[0].plot([], [], color="black", linewidth=1, label="equally fast")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(directory / f"{name}.png")


def _marker(row: Row) -> dict[str, Any]:
    """A diamond for plain, a dot for optimized; hollow without dropout."""
    colour, plain = DTYPE_COLOURS[row["dtype"]], row["implementation"] == "plain"
    style = {"marker": "d" if plain else "o", "ms": 5 if plain else 7, "linestyle": ""}
    return style | {"color": colour, "mfc": "white" if row.get("dropout") == 0 else colour}


def _draw_ratio(axes: Any, row: Row, name: str, place: float) -> None:
    """A mark with its quartiles and its number."""
    errors = [[row[name] - row[f"{name}_low"]], [row[f"{name}_high"] - row[name]]]
    axes.errorbar(row[name], place, xerr=errors, capsize=3, **_marker(row))
    _annotate(axes, f"{row[name]:.2f}", (row[f"{name}_high"], place), (6, 0), va="center")


def _annotate(axes: Any, text: str, xy: tuple[float, float], offset: Any, **style: Any) -> None:
    axes.annotate(text, xy, offset, textcoords="offset points", fontsize=8, **style)


def draw_generation(directory: Path, name: str) -> None:
    """Draw NAME.png: speeds above, and time per token against the context below.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows = read_all(directory, name)
    curves = [row for row in rows if "context" in row]
    figure = new_figure(height=9)
    parts: Any = figure.subfigures(2, height_ratios=[1.15, 1]) if curves else [figure]
    parts[0].suptitle(f"generate() beside that of transformers\n{machine(rows[0])}", fontsize=10)
    _draw_speeds(parts[0].subplots(), [row for row in rows if "context" not in row])
    panels = group(curves, "case")
    if curves:
        axes_of = parts[1].subplots(1, len(panels), squeeze=False)[0]
        for axes, ((case,), curve) in zip(axes_of, panels.items(), strict=True):
            _draw_growth(axes, curve)
            axes.set_title(case, fontsize=10)
        axes_of[0].set_ylabel("milliseconds for the next token")
        axes_of[0].legend(fontsize=8)
    figure.savefig(directory / f"{name}.png")


def _side(row: Row) -> tuple[str, str]:
    return row["implementation"], row["dtype"]


def _draw_speeds(axes: Any, rows: list[Row]) -> None:
    """Tokens a second with their quartiles, one group a case, and the floor of the memory."""
    cases, sides = (
        list(dict.fromkeys(found)) for found in ((r["case"] for r in rows), map(_side, rows))
    )
    for row in rows:
        side, colour, speed = _side(row), SIDE_COLOURS[_side(row)], row["tokens_per_second"]
        place = float(cases.index(row["case"]))
        place += (sides.index(side) - (len(sides) - 1) / 2) * 0.78 / len(sides)
        errors = [[speed - row["tokens_per_second_low"]], [row["tokens_per_second_high"] - speed]]
        name = " ".join(side) if row["case"] == cases[0] else None
        axes.errorbar(speed, place, xerr=errors, fmt="o", ms=6, capsize=4, color=colour, label=name)
        if side[0] == "optimized":
            limit = speed / row["share_of_floor"]
            axes.plot([speed, limit], [place] * 2, ":", color=colour, linewidth=1)
            axes.plot(limit, place, "|", ms=11, mew=2, color=colour)
            times = f"{row['times_faster']:.1f} x"
            _annotate(axes, times, (speed, place), (0, 5), ha="center", fontweight="bold")
    axes.plot([], [], "|", ms=11, mew=2, color="black", label="if memory were the only limit")
    axes.set_yticks(range(len(cases)), cases)
    axes.set_ylim(len(cases) - 0.45, -0.55)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("tokens a second, all sequences together (median and quartiles; log scale)")
    for border in range(1, len(cases)):
        axes.axhline(border - 0.5, color="lightgray", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.4, 1.0))


def _draw_growth(axes: Any, rows: list[Row]) -> None:
    """Milliseconds a token over the context, a line a side, and the memory's floor, dotted."""
    for side, curve in group(rows, "implementation", "dtype").items():
        contexts = [row["context"] for row in curve]
        _draw_line(axes, contexts, curve, "ms_per_step", SIDE_COLOURS[side], label=" ".join(side))
        if side[0] == "optimized":
            axes.plot(contexts, [row["floor_ms"] for row in curve], ":", color=SIDE_COLOURS[side])
    axes.set_xlabel("tokens before it (dotted: memory at full speed)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _draw_line(
    axes: Any, xs: list[float], curve: list[Row], name: str, colour: str, **style: Any
) -> None:
    """A line of medians with a band of quartiles."""
    middle, low, high = ([row[name + edge] for row in curve] for edge in ("", "_low", "_high"))
    axes.plot(xs, middle, marker="o", ms=3, color=colour, **style)
    axes.fill_between(xs, low, high, color=colour, alpha=0.22, linewidth=0)


def draw_attention(directory: Path, name: str) -> None:
    """Draw NAME_fixed_batch.png and NAME_fixed_tokens.png.

    Attention alone and the whole layer, without and with the backward pass; both axes logarithmic.

    Raises:
        ImportError: matplotlib is not installed.
    """
    all_rows = read(directory / f"{name}.csv")
    rows = [row for row in timed(all_rows) if row["implementation"] not in _twins(timed(all_rows))]
    for (sweep,), mine in group(rows, "sweep").items():
        figure = new_figure()
        figure.set_size_inches(13, 10)
        one = next(row for row in mine if row["rows"] * row["length"] == row["tokens"])
        fixed = {
            FIXED_BATCH: f"{one['rows']:.0f} sequence{'s' * (one['rows'] > 1)}",
            FIXED_TOKENS: f"{one['tokens']:,.0f} tokens in sequences of that length",
        }[sweep]
        figure.suptitle(
            f"What attention costs as the sequence grows: {fixed}, "
            f"{'causal, ' * bool(one['causal'])}{one['dtype']}, hidden size {one['hidden']:.0f}, "
            f"{one['heads']:.0f} heads, intermediate size {one['intermediate']:.0f}\n"
            f"{machine(one)}\n"
            "medians and quartiles; exponents of the upper half of the lengths; dashed: as many "
            "tokens in sequences of unequal length; rings: attention takes as long as the rest",
            fontsize=10,
        )
        panels = figure.subplots(2, 2, sharex=True)
        for down, passes in enumerate((FORWARD, BOTH)):
            for across, part in enumerate((ATTENTION, LAYER)):
                title = {
                    ATTENTION: "attention alone (softmax(Q K$^T$) V)",
                    LAYER: "the whole layer",
                }
                panels[down][across].set_title(f"{title[part]}, {passes}", fontsize=10)
                here = [row for row in mine if row["passes"] == passes]
                _draw_panel(panels[down][across], here, part, sweep == FIXED_BATCH)
            panels[down][0].set_ylabel("milliseconds")
        for panel in panels[-1]:
            panel.set_xlabel("tokens of a sequence")
        figure.savefig(directory / f"{name}_{sweep.replace(' ', '_')}.png")


def _twins(rows: Iterable[Row]) -> set[str]:
    """PyTorch's kernels by name that ours runs anyway: one line would lie on the other."""
    ran = {
        name: {row.get("kernel") for row in mine}
        for (name,), mine in group(rows, "implementation").items()
    }
    return {n for n, kernels in ran.items() if n[:5] == "sdpa:" and kernels == ran.get("ours sdpa")}


def _draw_panel(axes: Any, rows: list[Row], part: str, batch_is_fixed: bool) -> None:
    """A line for each implementation, and the layer without attention to compare with."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    shown = [row for row in rows if part == row["part"] or row["implementation"] == "no attention"]
    curves = group(shown, *CURVE)
    for key in sorted(curves, key=lambda key: -curves[key][-1]["milliseconds"]):
        curve, name, rest = curves[key], key[-1], key[-1] == "no attention"
        full = curve[0]["rows"] * curve[0]["length"] == curve[0]["tokens"]
        style: dict[str, Any] = {"linestyle": "-" if full else "--"}
        style |= {"linewidth": 4 if rest else 1.3, "alpha": 0.5 if rest else 1}
        power = exponent(curve)
        style["label"] = "the layer without attention" if rest else name
        style["label"] += f"  T$^{{{power.exponent:.2f}}}$" if power else ""
        lengths = [row["length"] for row in curve]
        _draw_line(axes, lengths, curve, "milliseconds", ATTENTION_COLOURS[name], **style)
    if shown:
        # In the order in which the curves end, from the slowest to the fastest.
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
        _draw_slopes(axes, shown, (1, 2) if batch_is_fixed else (0, 1))
    if part == ATTENTION and shown:
        _draw_crossings(axes, rows)
    lengths = sorted({row["length"] for row in rows})
    axes.set_xticks(lengths, [f"{length:,.0f}" for length in lengths])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.25)


def _draw_slopes(axes: Any, rows: list[Row], slopes: tuple[int, int]) -> None:
    """Thin lines that show how steep a power of the length is."""
    lengths = sorted({row["length"] for row in rows})
    times = [row["milliseconds"] for row in rows]
    axes.set_ylim(min(times) / 2, max(times) * 2)
    # From the middle of the bottom on, where no curve is: all of them rise.
    start = (lengths[0] * lengths[-1]) ** 0.5, min(times) / 1.7
    for slope in slopes:
        end = lengths[-1], start[1] * (lengths[-1] / start[0]) ** slope
        axes.plot(*zip(start, end, strict=True), ":", color="dimgray", linewidth=1, zorder=0)
        _annotate(axes, ("level", "T", "T$^2$")[slope], end, (0, 3), ha="right", color="dimgray")


def _draw_crossings(axes: Any, rows: list[Row]) -> None:
    """Rings where attention overtakes the rest of the layer, and where it should by FLOPs."""
    formula, equal = equal_length(rows[0])
    texts = {f"equal by FLOPs: {formula} = {equal:,}": "goldenrod"}
    low, high = axes.get_xlim()
    if low < equal < high:
        axes.axvline(equal, color="goldenrod", linewidth=0.8, linestyle="--")
    for row in crossings(rows):
        colour = ATTENTION_COLOURS[row["implementation"]]
        if row["implementation"] == "ours sdpa":
            texts[f"as measured, ours sdpa: {row['where']}"] = colour
        if "length" in row:
            place = (row["length"], row["milliseconds"])
            axes.plot(*place, "o", ms=9, mfc="none", mec=colour, mew=1.5)
    for line, (text, colour) in enumerate(texts.items()):  # top left, where no curve is
        where = {"transform": axes.transAxes, "va": "top", "fontsize": 8}
        axes.text(0.02, 0.98 - 0.05 * line, text, color=colour, **where)

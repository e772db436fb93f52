"""Tables and pictures from the CSV files alone.

    python -m benchmarks.report benchmarks/results --page benchmarks/results/README.md
    python -m benchmarks.report benchmarks/results/speed --page README.md

draws the pictures of a directory again, and writes the tables of pages anew, so that nobody types a
measured number. A table stands between two comments: `<!-- speed: begin -->` and `<!-- speed: end
-->` for how many times faster the plain and the optimized model are with default settings, and
`<!-- ratios: training inference, dropout 0.1, in FOLDER -->` and `<!-- ratios end -->` for the
optimized one with default and with best settings in both dtypes.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import formulas
from benchmarks.formulas import Sizes
from benchmarks.runs import Row, read
from minitransformer.arguments import Parser
from train.arguments import run_job

DTYPES = ("float32", "bfloat16")
ATTENTION, LAYER = "attention alone", "whole layer"
FORWARD, BOTH = "forward", "forward + backward"
FIXED_BATCH, FIXED_TOKENS, UNAVAILABLE = "fixed batch", "fixed tokens", "unavailable here"
CURVE = ("sweep", "part", "passes", "implementation")
Columns = dict[str, Callable[[Row], str]]  # by the header
# What the README calls the cases; others keep their names.
LABELS = {
    "MLM, V 30,522, sequences of 512": "train a masked language model, full sequences of 512",
    "MLM, V 30,522, one line a sequence": "train a masked language model, one line per sequence",
    "SQuAD, windows of 384": "fine-tune on SQuAD, windows of 384",
    "encode, ragged sequences": "encode sentences and paragraphs of unequal length",
    "classify, ragged sequences": "classify sentences and paragraphs of unequal length",
    "GPT-2, 1 prompt": "generate with GPT-2, one prompt",
    "GPT-2, 8 prompts": "generate with GPT-2, eight prompts",
    "T5, 1 source, 4 beams": "generate with T5, four beams",
    "Marian, 1 source, 4 beams": "translate with Marian, four beams",
}
# What has to be equal where rows stand side by side.
CONDITIONS = ("device", "threads", "torch", "transformers")
RATIOS = re.compile(
    r"(?P<begin><!-- ratios: (?P<names>[a-z ]+?)(, dropout (?P<dropout>[0-9.]+))?"
    r"(, in (?P<folder>[a-z0-9_]+))? -->\n).*?(?P<end><!-- ratios end -->)",
    re.DOTALL,
)
SPEED = re.compile(r"(?P<begin><!-- speed: begin -->\n).*?(?P<end><!-- speed: end -->)", re.DOTALL)


def read_all(directory: Path, name: str) -> list[Row]:
    """The rows of a benchmark's files of all dtypes, float32 first.

    Raises:
        ValueError: there are none, or they were not measured under the same conditions.
    """
    files = [directory / f"{name}{end}.csv" for end in ("", *(f"_{dtype}" for dtype in DTYPES))]
    files = [file for file in files if file.is_file()]
    if not files:
        raise ValueError(
            f"{directory} holds no {name}_*.csv; "
            f"python -m benchmarks.{name.removesuffix('_quick')} first"
        )
    rows = [row for file in files for row in read(file)]
    for what in CONDITIONS:
        if len(values := dict.fromkeys(row[what] for row in rows)) > 1:
            raise ValueError(
                f"{', '.join(str(file) for file in files)} were not measured under the same "
                f"conditions: {what} {' and '.join(map(str, values))}; measure one of them again"
            )
    return rows


def machine(row: Row) -> str:
    """Where, and with which versions, a row was measured."""
    return (
        f"{row['device']}, {row['threads']:.0f} thread{'s' * (row['threads'] > 1)}, "
        f"PyTorch {row['torch']}, transformers {row['transformers']}"
    )


def markdown(lines: Sequence[Sequence[str]], *, aligned: bool = True) -> str:
    """A table whose first line is its header."""
    widths = [max(3, *map(len, column)) if aligned else 0 for column in zip(*lines, strict=True)]
    lines = [lines[0], ["-" * max(3, width) for width in widths], *lines[1:]]
    cells = [map(str.ljust, line, widths) for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def side_table(rows: Iterable[Row], columns: Columns) -> str:
    """A line for each row; what a row does not have is left out."""
    lines = [[cell(row).replace("nan", "") for cell in columns.values()] for row in rows]
    return markdown([list(columns), *lines])


def with_quartiles(row: Row, name: str, digits: int = 2) -> str:
    """The median, and the quartiles in brackets; nothing where the row has no such value."""
    if name not in row:
        return ""
    median, low, high = (f"{row[name + edge]:,.{digits}f}" for edge in ("", "_low", "_high"))
    return f"{median} ({low}-{high})"


def group(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by what they have in common, in their order."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(name) for name in names), []).append(row)
    return found


def header(rows: Sequence[Row]) -> str:
    """The machine, and how quiet it was."""
    loads = sorted({row["load"] for row in rows if "load" in row})
    load = f", load {loads[0]:g} to {loads[-1]:g}" if loads else ""
    return f"{machine(rows[0])}{load}; in brackets: quartiles\n"


def encoder_table(rows: Sequence[Row]) -> str:
    """The sides of training and inference, case by case."""
    columns: Columns = {
        "side": lambda row: row["implementation"],
        "batches": lambda row: row["batches"],
        "ms a batch": lambda row: f"{1e3 * row['seconds']:.1f}",
        "real tokens/s": lambda row: with_quartiles(row, "real_tokens_per_second", 0),
        "padding": lambda row: f"{row['padding']:.0%}",
        "necessary": lambda row: f"{row['necessary_share_of_ceiling']:.1%}",
        "executed": lambda row: f"{row['executed_share_of_ceiling']:.1%}",
        "peak MB": lambda row: f"{row.get('peak_megabytes', math.nan):.0f}",
        "x default": lambda row: with_quartiles(row, "times_default"),
        "x best": lambda row: with_quartiles(row, "times_best"),
        "x same batches": lambda row: with_quartiles(row, "times_same"),
    }
    parts = [header(rows)]
    for (case, dtype, dropout, source), sides in group(
        rows, "case", "dtype", "dropout", "sequences"
    ).items():
        more = f", dropout {dropout:g}" if dropout is not None else ""
        parts.append(f"{case}, {dtype}{more}; {source}\n\n{side_table(sides, columns)}")
    parts.append(
        "necessary, executed: FLOPs by formula, as shares of those of a plain product of large "
        "matrices in the same time;\nx: how many times faster than transformers with default "
        "settings, with best settings, and on the same batches"
    )
    return "\n".join(parts)


def generation_table(rows: Sequence[Row]) -> str:
    """A line for each side of each case; the curves are in the picture."""
    columns: Columns = {
        "case": lambda row: row["case"],
        "side": lambda row: row["implementation"],
        "dtype": lambda row: row["dtype"],
        "tokens/s": lambda row: with_quartiles(row, "tokens_per_second", 1),
        "x transformers": lambda row: with_quartiles(row, "times_faster"),
        "x compiled": lambda row: with_quartiles(row, "times_faster_than_compiled"),
        "ms a step": lambda row: f"{row['ms_per_step']:.1f}",
        "MB a step": lambda row: f"{row['megabytes_per_step']:.0f}",
        "of floor": lambda row: f"{row['share_of_floor']:.0%}",
        "same tokens": lambda row: f"{row['same_tokens']:.0%}",
        "prepacking s": lambda row: f"{row.get('prepacking_seconds', math.nan):.2f}",
    }
    texts = [row for row in rows if "context" not in row]
    return (
        f"{header(rows)}\n{side_table(texts, columns)}\nof floor: the share of the bandwidth of "
        "the memory; prepacking: paid once for a model"
    )


def timed(rows: Iterable[Row]) -> list[Row]:
    """The rows of attention that have a time."""
    return [row for row in rows if "milliseconds" in row]


def exponent(curve: Sequence[Row]) -> formulas.Power | None:
    """The power law of the upper half of a curve of attention; None: too few points."""
    half = formulas.upper_half(curve)
    try:
        lengths = [row["length"] for row in curve][half]
        return formulas.fit_power(lengths, [row["milliseconds"] for row in curve][half])
    except ValueError:
        return None


def crossings(rows: Sequence[Row]) -> list[Row]:
    """The length from which on attention alone takes longer than the layer without it.

    Of implementations whose sequences are full, for the formula knows no others; and of our layer,
    with whatever kernel, for it is our layer that is timed without attention.
    """
    full = [row for row in timed(rows) if row["rows"] * row["length"] == row["tokens"]]
    found = group(full, *CURVE)
    result = []
    for (sweep, part, passes, name), curve in found.items():
        if part != ATTENTION or name.startswith("transformers"):
            continue
        rest = {r["length"]: r for r in found.get((sweep, LAYER, passes, "no attention"), [])}
        both = [row for row in curve if row["length"] in rest]
        lengths = [row["length"] for row in both]
        mine = [row["milliseconds"] for row in both]
        others = [rest[length]["milliseconds"] for length in lengths]
        row = {"sweep": sweep, "passes": passes, "implementation": name}
        if place := formulas.crossing(lengths, mine, others):
            row |= {"length": place[0], "milliseconds": place[1], "where": f"{place[0]:,.0f}"}
        elif not both:
            row["where"] = "nothing to compare"
        elif mine[-1] < others[-1]:
            row["where"] = f"beyond {lengths[-1]:.0f}"
        else:
            row["where"] = f"below {lengths[0]:.0f}"
        result.append(row)
    return result


def equal_length(row: Row) -> tuple[str, int]:
    """Where attention takes as many FLOPs as the rest of the layer: the formula, and the length."""
    sizes = Sizes(int(row["hidden"]), 1, int(row["heads"]), int(row["intermediate"]))
    formula = "2 (2 h + f) - 1" if row["causal"] else "2 h + f"
    return formula, formulas.equal_length(sizes, bool(row["causal"]))


def attention_table(rows: Sequence[Row]) -> str:
    """A block for each sweep, part and direction; a line for each implementation."""
    plan, points = rows[0], [row for row in rows if row["sweep"] != UNAVAILABLE]
    parts = [
        header(rows),
        f"hidden {plan['hidden']:.0f}, heads {plan['heads']:.0f}, intermediate "
        f"{plan['intermediate']:.0f}, {plan['dtype']}, {'' if plan['causal'] else 'not '}causal; "
        "exponent: over the upper half of the lengths;\nat the longest: peak memory, share of the "
        "rate of a large product of matrices, and how many times faster than\ntransformers' sdpa "
        "on the same sequences (optimized, unpadded: than it with padding)",
    ]
    ceiling = max((row["ceiling_gigaflops_per_second"] for row in points), default=0)
    for (sweep, part, passes), block in group(points, *CURVE[:3]).items():
        lengths = list(dict.fromkeys(row["length"] for row in block))
        last_columns = ("exponent", "R2", "peak MB", "of ceiling", "x theirs")
        lines = [["ms", *(f"{length:,.0f}" for length in lengths), *last_columns]]
        for (name,), mine in group(block, "implementation").items():
            times = {row["length"]: row for row in timed(mine)}
            lines.append([name])
            for length in lengths:
                row = times.get(length)
                lines[-1].append(
                    f"{row['milliseconds']:.3g} ±"
                    f"{(row['milliseconds_high'] - row['milliseconds_low']) / 2:.1g}"
                    if row
                    else "-"
                )
            power, last = exponent([*times.values()]), times[max(times)] if times else {}
            lines[-1] += [
                f"{power.exponent:.2f}" if power else "-",
                f"{power.r_squared:.3f}" if power else "-",
                f"{last['peak_megabytes']:.0f}" if "peak_megabytes" in last else "-",
                f"{last['gigaflops_per_second'] / ceiling:.0%}" if last else "-",
                f"{last['times_faster']:.2f}" if "times_faster" in last else "-",
            ]
        parts.append(f"\n{sweep}, {part}, {passes}\n\n{markdown(lines)}")
    formula, length = equal_length(plan)
    parts.append(
        "attention alone (its T^2 part, without projections) takes as long as the rest of the "
        f"layer at length {length:,} by FLOPs ({formula}); as measured:\n"
    )
    columns = group(crossings(points), "sweep", "passes")
    names = dict.fromkeys(row["implementation"] for rows in columns.values() for row in rows)
    lines = [["", *(", ".join(column) for column in columns)]]
    for name in names:
        cells = ([r["where"] for r in c if r["implementation"] == name] for c in columns.values())
        lines.append([name, *((cell or ["-"])[0] for cell in cells)])
    parts.append(markdown(lines))
    for (name,), ran in group([r for r in points if r.get("kernel")], "implementation").items():
        parts.append(f"{name} ran {', '.join(dict.fromkeys(row['kernel'] for row in ran))}")
    ends = group([row for row in rows if row.get("reason")], *CURVE[:3], "length")
    for (*curve, length), ended in ends.items():
        place = ", ".join(filter(None, [*curve, f"{length:,.0f}" if length else ""]))
        sides = ", ".join(row["implementation"] for row in ended)
        parts.append(f"{place}: {sides}: {ended[0]['reason']}")
    return "\n".join(parts)


def speed_table(directory: Path) -> str:
    """How many times faster plain and optimized are with default settings, case by case.

    Raises:
        ValueError: nothing was, or not under the same conditions.
    """
    rows: list[Row] = []
    for name in ("training", "inference", "generation"):
        if any(directory.glob(f"{name}*.csv")):
            rows += [row for row in read_all(directory, name) if row["dtype"] == "float32"]
    columns = {"plain": "times faster, plain", "optimized": "times faster, optimized"}
    lines = [["", "transformers, tokens/s", *columns.values()]]
    for (case, dropout), sides in group(rows, "case", "dropout").items():
        theirs = [row for row in sides if is_default(row) and "context" not in row]
        if not theirs:
            continue
        rate = theirs[0].get("real_tokens_per_second", theirs[0].get("tokens_per_second"))
        cells = []
        for implementation in columns:
            mine = [row for row in sides if row["implementation"] == implementation]
            found = [
                with_quartiles(row, n) for row in mine for n in ("times_default", "times_faster")
            ]
            cells.append(next(filter(None, found), "not measured"))
        more = f", dropout {dropout:g}" if dropout is not None else ""
        lines.append([f"{LABELS.get(case, case)}{more}", f"{rate:,.0f}", *cells])
    if len(lines) == 1:
        raise ValueError(f"{directory} holds no float32 rows of training, inference or generation")
    if len({machine(row) for row in rows}) > 1:
        raise ValueError(f"{directory}: not all of it was measured under the same conditions")
    return f"{machine(rows[0])}, float32; median (quartiles)\n\n{markdown(lines, aligned=False)}"


def is_default(row: Row) -> bool:
    """Whether it is transformers with default settings."""
    return row["implementation"] == "transformers" and row.get("batches", "random") == "random"


def ratios_table(rows: Sequence[Row]) -> str:
    """A line for each case: of default and best settings the target, and each dtype's ratio."""
    settings = ("default", "best")
    head = ["work"]
    for name in settings:
        head += [f"{name} settings: target", *DTYPES]
    lines = [head]
    for (case,), mine in group(rows, "case").items():
        lines.append([case])
        for name in settings:
            targets = [row[f"{name}_target"] for row in mine if f"{name}_target" in row]
            lines[-1].append(f"{targets[0]:g}" if targets else "")
            for dtype in DTYPES:
                found = [
                    with_quartiles(row, f"times_{name}") for row in mine if row["dtype"] == dtype
                ]
                lines[-1].append(next(filter(None, found), "not measured"))
    return markdown(lines, aligned=False)


def renewed(page: str, directory: Path) -> str:
    """The page with the tables that the files of a directory give.

    Raises:
        ValueError: there is no place for a table, or no file for one.
    """

    def ratios(found: re.Match[str]) -> str:
        rows = [
            row
            for name in found["names"].split()
            for row in read_all(directory / (found["folder"] or ""), name)
            if row["implementation"] == "optimized"
            and row.get("dropout") in (None, float(found["dropout"] or 0))
        ]
        return f"{found['begin']}{ratios_table(rows)}{found['end']}"

    def speed(found: re.Match[str]) -> str:
        return f"{found['begin']}{speed_table(directory)}{found['end']}"

    if not (RATIOS.search(page) or SPEED.search(page)):
        raise ValueError("there is no `<!-- speed: begin -->` and no `<!-- ratios: ... -->` in it")
    return SPEED.sub(speed, RATIOS.sub(ratios, page))


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what there are files for, and write pages; returns the exit status."""
    parser = Parser(prog="python -m benchmarks.report", description=str(__doc__).split("\n")[0])
    parser.add_argument("directory", type=Path, help="with the CSV files of benchmarks")
    parser.add_argument("--page", type=Path, help="whose tables are written anew")
    arguments = parser.parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Draw every picture, then write the page.

    Raises:
        ValueError: there is nothing to draw.
    """
    from benchmarks.pictures import draw_all

    for name in draw_all(arguments.directory):
        print(f"drawn: {name}")
    if arguments.page:
        page = arguments.page.read_text(encoding="utf-8")
        arguments.page.write_text(renewed(page, arguments.directory), encoding="utf-8")
        print(f"written: {arguments.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

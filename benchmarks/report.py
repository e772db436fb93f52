"""Tables and pictures from the CSV files alone.

    python -m benchmarks.report benchmarks/results --page benchmarks/results/README.md
    python -m benchmarks.report benchmarks/results/speed --page README.md

redraws the pictures of a directory, writes report.html with all of its tables and pictures, and
rewrites the tables of a page, so that no measured number is typed by hand. With `--compare OLD` it
says how many times faster each row is than that of OLD, another commit's or machine's directory.

A table of a page is written between two comments: `<!-- speed: begin -->` and `<!-- speed: end
-->` for how many times faster the plain and the optimized model are with default settings, and
`<!-- ratios: training inference, dropout 0.1, in FOLDER -->` and `<!-- ratios end -->` for the
optimized one with default and with best settings in both dtypes.
"""

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.runs import Row, read
from minitransformer.arguments import Parser
from train.arguments import run_job

DTYPES = ("float32", "bfloat16")
# The cases of the README's table, and what it calls them.
LABELS = {
    "MLM, V 30,522, sequences of 512": "train a masked language model, full sequences of 512",
    "MLM, V 30,522, one line per sequence": "train a masked language model, one line per sequence",
    "SQuAD, windows of 384": "fine-tune on SQuAD, windows of 384",
    "encode, ragged sequences": "encode sentences of unequal length",
    "GPT-2, 1 prompt": "generate with GPT-2, one prompt",
    "GPT-2, 8 prompts": "generate with GPT-2, eight prompts",
    "T5, 1 source, 4 beams": "generate with T5, four beams",
    "Marian, 1 source, 4 beams": "translate with Marian, four beams",
}
# What has to be equal where rows stand side by side.
CONDITIONS = ["device", "threads", "torch", "transformers"]
RATIOS = re.compile(
    r"(?P<begin><!-- ratios: (?P<names>[a-z ]+?)(, dropout (?P<dropout>[0-9.]+))?"
    r"(, in (?P<folder>[a-z0-9_]+))? -->\n).*?(?P<end><!-- ratios end -->)",
    re.DOTALL,
)
SPEED = re.compile(r"(?P<begin><!-- speed: begin -->\n).*?(?P<end><!-- speed: end -->)", re.DOTALL)


def read_all(directory: Path, *names: str) -> pd.DataFrame:
    """The rows of the files of these benchmarks, of all dtypes, float32 first.

    Raises:
        ValueError: there are none, or they were not measured under the same conditions.
    """
    files = [directory / f"{n}{end}.csv" for n in names for end in ("", "_float32", "_bfloat16")]
    files = [file for file in files if file.is_file()]
    if not files:
        raise ValueError(
            f"{directory} holds no {names[0]}*.csv; python -m benchmarks.{names[0]} first"
        )
    frame = pd.concat(map(read, files), ignore_index=True)
    for condition in CONDITIONS:
        if len(values := frame[condition].unique()) > 1:
            raise ValueError(
                f"{', '.join(map(str, files))} were not measured under the same conditions: "
                f"{condition} {' and '.join(map(str, values))}; measure one of them again"
            )
    return frame


def machine(row: Row | pd.Series) -> str:
    """What the numbers were measured on."""
    threads = int(row["threads"])
    return (
        f"{row['device']}, {threads} thread{'s' * (threads > 1)}, PyTorch {row['torch']}, "
        f"transformers {row['transformers']}"
    )


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table whose first line is its header."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(frame: pd.DataFrame, name: str, pattern: str = "{:,.2f}", times: float = 1) -> pd.Series:
    """The median, and the quartiles in brackets if there are any; "" where there is no value."""
    columns = [name + end for end in ("", "_low", "_high") if name + end in frame]
    if not columns:
        return pd.Series("", frame.index)
    texts = (times * frame[columns]).map(pattern.format)
    if len(columns) > 1:
        texts[name] += " (" + texts[f"{name}_low"] + "-" + texts[f"{name}_high"] + ")"
    return texts[name].where(frame[name].notna(), "")


def printed(frame: pd.DataFrame, columns: dict[str, pd.Series]) -> str:
    """A table for the terminal under the machine and its load."""
    load = f"load {frame['load'].min():g} to {frame['load'].max():g}"
    table = pd.DataFrame(columns).fillna("").to_string(index=False)
    return f"{machine(frame.iloc[0])}, {load}; in brackets: quartiles\n\n{table}\n"


def encoder_table(frame: pd.DataFrame) -> str:
    """The sides of training and inference, case by case."""
    columns = {name: frame[name] for name in ("case", "dropout", "dtype") if name in frame}
    columns |= {
        "side": frame["implementation"],
        "batches": frame["batches"],
        "ms a batch": cells(frame, "seconds", "{:.1f}", times=1e3),
        "real tokens/s": cells(frame, "real_tokens_per_second", "{:,.0f}"),
        "padding": cells(frame, "padding", "{:.0%}"),
        "peak MB": cells(frame, "peak_megabytes", "{:.0f}"),
        "x default": cells(frame, "times_default"),
        "x best": cells(frame, "times_best"),
        "x same batches": cells(frame, "times_same"),
    }
    sources = "\n".join(frame["sequences"].unique())
    return (
        f"{printed(frame, columns)}\n{sources}\nx: how many times faster than transformers with "
        "default settings, with best settings, and on the same batches"
    )


def generation_table(frame: pd.DataFrame) -> str:
    """A line for each side of each case."""
    columns = {
        "case": frame["case"],
        "side": frame["implementation"],
        "dtype": frame["dtype"],
        "tokens/s": cells(frame, "tokens_per_second", "{:.1f}"),
        "x transformers": cells(frame, "times_faster"),
        "x compiled": cells(frame, "times_compiled"),
        "of floor": cells(frame, "share_of_floor", "{:.0%}"),
        "same tokens": cells(frame, "same_tokens", "{:.0%}"),
    }
    return f"{printed(frame, columns)}\nof floor: the share of the bandwidth of the memory"


def speed_table(directory: Path) -> str:
    """How many times faster plain and optimized are with default settings.

    The table has the cases of :data:`LABELS`; training is that with dropout.

    Raises:
        ValueError: nothing was, or not under the same conditions.
    """
    frame = read_all(directory, "training", "inference", "generation")
    for column in ("dropout", "batches"):
        if column not in frame:
            frame[column] = float("nan")
    in_table = frame["case"].isin(LABELS) & frame["dropout"].ne(0)
    frame = frame[frame["dtype"].eq("float32") & in_table].copy()
    frame["times"] = cells(frame, "times_default") + cells(frame, "times_faster")
    lines = [["", "transformers, tokens/s", "times faster, plain", "times faster, optimized"]]
    for (case, dropout), sides in frame.groupby(["case", "dropout"], sort=False, dropna=False):
        theirs = sides[sides["implementation"].eq("transformers") & sides["batches"].ne("sorted")]
        if theirs.empty:
            continue
        rate = theirs.filter(["real_tokens_per_second", "tokens_per_second"]).iloc[0].dropna()
        times = [
            next(filter(None, sides[sides["implementation"] == side]["times"]), "not measured")
            for side in ("plain", "optimized")
        ]
        label = LABELS[case] + (f", dropout {dropout:g}" if pd.notna(dropout) else "")
        lines.append([label, f"{rate.iloc[0]:,.0f}", *times])
    if len(lines) == 1:
        raise ValueError(f"{directory} holds no float32 rows with default settings of these cases")
    return f"{machine(frame.iloc[0])}, float32; median (quartiles)\n\n{markdown(lines)}"


def ratios_table(frame: pd.DataFrame) -> str:
    """A line for each case: of default and best settings the target, and each dtype's ratio."""
    lines = [["work"]]
    for name in ("default", "best"):
        lines[0] += [f"{name} settings: target", *DTYPES]
        frame[f"{name} cells"] = cells(frame, f"times_{name}")
    for case, mine in frame.groupby("case", sort=False):
        lines.append([str(case)])
        for name in ("default", "best"):
            targets = mine[f"{name}_target"].dropna() if f"{name}_target" in mine else []
            lines[-1].append(f"{max(targets):g}" if len(targets) else "")
            for dtype in DTYPES:
                found = mine[mine["dtype"] == dtype][f"{name} cells"]
                lines[-1].append(next(filter(None, found), "not measured"))
    return markdown(lines)


def renewed(page: str, directory: Path) -> str:
    """The page with the tables that the files of a directory give.

    Raises:
        ValueError: there is no place for a table, or no file for one.
    """

    def ratios(found: re.Match[str]) -> str:
        folder = directory / (found["folder"] or "")
        frames = [read_all(folder, name) for name in found["names"].split()]
        frame = pd.concat(frames, ignore_index=True)
        frame = frame[frame["implementation"] == "optimized"]
        if "dropout" in frame:
            asked = float(found["dropout"] or 0)
            frame = frame[frame["dropout"].isna() | (frame["dropout"] == asked)]
        return f"{found['begin']}{ratios_table(frame.copy())}{found['end']}"

    def speed(found: re.Match[str]) -> str:
        return f"{found['begin']}{speed_table(directory)}{found['end']}"

    if not (RATIOS.search(page) or SPEED.search(page)):
        raise ValueError("there is no `<!-- speed: begin -->` and no `<!-- ratios: ... -->` in it")
    return SPEED.sub(speed, RATIOS.sub(ratios, page))


def benchmark_of(stem: str) -> Any:
    """The module that measured a file: its `table` and `draw` show it.

    Raises:
        ValueError: there is none.
    """
    words = stem.split("_")
    for end in range(len(words), 0, -1):
        name = f"benchmarks.{'_'.join(words[:end])}"
        if find_spec(name):
            return import_module(name)
    raise ValueError(f"{stem}.csv is of no benchmark that this version has")


def stems_of(directory: Path) -> list[str]:
    """The names of the CSV files of a directory, without those of unfinished runs.

    Raises:
        ValueError: there is none.
    """
    stems = [file.stem for file in sorted(directory.glob("*.csv"))]
    if finished := [stem for stem in stems if not stem.endswith(".unfinished")]:
        return finished
    raise ValueError(f"{directory} holds no CSV files of benchmarks")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what there are files for, and write pages; returns the exit status."""
    parser = Parser(prog="python -m benchmarks.report", description=str(__doc__).split("\n")[0])
    parser.add_argument("directory", type=Path, help="with the CSV files of benchmarks")
    parser.add_argument("--compare", type=Path, metavar="OLD", help="a directory to compare with")
    parser.add_argument("--page", type=Path, help="whose tables are written anew")
    arguments = parser.parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: Any) -> int:
    """Draw every picture and compare, then write the pages."""
    from benchmarks.comparison import comparison, draw_comparison
    from benchmarks.page import html

    directory, old = arguments.directory, arguments.compare
    stems = stems_of(directory)
    for stem in stems:
        benchmark_of(stem).draw(directory, stem)
        print(f"drawn: {stem}")
    both = [stem for stem in stems_of(old) if stem in stems] if old else []
    if old and not both:
        raise ValueError(f"{directory} and {old} hold no CSV file of the same name")
    for stem in both:
        new, before = (read(folder / f"{stem}.csv") for folder in (directory, old))
        print(comparison(stem, new, before))
        draw_comparison(directory, stem, new, before)
    file = directory / "report.html"
    file.write_text(html(directory, old, both), encoding="utf-8")
    if arguments.page:
        text = arguments.page.read_text(encoding="utf-8")
        arguments.page.write_text(renewed(text, directory), encoding="utf-8")
    for written in filter(None, (file, arguments.page)):
        print(f"written: {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

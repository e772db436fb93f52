"""A run of a benchmark: its options, the machine, and the CSV file that it writes case by case.

A row is flat: what a case is, what was measured of one side, and what all rows of a run have in
common. A measured value with a spread has three columns: `name` (the median), `name_low` and
`name_high` (the quartiles). Strings are quoted, numbers are not.
"""

import argparse
import csv
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from benchmarks.measuring import DTYPES
from minitransformer.arguments import Parser, device, positive
from minitransformer.files import atomic_directory
from train.checkpoints import differences

Row = dict[str, Any]


def benchmark_parser(module: str, description: str) -> Parser:
    """A parser with the options that every benchmark has.

    Args:
        module: the benchmark's name in this directory.
        description: one line.
    """
    parser = Parser(prog=f"python -m benchmarks.{module}", description=description)
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="of all sides")
    parser.add_argument(
        "--threads", type=positive, default=torch.get_num_threads(), help="of the CPU"
    )
    parser.add_argument("--quick", action="store_true", help="small models, to see that it works")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run that was stopped in --out"
    )
    parser.add_argument(
        "--out", type=_directory, required=True, help="directory for CSV file and pictures"
    )
    return parser


def _directory(text: str) -> Path:
    """A directory that can be written to, or made, found out before hours of measuring."""
    path = Path(text)
    there = next(part for part in (path, *path.parents) if os.path.lexists(part))
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{there} is no directory that can be written to")
    return path


def prepare_transformers() -> None:
    """Import it, and have it print nothing but errors.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "this benchmark compares with transformers: pip install transformers"
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


class Case(NamedTuple):
    """One step of a run.

    Attributes:
        what: the columns that tell its rows from those of all other cases.
        measure: gives its rows.
    """

    what: Row
    measure: Callable[[], list[Row]]


class Run:
    """The rows of a run, in a file that is complete after every case.

    Until the last case is measured the file is called NAME.unfinished.csv.

    Args:
        file: the CSV file of the finished run.
        arguments: the command line.
        settings: columns of all rows that a resumed run must have in common with what it resumes,
            beside the machine and the versions.

    Raises:
        ValueError: there is an unfinished run, and `--resume` is not given or it is another run.
    """

    def __init__(
        self, file: Path, arguments: argparse.Namespace, settings: Mapping[str, object]
    ) -> None:
        self.file = file
        self.unfinished = file.with_suffix(".unfinished.csv")
        self.rows: list[Row] = []
        self._same = {**settings, **environment(arguments.device)}
        if not self.unfinished.exists():
            if arguments.resume:
                tqdm.write(f"{self.unfinished} does not exist: a new run", file=sys.stderr)
            return
        if not arguments.resume:
            raise ValueError(
                f"{self.unfinished} is of a run that was stopped; --resume goes on with it, or "
                "delete the file"
            )
        self.rows = read(self.unfinished)
        for row in self.rows:
            if changed := differences({key: row.get(key) for key in self._same}, self._same):
                raise ValueError(
                    f"{self.unfinished} is of another run: {'; '.join(changed)}. Resume it as it "
                    "was, or delete the file"
                )

    def measure(self, cases: Iterable[Case], total: int | None = None, unit: str = "case") -> None:
        """Measure the cases that the file does not have, and give the file its final name.

        Args:
            cases: one after the other; an iterator may look at the rows of those before.
            total: how many there are, if that is known.
            unit: of the progress bar.
        """
        with tqdm(cases, total=total, unit=unit) as bar:
            for case in bar:
                bar.set_description(", ".join(str(value) for value in case.what.values()))
                if any(case.what.items() <= row.items() for row in self.rows):
                    continue
                load = round(os.getloadavg()[0], 2)  # how quiet the machine was
                self.rows += [
                    {**case.what, **row, **self._same, "load": load} for row in case.measure()
                ]
                write(self.unfinished, self.rows)
        os.replace(self.unfinished, self.file)


def environment(device: str) -> Row:
    """What the numbers depend on beside the command line."""
    return {
        "commit": _commit(),
        "device": _processor() if device == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in ("minitransformer", "torch", "transformers")},
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file, whole or not at all; numbers keep six digits."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (
        atomic_directory(file.parent) as directory,
        open(directory / file.name, "w", encoding="utf-8", newline="") as out,
    ):
        writer = csv.DictWriter(out, columns, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writeheader()
        writer.writerows({n: _rounded(value) for n, value in row.items()} for row in rows)


def read(file: Path) -> list[Row]:
    """The rows of a CSV file; what a row does not have is missing in it."""
    with open(file, encoding="utf-8", newline="") as text:
        rows = csv.DictReader(text, quoting=csv.QUOTE_NONNUMERIC)
        try:
            return [{name: value for name, value in row.items() if value != ""} for row in rows]
        except ValueError as error:
            raise ValueError(f"{file} is damaged: {error}") from error


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _commit() -> str:
    """The state of the code; a plus sign says that it was edited since."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def _processor() -> str:
    """The name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

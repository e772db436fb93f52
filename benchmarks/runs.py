"""A run of a benchmark: its options, the machine, and the CSV file that it writes case by case.

A row is flat: what a case is, what was measured of one side, and what all rows of a run have in
common. A measured value has three columns: `name` (the median), `name_low` and `name_high` (the
quartiles).
"""

import argparse
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from benchmarks.measuring import DTYPES
from minitransformer import cost
from minitransformer.arguments import Parser, device, positive
from minitransformer.cost.answer import load_or_calibrate
from minitransformer.cost.machine import PASSES, processor_name
from minitransformer.files import atomic_directory
from minitransformer.version import __version__
from train.arguments import run_job
from train.checkpoints import differences
from train.metrics import try_to_draw

Row = dict[str, Any]


def benchmark_parser(module: str, description: str, *, predicts: bool = False) -> Parser:
    """A parser with the options that every benchmark has, or every one that predicts its times."""
    parser = Parser(prog=f"python -m benchmarks.{module}", description=description)
    threads = torch.get_num_threads()
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="of all sides")
    parser.add_argument("--threads", type=positive, default=threads, help="of the CPU")
    parser.add_argument("--quick", action="store_true", help="small models, to see that it works")
    parser.add_argument("--resume", action="store_true", help="continue the run stopped in --out")
    if predicts:
        parser.add_argument("--machine", type=Path, help="its rates; by default OUT/machine.json")
    parser.add_argument("--out", type=Path, required=True, help="directory of the results")
    return parser


def start(
    parser: Parser, argv: Sequence[str] | None, run: Callable[[argparse.Namespace], None]
) -> int:
    """Parse the command line and run; returns the exit status."""
    arguments = parser.parse_args(argv)

    def job() -> int:
        arguments.out.mkdir(parents=True, exist_ok=True)  # fails before hours of measuring
        torch.set_num_threads(arguments.threads)
        torch.manual_seed(0)
        prepare_transformers()
        run(arguments)
        return 0

    return run_job(job)


def fill_in(arguments: argparse.Namespace, usual: Row, quick: Row) -> None:
    """Give options that the command line leaves out their usual values, or those of `--quick`."""
    for option, value in (quick if arguments.quick else usual).items():
        if getattr(arguments, option, None) is None:
            setattr(arguments, option, value)


def prepare_transformers() -> None:
    """Have it print nothing but errors.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError("a benchmark needs transformers: pip install transformers") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def rates(arguments: argparse.Namespace) -> cost.Machine | None:
    """What predicts times: read from a file that, if need be, is measured and written before.

    That takes a minute, with `--quick` seconds. None on a GPU.
    """
    if arguments.device != "cpu":
        return None
    file = arguments.machine or arguments.out / f"machine{'_quick' * arguments.quick}.json"
    passes = 2 if arguments.quick else PASSES
    return load_or_calibrate(file, arguments.threads, [arguments.dtype], passes=passes)


class Case(NamedTuple):
    """One step of a run: the columns that tell its rows from all others, and what gives them."""

    what: Row
    measure: Callable[[], list[Row]]


class Run:
    """The rows of a run, in a file that is complete after every case.

    Until the last case is measured the file is called NAME.unfinished.csv.

    Args:
        arguments: the command line.
        name: of the file, without ending.
        settings: columns of all rows that a resumed run must have in common with what it resumes,
            beside the machine and the versions.

    Raises:
        ValueError: there is an unfinished run, and `--resume` is not given or it is another run.
    """

    def __init__(
        self, arguments: argparse.Namespace, name: str, settings: Mapping[str, object]
    ) -> None:
        self.file = arguments.out / f"{name}.csv"
        self.unfinished = arguments.out / f"{name}.unfinished.csv"
        self.rows: list[Row] = []
        self._same = {**settings, **environment(arguments.device)}
        if not self.unfinished.exists():
            return
        if not arguments.resume:
            raise ValueError(
                f"{self.unfinished} is of a run that was stopped; --resume continues it, or "
                "delete the file"
            )
        before = pd.read_csv(self.unfinished, dtype=str, keep_default_na=False).iloc[0]
        now = {
            key: f"{value:.6g}" if isinstance(value, float) else str(value)  # as it is written
            for key, value in self._same.items()
        }
        if changed := differences({key: before.get(key) for key in now}, now):
            raise ValueError(
                f"{self.unfinished} is of another run: {'; '.join(changed)}. Resume it as it was, "
                "or delete the file"
            )
        self.rows = records(read(self.unfinished))

    def measure(
        self,
        cases: Iterable[Case],
        table: Callable[[pd.DataFrame], str],
        draw: Callable[[Path, str], None],
    ) -> None:
        """Measure the cases that the file does not have, give it its final name, print and draw.

        Args:
            cases: one after the other; an iterator may look at the rows of those before.
            table: makes a text of the file.
            draw: makes pictures, given the directory and the name of the benchmark.
        """
        with tqdm(cases, unit="case") as bar:
            for case in bar:
                bar.set_description(", ".join(map(str, case.what.values())))
                if any(case.what.items() <= row.items() for row in self.rows):
                    continue
                load = round(os.getloadavg()[0], 2)  # how quiet the machine was
                self.rows += [
                    {**case.what, **row, **self._same, "load": load} for row in case.measure()
                ]
                write(self.unfinished, self.rows)
        os.replace(self.unfinished, self.file)
        print(table(read(self.file)))
        try_to_draw(draw, self.file.parent, self.file.stem)


def environment(device: str) -> Row:
    """What the numbers depend on beside the command line."""
    return {
        "commit": _commit(),
        "device": processor_name() if device == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "minitransformer": __version__,  # what is installed may be of another day
        **{name: version(name) for name in ("torch", "transformers")},
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file, whole or not at all; numbers keep six digits."""
    with atomic_directory(file.parent) as directory:
        pd.DataFrame(rows).to_csv(directory / file.name, index=False, float_format="%.6g")


def read(file: Path) -> pd.DataFrame:
    """The rows of a CSV file; what a row does not have is NaN."""
    return pd.read_csv(file, dtype={"commit": str, "torch": str, "transformers": str})


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame; what a row does not have is missing in it."""
    return [
        {name: value for name, value in row.items() if pd.notna(value)}
        for row in frame.to_dict("records")
    ]


def _commit() -> str:
    """The state of the code; a plus sign says that it was edited since."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.check_output(command, cwd=Path(__file__).parent, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

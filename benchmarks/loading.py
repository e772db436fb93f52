"""How long does a checkpoint take to load, beside transformers, and how much memory?

    python -m benchmarks.loading --threads 2 --out DIR

Checkpoints of usual sizes are written to a temporary directory, so they lie in the system's cache
of files. Every measurement is made in a process of its own, which has imported both libraries and
loaded a tiny checkpoint before; the sides take turns. Two times are measured, because both sides
map a file and read it when it is used: until `from_pretrained` returns, and until every weight has
been read once. The peak of memory includes the pages of the file, and is given beside the size of
the file or of the loaded model, whichever is larger. Before the clock starts, the logits of both
must agree. One more case imports a model's class after PyTorch, each time in a new interpreter.

--dtype is that of the loaded models; some files have another one. A table goes to the terminal; DIR
gets loading_DTYPE.csv. A run can be stopped: the same command with --resume goes on after the last
case that was measured.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.encoders import PLAIN, THEIRS
from benchmarks.measuring import DTYPES, RemoteWorker, ratios, spread
from benchmarks.report import cells, printed
from benchmarks.runs import Case, Row, Run, benchmark_parser, prepare_transformers, start
from minitransformer.arguments import positive

SIDES = (THEIRS, PLAIN)
RETURNED, READ = "from_pretrained returns", "every weight was read"
TARGET = 1.5  # times transformers
# How far logits may differ, relative to their norm.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
_TINY = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 50_300}
_IMPORTS = {
    THEIRS: "from transformers import BertForMaskedLM",
    PLAIN: "from minitransformer import BertForMaskedLM",
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint to be written.

    Attributes:
        family: the names of its classes begin with it.
        head: they end with it.
        changes: of the default config, that of the family's base size.
        shard_size: of its files.
        dtype: of its files; None is that of the loaded model.
    """

    family: str = "Bert"
    head: str = "ForMaskedLM"
    changes: tuple[tuple[str, int], ...] = ()
    shard_size: str = "5GB"
    dtype: str | None = None

    @property
    def class_name(self) -> str:
        """The same in both libraries."""
        return self.family + self.head

    def write(self, directory: Path, dtype: str, sizes: dict[str, int]) -> None:
        """Save a new model of transformers', in `dtype` if the checkpoint has none of its own."""
        import transformers

        config = getattr(transformers, f"{self.family}Config")(**{**dict(self.changes), **sizes})
        torch.manual_seed(0)
        model = getattr(transformers, self.class_name)(config)
        model = model.to(getattr(torch, self.dtype or dtype))
        model.save_pretrained(directory, max_shard_size=self.shard_size)


ROBERTA = (
    ("num_hidden_layers", 6),
    ("vocab_size", 50_265),
    ("max_position_embeddings", 514),
    ("type_vocab_size", 1),
)
CASES = {
    "bert": Checkpoint(),
    "roberta, 6 layers": Checkpoint(family="Roberta", changes=ROBERTA),
    "bert, in shards": Checkpoint(shard_size="100MB"),
    "bert, from float16": Checkpoint(dtype="float16"),
    "gpt2, transposed": Checkpoint(family="GPT2", head="LMHeadModel"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    parser = benchmark_parser("loading", str(__doc__).split("\n")[0])
    parser.add_argument("--passes", type=positive, help="how often each is loaded; by default 7")
    return start(parser, argv, run)


def run(arguments: argparse.Namespace) -> None:
    """The benchmark, top to bottom."""
    passes = arguments.passes or (2 if arguments.quick else 7)
    name = f"loading{'_quick' * arguments.quick}_{arguments.dtype}"
    measured = Run(arguments, name, {"dtype": arguments.dtype, "passes": passes})
    sizes = _TINY if arguments.quick else {}
    cases = [
        Case({"case": name}, partial(measure_loading, checkpoint, sizes, passes, arguments))
        for name, checkpoint in CASES.items()
    ]
    cases.append(Case({"case": "import"}, partial(measure_import, passes)))
    measured.measure(cases, table, lambda *_: None)


def measure_loading(
    checkpoint: Checkpoint, sizes: dict[str, int], passes: int, arguments: argparse.Namespace
) -> list[Row]:
    """Write a checkpoint, compare what both sides load, and let them take turns.

    Returns:
        A row for each side and each of the two times.
    """
    with tempfile.TemporaryDirectory() as folder:
        large, tiny = Path(folder) / "large", Path(folder) / "tiny"
        checkpoint.write(large, arguments.dtype, sizes)
        checkpoint.write(tiny, arguments.dtype, _TINY)
        check(checkpoint, large, arguments)
        builds = {
            (side, until): partial(
                build, side, checkpoint, large, tiny, until, arguments.dtype, arguments.device
            )
            for side in SIDES
            for until in (RETURNED, READ)
        }
        seconds: dict[tuple[str, str], list[float]] = {which: [] for which in builds}
        for turn in range(passes):
            for number in range(len(builds)):
                which = [*builds][(number + turn) % len(builds)]
                seconds[which].append(in_new_process(builds[which], arguments, "seconds"))
        peaks = {
            side: in_new_process(builds[side, READ], arguments, "peak_memory") for side in SIDES
        }
        file = sum(path.stat().st_size for path in large.glob("*.safetensors"))
        model = load(PLAIN, checkpoint, large, arguments.dtype, arguments.device)
        size = sum(parameter.nbytes for parameter in model.parameters())
    rows = []
    for (side, until), values in seconds.items():
        row: Row = {"implementation": side, "until": until}
        row |= {"file_megabytes": file / 1e6, "model_megabytes": size / 1e6}
        row |= spread("milliseconds", [1e3 * value for value in values])
        if side == PLAIN:
            row |= spread("times", ratios(seconds[THEIRS, until], values)) | {"target": TARGET}
        if until == READ and peaks[side] is not None:
            row |= {
                "peak_megabytes": peaks[side] / 1e6,
                "peak_share": peaks[side] / max(file, size),
            }
        rows.append(row)
    return rows


def load(side: str, checkpoint: Checkpoint, directory: Path, dtype: str, device: str) -> Any:
    """A model of either side."""
    library = import_module("transformers" if side == THEIRS else "minitransformer")
    model_class = getattr(library, checkpoint.class_name)
    return model_class.from_pretrained(directory, dtype=DTYPES[dtype]).to(device)


def build(
    side: str,
    checkpoint: Checkpoint,
    large: Path,
    tiny: Path,
    until: str,
    dtype: str,
    device: str,
) -> Callable[[], None]:
    """What is measured in a process, in which the tiny checkpoint has been loaded before."""
    prepare_transformers()

    def call(directory: Path = large) -> None:
        model = load(side, checkpoint, directory, dtype, device)
        if until == READ:
            for parameter in model.parameters():
                parameter.detach().sum()

    call(tiny)
    return call


def in_new_process(
    build: Callable[[], Callable[[], None]], arguments: argparse.Namespace, question: str
) -> Any:
    """The `seconds` or the `peak_memory` of a call, in a process that ends afterwards."""
    worker = RemoteWorker("a checkpoint", build, arguments.threads, arguments.device)
    try:
        return getattr(worker, question)()
    finally:
        worker.close()


def check(checkpoint: Checkpoint, directory: Path, arguments: argparse.Namespace) -> None:
    """Compare the logits of both sides.

    Raises:
        ValueError: they differ by more than the dtype explains.
    """
    ids = torch.arange(5, 13, device=arguments.device)[None]  # (1, 8)
    with torch.inference_mode():
        theirs, ours = (
            load(side, checkpoint, directory, arguments.dtype, arguments.device)
            .eval()(ids)
            .logits.float()
            for side in SIDES
        )
    share = float((ours - theirs).norm() / theirs.norm())
    if not share <= TOLERANCES[arguments.dtype]:
        raise ValueError(
            f"{checkpoint.class_name}: what both sides have loaded differs, the logits by "
            f"{share:.2g} of their norm; times of different work cannot be compared"
        )


def measure_import(passes: int) -> list[Row]:
    """Import a model's class in new interpreters, whose modules were compiled before."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for statement in _IMPORTS.values():
        import_seconds(statement)
    for turn in range(passes):
        for side in SIDES[:: 1 if turn % 2 else -1]:
            seconds[side].append(import_seconds(_IMPORTS[side]))
    rows: list[Row] = []
    for side, values in seconds.items():
        row: Row = {"implementation": side, "until": _IMPORTS[side]}
        row |= spread("milliseconds", [1e3 * value for value in values])
        if side == PLAIN:
            row |= spread("times", ratios(seconds[THEIRS], values))
        rows.append(row)
    return rows


def import_seconds(statement: str) -> float:
    """How long an import takes after PyTorch's, in a new interpreter."""
    program = f"import time, torch; t = time.perf_counter(); {statement}; "
    command = [sys.executable, "-c", f"{program}print(time.perf_counter() - t)"]
    # Python keeps what it compiled, unless this variable forbids it.
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return float(subprocess.check_output(command, env=environment, text=True))


def table(frame: pd.DataFrame) -> str:
    """A line for each side of each case."""
    columns = {
        "case": frame["case"],
        "side": frame["implementation"],
        "until": frame["until"],
        "file MB": cells(frame, "file_megabytes", "{:.0f}"),
        "model MB": cells(frame, "model_megabytes", "{:.0f}"),
        "ms": cells(frame, "milliseconds", "{:.0f}"),
        "x transformers": cells(frame, "times"),
        "peak MB": cells(frame, "peak_megabytes", "{:.0f}"),
        "peak, of the larger": cells(frame, "peak_share"),
    }
    return printed(frame, columns)


if __name__ == "__main__":
    sys.exit(main())

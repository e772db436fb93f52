"""What the benchmarks of training and inference share: the sides of a case, and their ratios.

A side is an implementation with batches in one order. With *default settings* transformers gets
batches drawn without regard to length, as its users do, and our model gets those of our loader,
which sorts by length. With *best settings* transformers gets our batches, without a mask where
nothing is padded, and may be compiled; its fastest side counts. With the *same* batches our model
gets the random ones of transformers. A ratio compares the times per real token.
"""

import argparse
import gc
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.batches import (
    PAD,
    RANDOM,
    SORTED,
    Batch,
    Sequences,
    lengths_of,
    without_useless_mask,
)
from benchmarks.measuring import Call, in_processes, ratios, spread, take_turns
from benchmarks.pictures import draw_ratios
from benchmarks.report import encoder_table
from benchmarks.runs import Case, Row, Run, benchmark_parser, prepare_transformers
from minitransformer import from_pretrained, optimize
from minitransformer.arguments import Parser, positive

THEIRS, COMPILED = "transformers", "transformers compiled"
PLAIN, OPTIMIZED = "plain", "optimized"
OURS = (PLAIN, OPTIMIZED)
SETTINGS = DEFAULT, BEST, SAME = "default", "best", "same"
SIZES = {  # of DistilBERT
    "hidden_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
QUICK_SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
}


def encoder_parser(module: str, description: str, cases: Iterable[str]) -> Parser:
    """A parser with the options that training and inference share.

    Args:
        module: the benchmark's name.
        description: one line.
        cases: their names, in the order of the table.
    """
    parser, names = benchmark_parser(module, description), list(cases)
    add: Any = parser.add_argument
    add(
        "--text",
        type=Path,
        nargs="+",
        default=[],
        help="UTF-8, one sentence per line; a tab ends it",
    )
    add("--squad", type=Path, help="a file in the format of SQuAD")
    add("--cases", nargs="+", choices=names, default=names, help="what is measured")
    add(
        "--settings",
        nargs="+",
        choices=SETTINGS,
        default=SETTINGS,
        help="which ratios are measured",
    )
    add("--batches", type=positive, help="per pass; by default each case has its own number")
    add("--batch-size", type=positive, help="sequences per batch; likewise")
    add("--passes", type=positive, help="how often the batches of each case are repeated")
    help = "cases that measure a compiled transformers, too, with best settings"
    add("--compile-theirs", nargs="+", choices=names, default=[], help=help)
    return parser


class Side(NamedTuple):
    """An implementation, and the order of its batches."""

    implementation: str
    batches: str

    @property
    def is_ours(self) -> bool:
        """Whether it is this library."""
        return self.implementation in OURS


@dataclass(frozen=True, kw_only=True)
class EncoderCase(ABC):
    """A model, what is done with it, and the ratios that the optimized one should reach.

    Attributes:
        kind: of its sequences.
        sizes, vocab_size: of the model.
        length: the largest number of tokens in a sequence.
        batch_size: sequences per batch.
        num_batches: batches per pass.
        targets: the ratio to transformers with default settings, and with best settings.
        pad_token_id: of the sequences.
        dtype, device: as on the command line.
    """

    kind: str
    sizes: dict[str, Any] = field(default_factory=lambda: SIZES)
    vocab_size: int = 30_522
    length: int
    batch_size: int
    num_batches: int
    targets: tuple[float | None, float | None] = (None, None)
    pad_token_id: int = PAD
    dtype: str = "float32"
    device: str = "cpu"

    @property
    @abstractmethod
    def name(self) -> str:
        """For people."""

    @property
    @abstractmethod
    def is_ragged(self) -> bool:
        """Whether sequences differ in length."""

    @property
    def what(self) -> Row:
        """What tells its rows from those of other cases."""
        return {"case": self.name}

    @abstractmethod
    def load(self) -> tuple[nn.Module, Any]:
        """transformers' model with random weights, and ours, plain, with the same."""

    def load_both(self, class_name: str, config: Any, dtype: torch.dtype) -> tuple[nn.Module, Any]:
        """A model of transformers' with weights drawn anew, always the same, and ours with them.

        Weights are drawn wider than by default, so that each of them matters to what is compared:
        with narrow ones a new model predicts the same whatever it reads.
        """
        import transformers

        torch.manual_seed(0)
        config.initializer_range = self.sizes["hidden_size"] ** -0.5
        their_class = getattr(transformers, class_name)
        with tempfile.TemporaryDirectory() as directory:
            their_class(config).save_pretrained(directory)
            theirs = their_class.from_pretrained(directory, dtype=dtype).to(self.device)
            return theirs, from_pretrained(directory, dtype=dtype, device=self.device)

    @abstractmethod
    def work(self, model: Any, implementation: str) -> Callable[[Batch], object]:
        """What is timed: takes a batch on the device."""

    @abstractmethod
    def check(self, theirs: Any, others: Mapping[str, Any], batch: Batch) -> None:
        """Compare the results of a batch.

        Raises:
            ValueError: those of another model differ from theirs by more than the dtype explains.
        """

    def batches(self, sequences: Sequences, order: str) -> list[Batch]:
        """The batches of a pass."""
        return sequences.batches(order, self.batch_size, self.num_batches)

    def sides(self, settings: Sequence[str], *, compiled: bool) -> list[Side]:
        """Which sides the ratios of these settings need."""
        found = [Side(implementation, SORTED) for implementation in OURS]
        if BEST in settings:
            found = [Side(THEIRS, SORTED), *[Side(COMPILED, SORTED)] * compiled, *found]
        if {DEFAULT, SAME} & {*settings}:
            found = [Side(THEIRS, RANDOM), *found]
        if SAME in settings and self.is_ragged:
            found += [Side(implementation, RANDOM) for implementation in OURS]
        return found


def run_cases(
    benchmark: str,
    arguments: argparse.Namespace,
    passes: int,
    cases: Sequence[tuple[str, EncoderCase]],
    read_sequences: Callable[[argparse.Namespace, list[EncoderCase]], Mapping[str, Sequences]],
) -> None:
    """Measure every case, print a table and draw a picture.

    Args:
        benchmark: its name.
        arguments: its command line.
        passes: unless the command line says how many.
        cases: the name on the command line, and the case; only those that it names are measured.
        read_sequences: gives the sequences of tokens of cases, by their kind.

    Raises:
        ValueError: results differ, a file is missing, or --out has an unfinished run.
    """
    passes = arguments.passes or passes
    settings = {"dtype": arguments.dtype, "passes": passes}
    settings |= {"text": " ".join(file.name for file in arguments.text)}
    settings |= {"squad": arguments.squad.name if arguments.squad else ""}
    settings |= {"settings": " ".join(arguments.settings)}
    settings |= {"command_batch_size": arguments.batch_size or ""}
    name = f"{benchmark}{'_quick' * arguments.quick}_{arguments.dtype}"
    run = Run(arguments, name, settings)
    chosen = [(name, case) for name, case in cases if name in arguments.cases]
    sequences = read_sequences(arguments, [case for _, case in chosen])
    steps = []
    for name, case in chosen:
        if arguments.quick:  # the targets are for the full sizes
            case = replace(case, sizes=QUICK_SIZES, num_batches=2, targets=(None, None))
        case = replace(
            case,
            pad_token_id=sequences[case.kind].pad_token_id,
            batch_size=arguments.batch_size or case.batch_size,
            num_batches=arguments.batches or case.num_batches,
            dtype=arguments.dtype,
            device=arguments.device,
        )
        sides = case.sides(arguments.settings, compiled=name in arguments.compile_theirs)
        measure = partial(
            measure_case,
            *(case, sequences[case.kind], sides, arguments.settings, arguments.threads, passes),
        )
        steps.append(Case(case.what, measure))
    run.measure(steps, encoder_table, draw_ratios)


def measure_case(
    case: EncoderCase,
    sequences: Sequences,
    sides: Sequence[Side],
    settings: Sequence[str],
    threads: int,
    passes: int,
) -> list[Row]:
    """Compare the results of all implementations, then let their sides take turns.

    Returns:
        A row for each side.
    """
    batches = {order: case.batches(sequences, order) for order in (RANDOM, SORTED)}
    if not case.is_ragged:
        batches[SORTED] = batches[RANDOM]
    check_case(case, batches, {side.implementation for side in sides})
    gc.collect()  # models would be in the way of those that are timed
    given = [batches_of(side, batches) for side in sides]
    builds = {
        ", ".join(side): partial(build, case, side.implementation, mine)
        for side, mine in zip(sides, given, strict=True)
    }
    with in_processes(builds, threads, case.device) as workers:
        peaks = [w.peak_memory() for w in tqdm(workers, "warming up", leave=False, unit="side")]
        # Short times scatter more.
        seconds = take_turns(workers, passes * (4 if case.batch_size == 1 else 1))
    tokens = [sum(int(lengths_of(batch).sum()) for batch in mine) for mine in given]
    taken = {
        side: [second / number for second in times]
        for side, times, number in zip(sides, seconds, tokens, strict=True)
    }
    rows = []
    for side, mine, number, peak in zip(sides, given, tokens, peaks, strict=True):
        row: Row = {"sequences": sequences.source, **side._asdict()}
        row |= {"batch_size": case.batch_size, "num_batches": len(mine)}
        row["padding"] = 1 - number / sum(batch["input_ids"].numel() for batch in mine)
        row |= spread("seconds", [time * number / len(mine) for time in taken[side]])  # of a batch
        row |= spread("real_tokens_per_second", [1 / time for time in taken[side]])
        row["peak_megabytes"] = None if peak is None else peak / 1e6
        rows.append(row | compare(case, side, taken, settings))
    return rows


def check_case(
    case: EncoderCase, batches: Mapping[str, Sequence[Batch]], implementations: set[str]
) -> None:
    """Compare the results of every batch before the clock starts; compiled, of one.

    Raises:
        ValueError: they differ by more than the dtype explains.
    """
    theirs, plain = case.load()
    ours = {PLAIN: plain, OPTIMIZED: optimize(case.load()[1])}
    by_identity = {id(batch): batch for order in batches.values() for batch in order}
    for batch in by_identity.values():
        case.check(theirs, ours, on_device(batch, case.device))
    if COMPILED in implementations:
        best = without_useless_mask(batches[SORTED][0])
        compiled = {COMPILED: torch.compile(theirs, dynamic=case.is_ragged)}
        case.check(theirs, compiled, on_device(best, case.device))


def batches_of(side: Side, batches: Mapping[str, Sequence[Batch]]) -> list[Batch]:
    """The batches that a side gets; with best settings theirs has no useless mask."""
    best = side.batches == SORTED and not side.is_ours
    return [without_useless_mask(b) if best else b for b in batches[side.batches]]


def build(case: EncoderCase, implementation: str, batches: Sequence[Batch]) -> Call:
    """A pass over the batches, which is what is timed; called in the process of the side."""
    prepare_transformers()
    theirs, plain = case.load()
    model: Any = theirs
    if implementation == COMPILED:
        model = torch.compile(theirs, dynamic=case.is_ragged)
    elif implementation in OURS:
        model = optimize(plain) if implementation == OPTIMIZED else plain
    work = case.work(model, implementation)
    there = [on_device(batch, case.device) for batch in batches]

    def one_pass() -> None:
        for batch in there:
            work(batch)

    return one_pass


def on_device(batch: Batch, device: str) -> Batch:
    """A copy of the batch, for what is shared between processes lies elsewhere in memory."""
    return {name: tensor.to(device, copy=True) for name, tensor in batch.items()}


def compare(
    case: EncoderCase,
    side: Side,
    taken: Mapping[Side, Sequence[float]],
    settings: Sequence[str],
) -> Row:
    """How many times faster than transformers a side of ours is, pass by pass.

    Args:
        case: of both.
        side: theirs have no ratio.
        taken: the seconds for a real token of each pass, of each side.
        settings: which ratios to measure.
    """
    row: Row = {}
    ours_sorted = side.is_ours and side.batches == SORTED
    for name, theirs, applies, target in (
        (DEFAULT, [Side(THEIRS, RANDOM)], ours_sorted, case.targets[0]),
        (BEST, [Side(THEIRS, SORTED), Side(COMPILED, SORTED)], ours_sorted, case.targets[1]),
        (SAME, [Side(THEIRS, RANDOM)], side.is_ours and side.batches == RANDOM, None),
    ):
        if applies and name in settings:
            fastest = min((s for s in theirs if s in taken), key=lambda s: sum(taken[s]))
            row |= spread(f"times_{name}", ratios(taken[fastest], taken[side]))
            row[f"{name}_is_beside"] = fastest.implementation
            if target is not None and side.implementation == OPTIMIZED:
                row[f"{name}_target"] = target
    return row

"""What the benchmarks of training and inference share: the sides of a case, and their ratios.

A side is an implementation on batches in one order. With *default settings* transformers gets what
a user gets, batches drawn without regard to length, and ours what its own loader makes, which sorts
by length. With *best settings* transformers gets the very batches of ours, without a mask where
nothing is padded, and compiled where that is asked for; its fastest side counts. On the *same*
batches ours gets the random ones of transformers. A ratio is of the time for a real token.
"""

import argparse
import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from benchmarks.formulas import Sizes
from benchmarks.measuring import (
    DTYPES,
    Call,
    in_processes,
    product_rate,
    ratios,
    spread,
    take_turns,
)
from benchmarks.pictures import draw_ratios
from benchmarks.report import encoder_table
from benchmarks.runs import Case, Row, Run, prepare_transformers
from minitransformer import optimize
from minitransformer.arguments import Parser, positive
from minitransformer.layers.attention import ATTENTION_IMPLEMENTATIONS
from train.metrics import try_to_draw

THEIRS, COMPILED = "transformers", "transformers compiled"
PLAIN, OPTIMIZED = "plain", "optimized"
OURS = (PLAIN, OPTIMIZED)
SETTINGS = DEFAULT, BEST, SAME = "default", "best", "same"


def add_options(parser: Parser, cases: Iterable[str]) -> None:
    """The options that training and inference share.

    Args:
        parser: the benchmark's.
        cases: their names, in the order of the table.
    """
    names = list(cases)
    parser.add_argument("--squad", type=Path, help="a file in SQuAD's form")
    parser.add_argument(
        "--cases", nargs="+", choices=names, default=names, help="what is measured (default: all)"
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=SETTINGS,
        default=SETTINGS,
        help="transformers with its default settings, with its best, and ours on the same batches",
    )
    parser.add_argument("--batches", type=positive, help="of a pass, in place of each case's own")
    parser.add_argument("--passes", type=positive, help="times over the batches of each case")
    parser.add_argument(
        "--compile-theirs",
        nargs="+",
        choices=names,
        default=[],
        help="cases in which transformers is measured compiled too, with best settings",
    )
    parser.add_argument(
        "--attention",
        choices=sorted(ATTENTION_IMPLEMENTATIONS),
        default="sdpa",
        help="our attention implementation",
    )
    parser.add_argument("--seed", type=int, default=0, help="of batches, masks and weights")


def check_options(arguments: argparse.Namespace) -> None:
    """What is to be compiled has to be measured.

    Raises:
        ValueError: --compile-theirs names a case that --cases leaves out.
    """
    if unmeasured := set(arguments.compile_theirs) - set(arguments.cases):
        raise ValueError(
            f"--compile-theirs {' '.join(sorted(unmeasured))}: not among the --cases "
            f"{' '.join(arguments.cases)}"
        )


FULL_SIZES = Sizes()


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
        sizes, vocab_size: of the model.
        length: tokens of a sequence at most.
        batch_size: sequences a batch.
        num_batches: of a pass.
        targets: the ratio to transformers with default settings, and with best settings.
        pad_token_id: of the sequences.
        dtype, device, attention, seed: as on the command line; `attention` is ours.
    """

    sizes: Sizes = FULL_SIZES
    vocab_size: int = 30_522
    length: int
    batch_size: int
    num_batches: int
    targets: tuple[float | None, float | None] = (None, None)
    pad_token_id: int = PAD
    dtype: str = "float32"
    device: str = "cpu"
    attention: str = "sdpa"
    seed: int = 0

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
        """transformers' model with weights drawn from the seed, and ours, plain, with the same."""

    @abstractmethod
    def work(self, model: Any, implementation: str) -> Callable[[Batch], object]:
        """What is timed: takes a batch on the device."""

    @abstractmethod
    def check(self, theirs: Any, others: Mapping[str, Any], batch: Batch) -> None:
        """Compare the results of a batch.

        Raises:
            ValueError: those of another model differ from theirs by more than the dtype explains.
        """

    @abstractmethod
    def necessary_flops(self, batch: Batch) -> int:
        """What the result of a batch depends on."""

    @abstractmethod
    def executed_flops(self, batch: Batch, implementation: str) -> int:
        """What is computed."""

    def batches(self, sequences: Sequences, order: str) -> list[Batch]:
        """The batches of a pass."""
        return sequences.batches(order, self.batch_size, self.num_batches, self.seed)

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
    read_sequences: Callable[[], Mapping[str, Sequences]],
    cases: Sequence[tuple[str, str, EncoderCase]],
) -> None:
    """Measure every case, print a table and draw a picture.

    Args:
        benchmark: its name.
        arguments: its command line.
        passes: unless the command line says how many.
        read_sequences: gives the sequences of tokens, by their kind.
        cases: the name on the command line, the kind of sequences, and the case.

    Raises:
        ValueError: results differ, a file is missing, or --out has an unfinished run.
    """
    prepare_transformers()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    passes = arguments.passes or passes
    settings = {name: getattr(arguments, name) for name in ("dtype", "attention", "seed")}
    settings |= {"text": " ".join(file.name for file in arguments.text or [])}
    settings |= {"squad": arguments.squad.name if arguments.squad else "", "passes": passes}
    settings |= {"settings": " ".join(arguments.settings)}
    stem = f"{benchmark}{'_quick' * arguments.quick}"
    run = Run(arguments.out / f"{stem}_{arguments.dtype}.csv", arguments, settings)
    sequences = read_sequences()
    steps = []
    for name, kind, case in cases:
        case = replace(
            case,
            pad_token_id=sequences[kind].pad_token_id,
            num_batches=arguments.batches or case.num_batches,
            **{key: getattr(arguments, key) for key in ("dtype", "device", "attention", "seed")},
        )
        measure = partial(
            measure_case,
            case,
            sequences[kind],
            settings=arguments.settings,
            compiled=name in arguments.compile_theirs,
            threads=arguments.threads,
            passes=passes,
        )
        steps.append(Case(case.what, measure))
    run.measure(steps, len(steps))
    print(encoder_table(run.rows))
    try_to_draw(draw_ratios, arguments.out, stem)


def measure_case(
    case: EncoderCase,
    sequences: Sequences,
    *,
    settings: Sequence[str],
    compiled: bool,
    threads: int,
    passes: int,
) -> list[Row]:
    """Compare the results of all implementations, then let their sides take turns.

    Args:
        case: which one.
        sequences: that its batches are made of.
        settings: which ratios are wanted.
        compiled: whether transformers is measured compiled too.
        threads: of the CPU.
        passes: how often each side goes over its batches.

    Returns:
        A row for each side.
    """
    batches = {order: case.batches(sequences, order) for order in (RANDOM, SORTED)}
    if not case.is_ragged:
        batches[SORTED] = batches[RANDOM]
    sides = case.sides(settings, compiled=compiled)
    check_case(case, batches, {side.implementation for side in sides})
    gc.collect()  # models would be in the way of those that are timed
    given = [batches_of(side, batches) for side in sides]
    builds = {
        ", ".join(side): partial(build, case, side.implementation, mine)
        for side, mine in zip(sides, given, strict=True)
    }
    ceilings: list[float] = []
    with in_processes(builds, threads, case.device) as workers:
        for worker in tqdm(workers, "warming up", leave=False, unit="side"):
            worker.warm_up()
        peaks = [worker.peak_memory() for worker in workers]
        seconds = take_turns(
            workers,
            passes * (4 if case.batch_size == 1 else 1),  # short times scatter more
            before_round=lambda: ceilings.append(product_rate(DTYPES[case.dtype], case.device)),
            description="taking turns",
        )
    rows = [
        {"sequences": sequences.source, "implementation": side.implementation}
        | {"batches": side.batches, **figures(case, side, mine, times, ceilings)}
        | {"peak_megabytes": "" if peak is None else peak / 1e6}
        for side, mine, times, peak in zip(sides, given, seconds, peaks, strict=True)
    ]
    tokens = [sum(int(lengths_of(batch).sum()) for batch in mine) for mine in given]
    taken = {
        side: [second / number for second in times]
        for side, times, number in zip(sides, seconds, tokens, strict=True)
    }
    return [
        row | compare(case, side, taken, settings) for side, row in zip(sides, rows, strict=True)
    ]


def check_case(
    case: EncoderCase, batches: Mapping[str, Sequence[Batch]], implementations: set[str]
) -> None:
    """Compare the results of every batch before the clock starts.

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


def figures(
    case: EncoderCase,
    side: Side,
    batches: Sequence[Batch],
    seconds: Sequence[float],
    ceilings: Sequence[float],
) -> Row:
    """What is known about one side.

    Args:
        case, side: which one.
        batches: of a pass.
        seconds: of each pass.
        ceilings: FLOP/s of a plain matrix product before each pass.
    """
    tokens = sum(int(lengths_of(batch).sum()) for batch in batches)
    positions = sum(batch["input_ids"].numel() for batch in batches)
    row: Row = {
        "batch_size": case.batch_size,
        "num_batches": len(batches),
        "real_tokens_per_batch": tokens / len(batches),
        "padding": 1 - tokens / positions,
    }
    row |= spread("seconds", [second / len(batches) for second in seconds])  # of a batch
    row |= spread("real_tokens_per_second", [tokens / second for second in seconds])
    for name, flops in (
        ("necessary", sum(map(case.necessary_flops, batches))),
        ("executed", sum(case.executed_flops(b, side.implementation) for b in batches)),
    ):
        row[f"{name}_gigaflops"] = flops / len(batches) / 1e9
        shares = [flops / rate / second for rate, second in zip(ceilings, seconds, strict=True)]
        row |= spread(f"{name}_share_of_ceiling", shares)
    return row | spread("ceiling_gigaflops_per_second", [rate / 1e9 for rate in ceilings])


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
        settings: which ratios are wanted.
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

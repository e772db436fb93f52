"""What does attention cost as the sequence grows?

    python -m benchmarks.attention_cost --out DIR

Lengths double from 128 on, at a fixed batch and at a fixed number of tokens, up to what memory or
the time budget allows. Attention alone (without projections) and the whole encoder layer are timed,
forward and forward + backward, for every implementation, all with the same weights and inputs and
in turns in one process. Before the clock starts their outputs, or gradients, must agree. A table
goes to the terminal; DIR gets attention_cost_DTYPE.csv, and a picture for each of the two sweeps.

T tokens of a sequence, N tokens of all sequences, E hidden size.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks import measuring
from benchmarks.attention_sides import (
    IMPLEMENTATIONS,
    NO_ATTENTION,
    THEIRS_PADDED,
    THEIRS_SDPA,
    Built,
    Implementation,
    Layout,
    Weights,
)
from benchmarks.measuring import DTYPES, Call, LocalWorker, ratios, spread
from benchmarks.pictures import draw_attention
from benchmarks.report import (
    ATTENTION,
    BOTH,
    FIXED_BATCH,
    FIXED_TOKENS,
    FORWARD,
    LAYER,
    attention_table,
)
from benchmarks.runs import Case, Row, Run, benchmark_parser, start
from minitransformer.arguments import Parser, positive

# How far results may differ, as a share of the largest number in them. The gradient of a weight is
# a sum over all tokens, in which what bfloat16 rounds off adds up: 4% at 2048 tokens.
TOLERANCES = {"float32": {FORWARD: 1e-4, BOTH: 1e-4}, "bfloat16": {FORWARD: 5e-2, BOTH: 1e-1}}
SHORTEST_TIME = 0.005  # seconds; a shorter call is repeated for one time
GROWTH = 4  # from one length to the next neither time nor memory grows by more
UNTIMED_CALLS = 3  # to check, to learn how long it takes, and to measure its memory

SIZES = {"hidden": 768, "heads": 12, "intermediate": 3072}
QUICK_SIZES = {"hidden": 128, "heads": 2, "intermediate": 512}
SHORTEST = 128  # tokens of a sequence, to begin with
# What is measured unless the command line says otherwise, usually and with --quick.
USUAL = {"tokens": 4096, "longest": 2**20, "rounds": 5, "budget": 30.0}
QUICK = {"tokens": 1024, "longest": 1024, "rounds": 3, "budget": 0.6}


@dataclass(frozen=True)
class Point:
    """What is timed, by every implementation."""

    sweep: str  # what is fixed while the length grows
    batch: int
    length: int
    part: str  # ATTENTION or LAYER
    passes: str  # FORWARD or BOTH

    @property
    def what(self) -> Row:
        """The columns that tell its rows from others."""
        return {name: value for name, value in vars(self).items() if name != "batch"}


@dataclass
class Job:
    """One implementation at one point."""

    implementation: Implementation
    built: Built
    layout: Layout
    call: Call = lambda: None  # until there are inputs
    results: list[Tensor] = field(default_factory=list)  # until they are compared
    peak: int | None = None
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)
    reason: str = ""  # why it was not timed


@dataclass
class Timer:
    """Times points from short to long.

    Once something is not timed, neither is it at greater lengths of the same curve.

    Args:
        sides: the implementations.
        device: where they work.
        rounds: in each of which every implementation is timed once.
        rows: of the points before; those of a resumed run as well.
    """

    sides: list[tuple[Implementation, Built]]
    device: str
    rounds: int
    rows: list[Row]

    def time(self, point: Point, end: float = math.inf) -> list[Row]:
        """Time one point.

        Args:
            point: what is timed.
            end: of the time budget, by `perf_counter`; what may not end by then is not begun.

        Returns:
            A row for each implementation whose curve has not ended, with a reason if it does now.

        Raises:
            ValueError: results differ.
        """
        # Queries, keys and values, or hidden states; and the gradient of what comes out.
        times = 4 if point.part == ATTENTION else 2
        tokens = random_tokens(point.batch * point.length, self.sides[0][1].parameters, times)
        jobs: list[Job] = []
        first: dict[tuple[int, ...], Job] = {}  # of the same lengths, to compare others with
        for implementation, built in self.sides:
            layout = implementation.layout(point.batch, point.length, self.device)
            job = Job(implementation, built, layout)
            curve = point.what | {"implementation": implementation.name}
            del curve["length"]
            before = [row for row in self.rows if curve.items() <= row.items()]
            if (before and before[-1].get("reason")) or not (built.attend or point.part == LAYER):
                continue
            jobs.append(job)
            job.reason = self.refuse(before[-1] if before else {}, end)
            if not job.reason:
                try_out(job, point, tokens)
            if not job.reason and implementation.name != NO_ATTENTION:
                check_same(job, first.setdefault(layout.lengths, job), point)
            if first.get(layout.lengths) is not job:
                job.results = []
        for job in jobs:
            job.results = []
        able = [job for job in jobs if not job.reason]
        workers = [LocalWorker(job.call, self.device, job.repeats) for job in able]
        for job, seconds in zip(able, measuring.take_turns(workers, self.rounds), strict=True):
            job.seconds = seconds
        return [row_of(job, jobs) for job in jobs]

    def refuse(self, last: Row, end: float) -> str:
        """Why memory or time may not suffice, judged by the length before; "" if they will."""
        memory = GROWTH * last.get("peak_megabytes", 0) / 1e3
        free = measuring.available_memory(self.device)
        if free is not None and memory > free / 1e9:
            return f"may need {memory:.1f} GB, {free / 1e9:.1f} GB are free"
        seconds = GROWTH * last.get("milliseconds", 0) / 1e3 * (UNTIMED_CALLS + self.rounds)
        left = max(0.0, end - perf_counter())
        if seconds > left or not left:
            return f"may take {seconds:.2g} s, {left:.2g} s are left"
        return ""


def row_of(job: Job, jobs: Sequence[Job]) -> Row:
    """What was found, or why nothing was; how many times as fast as transformers' sdpa it was."""
    lengths = job.layout.lengths
    row: Row = {"implementation": job.implementation.name, "rows": len(lengths)}
    row |= {"tokens": sum(lengths), "reason": job.reason}
    if job.reason:
        return row
    row |= spread("milliseconds", [1e3 * second for second in job.seconds])
    name = THEIRS_SDPA if job.layout.is_full else THEIRS_PADDED
    for other in jobs:
        if other.implementation.name == name and other.seconds:
            row |= spread("times_faster", ratios(other.seconds, job.seconds))
    return row | ({} if job.peak is None else {"peak_megabytes": job.peak / 1e6})


def parser() -> Parser:
    """The options."""
    made = benchmark_parser("attention_cost", str(__doc__).split("\n")[0])
    names = [implementation.name for implementation in IMPLEMENTATIONS]
    add = made.add_argument
    add("--causal", action="store_true", help="no token sees what comes after it")
    add("--implementations", nargs="+", choices=names, default=names, help="of all")
    add("--tokens", type=positive, help="where their number is fixed; a power of 2")
    add("--longest", type=positive, help="length to end with, unless memory or budget do before")
    add("--rounds", type=positive, help="in each of which every implementation is timed once")
    add("--budget", type=float, help="minutes of measuring")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    return start(parser(), argv, run)


def run(arguments: argparse.Namespace) -> None:
    """The benchmark, top to bottom."""
    for option, value in (QUICK if arguments.quick else USUAL).items():
        if getattr(arguments, option) is None:
            setattr(arguments, option, value)
    sizes = QUICK_SIZES if arguments.quick else SIZES
    settings: Row = {"dtype": arguments.dtype, **sizes, "rounds": arguments.rounds}
    name = f"attention_cost{'_quick' * arguments.quick}_{arguments.dtype}"
    name += "_causal" * arguments.causal
    run = Run(arguments, name, settings | {"causal": int(arguments.causal)})
    with tempfile.TemporaryDirectory() as directory:
        dtype, device = DTYPES[arguments.dtype], arguments.device
        hidden, heads, intermediate = sizes.values()
        weights = Weights(
            Path(directory), hidden, heads, intermediate, arguments.causal, dtype, device
        )
        sides = load(weights, arguments.implementations)
    timer = Timer(sides, arguments.device, arguments.rounds, run.rows)
    run.measure(cases(arguments, timer), attention_table, draw_attention)


def load(weights: Weights, names: Sequence[str]) -> list[tuple[Implementation, Built]]:
    """The named implementations, all with the same weights."""
    weights.save()
    return [(one, one.build(weights)) for one in IMPLEMENTATIONS if one.name in names]


def cases(plan: argparse.Namespace, timer: Timer) -> Iterator[Case]:
    """Both sweeps, each with its share of the time; a sweep ends where nothing can be timed."""
    begin = perf_counter()
    for number, sweep in enumerate((FIXED_BATCH, FIXED_TOKENS), start=1):
        end, length = begin + 60 * plan.budget * number / 2, SHORTEST
        while length <= (min(plan.longest, plan.tokens) if sweep == FIXED_TOKENS else plan.longest):
            batch = plan.tokens // length if sweep == FIXED_TOKENS else 1
            for part, passes in product((ATTENTION, LAYER), (FORWARD, BOTH)):
                point = Point(sweep, batch, length, part, passes)
                yield Case(point.what, partial(timer.time, point, end))
            here = {"sweep": sweep, "length": length}.items()
            if all(row.get("reason") for row in timer.rows if here <= row.items()):
                break
            length *= 2


def random_tokens(number: int, parameters: Sequence[Tensor], times: int) -> list[Tensor]:
    """So many times (N, E), of the same kind as the parameters; the same ones at every call."""
    generator = torch.Generator().manual_seed(number)
    shape = (times, number, parameters[0].shape[-1])
    return list(torch.randn(shape, generator=generator).to(parameters[0]))


def make_call(job: Job, point: Point, tokens: Sequence[Tensor]) -> Call:
    """What is timed, on inputs that are the same tokens for every side: (N, E) each.

    Returns:
        A call that gives the output, or with a backward pass, the gradients of all inputs and, of
        a layer, of all its parameters.
    """
    built, backward = job.built, point.passes == BOTH
    *inputs, gradient = (job.layout.lay(some) for some in tokens)
    inputs = [some.detach().requires_grad_(backward) for some in inputs]
    function: Any = built.attend if point.part == ATTENTION else built.layer
    differentiated = inputs if point.part == ATTENTION else [*inputs, *built.parameters]
    mask = built.mask(job.layout)

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (function(*inputs, mask),)

    def forward_and_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*inputs, mask), differentiated, gradient)

    return forward_and_backward if backward else forward


def try_out(job: Job, point: Point, tokens: list[Tensor]) -> None:
    """Call a job before the clock counts: what comes out, how long, with what memory."""
    try:
        job.call = make_call(job, point, tokens)
        results: Any = job.call()
        inputs = len(tokens) - 1 if point.passes == BOTH else 1
        job.results = [job.layout.pick(result.detach()) for result in results[:inputs]]
        job.results += results[inputs:]
        seconds = measuring.timed(job.call, job.layout.device)
        job.repeats = max(1, math.ceil(SHORTEST_TIME / seconds))
        job.peak = measuring.peak_memory(job.call, job.layout.device)
    except RuntimeError as error:  # memory that is out is one too
        job.reason = f"cannot run: {str(error).strip().splitlines()[0]}"


def check_same(job: Job, other: Job, point: Point) -> None:
    """Compare the results of two jobs with sequences of the same lengths.

    Raises:
        ValueError: they differ by more than the dtype explains.
    """
    gap = largest_gap(job.results, other.results)
    allowed = TOLERANCES[str(job.results[0].dtype).removeprefix("torch.")][point.passes]
    if not gap <= allowed:  # nor is it where something is NaN
        raise ValueError(
            f"{point.part}, {point.passes}, length {point.length}: {job.implementation.name} "
            f"differs by {gap:.1e} from {other.implementation.name}; {allowed:.0e} is allowed, "
            "and times of different results cannot be compared"
        )


def largest_gap(results: list[Tensor], others: list[Tensor]) -> float:
    """The largest difference, as a share of the largest number in the others of the same shape.

    For the gradient of the bias of keys is nothing but rounding: what is added to all scores of a
    query changes no weight. NaN, if there is one anywhere.
    """
    largest: dict[torch.Size, Tensor] = {}
    for other in others:
        highest = other.abs().max()
        largest[other.shape] = torch.maximum(largest.get(other.shape, highest), highest)
    gaps = [
        (result - other).abs().max() / largest[other.shape]
        for result, other in zip(results, others, strict=True)
    ]
    return torch.stack(gaps).max().item()


if __name__ == "__main__":
    sys.exit(main())

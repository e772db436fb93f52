"""What does attention cost as the sequence grows?

    python -m benchmarks.attention_cost --out DIR

Lengths double from 128 on, at a fixed batch and at a fixed number of tokens, up to what memory or
the time budget allows. Attention alone (without projections) and the whole encoder layer are timed,
forward and forward + backward, for every implementation, all with the same weights and inputs and
in turns in one process. Before the clock starts their outputs, or gradients, must agree. A table
goes to the terminal; DIR gets attention_cost_DTYPE.csv, and a picture for each of the two sweeps. A
run can be stopped: the same command with --resume goes on after the last length that was measured.

Attention overtakes the rest of the layer where its T^2 part, the products Q K^T and P V, costs as
much as projections and feed-forward network together: by FLOPs at T = 2 h + f (h hidden size, f
intermediate size). As measured it is where attention alone takes as long as our layer without it,
the side "no attention", and so it is given for our layer alone.

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
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks import formulas, measuring
from benchmarks.attention_sides import (
    IMPLEMENTATIONS,
    NO_ATTENTION,
    STEPS,
    THEIRS_PADDED,
    THEIRS_SDPA,
    Built,
    Implementation,
    Layout,
    OperationNames,
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
    UNAVAILABLE,
    attention_table,
)
from benchmarks.runs import Case, Row, Run, benchmark_parser, prepare_transformers
from minitransformer.arguments import Parser, positive
from train.arguments import run_job
from train.metrics import try_to_draw

# How far results may differ, as a share of the largest number in them. The gradient of a weight is
# a sum over all tokens, in which what bfloat16 rounds off adds up: 4% at 2048 tokens.
TOLERANCES = {"float32": {FORWARD: 1e-4, BOTH: 1e-4}, "bfloat16": {FORWARD: 5e-2, BOTH: 1e-1}}
SHORTEST_TIME = 0.005  # seconds; a shorter call is repeated for one time
USABLE = 0.9  # of the free memory
SLOWEST = 0.2  # of the rate of products: a guess before anything was timed
# To see which kernel runs, to check, to learn how long it takes, and to measure its memory.
UNTIMED_CALLS = 4


# Name, usual value, value with --quick, and help of each option that says what is measured.
OPTIONS = (
    ("hidden", 768, 128, "size of a token's vector"),
    ("heads", 12, 2, "of attention"),
    ("intermediate", 3072, 512, "size of the feed-forward network"),
    ("batch", 1, 1, "sequences, where their number is fixed"),
    ("tokens", 4096, 1024, "of all sequences, where their number is fixed"),
    ("shortest", 128, 128, "length to begin with"),
    ("longest", 2**20, 2048, "length to end with, unless memory or budget end it before"),
    ("rounds", 5, 3, "in each of which every implementation is timed once"),
)


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

    @property
    def backward(self) -> bool:
        """Whether gradients are computed."""
        return self.passes == BOTH


@dataclass
class Job:
    """One implementation at one point."""

    implementation: Implementation
    built: Built
    layout: Layout
    learned: Row | None  # the last row of the same implementation, part and passes
    call: Call = lambda: None  # until there are inputs
    kernel: str = ""  # that ran, or may be expected to
    results: list[Tensor] = field(default_factory=list)  # until they are compared
    peak: int | None = None
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)
    reason: str = ""  # why it was not timed

    @property
    def name(self) -> str:
        """Of the implementation."""
        return self.implementation.name

    @property
    def is_fused(self) -> bool:
        """Whether the (T, T) weights never go to memory; before it ran, whether they should."""
        return self.kernel != STEPS if self.kernel else self.implementation.is_fused


class Timer:
    """Times points from short to long: what one took tells what the next would take.

    Once something is not timed, neither is it at greater lengths of the same curve.

    Args:
        weights: sizes, dtype, device and whether attention is causal.
        implementations: that can run here.
        rounds: in each of which every implementation is timed once.
        rows: of the points before; those of a resumed run as well.
    """

    def __init__(
        self,
        weights: Weights,
        implementations: list[tuple[Implementation, Built]],
        rounds: int,
        rows: list[Row],
    ) -> None:
        self.weights = weights
        self.implementations = implementations
        self.rounds = rounds
        self.rows = rows
        self.ceiling = 0.0  # FLOP/s of a large product of matrices, at this length

    def time(self, point: Point, end: float = math.inf) -> list[Row]:
        """Time one point.

        Args:
            point: what is timed.
            end: of the time budget, by `perf_counter`; what would not end by then is not begun.

        Returns:
            A row for each implementation whose curve has not ended, with a reason if it does now.

        Raises:
            ValueError: results differ.
        """
        dtype, device = self.weights.dtype, self.weights.device
        if not self.ceiling or (point.part, point.passes) == (ATTENTION, FORWARD):  # a new length
            self.ceiling = measuring.product_rate(dtype, device)
        ceiling = self.ceiling
        jobs = self.jobs(point)
        self.refuse(jobs, point, ceiling, end - perf_counter())
        able = [job for job in jobs if not job.reason]
        # Queries, keys and values, or hidden states; and the gradient of what comes out.
        times = 4 if point.part == ATTENTION else 2
        tokens = random_tokens(point.batch * point.length, self.weights, times) if able else []
        first: dict[tuple[int, ...], Job] = {}
        for job in able:
            try_out(job, point, tokens, device)
            check_same(job, first, point, TOLERANCES[str(dtype).removeprefix("torch.")])
        for job in first.values():
            job.results = []
        able = [job for job in able if not job.reason]
        workers = [LocalWorker(job.call, device, job.repeats) for job in able]
        for job, seconds in zip(able, measuring.take_turns(workers, self.rounds), strict=True):
            job.seconds = seconds
        return [self.row(point, job, jobs, ceiling) for job in jobs]

    def jobs(self, point: Point) -> list[Job]:
        """What is to be timed at a point: the curves that have not ended."""
        curve = {"part": point.part, "passes": point.passes}
        jobs = []
        for implementation, built in self.implementations:
            key = (curve | {"implementation": implementation.name}).items()
            before = [row for row in self.rows if key <= row.items()]
            ended = any(row.get("reason") and row["sweep"] == point.sweep for row in before)
            if ended or (point.part == ATTENTION and not built.attend):
                continue
            layout = implementation.layout(point.batch, point.length, self.weights.device)
            timed = [row for row in before if not row.get("reason")]
            job = Job(implementation, built, layout, timed[-1] if timed else None)
            job.kernel = job.learned.get("kernel", "") if job.learned else ""
            jobs.append(job)
        return jobs

    def refuse(self, jobs: list[Job], point: Point, ceiling: float, seconds_left: float) -> None:
        """Give a reason to every job that memory or time will not suffice for."""
        free = measuring.available_memory(self.weights.device)
        predicted = {id(job): self.predict_seconds(job, point, ceiling) for job in jobs}
        # Cheapest first, so that what is slow does not keep out what is fast.
        for job in sorted(jobs, key=lambda job: predicted[id(job)]):
            memory, seconds = self.predict_memory(job, point), predicted[id(job)]
            if free is not None and memory > USABLE * free:
                job.reason = f"needs some {memory / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
            elif seconds > seconds_left:
                left = max(0, seconds_left)
                job.reason = f"would take some {seconds:.2g} s, {left:.2g} s are left"
            else:
                seconds_left -= seconds

    def predict_seconds(self, job: Job, point: Point, ceiling: float) -> float:
        """How long all its calls will take, if it goes on at the pace of the last length."""
        rate = 1e9 * job.learned["gigaflops_per_second"] if job.learned else SLOWEST * ceiling
        one = self.amount(job, point).flops / rate
        return one * UNTIMED_CALLS + self.rounds * max(one, SHORTEST_TIME)

    def predict_memory(self, job: Job, point: Point) -> float:
        """Bytes that it will need, roughly."""
        size, how = self.weights.dtype.itemsize, {"backward": point.backward, "fused": job.is_fused}
        return formulas.highest_memory(self.weights.sizes, *job.layout.shape, size, **how)

    def amount(self, job: Job, point: Point) -> formulas.Amount:
        """What the formulas say of a job; padding is no work that was asked for."""
        sizes, size = self.weights.sizes, self.weights.dtype.itemsize
        lengths = job.layout.lengths
        squared = formulas.attention(
            sizes,
            lengths,
            size,
            causal=self.weights.causal,
            backward=point.backward,
            fused=job.is_fused,
        )
        if point.part == ATTENTION:
            return squared
        rest = formulas.without_attention(sizes, sum(lengths), size, backward=point.backward)
        return rest if job.name == NO_ATTENTION else rest + squared

    def row(self, point: Point, job: Job, jobs: list[Job], ceiling: float) -> Row:
        """What was found, or why nothing was."""
        needed = self.amount(job, point)
        row: Row = {
            "implementation": job.name,
            "rows": len(job.layout.lengths),
            "tokens": sum(job.layout.lengths),
            "reason": job.reason,
            "kernel": "" if job.reason else job.kernel,
            "gigaflops": needed.flops / 1e9,
            "recomputed_gigaflops": needed.recomputed_flops / 1e9,
            "megabytes_moved": needed.bytes / 1e6,
            "ceiling_gigaflops_per_second": ceiling / 1e9,
        }
        if job.reason:
            return row
        row |= spread("milliseconds", [1e3 * second for second in job.seconds])
        row["gigaflops_per_second"] = needed.flops / median(job.seconds) / 1e9
        name = THEIRS_SDPA if job.layout.is_full else THEIRS_PADDED
        for other in jobs:
            if other.name == name and other.seconds:
                row |= spread("times_faster", ratios(other.seconds, job.seconds))
        if job.peak is not None:
            row["peak_megabytes"] = job.peak / 1e6
        return row


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser(quick="--quick" in argv).parse_args(argv)
    return run_job(lambda: run(arguments))


def parser(quick: bool) -> Parser:
    """The options."""
    made = benchmark_parser("attention_cost", str(__doc__).split("\n")[0])
    made.add_argument("--causal", action="store_true", help="no token sees what comes after it")
    names = [implementation.name for implementation in IMPLEMENTATIONS]
    made.add_argument("--implementations", nargs="+", choices=names, default=names, help="of all")
    for name, usual, small, text in OPTIONS:
        made.add_argument(f"--{name}", type=positive, default=small if quick else usual, help=text)
    budget = 0.6 if quick else 30.0
    made.add_argument("--budget", type=float, default=budget, help="minutes of measuring")
    return made


def check_options(arguments: argparse.Namespace) -> None:
    """Find out before the measuring what cannot be measured.

    Raises:
        ValueError: options do not fit together.
    """
    plan = arguments
    longest = max((length for _, length in batches(plan, FIXED_TOKENS)), default=plan.shortest)
    for wrong, message in (
        (plan.hidden % plan.heads, f"--hidden {plan.hidden} is not a multiple of --heads"),
        (plan.longest < plan.shortest, f"--longest {plan.longest} is below --shortest"),
        (plan.tokens < plan.shortest, f"--tokens {plan.tokens} do not fill one of the --shortest"),
        (
            plan.tokens % longest,
            f"--tokens {plan.tokens} is no multiple of the length {longest}",
        ),
        (not plan.budget > 0, f"--budget {plan.budget} must be above 0 minutes"),
    ):
        if wrong:
            raise ValueError(message)


def batches(plan: argparse.Namespace, sweep: str) -> Iterator[tuple[int, int]]:
    """Sequences and their length, which doubles."""
    fixed_tokens, length = sweep == FIXED_TOKENS, plan.shortest
    while length <= (min(plan.longest, plan.tokens) if fixed_tokens else plan.longest):
        yield (plan.tokens // length if fixed_tokens else plan.batch), length
        length *= 2


def run(arguments: argparse.Namespace) -> int:
    """The benchmark, top to bottom."""
    check_options(arguments)
    prepare_transformers()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    names = ("dtype", "hidden", "heads", "intermediate", "rounds")
    settings = {name: getattr(arguments, name) for name in names} | {"causal": +arguments.causal}
    name = f"attention_cost{'_quick' * arguments.quick}_{arguments.dtype}"
    name += "_causal" * arguments.causal
    run = Run(arguments.out / f"{name}.csv", arguments, settings)
    sizes = formulas.Sizes(arguments.hidden, 1, arguments.heads, arguments.intermediate)
    with tempfile.TemporaryDirectory() as directory:
        how = (DTYPES[arguments.dtype], arguments.device)
        weights = Weights(Path(directory), sizes, arguments.causal, *how)
        implementations, unavailable = load(weights, arguments.implementations)
    timer = Timer(weights, implementations, arguments.rounds, run.rows)
    run.measure(cases(arguments, timer, unavailable), unit="point")
    print(attention_table(run.rows))
    try_to_draw(draw_attention, arguments.out, name)
    return 0


def load(
    weights: Weights, names: Sequence[str]
) -> tuple[list[tuple[Implementation, Built]], list[Row]]:
    """The implementations with the same weights, and those that cannot run here, with reasons."""
    able, unavailable = [], []
    weights.save()
    for implementation in IMPLEMENTATIONS:
        if implementation.name not in names:
            continue
        built = implementation.build(weights)
        layout = implementation.layout(4, 16, weights.device)
        (tokens,) = random_tokens(sum(layout.lengths), weights, 1)
        try:
            with torch.no_grad():
                built.layer(layout.lay(tokens), built.mask(layout))
            able.append((implementation, built))
        except RuntimeError as error:
            unavailable.append({"implementation": implementation.name, "reason": one_line(error)})
    return able, unavailable


def cases(plan: argparse.Namespace, timer: Timer, unavailable: list[Row]) -> Iterator[Case]:
    """Both sweeps, each with its share of the time; a sweep ends where nothing can be timed."""
    yield Case({"sweep": UNAVAILABLE}, lambda: unavailable)
    start = perf_counter()
    for number, sweep in enumerate((FIXED_BATCH, FIXED_TOKENS), start=1):
        end = start + 60 * plan.budget * number / 2
        for batch, length in batches(plan, sweep):
            for part, passes in product((ATTENTION, LAYER), (FORWARD, BOTH)):
                point = Point(sweep, batch, length, part, passes)
                yield Case(point.what, partial(timer.time, point, end))
            here = {"sweep": sweep, "length": length}.items()
            if all(row.get("reason") for row in timer.rows if here <= row.items()):
                break


def random_tokens(number: int, weights: Weights, times: int) -> list[Tensor]:
    """So many times (N, E); the same ones whenever they are asked for."""
    generator = torch.Generator().manual_seed(number)
    shape = (times, number, weights.sizes.hidden_size)
    return list(torch.randn(shape, generator=generator).to(weights.device, weights.dtype))


def make_call(job: Job, point: Point, tokens: Sequence[Tensor]) -> Call:
    """What is timed, on inputs that are the same tokens for every side: (N, E) each.

    Returns:
        A call that gives the output, or with a backward pass, the gradients of all inputs and, of
        a layer, of all its parameters.
    """
    built = job.built
    *inputs, gradient = (job.layout.lay(some) for some in tokens)
    inputs = [some.detach().requires_grad_(point.backward) for some in inputs]
    function: Any = built.attend if point.part == ATTENTION else built.layer
    differentiated = inputs if point.part == ATTENTION else [*inputs, *built.parameters]
    mask = built.mask(job.layout)

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (function(*inputs, mask),)

    def forward_and_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*inputs, mask), differentiated, gradient)

    return forward_and_backward if point.backward else forward


def try_out(job: Job, point: Point, tokens: list[Tensor], device: str) -> None:
    """Call a job before the clock counts: what comes out, what ran, how long, with what memory."""
    try:
        job.call = make_call(job, point, tokens)
        with OperationNames() as operations:
            job.call()
        # Where operations are followed, ours runs the plain forward: this is what will be timed.
        results: Any = job.call()
        inputs = len(tokens) - 1 if point.backward else 1
        job.results = [job.layout.pick(result.detach()) for result in results[:inputs]]
        job.results += results[inputs:]
        job.kernel = operations.kernel()
        job.repeats = max(1, math.ceil(SHORTEST_TIME / measuring.timed(job.call, device)))
        job.peak = measuring.peak_memory(job.call, device)
    except RuntimeError as error:
        out = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        job.reason = f"{'out of memory' if out else 'cannot run'}: {one_line(error)}"
        job.results = []


def check_same(
    job: Job, first: dict[tuple[int, ...], Job], point: Point, tolerances: dict[str, float]
) -> None:
    """Compare a job's results with those of the first job of the same lengths, and free them.

    Args:
        job: that was tried out.
        first: the first jobs, by the lengths of their sequences; this one is added if it is one.
        point: of both.
        tolerances: how far results may differ.

    Raises:
        ValueError: they differ by more.
    """
    if job.reason or job.name == NO_ATTENTION:
        job.results = []
        return
    other = first.setdefault(job.layout.lengths, job)
    if other is job:
        return
    gap = largest_gap(job.results, other.results)
    job.results = []
    if not gap <= tolerances[point.passes]:  # nor is it where something is NaN
        raise ValueError(
            f"{point.part}, {point.passes}, length {point.length}: {job.name} differs by {gap:.1e} "
            f"from {other.name}; {tolerances[point.passes]:.0e} is allowed, and times of different "
            "results cannot be compared"
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


def one_line(error: Exception) -> str:
    """What an error says first."""
    return str(error).strip().split("\n")[0]


if __name__ == "__main__":
    sys.exit(main())

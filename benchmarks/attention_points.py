"""What attention costs at one length: every implementation checked, then timed in turns.

T tokens of a row, N tokens of all rows, E hidden size.
"""

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import attention_formulas as formulas
from benchmarks.arrangements import Arrangement
from benchmarks.attention_formulas import Amount, Sizes
from benchmarks.attention_implementations import (
    NO_ATTENTION,
    THEIRS_PADDED,
    THEIRS_SDPA,
    Built,
    Implementation,
)
from benchmarks.measuring import DTYPES, Call, ratios, spread, take_turns, timed
from benchmarks.memory import available_memory, peak_memory
from benchmarks.operations import STEPS, OperationNames

Row = dict[str, Any]

ATTENTION, LAYER = "attention alone", "whole layer"
FORWARD, BOTH = "forward", "forward + backward"
# How far results may lie apart, as a share of the largest number in them. The gradient of a weight
# is a sum over all tokens, in which what bfloat16 rounds off adds up: 4% at 2048 tokens.
TOLERANCE = {
    ("float32", FORWARD): 1e-4,
    ("float32", BOTH): 1e-4,
    ("bfloat16", FORWARD): 5e-2,
    ("bfloat16", BOTH): 1e-1,
}
SHORTEST_TIME = 0.005  # seconds; what is shorter is called several times for one time
USABLE = 0.9  # of the free memory
SLOWEST = 0.2  # of the rate of products: a guess before anything was timed
# To see which kernel runs, to check, to learn how long it takes, and to measure its memory.
UNTIMED_CALLS = 4


@dataclass(frozen=True)
class Setting:
    """What stays the same while lengths grow."""

    sizes: Sizes
    dtype: str
    device: str
    causal: bool


@dataclass(frozen=True)
class Point:
    """What is timed, by every implementation."""

    sweep: str  # what is fixed while the length grows
    batch: int
    length: int
    part: str  # ATTENTION or LAYER
    passes: str  # FORWARD or BOTH

    @property
    def backward(self) -> bool:
        """Whether gradients are computed."""
        return self.passes == BOTH


@dataclass
class Job:
    """One implementation at one point."""

    implementation: Implementation
    built: Built
    arrangement: Arrangement
    call: Call = lambda: None  # until there are inputs
    kernel: str = ""  # that ran, or may be expected to
    # (N, E) each, and gradients of parameters; until they are compared
    results: list[Tensor] = field(default_factory=list)
    peak: int | None = None
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)
    reason: str = ""  # why it was not timed

    @property
    def fused(self) -> bool:
        """Whether the (T, T) weights never go to memory; before it ran, whether they should."""
        return self.kernel != STEPS if self.kernel else self.implementation.fused


@dataclass(frozen=True)
class Learned:
    """What an implementation did at the last length, to know what it will do at the next."""

    seconds_a_flop: float
    memory: float  # as a multiple of what the formula says
    kernel: str


class Timer:
    """Times points from short to long: what one took tells what the next would take.

    Once something is not timed, neither is it at greater lengths of the same curve.

    Args:
        setting: of all points.
        implementations: that can run here.
        rounds: in each of which every implementation is timed once.
    """

    def __init__(
        self, setting: Setting, implementations: list[tuple[Implementation, Built]], rounds: int
    ) -> None:
        self.setting = setting
        self.implementations = implementations
        self.rounds = rounds
        self.learned: dict[tuple[str, ...], Learned] = {}  # by curve, without the sweep
        self.ended: set[tuple[str, ...]] = set()  # curves

    def time(self, point: Point, ceiling: float, seconds_left: float) -> list[Row]:
        """Time one point.

        Args:
            point: what is timed.
            ceiling: FLOP/s of a matrix product.
            seconds_left: what would not end in that time is not begun.

        Returns:
            A row for each implementation whose curve has not ended, with a reason if it does now.

        Raises:
            ValueError: results differ.
        """
        jobs = self.jobs(point)
        self.refuse(jobs, point, ceiling, seconds_left)
        able = [job for job in jobs if not job.reason]
        # Queries, keys and values, or hidden states; and the gradient of what comes out.
        times = 4 if point.part == ATTENTION else 2
        tokens = random_tokens(point.batch * point.length, self.setting, times) if able else []
        first: dict[tuple[int, ...], Job] = {}
        tolerance = TOLERANCE[self.setting.dtype, point.passes]
        for job in able:
            try_out(job, point, tokens, self.setting.device)
            check_same(job, first, point, tolerance)
        for job in first.values():
            job.results = []
        able = [job for job in able if not job.reason]
        seconds = take_turns(
            [job.call for job in able],
            self.rounds,
            self.setting.device,
            repeats=[job.repeats for job in able],
        )
        for job, own in zip(able, seconds, strict=True):
            job.seconds = own
            self.learned[_key(job, point)] = self.learn(job, point)
        self.ended |= {(point.sweep, *_key(job, point)) for job in jobs if job.reason}
        return [self.row(point, job, jobs) for job in jobs]

    def jobs(self, point: Point) -> list[Job]:
        """What is to be timed at a point: the curves that have not ended."""
        jobs = []
        for implementation, built in self.implementations:
            key = (implementation.name, point.part, point.passes)
            if (point.sweep, *key) in self.ended or (point.part == ATTENTION and not built.attend):
                continue
            arrangement = implementation.arrange(point.batch, point.length, self.setting.device)
            job = Job(implementation, built, arrangement)
            if key in self.learned:
                job.kernel = self.learned[key].kernel
            jobs.append(job)
        return jobs

    def refuse(self, jobs: list[Job], point: Point, ceiling: float, seconds_left: float) -> None:
        """Give a reason to every job that memory or time will not suffice for."""
        free = available_memory(self.setting.device)
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

    def learn(self, job: Job, point: Point) -> Learned:
        """What a job that was timed says about greater lengths."""
        by_formula = highest_memory(self.setting, point, job)
        return Learned(
            median(job.seconds) / amount(self.setting, point, job).flops,
            1.0 if job.peak is None else job.peak / by_formula,
            job.kernel,
        )

    def predict_seconds(self, job: Job, point: Point, ceiling: float) -> float:
        """How long all its calls will take, if it goes on at the pace of the last length."""
        learned = self.learned.get(_key(job, point))
        pace = learned.seconds_a_flop if learned else 1 / (SLOWEST * ceiling)
        one = pace * amount(self.setting, point, job).flops
        return one * UNTIMED_CALLS + self.rounds * max(one, SHORTEST_TIME)

    def predict_memory(self, job: Job, point: Point) -> float:
        """Bytes that it will need, if the formula is off as much as at the last length."""
        learned = self.learned.get(_key(job, point))
        return highest_memory(self.setting, point, job) * (learned.memory if learned else 1.0)

    def row(self, point: Point, job: Job, jobs: list[Job]) -> Row:
        """What was found, or why nothing was."""
        needed = amount(self.setting, point, job)
        base = THEIRS_SDPA if job.arrangement.full else THEIRS_PADDED
        theirs = next((other for other in jobs if other.implementation.name == base), None)
        row: Row = {
            "sweep": point.sweep,
            "part": point.part,
            "passes": point.passes,
            "implementation": job.implementation.name,
            "length": point.length,
            "rows": len(job.arrangement.lengths),
            "tokens": sum(job.arrangement.lengths),
            "reason": job.reason,
            "kernel": "" if job.reason else job.kernel,
            "gigaflops": needed.flops / 1e9,
            "recomputed_gigaflops": needed.recomputed_flops / 1e9,
            "megabytes_moved": needed.bytes / 1e6,
        }
        if job.reason:
            return row
        rate = needed.flops / median(job.seconds)
        return row | {
            "milliseconds": spread([1e3 * second for second in job.seconds]),
            "times_faster": spread(ratios(theirs.seconds, job.seconds))
            if theirs is not None and theirs.seconds
            else None,
            "peak_megabytes": None if job.peak is None else job.peak / 1e6,
            "gigaflops_per_second": rate / 1e9,
        }


def make_call(job: Job, point: Point, *tokens: Tensor) -> Call:
    """What is timed, on inputs that are the same tokens for everybody: (N, E) each.

    Returns:
        A call that gives the output, or with a backward pass, the gradients of all inputs and, of
        a layer, of all its parameters.
    """
    built, arrangement = job.built, job.arrangement
    *inputs, gradient = (arrangement.lay(some) for some in tokens)
    inputs = [some.detach().requires_grad_(point.backward) for some in inputs]
    function = built.attend if point.part == ATTENTION else built.layer
    wanted = inputs if point.part == ATTENTION else [*inputs, *built.parameters]
    mask = arrangement.mask
    assert function is not None

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (function(*inputs, mask),)

    def forward_and_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*inputs, mask), wanted, gradient)

    return forward_and_backward if point.backward else forward


def random_tokens(number: int, setting: Setting, times: int) -> list[Tensor]:
    """So many times (N, E); the same ones whenever they are asked for."""
    generator = torch.Generator().manual_seed(number)
    shape = (times, number, setting.sizes.hidden)
    drawn = torch.randn(shape, generator=generator).to(setting.device, DTYPES[setting.dtype])
    return list(drawn)


def try_out(job: Job, point: Point, tokens: list[Tensor], device: str) -> None:
    """Call a job before the clock counts: what comes out, what ran, how long, with what memory."""
    try:
        job.call = make_call(job, point, *tokens)
        with OperationNames() as operations:
            job.call()
        # Where operations are followed, ours takes no shortcuts: this is what will be timed.
        results: Any = job.call()
        inputs = len(tokens) - 1 if point.backward else 1
        job.results = [job.arrangement.pick(result.detach()) for result in results[:inputs]]
        job.results += results[inputs:]
        job.kernel = operations.kernel()
        seconds = timed(job.call, device)
        job.repeats = max(1, math.ceil(SHORTEST_TIME / seconds))
        job.peak = peak_memory(job.call, device)
    except RuntimeError as error:
        out = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        job.reason = f"{'out of memory' if out else 'cannot run'}: {one_line(error)}"
        job.results = []


def check_same(job: Job, first: dict[tuple[int, ...], Job], point: Point, tolerance: float) -> None:
    """Hold a job's results against those of the first job of the same rows, and let go of them.

    Args:
        job: that was tried out.
        first: the first jobs, by the lengths of their rows; this one is added if it is one.
        point: of both.
        tolerance: how far results may lie apart.

    Raises:
        ValueError: they lie further apart.
    """
    if job.reason or job.implementation.name == NO_ATTENTION:
        job.results = []
        return
    other = first.setdefault(job.arrangement.lengths, job)
    if other is job:
        return
    gap = largest_gap(job.results, other.results)
    job.results = []
    if not gap <= tolerance:  # nor is it where something is NaN
        raise ValueError(
            f"{point.part}, {point.passes}, length {point.length}: {job.implementation.name} "
            f"is {gap:.1e} from {other.implementation.name}; {tolerance:.0e} is allowed, and "
            "times of different results cannot be compared"
        )


def largest_gap(results: list[Tensor], others: list[Tensor]) -> float:
    """The largest difference, as a share of the largest number in the others of the same shape.

    For the gradient of the bias of keys is nothing but rounding: what is added to all scores of a
    row changes no weight. NaN, if there is one anywhere.
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


def amount(setting: Setting, point: Point, job: Job) -> Amount:
    """What the formulas say of a job; padding is no work that anybody asked for."""
    lengths, size = job.arrangement.lengths, DTYPES[setting.dtype].itemsize
    if job.implementation.name == NO_ATTENTION:
        return formulas.rest(setting.sizes, sum(lengths), size, backward=point.backward)
    formula = formulas.attention if point.part == ATTENTION else formulas.layer
    return formula(
        setting.sizes,
        lengths,
        size,
        causal=setting.causal,
        backward=point.backward,
        fused=job.fused,
    )


def highest_memory(setting: Setting, point: Point, job: Job) -> float:
    """Bytes that a job will need, roughly."""
    return formulas.highest_memory(
        setting.sizes,
        job.arrangement.rows,
        job.arrangement.longest,
        DTYPES[setting.dtype].itemsize,
        backward=point.backward,
        fused=job.fused,
    )


def one_line(error: Exception) -> str:
    """What an error says first."""
    return str(error).strip().split("\n")[0]


def _key(job: Job, point: Point) -> tuple[str, ...]:
    return job.implementation.name, point.part, point.passes

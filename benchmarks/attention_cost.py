"""What does attention cost as the sequence grows, and as heads and windows change?

    python -m benchmarks.attention_cost --out DIR

Lengths double from 64 on, at a fixed batch and at a fixed number of tokens. Attention alone
(without projections) and the whole encoder layer are timed, forward and forward + backward, for
every implementation, all with the same weights and inputs and in turns in one process. At one
length, attention alone is timed with other numbers of heads, head sizes, heads of keys and values,
and windows. Before the clock starts outputs, or gradients, must agree. What does not run here, or
may not fit into memory or the time budget, is a row with the reason. A table goes to the terminal;
DIR gets attention_cost_DTYPE.csv, and pictures of the time and the memory of each sweep.

T tokens of a sequence, N tokens of all sequences, E hidden size, H heads, D head size.
"""

import argparse
import copy
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import measuring
from benchmarks.attention_results import (
    ATTENTION,
    BOTH,
    CURVE,
    FIXED_BATCH,
    FIXED_TOKENS,
    FORWARD,
    LAYER,
    SWEEPS,
    draw,
    table,
)
from benchmarks.attention_sides import (
    FREE,
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
from benchmarks.runs import Case, Row, Run, benchmark_parser, fill_in, rates, start
from minitransformer import cost
from minitransformer.arguments import Parser, positive

# How far results may differ, as a share of the largest number in them. The gradient of a weight is
# a sum over all tokens, in which what bfloat16 rounds off adds up: 4% at 2048 tokens.
TOLERANCES = {"float32": {FORWARD: 1e-4, BOTH: 1e-4}, "bfloat16": {FORWARD: 5e-2, BOTH: 1e-1}}
SHORTEST_TIME = 0.005  # seconds; a shorter call is repeated for one time
LONG = 5.0  # seconds; a call that will take longer is made once, and that is its time
FEWEST_CALLS = 2  # of a shorter one: one before the clock starts, and one round
SHARE = 0.2  # of the time that is left, for one point
# What is measured unless the command line says otherwise, usually and with --quick, which leaves
# out what has to be compiled.
USUAL = {
    "hidden": 768,
    "heads": 12,
    "intermediate": 3072,
    "tokens": 4096,
    "shortest": 64,
    "longest": 2**15,
    "length": 1024,
    "rounds": 5,
    "budget": 60.0,
    "implementations": [one.name for one in IMPLEMENTATIONS],
}
QUICK = {
    "hidden": 128,
    "heads": 4,
    "intermediate": 512,
    "tokens": 512,
    "shortest": 64,
    "longest": 512,
    "length": 128,
    "rounds": 2,
    "budget": 0.5,
    "implementations": [one.name for one in IMPLEMENTATIONS if one.name != "flex"],
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is timed, by every implementation."""

    sweep: str  # what is fixed while the length grows, or what else changes
    batch: int
    length: int
    part: str  # ATTENTION or LAYER
    passes: str  # FORWARD or BOTH
    heads: int
    head_size: int
    key_heads: int
    window: int

    def widths(self) -> list[int]:
        """Of the inputs, and of the gradient of the output."""
        queries, keys = (self.head_size * heads for heads in (self.heads, self.key_heads))
        return [queries] * 2 if self.part == LAYER else [queries, keys, keys, queries]


def is_timed(row: Row) -> bool:
    """Whether it has a time."""
    return bool(row.get("milliseconds", math.nan) > 0)


def work_of(what: Row) -> int:
    """What the time of attention grows with, of a point or a row."""
    return what["batch"] * what["length"] ** 2 * what["heads"] * what["head_size"]


@dataclass
class Job:
    """One implementation at one point."""

    implementation: Implementation
    built: Built
    layout: Layout
    reason: str = ""  # why it is not timed
    is_long: bool = False
    call: Call = lambda: None  # until there are inputs
    results: list[Tensor] = field(default_factory=list)  # until they are compared
    peak: int | None = None
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)
    spent: float = 0.0  # seconds, all in all
    predicted: tuple[float, int] | None = None  # seconds and bytes

    @property
    def round_seconds(self) -> float:
        """Seconds that a round takes; 0 if it takes no turns."""
        return 0.0 if self.is_long else sum(self.seconds) * self.repeats


@dataclass
class Timer:
    """Times points, the short ones of a curve before the long ones.

    Args:
        sides: the implementations.
        weights: of them all.
        machine: whose rates predict; None: nothing is predicted.
        rounds: in each of which every implementation is timed once; fewer where calls are long.
        budget: seconds for all points.
        rows: of the points before; those of a resumed run as well.
    """

    sides: list[tuple[Implementation, Built]]
    weights: Weights
    machine: cost.Machine | None
    rounds: int
    budget: float
    rows: list[Row]

    def time(self, point: Point) -> list[Row]:
        """Time one point.

        Returns:
            A row for each implementation, with the reason where it was not timed.

        Raises:
            ValueError: results differ.
        """
        left = SHARE * (self.budget - sum(row.get("seconds_spent", 0.0) for row in self.rows))
        like = next(self.sides[0][1].layer.parameters())
        tokens = random_tokens(point.batch * point.length, point.widths(), like)
        jobs = self.jobs(point)
        first: dict[tuple[int, ...], Job] = {}  # of the same lengths, to compare others with
        for job in jobs:
            job.reason = self.refuse(job, point, left)
            if not job.reason:
                begin = perf_counter()
                try_out(job, point, tokens, self.weights.dropout)
                job.spent = perf_counter() - begin
                left -= job.spent + job.round_seconds
            if job.results and job.implementation.name != NO_ATTENTION:
                check_same(job, first.setdefault(job.layout.lengths, job), point)
            if first.get(job.layout.lengths) is not job:
                job.results = []
        able = [job for job in jobs if not (job.reason or job.is_long)]
        round_seconds = sum(job.round_seconds for job in able)
        rounds = min(self.rounds, 1 + int(max(0.0, left) / round_seconds)) if able else 0
        workers = [LocalWorker(job.call, self.weights.device, job.repeats) for job in able]
        for job, seconds in zip(able, measuring.take_turns(workers, rounds), strict=True):
            job.seconds = seconds
            job.spent += sum(seconds) * job.repeats
        return [row_of(job, jobs) for job in jobs]

    def jobs(self, point: Point) -> list[Job]:
        """Those who can take part, with what is predicted of them."""
        found = []
        for implementation, built in self.sides:
            is_free = implementation.name in FREE or SWEEPS[point.sweep][0] == "length"
            if not is_free or (built.attend is None and point.part == ATTENTION):
                continue
            device, causal = self.weights.device, self.weights.causal
            layout = implementation.layout(point.batch, point.length, device, causal, point.window)
            job = Job(implementation, built, layout)
            if self.machine and implementation.is_predicted:
                with suppress(RuntimeError):  # what cannot run cannot be counted either
                    work = count(job, point, self.weights.dropout)
                    job.predicted = self.machine.seconds(work), work.temporary_bytes
            found.append(job)
        return found

    def refuse(self, job: Job, point: Point, left: float) -> str:
        """Why memory or time may not suffice, or "" if they will; notes whether calls are long.

        By what is predicted, or else by the point before: from one point of a curve to the next
        neither grows faster than the work of attention.
        """
        seconds, memory = job.predicted or (0.0, 0)
        curve = [point.sweep, point.part, point.passes, job.implementation.name]
        for row in self.rows:
            if not job.predicted and [row[name] for name in CURVE] == curve and is_timed(row):
                growth = max(1.0, work_of(asdict(point)) / work_of(row))
                seconds = growth * row["milliseconds"] / 1e3
                memory = int(growth * row.get("peak_megabytes", 0.0) * 1e6)
        free = measuring.available_memory(self.weights.device)
        if free is not None and memory > free:
            return f"out of memory: needs {memory / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        job.is_long = seconds >= LONG
        seconds *= 1 if job.is_long else FEWEST_CALLS
        if seconds > left or left <= 0:
            return f"out of time: takes {seconds:.2g} s, {max(0.0, left):.2g} s are left for it"
        return ""


def row_of(job: Job, jobs: Sequence[Job]) -> Row:
    """What was found, or why nothing was; how many times as fast as transformers' sdpa it was."""
    lengths = job.layout.lengths
    row: Row = {"implementation": job.implementation.name, "rows": len(lengths)}
    row["tokens"] = sum(lengths)
    row |= spread("milliseconds", [math.nan if job.reason else 1e3 * s for s in job.seconds or [0]])
    if not job.reason:
        name = THEIRS_SDPA if job.layout.is_full else THEIRS_PADDED
        for other in jobs:
            if other.implementation.name == name and other.seconds:
                row |= spread("times_faster", ratios(other.seconds, job.seconds))
        row |= {} if job.peak is None else {"peak_megabytes": job.peak / 1e6}
    if job.predicted:
        row["predicted_milliseconds"] = 1e3 * job.predicted[0]
        row["predicted_megabytes"] = job.predicted[1] / 1e6
    return row | {"seconds_spent": job.spent, "reason": job.reason}


def parser() -> Parser:
    """The options."""
    made = benchmark_parser("attention_cost", str(__doc__).split("\n")[0], predicts=True)
    names = [implementation.name for implementation in IMPLEMENTATIONS]
    add = made.add_argument
    add("--causal", action="store_true", help="no token sees what comes after it")
    add("--dropout", type=float, default=0.0, help="of attention; of a layer, everywhere")
    add("--implementations", nargs="+", choices=names, help="of all")
    add("--sweeps", nargs="+", choices=list(SWEEPS), default=list(SWEEPS), help="of all")
    add(
        "--parts", nargs="+", choices=[ATTENTION, LAYER], default=[ATTENTION, LAYER], help="of both"
    )
    add("--passes", nargs="+", choices=[FORWARD, BOTH], default=[FORWARD, BOTH], help="of both")
    add("--hidden", type=positive, help="hidden size of the layer")
    add("--heads", type=positive, help="of the layer")
    add("--intermediate", type=positive, help="intermediate size of the layer")
    add("--tokens", type=positive, help="where their number is fixed")
    add("--shortest", type=positive, help="length to begin with, which is doubled again and again")
    add("--longest", type=positive, help="length to end with")
    add("--length", type=positive, help="where something else changes")
    add("--rounds", type=positive, help="in each of which every implementation is timed once")
    add("--budget", type=float, help="minutes of measuring, those before --resume included")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    return start(parser(), argv, run)


def run(arguments: argparse.Namespace) -> None:
    """The benchmark, top to bottom."""
    fill_in(arguments, USUAL, QUICK)
    check_lengths(arguments)
    if arguments.device == "cpu":
        limit_memory()
    name = f"attention_cost{'_quick' * arguments.quick}_{arguments.dtype}"
    name += "_causal" * arguments.causal + "_dropout" * bool(arguments.dropout)
    settings = ("dtype", "dropout", "hidden", "intermediate", "rounds")
    plan: Row = {setting: getattr(arguments, setting) for setting in settings}
    run = Run(arguments, name, plan | {"causal": int(arguments.causal)})
    with tempfile.TemporaryDirectory() as directory:
        weights = Weights(
            Path(directory),
            arguments.hidden,
            arguments.heads,
            arguments.intermediate,
            arguments.causal,
            arguments.dropout,
            DTYPES[arguments.dtype],
            arguments.device,
        )
        sides = load(weights, arguments.implementations)
    machine = rates(arguments)
    timer = Timer(sides, weights, machine, arguments.rounds, 60 * arguments.budget, run.rows)
    run.measure(cases(arguments, timer), table, draw)


def check_lengths(plan: argparse.Namespace) -> None:
    """Refuse lengths that do not fit together.

    Raises:
        ValueError: there are none, or one does not divide the tokens that are fixed.
    """
    lengths = doubling(plan.shortest, plan.longest)
    if not lengths:
        raise ValueError(f"--shortest {plan.shortest} is above --longest {plan.longest}")
    odd = [one for one in lengths if one <= plan.tokens and plan.tokens % one]
    if odd and FIXED_TOKENS in plan.sweeps:
        raise ValueError(
            f"--tokens {plan.tokens} is no multiple of a length of {odd[-1]}; choose one, or leave "
            f"{FIXED_TOKENS!r} out of --sweeps"
        )


def limit_memory() -> None:
    """Let an allocation fail where Linux would otherwise end the process."""
    with suppress(ImportError, OSError):  # not on every system
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        free = measuring.available_memory("cpu") or 0
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + free
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def load(weights: Weights, names: Sequence[str]) -> list[tuple[Implementation, Built]]:
    """The named implementations, all with the same weights."""
    weights.save()
    return [(one, one.build(weights)) for one in IMPLEMENTATIONS if one.name in names]


def cases(plan: argparse.Namespace, timer: Timer) -> Iterator[Case]:
    """All points, from little work to much: what is left out is what costs most."""
    for point in sorted(points(plan), key=lambda point: work_of(asdict(point))):
        yield Case(asdict(point), partial(timer.time, point))


def points(plan: argparse.Namespace) -> Iterator[Point]:
    """The points of all sweeps that are asked for."""
    size = plan.hidden // plan.heads
    usual: dict[str, int] = {"heads": plan.heads, "head_size": size, "key_heads": plan.heads}
    for length in doubling(plan.shortest, plan.longest):
        for sweep, batch in ((FIXED_BATCH, 1), (FIXED_TOKENS, plan.tokens // length)):
            for part, passes in product(plan.parts, plan.passes):
                if sweep in plan.sweeps and batch:
                    what = {"sweep": sweep, "part": part, "passes": passes} | usual
                    yield Point(batch=batch, length=length, window=length, **what)
    usual |= {"batch": 1, "length": plan.length, "window": plan.length}
    heads = [{"heads": n, "key_heads": n} for n in doubling(1, 2 * plan.heads)]
    widths = [size for size in doubling(16, 256) if plan.hidden % size == 0]
    changed: dict[str, list[dict[str, int]]] = {
        "heads": heads,
        "head size": [
            {"head_size": size, "heads": plan.hidden // size, "key_heads": plan.hidden // size}
            for size in widths
        ],
        "key heads": [{"key_heads": n} for n in range(1, plan.heads + 1) if plan.heads % n == 0],
        "window": [{"window": window} for window in doubling(plan.length // 16, plan.length)],
    }
    for sweep, passes in product(changed, plan.passes):
        for change in changed[sweep] if sweep in plan.sweeps else []:
            yield Point(sweep=sweep, part=ATTENTION, passes=passes, **usual | change)


def doubling(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first, ... up to last; none where that is smaller."""
    return [first << power for power in range((last // first).bit_length())]


def random_tokens(number: int, widths: Sequence[int], like: Tensor) -> list[Tensor]:
    """(N, width) for each of the widths, the same ones at every call."""
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(number, width, generator=generator).to(like) for width in widths]


def make_call(job: Job, point: Point, tokens: Sequence[Tensor], dropout: float) -> Call:
    """What is timed, on inputs that are the same tokens for every side: (N, width) each.

    Returns:
        A call that gives the output, or with a backward pass, the gradients of all inputs and, of
        a layer, of all its parameters.
    """
    built, backward = job.built, point.passes == BOTH
    *inputs, gradient = (job.layout.lay(some) for some in tokens)
    inputs = [some.detach().requires_grad_(backward) for some in inputs]
    mask: Any = built.mask(job.layout)
    built.layer.train(dropout > 0)

    def attend(*tokens: Tensor) -> Tensor:  # (B, T, H * D) each; heads as projections give them
        heads = [some.unflatten(-1, (-1, point.head_size)).transpose(1, 2) for some in tokens]
        attended: Any = built.attend
        return attended(*heads, mask, dropout).transpose(1, 2).flatten(2)

    def layer(hidden: Tensor) -> Tensor:
        output = built.layer(hidden, mask)
        return output[0] if isinstance(output, tuple) else output

    function: Any = attend if point.part == ATTENTION else layer
    parameters = [] if point.part == ATTENTION else list(built.layer.parameters())

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (function(*inputs),)

    def forward_and_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*inputs), [*inputs, *parameters], gradient)

    return forward_and_backward if backward else forward


def try_out(job: Job, point: Point, tokens: list[Tensor], dropout: float) -> None:
    """Call a job before the clock counts: what comes out, how long, with what memory.

    What comes out is compared, and so comes without dropout. The first call of a size also makes
    what is made once, and may be compiled: time and memory are those of a later one if they can.
    """
    device, found = job.layout.device, []
    try:
        job.call = make_call(job, point, tokens, dropout=0.0)
        begin = perf_counter()
        job.peak = measuring.peak_memory(lambda: found.append(job.call()), device)
        seconds = perf_counter() - begin
        results: Any = found[0] if found else job.call()
        inputs = len(tokens) - 1 if point.passes == BOTH else 1
        job.results = [job.layout.pick(result.detach()) for result in results[:inputs]]
        job.results += results[inputs:]
        if dropout:
            job.call = make_call(job, point, tokens, dropout)
        if dropout or not job.is_long:
            job.peak = measuring.peak_memory(job.call, device)
            seconds = measuring.timed(job.call, device)
        job.repeats = max(1, math.ceil(SHORTEST_TIME / seconds))
        job.seconds = [seconds]  # until it takes turns, if it does
    except RuntimeError as error:  # memory that is out is one too
        job.reason = f"cannot run: {str(error).strip().splitlines()[0].split('. ')[0]}"
        job.results = []


def count(job: Job, point: Point, dropout: float) -> cost.Work:
    """The operations of a call and its peak memory, on tensors that have shapes but no numbers."""
    layer = copy.deepcopy(job.built.layer)
    numbers = point.batch * point.length

    def build() -> Call:
        dtype = next(layer.parameters()).dtype
        for module in layer.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=dtype)))
        tokens = [torch.empty(numbers, width, dtype=dtype) for width in point.widths()]
        built = job.built._replace(layer=layer)
        return make_call(replace(job, built=built), point, tokens, dropout)

    return cost.trace(build)


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

"""What does attention cost as the sequence grows?

    python -m benchmarks.attention_cost --out DIR

Lengths double from 128 on, at a fixed batch and at a fixed number of tokens, up to what memory or
the time budget allows. Attention alone (from queries, keys and values to what they gather) and the
whole encoder layer are timed, forward and forward + backward, for every implementation, all with
the same weights and inputs and in turns in one process. Before a clock starts their outputs, or
gradients, must agree. A table goes to the terminal; DIR gets attention_cost_DTYPE.csv and .json,
and for each of the two a picture.

Attention overtakes the rest of the layer where its T^2 part, the products Q K^T and P V, costs as
much as projections and feed-forward network together: by FLOPs at T = 2 h + f (h hidden size, f
intermediate size). As measured it is where attention alone takes as long as our layer without it,
the row "no attention", and so it is given for our layer alone.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from time import perf_counter

import torch
from tqdm import tqdm

from benchmarks.arguments import benchmark_parser
from benchmarks.attention_cost_report import crossings, fits, save, table
from benchmarks.attention_formulas import Sizes, equal_length
from benchmarks.attention_implementations import (
    IMPLEMENTATIONS,
    Built,
    Implementation,
    Weights,
    save_weights,
)
from benchmarks.attention_points import (
    ATTENTION,
    BOTH,
    FORWARD,
    LAYER,
    Point,
    Row,
    Setting,
    Timer,
    one_line,
    random_tokens,
)
from benchmarks.comparison import prepare_transformers
from benchmarks.measuring import DTYPES, product_rate
from benchmarks.reporting import environment, load_average
from minitransformer.arguments import Parser, positive
from train.arguments import run_job

FIXED_BATCH, FIXED_TOKENS = "fixed batch", "fixed tokens"


@dataclass(frozen=True)
class Plan:
    """What is measured, and how long."""

    hidden: int
    heads: int
    intermediate: int
    batch: int  # rows, where their number is fixed
    tokens: int  # of all rows, where their number is fixed
    shortest: int  # length
    longest: int | None  # None: what memory and budget allow
    rounds: int
    budget: float  # minutes

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"--hidden {self.hidden} is not a multiple of --heads {self.heads}")
        if self.longest is not None and self.longest < self.shortest:
            raise ValueError(f"--longest {self.longest} is below --shortest {self.shortest}")
        if self.tokens < self.shortest:
            raise ValueError(f"--tokens {self.tokens} do not fill a row of {self.shortest}")
        longest = max(length for _, length in self.batches(FIXED_TOKENS))
        if self.tokens % longest:
            raise ValueError(
                f"--tokens {self.tokens} is not a multiple of {longest}, which is a length "
                f"(--shortest {self.shortest}, doubled)"
            )
        if not self.budget > 0:
            raise ValueError(f"--budget {self.budget} must be above 0 minutes")

    def batches(self, sweep: str) -> Iterator[tuple[int, int]]:
        """Rows and their length, which doubles."""
        longest = self.longest or sys.maxsize
        length = self.shortest
        while length <= (min(longest, self.tokens) if sweep == FIXED_TOKENS else longest):
            yield (self.tokens // length if sweep == FIXED_TOKENS else self.batch), length
            length *= 2


FULL_PLAN = Plan(
    hidden=768,
    heads=12,
    intermediate=3072,
    batch=1,
    tokens=4096,
    shortest=128,
    longest=None,
    rounds=5,
    budget=30.0,
)
QUICK_PLAN = Plan(
    hidden=128,
    heads=2,
    intermediate=512,
    batch=1,
    tokens=1024,
    shortest=128,
    longest=2048,
    rounds=3,
    budget=0.6,
)
OPTIONS = {
    "hidden": "size of a token's vector",
    "heads": "of attention",
    "intermediate": "size of the feed-forward network",
    "batch": "rows, where their number is fixed",
    "tokens": "of all rows, where their number is fixed",
    "shortest": "length to begin with",
    "longest": "length to end with; None: whatever memory and budget allow",
    "rounds": "in each of which every implementation is timed once",
    "budget": "minutes of measuring",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments))


def parser() -> Parser:
    """The options."""
    made = benchmark_parser("attention_cost", str(__doc__).split("\n")[0])
    made.add_argument("--causal", action="store_true", help="no token sees what comes after it")
    for name, text in OPTIONS.items():
        full, quick = getattr(FULL_PLAN, name), getattr(QUICK_PLAN, name)
        made.add_argument(
            f"--{name}",
            type=float if name == "budget" else positive,
            default=argparse.SUPPRESS,
            help=f"{text} (default: {full}, and {quick} with --quick)",
        )
    return made


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The plan that the options stand for.

    Raises:
        ValueError: no length fits in.
    """
    usual = asdict(QUICK_PLAN if arguments.quick else FULL_PLAN)
    given = vars(arguments)
    return Plan(**{name: given.get(name, usual[name]) for name in usual})


def run(arguments: argparse.Namespace) -> int:
    """The benchmark, top to bottom."""
    plan = plan_of(arguments)
    prepare_transformers()
    sizes = Sizes(plan.hidden, plan.heads, plan.intermediate)
    setting = Setting(sizes, arguments.dtype, arguments.device, arguments.causal)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    start = environment(arguments.device)
    implementations, absent = load(setting)
    points = measure(plan, setting, implementations)
    found = {
        "environment": start | {"load_at_the_end": load_average()},
        "plan": asdict(plan)
        | {"dtype": setting.dtype, "causal": setting.causal, "quick": arguments.quick},
        "equal_length": equal_length(sizes, setting.causal),
        "absent": absent,
        "points": points,
        "fits": fits(points),
        "crossings": crossings(points),
    }
    print(table(found))
    save(found, arguments.out)
    return 0


def load(setting: Setting) -> tuple[list[tuple[Implementation, Built]], list[Row]]:
    """Every implementation with the same weights, and those that cannot run here, with reasons."""
    able, absent = [], []
    with tempfile.TemporaryDirectory() as name:
        save_weights(setting.sizes, Path(name))
        dtype = DTYPES[setting.dtype]
        weights = Weights(Path(name), setting.sizes, setting.causal, dtype, setting.device)
        for implementation in IMPLEMENTATIONS:
            built = implementation.build(weights)
            try:
                compute_a_little(implementation, built, setting)
                able.append((implementation, built))
            except RuntimeError as error:
                absent.append({"implementation": implementation.name, "reason": one_line(error)})
    return able, absent


def compute_a_little(implementation: Implementation, built: Built, setting: Setting) -> None:
    """Find out whether an implementation runs at all.

    Raises:
        RuntimeError: it does not.
    """
    arrangement = implementation.arrange(4, 16, setting.device)
    (tokens,) = random_tokens(sum(arrangement.lengths), setting, 1)
    with torch.no_grad():
        built.layer(arrangement.lay(tokens), arrangement.mask)


def measure(
    plan: Plan, setting: Setting, implementations: list[tuple[Implementation, Built]]
) -> list[Row]:
    """Both sweeps, each with its share of the time.

    Raises:
        ValueError: not even the shortest length could be timed, or results differ.
    """
    rows: list[Row] = []
    ceilings: list[float] = []
    start = perf_counter()
    timer = Timer(setting, implementations, plan.rounds)
    for number, sweep in enumerate((FIXED_BATCH, FIXED_TOKENS), start=1):
        end = start + 60 * plan.budget * number / 2
        bar = tqdm(plan.batches(sweep), unit="length", leave=False)
        for batch, length in bar:
            bar.set_description(f"{sweep}, {batch} x {length} tokens")
            ceilings.append(product_rate(DTYPES[setting.dtype], setting.device))
            here: list[Row] = []
            for part, passes in product((ATTENTION, LAYER), (FORWARD, BOTH)):
                point = Point(sweep, batch, length, part, passes)
                here += timer.time(point, ceilings[-1], end - perf_counter())
            rows += here
            if all(row["reason"] for row in here):
                break
    if all(row["reason"] for row in rows):
        raise ValueError(f"not even length {plan.shortest} can be timed: {rows[0]['reason']}")
    return [under_one_ceiling(row, max(ceilings)) for row in rows]


def under_one_ceiling(row: Row, ceiling: float) -> Row:
    """A row with its share of a plain product's rate, the best of all lengths.

    Other work on the machine slows a product down now and then; the ceiling is no lower for that.
    """
    if row["reason"]:
        return row
    share = 1e9 * row["gigaflops_per_second"] / ceiling
    return row | {"ceiling_gigaflops_per_second": ceiling / 1e9, "share_of_ceiling": share}


if __name__ == "__main__":
    sys.exit(main())

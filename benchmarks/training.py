"""How fast is a training step, beside transformers as it comes and at its best?

    python -m benchmarks.training --text FILE... --squad FILE --out DIR

Both libraries train the same model from the same weights on the same text: masked language
modelling with full rows and with lines of text one a row, and question answering. Where rows differ
in length, transformers as it comes gets rows that are drawn at random, and ours, which sorts, other
rows, as long on average as those of a whole epoch; a ratio is of the time for a real token. At its
best transformers gets the very batches of ours, and ours without sorting the very ones of
transformers as it comes. Ours is optimized, unless --plain. Before a clock starts, losses and
gradients must agree. Each side trains in a process of its own; they take turns. A step is forward,
backward, AdamW and zero_grad. Without --text or --squad the rows are made up; the report says so. A
table goes to the terminal; DIR gets training_DTYPE.csv and .json, and training.png of all dtypes
that are there; a --quick run writes training_quick_DTYPE and training_quick.png instead. Until all
is measured, what was lies there in unfinished_training_DTYPE.json; the same command with --resume
goes on with it.

B rows, T tokens of the longest of them.
"""

import argparse
import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.arguments import add_case_options, benchmark_parser, check_compiled_cases
from benchmarks.case_runs import CaseRun, run_cases
from benchmarks.comparison import (
    AS_IT_COMES,
    AT_ITS_BEST,
    COMPILED,
    OURS,
    OURS_SORTED,
    Side,
    check_batches,
    comparisons,
    make_side,
    measure,
    prepare_transformers,
    without_useless_mask,
)
from benchmarks.flops import EncoderSizes
from benchmarks.measuring import DTYPES
from benchmarks.processes import in_processes
from benchmarks.rows import (
    Batch,
    Rows,
    made_up_rows,
    made_up_windows,
    masked_batch,
    random_batches,
    sorted_batches,
    squad_rows,
    text_rows,
)
from benchmarks.training_steps import (
    Case,
    batches_to_check,
    check_agreement,
    load_models,
    necessary_flops,
    our_flops,
    our_loss,
    our_optimizer,
    their_flops,
    their_loss,
    their_optimizer,
    training_step,
)
from minitransformer.arguments import Parser
from minitransformer.models.base import TaskModel
from train.arguments import run_job

CASES = {
    "full-30k": Case("full", 30_522, 512, 8, 1, (2.0, 1.9)),
    "full-50k": Case("full", 50_265, 512, 8, 1, (2.2, 2.0)),
    "lines-30k": Case("lines", 30_522, 512, 32, 2, (3.5, 2.2)),
    "lines-50k": Case("lines", 50_265, 512, 32, 2, (3.5, 2.2)),
    "squad": Case("squad", 30_522, 384, 16, 2, (2.0, 1.15)),
}
QUICK_SIZES = EncoderSizes(64, 2, 4, 256)
QUICK_CASES = {
    # The bars are for the full sizes.
    name: replace(
        case,
        vocab_size=case.vocab_size // 15,
        length=case.length // 4,
        batch_size=8,
        batches=2,
        targets=(None, None),
    )
    for name, case in CASES.items()
}


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    cases: dict[str, Case]
    sizes: EncoderSizes
    passes: int


FULL_PLAN = Plan(CASES, EncoderSizes(), passes=3)
QUICK_PLAN = Plan(QUICK_CASES, QUICK_SIZES, passes=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments, QUICK_PLAN if arguments.quick else FULL_PLAN))


def parser() -> Parser:
    """The options."""
    made = benchmark_parser(
        "training", str(__doc__).split("\n")[0], "of both sides; weights stay in float32"
    )
    made.add_argument("--text", type=Path, nargs="+", help="UTF-8 text, a sentence or so a line")
    made.add_argument("--squad", type=Path, help="a file in SQuAD's form")
    made.add_argument("--dropout", type=float, nargs="+", default=[0.1, 0.0], help="everywhere")
    add_case_options(made, CASES, "of batches, masks and weights")
    return made


def run(arguments: argparse.Namespace, plan: Plan) -> int:
    """The benchmark, top to bottom."""
    check_compiled_cases(arguments)
    plan = replace(
        plan,
        cases={name: plan.cases[name] for name in arguments.cases},
        passes=arguments.passes or plan.passes,
    )
    read = partial(read_rows, arguments, plan)
    make_runs = partial(make_case_runs, arguments, plan)
    run_cases("training", arguments, asdict(plan), read, make_runs)
    return 0


def read_rows(arguments: argparse.Namespace, plan: Plan) -> dict[str, Rows]:
    """The rows that the cases are made of, by their kind."""
    made: dict[str, Rows] = {}
    words = [case for case in plan.cases.values() if not case.is_squad]
    if words:
        size = min(case.vocab_size for case in words), words[0].length  # what fits all models
        made["lines"], made["full"] = (
            made_up_rows(*size, arguments.seed)
            if arguments.text is None
            else text_rows(arguments.text, *size)
        )
    for case in plan.cases.values():
        if case.is_squad:
            made["squad"] = (
                made_up_windows(case.vocab_size, case.length, arguments.seed)
                if arguments.squad is None
                else squad_rows(arguments.squad, case.vocab_size, case.length)
            )
    return made


def make_case_runs(
    arguments: argparse.Namespace, plan: Plan, rows: Mapping[str, Rows]
) -> list[CaseRun]:
    """Every case with every dropout."""
    made = []
    for name, case in plan.cases.items():
        compiled = name in arguments.compile_theirs
        for dropout in arguments.dropout:
            what = {"case": case.name, "dtype": arguments.dtype, "dropout": dropout}
            measure = partial(
                measure_case, case, rows[case.rows], dropout, compiled, arguments, plan
            )
            made.append(CaseRun(what | {"batch_size": case.batch_size}, measure))
    return made


def measure_case(
    case: Case,
    rows: Rows,
    dropout: float,
    compile_theirs: bool,
    arguments: argparse.Namespace,
    plan: Plan,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Build both models and all batches, hold the losses against each other, and take turns."""
    dtype, device = arguments.dtype, arguments.device
    batches = make_batches(case, rows, arguments.seed)
    build = partial(
        build_sides, case, rows.pad_token_id, batches, dropout, compile_theirs, arguments, plan
    )
    theirs, ours = seeded_models(case, rows.pad_token_id, dropout, arguments, plan)
    check_batches(
        agreement_with(ours, case, dtype),
        theirs,
        batches,
        device,
        ragged=case.is_ragged,
        compiled=compile_theirs,
    )
    made = make_sides(case, plan.sizes, theirs, ours, batches, compile_theirs, arguments)
    sides = [side.without_work() for side in made]
    del theirs, ours, made  # which would be in the way of those who are timed
    gc.collect()
    pairs = comparisons(case.targets, ragged=case.is_ragged)
    names = [side.name for side in sides]
    with in_processes(build, names, arguments.threads, device) as workers:
        return measure(sides, workers, pairs, plan.passes, DTYPES[dtype], device)


def agreement_with(ours: TaskModel, case: Case, dtype: str) -> Callable[[nn.Module, Batch], None]:
    """:func:`check_agreement` of a model of theirs and ours, on what both mean the same by."""

    def check(theirs: nn.Module, batch: Batch) -> None:
        check_agreement(theirs, ours, batches_to_check(case, batch), dtype)

    return check


def build_sides(
    case: Case,
    pad_token_id: int,
    batches: dict[str, list[Batch]],
    dropout: float,
    compile_theirs: bool,
    arguments: argparse.Namespace,
    plan: Plan,
) -> list[Side]:
    """Everybody, in another process."""
    prepare_transformers()
    theirs, ours = seeded_models(case, pad_token_id, dropout, arguments, plan)
    return make_sides(case, plan.sizes, theirs, ours, batches, compile_theirs, arguments)


def seeded_models(
    case: Case, pad_token_id: int, dropout: float, arguments: argparse.Namespace, plan: Plan
) -> tuple[nn.Module, TaskModel]:
    """Both models, with the same weights in every process."""
    torch.manual_seed(arguments.seed)
    return load_models(
        case,
        plan.sizes,
        dropout,
        pad_token_id,
        arguments.device,
        attention=arguments.attention,
        plain=arguments.plain,
    )


def make_batches(case: Case, rows: Rows, seed: int) -> dict[str, list[Batch]]:
    """The batches in random order, and where lengths differ those of like length."""
    orders = {"random": random_batches}
    if case.is_ragged:
        orders["sorted"] = sorted_batches
    made: dict[str, list[Batch]] = {}
    for order, draw in orders.items():
        numbers = draw(rows.lengths, case.batch_size, case.batches, seed)
        made[order] = [
            rows.padded(chosen)
            if case.is_squad
            else masked_batch(rows.padded(chosen), case.vocab_size, seed)
            for chosen in numbers
        ]
    return made


def make_sides(
    case: Case,
    sizes: EncoderSizes,
    theirs: nn.Module,
    ours: TaskModel,
    batches: dict[str, list[Batch]],
    compile_theirs: bool,
    arguments: argparse.Namespace,
) -> list[Side]:
    """Everybody with the batches that he would get; unsorted, ours has those of theirs."""
    device = arguments.device
    at_random = batches["random"]
    by_length = batches.get("sorted", at_random)
    whole = [pad_to(case.length, batch) for batch in at_random] if case.is_squad else at_random
    best = [without_useless_mask(batch) for batch in by_length]

    count = partial(necessary_flops, case, sizes)
    optimizer = their_optimizer(theirs)
    step = training_step(their_loss(theirs), optimizer, arguments.dtype)
    theirs_count = partial(their_flops, case, sizes)
    sides = [
        make_side(AS_IT_COMES, step, whole, count, theirs_count, device),
        make_side(AT_ITS_BEST, step, best, count, theirs_count, device),
    ]
    if compile_theirs:
        compiled = torch.compile(theirs, dynamic=case.is_ragged)
        step = training_step(their_loss(compiled), optimizer, arguments.dtype)
        sides.append(make_side(COMPILED, step, best, count, theirs_count, device))

    step = training_step(our_loss(ours), our_optimizer(ours), arguments.dtype)
    ours_count = partial(our_flops, case, sizes, optimized=not arguments.plain)
    sides.append(make_side(OURS, step, whole, count, ours_count, device))
    if case.is_ragged:
        sides.append(make_side(OURS_SORTED, step, by_length, count, ours_count, device))
    return sides


def pad_to(length: int, batch: Batch) -> Batch:
    """The batch padded to a fixed length, as transformers' course on question answering has it.

    What stands at padding does not matter, for the mask hides it.
    """
    extra = length - batch["input_ids"].shape[1]
    wide = {
        name: nn.functional.pad(batch[name], (0, extra)) for name in ("input_ids", "attention_mask")
    }
    return batch | wide


if __name__ == "__main__":
    sys.exit(main())

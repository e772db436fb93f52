"""How fast is an encoder, beside transformers as it comes and at its best?

    python -m benchmarks.inference --text FILE... --squad FILE --out DIR

Both libraries run the same weights over the same rows: short sentences and whole paragraphs mixed,
32 a batch, encoded or classified, and one sentence at a time. Ours is optimized, unless --plain.
Before a clock starts, what they give must agree. Each side works in a process of its own; they take
turns. Without --text and --squad the rows are made up; the report says so. A table goes to the
terminal; DIR gets inference_DTYPE.csv and .json, and inference.png of all dtypes there; a --quick
run writes inference_quick_DTYPE and inference_quick.png instead. Until all is measured, what was
lies there in unfinished_inference_DTYPE.json; the same command with --resume goes on with it.

B rows, T tokens of the longest of them.
"""

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

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
    lengths_of,
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
    made_up_mixture,
    mixed_rows,
    random_batches,
    rows_of_length,
    sorted_batches,
)
from minitransformer import from_pretrained, optimize
from minitransformer.arguments import Parser
from minitransformer.models.base import Model
from train.arguments import run_job

VOCAB_SIZE = 30_522
LENGTH = 512  # tokens a row at most
RAGGED = "ragged"  # rows as long as they are
CLASSES = 2  # transformers' default
# How far results may lie apart: the length of the difference, relative to that of the results.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Case:
    """What is computed, of which rows, and the ratios that ours should reach.

    Attributes:
        name: for people.
        classify: give classes, instead of a vector for each token.
        length: tokens of every row; None for rows as long as they are.
        batch_size: rows a batch.
        batches: of a pass.
        targets: the ratio against transformers as it comes, and at its best.
    """

    name: str
    classify: bool
    length: int | None
    batch_size: int
    batches: int
    targets: tuple[float | None, float | None] = (None, None)

    @property
    def is_ragged(self) -> bool:
        """Whether rows differ in length."""
        return self.length is None


CASES = {
    "encode": Case("encode, ragged rows", False, None, 32, 8, (1.8, 1.1)),
    "classify": Case("classify, ragged rows", True, None, 32, 8),
    "one-16": Case("encode one row of 16 tokens", False, 16, 1, 8),
    "one-128": Case("encode one row of 128 tokens", False, 128, 1, 4),
}
QUICK_CASES = {
    name: replace(case, batch_size=min(8, case.batch_size), batches=2, targets=(None, None))
    for name, case in CASES.items()
}


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    cases: dict[str, Case]
    sizes: EncoderSizes
    vocab_size: int
    passes: int


FULL_PLAN = Plan(CASES, EncoderSizes(), VOCAB_SIZE, passes=5)
QUICK_PLAN = Plan(QUICK_CASES, EncoderSizes(64, 2, 4, 256), 2000, passes=3)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments, QUICK_PLAN if arguments.quick else FULL_PLAN))


def parser() -> Parser:
    """The options."""
    made = benchmark_parser("inference", str(__doc__).split("\n")[0], "of both sides' weights")
    made.add_argument(
        "--text", type=Path, nargs="+", help="UTF-8, a sentence a line; a tab ends it"
    )
    made.add_argument("--squad", type=Path, help="a file in SQuAD's form, for its paragraphs")
    add_case_options(made, CASES, "of batches and weights")
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
    run_cases("inference", arguments, asdict(plan), read, make_runs)
    return 0


def read_rows(arguments: argparse.Namespace, plan: Plan) -> dict[str, Rows]:
    """Sentences and paragraphs, mixed."""
    size = plan.vocab_size, LENGTH, arguments.seed
    if arguments.text is None and arguments.squad is None:
        return {RAGGED: made_up_mixture(*size)}
    return {RAGGED: mixed_rows(arguments.text or [], arguments.squad, *size)}


def make_case_runs(
    arguments: argparse.Namespace, plan: Plan, rows: Mapping[str, Rows]
) -> list[CaseRun]:
    """Every case."""
    made = []
    for name, case in plan.cases.items():
        what = {"case": case.name, "dtype": arguments.dtype, "batch_size": case.batch_size}
        compiled = name in arguments.compile_theirs
        measure = partial(measure_case, case, rows[RAGGED], compiled, arguments, plan)
        made.append(CaseRun(what, measure))
    return made


def measure_case(
    case: Case, rows: Rows, compile_theirs: bool, arguments: argparse.Namespace, plan: Plan
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Build both models and all batches, hold the results against each other, and take turns."""
    if case.length is not None:
        rows = rows_of_length(case.length, plan.vocab_size, case.batches, arguments.seed)
    pad_token_id = rows.pad_token_id
    batches = make_batches(case, rows, arguments.seed)
    build = partial(build_sides, case, pad_token_id, batches, compile_theirs, arguments, plan)
    theirs, ours = load_models(case, pad_token_id, arguments, plan)
    check_batches(
        agreement_with(ours, arguments.dtype),
        theirs,
        batches,
        arguments.device,
        ragged=case.is_ragged,
        compiled=compile_theirs,
    )
    made = make_sides(case, plan.sizes, theirs, ours, batches, compile_theirs, arguments)
    sides = [side.without_work() for side in made]
    del theirs, ours, made  # which would be in the way of those who are timed
    gc.collect()
    pairs = comparisons(case.targets, ragged=case.is_ragged)
    passes = plan.passes * (4 if case.batch_size == 1 else 1)  # short times scatter more
    names = [side.name for side in sides]
    with in_processes(build, names, arguments.threads, arguments.device) as workers:
        return measure(sides, workers, pairs, passes, DTYPES[arguments.dtype], arguments.device)


def build_sides(
    case: Case,
    pad_token_id: int,
    batches: dict[str, list[Batch]],
    compile_theirs: bool,
    arguments: argparse.Namespace,
    plan: Plan,
) -> list[Side]:
    """Everybody, in another process."""
    prepare_transformers()
    theirs, ours = load_models(case, pad_token_id, arguments, plan)
    return make_sides(case, plan.sizes, theirs, ours, batches, compile_theirs, arguments)


def load_models(
    case: Case, pad_token_id: int, arguments: argparse.Namespace, plan: Plan
) -> tuple[nn.Module, Model]:
    """transformers' model with weights drawn from a seed, and ours with the same ones."""
    import transformers

    torch.manual_seed(arguments.seed)
    config = transformers.BertConfig(
        vocab_size=plan.vocab_size,
        hidden_size=plan.sizes.hidden_size,
        num_hidden_layers=plan.sizes.num_hidden_layers,
        num_attention_heads=plan.sizes.num_attention_heads,
        intermediate_size=plan.sizes.intermediate_size,
        max_position_embeddings=LENGTH,
        pad_token_id=pad_token_id,
        initializer_range=plan.sizes.hidden_size**-0.5,  # wide, so that every weight matters
    )
    their_class: Any = transformers.BertModel
    if case.classify:
        their_class = transformers.BertForSequenceClassification
    dtype, device = DTYPES[arguments.dtype], arguments.device
    with tempfile.TemporaryDirectory() as directory:
        their_class(config).save_pretrained(directory)
        theirs = their_class.from_pretrained(directory, dtype=dtype).to(device)
        ours = from_pretrained(directory, attention=arguments.attention, dtype=dtype, device=device)
    return theirs.eval(), ours.eval() if arguments.plain else optimize(ours.eval())


def make_batches(case: Case, rows: Rows, seed: int) -> dict[str, list[Batch]]:
    """The batches in random order, and where lengths differ those of like length."""
    orders = {"random": random_batches}
    if case.is_ragged:
        orders["sorted"] = sorted_batches
    return {
        order: [
            rows.padded(chosen)
            for chosen in draw(rows.lengths, case.batch_size, case.batches, seed)
        ]
        for order, draw in orders.items()
    }


def make_sides(
    case: Case,
    sizes: EncoderSizes,
    theirs: nn.Module,
    ours: Model,
    batches: dict[str, list[Batch]],
    compile_theirs: bool,
    arguments: argparse.Namespace,
) -> list[Side]:
    """Everybody with the batches that he would get."""
    device, at_random = arguments.device, batches["random"]
    by_length = batches.get("sorted", at_random)
    best = [without_useless_mask(batch) for batch in by_length]
    count = partial(necessary_flops, case, sizes)
    theirs_count = partial(their_flops, case, sizes)
    work = their_work(theirs)
    sides = [
        make_side(AS_IT_COMES, work, at_random, count, theirs_count, device),
        make_side(AT_ITS_BEST, work, best, count, theirs_count, device),
    ]
    if compile_theirs:
        compiled = their_work(torch.compile(theirs, dynamic=case.is_ragged))
        sides.append(make_side(COMPILED, compiled, best, count, theirs_count, device))
    ours_count = partial(our_flops, case, sizes, optimized=not arguments.plain)
    sides.append(make_side(OURS, our_work(ours), at_random, count, ours_count, device))
    if case.is_ragged:
        sides.append(make_side(OURS_SORTED, our_work(ours), by_length, count, ours_count, device))
    return sides


def their_work(model: Callable[..., Any]) -> Callable[[Batch], Tensor]:
    """A batch to what transformers makes of it: (B, T, E), or (B, C) of classes."""

    @torch.inference_mode()
    def work(batch: Batch) -> Tensor:
        return model(**batch)[0]

    return work


def our_work(model: Callable[..., Any]) -> Callable[[Batch], Tensor]:
    """The same with ours."""

    @torch.inference_mode()
    def work(batch: Batch) -> Tensor:
        output = model(**batch)
        return output.logits if hasattr(output, "logits") else output.last_hidden_state

    return work


def agreement_with(ours: Model, dtype: str) -> Callable[[nn.Module, Batch], None]:
    """:func:`check_agreement` of a model of theirs and ours."""

    def check(theirs: nn.Module, batch: Batch) -> None:
        check_agreement(their_work(theirs), our_work(ours), batch, TOLERANCES[dtype])

    return check


def check_agreement(
    theirs: Callable[[Batch], Tensor],
    ours: Callable[[Batch], Tensor],
    batch: Batch,
    tolerance: float,
) -> None:
    """Compare what both make of a batch, at real tokens.

    Raises:
        ValueError: it lies further apart than the dtype explains.
    """
    their_result, our_result = theirs(batch).float(), ours(batch).float()
    if their_result.shape != our_result.shape:
        raise ValueError(
            f"minitransformer gives {tuple(our_result.shape)}, transformers "
            f"{tuple(their_result.shape)}; speeds of different computations cannot be compared"
        )
    if their_result.dim() == 3 and "attention_mask" in batch:
        present = batch["attention_mask"].bool()  # (B, T)
        their_result, our_result = their_result[present], our_result[present]  # (N, E)
    difference = float((their_result - our_result).norm() / their_result.norm())
    if not difference <= tolerance:
        raise ValueError(
            f"the results differ by {difference:.2g} of their length; speeds of different "
            "computations cannot be compared"
        )


def necessary_flops(case: Case, sizes: EncoderSizes, batch: Batch) -> int:
    """What the results of a batch depend on."""
    lengths = lengths_of(batch).cpu().numpy()
    return sizes.encoder(lengths, _wanted(case, lengths)) + _head(case, sizes, len(lengths))


def their_flops(case: Case, sizes: EncoderSizes, batch: Batch) -> int:
    """What transformers executes: everything at every place, padding or not."""
    rows, length = batch["input_ids"].shape
    return sizes.encoder(np.full(rows, length)) + _head(case, sizes, rows)


def our_flops(case: Case, sizes: EncoderSizes, batch: Batch, *, optimized: bool) -> int:
    """What ours executes: optimized, what is necessary; plain, everything, as transformers."""
    return (necessary_flops if optimized else their_flops)(case, sizes, batch)


def _wanted(case: Case, lengths: np.ndarray) -> np.ndarray:
    """(B,) how many tokens of each row are wanted: to classify, the first."""
    return np.ones_like(lengths) if case.classify else lengths


def _head(case: Case, sizes: EncoderSizes, rows: int) -> int:
    """The pooler, and the scores of the classes."""
    return sizes.class_scores(rows, CLASSES) if case.classify else sizes.class_scores(rows, 0)


if __name__ == "__main__":
    sys.exit(main())

"""Two libraries on the same work: sides that take turns, and ratios of what they took.

Used by the benchmarks of training and of inference. A side goes over its batches again and again;
one pass is the smallest span of time that says something, for batches differ in length. Where a
side works, in this process or in its own (:mod:`benchmarks.processes`), is not known here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, cycle
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.measuring import in_turns, product_rate, spread, timed
from benchmarks.memory import peak_memory
from benchmarks.rows import Batch

# What stands in the place of transformers, and in what order its batches come.
AS_IT_COMES = "transformers as it comes"
AT_ITS_BEST = "transformers at its best"
COMPILED = "transformers compiled"
OURS = "minitransformer"
OURS_SORTED = "minitransformer, sorted batches"
SAME_BATCHES = "as it comes, on the same batches"


@dataclass(frozen=True)
class Side:
    """Somebody who works on batches.

    Attributes:
        name: of the library and how it is used.
        work: takes a batch, (B, T) each, and gives something that nobody looks at.
        batches: one after the other, then from the beginning again.
        real_tokens: of each batch.
        necessary, executed: FLOPs of each batch, by formula.
    """

    name: str
    work: Callable[[Batch], object]
    batches: Sequence[Batch]
    real_tokens: Sequence[int]
    necessary: Sequence[int]
    executed: Sequence[int]

    def without_work(self) -> "Side":
        """What is known of it, without the model that works."""
        return replace(self, work=_works_elsewhere)

    def largest(self) -> Batch:
        """The batch with most places, padding included."""
        return max(self.batches, key=lambda batch: batch["input_ids"].numel())


@dataclass(frozen=True)
class Comparison:
    """What a ratio is of.

    Attributes:
        against: how transformers is used; a column of the results.
        theirs: names of sides, of which the fastest counts.
        ours: name of the side.
        target: what the ratio should reach, or None.
    """

    against: str
    theirs: Sequence[str]
    ours: str
    target: float | None = None


class Worker(Protocol):
    """What is asked of a side: :class:`SideAtWork`, or whoever passes it on to one."""

    def warm_up(self) -> None:
        """Work on every batch once."""

    def peak_memory(self) -> int | None:
        """Bytes, while it works on its largest batch."""

    def seconds(self) -> float:
        """What its next batch takes."""


class SideAtWork:
    """A side in the process in which it works.

    Args:
        side: which one.
        device: where it works.
    """

    def __init__(self, side: Side, device: str) -> None:
        self._side = side
        self._device = device
        self._next_batches = cycle(side.batches)

    def warm_up(self) -> None:
        """Work on every batch once, so that the clock sees no length for the first time.

        At a new length kernels are chosen, memory is taken and code is compiled.
        """
        for batch in self._side.batches:
            self._side.work(batch)

    def peak_memory(self) -> int | None:
        """Bytes, while it works on its largest batch."""
        return peak_memory(partial(self._side.work, self._side.largest()), self._device)

    def seconds(self) -> float:
        """What its next batch takes."""
        return timed(partial(self._side.work, next(self._next_batches)), self._device)


def measure(
    sides: Sequence[Side],
    workers: Sequence[Worker],
    comparisons: Sequence[Comparison],
    passes: int,
    dtype: torch.dtype,
    device: str,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Let the sides take turns over their batches, all of which have equally many.

    Args:
        sides: who is measured.
        workers: those who do what the sides do, one a side.
        comparisons: which ratios are wanted.
        passes: how often each side goes over its batches.
        dtype, device: of the plain product that shows what the machine could do.

    Returns:
        A row for each side, and a row for each comparison; a spread is over passes.
    """
    num_batches = len(sides[0].batches)
    assert all(len(side.batches) == num_batches for side in sides)
    assert len(workers) == len(sides)
    for worker in workers:
        worker.warm_up()
    peaks = [worker.peak_memory() for worker in workers]
    ceilings: list[float] = []
    seconds = in_turns(
        [worker.seconds for worker in workers],
        passes * num_batches,
        before_round=lambda: ceilings.append(product_rate(dtype, device)),
        description="taking turns",
    )
    rows = [
        figures(side, times, ceilings) | {"peak_megabytes": None if peak is None else peak / 1e6}
        for side, times, peak in zip(sides, seconds, peaks, strict=True)
    ]
    taken = {side.name: (side, times) for side, times in zip(sides, seconds, strict=True)}
    present = [c for c in comparisons if c.ours in taken and set(c.theirs) & taken.keys()]
    return rows, [compare(comparison, taken) for comparison in present]


def figures(side: Side, seconds: list[float], ceilings: list[float]) -> dict[str, Any]:
    """What is known about one side.

    Args:
        side: which one.
        seconds: of each round.
        ceilings: FLOP/s of a plain matrix product before each round.
    """
    num_batches = len(side.batches)
    possible = [rate * second for rate, second in zip(ceilings, seconds, strict=True)]  # FLOPs
    passes = [sum(part) for part in _parts(seconds, num_batches)]
    tokens, places = sum(side.real_tokens), sum(b["input_ids"].numel() for b in side.batches)
    shares = {
        name: spread([sum(flops) / sum(part) for part in _parts(possible, num_batches)])
        for name, flops in (("necessary", side.necessary), ("executed", side.executed))
    }
    return {
        "side": side.name,
        "batches": num_batches,
        "passes": len(passes),
        "real_tokens_per_batch": tokens / num_batches,
        "padding": 1 - tokens / places,
        "seconds": spread([second / num_batches for second in passes]),
        "real_tokens_per_second": spread([tokens / second for second in passes]),
        "necessary_gigaflops": sum(side.necessary) / num_batches / 1e9,
        "executed_gigaflops": sum(side.executed) / num_batches / 1e9,
        "necessary_share_of_ceiling": shares["necessary"],
        "executed_share_of_ceiling": shares["executed"],
        "ceiling_gigaflops_per_second": spread([rate / 1e9 for rate in ceilings]),
    }


def compare(
    comparison: Comparison, taken: Mapping[str, tuple[Side, list[float]]]
) -> dict[str, Any]:
    """The ratio of the seconds a real token, pass by pass; with equal batches that of the seconds.

    Args:
        comparison: who with whom.
        taken: each side and its seconds a round, by its name.
    """
    candidates = [name for name in comparison.theirs if name in taken]
    theirs = min(candidates, key=lambda name: sum(_seconds_a_token(*taken[name])))
    ratios = [
        other / mine
        for other, mine in zip(
            _seconds_a_token(*taken[theirs]), _seconds_a_token(*taken[comparison.ours]), strict=True
        )
    ]
    return {
        "against": comparison.against,
        "theirs": theirs,
        "ours": comparison.ours,
        "ratio": spread(ratios),
        "target": comparison.target,
    }


def lengths_of(batch: Batch) -> Tensor:
    """(B,) real tokens of each row."""
    if "attention_mask" not in batch:
        rows, length = batch["input_ids"].shape
        return torch.full((rows,), length)
    return batch["attention_mask"].sum(dim=1)


def without_useless_mask(batch: Batch) -> Batch:
    """The batch without its mask, if nothing is padded."""
    if not bool(batch["attention_mask"].all()):
        return batch
    return {name: tensor for name, tensor in batch.items() if name != "attention_mask"}


def check_batches(
    check: Callable[[nn.Module, Batch], None],
    theirs: nn.Module,
    batches: Mapping[str, Sequence[Batch]],
    device: str,
    *,
    ragged: bool,
    compiled: bool,
) -> None:
    """Hold our results against theirs before a clock starts.

    Args:
        check: raises a ValueError where they lie too far apart.
        theirs: the model, which is held against ours on every batch.
        batches: in random order, and where rows differ in length sorted ones.
        device: where the models are.
        ragged: whether rows differ in length.
        compiled: whether theirs compiled is to be held against ours too, on a batch that it gets.
    """
    for batch in chain.from_iterable(batches.values()):
        check(theirs, {name: tensor.to(device) for name, tensor in batch.items()})
    if compiled:
        best = without_useless_mask(batches.get("sorted", batches["random"])[0])
        there = {name: tensor.to(device) for name, tensor in best.items()}
        theirs_compiled: Any = torch.compile(theirs, dynamic=ragged)
        check(theirs_compiled, there)


def make_side(
    name: str,
    work: Callable[[Batch], object],
    batches: Sequence[Batch],
    necessary: Callable[[Batch], int],
    executed: Callable[[Batch], int],
    device: str,
) -> Side:
    """A side with what is known of its batches; `necessary` and `executed` count their FLOPs."""
    return Side(
        name,
        work,
        [{key: t.to(device, copy=True) for key, t in batch.items()} for batch in batches],
        [int(lengths_of(batch).sum()) for batch in batches],
        [necessary(batch) for batch in batches],
        [executed(batch) for batch in batches],
    )


def comparisons(targets: tuple[float | None, float | None], *, ragged: bool) -> list[Comparison]:
    """Who is compared with whom.

    As it comes, transformers gets batches that are drawn without regard to length, and ours what
    its own loader makes, which sorts. At its best, both get the same sorted batches.

    Args:
        targets: what the two ratios should reach.
        ragged: whether rows differ in length; without that all get the same batches.
    """
    as_it_comes, at_its_best = targets
    ours = OURS_SORTED if ragged else OURS
    found = [
        Comparison("as it comes", [AS_IT_COMES], ours, as_it_comes),
        Comparison("at its best", [AT_ITS_BEST, COMPILED], ours, at_its_best),
    ]
    if ragged:
        found.append(Comparison(SAME_BATCHES, [AS_IT_COMES], OURS))
    return found


def prepare_transformers() -> None:
    """Import it, and have it say nothing but errors.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "this benchmark compares with transformers: pip install transformers"
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _works_elsewhere(batch: Batch) -> object:
    raise NotImplementedError("this side is known here, and works elsewhere")


def _seconds_a_token(side: Side, seconds: list[float]) -> list[float]:
    """Of each pass."""
    tokens = sum(side.real_tokens)
    return [sum(part) / tokens for part in _parts(seconds, len(side.batches))]


def _parts(values: list[float], size: int) -> list[list[float]]:
    return [values[start : start + size] for start in range(0, len(values), size)]

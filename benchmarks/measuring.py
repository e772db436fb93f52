"""Clocks, turns, and what the machine could do at best: what every benchmark measures with."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median, quantiles
from time import perf_counter

import torch
from tqdm import tqdm

Call = Callable[[], object]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
READ = 2**28  # bytes that are read to find out how fast memory is: more than a cache holds
# Rows of the square matrices whose product shows how fast a device multiplies, by its type.
PRODUCT_ROWS = {"cpu": 1536, "cuda": 8192}


def timed(call: Call, device: torch.device | str = "cpu", repeats: int = 1) -> float:
    """Seconds that a call takes on average, the device's work included.

    On CUDA the device's own events are read, between which it also waits where it is given work
    more slowly than it does it.
    """
    if torch.device(device).type == "cuda":
        return _timed_by_events(call, torch.device(device), repeats)
    start = perf_counter()
    for _ in range(repeats):
        call()
    return (perf_counter() - start) / repeats


def _timed_by_events(call: Call, device: torch.device, repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats  # it gives milliseconds


def take_turns(
    calls: Sequence[Call],
    rounds: int,
    device: torch.device | str = "cpu",
    *,
    repeats: Sequence[int] | None = None,
    before_round: Call | None = None,
    description: str | None = None,
) -> list[list[float]]:
    """Time every call once a round, and let another one begin in each.

    What else goes on in a machine then falls on all of them alike.

    Args:
        calls: one a side.
        rounds: how often each is timed.
        device: where they work.
        repeats: how often each is called for one time, for calls that are shorter than what a
            clock can tell apart.
        before_round: what is called first in every round.
        description: of a progress bar; None shows no bar.

    Returns:
        For each call its seconds, one number a round.
    """
    times = [1] * len(calls) if repeats is None else repeats
    clocks = [partial(timed, call, device, count) for call, count in zip(calls, times, strict=True)]
    return in_turns(clocks, rounds, before_round=before_round, description=description)


def in_turns(
    clocks: Sequence[Callable[[], float]],
    rounds: int,
    *,
    before_round: Call | None = None,
    description: str | None = None,
) -> list[list[float]]:
    """Let those who measure themselves take turns, another one beginning in each round.

    Args:
        clocks: one a side; each works and gives its seconds.
        rounds: how often each is called.
        before_round: what is called first in every round.
        description: of a progress bar; None shows no bar.

    Returns:
        For each clock its seconds, one number a round.
    """
    seconds: list[list[float]] = [[] for _ in clocks]
    bar = tqdm(range(rounds), description, disable=description is None, leave=False, unit="round")
    for turn in bar:
        if before_round is not None:
            before_round()
        for number in range(len(clocks)):
            place = (number + turn) % len(clocks)  # nobody always comes first
            seconds[place].append(clocks[place]())
    return seconds


def ratios(others: list[float], ours: list[float]) -> list[float]:
    """How many times longer others took than we did, round by round."""
    return [other / mine for other, mine in zip(others, ours, strict=True)]


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": median(values), "low": low, "high": high}


def memory_bandwidth(device: torch.device | str) -> float:
    """Bytes a second at which as many threads as work read memory, the best of three times."""
    numbers = torch.ones(READ // 4, device=device)
    return numbers.nbytes / min(timed(numbers.sum, device) for _ in range(3))


def product_rate(dtype: torch.dtype, device: torch.device | str) -> float:
    """FLOP/s of a product of two large square matrices, the best of three times.

    This is the ceiling that achieved rates are held against: what this machine does now, with the
    threads that it was given, not what its maker promises.
    """
    rows = PRODUCT_ROWS[torch.device(device).type]
    left, right = (torch.randn(rows, rows, device=device).to(dtype) for _ in range(2))
    torch.matmul(left, right)  # what is made once
    seconds = min(timed(lambda: torch.matmul(left, right), device) for _ in range(3))
    return 2 * rows**3 / seconds

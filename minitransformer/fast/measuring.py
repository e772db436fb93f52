"""Which of two ways to compute the same numbers is faster here: timed alternately, once a process.

The faster way differs even between processors of one manufacturer, so it is not derived from the
processor's name. Each comparison runs when its technique is first used, and takes some tenths of a
second; :func:`minitransformer.report` shows the results.
"""

import time
from collections.abc import Callable
from threading import RLock
from typing import Any

import torch

Ways = tuple[Callable[[], Any], Callable[[], Any]]  # the usual one first
MakeWays = Callable[[], Ways]

MIN_SPEEDUP = 1.05  # the other way must be at least so many times as fast

# For each comparison so far, how many times as fast the other way is as the usual one.
SPEEDUPS: dict[str, float] = {}
_MEASURING = RLock()  # a comparison may need the result of another


def is_faster(comparison: str, make: MakeWays, rounds: int = 12) -> bool:
    """Whether another way is at least :data:`MIN_SPEEDUP` times as fast as the usual one.

    Args:
        comparison, make, rounds: as in :func:`speedup`.
    """
    return speedup(comparison, make, rounds) >= MIN_SPEEDUP


def speedup(comparison: str, make: MakeWays, rounds: int = 12) -> float:
    """How many times as fast another way is as the usual one.

    Args:
        comparison: its name, under which the result is stored.
        make: returns both ways, the usual one first: functions that take milliseconds.
        rounds: how often each is timed.
    """
    if comparison not in SPEEDUPS:  # the lock is only for measuring
        with _MEASURING:
            if comparison not in SPEEDUPS:
                SPEEDUPS[comparison] = _speedup(make, rounds)
    return SPEEDUPS[comparison]


def _speedup(make: MakeWays, rounds: int) -> float:
    """The ratio; 0 where this PyTorch does not have the other way."""
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            return round(_ratio(*make(), rounds), 3)
    except (AttributeError, RuntimeError, TypeError):
        return 0.0


def _ratio(usual: Callable[[], Any], other: Callable[[], Any], rounds: int) -> float:
    """The ratio of the shortest times, which are the least disturbed by other processes.

    The first run of each is a warm-up and does not count.
    """
    times = [[_seconds(way) for way in (usual, other)] for _ in range(1 + rounds)][1:]
    return min(pair[0] for pair in times) / min(pair[1] for pair in times)


def _seconds(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start

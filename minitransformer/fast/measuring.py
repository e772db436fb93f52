"""What this processor is good at: two ways to the same numbers, timed in turns, once in a process.

Which way is faster differs between processors of one maker, so it is never read off a name. The
questions are asked where a technique is first used, and take a few hundredths of a second each;
:func:`minitransformer.report` shows the answers.
"""

import time
from collections.abc import Callable
from threading import Lock
from typing import Any

import torch

WORTH_IT = 1.05  # the other way has to be faster by so much

# Question to answer: the time of the usual way over that of the other.
ANSWERS: dict[str, float] = {}
_MEASURING = Lock()


def is_faster(
    question: str,
    make: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]],
    rounds: int = 12,
) -> bool:
    """Whether another way is faster than the usual one, by at least :data:`WORTH_IT`.

    Args:
        question: what is asked; its answer is kept.
        make: gives both ways, the usual one first: calls that take some milliseconds.
        rounds: how often each is timed.
    """
    if question not in ANSWERS:  # the lock only where something is to be measured
        with _MEASURING:
            if question not in ANSWERS:
                ANSWERS[question] = _answer(make, rounds)
    return ANSWERS[question] >= WORTH_IT


def _answer(make: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]], rounds: int) -> float:
    """The ratio; 0 where this PyTorch does not have the other way."""
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            return round(_ratio(*make(), rounds), 3)
    except (AttributeError, RuntimeError, TypeError):
        return 0.0


def _ratio(usual: Callable[[], Any], other: Callable[[], Any], rounds: int) -> float:
    """Of the least of several short times each: one that no other process disturbed is among them.

    The first of each is not counted: it sets things up.
    """
    times = [[_seconds(way) for way in (usual, other)] for _ in range(1 + rounds)][1:]
    return min(pair[0] for pair in times) / min(pair[1] for pair in times)


def _seconds(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start

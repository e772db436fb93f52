"""A stand-in for `benchmarks.processes.in_processes`, for tests that replace a function."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from benchmarks.comparison import Side, SideAtWork


@contextmanager
def in_one_process(
    build: Callable[[], list[Side]], names: Sequence[str], threads: int, device: str
) -> Iterator[list[SideAtWork]]:
    """The sides in this process, where what was replaced is replaced for them too."""
    sides = build()
    assert [side.name for side in sides] == list(names)
    yield [SideAtWork(side, device) for side in sides]

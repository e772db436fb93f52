"""Stopping a run without losing it."""

import signal
from types import FrameType
from typing import Any, Self

from tqdm import tqdm


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a request; the second one acts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Only the main thread may set handlers; elsewhere signals work as they did.
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:
                break
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        for other, handler in self._previous.items():
            signal.signal(other, handler)
        tqdm.write(f"{signal.Signals(number).name}: finishing the step, then saving")

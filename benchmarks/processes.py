"""Every side of a comparison in a process of its own, as whoever uses it would have it.

In one process the sides share what the C library keeps of freed memory: what one of them leaves
decides how many pages the next has to ask the system for, and that is up to a third of a training
step. So each is built, warmed up and timed in its own process; they still take turns, one at a
time.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.comparison import Side, SideAtWork

# What every process needs and takes seconds to import, imported once and inherited.
_IMPORTED_BEFORE = [
    "benchmarks.training_steps",
    "transformers.models.bert.modeling_bert",
    "transformers.models.distilbert.modeling_distilbert",
    "transformers.models.roberta.modeling_roberta",
]

Build = Callable[[], Sequence[Side]]


class RemoteSide:
    """What :class:`benchmarks.comparison.SideAtWork` is asked, answered by another process.

    Args:
        name: of the side, for errors.
        connection: to that process.
    """

    def __init__(self, name: str, connection: Connection) -> None:
        self._name = name
        self._connection = connection

    def warm_up(self) -> None:
        """Work on every batch once."""
        self._ask("warm_up")

    def peak_memory(self) -> int | None:
        """Bytes, while it works on its largest batch."""
        return self._ask("peak_memory")

    def seconds(self) -> float:
        """Of its next batch, measured over there."""
        return self._ask("seconds")

    def wait(self) -> None:
        """Until it is built."""
        self._answer()

    def _ask(self, question: str) -> Any:
        self._connection.send(question)
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer, error = self._connection.recv()
        except EOFError as end:
            raise RuntimeError(f"the process of {self._name} ended; is there memory?") from end
        if error is not None:
            raise error
        return answer


@contextmanager
def in_processes(build: Build, names: Sequence[str], device: str) -> Iterator[list[RemoteSide]]:
    """Start a process for each side, and end it after the block.

    Args:
        build: makes all sides, in the order of `names`; each process calls it and keeps one. It and
            its arguments have to be of a kind that can be sent to another process.
        names: of the sides.
        device: where they work.

    Raises:
        RuntimeError: a process ended by itself.
    """
    can_inherit = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if can_inherit else "spawn")
    context.set_forkserver_preload(_IMPORTED_BEFORE)
    with ExitStack() as at_the_end:
        sides = []
        for number, name in enumerate(names):
            here, there = context.Pipe()
            process: Any = context.Process(  # type: ignore[attr-defined]
                target=_serve, args=(there, build, number, device), daemon=True
            )
            process.start()
            at_the_end.callback(process.join)
            at_the_end.callback(process.terminate)
            at_the_end.callback(here.close)
            there.close()
            sides.append(RemoteSide(name, here))
        for side in sides:
            side.wait()
        yield sides


def _serve(connection: Connection, build: Build, number: int, device: str) -> None:
    """Build a side, then answer one question after the other until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who asks sees to it
    try:
        at_work = SideAtWork(build()[number], device)
        connection.send((None, None))
        while True:
            question = connection.recv()
            connection.send((getattr(at_work, question)(), None))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        connection.send((None, error))

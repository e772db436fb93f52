"""Every side of a comparison in a process of its own, as whoever uses it would have it.

In one process the sides share what the C library keeps of freed memory: what one of them leaves
decides how many pages the next has to ask the system for, and that moved training steps by a tenth
and more. So each is warmed up and timed in its own process; they still take turns, one at a time.
"""

import gc
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

from benchmarks.comparison import Side, SideAtWork
from benchmarks.memory import give_back_free_memory

# What every process needs and takes seconds to import: imported once, and inherited. A name that
# cannot be imported there is passed over, and costs those seconds.
_IMPORTED_BEFORE = [
    "benchmarks.training_steps",
    "transformers.models.bert.modeling_bert",
    "transformers.models.distilbert.modeling_distilbert",
    "transformers.models.roberta.modeling_roberta",
]
# OpenMP's threads go on waiting for work in a loop for some milliseconds after the last.
_UNTIL_THREADS_SLEEP = 0.02  # seconds

Build = Callable[[], Sequence[Side]]


class RemoteSide:
    """A :class:`benchmarks.comparison.Worker` that passes on what it is asked to another process.

    Args:
        name: of the side, for errors.
        process: where the side works.
        connection: to that process.
    """

    def __init__(self, name: str, process: BaseProcess, connection: Connection) -> None:
        self._name = name
        self._process = process
        self._connection = connection

    def warm_up(self) -> None:
        """Work on every batch once."""
        self._ask("warm_up")

    def peak_memory(self) -> int | None:
        """Bytes, while it works on its largest batch."""
        return self._ask("peak_memory")

    def seconds(self) -> float:
        """Of its next batch, measured over there."""
        time.sleep(_UNTIL_THREADS_SLEEP)
        return self._ask("seconds")

    def wait(self) -> None:
        """Until it is built."""
        self._answer()

    def _ask(self, question: str) -> Any:
        try:
            self._connection.send(question)
        except ConnectionError as end:
            raise self._ended() from end
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer, error = self._connection.recv()
        except (EOFError, ConnectionError) as end:
            raise self._ended() from end
        if error is not None:
            raise error
        return answer

    def _ended(self) -> RuntimeError:
        self._process.join(timeout=1)
        code = self._process.exitcode
        why = "; there was too little memory, most likely" if code == -signal.SIGKILL else ""
        return RuntimeError(f"the process of {self._name} ended with {code}{why}")


@contextmanager
def in_processes(
    build: Build, names: Sequence[str], threads: int, device: str
) -> Iterator[list[RemoteSide]]:
    """Start a process for each side, and end it after the block.

    Args:
        build: makes all sides, in the order of `names`; each process calls it and keeps one. It and
            its arguments have to be of a kind that can be sent to another process, and have few
            tensors (at most some hundred), each of which is a file there.
        names: of the sides.
        threads: of the CPU, for each of them; one works at a time.
        device: where they work.

    Raises:
        RuntimeError: a process ended by itself.
        Exception: whatever was raised over there, with a note of where.
    """
    # A process that is copied from another cannot use a GPU that that one has seen.
    copied = device == "cpu" and "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if copied else "spawn")
    context.set_forkserver_preload(_IMPORTED_BEFORE)
    with ExitStack() as at_the_end:
        sides = []
        for number, name in enumerate(names):
            here, there = context.Pipe()
            process: Any = context.Process(  # type: ignore[attr-defined]
                target=_serve, args=(there, build, number, threads, device), daemon=True
            )
            process.start()
            at_the_end.callback(_end, process, here)
            there.close()
            sides.append(RemoteSide(name, process, here))
        for side in sides:
            side.wait()
        yield sides


def _end(process: BaseProcess, connection: Connection) -> None:
    """Nobody asks any more: a process that does not see that is in the middle of something."""
    connection.close()
    process.join(timeout=5)
    process.terminate()
    process.join()


def _serve(connection: Connection, build: Build, number: int, threads: int, device: str) -> None:
    """Build a side, then answer one question after the other until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who asks sees to it
    torch.set_num_threads(threads)
    try:
        at_work = SideAtWork(build()[number], device)
        # What the others were made of goes now, not within a time that is measured.
        gc.collect()
        with suppress(AttributeError):  # not every C library can
            give_back_free_memory(device)
        _send(connection, None, None)
        while (question := _next_question(connection)) is not None:
            _send(connection, getattr(at_work, question)(), None)
    except Exception as error:
        _send(connection, None, _that_can_be_sent(error))


def _next_question(connection: Connection) -> str | None:
    try:
        return connection.recv()
    except (EOFError, ConnectionError):
        return None


def _send(connection: Connection, answer: Any, error: Exception | None) -> None:
    with suppress(ConnectionError):  # nobody waits for it
        connection.send((answer, error))


def _that_can_be_sent(error: Exception) -> Exception:
    """The error with its traceback, or an error that tells of it."""
    where = traceback.format_exc()
    error.add_note(where)
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return RuntimeError(where)
    return error

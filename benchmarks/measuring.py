"""The measuring loop: sides that take turns, where it matters each in a process of its own.

A side is a call. In one process sides share what the C library keeps of freed memory: what one of
them leaves decides how many pages the next has to ask the system for, and that moved training steps
by a tenth and more. :func:`in_processes` gives each side its own process; they still take turns.
"""

import ctypes
import gc
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

Call = Callable[[], object]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
READ = 2**28  # bytes that are read to find out how fast memory is: more than a cache holds
_PROCESS, _MACHINE = Path("/proc/self"), Path("/proc/meminfo")
# What every process needs and takes seconds to import: imported once, and inherited. A name that
# cannot be imported there is skipped, and costs those seconds.
_PRELOADED = [
    "benchmarks.encoders",
    "transformers.models.bert.modeling_bert",
    "transformers.models.distilbert.modeling_distilbert",
    "transformers.models.roberta.modeling_roberta",
]
# OpenMP's threads go on waiting for work in a loop for some milliseconds after the last.
_UNTIL_THREADS_SLEEP = 0.02  # seconds


class LocalWorker:
    """A side in this process: a call, repeated for one time where it is too short for the clock."""

    def __init__(self, call: Call, device: torch.device | str, repeats: int = 1) -> None:
        self.call = call
        self.device = device
        self.repeats = repeats

    def peak_memory(self) -> int | None:
        """Bytes of a call, after one at which kernels are chosen and code is compiled."""
        self.call()
        return peak_memory(self.call, self.device)

    def seconds(self) -> float:
        """The time of a call."""
        return timed(self.call, self.device, self.repeats)


class RemoteWorker:
    """A side in a process of its own, which is built and measured there.

    Args:
        name: of the side, for errors.
        build: called in the process, gives the call that is measured. It is pickled, with few
            tensors (at most some hundred), each of which is a file there.
        threads: of the CPU; one side works at a time.
        device: where it works.
    """

    def __init__(self, name: str, build: Callable[[], Call], threads: int, device: str) -> None:
        # A process that is forked cannot use a GPU that its parent has seen.
        can_fork = device == "cpu" and "forkserver" in multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if can_fork else "spawn")
        context.set_forkserver_preload(_PRELOADED)
        self._name = name
        self._pool = ProcessPoolExecutor(1, context)
        self._ask(_start, build, threads, device)

    def peak_memory(self) -> int | None:
        """Bytes of a call over there, after one that warms up."""
        return self._ask(_answer, "peak_memory")

    def seconds(self) -> float:
        """The time of a call, measured over there."""
        time.sleep(_UNTIL_THREADS_SLEEP)
        return self._ask(_answer, "seconds")

    def close(self) -> None:
        """End the process, after the call that it is in."""
        self._pool.shutdown(cancel_futures=True)

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"the process of {self._name} ended; there was too little memory, most likely"
            ) from error


_OWN: list[LocalWorker] = []  # the side of this process, where it is that of a RemoteWorker


def _start(build: Callable[[], Call], threads: int, device: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks handles it
    torch.set_num_threads(threads)
    _OWN.append(LocalWorker(build(), device))
    gc.collect()  # what was needed to build it goes now, not within a time that is measured
    with suppress(AttributeError):  # not every C library can
        release_free_memory(device)


def _answer(question: str) -> Any:
    return getattr(_OWN[0], question)()


Worker = LocalWorker | RemoteWorker


def take_turns(
    workers: Sequence[Worker], rounds: int, before_round: Call = lambda: None
) -> list[list[float]]:
    """Time every side once a round, a different one beginning in each.

    What else goes on in a machine then falls on all of them alike.

    Returns:
        For each side its seconds, one number a round.
    """
    seconds: list[list[float]] = [[] for _ in workers]
    for turn in tqdm(range(rounds), "taking turns", leave=False, unit="round"):
        before_round()
        for number in range(len(workers)):
            side = (number + turn) % len(workers)
            seconds[side].append(workers[side].seconds())
    return seconds


@contextmanager
def in_processes(
    builds: Mapping[str, Callable[[], Call]], threads: int, device: str
) -> Iterator[list[Worker]]:
    """A :class:`RemoteWorker` for each side, by its name; their processes end after the block."""
    with ExitStack() as at_the_end:
        workers: list[Worker] = []
        for name, build in builds.items():
            worker = RemoteWorker(name, build, threads, device)
            at_the_end.callback(worker.close)
            workers.append(worker)
        yield workers


def timed(call: Call, device: torch.device | str = "cpu", repeats: int = 1) -> float:
    """Seconds that a call takes on average, the device's work included.

    On CUDA the device's own events are read; the time includes waiting for the host.
    """
    if torch.device(device).type == "cpu":
        start = perf_counter()
        for _ in range(repeats):
            call()
        return (perf_counter() - start) / repeats
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats  # it gives milliseconds


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles, as the columns `name`, `name_low` and `name_high`."""
    middle, low, high = np.quantile(values, [0.5, 0.25, 0.75]).tolist()
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def ratios(others: Sequence[float], ours: Sequence[float]) -> list[float]:
    """How many times longer others took than we did, round by round."""
    return np.divide(others, ours).tolist()


def memory_bandwidth(device: torch.device | str) -> float:
    """Bytes a second at which as many threads as work read memory, the best of three times."""
    numbers = torch.ones(READ // 4, device=device)
    return numbers.nbytes / min(timed(numbers.sum, device) for _ in range(3))


def peak_memory(call: Call, device: torch.device | str) -> int | None:
    """Bytes that a call needs at its highest, beyond what was there before; None: unknown here.

    On a GPU PyTorch counts what it hands out. On a CPU Linux counts the pages that are in memory,
    which includes the scratch space of libraries, but not memory that was kept from before and is
    used again. So call once before, for what is made once.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        release_free_memory(device)  # or it would be missing in the count
        (_PROCESS / "clear_refs").write_text("5")  # forgets the highest so far: see man 5 proc
        before = _kilobytes(_PROCESS / "status", "VmRSS")
        call()
        return 1024 * max(0, _kilobytes(_PROCESS / "status", "VmHWM") - before)
    except (OSError, AttributeError):
        return None


def available_memory(device: torch.device | str) -> int | None:
    """Bytes that can still be taken without a failure; None: unknown here."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        return 1024 * _kilobytes(_MACHINE, "MemAvailable")
    except OSError:
        return None


def release_free_memory(device: torch.device | str) -> None:
    """Let the C library, or PyTorch on a GPU, return what it keeps for later.

    Raises:
        AttributeError: this C library has no such function.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    else:
        ctypes.CDLL(None).malloc_trim(0)


def _kilobytes(file: Path, name: str) -> int:
    """The number behind a name in one of Linux's lists."""
    lines = file.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

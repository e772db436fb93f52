"""Sides in processes of their own: what is asked here is done there, errors included."""

import os
import signal
import time
from functools import partial

import pytest
import torch

from benchmarks.comparison import Side
from benchmarks.processes import in_processes

BATCH = {"input_ids": torch.ones(2, 3, dtype=torch.int64)}


def build(file):
    """Two sides that write down where they work, and on what; they are built in that process."""

    def work(name, batch):
        with open(file, "a") as out:
            out.write(f"{name} {os.getpid()} {len(batch['input_ids'])} {torch.get_num_threads()}\n")
        time.sleep(0.02)

    batches = [BATCH, {"input_ids": torch.ones(4, 3, dtype=torch.int64)}]
    return [Side(n, partial(work, n), batches, [6, 12], [1, 1], [1, 1]) for n in ("a", "b")]


class TwoWords(Exception):
    """One that can be sent, and not received."""

    def __init__(self, one, other):
        super().__init__(f"{one} {other}")


def failing(where, process):
    """Sides that fail while they are built, or at work; or whose process ends."""

    class Unknown(Exception):
        pass

    def work(batch):
        if where == "end":
            os._exit(3)
        errors = {
            "work": ValueError("no such batch"),
            "file": EOFError("half a file"),
            "two words": TwoWords("that", "fails"),
            "unknown": Unknown("to all others"),
        }
        raise errors[where]

    if where == "build" and os.getpid() != process:
        raise ValueError("no such side")
    return [Side("a", work, [BATCH], [6], [1], [1])]


def test_each_side_works_in_its_own_process_on_its_batches_in_turn(tmp_path):
    file = tmp_path / "calls"
    with in_processes(partial(build, file), ["a", "b"], 1, "cpu") as (a, b):
        a.warm_up()
        b.warm_up()
        memory = a.peak_memory()
        assert memory is None or memory >= 0
        assert all(0.02 <= seconds < 10 for seconds in (a.seconds(), b.seconds(), a.seconds()))
    calls = [line.split() for line in file.read_text().splitlines()]
    assert [(name, rows) for name, _, rows, _ in calls] == [
        *[("a", "2"), ("a", "4"), ("b", "2"), ("b", "4")],
        ("a", "4"),  # the largest, for the memory
        *[("a", "2"), ("b", "2"), ("a", "4")],
    ]
    assert {threads for *_, threads in calls} == {"1"}
    processes = {name: pid for name, pid, *_ in calls}
    assert len({*processes.values(), str(os.getpid())}) == 3
    assert len({(name, pid) for name, pid, *_ in calls}) == 2
    for pid in processes.values():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_an_error_over_there_is_one_here():
    with (
        pytest.raises(ValueError, match="no such side"),
        in_processes(partial(failing, "build", os.getpid()), ["a"], 1, "cpu"),
    ):
        pass
    for where, error, message in (
        ("work", ValueError, "no such batch"),
        ("file", EOFError, "half a file"),
        ("two words", RuntimeError, "TwoWords: that fails"),
        ("unknown", RuntimeError, "Unknown: to all others"),
        ("end", RuntimeError, "the process of a ended with 3"),
    ):
        with (
            in_processes(partial(failing, where, 0), ["a"], 1, "cpu") as (side,),
            pytest.raises(error, match=message) as caught,
        ):
            side.seconds()
        if where == "work":
            assert "in work" in "".join(caught.value.__notes__)  # where it was


def test_a_process_that_is_killed_is_named(tmp_path):
    with in_processes(partial(build, tmp_path / "calls"), ["a", "b"], 1, "cpu") as (a, _):
        os.kill(a._process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="of a ended with -9; there was too little memory"):
            a.warm_up()
        with pytest.raises(RuntimeError, match="of a ended with -9"):
            a.seconds()

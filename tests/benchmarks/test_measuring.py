"""Turns, processes, rates and memory, as far as they do not depend on how fast a machine is."""

import os
import signal
from functools import partial

import pytest
import torch

from benchmarks import measuring
from benchmarks.measuring import LocalWorker, in_processes, ratios, spread, take_turns


def test_median_and_quartiles():
    values = [1.0, 2.0, 4.0, 8.0, 9.0]
    assert spread("s", values) == {"s": 4.0, "s_low": 2.0, "s_high": 8.0}
    assert spread("s", [3.0]) == {"s": 3.0, "s_low": 3.0, "s_high": 3.0}
    assert ratios([8.0, 24.0], [2.0, 4.0]) == [4.0, 6.0]


def test_another_side_begins_in_each_round(monkeypatch):
    calls = []
    monkeypatch.setattr(measuring, "perf_counter", lambda: float(len(calls)))
    workers = [
        LocalWorker(lambda name=name: calls.append(name), "cpu", repeats)
        for name, repeats in (("a", 1), ("b", 2), ("c", 1))
    ]
    seconds = take_turns(workers, 4, before_round=lambda: calls.append("-"))
    assert "".join(calls) == "-abbc-bbca-cabb-abbc"
    assert seconds == [[1.0] * 4] * 3  # of one call, however often it was called


def build(file, name):
    """A side that writes down where it works; it is built in its process."""

    def work():
        with open(file, "a") as out:
            out.write(f"{name} {os.getpid()} {torch.get_num_threads()}\n")

    return work


def failing(where, process):
    """A side that fails while it is built, or at work; or whose process ends."""

    def work():
        if where == "end":
            os._exit(3)
        raise ValueError("no such batch")

    if where == "build" and os.getpid() != process:
        raise ValueError("no such side")
    return work


def test_each_side_works_in_its_own_process(tmp_path):
    file = tmp_path / "calls"
    builds = {name: partial(build, file, name) for name in "ab"}
    with in_processes(builds, 1, "cpu") as (a, b):
        for worker in (a, b):
            worker.peak_memory()
        assert take_turns([a, b], 2)[0][0] > 0
    calls = [line.split() for line in file.read_text().splitlines()]
    # What is measured takes turns: a b, then b a.
    assert [name for name, *_ in calls[-4:]] == ["a", "b", "b", "a"]
    assert {threads for *_, threads in calls} == {"1"}
    processes = {name: pid for name, pid, _ in calls}
    assert len({(name, pid) for name, pid, _ in calls}) == 2
    assert len({*processes.values(), str(os.getpid())}) == 3
    for pid in processes.values():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("build", ValueError, "no such side"),
        ("work", ValueError, "no such batch"),
        ("end", RuntimeError, "the process of the side ended; there was too little memory"),
    ],
)
def test_an_error_over_there_is_one_here(where, error, message):
    builds = {"the side": partial(failing, where, os.getpid())}
    with pytest.raises(error, match=message), in_processes(builds, 1, "cpu") as (worker,):
        worker.seconds()


def test_a_process_that_asks_is_interrupted_not_the_one_that_works(tmp_path):
    file = tmp_path / "calls"
    with in_processes({"a": partial(build, file, "a")}, 1, "cpu") as (worker,):
        worker.seconds()
        os.kill(int(file.read_text().split()[1]), signal.SIGINT)  # as Ctrl-C does to both
        worker.seconds()
    assert len(file.read_text().splitlines()) == 2


def test_the_rate_of_memory(monkeypatch):
    monkeypatch.setattr(measuring, "timed", lambda call, device: 0.5)
    assert measuring.memory_bandwidth("cpu") == 2**12 / 0.5


@pytest.mark.cuda
def test_a_device_is_waited_for():
    numbers = torch.ones(2**26, device="cuda")
    assert measuring.timed(numbers.sum, "cuda", repeats=2) > 0
    assert measuring.peak_memory(lambda: numbers + 1, "cuda") == numbers.nbytes


def test_the_highest_memory_of_a_call():
    if measuring.peak_memory(lambda: None, "cpu") is None:
        pytest.skip("this system does not say how much memory was used")
    size = 32 * 2**20

    def two_at_once_then_none():
        first = torch.ones(size // 4)
        return (first + 1).sum()

    for _ in range(2):  # what was freed is counted again
        peak = measuring.peak_memory(two_at_once_then_none, "cpu")
        assert peak == pytest.approx(2 * size, rel=0.1)
    kept = torch.ones(size // 4)  # what was there before is not
    assert measuring.peak_memory(lambda: kept[:9] + 1, "cpu") < size / 10


def test_memory_that_is_there_and_where_it_is_unknown(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:     700 kB\n")
    monkeypatch.setattr(measuring, "_MACHINE", tmp_path / "meminfo")
    assert measuring.available_memory("cpu") == 700 * 1024
    monkeypatch.setattr(measuring, "_MACHINE", tmp_path / "nothing")
    monkeypatch.setattr(measuring, "_PROCESS", tmp_path / "nothing")
    assert measuring.available_memory("cpu") is None
    assert measuring.peak_memory(lambda: None, "cpu") is None

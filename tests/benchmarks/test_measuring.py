"""Clocks, turns, rates and memory, as far as they do not depend on how fast a machine is."""

import math

import pytest
import torch

from benchmarks import measuring, memory
from benchmarks.measuring import product_rate, ratios, spread, take_turns, timed


def test_median_and_quartiles():
    assert spread([1.0, 2.0, 4.0, 8.0, 9.0]) == {"median": 4.0, "low": 2.0, "high": 8.0}
    assert spread([3.0]) == {"median": 3.0, "low": 3.0, "high": 3.0}
    assert ratios([8.0, 24.0], [2.0, 4.0]) == [4.0, 6.0]


def test_another_side_begins_in_each_round(monkeypatch):
    calls = []
    monkeypatch.setattr(measuring, "perf_counter", lambda: float(len(calls)))
    sides = [lambda name=name: calls.append(name) for name in "abc"]
    seconds = take_turns(sides, 4, repeats=[1, 2, 1], before_round=lambda: calls.append("-"))
    assert "".join(calls) == "-abbc-bbca-cabb-abbc"
    assert seconds == [[1.0] * 4] * 3  # of one call, however often it was called


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_rates_are_numbers(device, monkeypatch):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setattr(measuring, "READ", 2**16)
    monkeypatch.setattr(measuring, "PRODUCT_ROWS", {"cpu": 64, "cuda": 64})
    numbers = torch.ones(9, device=device)
    rates = [
        timed(numbers.sum, device, repeats=2),
        measuring.memory_bandwidth(device),
        product_rate(torch.float32, device),
        product_rate(torch.bfloat16, device),
    ]
    assert all(math.isfinite(rate) and rate > 0 for rate in rates)


def test_the_rate_of_products_counts_two_operations_a_pair(monkeypatch):
    monkeypatch.setattr(measuring, "PRODUCT_ROWS", {"cpu": 10})
    monkeypatch.setattr(measuring, "timed", lambda call, device: 0.5)
    assert product_rate(torch.float32, "cpu") == 2 * 10**3 / 0.5


def test_the_highest_memory_of_a_call():
    if memory.peak_memory(lambda: None, "cpu") is None:
        pytest.skip("this system does not say how much memory was used")
    size = 32 * 2**20

    def twice_at_once_then_nothing():
        first = torch.ones(size // 4)
        return (first + 1).sum()

    for _ in range(2):  # what was freed is counted again
        peak = memory.peak_memory(twice_at_once_then_nothing, "cpu")
        assert peak == pytest.approx(2 * size, rel=0.1)
    kept = torch.ones(size // 4)  # what was there before is not
    assert memory.peak_memory(lambda: kept[:9] + 1, "cpu") < size / 10


def test_memory_that_is_there_and_where_nobody_knows(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:     700 kB\n")
    monkeypatch.setattr(memory, "_MACHINE", tmp_path / "meminfo")
    assert memory.available_memory("cpu") == 700 * 1024
    monkeypatch.setattr(memory, "_MACHINE", tmp_path / "nothing")
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "nothing")
    assert memory.available_memory("cpu") is None
    assert memory.peak_memory(lambda: None, "cpu") is None

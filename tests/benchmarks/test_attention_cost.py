"""The benchmark of attention, on layers so small that its clocks mean nothing."""

import math
import re
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch

from benchmarks import attention_cost, measuring, runs
from benchmarks.attention_cost import Point, Timer
from benchmarks.attention_sides import (
    IMPLEMENTATIONS,
    NO_ATTENTION,
    OURS_SDPA,
    THEIRS_SDPA,
    Built,
    Implementation,
    Layout,
    Weights,
    ours,
    ragged_lengths,
)
from benchmarks.report import ATTENTION, BOTH, FIXED_BATCH, FORWARD, LAYER
from benchmarks.runs import read, records

pytest.importorskip("transformers", reason="the comparison needs transformers")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(runs, "_commit", lambda: "the same")  # whoever commits meanwhile
    monkeypatch.setattr(attention_cost, "SHORTEST_TIME", 0.0)
    monkeypatch.setattr(attention_cost, "SHORTEST", 8)
    sizes = {"hidden": 16, "heads": 2, "intermediate": 20}
    monkeypatch.setattr(attention_cost, "QUICK_SIZES", sizes)


@pytest.fixture
def weights(tmp_path):
    return Weights(tmp_path, 16, 2, 20, False, torch.float32, "cpu")


def timer(weights, implementations=IMPLEMENTATIONS):
    weights.save()
    return Timer([(one, one.build(weights)) for one in implementations], "cpu", 1, [])


def point(part=ATTENTION, passes=FORWARD, length=8):
    return Point(FIXED_BATCH, 2, length, part, passes)


def named(rows):
    return {row["implementation"]: row for row in rows}


def test_a_whole_run_that_is_resumed(tmp_path, capsys, monkeypatch, figures):
    out = tmp_path / "out"
    sides = ["ours eager", THEIRS_SDPA, NO_ATTENTION, "ours optimized"]
    words = ["--quick", "--threads", "1", "--tokens", "64", "--longest", "16", "--rounds", "2"]
    words += ["--budget", "99", "--implementations", *sides, "--out", str(out)]
    count = iter(range(99))
    take_turns = measuring.take_turns

    def interrupted(*arguments):
        if next(count) == 5:
            raise KeyboardInterrupt
        return take_turns(*arguments)

    monkeypatch.setattr(measuring, "take_turns", interrupted)
    assert attention_cost.main(words) == 130
    assert attention_cost.main([*words, "--resume"]) == 0
    assert next(count) == 1 + 16  # two sweeps of two lengths, two parts and two directions
    assert "52 by FLOPs (2 h + f)" in capsys.readouterr().out
    rows = records(read(out / "attention_cost_quick_float32.csv"))
    curves = {
        (sweep, part, passes, name, length)
        for sweep, part, passes, name, length in product(
            ("fixed batch", "fixed tokens"), (ATTENTION, LAYER), (FORWARD, BOTH), sides, (8, 16)
        )
        if part == LAYER or name != NO_ATTENTION
    }
    keys = ("sweep", "part", "passes", "implementation", "length")
    assert {tuple(row[key] for key in keys) for row in rows} == curves and len(rows) == len(curves)
    for row in rows:
        assert row["tokens"] == (64 if row["sweep"] == "fixed tokens" else row["length"])
        assert row["milliseconds_low"] <= row["milliseconds"]
        if row["implementation"] == THEIRS_SDPA:
            assert row["times_faster"] == row["times_faster_low"] == 1
    for sweep in ("fixed_batch", "fixed_tokens"):
        name = f"attention_cost_quick_float32_{sweep}.png"
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        for axes in figures[name].axes:
            labels = [text.get_text() for text in axes.get_legend().get_texts()]
            for side in {*sides, "the layer without attention"} - {NO_ATTENTION}:
                assert any(label.startswith(side) for label in labels)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_give_the_same(causal, dtype, weights):
    found = timer(replace(weights, causal=causal, dtype=dtype))
    for part, passes in product((ATTENTION, LAYER), (FORWARD, BOTH)):
        rows = named(found.time(point(part, passes)))  # it raises where anything differs
        assert all(not row["reason"] for row in rows.values())
        assert rows["ours optimized"]["tokens"] == rows[OURS_SDPA]["tokens"] == 16
        assert rows["ours optimized"]["rows"] == 2 * rows[OURS_SDPA]["rows"]


def scaled(weights):
    """Attention that is off by a little, forward; and its gradient too."""
    built = ours("sdpa", weights)
    attend, layer = (lambda *a, f=f: f(*a) * 1.001 for f in (built.attend, built.layer))
    return Built(attend, layer, built.parameters, built.mask)


def wrong_gradient(weights):
    """What comes out is right, and so is the first gradient; that of the last is not."""
    built = ours("sdpa", weights)

    def attend(query, key, value, mask):
        return built.attend(query, key, value, mask) + (value - value.detach())

    def layer(hidden, mask):
        last = built.parameters[-1]
        return built.layer(hidden, mask) + (last - last.detach())

    return Built(attend, layer, built.parameters, built.mask)


@pytest.mark.parametrize(
    ("wrong", "part", "passes", "gap"),
    [
        (scaled, ATTENTION, FORWARD, "1.0e-03"),
        (scaled, LAYER, BOTH, "1.0e-03"),
        (wrong_gradient, ATTENTION, BOTH, ""),
        (wrong_gradient, LAYER, BOTH, ""),
    ],
)
def test_different_results_are_not_compared(wrong, part, passes, gap, weights):
    sides = [Implementation("right", partial(ours, "eager")), Implementation("wrong", wrong)]
    message = f"{part}, {re.escape(passes)}, length 8: wrong differs by {gap}.* from right"
    with pytest.raises(ValueError, match=message):
        timer(weights, sides).time(point(part, passes))


def test_a_gap_is_a_share_of_what_has_the_same_shape():
    small, large, single = torch.tensor([1e-9, 0]), torch.tensor([0, 2.0]), torch.tensor([0.5])
    others = [small, large, single]
    assert attention_cost.largest_gap([2 * small, large, single], others) < 1e-8
    assert attention_cost.largest_gap([small, large, 1.5 * single], others) == 0.5
    broken = torch.tensor([math.nan])
    for one, other in ((single, broken), (broken, single)):
        assert math.isnan(attention_cost.largest_gap([large, one], [large, other]))


def test_what_cannot_run_is_a_row_and_ends_its_curve(weights):
    def fails(weights):
        def fail(hidden, *_):
            raise RuntimeError("can't allocate memory\nStack")

        return Built(None, fail, list(ours("sdpa", weights).parameters), lambda _: None)

    sides = [Implementation("large", fails), Implementation("ours eager", partial(ours, "eager"))]
    found = timer(weights, sides)
    rows = found.time(point(LAYER))
    assert named(rows)["large"]["reason"] == "cannot run: can't allocate memory"
    assert named(rows)["ours eager"]["reason"] == "" and "milliseconds" in rows[1]
    found.rows += [point(LAYER).what | row for row in rows]
    assert list(named(found.time(point(LAYER, length=16)))) == ["ours eager"]


def test_what_memory_or_time_may_not_suffice_for_is_not_tried(weights, monkeypatch):
    found = timer(weights, IMPLEMENTATIONS[1:3])
    last = {"peak_megabytes": 100.0, "milliseconds": 500.0}
    monkeypatch.setattr(attention_cost, "perf_counter", lambda: 10.0)
    monkeypatch.setattr(measuring, "available_memory", lambda _: 399_000_000)
    assert found.refuse(last, math.inf) == "may need 0.4 GB, 0.4 GB are free"
    monkeypatch.setattr(measuring, "available_memory", lambda _: 401_000_000)
    assert found.refuse(last, math.inf) == ""
    # Four times as long, for each of three calls and a round: 8 seconds.
    assert found.refuse(last, 17.9) == "may take 8 s, 7.9 s are left"
    assert found.refuse(last, 18.1) == ""
    assert [row["reason"] for row in found.time(point(), end=9.0)] == [
        "may take 0 s, 0 s are left"
    ] * 2


def test_sequences_of_unequal_length_have_as_many_tokens():
    for batch, length in ((1, 128), (2, 100), (8, 512), (64, 64)):
        lengths = ragged_lengths(batch, length)
        assert sum(lengths) == batch * length
        assert list(lengths) == sorted(lengths)
        assert 0 < lengths[0] <= lengths[-1] <= length
    assert ragged_lengths(1, 128) == (32, 96)
    assert ragged_lengths(2, 80) == (10, 30, 50, 70)


@pytest.mark.parametrize(
    ("lengths", "is_unpadded", "shape"),
    [((9, 9), False, (2, 9)), ((4, 5, 9), False, (3, 9)), ((4, 5, 9), True, (1, 18))],
)
def test_tokens_that_are_laid_out_can_be_picked_up(lengths, is_unpadded, shape):
    layout = Layout(lengths, is_unpadded, "cpu")
    tokens = torch.randn(18, 5)
    laid = layout.lay(tokens)
    assert laid.shape == (*shape, 5) and layout.shape == shape
    assert torch.equal(layout.pick(laid), tokens)

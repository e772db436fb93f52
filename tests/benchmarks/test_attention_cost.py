"""The benchmark of attention, on layers so small that its clocks mean nothing."""

import math
import re
from dataclasses import asdict, replace
from functools import partial
from itertools import count, product
from types import SimpleNamespace

import pytest
import torch
from matplotlib.backend_bases import FigureCanvasBase
from torch import nn

from benchmarks import attention_cost, measuring, runs
from benchmarks.attention_cost import Job, Point, Timer, make_call, random_tokens
from benchmarks.attention_results import ATTENTION, BOTH, CURVE, FIXED_BATCH, FORWARD, LAYER, SWEEPS
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
    repeat_heads,
)
from benchmarks.runs import read, records

pytest.importorskip("transformers", reason="the comparison needs transformers")
# Those that a CPU has, without what is compiled.
EVERYWHERE = [
    one
    for one in IMPLEMENTATIONS
    if one.name not in ("sdpa: efficient", "sdpa: cudnn", "flex", "varlen_attn")
]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(runs, "_commit", lambda: "the same")  # whoever commits meanwhile
    monkeypatch.setattr(attention_cost, "SHORTEST_TIME", 0.0)
    monkeypatch.setitem(attention_cost.QUICK, "shortest", 8)
    monkeypatch.setattr(attention_cost, "limit_memory", lambda: None)
    monkeypatch.setattr(attention_cost, "rates", lambda _: None)


@pytest.fixture
def weights(tmp_path):
    return Weights(tmp_path, 16, 2, 20, False, 0.0, torch.float32, "cpu")


def timer(weights, implementations=EVERYWHERE, budget=1e9):
    weights.save()
    sides = [(one, one.build(weights)) for one in implementations]
    return Timer(sides, weights, machine=None, rounds=1, budget=budget, rows=[])


def point(part=ATTENTION, passes=FORWARD, length=8, **changed):
    what = {"sweep": FIXED_BATCH, "batch": 2, "length": length, "part": part, "passes": passes}
    what |= {"heads": 2, "head_size": 8, "key_heads": 2, "window": length}
    return Point(**what | changed)


def named(rows):
    return {row["implementation"]: row for row in rows}


def test_a_whole_run_that_is_resumed(tmp_path, capsys, monkeypatch, figures):
    out = tmp_path / "out"
    sides = ["ours eager", THEIRS_SDPA, NO_ATTENTION, "ours optimized"]
    words = ["--quick", "--threads", "1", "--tokens", "64", "--longest", "16", "--length", "16"]
    words += ["--hidden", "32", "--heads", "2", "--intermediate", "20", "--rounds", "2"]
    words += ["--budget", "99", "--implementations", *sides, "--out", str(out)]
    calls = count()
    take_turns = measuring.take_turns

    def interrupted(*arguments):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return take_turns(*arguments)

    monkeypatch.setattr(measuring, "take_turns", interrupted)
    monkeypatch.setattr(FigureCanvasBase, "print_figure", lambda *_, **__: None)  # takes seconds
    assert attention_cost.main(words) == 130
    assert attention_cost.main([*words, "--resume"]) == 0
    assert "84 by FLOPs (2 h + f)" in capsys.readouterr().out
    rows = records(read(out / "attention_cost_quick_float32.csv"))
    curves = {
        (sweep, part, passes, name, length)
        for sweep, part, passes, name, length in product(
            ("fixed batch", "fixed tokens"), (ATTENTION, LAYER), (FORWARD, BOTH), sides, (8, 16)
        )
        if part == LAYER or name != NO_ATTENTION
    }
    changes = {"heads": (1, 2, 4), "head size": (16, 32), "key heads": (1, 2)}
    changes["window"] = (1, 2, 4, 8, 16)
    curves |= {
        (sweep, ATTENTION, passes, name, value)
        for sweep, values in changes.items()
        for value, passes, name in product(values, (FORWARD, BOTH), sides[::3])
    }
    found = [(*(row[key] for key in CURVE), row[SWEEPS[row["sweep"]][0]]) for row in rows]
    assert set(found) == curves and len(rows) == len(curves)
    assert next(calls) == 1 + len({(row[0], row[1], row[2], row[4]) for row in curves})
    for row in rows:
        assert row["tokens"] == (64 if row["sweep"] == "fixed tokens" else row["length"])
        assert row["milliseconds_low"] <= row["milliseconds"]
        if row["sweep"] == "head size":
            assert row["heads"] * row["head_size"] == 32
        if row["implementation"] == THEIRS_SDPA:
            assert row["times_faster"] == row["times_faster_low"] == 1
    for sweep in SWEEPS:
        name = f"attention_cost_quick_float32_{sweep.replace(' ', '_')}.png"
        for axes in figures[name].axes[:: 1 if "fixed" in sweep else 2]:
            labels = [text.get_text() for text in axes.get_legend().get_texts()]
            names = {*sides, "the layer without attention"} - {NO_ATTENTION}
            for side in names if "fixed" in sweep else sides[::3]:
                assert any(label.startswith(side) for label in labels)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_give_the_same(causal, dtype, weights):
    found = timer(replace(weights, causal=causal, dtype=dtype))
    for part, passes in product((ATTENTION, LAYER), (FORWARD, BOTH)):
        rows = named(found.time(point(part, passes)))  # it raises where anything differs
        assert all(not row["reason"] for row in rows.values())
        unpadded = rows["ours optimized, unpadded"]
        assert unpadded["tokens"] == rows[OURS_SDPA]["tokens"] == 16
        assert unpadded["rows"] == 2 * rows[OURS_SDPA]["rows"]


@pytest.mark.parametrize("changed", [{"key_heads": 1}, {"window": 3}, {"heads": 4}])
@pytest.mark.parametrize("causal", [False, True])
def test_all_give_the_same_with_other_heads_and_windows(causal, changed, weights):
    found = timer(replace(weights, causal=causal))
    for passes in (FORWARD, BOTH):
        rows = found.time(point(passes=passes, sweep="window", **changed))
        assert len(rows) == 5 and not any(row["reason"] for row in rows)


def test_what_a_window_and_shared_heads_hide():
    layout = IMPLEMENTATIONS[1].layout(1, 6, "cpu", causal=True, window=2)
    seen = torch.tensor([[abs(i - j) < 2 and j <= i for j in range(6)] for i in range(6)])
    assert torch.equal(layout.mask()[0, 0], seen)
    assert replace(layout, causal=False, window=6).mask() is None
    query, key = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)
    (repeated,) = repeat_heads(query, key)
    assert torch.equal(repeated, key[:, [0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shortest", "32", "--longest", "16"], "--shortest 32 is above --longest 16"),
        (["--shortest", "6", "--tokens", "64", "--longest", "12"], "no multiple of a length of 12"),
    ],
)
def test_lengths_that_do_not_fit_together_are_refused(options, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert attention_cost.main(["--quick", "--threads", "1", *options, "--out", str(out)]) != 0
    assert message in capsys.readouterr().err


def test_what_does_not_run_here_is_a_row(weights):
    sides = [one for one in IMPLEMENTATIONS if one.name in ("sdpa: cudnn", "varlen_attn", "flex")]
    rows = timer(replace(weights, dropout=0.1), sides).time(point())
    assert len(rows) == 3
    assert all(row["reason"].startswith("cannot run: ") for row in rows)


def test_operations_and_memory_are_counted_for_what_is_predicted(weights):
    sides = [one for one in IMPLEMENTATIONS if one.is_predicted]
    found = timer(weights, sides)
    found.machine = SimpleNamespace(seconds=lambda work: work.flops / 1e6)
    rows = named(found.time(point(passes=FORWARD, window=8, batch=1, length=8)))
    # Two products of 8 queries with 8 keys in 2 heads of size 8.
    assert rows["ours eager"]["predicted_milliseconds"] == 4 * 8 * 8 * 16 / 1e3
    scores = 2 * 8 * 8 * 4
    assert 2 * scores <= 1e6 * rows["ours eager"]["predicted_megabytes"] < 5 * scores
    layer = named(found.time(point(LAYER, BOTH)))
    assert (
        layer[NO_ATTENTION]["predicted_milliseconds"] < layer[OURS_SDPA]["predicted_milliseconds"]
    )


def test_with_dropout_results_are_compared_without(weights, monkeypatch):
    torch.manual_seed(0)
    timed_calls = []

    def note(workers, rounds):
        timed_calls.extend(worker.call for worker in workers)
        return [[1.0] * rounds for _ in workers]

    monkeypatch.setattr(measuring, "take_turns", note)
    found = timer(replace(weights, dropout=0.5), EVERYWHERE[:4])
    for part, passes in product((ATTENTION, LAYER), (FORWARD, BOTH)):
        here = point(part, passes)
        rows = named(found.time(here))
        assert all(not row["reason"] for row in rows.values())
        job = Job(*found.sides[1], found.sides[1][0].layout(2, 8, "cpu"))
        tokens = random_tokens(16, here.widths(), torch.ones(1))
        with_dropout, without = (
            make_call(job, here, tokens, dropout)()[0] for dropout in (0.5, 0.0)
        )
        assert not torch.allclose(with_dropout, without)
        one, other = (timed_calls[-1]()[0] for _ in range(2))
        assert not torch.allclose(one, other)  # it is timed with dropout


class Changed(nn.Module):
    """A layer whose output is changed."""

    def __init__(self, layer, change):
        super().__init__()
        self.layer, self.change = layer, change

    def forward(self, *arguments):
        return self.change(self.layer(*arguments)[0])


def scaled(weights):
    """Attention that is off by a little, forward; and its gradient too."""
    built = ours("sdpa", weights)
    layer = Changed(built.layer, lambda output: output * 1.001)
    return Built(lambda *arguments: built.attend(*arguments) * 1.001, layer, built.mask)


def wrong_gradient(weights):
    """What comes out is right, and so is the first gradient; that of the last is not."""
    built = ours("sdpa", weights)

    def attend(query, key, value, *others):
        return built.attend(query, key, value, *others) + (value - value.detach())

    last = list(built.layer.parameters())[-1]
    layer = Changed(built.layer, lambda output: output + (last - last.detach()))
    return Built(attend, layer, built.mask)


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


def test_memory_that_is_out_is_a_row_and_longer_points_are_not_tried(weights):
    def fails(weights):
        def fail(*_):
            raise RuntimeError("can't allocate memory\nStack")

        return ours("sdpa", weights)._replace(attend=fail)

    sides = [Implementation("large", fails), Implementation("ours eager", partial(ours, "eager"))]
    rows = named(timer(weights, sides).time(point()))
    assert rows["large"]["reason"] == "cannot run: can't allocate memory"
    assert rows["ours eager"]["reason"] == "" and rows["ours eager"]["seconds_spent"] > 0


def test_what_memory_or_time_may_not_suffice_for_is_not_tried(weights, monkeypatch):
    found = timer(weights, IMPLEMENTATIONS[1:3])
    before = asdict(point(length=4)) | {"implementation": "ours eager"}
    before |= {"peak_megabytes": 100.0, "milliseconds": 500.0}
    found.rows += [before, asdict(point()) | {"implementation": "ours eager", "reason": "time"}]
    job = Job(*found.sides[0], found.sides[0][0].layout(2, 16, "cpu"))

    def refuse(free, left, length=8):
        monkeypatch.setattr(measuring, "available_memory", lambda _: free)
        return found.refuse(job, point(length=length), left)

    # Twice the length is four times the memory, and four times the time, for two calls.
    assert refuse(399_000_000, 99.0) == "out of memory: needs 0.4 GB, 0.4 GB are free"
    assert refuse(401_000_000, 99.0) == ""
    assert refuse(401_000_000, 99.0, 16) == "out of memory: needs 1.6 GB, 0.4 GB are free"
    assert refuse(10**10, 3.9) == "out of time: takes 4 s, 3.9 s are left for it"
    assert refuse(10**10, 4.1) == ""
    # A long call is made once.
    assert refuse(10**10, 7.9, 16).startswith("out of time: takes 8 s")
    assert refuse(10**10, 8.1, 16) == ""
    job.predicted = 1.0, 3 * 10**9  # counts more than what was measured before
    assert refuse(2 * 10**9, 99.0) == "out of memory: needs 3.0 GB, 2.0 GB are free"
    assert refuse(10**10, 1.9) == "out of time: takes 2 s, 1.9 s are left for it"
    assert refuse(10**10, 2.1) == ""
    job.predicted, other = None, point(length=8, part=LAYER)  # of which nothing is known
    assert found.refuse(job, other, 0.1) == ""


def test_a_point_gets_a_share_of_the_budget_that_earlier_ones_left(weights, monkeypatch):
    found = timer(weights, IMPLEMENTATIONS[1:2], budget=100.0)
    found.rounds = 50
    monkeypatch.setattr(attention_cost, "SHARE", 0.1)
    monkeypatch.setattr(measuring, "timed", lambda *_: 0.25)
    monkeypatch.setattr(attention_cost, "perf_counter", lambda: 0.0)
    rounds = []
    monkeypatch.setattr(
        measuring, "take_turns", lambda jobs, n: rounds.append(n) or [[0.25] * n for _ in jobs]
    )
    (row,) = found.time(point())
    assert rounds == [40]  # in 10 seconds
    assert row["seconds_spent"] == 10
    found.rows.append(asdict(point()) | row)
    found.time(point(length=4))
    assert rounds == [40, 36]
    monkeypatch.setattr(attention_cost, "LONG", 0.2)
    monkeypatch.setattr(attention_cost, "perf_counter", count(0, 0.25).__next__)
    (row,) = found.time(point(length=4))
    assert rounds[2] == 0  # it has its time
    assert row["milliseconds"] == row["milliseconds_low"] == 250
    found.budget = 5.0
    (row,) = found.time(point(length=4))
    assert row["reason"].startswith("out of time")


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
    layout = Layout(lengths, is_unpadded, "cpu", causal=False, window=9)
    tokens = torch.randn(18, 5)
    laid = layout.lay(tokens)
    assert laid.shape == (*shape, 5) and layout.shape == shape
    assert torch.equal(layout.pick(laid), tokens)

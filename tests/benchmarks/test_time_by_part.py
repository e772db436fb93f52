"""Where the time of a step goes: on made times, and on models so small that theirs mean nothing."""

import argparse
from contextlib import nullcontext
from copy import deepcopy
from itertools import product

import pytest
import torch

from benchmarks import time_by_part
from benchmarks.runs import read, records
from benchmarks.time_by_part import (
    IMPLEMENTATIONS,
    INFERENCE,
    MODES,
    OPTIMIZED,
    PARTS,
    PLAIN,
    SHAPES,
    TRAINING,
    WHOLE,
    Runner,
    Stopwatch,
    cases,
    infer,
    parts_inside,
    rows_of,
    train,
    watched,
)
from minitransformer import optimize
from minitransformer.fast import is_optimized


class Clock:
    """A clock that only work moves."""

    now = 0.0

    def __call__(self):
        return self.now


class Work(torch.autograd.Function):
    """Takes `seconds` forward, ten times as many backward."""

    @staticmethod
    def forward(ctx, x, clock, seconds):
        ctx.clock, ctx.seconds = clock, seconds
        clock.now += seconds
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.clock.now += 10 * ctx.seconds
        return gradient, None, None


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Of what a time is predicted: a second for each part."""
    found = []

    def model(config, *, batch, length, train, dtype, implementation):
        found.append((type(config), batch, length, train, dtype, implementation))

    machine = argparse.Namespace(seconds_by_part=lambda _: dict.fromkeys(PARTS, 1.0))
    monkeypatch.setattr(time_by_part, "rates", lambda _: machine)
    monkeypatch.setattr(time_by_part.cost, "model", model)
    return found


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def runner():
    return Runner(argparse.Namespace(device="cpu", dtype="float32", quick=True, rounds=2))


def test_every_moment_belongs_to_one_part(clock):
    """Parts within parts, a residual connection, work between the calls and after them."""
    stopwatch = Stopwatch(clock=clock)

    def work(seconds):
        return lambda x: Work.apply(x, clock, seconds)

    def attend(x, **named):
        x = work(1)(x)
        x = stopwatch.watching(work(2), "projections")(x)
        return work(4)(x) + named["bias"], None

    def layer(x):
        attended, _ = stopwatch.watching(attend, "attention")(x=x, bias=x)
        return work(8)(x + attended)

    x = torch.ones(3, requires_grad=True)
    clock.now += 1000  # before the step
    stopwatch.start("loss")
    embedded = stopwatch.watching(work(16), "embeddings")(x)
    hidden = stopwatch.watching(layer, "norms")(embedded)
    logits = stopwatch.watching(work(32), "head")(hidden)
    loss = work(64)(logits).sum()
    stopwatch.boundary("loss", loss)
    loss.backward()
    stopwatch.boundary("optimizer")
    clock.now += 128
    stopwatch.boundary("loss")
    forward = {"attention": 1 + 4, "projections": 2, "norms": 8, "embeddings": 16, "head": 32}
    expected = {part: 11 * seconds for part, seconds in (forward | {"loss": 64}).items()}
    assert stopwatch.seconds == {"feed-forward": 0} | expected | {"optimizer": 128}
    assert sum(stopwatch.seconds.values()) == clock.now - 1000
    assert x.grad.tolist() == [3.0] * 3  # two ways to it inside the layer, and the residual


def test_the_parts_of_a_model(runner):
    def part(name, model):
        return dict(parts_inside(model)).get(model.get_submodule(name))

    (roberta, gpt2, t5) = (runner.build(name, TRAINING, 66)[0] for name in SHAPES)
    for model, inside in (
        (roberta, "backbone.layers.0"),
        (gpt2, "backbone.layers.0"),
        (t5, "backbone.decoder.layers.0"),
        (t5, "backbone.encoder.layers.1"),
    ):
        assert part(inside, model) == "norms"
        assert part(f"{inside}.attention", model) == "attention"
        assert part(f"{inside}.attention.output", model) == "projections"
        assert part(f"{inside}.feed_forward", model) == "feed-forward"
        assert part(f"{inside}.feed_forward.up_proj", model) is None  # within the feed-forward
        assert part(f"{inside}.attention_norm", model) is None  # within the layer
    assert part("backbone.decoder.layers.0.cross_attention.key", t5) == "projections"
    assert part("backbone.decoder.position_bias", t5) == "attention"
    assert part("backbone", roberta) == part("backbone", gpt2) == "embeddings"
    assert part("lm_head", roberta) == "head"


@pytest.mark.parametrize("model", SHAPES)
def test_a_watched_step_computes_what_an_unwatched_one_does(runner, model, monkeypatch):
    """Also that an optimized model stays on its own paths: it scores labelled tokens alone."""
    built, optimizer = runner.build(model, TRAINING, 66)
    optimize(built)
    scored, losses = [], []
    original = torch.nn.functional.cross_entropy

    def note(logits, *args, **kwargs):
        scored.append(len(logits))
        loss = original(logits, *args, **kwargs)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", note)
    batch = time_by_part.make_batch(built, 40, True)
    stopwatch, weights = Stopwatch(), deepcopy(built.state_dict())
    for boundary in (time_by_part.no_boundary, stopwatch.boundary):
        built.load_state_dict(weights)
        torch.manual_seed(1)
        with watched(built, stopwatch) if boundary == stopwatch.boundary else nullcontext():
            stopwatch.start("loss")
            train(built, optimizer, batch, torch.float32, boundary)
    assert losses[0] == losses[1]
    labelled = {"encoder": int((batch["labels"] != -100).sum()), "decoder": 39}
    assert scored == [labelled.get(model, 40)] * 2
    assert not any("forward" in vars(module) for module in built.modules())
    assert all(stopwatch.seconds.values())  # each of the eight parts has some time


def test_rows_have_the_parts_and_what_they_sum_up_to():
    nothing = dict.fromkeys(PARTS, 0.0)
    found = [nothing | {"attention": 3.0, "head": 1.0}, nothing | {"attention": 5.0, "head": 5.0}]
    whole, attention, head = rows_of([4.0, 8.0], found, {"attention": 2.0, "norms": 1.0})
    assert (whole["part"], whole["milliseconds"], whole["sum_of_parts"]) == (WHOLE, 6000, 1.125)
    assert (attention["part"], attention["milliseconds"]) == ("attention", 4000)
    assert (attention["share"], attention["share_low"]) == (0.625, 0.5625)
    assert (head["part"], head["milliseconds_high"]) == ("head", 4000)
    assert [row["predicted_milliseconds"] for row in (whole, attention, head)] == [2000, 2000, 0]
    assert not any("predicted_milliseconds" in row for row in rows_of([4.0, 8.0], found, {}))


def test_what_may_not_end_within_the_budget_is_left_out(monkeypatch):
    monkeypatch.setattr(time_by_part, "perf_counter", lambda: 100.0)
    stub = argparse.Namespace(measure=print)
    plan = argparse.Namespace(models=["decoder"], shortest=64, longest=128, rounds=2, budget=0.5)
    rows = [
        {"length": 64, "model": "decoder", "mode": mode, "implementation": implementation}
        | {"part": WHOLE, "milliseconds": 1e3 * seconds}
        for mode, implementation, seconds in (
            # Four times as long, in a call and two rounds: 32 s, where 30 are left.
            (TRAINING, PLAIN, 1.6),
            (TRAINING, OPTIMIZED, 1.4),
            (INFERENCE, PLAIN, 0.1),
        )  # the optimized forward pass was left out before
    ]
    found = [
        (case.what["length"], *list(case.what.values())[2:]) for case in cases(plan, stub, rows)
    ]
    every = [(64, mode, implementation) for mode in MODES for implementation in IMPLEMENTATIONS]
    assert found == [*every, (128, TRAINING, OPTIMIZED), (128, INFERENCE, PLAIN)]


def test_a_shortest_length_above_the_longest_is_refused(tmp_path, capsys):
    words = ["--quick", "--shortest", "512", "--longest", "256", "--out", str(tmp_path / "out")]
    assert time_by_part.main(words) != 0
    assert "--shortest 512 is above --longest 256" in capsys.readouterr().err


def test_a_whole_run(tmp_path, capsys, figures, monkeypatch, asked):
    monkeypatch.setitem(time_by_part.QUICK, "longest", 128)
    seen = []
    for function in (train, infer):

        def noted(model, *rest, function=function):
            seen.append((model.training, is_optimized(model)))
            function(model, *rest)

        monkeypatch.setattr(time_by_part, function.__name__, noted)
    out = tmp_path / "out"
    assert time_by_part.main(["--quick", "--out", str(out), "--threads", "1"]) == 0
    name = "time_by_part_quick_float32"
    rows = records(read(out / f"{name}.csv"))
    steps = [
        (n, m, mode, i)
        for n in (64, 128)
        for m in SHAPES
        for mode in MODES
        for i in IMPLEMENTATIONS
    ]
    keys = ("length", "model", "mode", "implementation")
    assert list(dict.fromkeys(tuple(row[key] for key in keys) for row in rows)) == steps
    calls = [(mode == TRAINING, side == OPTIMIZED) for *_, mode, side in steps]
    assert seen == [call for call in calls for _ in range(1 + 2 * 2)]  # both sides in two rounds
    assert asked == [
        (SHAPES[model].model_class.config_class, 1, length, mode == TRAINING, "float32", name)
        for length, model, mode in product((64, 128), SHAPES, MODES)
        for name in ("sdpa", "optimized")
    ]
    for step in steps:
        mine = {row["part"]: row for row in rows if tuple(row[key] for key in keys) == step}
        missing = {"loss", "optimizer"} if step[2] == INFERENCE else set()
        assert mine.keys() == {WHOLE, *PARTS} - missing
        shares = sum(row["share"] for part, row in mine.items() if part != WHOLE)
        assert shares == pytest.approx(1, abs=0.1)  # medians of two rounds
        predicted = {part: row["predicted_milliseconds"] for part, row in mine.items()}
        assert predicted == dict.fromkeys(mine, 1000) | {WHOLE: 1000 * (len(mine) - 1)}
    printed = capsys.readouterr().out
    for word in ("sum / whole", "feed-forward", "predicted"):
        assert word in printed
    for mode in MODES:
        panels = figures[f"{name}_{mode}.png"].axes
        assert [panel.get_title() for panel in panels] == [
            f"{shape.label}, {side}" for side in IMPLEMENTATIONS for shape in SHAPES.values()
        ]
        for panel in panels:
            *_, top = panel.lines
            assert list(top.get_ydata()) == pytest.approx([1, 1])
            assert top.get_linestyle() == "--"  # what was predicted
            ticks = [label.get_text().split("\n") for label in panel.get_xticklabels()]
            assert [tick[0] for tick in ticks] == ["64", "128"]
            assert {len(tick) for tick in ticks} == {3}  # with the time and the error

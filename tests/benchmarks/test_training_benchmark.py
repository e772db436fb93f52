"""The benchmark of a training step, on models so small that its clocks mean nothing."""

import copy
import csv
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from benchmarks import draw, rows, training, training_steps
from benchmarks.comparison import (
    AS_IT_COMES,
    AT_ITS_BEST,
    COMPILED,
    OURS,
    OURS_SORTED,
)
from benchmarks.flops import EncoderSizes
from benchmarks.training import CASES, Plan
from minitransformer.fast import is_optimized
from tests.benchmarks.counting import count_flops, count_optimized_flops, leave_out_attention
from tests.benchmarks.in_one_process import in_one_process
from tests.benchmarks.pictures import png_size, texts_in, watch_pictures

pytest.importorskip("transformers", reason="the comparison needs transformers")

SIZES = EncoderSizes(32, 2, 4, 37)
TINY = {
    name: replace(case, vocab_size=96 + n, length=24, batch_size=4, batches=min(2, case.batches))
    for n, (name, case) in enumerate(CASES.items())
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(training, "QUICK_PLAN", Plan(TINY, SIZES, passes=2))
    monkeypatch.setattr("benchmarks.measuring.PRODUCT_ROWS", {"cpu": 16})


def prepared(name, dropout=0.0, plain=False):
    """A case, both models and its batches; ours optimized, or plain with the formula."""
    case = TINY[name]
    lines, full = rows.made_up_rows(96, 24)
    made = rows.made_up_windows(96, 24) if case.is_squad else lines if case.is_ragged else full
    attention = "eager" if plain else "sdpa"
    theirs, ours = training_steps.load_models(
        case, SIZES, dropout, rows.PAD, "cpu", attention=attention, plain=plain
    )
    assert is_optimized(ours) != plain
    theirs.set_attn_implementation(attention)
    return case, theirs, ours, training.make_batches(case, made, seed=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["lines-30k", "squad"])
def test_both_compute_the_same_until_a_weight_is_changed(name, dtype):
    case, theirs, ours, batches = prepared(name, dropout=0.1)
    checked = training_steps.batches_to_check(case, batches["random"][0])
    before = [probabilities(model) for model in (theirs, ours)]
    training_steps.check_agreement(theirs, ours, checked, dtype)
    # It leaves them as they were before, ready to train.
    assert theirs.training and ours.training
    assert [probabilities(model) for model in (theirs, ours)] == before
    assert all(p.grad is None for model in (theirs, ours) for p in model.parameters())
    with torch.no_grad():
        ours.backbone.layers[0].feed_forward.down_proj.weight *= 3
    with pytest.raises(ValueError, match="is .* in minitransformer, .* in transformers"):
        training_steps.check_agreement(theirs, ours, checked, dtype)


def probabilities(model):
    """Of dropout, by module."""
    return [
        (name, key, value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key in ("p", "dropout")
    ]


@pytest.mark.parametrize("name", ["lines-30k", "squad"])
def test_the_path_of_training_is_what_is_checked(name):
    _, theirs, ours, _ = prepared(name, dropout=0.1)
    attention = ours.backbone.layers[1].attention
    for model in (theirs, ours):
        before = probabilities(model)
        with training_steps.trained_without_dropout(model):
            assert model.training and attention.training
            assert {value for *_, value in probabilities(model)} == {0.0}
        assert probabilities(model) == before
        assert sum(value == 0.1 for *_, value in before) >= 5
    assert attention.dropout == 0.1


def test_every_batch_is_checked(monkeypatch):
    checked = []
    monkeypatch.setattr(
        training, "check_agreement", lambda theirs, ours, batches, dtype: checked.extend(batches)
    )
    monkeypatch.setattr(training, "in_processes", lambda *_: nullcontext([]))
    monkeypatch.setattr(training, "measure", lambda *_: ([], []))
    arguments = training.parser().parse_args(["--out", "x"])
    made, _ = rows.made_up_rows(96, 24)
    training.measure_case(
        TINY["lines-30k"], made, 0.1, False, arguments, Plan(TINY, SIZES, passes=1)
    )
    made = training.make_batches(TINY["lines-30k"], made, seed=0)
    for batch, there in zip([*made["random"], *made["sorted"]], checked, strict=True):
        assert torch.equal(batch["labels"], there["labels"])


def test_answers_are_checked_without_padding():
    case, *_, batches = prepared("squad")
    checked = training_steps.batches_to_check(case, batches["random"][0])
    assert len(checked) == 4
    assert all(bool(one["attention_mask"].all()) for one in checked)
    assert [one["start_positions"].shape for one in checked] == [(1,)] * 4


@pytest.mark.parametrize("name", ["lines-30k", "squad"])
def test_flops_are_those_that_pytorch_counts(name):
    case, theirs, ours, batches = prepared(name, plain=True)
    batch = batches["random"][0]
    assert not batch["attention_mask"].all()
    plain = training_steps.our_flops(case, SIZES, batch, optimized=False)
    for loss_of, expected in (
        (training_steps.their_loss(theirs), training_steps.their_flops(case, SIZES, batch)),
        (training_steps.our_loss(ours), plain),
    ):
        assert count_flops(lambda loss_of=loss_of: loss_of(batch).backward()) == expected
    assert training_steps.necessary_flops(case, SIZES, batch) < plain


@pytest.mark.parametrize("name", ["full-30k", "lines-30k", "squad"])
def test_an_optimized_model_executes_no_padding(name, monkeypatch):
    case, _, ours, batches = prepared(name)
    batch = batches["random"][0]
    leave_out_attention(monkeypatch)
    executed = training_steps.our_flops(case, SIZES, batch, optimized=True)
    loss_of = training_steps.our_loss(ours)
    assert count_optimized_flops(lambda: loss_of(batch).backward()) == executed
    necessary = training_steps.necessary_flops(case, SIZES, batch)
    if name == "lines-30k":
        assert executed == necessary
    elif name == "squad":  # padding gets its two scores
        assert executed == pytest.approx(necessary, rel=0.01)
    else:  # without padding, the last layer computes as many tokens of every row
        assert necessary <= executed < training_steps.their_flops(case, SIZES, batch)


def test_who_gets_which_batches():
    case, theirs, ours, batches = prepared("squad")
    arguments = training.parser().parse_args(["--out", "x"])
    sides = {
        side.name: side
        for side in training.make_sides(case, SIZES, theirs, ours, batches, False, arguments)
    }
    assert list(sides) == [AS_IT_COMES, AT_ITS_BEST, OURS, OURS_SORTED]
    assert {b["input_ids"].shape[1] for b in sides[AS_IT_COMES].batches} == {24}
    assert {b["input_ids"].shape[1] for b in sides[OURS_SORTED].batches} != {24}
    for mine, made in zip(sides[OURS_SORTED].batches, batches["sorted"], strict=True):
        assert torch.equal(mine["input_ids"], made["input_ids"])
    for one, other in ((AS_IT_COMES, OURS), (AT_ITS_BEST, OURS_SORTED)):
        assert sides[one].real_tokens == sides[other].real_tokens
        for theirs_batch, ours_batch in zip(sides[one].batches, sides[other].batches, strict=True):
            assert torch.equal(theirs_batch["input_ids"], ours_batch["input_ids"])
            assert torch.equal(theirs_batch["end_positions"], ours_batch["end_positions"])


def test_transformers_compiled_trains_the_same_model_on_the_best_batches(monkeypatch):
    case, theirs, ours, batches = prepared("lines-30k")
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: asked.append(how) or model)
    arguments = training.parser().parse_args(["--out", "x"])
    made = training.make_sides(case, SIZES, theirs, ours, batches, True, arguments)
    sides = {side.name: side for side in made}
    assert list(sides) == [AS_IT_COMES, AT_ITS_BEST, COMPILED, OURS, OURS_SORTED]
    assert asked == [{"dynamic": True}]
    for one, other in zip(sides[COMPILED].batches, sides[AT_ITS_BEST].batches, strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
    batch = sides[COMPILED].batches[0]
    before = next(theirs.parameters()).detach().clone()
    loss = sides[COMPILED].work(batch)
    assert not torch.equal(next(theirs.parameters()), before)
    assert sides[AT_ITS_BEST].work(batch) < loss


def test_only_the_cases_that_are_named_are_compiled(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "in_processes", in_one_process)
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    options = ["--cases", "squad", "lines-30k", "--compile-theirs", "squad", "--dropout", "0"]
    assert training.main(["--quick", "--out", str(tmp_path), *options]) == 0
    found = json.loads((tmp_path / "training_quick_float32.json").read_text())
    compiled = {row["case"] for row in found["sides"] if row["side"] == COMPILED}
    assert compiled == {TINY["squad"].name}
    assert found["plan"]["compile_theirs"] == ["squad"]
    options = ["--cases", "squad", "--compile-theirs", "full-50k"]
    assert training.main(["--quick", "--out", str(tmp_path / "other"), *options]) != 0
    assert "--compile-theirs full-50k: not among" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_what_is_compiled_is_checked_too(tmp_path, monkeypatch, capsys):
    def other_weights(model, **_):
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.5)
        return other

    monkeypatch.setattr(training, "in_processes", in_one_process)
    monkeypatch.setattr(torch, "compile", other_weights)
    options = ["--cases", "squad", "--compile-theirs", "squad", "--dropout", "0"]
    assert training.main(["--quick", "--out", str(tmp_path / "out"), *options]) != 0
    assert "speeds of different computations" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_fit_the_smallest_vocabulary():
    arguments = training.parser().parse_args(["--out", "x"])
    backwards = dict(reversed(TINY.items()))
    made = training.read_rows(arguments, Plan(backwards, SIZES, passes=1))
    assert max(row.max() for kind in ("lines", "full") for row in made[kind].ids) < 96


def test_a_step_takes_the_optimizer_along():
    _, theirs, ours, batches = prepared("lines-30k")
    batch = batches["random"][0]
    losses = {}
    for name, model, loss_of, optimizer in (
        ("theirs", theirs, training_steps.their_loss(theirs), training_steps.their_optimizer),
        ("ours", ours, training_steps.our_loss(ours), training_steps.our_optimizer),
    ):
        step = training_steps.training_step(loss_of, optimizer(model), "float32")
        losses[name] = [float(step(batch)) for _ in range(5)]
        assert all(p.grad is None for p in model.parameters())
    assert losses["ours"][4] < losses["ours"][0]
    assert losses["ours"] == pytest.approx(losses["theirs"], abs=1e-4)


@pytest.mark.slow
def test_a_whole_run(tmp_path, capsys, monkeypatch):
    figures = watch_pictures(monkeypatch)
    out = tmp_path / "out"
    for dtype in ("float32", "bfloat16"):
        words = ["--quick", "--dtype", dtype, "--threads", "1", "--out", str(out)]
        assert training.main(words) == 0
    printed = capsys.readouterr().out
    assert all(case.name in printed for case in TINY.values())
    assert "made up, lengths log-normal around 23 tokens" in printed

    found = json.loads((out / "training_quick_bfloat16.json").read_text())
    assert found["environment"]["threads"] == 1
    plan = found["plan"]
    assert plan["sizes"]["intermediate_size"] == 37 and plan["passes"] == 2
    assert plan["cases"]["squad"]["batch_size"] == 4
    names = ("quick", "seed", "attention", "plain", "compile_theirs")
    assert [plan[name] for name in names] == [True, 0, "sdpa", False, []]
    assert {row["dtype"] for row in found["sides"]} == {"bfloat16"}
    assert [row["dropout"] for row in found["ratios"]] == [*[0.1] * 2, *[0.0] * 2] * 2 + [
        *[0.1] * 3,
        *[0.0] * 3,
    ] * 3
    for row in found["sides"]:
        assert row["necessary_gigaflops"] <= row["executed_gigaflops"]
        assert row["padding"] == 0 or "rows of" not in row["case"]
    targets = {(row["case"], row["against"]): row["target"] for row in found["ratios"]}
    assert targets[(TINY["lines-30k"].name, "as it comes")] == 3.5
    with open(out / "training_quick_float32.csv") as file:
        lines = list(csv.DictReader(file))
    assert {line["measured"] for line in lines} == {"side", "ratio"}
    assert {(line["quick"], line["seed"], line["hidden_size"]) for line in lines} == {
        ("True", "0", "32")
    }
    assert {line["batch_size"] for line in lines} == {"4"}
    assert float(lines[-1]["ratio_low"]) <= float(lines[-1]["ratio"])

    picture = out / "training_quick.png"
    assert png_size(picture)[0] == 1200  # ten inches of 120 dots
    figure = figures[picture.name]
    for axes in figure.axes:  # the bars are seen in both panels, however far off
        bars = [line for line in axes.lines if line.get_color() == "tab:red"]
        seen = [float(x) for bar in bars for x in bar.get_xdata()]
        assert len(seen) >= 2 * len(TINY) and max(seen) < axes.get_xlim()[1]
    picture.unlink()
    assert draw.main([str(out)]) == 0
    assert picture.exists() and texts_in(figures[picture.name]) == texts_in(figure)


def test_what_is_missing_is_said(tmp_path, capsys, monkeypatch):
    for words, message in (
        (["--text", "nowhere.txt"], "--text nowhere.txt: there is no such file"),
        (["--squad", "nowhere.json"], "--squad nowhere.json: there is no such file"),
    ):
        assert training.main(["--quick", "--out", str(tmp_path / "out"), *words]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    for words, message in (
        (["--device", "tpu"], "'tpu' is unknown; choose cpu or cuda"),
        (["--cases", "all"], "invalid choice: 'all'"),
        (["--attention", "flush"], "invalid choice: 'flush'"),
    ):
        with pytest.raises(SystemExit):
            training.main(["--out", "x", *words])
        assert message in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert training.main(["--quick", "--out", str(tmp_path / "out")]) == 1
    assert "compares with transformers: pip install transformers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert draw.main([str(tmp_path)]) == 1
    assert "holds no results of generation, training" in capsys.readouterr().err

"""Training and inference, on models so small that their clocks mean nothing."""

import copy
from argparse import Namespace
from dataclasses import replace

import pytest
import torch

from benchmarks import batches, encoders, inference, training
from benchmarks.batches import RANDOM, SORTED
from benchmarks.encoders import BEST, COMPILED, DEFAULT, OPTIMIZED, PLAIN, SAME, THEIRS, Side
from benchmarks.runs import read, records
from minitransformer import optimize
from tests.benchmarks.conftest import tick_labels

pytest.importorskip("transformers", reason="the comparison needs transformers")

SIZES = dict(zip(encoders.SIZES, (32, 2, 4, 37), strict=True))
TRAINING = {
    name: replace(case, sizes=SIZES, vocab_size=96 + number, length=24, batch_size=4, dropout=0.1)
    for number, (name, case) in enumerate(training.CASES.items())
}
INFERENCE = {
    name: replace(
        case, sizes=SIZES, vocab_size=99, batch_size=min(4, case.batch_size), num_batches=2
    )
    for name, case in inference.CASES.items()
}
ALL = TRAINING | INFERENCE
RAGGED = ["lines-30k", "squad", "encode", "classify"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(encoders, "QUICK_SIZES", SIZES)


def sequences_of(case):
    return batches.made_up(case.kind, 96, 64 if case.kind == "ragged" else case.length)


def prepared(name, dropout=True, **changes):
    """A case, the three models, and its random batches."""
    case = replace(ALL[name], **changes)
    if not dropout and name in TRAINING:
        case = replace(case, dropout=0.0)
    theirs, plain = case.load()
    models = {THEIRS: theirs, PLAIN: plain, OPTIMIZED: optimize(case.load()[1])}
    return case, models, case.batches(sequences_of(case), RANDOM)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [*RAGGED, "gpt2-prompt-1024"])
def test_all_compute_the_same_until_a_weight_is_changed(name, dtype):
    case, models, (batch, *_) = prepared(name, dtype=dtype)
    theirs = models.pop(THEIRS)
    before = [probabilities(model) for model in (theirs, *models.values())]
    case.check(theirs, models, batch)
    # It leaves them as they were before.
    assert [probabilities(model) for model in (theirs, *models.values())] == before
    assert all(p.grad is None for m in (theirs, *models.values()) for p in m.parameters())
    for name, model in models.items():
        backbone = getattr(model, "backbone", model)
        with torch.no_grad():
            backbone.layers[0].feed_forward.down_proj.weight *= -3
        with pytest.raises(ValueError, match=f"{name}.* cannot be compared"):
            case.check(theirs, {name: model}, batch)


def probabilities(model):
    """Of dropout, by module, and whether the model trains."""
    return model.training, [
        (name, key, value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key in ("p", "dropout")
    ]


def test_results_of_another_shape_are_not_compared():
    case, models, (batch, *_) = prepared("encode")
    cut = lambda **b: models[PLAIN](b["input_ids"][:2], b["attention_mask"][:2])  # noqa: E731
    with pytest.raises(ValueError, match="plain gives \\(2, .* cannot be compared"):
        case.check(models[THEIRS], {PLAIN: cut}, batch)


def test_what_is_checked_is_the_path_of_training_without_dropout():
    _, models, _ = prepared("lines-30k")
    for model in models.values():
        before = probabilities(model)
        with training.dropout_off(model):
            assert model.training
            assert {value for *_, value in probabilities(model)[1]} == {0.0}
        assert probabilities(model) == before
        assert sum(value == 0.1 for *_, value in before[1]) >= 5


def test_answers_are_checked_without_padding():
    case, _, (batch, *_) = prepared("squad")
    checked = case.checked(batch)
    assert len(checked) == 4
    assert all(bool(one["attention_mask"].all()) for one in checked)
    assert [one["start_positions"].shape for one in checked] == [(1,)] * 4


def test_a_step_takes_the_optimizer_along():
    case, models, (batch, *_) = prepared("lines-30k", dropout=False)
    losses = {}
    for implementation, model in models.items():
        step = case.work(model, implementation)
        losses[implementation] = [float(step(batch)) for _ in range(5)]
        assert all(p.grad is None for p in model.parameters())
    assert losses[THEIRS][4] < losses[THEIRS][0]
    for ours in (PLAIN, OPTIMIZED):
        assert losses[ours] == pytest.approx(losses[THEIRS], abs=1e-4)


def test_which_sides_the_settings_need():
    ragged, full = TRAINING["squad"], TRAINING["full-30k"]
    ours = [Side(PLAIN, SORTED), Side(OPTIMIZED, SORTED)]
    assert ragged.sides([DEFAULT], compiled=True) == [Side(THEIRS, RANDOM), *ours]
    assert ragged.sides([BEST], compiled=False) == [Side(THEIRS, SORTED), *ours]
    everything = ragged.sides([DEFAULT, BEST, SAME], compiled=True)
    assert everything == [
        *(Side(THEIRS, RANDOM), Side(THEIRS, SORTED), Side(COMPILED, SORTED), *ours),
        *(Side(PLAIN, RANDOM), Side(OPTIMIZED, RANDOM)),
    ]
    assert full.sides([DEFAULT, BEST, SAME], compiled=False) == [
        *(Side(THEIRS, RANDOM), Side(THEIRS, SORTED), *ours)
    ]


def test_who_gets_which_batches():
    case = TRAINING["squad"]
    made = {order: case.batches(sequences_of(case), order) for order in (RANDOM, SORTED)}
    # As transformers' course pads windows; sorted ones are padded to the longest.
    assert {b["input_ids"].shape[1] for b in made[RANDOM]} == {24}
    assert min(b["input_ids"].shape[1] for b in made[SORTED]) < 24
    full = TRAINING["full-30k"]
    mine = {SORTED: full.batches(sequences_of(full), RANDOM)}
    (theirs,), (ours,) = (
        encoders.batches_of(Side(implementation, SORTED), mine)
        for implementation in (THEIRS, OPTIMIZED)
    )
    assert theirs.keys() == ours.keys() - {"attention_mask"}
    assert torch.equal(theirs["labels"], ours["labels"])


def test_ratios_are_of_real_tokens_and_to_the_fastest():
    case = replace(TRAINING["squad"], targets=(5.0, None))
    taken = {  # seconds for a real token
        Side(THEIRS, RANDOM): [16.0, 8.0],
        Side(THEIRS, SORTED): [8.0, 16.0],
        Side(COMPILED, SORTED): [4.0, 8.0],
        Side(OPTIMIZED, SORTED): [1.0, 4.0],
        Side(OPTIMIZED, RANDOM): [8.0, 1.0],
    }
    settings = [DEFAULT, BEST, SAME]
    row = encoders.compare(case, Side(OPTIMIZED, SORTED), taken, settings)
    assert row["times_default"] == (16 + 2) / 2 and row["default_target"] == 5
    assert row["times_best"] == (4 + 2) / 2 and row["best_is_beside"] == COMPILED
    assert "times_same" not in row and "best_target" not in row
    row = encoders.compare(case, Side(OPTIMIZED, RANDOM), taken, settings)
    assert row["times_same"] == (2 + 8) / 2 and "times_default" not in row
    assert encoders.compare(case, Side(THEIRS, SORTED), taken, settings) == {}
    taken[Side(PLAIN, SORTED)] = [1.0, 1.0]
    plain = encoders.compare(case, Side(PLAIN, SORTED), taken, [BEST])
    assert plain["times_best"] == 6 and not any("target" in name for name in plain)


def test_only_the_named_cases_are_compiled_and_checked(
    tmp_path, capsys, monkeypatch, in_this_process
):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: asked.append(how) or model)
    options = ["--quick", "--cases", "encode", "one-16", "--compile-theirs", "encode"]
    options += ["--settings", "best", "--batch-size", "3", "--out"]
    assert inference.main([*options, str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.csv")
    rows = records(read(file))
    compiled = {row["case"] for row in rows if row["implementation"] == COMPILED}
    assert compiled == {INFERENCE["encode"].name}
    assert {(row["batches"], row["batch_size"]) for row in rows} == {(SORTED, 3)}
    assert asked == [{"dynamic": True}] * 2  # once to be checked, and once to be timed

    def changed(model, **_):
        found = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in found.parameters():
                parameter.mul_(1.5)
        return found

    monkeypatch.setattr(torch, "compile", changed)
    assert inference.main([*options, str(tmp_path / "other")]) != 0
    assert "speeds of different computations" in capsys.readouterr().err
    assert not list((tmp_path / "other").iterdir())


def test_sequences_fit_the_smallest_vocabulary():
    made = training.read_sequences(Namespace(text=[], squad=None), list(TRAINING.values())[::-1])
    assert max(ids.max() for kind in ("lines", "full") for ids in made[kind].ids) < 96


@pytest.mark.slow
def test_a_whole_run_of_training(tmp_path, capsys, in_this_process, figures):
    out = tmp_path / "out"
    words = ["--quick", "--threads", "1", "--out", str(out), "--cases", "squad"]
    assert training.main(words) == 0
    printed = capsys.readouterr().out
    rows = records(read(out / "training_quick_float32.csv"))
    for row in rows:
        assert row["case"] in printed
    assert [row["dropout"] for row in rows] == [0.1] * 6 + [0] * 6
    assert all(row["times_default_low"] <= row["times_default"] for row in rows[2:4])
    assert (out / "training_quick.png").read_bytes().startswith(b"\x89PNG")
    assert tick_labels(figures["training_quick.png"].axes[0]) == [rows[0]["case"]]


@pytest.mark.slow
def test_a_whole_run_of_inference_in_processes(tmp_path, capsys, figures):
    text = tmp_path / "sentences.tsv"
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    text.write_text("".join(" ".join(words[: n % 7 + 1]) + f" {n}\t1\n" for n in range(60)))
    out = tmp_path / "out"
    given = ["--quick", "--threads", "1", "--text", str(text), "--out", str(out)]
    assert inference.main([*given, "--cases", "classify", "--settings", "default"]) == 0
    assert "60 sentences and 0 paragraphs" in capsys.readouterr().out
    rows = records(read(out / "inference_quick_float32.csv"))
    assert [row["implementation"] for row in rows] == [THEIRS, PLAIN, OPTIMIZED]
    assert {row["text"] for row in rows} == {"sentences.tsv"}
    assert (out / "inference_quick.png").read_bytes().startswith(b"\x89PNG")
    assert tick_labels(figures["inference_quick.png"].axes[0]) == [rows[0]["case"]]

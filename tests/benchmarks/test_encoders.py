"""Training and inference, on models so small that their clocks mean nothing."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import batches, encoders, inference, training
from benchmarks.batches import RANDOM, SORTED, lengths_of
from benchmarks.encoders import BEST, COMPILED, DEFAULT, OPTIMIZED, PLAIN, SAME, THEIRS, Side
from benchmarks.formulas import Sizes
from benchmarks.runs import read
from minitransformer import optimize
from minitransformer.fast import dispatch

pytest.importorskip("transformers", reason="the comparison needs transformers")

SIZES = Sizes(32, 2, 4, 37)
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
    monkeypatch.setattr(training, "QUICK_CASES", TRAINING)
    monkeypatch.setattr(inference, "QUICK_CASES", INFERENCE)


def sequences_of(case):
    made = {
        "full": batches.made_up_full,
        "lines": batches.made_up_lines,
        "squad": batches.made_up_windows,
        "ragged": batches.made_up_mixture,
    }.get(case.kind, batches.made_up_full)
    return made(96, 64 if case.kind == "ragged" else case.length, 0)


def prepared(name, dropout=True, **changes):
    """A case, the three models, and its random batches."""
    case = replace(ALL[name], **changes)
    if not dropout and name in TRAINING:
        case = replace(case, dropout=0.0)
    theirs, plain = case.load()
    models = {THEIRS: theirs, PLAIN: plain, OPTIMIZED: optimize(case.load()[1])}
    theirs.set_attn_implementation(case.attention)
    return case, models, case.batches(sequences_of(case), RANDOM)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", RAGGED)
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


@pytest.fixture
def count(monkeypatch):
    """The FLOPs that PyTorch counts of a call, of what twins run when nothing counts too.

    oneDNN's products, and Q K^T and P V of its attention kernel on a CPU, PyTorch does not count.
    """
    for guard in ("_in_dispatch_mode", "_has_global_hook"):  # which see the counter
        monkeypatch.setattr(dispatch, guard, lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)

    def counted(call):
        with FlopCounterMode(display=False) as counter:
            call()
        return counter.get_total_flops()

    return counted


def one_pass(case, model, batch):
    """What is counted: without an optimizer, which multiplies nothing."""
    if isinstance(case, training.TrainingCase):
        return lambda: case.loss(model, batch).backward()
    return lambda: model(**batch)


@pytest.mark.parametrize("name", RAGGED)
def test_flops_are_those_that_pytorch_counts(name, count):
    case, models, (batch, *_) = prepared(name, dropout=False, attention="eager")
    assert not batch["attention_mask"].all()
    for implementation in (THEIRS, PLAIN):
        counted = count(one_pass(case, models[implementation], batch))
        assert counted == case.executed_flops(batch, implementation)
    assert case.necessary_flops(batch) < counted


@pytest.mark.parametrize("name", ["full-30k", *RAGGED])
def test_an_optimized_model_executes_no_padding(name, count, monkeypatch):
    case, models, (batch, *_) = prepared(name, dropout=False)
    layer = Sizes.layer
    monkeypatch.setattr(Sizes, "layer", lambda self, tokens, q, _: layer(self, tokens, q, 0))
    executed = case.executed_flops(batch, OPTIMIZED)
    assert count(one_pass(case, models[OPTIMIZED], batch)) == executed
    necessary = case.necessary_flops(batch)
    if name == "squad":  # padding gets its two scores
        assert executed == pytest.approx(necessary, rel=0.01)
    elif name == "full-30k":  # the last layer computes as many tokens of every sequence
        assert necessary <= executed < case.executed_flops(batch, PLAIN)
    else:
        assert executed == necessary


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


def test_what_a_side_is_said_to_do(monkeypatch):
    case = INFERENCE["encode"]
    given = [sequences_of(case).batch([0, 1]), sequences_of(case).batch([2])]
    monkeypatch.setattr(type(case), "necessary_flops", lambda self, batch: 6)
    tokens = sum(int(lengths_of(batch).sum()) for batch in given)
    row = encoders.figures(case, Side(OPTIMIZED, SORTED), given, [4.0, 8.0], [1.0, 3.0])
    assert row["seconds"] == (2 + 4) / 2  # of a batch
    assert row["real_tokens_per_second"] == pytest.approx((tokens / 4 + tokens / 8) / 2)
    assert row["padding"] == pytest.approx(1 - tokens / sum(b["input_ids"].numel() for b in given))
    # 12 FLOPs; a plain product would have done 1 * 4 in the first pass, then 3 * 8.
    assert row["necessary_share_of_ceiling"] == pytest.approx((12 / 4 + 12 / 24) / 2)


@pytest.mark.parametrize("benchmark", [training, inference])
def test_only_the_named_cases_are_compiled_and_checked(
    benchmark, tmp_path, capsys, monkeypatch, in_this_process
):
    case = "squad" if benchmark is training else "encode"
    other = "full-30k" if benchmark is training else "one-16"
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: asked.append(how) or model)
    options = ["--quick", "--cases", case, other, "--compile-theirs", case]
    options += ["--dropout", "0"] * (benchmark is training) + ["--settings", "best"]
    assert benchmark.main([*options, "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.csv")
    rows = read(file)
    assert {row["case"] for row in rows if row["implementation"] == COMPILED} == {ALL[case].name}
    assert {row["batches"] for row in rows} == {SORTED}
    assert asked == [{"dynamic": True}] * 2  # once to be checked, and once to be timed

    def changed(model, **_):
        found = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in found.parameters():
                parameter.mul_(1.5)
        return found

    monkeypatch.setattr(torch, "compile", changed)
    assert benchmark.main([*options, "--out", str(tmp_path / "other")]) != 0
    assert "speeds of different computations" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert benchmark.main([*options, "--cases", other, "--out", str(tmp_path / "other")]) != 0
    assert f"--compile-theirs {case}: not among" in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", [training, inference])
def test_what_is_missing_is_said(benchmark, tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "out")
    for words, message in (
        (["--text", "nowhere.txt"], "--text nowhere.txt: there is no such file"),
        (["--squad", "nowhere.json"], "--squad nowhere.json: there is no such file"),
    ):
        assert benchmark.main(["--quick", "--out", out, *words]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    for words, message in (
        (["--cases", "all"], "invalid choice: 'all'"),
        (["--attention", "flush"], "invalid choice: 'flush'"),
        (["--settings", "worst"], "invalid choice: 'worst'"),
    ):
        with pytest.raises(SystemExit):
            benchmark.main(["--out", out, *words])
        assert message in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert benchmark.main(["--quick", "--out", out]) == 1
    assert "compares with transformers: pip install transformers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_sequences_fit_the_smallest_vocabulary():
    arguments = training.parser().parse_args(["--out", "x"])
    made = training.read_sequences(arguments, dict(reversed(TRAINING.items())))
    assert max(ids.max() for kind in ("lines", "full") for ids in made[kind].ids) < 96


@pytest.mark.slow
def test_a_whole_run_of_training(tmp_path, capsys, in_this_process):
    out = tmp_path / "out"
    words = ["--quick", "--threads", "1", "--out", str(out), "--cases", "squad"]
    assert training.main(words) == 0
    printed = capsys.readouterr().out
    rows = read(out / "training_quick_float32.csv")
    for row in rows:
        assert f"{row['case']}, float32, dropout {row['dropout']:g}" in printed
        assert row["necessary_gigaflops"] <= row["executed_gigaflops"]
    assert [row["dropout"] for row in rows] == [0.1] * 6 + [0] * 6
    assert all(row["times_default_low"] <= row["times_default"] for row in rows[2:4])
    assert (out / "training_quick.png").exists()


@pytest.mark.slow
def test_a_whole_run_of_inference_in_processes(tmp_path, capsys):
    text = tmp_path / "sentences.tsv"
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    text.write_text("".join(" ".join(words[: n % 7 + 1]) + f" {n}\t1\n" for n in range(60)))
    out = tmp_path / "out"
    given = ["--quick", "--threads", "1", "--text", str(text), "--out", str(out)]
    assert inference.main([*given, "--cases", "classify", "--settings", "default"]) == 0
    assert "60 sentences and 0 paragraphs" in capsys.readouterr().out
    rows = read(out / "inference_quick_float32.csv")
    assert [row["implementation"] for row in rows] == [THEIRS, PLAIN, OPTIMIZED]
    assert {row["text"] for row in rows} == {"sentences.tsv"}
    assert (out / "inference_quick.png").exists()

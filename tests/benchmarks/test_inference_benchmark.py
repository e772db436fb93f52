"""The benchmark of an encoder, on models so small that its clocks mean nothing."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import inference, rows
from benchmarks.comparison import AS_IT_COMES, AT_ITS_BEST, COMPILED, OURS, OURS_SORTED
from benchmarks.flops import EncoderSizes
from benchmarks.inference import CASES, Plan
from minitransformer.fast import is_optimized
from tests.benchmarks.counting import count_flops, count_optimized_flops, leave_out_attention
from tests.benchmarks.in_one_process import in_one_process
from tests.benchmarks.pictures import png_size, texts_in, watch_pictures

pytest.importorskip("transformers", reason="the comparison needs transformers")

TINY = {
    name: replace(case, batch_size=min(4, case.batch_size), batches=2)
    for name, case in CASES.items()
}
PLAN = Plan(TINY, EncoderSizes(32, 2, 4, 37), vocab_size=99, passes=2)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(inference, "QUICK_PLAN", PLAN)
    monkeypatch.setattr("benchmarks.measuring.PRODUCT_ROWS", {"cpu": 16})


def prepared(name, *words):
    """Both models and the batches of a case."""
    arguments = inference.parser().parse_args(["--out", "x", *words])
    theirs, ours = inference.load_models(TINY[name], rows.PAD, arguments, PLAN)
    theirs.set_attn_implementation("eager" if arguments.attention == "eager" else "sdpa")
    made = rows.made_up_mixture(99, 64)
    return theirs, ours, inference.make_batches(TINY[name], made, seed=0), arguments


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["encode", "classify"])
def test_both_give_the_same_until_a_weight_is_changed(name, dtype):
    theirs, ours, batches, _ = prepared(name, "--dtype", dtype)
    assert {p.dtype for p in ours.parameters()} == {getattr(torch, dtype)}
    works = inference.their_work(theirs), inference.our_work(ours)
    inference.check_agreement(*works, batches["random"][0], inference.TOLERANCES[dtype])
    with torch.no_grad():
        getattr(ours, "bert", ours).layers[1].attention.value.weight *= -20
    with pytest.raises(ValueError, match="the results differ by"):
        inference.check_agreement(*works, batches["random"][0], inference.TOLERANCES[dtype])
    short = inference.our_work(lambda **b: ours(b["input_ids"][:2], b["attention_mask"][:2]))
    with pytest.raises(ValueError, match="minitransformer gives \\(2, "):
        inference.check_agreement(works[0], short, batches["random"][0], 1.0)


@pytest.mark.parametrize("name", ["encode", "classify"])
def test_flops_are_those_that_pytorch_counts(name):
    theirs, ours, batches, _ = prepared(name, "--attention", "eager", "--plain")
    assert not is_optimized(ours)
    case, batch = TINY[name], batches["random"][0]
    assert not batch["attention_mask"].all()
    for model, expected in (
        (theirs, inference.their_flops(case, PLAN.sizes, batch)),
        (ours, inference.our_flops(case, PLAN.sizes, batch, optimized=False)),
    ):
        assert count_flops(lambda model=model: model(**batch)) == expected


@pytest.mark.parametrize("name", ["encode", "classify"])
def test_an_optimized_model_executes_what_is_necessary(name, monkeypatch):
    _, ours, batches, _ = prepared(name)
    assert is_optimized(ours)
    case, batch = TINY[name], batches["random"][0]
    leave_out_attention(monkeypatch)
    executed = inference.our_flops(case, PLAN.sizes, batch, optimized=True)
    assert count_optimized_flops(lambda: ours(**batch)) == executed
    assert executed == inference.necessary_flops(case, PLAN.sizes, batch)
    assert executed < inference.their_flops(case, PLAN.sizes, batch)


def test_who_gets_which_batches():
    theirs, ours, batches, arguments = prepared("encode")
    sides = {
        side.name: side
        for side in inference.make_sides(
            TINY["encode"], PLAN.sizes, theirs, ours, batches, False, arguments
        )
    }
    assert list(sides) == [AS_IT_COMES, AT_ITS_BEST, OURS, OURS_SORTED]
    for mine, made in zip(sides[OURS_SORTED].batches, batches["sorted"], strict=True):
        assert torch.equal(mine["input_ids"], made["input_ids"])
    for one, other in ((AS_IT_COMES, OURS), (AT_ITS_BEST, OURS_SORTED)):
        for a, b in zip(sides[one].batches, sides[other].batches, strict=True):
            assert torch.equal(a["input_ids"], b["input_ids"])


def test_only_the_cases_that_are_named_are_compiled(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inference, "in_processes", in_one_process)
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: asked.append(how) or model)
    options = ["--cases", "one-16", "encode", "classify", "--compile-theirs", "one-16", "encode"]
    assert inference.main(["--quick", "--out", str(tmp_path), *options]) == 0
    found = json.loads((tmp_path / "inference_quick_float32.json").read_text())
    compiled = {row["case"] for row in found["sides"] if row["side"] == COMPILED}
    assert compiled == {TINY["one-16"].name, TINY["encode"].name}
    assert found["plan"]["compile_theirs"] == ["one-16", "encode"]
    # Once to be checked, and to be named and timed; lengths change where rows are ragged.
    assert [how["dynamic"] for how in asked] == [False] * 3 + [True] * 3
    options = ["--cases", "encode", "--compile-theirs", "one-16"]
    assert inference.main(["--quick", "--out", str(tmp_path / "other"), *options]) != 0
    assert "--compile-theirs one-16: not among" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_what_is_compiled_is_checked_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inference, "in_processes", in_one_process)

    def wrong(model, **_):
        def work(**batch):
            assert "attention_mask" not in batch  # as when it is timed
            return [model(**batch)[0] + 1]

        return work

    monkeypatch.setattr(torch, "compile", wrong)
    options = ["--cases", "one-16", "--compile-theirs", "one-16"]
    assert inference.main(["--quick", "--out", str(tmp_path / "out"), *options]) != 0
    assert "the results differ by" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_of_one_length_have_a_padding_of_their_own(tmp_path, monkeypatch):
    # A WordPiece vocabulary of text pads with 0, and made-up rows begin with it.
    monkeypatch.setattr(inference, "in_processes", in_one_process)
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    text = tmp_path / "sentences.tsv"
    text.write_text("".join(f"one two three {n}\t1\n" for n in range(9)))
    options = ["--text", str(text), "--cases", "one-16", "--compile-theirs", "one-16"]
    arguments = inference.parser().parse_args(["--out", "x", *options])
    assert inference.read_rows(arguments, PLAN)[inference.RAGGED].pad_token_id == rows.CLS
    assert inference.main(["--quick", "--out", str(tmp_path / "out"), *options]) == 0


@pytest.mark.slow
def test_a_whole_run(tmp_path, capsys, monkeypatch):
    figures = watch_pictures(monkeypatch)
    text = tmp_path / "sentences.tsv"
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    text.write_text("".join(" ".join(words[: n % 7 + 1]) + f" {n}\t1\n" for n in range(60)))
    out = tmp_path / "out"
    given = ["--quick", "--threads", "1", "--text", str(text), "--out", str(out)]
    assert inference.main(given) == 0
    printed = capsys.readouterr().out
    assert all(case.name in printed for case in TINY.values())
    assert "60 sentences and 0 paragraphs" in printed
    found = json.loads((out / "inference_quick_float32.json").read_text())
    assert found["rows"]["ragged"].startswith("60 sentences")
    assert found["plan"]["sizes"]["hidden_size"] == 32 and found["plan"]["passes"] == 2
    assert found["plan"]["quick"] and not found["plan"]["compile_theirs"]
    assert {row["passes"] for row in found["sides"] if row["batch_size"] == 1} == {8}
    sides = [row["side"] for row in found["sides"]]
    assert (
        sides
        == [AS_IT_COMES, AT_ITS_BEST, OURS, OURS_SORTED] * 2
        + [
            AS_IT_COMES,
            AT_ITS_BEST,
            OURS,
        ]
        * 2
    )
    assert (out / "inference_quick_float32.csv").exists()
    assert png_size(out / "inference_quick.png")[0] == 1200  # ten inches of 120 dots
    assert {case.name for case in TINY.values()} <= {*texts_in(figures["inference_quick.png"])}


def test_what_is_missing_is_said(tmp_path, capsys):
    for words, message in (
        (["--text", "nowhere.txt"], "--text nowhere.txt: there is no such file"),
        (["--squad", "nowhere.json"], "--squad nowhere.json: there is no such file"),
    ):
        assert inference.main(["--quick", "--out", str(tmp_path / "out"), *words]) == 1
        assert message in capsys.readouterr().err
    for words, message in (
        (["--device", "tpu"], "'tpu' is unknown; choose cpu or cuda"),
        (["--attention", "flush"], "invalid choice: 'flush'"),
    ):
        with pytest.raises(SystemExit):
            inference.main(["--out", "x", *words])
        assert message in capsys.readouterr().err

"""The job, as a user runs it, on a little text."""

import json
import math
import os
import re
import signal
from pathlib import Path

import pytest
import torch

from minitransformer import (
    Tokenizer,
    from_pretrained,
    generate,
    pipeline,
)
from tests import tiny
from tests.tiny import watch_figures
from train import lm, metrics
from train.demos.italian import write_corpus
from train.lm import Sampler
from train.metrics import read_metrics

SIZES = ["--hidden-size", "16", "--num-hidden-layers", "1", "--num-attention-heads", "2"]
SMALL = ["--vocab-size", "300", "--max-length", "24", "--batch-size", "8", "--sample-tokens", "5"]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "italian.txt"
    write_corpus(path, 120, seed=0)
    return path


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory) -> Path:
    """A run of eight steps."""
    output = tmp_path_factory.mktemp("runs") / "trained"
    more = ["--max-steps", "8", "--evaluate-every", "3", "--learning-rate", "1e-2"]
    assert run(text, output, *more) == 0
    return output


def run(text: Path, output: Path, *more: str) -> int:
    return lm.main(["--text", str(text), "--output", str(output), *SMALL, *SIZES, *more])


def tune(text: Path, model: Path, output: Path, *more: str) -> int:
    """As `run`, from a checkpoint."""
    arguments = ["--text", str(text), "--output", str(output), "--model", str(model)]
    return lm.main([*arguments, "--max-length", "24", "--sample-tokens", "5", *more])


def weights(path: Path) -> str:
    return tiny.digest(from_pretrained(path))


def test_the_job_leaves_a_model_a_curve_and_a_report(text, trained):
    held_out = json.loads((trained / "report.json").read_text())["held_out"]
    assert list(held_out) == ["this model", "unigram baseline", "bigram baseline"]
    for figures in held_out.values():
        assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))
    assert held_out["bigram baseline"]["loss"] < held_out["unigram baseline"]["loss"]
    assert held_out["this model"]["loss"] < math.log(300)

    model, tokenizer = from_pretrained(trained), Tokenizer.from_pretrained(trained)
    assert model.config.max_sequence_length == tokenizer.model_max_length == 24
    assert model.config.vocab_size == tokenizer.vocab_size == 300
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 299

    records = read_metrics(trained / "metrics.jsonl")
    evaluated = [record for record in records if "eval_loss" in record]
    assert [record["step"] for record in evaluated] == [3, 6, 8]
    assert evaluated[-1]["eval_loss"] == pytest.approx(held_out["this model"]["loss"])
    prompt = tokenizer("\n", return_tensors="pt")["input_ids"]
    sample = generate(
        model, prompt, max_new_tokens=5, do_sample=True, temperature=0.8, seed=0
    ).sequences[0]
    assert evaluated[-1]["eval_sample"] == tokenizer.decode(sample.tolist())
    picture = (trained / "loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_bits_are_counted_by_the_characters_of_the_tail(text, trained):
    """By hand: the mean of the logits' cross-entropy in sequences that overlap by one token."""
    model, tokenizer = from_pretrained(trained), Tokenizer.from_pretrained(trained)
    whole = text.read_text()
    begin = whole.rfind("\n", 0, len(whole) - round(0.1 * len(whole))) + 1
    ids = torch.tensor([tokenizer.eos_token_id, *tokenizer(whole[begin:])["input_ids"]])
    nats = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 23):
            part = ids[start : start + 24]
            logits = model(part[None]).logits[0, :-1]
            nats += float(torch.nn.functional.cross_entropy(logits, part[1:], reduction="sum"))
    figures = json.loads((trained / "report.json").read_text())["held_out"]["this model"]
    assert figures["tokens"] == len(ids) - 1
    assert figures["loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-5)
    bits = nats / math.log(2) / len(whole[begin:])
    assert figures["bits_per_character"] == pytest.approx(bits, rel=1e-5)


def test_the_output_and_the_pictures(text, tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(lm, "draw_curve", lambda *arguments: drawn.append(arguments))
    assert run(text, tmp_path, "--max-steps", "2", "--sample-prompt", "la ragazza") == 0
    out = capsys.readouterr().out
    results = json.loads((tmp_path / "report.json").read_text())["held_out"]
    for name, figures in results.items():
        lines = [line.split()[-3:] for line in out.splitlines() if line.startswith(name)]
        assert len(lines) == (1 if name == "this model" else 2)
        assert lines[0] == [f"{figures['loss']:.3f}", f"{figures['perplexity']:,.1f}",
                            f"{figures['bits_per_character']:.3f}"]  # fmt: skip
    assert out.index("bigram baseline") < out.index("step 2 ") < out.index("this model")
    assert "\n  | la ragazza" in out
    assert "a vocabulary of 300" in out
    levels = {name: results[name]["loss"] for name in ("unigram baseline", "bigram baseline")}
    assert drawn == [(tmp_path / "metrics.jsonl", tmp_path / "loss.png", levels)]


@pytest.mark.slow
def test_a_model_trained_on_the_text_beats_both_baselines(tmp_path):
    """For a text that repeats itself, bigrams alone are not enough."""
    file = tmp_path / "text.txt"
    file.write_text("abcd abdc acbd acdb\n" * 80)
    more = ["--learning-rate", "5e-3", "--epochs", "20", "--dropout", "0", "--vocab-size", "257"]
    more += ["--hidden-size", "32", "--num-hidden-layers", "2"]
    assert run(file, tmp_path / "run", *more) == 0
    held_out = json.loads((tmp_path / "run" / "report.json").read_text())["held_out"]
    losses = {name: figures["loss"] for name, figures in held_out.items()}
    assert losses["this model"] < 0.5 * losses["bigram baseline"]
    assert losses["bigram baseline"] < 0.5 * losses["unigram baseline"]


def test_the_baselines_are_drawn(trained, tmp_path, monkeypatch):
    figures = watch_figures(monkeypatch)
    levels = {"unigram baseline": 4.25, "bigram baseline": 2.5}
    metrics.draw_curve(trained / "metrics.jsonl", tmp_path / "loss.png", levels)
    [axes] = figures[0].axes
    drawn = {line.get_label(): set(line.get_ydata()) for line in axes.get_lines()}
    assert axes.get_ylabel() == "loss (nats per supervised token)"
    assert drawn["unigram baseline"] == {4.25}
    assert drawn["bigram baseline"] == {2.5}
    assert {text.get_text() for text in axes.get_legend().get_texts()} >= set(levels)


@pytest.mark.parametrize("losses", [[0.7] * 40, [0.7], [0.7, 0.7 + 1e-9], [0.2, 0.7], [0.0]])
def test_every_curve_is_inside_its_picture(losses, tmp_path, monkeypatch):
    figures = watch_figures(monkeypatch)
    records = [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    metrics.draw_curve(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    [axes] = figures[0].axes
    assert axes.get_ylim() == pytest.approx((0, 0.77 if any(losses) else 1))
    assert all(step == int(step) for step in axes.get_xticks())
    curve = axes.get_lines()[-1]
    assert len(curve.get_xdata()) > 1 or curve.get_marker() == "o"  # one point is no line


def test_the_curve_is_the_mean_of_a_tenth_of_the_steps(tmp_path, monkeypatch):
    figures = watch_figures(monkeypatch)
    records = [{"step": step, "loss": float(step)} for step in range(1, 41)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    metrics.draw_curve(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    lines = {line.get_label(): line.get_ydata() for line in figures[0].axes[0].get_lines()}
    means = [step - 1.5 for step in range(4, 41)]
    assert list(lines["mean of 4 steps"]) == pytest.approx([1, 1.5, 2, *means])


def test_transformers_takes_the_result(trained):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(trained)
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained)
    assert model.generation_config.eos_token_id == model.generation_config.bos_token_id == 299
    batch = tokenizer("la ragazza", return_tensors="pt")
    theirs = model.generate(**batch, max_new_tokens=8, do_sample=False, pad_token_id=299)
    ours = generate(from_pretrained(trained), batch["input_ids"], max_new_tokens=8)
    assert torch.equal(theirs, ours.sequences)
    answers = pipeline("text-generation", trained)("la ragazza", max_new_tokens=8)
    assert answers == [{"generated_text": tokenizer.decode(theirs[0])}]


def test_a_dev_file_is_held_out_instead(text, tmp_path):
    dev = tmp_path / "dev.txt"
    dev.write_text("la ragazza legge.\n" * 3)
    assert run(text, tmp_path / "run", "--max-steps", "1", "--dev", str(dev)) == 0
    tokenizer = Tokenizer.from_pretrained(tmp_path / "run")
    figures = json.loads((tmp_path / "run" / "report.json").read_text())["held_out"]["this model"]
    assert figures["tokens"] == len(tokenizer(dev.read_text())["input_ids"])


def test_training_continues_from_a_checkpoint(text, trained, tmp_path, capsys):
    """One step that moves nothing: the loss is that of the checkpoint."""
    more = ["--max-steps", "1", "--learning-rate", "1e-12", "--dropout", "0.3"]
    assert tune(text, trained, tmp_path, *more) == 0
    ended, held_out = (
        json.loads((path / "report.json").read_text())["held_out"] for path in (trained, tmp_path)
    )
    assert list(held_out) == ["this model", "before training", *list(ended)[1:]]
    before = held_out["before training"]
    assert before["loss"] == pytest.approx(ended["this model"]["loss"], rel=1e-6)
    assert held_out["this model"]["loss"] == pytest.approx(before["loss"], rel=1e-6)
    first = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert (first["step"], first["eval_loss"]) == (0, before["loss"])
    assert (
        f"step 0 {before['loss']:>32.3f}{before['perplexity']:>12,.1f}" in capsys.readouterr().out
    )
    assert from_pretrained(tmp_path).config.hidden_dropout_prob == 0.3
    assert tune(text, trained / "checkpoints" / "step-00000008", tmp_path, *more, "--resume") == 1
    assert "pretrained was" in capsys.readouterr().err
    ids = Tokenizer.from_pretrained(tmp_path)("la ragazza")["input_ids"]
    assert ids == Tokenizer.from_pretrained(trained)("la ragazza")["input_ids"]


@pytest.mark.slow
def test_samples_change_nothing_of_the_training(text, trained, tmp_path):
    more = ["--max-steps", "8", "--evaluate-every", "3", "--learning-rate", "1e-2"]
    more += ["--sample-tokens", "9", "--temperature", "2", "--sample-prompt", "se "]
    assert run(text, tmp_path, *more) == 0
    assert weights(tmp_path) == weights(trained)


def test_stopped_in_an_evaluation_and_resumed(text, trained, tmp_path, monkeypatch, capsys):
    """With dropout, in the middle of an epoch; a signal comes during the first sample."""
    more = ["--max-steps", "8", "--evaluate-every", "3", "--learning-rate", "1e-2"]
    sample = Sampler.sample

    def interrupted(sampler, model):
        os.kill(os.getpid(), signal.SIGINT)
        return sample(sampler, model)

    monkeypatch.setattr(Sampler, "sample", interrupted)
    assert run(text, tmp_path, *more) == 128 + signal.SIGINT
    assert "stopped after step 4; continue with the same command and --resume" in (
        capsys.readouterr().out
    )
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.undo()
    assert run(text, tmp_path, *more, "--resume") == 0
    assert weights(tmp_path) == weights(trained)

    def without_clock(path: Path) -> list[dict]:
        return [r | {"seconds": 0} for r in read_metrics(path / "metrics.jsonl")]

    assert without_clock(tmp_path) == without_clock(trained)


def test_a_refused_run_changes_nothing(text, trained, tmp_path, capsys):
    files = {path: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    other = tmp_path / "other.txt"
    write_corpus(other, 130, seed=5)
    for more, message in [
        (["--text", str(other)], "already contains a run"),
        (["--text", str(other), "--resume"], "text was"),
        (["--resume", "--held-out", "0.3"], "held_out was"),
        (["--resume", "--max-length", "20"], "max_length was 24, now it is 20"),
        (["--resume", "--hidden-size", "32"], "hidden_size was 16, now it is 32"),
        (["--resume", "--vocab-size", "400"], "vocab_size was 300, now it is 400"),
        (
            ["--resume", "--plain"],
            "which belongs to a run of an optimized model; leave it out",
        ),
    ]:
        arguments = ["--max-steps", "8", "--evaluate-every", "3", "--learning-rate", "1e-2"]
        assert run(text, trained, *arguments, *more) == 1
        assert message in capsys.readouterr().err
        assert {path: path.read_bytes() for path in files} == files


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--bf16", "--attention-dropout", "0.1"],
        ["--accumulate", "2"],
        ["--patience", "1", "--evaluate-every", "1", "--learning-rate", "1", "--max-steps", "8"],
    ],
)
def test_the_flags(flags, text, tmp_path):
    assert run(text, tmp_path, "--max-steps", "4", *flags) == 0
    assert run(text, tmp_path / "plain", "--max-steps", "4") == 0
    assert weights(tmp_path) != weights(tmp_path / "plain")
    if "--patience" in flags:
        evaluated = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "eval_loss" in r]
        best = min(record["eval_loss"] for record in evaluated)
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["held_out"]["this model"]["loss"] == pytest.approx(best)
        assert best < evaluated[-1]["eval_loss"]


@pytest.mark.slow
def test_a_given_tokenizer_is_used(text, trained, tmp_path):
    arguments = ["--text", str(text), "--output", str(tmp_path), "--max-steps", "1", *SIZES]
    arguments += ["--max-length", "24", "--tokenizer", str(trained)]
    assert lm.main(arguments) == 0
    assert from_pretrained(tmp_path).config.vocab_size == 300
    theirs, ours = (Tokenizer.from_pretrained(path) for path in (trained, tmp_path))
    assert theirs("la ragazza")["input_ids"] == ours("la ragazza")["input_ids"]


def test_a_new_tokenizer_has_not_seen_what_is_held_out(tmp_path):
    """A word that only the tail has is no token."""
    file = tmp_path / "text.txt"
    file.write_text("la ragazza legge\n" * 50 + "zebra\n" * 20)
    more = ["--max-steps", "1", "--held-out", "0.12"]
    assert run(file, tmp_path / "run", *more) == 0
    tokenizer = Tokenizer.from_pretrained(tmp_path / "run")
    assert len(tokenizer("ragazza")["input_ids"]) < len("ragazza")
    assert len(tokenizer("zebra")["input_ids"]) == len("zebra")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--text", "nowhere.txt"], "nowhere.txt cannot be read: No such file"),
        (["--dev", "nowhere.txt"], "nowhere.txt cannot be read: No such file"),
        (["--text", "EMPTY"], "there is no text in .*empty.txt"),
        (
            ["--text", "SHORT"],
            "the text has 18 tokens, fewer than a sequence of --max-length 24; give",
        ),
        (["--held-out", "1.5"], "held_out=1.5 must be a fraction"),
        (["--seed", "-1"], "seed=-1"),
        (["--dropout", "1.5"], "hidden_dropout_prob=1.5"),
        (["--hidden-size", "15"], "hidden_size=15"),
        (["--vocab-size", "9"], "vocab_size=9 is too small: the 256 bytes"),
        (["--max-length", "1", "--sample-tokens", "1"], "--sample-prompt has 1 tokens.*at most 1;"),
        (["--sample-prompt", ""], "--sample-prompt has no token"),
        (["--sample-prompt", "?" * 24], "--sample-prompt has 24 tokens.*at most 24; give"),
        (["--sample-tokens", "24"], "sample 24 more.*or fewer --sample-tokens"),
        (["--temperature", "0"], "temperature=0.0 must be positive"),
        (["--temperature", "inf"], "temperature=inf must be positive and finite"),
        (["--tokenizer", "nowhere"], "--vocab-size has no effect together with --tokenizer"),
        (["--model", "nowhere"], "--hidden-size, .*, --vocab-size have no effect together with"),
    ],
)
def test_a_mistake_is_one_line(more, message, text, tmp_path, capsys):
    files = {"EMPTY": tmp_path / "empty.txt", "SHORT": tmp_path / "short.txt"}
    files["EMPTY"].write_text("\n \n")
    files["SHORT"].write_text("0123456789abcdef\n")
    if "SHORT" in more:
        more = [*more, "--dev", str(text)]
    more = [str(files.get(word, word)) for word in more]
    assert run(text, tmp_path / "run", *more) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error)
    assert not (tmp_path / "run").exists()


def test_a_model_and_a_tokenizer_that_do_not_fit(text, trained, tmp_path, capsys):
    larger = tmp_path / "larger"
    other = Tokenizer.train(text, vocab_size=350, show_progress=False)
    other.save_pretrained(larger)
    for more, message in [
        (["--tokenizer", str(larger)], "has 350 tokens, but the model has only vocab_size=300"),
        (["--max-length", "25"], "--max-length 25: the model takes at most 24 tokens"),
    ]:
        assert tune(text, trained, tmp_path / "run", *more) == 1
        assert message in capsys.readouterr().err
    arguments = ["--text", str(text), "--output", str(tmp_path / "run"), *SIZES]
    assert lm.main([*arguments, "--tokenizer", str(larger)]) == 1
    assert "larger adds </s> to the end of every text" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

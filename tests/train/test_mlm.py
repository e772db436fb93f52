"""The job, as a user runs it, on a little text."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch

from minitransformer import Tokenizer, from_pretrained, pipeline
from tests import tiny
from tests.train.test_loop import ROOT
from train import mlm
from train.config import TrainingConfig
from train.demos.italian import write_corpus
from train.loop import Progress
from train.masking import MaskedBatches
from train.metrics import draw_curve, read_metrics
from train.text import read_lines, tokenize_sequences

SMALL = [
    "--vocab-size",
    "400",
    "--max-length",
    "24",
    "--hidden-size",
    "16",
    "--num-hidden-layers",
    "1",
]
SMALL += ["--num-attention-heads", "2", "--held-out-every", "10", "--batch-size", "8"]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "italian.txt"
    write_corpus(path, 300, seed=0)
    return path


def run(text: Path, output: Path, *more: str) -> int:
    return mlm.main(["--text", str(text), "--output", str(output), *SMALL, *more])


def weights(path: Path) -> str:
    return tiny.digest(from_pretrained(path))


def test_the_job_leaves_a_model_a_curve_and_a_report(text, tmp_path, capsys, monkeypatch):
    drawn = tiny.watch_figures(monkeypatch)
    assert (
        run(text, tmp_path, "--epochs", "2", "--evaluate-every", "10", "--learning-rate", "1e-2")
        == 0
    )
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    held_out = report["held_out"]
    assert held_out.keys() == {"this model", "unigram guess", "before training"}
    for name, figures in held_out.items():
        line = next(line for line in out.splitlines() if line.startswith(name))
        assert f"{figures['accuracy']:.1%}" in line
        assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))
    assert held_out["this model"]["loss"] < held_out["before training"]["loss"]
    assert held_out["before training"]["loss"] == pytest.approx(math.log(400), rel=0.05)
    records = read_metrics(tmp_path / "metrics.jsonl")
    curves = {line.get_label(): list(line.get_ydata()) for line in drawn[0].axes[0].get_lines()}
    assert curves["each step"] == [r["loss"] for r in records if "loss" in r]
    assert curves["held-out"] == [r["eval_loss"] for r in records if "eval_loss" in r]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert records[-1]["eval_loss"] == pytest.approx(held_out["this model"]["loss"])

    answers = pipeline("fill-mask", tmp_path)("oggi la ragazza è <mask>.")
    assert len(answers) == 5
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.model_max_length == 24 == from_pretrained(tmp_path).config.max_sequence_length


def test_transformers_takes_the_result(text, tmp_path):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    assert run(text, tmp_path, "--max-steps", "2") == 0
    theirs = transformers.pipeline("fill-mask", str(tmp_path))("la <mask> legge")
    ours = pipeline("fill-mask", tmp_path)("la <mask> legge")
    assert [a["token"] for a in theirs] == [a["token"] for a in ours]


@pytest.mark.parametrize(
    "flags",
    [
        ["--line-by-line", "--whole-words", "--mask-probability", "0.3", "--accumulate", "2"],
        ["--algorithm", "wordpiece", "--bf16"],
        [
            "--algorithm",
            "unigram",
            "--patience",
            "1",
            "--evaluate-every",
            "1",
            "--learning-rate",
            "9",
        ],
    ],
)
def test_the_flags(flags, text, tmp_path):
    assert run(text, tmp_path / "plain", "--max-steps", "4") == 0
    assert run(text, tmp_path / "flags", "--max-steps", "4", *flags) == 0
    assert weights(tmp_path / "flags") != weights(tmp_path / "plain")


def test_the_flags_reach_the_data(text, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        mlm, "train", lambda model, data, config, **_: seen.append(data) or Progress()
    )
    for number, flags in enumerate(
        [[], ["--line-by-line"], ["--whole-words", "--mask-probability", "0.3", "--seed", "5"]]
    ):
        run(text, tmp_path / str(number), "--max-steps", "1", *flags)
    packed, lines, words = seen
    assert set(packed.sequences.lengths[:-1]) == {24}
    assert len(set(lines.sequences.lengths)) > 5
    assert (packed.whole_words, packed.probability, packed.seed) == (False, 0.15, 0)
    assert (words.whole_words, words.probability, words.seed) == (True, 0.3, 5)


def test_the_unigram_baseline_counts_only_the_training_text(text, tmp_path, monkeypatch):
    seen = []
    baseline = mlm.unigram_baseline
    monkeypatch.setattr(
        mlm,
        "unigram_baseline",
        lambda sequences, data: seen.append((sequences, data)) or baseline(sequences, data),
    )
    assert run(text, tmp_path, "--max-steps", "1") == 0
    sequences, held_out = seen[0]
    assert len(sequences.ids) > 5 * len(held_out.sequences.ids)


def test_a_refused_run_changes_nothing(text, tmp_path, capsys):
    assert run(text, tmp_path, "--max-steps", "1") == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    other = tmp_path.parent / "other.txt"
    write_corpus(other, 200, seed=5)
    refusals = [
        (["--text", str(other)], "already contains a run"),
        (["--text", str(other), "--resume"], "text was"),
        (["--resume", "--max-length", "20"], "text was"),
        (["--resume", "--hidden-size", "32"], "hidden_size was 16"),
        (["--resume", "--vocab-size", "500"], "vocab_size was"),
    ]
    for more, message in refusals:
        assert run(text, tmp_path, "--max-steps", "1", *more) == 1
        assert message in capsys.readouterr().err
        after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        assert after == before


def test_a_given_tokenizer_is_used(text, tmp_path, capsys):
    tokenizer = Tokenizer.train(text, vocab_size=350, show_progress=False)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    more = ["--max-steps", "1", "--tokenizer", str(tmp_path / "tokenizer")]
    job = ["--text", str(text), "--output", str(tmp_path / "run"), *SMALL[2:], *more]
    assert mlm.main(job) == 0
    assert from_pretrained(tmp_path / "run").config.vocab_size == 350
    assert run(text, tmp_path / "other", *more) == 1
    assert "--vocab-size has no effect together with --tokenizer" in capsys.readouterr().err


# ---- --model: a pretrained model is trained further ----

FURTHER = ["--max-length", "24", "--batch-size", "8", "--held-out-every", "10"]


def train_on(text: Path, model: Path, output: Path, *more: str) -> int:
    """As `run`, from a checkpoint."""
    job = ["--text", str(text), "--model", str(model), "--output", str(output)]
    return mlm.main([*job, *FURTHER, *more])


@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Roberta"])
def test_a_pretrained_model_is_trained_further(family, text, tmp_path, capsys):
    """Its tokenizer, sizes and dropout stay; the perplexity before it is that of the checkpoint."""
    model_class = f"{family}ForMaskedLM"
    dropout = {"hidden_dropout_prob": 0.2}
    path = tiny.save_checkpoint(tmp_path / "pretrained", model_class, **dropout)
    mask = {"Roberta": "<mask>"}.get(family, "[MASK]")
    more = ["--max-steps", "30", "--evaluate-every", "50", "--learning-rate", "1e-2"]
    assert train_on(text, path, tmp_path / "out", *more) == 0
    out = capsys.readouterr().out
    before, after = from_pretrained(path), from_pretrained(tmp_path / "out")
    assert type(after).__name__ == model_class
    assert after.config == before.config
    tokenizers = [Tokenizer.from_pretrained(path) for path in (path, tmp_path / "out")]
    assert tokenizers[0].backend.to_str() == tokenizers[1].backend.to_str()
    assert tokenizers[0].model_max_length == tokenizers[1].model_max_length

    held_out = json.loads((tmp_path / "out" / "report.json").read_text())["held_out"]
    assert list(held_out) == ["this model", "unigram guess", "before training"]
    assert held_out["this model"]["loss"] < held_out["before training"]["loss"]
    lines = list(read_lines([text]))
    _, sequences = tokenize_sequences(
        lines, tokenizers[0], max_length=24, pack=True, held_out_every=10
    )
    batches = MaskedBatches(sequences, tokenizers[0], batch_size=8, shuffle=False)
    expected = mlm.evaluate(before, batches, TrainingConfig(output=tmp_path))
    assert held_out["before training"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    first = read_metrics(tmp_path / "out" / "metrics.jsonl")[0]
    assert (first["step"], first["eval_loss"]) == (0, held_out["before training"]["loss"])
    assert f"step 0: loss {expected['loss']:.4f}, perplexity {expected['perplexity']:,.1f}" in out
    assert f'"..." with {mask} in the text' in out


def test_an_encoder_without_a_head_gets_a_new_one_which_is_said(text, tmp_path, capsys):
    """Sentence encoders such as MiniLM are backbones."""
    path = tiny.save_checkpoint(tmp_path / "encoder", "BertModel")
    assert train_on(text, path, tmp_path / "out", "--max-steps", "1") == 0
    out = capsys.readouterr().out
    assert f"note: {path} has no matching lm_head" in out
    assert "newly initialized, to be trained" in out
    assert type(from_pretrained(tmp_path / "out")).__name__ == "BertForMaskedLM"


def test_one_run_after_another(text, tmp_path, capsys):
    """Train, look, change the learning rate, go on; the first run need not have ended."""
    assert run(text, tmp_path / "one", "--max-steps", "2") == 0
    assert train_on(text, tmp_path / "one", tmp_path / "two", "--max-steps", "1") == 0
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    last = [record["eval_loss"] for record in one if "eval_loss" in record][-1]
    assert two[0]["eval_loss"] == pytest.approx(last)
    assert two[1]["learning_rate"] == pytest.approx(5e-5)  # with --model, steps are gentle
    capsys.readouterr()

    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "one" / name).unlink()
    assert train_on(text, tmp_path / "one", tmp_path / "three", "--max-steps", "1") == 0
    assert read_metrics(tmp_path / "three" / "metrics.jsonl")[:2] == [
        two[0], two[1] | {"seconds": ANY}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--hidden-size", "64", "--vocab-size", "9"],
         "--hidden-size, --vocab-size have no effect together with --model"),
        (["--algorithm", "bpe"], "--algorithm has no effect together with --model"),
        (["--max-length", "41"], "--max-length 41: the model takes at most 40 tokens"),
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
        (["--model", "GPT2"], "the family 'gpt2' has no class for BertForMaskedLM"),
    ],
)  # fmt: skip
def test_what_contradicts_the_model_is_one_line(more, message, text, tmp_path, capsys):
    path = tiny.save_checkpoint(tmp_path / "pretrained", "BertForMaskedLM")
    if "GPT2" in more:
        more = ["--model", str(tiny.save_checkpoint(tmp_path / "gpt2", "GPT2LMHeadModel"))]
    assert train_on(text, path, tmp_path / "out", *more) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_directory_of_texts(text, tmp_path, capsys):
    (tmp_path / "texts" / "more").mkdir(parents=True)
    lines = text.read_text().splitlines(keepends=True)
    (tmp_path / "texts" / "a.txt").write_text("".join(lines[:100]))
    (tmp_path / "texts" / "more" / "b.txt").write_text("".join(lines[100:]))
    (tmp_path / "texts" / "notes.md").write_text("not this one")
    assert run(text, tmp_path / "file", "--max-steps", "1") == 0
    assert run(tmp_path / "texts", tmp_path / "directory", "--max-steps", "1") == 0
    assert weights(tmp_path / "file") == weights(tmp_path / "directory")


@pytest.mark.slow
def test_ctrl_c_and_resume_from_the_command_line(text, tmp_path):
    """A separate process is interrupted as by a terminal, and its run resumed in this one."""
    more = ["--max-steps", "200"]
    more += ["--plain"]  # optimized, each process would measure which library is faster
    command = [sys.executable, "-m", "train.mlm", "--text", str(text), *SMALL, *more]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path / "stopped")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") > 5:
            break
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be interrupted"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "continue with the same command and --resume" in out

    assert run(text, tmp_path / "stopped", *more, "--resume") == 0
    assert run(text, tmp_path / "whole", *more) == 0
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--text", "nowhere.txt"], "nowhere.txt"),
        (["--seed", "-1"], "seed=-1"),
        (["--dropout", "1.5"], "hidden_dropout_prob=1.5"),
        (["--initializer-range", "0"], "initializer_range=0.0"),
        (["--hidden-size", "15"], "hidden_size=15"),
        (["--held-out-every", "1000"], "smaller --held-out-every"),
        (["--algorithm", "bpee"], "bpee"),
        (["--learning-rate", "nan"], "learning_rate=nan"),
    ],
)
def test_a_mistake_is_one_line(more, message, text, tmp_path, capsys):
    assert run(text, tmp_path, *more) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--learing-rate", "1"], "did you mean '--learning-rate'"),
        (["--device", "gpu"], "'gpu' is unknown; choose cpu or cuda"),
        (["--batch-size", "0"], "'0' must be an integer of at least 1"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_read(more, message, text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(text, tmp_path, *more)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_ctrl_c_outside_the_loop_is_one_line(text, tmp_path, monkeypatch, capsys):
    def interrupt(*_arguments, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr(mlm, "tokenize_sequences", interrupt)
    assert run(text, tmp_path) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_the_unigram_baseline_by_hand():
    sequences = tiny.job_sequences()
    data = MaskedBatches(sequences, tiny.JOB_TOKENIZER, batch_size=4, shuffle=False)
    figures = mlm.unigram_baseline(sequences, data)
    labels = np.concatenate(
        [data.batch(0, i)["labels"].numpy().ravel() for i in range(data.num_batches)]
    )
    labels = [int(label) for label in labels if label != -100]
    ordinary = [int(token) for token in sequences.ids if token >= 5]
    probability = {t: (ordinary.count(t) + 1) / (len(ordinary) + 94) for t in range(5, 99)}
    assert figures["loss"] == pytest.approx(
        -sum(math.log(probability[t]) for t in labels) / len(labels)
    )
    best = max(probability, key=lambda token: probability[token])
    assert figures["accuracy"] == pytest.approx(labels.count(best) / len(labels))
    assert figures["tokens"] == len(labels)


@torch.no_grad()
def test_evaluation_is_the_mean_over_all_tokens(tmp_path):
    model, sequences = tiny.job_model().eval(), tiny.job_sequences()
    model.lm_head.bias.data[np.bincount(sequences.ids[sequences.ids >= 5]).argmax()] = (
        9.0  # always predicts one word
    )
    data = MaskedBatches(
        sequences, tiny.JOB_TOKENIZER, batch_size=4, probability=0.3, shuffle=False
    )
    figures = mlm.evaluate(model, data, TrainingConfig(output=tmp_path))
    outputs = [
        (model(**data.batch(0, i)), data.batch(0, i)["labels"]) for i in range(data.num_batches)
    ]
    total = sum(output.loss * output.num_supervised_tokens for output, _ in outputs)
    count = sum(output.num_supervised_tokens for output, _ in outputs)
    right = sum(int((output.logits.argmax(-1) == labels).sum()) for output, labels in outputs)
    assert figures["loss"] == pytest.approx(float(total / count), rel=1e-5)
    assert right > 0
    assert figures["accuracy"] == pytest.approx(right / int(count))
    assert mlm.evaluate(model, data, TrainingConfig(output=tmp_path), lambda: True) is None


def test_without_matplotlib_there_is_a_sentence_and_the_job_is_done(
    text, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(text, tmp_path, "--max-steps", "2") == 0
    note = "no picture was drawn: pictures need matplotlib: pip install matplotlib"
    assert note in capsys.readouterr().out
    assert from_pretrained(tmp_path).config.max_sequence_length == 24
    assert not (tmp_path / "loss.png").exists()
    with pytest.raises(ImportError, match="pip install matplotlib"):
        draw_curve(tmp_path / "metrics.jsonl", tmp_path / "loss.png")

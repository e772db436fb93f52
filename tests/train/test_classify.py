"""Fine-tuning on labelled texts, as a user runs it, on a few lines that are made here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from minitransformer import BertForSequenceClassification, Tokenizer, from_pretrained, pipeline
from tests.tiny import save_checkpoint, save_tiny_bert, watch_figures
from train import classify
from train.metrics import read_metrics

GOOD = ["lovely", "great", "warm", "witty"]
BAD = ["dull", "cold", "stale", "empty"]
SMALL = ["--max-length", "24", "--batch-size", "8", "--learning-rate", "1e-2", "--dropout", "0"]
pytestmark = pytest.mark.filterwarnings("ignore:.*newly initialized", "ignore:.*has no use for")


def lines(count: int, seed: int) -> list[str]:
    """Two thirds are good; one word decides, and the others are noise."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        good = random.random() < 0.66
        word = random.choice(GOOD if good else BAD)
        before = "the film is " * int(random.integers(0, 3))
        made.append(f"{before}a {word} tale of two towns\t{'good' if good else 'bad'}")
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("films")
    (directory / "train.tsv").write_text("\n".join(lines(160, seed=0)))
    (directory / "dev.tsv").write_text("\n".join(lines(50, seed=1)))
    save_tiny_bert(directory / "bert", lines(300, seed=2))
    return directory


def run(files: Path, output: Path, *more: str) -> int:
    names = ["--model", str(files / "bert"), "--output", str(output)]
    data = ["--train", str(files / "train.tsv"), "--dev", str(files / "dev.tsv")]
    return classify.main([*names, *data, *SMALL, *more])


def test_the_job_learns_and_leaves_a_model_that_knows_its_classes(
    files, tmp_path, capsys, monkeypatch
):
    figures = watch_figures(monkeypatch)
    assert run(files, tmp_path, "--epochs", "3", "--evaluate-every", "20") == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["dev"]["accuracy"] > 0.95
    dev = (files / "dev.tsv").read_text().splitlines()
    always = np.mean([line.endswith("\tgood") for line in dev])
    assert report["most_frequent_class"] == pytest.approx(always)
    assert f"{report['dev']['accuracy']:.1%}" in out
    assert f"always 'good'{'':29}{always:>8.1%}" in out

    model = from_pretrained(tmp_path)
    assert isinstance(model, BertForSequenceClassification)
    assert model.config.id2label == {0: "bad", 1: "good"}
    answers = pipeline("text-classification", tmp_path)([line.split("\t")[0] for line in dev])
    right = [a["label"] == line.split("\t")[1] for a, line in zip(answers, dev, strict=True)]
    assert np.mean(right) == pytest.approx(report["dev"]["accuracy"])
    evaluated = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "eval_accuracy" in r]
    assert evaluated[-1]["eval_accuracy"] == pytest.approx(report["dev"]["accuracy"])
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert figures[0].axes[0].get_ylabel() == "loss (nats per text)"


def test_the_baseline_is_the_most_frequent_class_of_the_training_texts(files, tmp_path):
    """Which is another one than that of these dev texts."""
    (tmp_path / "dev.tsv").write_text("a dull tale\tbad\n" * 3 + "a warm tale\tgood\n")
    dev = ["--dev", str(tmp_path / "dev.tsv")]
    assert run(files, tmp_path / "out", "--max-steps", "1", *dev) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["most_frequent_class"] == 0.25


def test_what_is_cut_off_is_counted(files, tmp_path, capsys):
    assert run(files, tmp_path, "--max-steps", "1", "--max-length", "10") == 0
    train = (files / "train.tsv").read_text().splitlines()
    long = sum(len(line.split("\t")[0].split()) > 8 for line in train)
    assert 20 < long < 140
    assert f"train: 160 texts ({long} truncated to 10 tokens)" in capsys.readouterr().out


def test_transformers_classifies_with_a_gpt2_that_had_no_padding_token(files, tmp_path, capsys):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    model = save_checkpoint(tmp_path / "gpt2", "GPT2LMHeadModel")
    assert run(files, tmp_path / "out", "--max-steps", "2", "--model", str(model)) == 0
    assert "2 classes, with their number of texts: bad (" in capsys.readouterr().out
    texts = ["a warm tale", "dull", "the film is a stale tale"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    own = Tokenizer.from_pretrained(tmp_path / "out")(texts, padding=True, return_tensors="pt")
    ours = from_pretrained(tmp_path / "out")
    assert torch.equal(batch["input_ids"], own["input_ids"])
    with torch.no_grad():
        torch.testing.assert_close(ours(**own).logits, theirs.eval()(**batch).logits)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("fine film\tgood\nno label here\n", "train.tsv, line 2: there is no tab"),
        ("fine film\tgood\nanother\tgood\n", "every text has the label 'good'"),
        ("", "train.tsv contains no text"),
        ("fine film\tgood\nbad film\tawful\n", "dev.tsv, line 1: the label"),
    ],
)
def test_a_malformed_file_is_one_line_and_nothing_is_written(
    content, message, files, tmp_path, capsys
):
    (tmp_path / "train.tsv").write_text(content)
    dev = ["--dev", str(tmp_path / "dev.tsv")] if "dev.tsv" in message else []
    (tmp_path / "dev.tsv").write_text("dull\tbad\n")
    options = ["--train", str(tmp_path / "train.tsv"), *dev]
    assert run(files, tmp_path / "out", *options) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()

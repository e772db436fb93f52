"""Fine-tuning on labelled texts, as a user runs it, on a few lines that are made here."""

import json
import re
import shutil
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


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


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
    assert report["constant_answer"]["accuracy"] == pytest.approx(always)
    assert f"accuracy          {report['dev']['accuracy']:10.4f}{always:18.4f}" in out
    assert report["by_class"]["good"]["texts"] == round(always * len(dev))
    assert sum(map(sum, report["confusion"])) == len(dev)
    assert re.search(r"\nbad +[\d.]+%", out)

    model = from_pretrained(tmp_path)
    assert isinstance(model, BertForSequenceClassification)
    assert model.config.id2label == {0: "bad", 1: "good"}
    answers = pipeline("text-classification", tmp_path)([line.split("\t")[0] for line in dev])
    right = [a["label"] == line.split("\t")[1] for a, line in zip(answers, dev, strict=True)]
    assert np.mean(right) == pytest.approx(report["dev"]["accuracy"])
    predictions = rows_of(tmp_path / "predictions.jsonl")
    assert [row["text"] for row in predictions] == [line.split("\t")[0] for line in dev]
    assert [row["label"] for row in predictions] == [line.split("\t")[1] for line in dev]
    for row, answer in zip(predictions, answers, strict=True):
        assert row["predicted"] == answer["label"]
        assert row["scores"][row["predicted"]] == pytest.approx(answer["score"], abs=1e-5)
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
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
    assert report["constant_answer"]["accuracy"] == 0.25


def test_several_labels_a_text(files, tmp_path, capsys):
    """A word stands for each label."""
    random = np.random.default_rng(0)
    names, words = ["warmth", "style"], [("cold", "warm"), ("dull", "witty")]
    for part, count in (("train", 160), ("dev", 40)):
        rows = ["text,warmth,style"]
        for one, two in random.integers(0, 2, (count, 2)):
            rows.append(f"a {words[0][one]} {words[1][two]} tale,{one},{two}")
        (tmp_path / f"{part}.csv").write_text("\n".join(rows))
    (tmp_path / "new.txt").write_text("a warm witty tale\na cold dull tale\n")
    data = ["--train", str(tmp_path / "train.csv"), "--dev", str(tmp_path / "dev.csv")]
    options = ["--label-columns", "warmth,style", "--predict", str(tmp_path / "new.txt")]
    schedule = ["--epochs", "10", "--learning-rate", "5e-3", "--best-metric", "f1_micro"]
    assert run(files, tmp_path / "out", *data, *options, *schedule) == 0
    assert "2 labels, with their number of texts: warmth (" in capsys.readouterr().out

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["dev"]["f1_micro"] > 0.9
    assert report["dev"]["accuracy"] > 0.8 > report["constant_answer"]["accuracy"]
    assert list(report["by_class"]) == names
    model = from_pretrained(tmp_path / "out")
    assert model.config.problem_type == "multi_label_classification"
    new = rows_of(tmp_path / "out" / "predicted.jsonl")
    assert [row["predicted"] for row in new] == [names, []]
    assert "label" not in new[0]
    # The pipeline gives each label a probability of its own, the same one.
    answers = pipeline("text-classification", tmp_path / "out")(["a warm witty tale"], top_k=None)
    assert {a["label"]: a["score"] for a in answers[0]} == pytest.approx(new[0]["scores"], abs=1e-5)
    assert (tmp_path / "out" / "labels.png").exists()


def test_a_number_for_a_pair_of_texts(files, tmp_path):
    random = np.random.default_rng(0)
    for part, count in (("train", 240), ("dev", 40)):
        rows = ["sentence1\tsentence2\tscore"]
        for _ in range(count):
            one, two = random.choice(["warm", "cold"], 2)
            rows.append(f"a {one} tale\tthe film is {two}\t{4.5 * (one == 'warm') + 0.5}")
        (tmp_path / f"{part}.tsv").write_text("\n".join(rows))
    data = ["--train", str(tmp_path / "train.tsv"), "--dev", str(tmp_path / "dev.tsv")]
    assert run(files, tmp_path / "out", *data, "--regression", "--epochs", "6") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())["dev"]
    assert report["pearson"] > 0.95
    assert report["spearman"] > 0.8
    assert report["mse"] == pytest.approx(report["loss"], rel=1e-4)
    row = rows_of(tmp_path / "out" / "predictions.jsonl")[0]
    assert row["text_pair"].startswith("the film is")
    rate = pipeline("text-classification", tmp_path / "out")
    assert rate([row["text"]], [row["text_pair"]])[0]["score"] == pytest.approx(
        row["predicted"], abs=1e-4
    )
    assert abs(row["label"] - row["predicted"]) < 1.5


def test_pairs_need_a_tokenizer_that_separates_them(files, tmp_path, capsys):
    (tmp_path / "pairs.csv").write_text("premise,hypothesis,label\na,b,1\nb,a,0\n")
    model = save_checkpoint(tmp_path / "gpt2", "GPT2LMHeadModel")
    data = ["--train", str(tmp_path / "pairs.csv"), "--dev", str(tmp_path / "pairs.csv")]
    assert run(files, tmp_path / "out", *data, "--model", str(model)) == 1
    assert "nothing between two texts; choose an encoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "kept", "said"),
    [
        (["good", "bad"], True, ""),
        (["1", "0"], True, "--model has names for the classes 0, 1: bad, good"),
        (["yes", "no"], False, "--model classifies bad, good, the training data no, yes: the head"),
        (["x", "y", "z"], False, "--model classifies bad, good, the training data x, y, z"),
    ],
)
def test_a_run_goes_on_from_another(labels, kept, said, files, tmp_path, capsys):
    """With its head if the classes are the same, else with a new one."""
    if not (files / "one").exists():
        assert run(files, files / "one", "--max-steps", "2") == 0
        shutil.copytree(files / "one" / "checkpoints", files / "unfinished" / "checkpoints")
    for before in ("one", "unfinished"):
        path = tmp_path / f"{before}.tsv"
        path.write_text("".join(f"a {label} tale\t{label}\n" for label in labels))
        data = ["--train", str(path), "--dev", str(path), "--model", str(files / before)]
        rate = ["--learning-rate", "1e-9", "--max-steps", "1"]
        assert run(files, tmp_path / before, *data, *rate) == 0
        assert said in capsys.readouterr().out
        old, new = (from_pretrained(path) for path in (files / "one", tmp_path / before))
        same = old.classifier.weight.shape == new.classifier.weight.shape and torch.allclose(
            old.classifier.weight, new.classifier.weight, atol=1e-6
        )
        assert same == kept
        assert [*new.config.id2label.values()] == (["bad", "good"] if kept else sorted(labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--regression", "--multi-label"], "--regression is about a number"),
        (["--label-column", "a", "--label-columns", "a,b"], "exclude each other"),
        (["--label-names", "a,,b"], "--label-names must be different names, separated by commas"),
    ],
)
def test_options_that_contradict_each_other(options, message, files, tmp_path, capsys):
    assert run(files, tmp_path / "out", *options) == 1
    assert message in capsys.readouterr().err


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

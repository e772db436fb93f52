"""Fine-tuning on tagged sentences, as a user runs it, on a few that are made here."""

import json
from pathlib import Path

import numpy as np
import pytest

from minitransformer import BertForTokenClassification, from_pretrained, pipeline
from minitransformer.tasks.tag_schemes import TagScheme
from tests.tiny import save_tiny_bert, watch_figures
from train import tag
from train.conll import read_conll
from train.metrics import read_metrics

PEOPLE = ["Anna Bianchi", "Bruno", "Carla De Luca", "Dario"]
PLACES = ["Rome", "San Marino", "Bari", "Reggio Emilia"]
SMALL = ["--max-length", "32", "--batch-size", "8", "--learning-rate", "1e-2", "--dropout", "0"]
pytestmark = pytest.mark.filterwarnings("ignore:.*newly initialized", "ignore:.*has no use for")


def tagged(count: int, seed: int) -> str:
    """Somebody went somewhere; the names have one, two or three words."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        for words, name in (
            (random.choice(PEOPLE), "person"),
            ("went slowly to", ""),
            (random.choice(PLACES), "place"),
            ("can't stay .", ""),
        ):
            for number, word in enumerate(words.split()):
                prefix = "I" if number else "B"
                rows.append(f"{word}\t{f'{prefix}-{name}' if name else 'O'}")
        rows.append("")
    return "\n".join(rows)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("names")
    (directory / "train.conll").write_text(tagged(120, seed=0))
    (directory / "dev.conll").write_text(tagged(40, seed=1))
    sentences = [s.text for s in read_conll(directory / "train.conll")]
    save_tiny_bert(directory / "bert", sentences)
    return directory


def run(files: Path, output: Path, *more: str) -> int:
    names = ["--model", str(files / "bert"), "--output", str(output)]
    data = ["--train", str(files / "train.conll"), "--dev", str(files / "dev.conll")]
    return tag.main([*names, *data, *SMALL, *more])


def test_the_job_learns_and_leaves_a_model_that_knows_its_tags(
    files, tmp_path, capsys, monkeypatch
):
    figures = watch_figures(monkeypatch)
    assert run(files, tmp_path, "--epochs", "4", "--evaluate-every", "20") == 0
    out = capsys.readouterr().out
    assert "tags: 5, scheme IOB\n" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["f1"] > 0.95
    assert report["by_type"].keys() == {"person", "place"}
    assert report["entities"] == 80
    assert report["word_accuracy"] > 0.95 > report["word_accuracy_of_only_o"]
    assert f"{report['f1']:.2%}" in out
    dev = read_conll(files / "dev.conll")
    only_o = np.mean([tag == "O" for sentence in dev for tag in sentence.tags])
    assert report["word_accuracy_of_only_o"] == pytest.approx(only_o)
    evaluated = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "eval_f1" in r]
    assert evaluated[-1]["eval_f1"] == pytest.approx(report["f1"])
    assert evaluated[-1]["eval_loss"] == pytest.approx(report["loss"])
    assert figures[0].axes[0].get_ylabel() == "loss (nats per word)"

    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [(tuple(row["tokens"]), tuple(row["tags"])) for row in rows] == [
        (sentence.words, sentence.tags) for sentence in dev
    ]
    assert rows[0]["predicted"] == rows[0]["tags"]
    columns = read_conll(tmp_path / "predictions.conll")  # with the predicted tag as the last one
    assert [[*sentence.tags] for sentence in columns] == [row["predicted"] for row in rows]

    model = from_pretrained(tmp_path)
    assert isinstance(model, BertForTokenClassification)
    tags = ["O", "B-person", "I-person", "B-place", "I-place"]
    assert model.config.id2label == dict(enumerate(tags))
    # The pipeline, on the raw text, finds what the job was scored for.
    answers = pipeline("token-classification", tmp_path)(
        [sentence.text for sentence in dev], aggregation_strategy="first"
    )
    right = 0
    for sentence, found in zip(dev, answers, strict=True):
        gold = {
            (e.type, " ".join(sentence.words[e.start : e.end]))
            for e in TagScheme(tags).find_entities(sentence.tags)
        }
        right += gold <= {(a["entity_group"], sentence.text[a["start"] : a["end"]]) for a in found}
    assert right > 36


def test_json_lines_with_numbers_for_tags(files, tmp_path):
    """The same run as with columns, to the last bit."""
    names = ["O", "B-person", "I-person", "B-place", "I-place"]
    for part in ("train", "dev"):
        rows = [
            json.dumps({"tokens": s.words, "ner_tags": [names.index(tag) for tag in s.tags]})
            for s in read_conll(files / f"{part}.conll")
        ]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(rows))
    data = ["--train", str(tmp_path / "train.jsonl"), "--dev", str(tmp_path / "dev.jsonl")]
    assert (
        run(files, tmp_path / "json", *data, "--tag-names", ",".join(names), "--max-steps", "2")
        == 0
    )
    assert run(files, tmp_path / "columns", "--max-steps", "2") == 0
    written = [(tmp_path / run / "predictions.jsonl").read_text() for run in ("json", "columns")]
    assert written[0] == written[1]


def test_what_is_cut_off_is_counted_and_is_no_entity(files, tmp_path, capsys):
    assert run(files, tmp_path, "--max-steps", "60", "--max-length", "6") == 0
    out = capsys.readouterr().out
    train = read_conll(files / "train.conll")
    assert f"train: 120 sentences with {sum(len(s.words) for s in train):,} words" in out
    cut = int(out.split(" words (")[1].split()[0].replace(",", ""))
    assert cut > 300
    report = json.loads((tmp_path / "report.json").read_text())
    # The entities come after the fourth token of a sentence, so none can be found.
    assert report["by_type"]["place"]["recall"] < 0.1 < report["by_type"]["person"]["recall"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Anna\tB-person\nwent\n", "train.conll, line 2: 'went' has only one column"),
        ("Anna\tB-x\nwent\tperson\n", "train.conll, line 2: the tag 'person'"),
        ("\n".join(f"once upon a time {n}" for n in range(40)), "40 different tags for 40 words"),
        ("\n\n", "train.conll contains no word"),
        ("Anna\tB-person\n\nBari\tO\n", "dev.conll, line 1: the tag 'B-place'"),
    ],
)
def test_a_malformed_file_is_one_line_and_nothing_is_written(
    content, message, files, tmp_path, capsys
):
    (tmp_path / "train.conll").write_text(content)
    (tmp_path / "dev.conll").write_text("Bari\tB-place\n")
    options = ["--train", str(tmp_path / "train.conll"), "--dev", str(tmp_path / "dev.conll")]
    assert run(files, tmp_path / "out", *options) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()

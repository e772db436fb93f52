"""Fine-tuning on questions, as a user runs it, on a little SQuAD file that is made here."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minitransformer import BertForQuestionAnswering, Tokenizer, cli, from_pretrained
from minitransformer.tasks.question_answering import Prediction, Span
from tests import tiny
from tests.tiny import save_tiny_bert, watch_figures
from train import download, qa
from train.config import TrainingConfig
from train.loop import take_step
from train.metrics import read_metrics
from train.squad import Answer, Example, read_squad
from train.squad_features import WindowBatches, make_features, window_inputs

NAMES = ["anna", "bruno", "carla", "dario", "elena", "fabio", "gina", "ugo"]
PLACES = ["rome", "milan", "turin", "naples", "bari", "pisa", "genoa", "siena"]
FILLER = "the weather was fine and nobody knew why . "
SMALL = ["--max-length", "48", "--stride", "8", "--max-question-length", "8"]
SMALL += ["--batch-size", "8", "--learning-rate", "1e-2", "--evaluate-every", "40"]
SMALL += ["--dropout", "0"]


def squad(count: int, *, impossible_every: int | None = None, seed: int = 0) -> dict:
    """Questions about who went where; the context has one answer, among noise of some length."""
    random = np.random.default_rng(seed)
    questions = []
    for number in range(count):
        name, place = random.choice(NAMES), random.choice(PLACES)
        noise = [FILLER * int(n) for n in random.integers(0, 5, 2)]
        context = f"{noise[0]}{name} went to {place}. {noise[1]}"
        item = {"id": f"q{number}", "question": f"where did {name} go ?", "answers": []}
        if impossible_every and number % impossible_every == 0:
            context = context.replace(place, "sleep")
        else:
            item["answers"] = [{"text": str(place), "answer_start": context.index(str(place))}]
        if impossible_every:
            item["is_impossible"] = not item["answers"]
        questions.append({"context": context, "qas": [item]})
    return {"version": "1", "data": [{"title": "towns", "paragraphs": questions}]}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("squad")
    for name, content in {
        "train.json": squad(120),
        "dev.json": squad(40, seed=1),
        "train2.json": squad(120, impossible_every=3),
        "dev2.json": squad(40, impossible_every=2, seed=1),
    }.items():
        (directory / name).write_text(json.dumps(content))
    contexts = [p["context"] for p in squad(200)["data"][0]["paragraphs"]]
    save_tiny_bert(directory / "bert", [*contexts, "where did anna go ? sleep"] * 2)
    return directory


def arguments(files: Path, output: Path, *more: str, version: str = "") -> list[str]:
    return [
        *("--model", str(files / "bert"), "--output", str(output)),
        *("--train", str(files / f"train{version}.json")),
        *("--dev", str(files / f"dev{version}.json"), *SMALL, *more),
    ]


@pytest.mark.filterwarnings("ignore:.*newly initialized", "ignore:.*has no use for")
def test_the_job_learns_to_answer_and_leaves_everything(files, tmp_path, capsys, monkeypatch):
    figures = watch_figures(monkeypatch)
    assert qa.main(arguments(files, tmp_path, "--epochs", "10")) == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    total = report["scores"]["all"]
    assert total["exact"] > 90
    assert f"{total['exact']:.2f}" in out
    assert f"{report['start_accuracy']:.2%}" in out
    assert report["scores"]["no answer"] is None

    predictions = json.loads((tmp_path / "predictions.json").read_text())
    examples = read_squad(files / "dev.json").examples
    assert predictions.keys() == {example.id for example in examples}
    right = [predictions[e.id].lower() in e.gold_texts for e in examples]
    assert 100 * np.mean(right) == pytest.approx(total["exact"])

    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert figures[0].axes[0].get_ylabel() == "loss (nats per window)"
    evaluated = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "eval_f1" in r]
    assert evaluated[-1]["eval_exact"] > 90
    assert evaluated[-1]["eval_loss"] < evaluated[0]["eval_loss"]
    assert isinstance(from_pretrained(tmp_path), BertForQuestionAnswering)
    assert Tokenizer.from_pretrained(tmp_path).model_max_length == 64


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*newly initialized", "ignore:.*has no use for")
def test_questions_without_an_answer_are_scored_with_a_tuned_threshold(files, tmp_path, capsys):
    assert qa.main(arguments(files, tmp_path, "--epochs", "8", version="2")) == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["scores"]["has answer"]["count"] == report["scores"]["no answer"]["count"] == 20
    assert report["scores"]["all"]["f1"] == pytest.approx(report["thresholds"]["f1"])
    assert report["scores"]["all"]["exact"] > 80
    assert f"--threshold={report['thresholds']['f1_threshold']!r}" in out
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert {row["id"]: row["prediction"] for row in rows} == predictions
    assert 100 * np.mean([row["f1"] for row in rows]) == pytest.approx(
        report["scores"]["all"]["f1"]
    )
    odds = json.loads((tmp_path / "null_odds.json").read_text())
    assert {row["id"]: row["no_answer_score"] - row["score"] for row in rows} == pytest.approx(odds)
    empty = {name for name, text in predictions.items() if not text}
    assert empty == {n for n, o in odds.items() if o > report["thresholds"]["f1_threshold"]}
    assert 10 < len(empty) < 30


def test_the_report_scores_with_the_threshold_that_it_names(files, tmp_path, capsys):
    """Three questions; only with a threshold between 1 and 5 are all three answers right."""
    answered = Example("a", "who?", "anna met ugo", (Answer("anna", 0),))
    other = Example("b", "whom?", "anna met ugo", (Answer("ugo", 9),))
    impossible = Example("c", "when?", "anna met ugo")
    predictions = qa.Predictions(
        questions={
            0: Prediction((Span(2.0, 0, 4),), null_score=1.0, log_total=3.0),
            1: Prediction((Span(2.0, 9, 12),), null_score=3.0, log_total=3.0),
            2: Prediction((Span(2.0, 5, 8),), null_score=7.0, log_total=3.0),
        },
        loss=0.5,
        start_accuracy=0.25,
        end_accuracy=0.75,
    )
    scorer = qa.Scorer(SimpleNamespace(), None, None, TrainingConfig(output=tmp_path))
    assert scorer.report([answered, other, impossible], predictions, 7) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["steps"] == 7
    assert scorer.scores([answered, other, impossible], predictions).total.exact < 70
    assert report["scores"]["all"]["exact"] == report["thresholds"]["exact"] == 100
    assert json.loads((tmp_path / "predictions.json").read_text()) == {
        "a": "anna",
        "b": "ugo",
        "c": "",
    }
    assert json.loads((tmp_path / "null_odds.json").read_text()) == {"a": -1, "b": 1, "c": 5}
    out = capsys.readouterr().out
    assert "25.00%" in out
    assert "75.00%" in out


@pytest.mark.filterwarnings("ignore:.*newly initialized", "ignore:.*has no use for")
def test_the_command_to_try_it_can_be_typed_as_it_is_printed(files, tmp_path, capsys, monkeypatch):
    """With -5.3e-05 for a threshold too, which is no number to argparse but an option."""
    monkeypatch.setattr(qa.Scorer, "report", lambda *_: -5.3e-05)
    assert qa.main(arguments(files, tmp_path / "out", "--max-steps", "1", version="2")) == 0
    printed = capsys.readouterr().out.split("try it: minitransformer ")[1].split()
    command = ["anna went to rome" if word == "..." else word for word in printed]
    assert cli.main(command) == 0
    assert "anna went to rome" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_is_interrupted_ends_with_the_same_weights(files, tmp_path, monkeypatch):
    more = ["--max-steps", "12", "--evaluate-every", "6", "--save-every", "5", "--dropout", "0.1"]
    assert qa.main(arguments(files, tmp_path / "whole", *more)) == 0
    steps = []

    def interrupted(*given):
        steps.append(1)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(*given)

    monkeypatch.setattr("train.loop.take_step", interrupted)
    assert qa.main(arguments(files, tmp_path / "cut", *more)) == 128 + signal.SIGINT
    assert len(steps) == 4
    monkeypatch.undo()
    assert qa.main(arguments(files, tmp_path / "cut", *more, "--resume")) == 0
    weights = [tiny.digest(from_pretrained(tmp_path / name)) for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    reports = [(tmp_path / name / "report.json").read_text() for name in ("whole", "cut")]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--train", "nowhere.json"], "nowhere.json cannot be read"),
        (["--max-length", "65"], "--max-length 65: the model takes at most 64 tokens"),
        (["--stride", "40"], "stride=40 must be"),
        (["--seed", "-1"], "seed=-1"),
        (["--dropout", "1.5"], "hidden_dropout_prob=1.5"),
        (["--download", "v1.1"], "leave out --train and --dev"),
        (["--model", "no/such/model/here"], "no/such/model/here"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(change, message, files, tmp_path, capsys):
    assert qa.main(arguments(files, tmp_path / "out", *change)) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_without_files_the_error_names_both_ways_to_give_them(files, tmp_path, capsys):
    given = ["--model", str(files / "bert"), "--output", str(tmp_path / "out")]
    assert qa.main(given) == 1
    assert "--train FILE and --dev FILE, or --download" in capsys.readouterr().err


def test_downloaded_files_are_used(files, tmp_path, monkeypatch):
    seen = []

    def fetch(name, directory):
        seen.append((name, directory))
        return files / ("train.json" if name.startswith("train") else "dev.json")

    monkeypatch.setattr(qa, "squad_file", fetch)
    options = [*("--model", "m", "--output", str(tmp_path)), *("--download", "v1.1")]
    found = qa._paths(qa.parser().parse_args([*options, "--data", str(tmp_path / "d")]))
    assert found == (files / "train.json", files / "dev.json")
    assert seen == [(f"{p}-v1.1.json", tmp_path / "d") for p in ("train", "dev")]
    assert {name for name, _ in seen} <= download.SQUAD_FILES.keys()


def test_batches_hold_the_labelled_windows_of_the_features(files):
    tokenizer = Tokenizer.from_pretrained(files / "bert")
    examples = list(read_squad(files / "train2.json").examples)
    # A question whose answer is not where it should be: nothing can be learned from it.
    examples[0] = dataclasses.replace(examples[0], answers=(), dropped_answers=("nowhere",))
    features = make_features(
        examples, tokenizer, max_length=48, stride=8, max_question_length=8, show_progress=False
    )
    batches = WindowBatches(features, pad_token_id=tokenizer.pad_token_id, batch_size=7, seed=2)
    seen = 0
    for index in range(batches.num_batches):
        batch = batches.batch(0, index)
        windows = batches.windows[batches.order.example_indices(0, index)]
        for row, window in enumerate(windows):
            length = int(batch["attention_mask"][row].sum())
            assert length == features.lengths[window]
            ids = features.input_ids[features.tokens(window)]
            assert batch["input_ids"][row, :length].tolist() == ids.tolist()
            assert bool((batch["input_ids"][row, length:] == tokenizer.pad_token_id).all())
            first, last = int(batch["start_positions"][row]), int(batch["end_positions"][row])
            example = examples[features.example_index[window]]
            assert example is not examples[0]
            if first:
                begin, end = features.span(window, first, last)
                assert example.context[begin:end] == example.answers[0].text
            seen += 1
    left_out = int((features.example_index == 0).sum())
    assert seen == len(features) - left_out == len(batches.windows)
    again = WindowBatches(features, pad_token_id=tokenizer.pad_token_id, batch_size=7, seed=2)
    assert torch.equal(again.batch(1, 3)["input_ids"], batches.batch(1, 3)["input_ids"])


@pytest.mark.filterwarnings("ignore:.*newly initialized", "ignore:.*has no use for")
def test_predictions_do_not_depend_on_the_batches(files):
    tokenizer = Tokenizer.from_pretrained(files / "bert")
    examples = read_squad(files / "dev2.json").examples
    features = make_features(
        examples, tokenizer, max_length=48, stride=8, max_question_length=8, show_progress=False
    )
    model = BertForQuestionAnswering.from_pretrained(files / "bert").double()
    contexts = [example.context for example in examples]
    results = [
        qa.predict(model, features, contexts, pad_token_id=tokenizer.pad_token_id, batch_size=size)
        for size in (1, 16)
    ]
    one, many = results
    assert one.loss == pytest.approx(many.loss)
    assert (one.start_accuracy, one.end_accuracy) == (many.start_accuracy, many.end_accuracy)
    assert one.questions.keys() == many.questions.keys() == set(range(len(examples)))
    for number, prediction in one.questions.items():
        other = many.questions[number]
        assert prediction.null_score == pytest.approx(other.null_score, abs=1e-5)
        for a, b in zip(prediction.spans, other.spans, strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-5)
    # The loss is that of the model over all windows at once.
    inputs = window_inputs(features, range(len(features)), tokenizer.pad_token_id)
    places = {
        f"{edge}_positions": torch.from_numpy(getattr(features, f"{edge}_positions")).long()
        for edge in ("start", "end")
    }
    with torch.inference_mode():
        assert one.loss == pytest.approx(float(model.loss(**inputs, **places)), rel=1e-5)
    short = qa.predict(
        model,
        features,
        contexts,
        pad_token_id=tokenizer.pad_token_id,
        batch_size=16,
        max_answer_tokens=1,
    )
    assert all(
        " " not in contexts[n][p.spans[0].start : p.spans[0].end]
        for n, p in short.questions.items()
    )
    assert (
        qa.predict(
            model, features, contexts, pad_token_id=0, batch_size=4, should_stop=lambda: True
        )
        is None
    )
    model.qa_outputs.bias.data[1] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinity, and so does .* qa_outputs\.bias"):
        qa.predict(model, features, contexts, pad_token_id=0, batch_size=4)


@pytest.mark.filterwarnings("ignore:.*newly initialized", "ignore:.*has no use for")
def test_questions_with_unlocated_answers_have_no_part_in_loss_and_accuracy(files):
    tokenizer = Tokenizer.from_pretrained(files / "bert")
    examples = list(read_squad(files / "dev.json").examples)
    settings = {"max_length": 48, "stride": 8, "max_question_length": 8, "show_progress": False}
    model = BertForQuestionAnswering.from_pretrained(files / "bert")

    def figures(of):
        found = qa.predict(
            model,
            make_features(of, tokenizer, **settings),
            [example.context for example in of],
            pad_token_id=tokenizer.pad_token_id,
            batch_size=8,
        )
        return found.loss, found.start_accuracy, found.end_accuracy

    lost = [dataclasses.replace(e, answers=(), dropped_answers=("x",)) for e in examples[:20]]
    assert figures([*lost, *examples[20:]]) == pytest.approx(figures(examples[20:]), rel=1e-5)
    assert figures(examples) != pytest.approx(figures(examples[20:]), rel=1e-5)


def test_a_sample_is_the_same_every_time_and_not_the_beginning():
    numbers = list(range(100))
    sample = qa._sample(numbers, 10, seed=3)
    assert sample == sorted(sample) == qa._sample(numbers, 10, seed=3)
    assert sample != numbers[:10]
    assert qa._sample(numbers, None, seed=3) == qa._sample(numbers, 100, seed=3) == numbers


@pytest.mark.filterwarnings("ignore:.*newly initialized", "ignore:.*has no use for")
def test_only_a_sample_of_the_dev_questions_is_scored(files, tmp_path):
    options = ["--max-steps", "1", "--dev-questions", "7"]
    assert qa.main(arguments(files, tmp_path, *options)) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["scores"]["all"]["count"] == 7
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == 7

"""What the fine-tuning jobs share, for every family, and what they refuse."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import minitransformer
from minitransformer import BertForSequenceClassification, Tokenizer, from_pretrained
from tests.tiny import save_tiny_bert
from train import classify
from train.batching import BatchOrder, LabelledBatches
from train.checkpoints import list_checkpoints, read_state
from train.config import TrainingConfig
from train.finetuning import labelled_logits, write_results

LINES = [f"{word} tale of two towns\t{label}" for label, word in enumerate(["warm", "dull"])] * 8
SMALL = ["--max-length", "16", "--batch-size", "4", "--max-steps", "3"]
pytestmark = pytest.mark.filterwarnings("ignore:.*newly initialized", "ignore:.*has no use for")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("families")
    (directory / "train.tsv").write_text("\n".join(LINES))
    save_tiny_bert(directory / "Bert", LINES, max_length=20)
    tokenizer = Tokenizer.from_pretrained(directory / "Bert")
    sizes = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for family, more in (("DistilBert", 20), ("Roberta", 20 + tokenizer.pad_token_id + 1)):
        config = getattr(minitransformer, f"{family}Config")(**sizes, max_position_embeddings=more)
        torch.manual_seed(0)
        getattr(minitransformer, f"{family}Model")(config).save_pretrained(directory / family)
        tokenizer.save_pretrained(directory / family)  # BERT's, which returns token types
    return directory


def run(files: Path, family: str, output: Path, *more: str) -> int:
    data = ["--train", str(files / "train.tsv"), "--dev", str(files / "train.tsv")]
    names = ["--model", str(files / family), "--output", str(output)]
    return classify.main([*names, *data, *SMALL, *more])


@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Roberta"])
def test_a_job_takes_every_family_and_sets_every_dropout(family, files, tmp_path):
    options = ["--dropout", "0.25", "--attention-dropout", "0.15"]
    assert run(files, family, tmp_path / "out", *options) == 0
    model = from_pretrained(tmp_path / "out")
    assert type(model).__name__ == f"{family}ForSequenceClassification"
    assert model.config.hidden_dropout_prob == 0.25
    assert model.config.attention_probs_dropout_prob == 0.15
    own = {"DistilBert": ("qa_dropout", "seq_classif_dropout")}.get(family, ("classifier_dropout",))
    assert {getattr(model.config, name) for name in own} == {0.25}
    answers = minitransformer.pipeline("text-classification", tmp_path / "out")(["a warm tale"])
    assert answers[0]["label"] in ("0", "1")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(files, tmp_path, capsys):
    shutil.copytree(files / "Bert", tmp_path / "small")
    config = minitransformer.BertConfig(
        vocab_size=20,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=20,
    )
    minitransformer.BertModel(config).save_pretrained(tmp_path / "small")
    assert run(tmp_path, "small", tmp_path / "out", "--train", str(files / "train.tsv")) == 1
    data = ["--train", str(files / "train.tsv"), "--dev", str(files / "train.tsv")]
    assert run(tmp_path, "small", tmp_path / "out", *data) == 1
    assert "they do not belong together" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_that_holds_something_else_is_left_alone(files, tmp_path, capsys):
    before = (files / "Bert" / "config.json").read_bytes()
    assert run(files, "Bert", files / "Bert") == 1
    assert "already contains a model" in capsys.readouterr().err
    assert (files / "Bert" / "config.json").read_bytes() == before

    assert run(files, "Bert", tmp_path / "out") == 0
    shutil.rmtree(tmp_path / "out" / "checkpoints")
    assert run(files, "Bert", tmp_path / "out") == 1
    assert "already contains a model, but no checkpoint" in capsys.readouterr().err

    (tmp_path / "file").write_text("mine")
    assert run(files, "Bert", tmp_path / "file") == 1
    assert "file is a file; --output must be a directory" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("changed", ["text", "label"])
def test_a_run_is_not_resumed_with_other_data(changed, files, tmp_path, capsys):
    (tmp_path / "train.tsv").write_text("\n".join(LINES))
    data = ["--train", str(tmp_path / "train.tsv")]
    assert run(files, "Bert", tmp_path / "out", *data) == 0
    other = LINES[0].replace("warm", "dull") if changed == "text" else LINES[0][:-1] + "1"
    (tmp_path / "train.tsv").write_text("\n".join([other, *LINES[1:]]))
    assert run(files, "Bert", tmp_path / "out", *data, "--resume") == 1
    error = capsys.readouterr().err
    assert "belongs to another run: checksum of the training texts was" in error
    (tmp_path / "train.tsv").write_text("\n".join(LINES))
    assert run(files, "Bert", tmp_path / "out", *data, "--resume", "--seed", "1") == 1
    assert "belongs to another run: seed was 0, now it is 1" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--plain"]])
def test_a_run_stays_plain_or_optimized(options, files, tmp_path):
    for more in (options, ["--resume"]):  # other settings stay as they were
        assert run(files, "Bert", tmp_path, "--save-every", "1", *more) == 0
        last = list_checkpoints(tmp_path / "checkpoints")[-1]
        state = read_state(last)
        assert state["run"]["implementation"] == ("plain" if options else "optimized")
        shutil.rmtree(last)  # so that a step is left


def test_a_job_that_gets_a_signal_stops_within_an_evaluation(files, tmp_path, monkeypatch):
    """Its exit status shows it."""
    seen = []

    class Stopping:
        requested, signal = False, None

        def __enter__(self):
            return self

        def __exit__(self, *_exception):
            pass

    stopping = Stopping()
    monkeypatch.setattr("train.loop.StopSignals", lambda: stopping)
    labelled_logits = classify.labelled_logits

    def interrupt(*arguments):
        for indices, logits, labels in labelled_logits(*arguments):
            seen.append(len(logits))
            stopping.requested, stopping.signal = True, 2
            yield indices, logits, labels

    monkeypatch.setattr(classify, "labelled_logits", interrupt)
    assert run(files, "Bert", tmp_path / "out", "--evaluate-every", "1") == 130
    assert seen == [4]  # one batch of four, not all of the sixteen
    assert not (tmp_path / "out" / "config.json").exists()
    assert (tmp_path / "out" / "checkpoints" / "step-00000001").is_dir()


def test_a_classifier_is_evaluated_without_dropout(files, tmp_path):
    model = BertForSequenceClassification.from_pretrained(files / "Bert", hidden_dropout_prob=0.5)
    tokenizer = Tokenizer.from_pretrained(files / "Bert")
    encoding = tokenizer(["a tale of warm towns", "dull"])
    batches = LabelledBatches(encoding, [1, 0], pad_token_id=tokenizer.pad_token_id, batch_size=2)
    config = TrainingConfig(output=tmp_path)
    [(indices, logits, labels)] = labelled_logits(model.train(), batches, config, lambda: False)
    assert (indices.tolist(), labels.tolist()) == ([1, 0], [0, 1])  # the shorter one first
    inputs = encoding.padded_batch([1, 0], tokenizer.pad_token_id)
    with torch.no_grad():
        torch.testing.assert_close(logits, model.eval()(**inputs).logits)


def test_batches_of_unequal_length_come_in_no_order():
    order = BatchOrder(np.arange(1, 41), batch_size=2, seed=0)
    first = [int(order.example_indices(0, index).min()) for index in range(order.num_batches)]
    assert sorted(first) != first
    assert sorted(np.concatenate([order.example_indices(0, i) for i in range(20)]).tolist()) == [
        *range(40)
    ]
    second = [int(order.example_indices(1, index).min()) for index in range(order.num_batches)]
    assert second != first


def test_sequences_of_equal_length_meet_other_partners_in_every_epoch():
    order = BatchOrder(np.full(40, 7), batch_size=4, seed=0)
    first, second = (
        {frozenset(order.example_indices(epoch, i).tolist()) for i in range(order.num_batches)}
        for epoch in (0, 1)
    )
    assert len(first) == len(second) == 10
    assert first.isdisjoint(second)


def test_results_are_written_all_or_none(tmp_path, monkeypatch):
    output = tmp_path / "new"
    write_results(output, {"predictions.json": {"1": "perché"}, "report.json": {"f1": 3}})
    (output / "other.txt").write_text("stays")

    def fail(*_arguments):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            write_results(output, {"predictions.json": {"1": "no"}, "report.json": {"f1": 4}})
    assert json.loads((output / "predictions.json").read_text("utf-8")) == {"1": "perché"}
    assert json.loads((output / "report.json").read_text("utf-8")) == {"f1": 3}
    names = ["other.txt", "predictions.json", "report.json"]
    assert sorted(path.name for path in output.iterdir()) == names

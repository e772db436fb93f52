"""The demo of Italian agreement, in small."""

import json

import pytest
import torch

from minitransformer import RobertaForMaskedLM, Tokenizer
from train.demos import agreement
from train.demos.italian import sentences, write_corpus


def test_agreement_is_measured_by_the_forms_of_the_word(tmp_path):
    """A model that only predicts avesse is right where avesse is right."""
    write_corpus(tmp_path / "text.txt", 1500, seed=0)
    tokenizer = Tokenizer.train(tmp_path / "text.txt", vocab_size=4000, show_progress=False)
    asked = list(sentences(60, seed=1, held_out=True))

    class OnlyAvesse(RobertaForMaskedLM):
        def __init__(self):
            pass

        def logits_at(self, places, **_batch):
            logits = torch.zeros(int(places.sum()), tokenizer.vocab_size)
            logits[:, agreement._ids(tokenizer, "avesse")] = 1
            return logits

    results = agreement.measure_agreement(
        OnlyAvesse(), tokenizer, asked, agreement.word_counts(["avesse"])
    )
    questions = [
        (s.text[a.start : a.end], a)
        for s in asked
        for a in s.agreements
        if all(len(agreement._ids(tokenizer, form)) == 1 for form in a.forms)
    ]
    assert len(questions) > 50
    assert results["all"]["questions"] == len(questions)
    kind = "auxiliary (counterfactual)"
    with_avesse = [word for word, a in questions if a.kind == kind and "avesse" in a.forms]
    expected = with_avesse.count("avesse") + sum(
        word == a.forms[0] for word, a in questions if a.kind == kind and "avesse" not in a.forms
    )
    asked_of_kind = [a for _, a in questions if a.kind == kind]
    assert results[kind]["model"] == pytest.approx(expected / len(asked_of_kind))
    assert results[kind]["unigram"] == results[kind]["model"]


@pytest.mark.slow
def test_the_demo_runs_and_runs_again(tmp_path, capsys):
    """A few lines and steps show that it works; `make demo` shows how well."""
    command = ["--output", str(tmp_path), "--lines", "800", "--max-steps", "2", "--questions", "20"]
    assert agreement.main(command) == 0
    first = capsys.readouterr().out
    for expected in (*agreement.EXAMPLES, "unigram guess", "auxiliary (counterfactual)"):
        assert expected in first
    assert (tmp_path / "agreement.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "report.json").read_text())["steps"] == 2
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["initializer_range"] == agreement.JOB["--initializer-range"]
    before = (tmp_path / "model.safetensors").read_bytes()
    assert agreement.main(command) == 0  # nothing is left to train; the answers are shown again
    assert (tmp_path / "model.safetensors").read_bytes() == before

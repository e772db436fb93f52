"""The demo of Italian agreement, in small."""

import json

import pytest
import torch

from minitransformer import RobertaForMaskedLM, Tokenizer, from_pretrained, pipeline
from minitransformer.files import read_json
from minitransformer.hub import BUNDLED, BUNDLED_PATH
from train.demos import agreement, bundle
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
    # The bundled checkpoint is made of such a run.
    small = tmp_path / "small"
    capsys.readouterr()
    assert bundle.main([str(tmp_path), "--output", str(small), "--questions", "20"]) == 0
    card = (small / "README.md").read_text("utf-8")
    assert card in capsys.readouterr().out
    text = tmp_path / agreement.TEXT
    asked = agreement.measure_checkpoint(small, text, 20)
    assert agreement.agreement_table(asked) in card
    assert "800 sentences" in card
    assert read_json(small / "config.json")["dtype"] == "float16"
    trained = from_pretrained(tmp_path, dtype=torch.float16).state_dict()
    for name, value in from_pretrained(small).state_dict().items():
        assert torch.equal(value, trained[name].float()), name


def test_only_a_finished_demo_is_bundled(tmp_path, capsys):
    assert bundle.main([str(tmp_path / "none"), "--output", str(tmp_path / "small")]) == 1
    assert "run: python -m train.demos.agreement --output" in capsys.readouterr().err
    assert not (tmp_path / "small").exists()


def test_the_checkpoint_that_comes_with_the_package():
    """Its card states what it knows; a part of the questions is asked again."""
    files = sorted(path.name for path in BUNDLED_PATH.iterdir())
    assert files == [
        *("README.md", "config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]
    assert sum(path.stat().st_size for path in BUNDLED_PATH.iterdir()) < 2_500_000
    assert next(from_pretrained(BUNDLED).parameters()).dtype == torch.float32
    [*answers] = pipeline("fill-mask", BUNDLED)(
        [
            "se Laura <mask> scelto un altro giorno, avrebbe visto il mare.",
            "se noi <mask> scelto un altro giorno, avremmo visto il mare.",
        ]
    )
    assert [one[0]["token_str"].strip() for one in answers] == ["avesse", "avessimo"]
    held_out = list(sentences(100, seed=2, held_out=True))
    results = agreement.measure_agreement(
        from_pretrained(BUNDLED),
        Tokenizer.from_pretrained(BUNDLED),
        held_out,
        agreement.word_counts([]),
    )
    assert results["all"]["model"] > 0.9

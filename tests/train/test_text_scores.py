"""Exact matches and ROUGE counted by hand; BLEU and chrF against sacrebleu's own."""

import sys

import pytest

from train.text_scores import bleu_and_chrf, exact_match, mean_words, rouge, why_no_scores

WRITTEN = ["the cat sat on the mat.", "hello", "a red book "]
RIGHT = ["the cat sat on a mat.", "hello", "a red book"]


def test_exact_matches():
    assert exact_match(WRITTEN, RIGHT) == pytest.approx(2 / 3)
    assert exact_match(["Hello"], ["hello"]) == 0
    with pytest.raises(ValueError, match="zip"):
        exact_match(["hello"], RIGHT)


def test_bleu_and_chrf_are_those_of_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu", reason="needs sacrebleu")
    scores = bleu_and_chrf(WRITTEN, RIGHT)
    assert scores["bleu"] == sacrebleu.corpus_bleu(WRITTEN, [RIGHT]).score
    assert scores["chrf"] == sacrebleu.corpus_chrf(WRITTEN, [RIGHT]).score
    assert 0 < scores["bleu"] < scores["chrf"] < 100
    assert scores["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    assert scores["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0")
    assert bleu_and_chrf(RIGHT, RIGHT)["bleu"] == pytest.approx(100)


def test_without_sacrebleu_one_sentence_is_printed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ImportError, match=r"^BLEU and chrF need sacrebleu: pip install sacrebleu"):
        bleu_and_chrf(WRITTEN, RIGHT)
    assert why_no_scores() == "BLEU and chrF need sacrebleu: pip install sacrebleu"


def test_with_sacrebleu_nothing_is_missing():
    pytest.importorskip("sacrebleu", reason="needs sacrebleu")
    assert why_no_scores() is None


def test_rouge_by_hand():
    """The example of the paper's section 3.1, and words that occur more than once."""
    reference = "police killed the gunman"
    scores = rouge(["police kill the gunman"], [reference])
    assert scores == pytest.approx({"rouge1": 75, "rouge2": 100 / 3, "rougeL": 75})
    scores = rouge(["the gunman kill police"], [reference])
    assert scores == pytest.approx({"rouge1": 75, "rouge2": 100 / 3, "rougeL": 50})
    # "the" counts once; P = 1/3 of the summary, R = 1/2 of the reference.
    assert rouge(["the the the"], ["The end."])["rouge1"] == pytest.approx(100 * 2 / (3 + 2))
    assert rouge(["Perché no?"], ["perché, NO"]) == {"rouge1": 100, "rouge2": 100, "rougeL": 100}
    # The mean over the texts; of an empty one 0.
    assert rouge(["", "a b"], ["a b", "a b"]) == {"rouge1": 50, "rouge2": 50, "rougeL": 50}
    assert mean_words(["a b c", "", "d"]) == pytest.approx(4 / 3)

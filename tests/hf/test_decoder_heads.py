"""Heads of decoders that are new, or left over."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from minitransformer import CheckpointError, from_pretrained
from minitransformer.layers.positional_embeddings import sinusoids
from minitransformer.models.bart import (
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BartModel,
)
from minitransformer.models.base import Model
from minitransformer.models.gpt2 import GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Model
from minitransformer.models.marian import MarianModel
from minitransformer.models.t5 import T5ForConditionalGeneration, T5Model
from tests.hf.test_decoder_loading import poison, renamed, save
from tests.hf.test_loading import edit_config, edit_tensors, equal

pytestmark = pytest.mark.filterwarnings("error")  # a warning is either expected or wrong


def loaded(
    model_class: type[Model], directory: Path, warned: str | None, **changes: Any
) -> tuple[Any, str]:
    """A model, and its warnings in one string; `warned=None` expects none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = model_class.from_pretrained(directory, **changes)
    messages = " | ".join(str(warning.message) for warning in caught)
    assert (warned is None) == (messages == ""), messages
    assert warned is None or warned in messages
    return model, messages


def test_bart_s_backbone_gets_a_head_without_anything_new(tmp_path, monkeypatch):
    backbone = save("BartModel", tmp_path)
    poison(monkeypatch)
    model, _ = loaded(BartForConditionalGeneration, tmp_path, None)
    assert equal(model.model, backbone)
    assert not model.final_logits_bias.any()


def test_what_bart_s_backbone_leaves_over(tmp_path):
    model = save("BartForConditionalGeneration", tmp_path)
    backbone, _ = loaded(BartModel, tmp_path, "no use for final_logits_bias")
    assert equal(backbone, model.model)


def test_a_classifier_from_a_bart_language_model(tmp_path, monkeypatch):
    model = save("BartForConditionalGeneration", tmp_path)
    poison(monkeypatch)
    classifier, messages = loaded(
        BartForSequenceClassification,
        tmp_path,
        "no matching classification_head: newly initialized",
    )
    assert "no use for final_logits_bias" in messages
    assert equal(classifier.model, model.model)
    for linear in (classifier.classification_head.dense, classifier.classification_head.output):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.3)
        assert not linear.bias.any()


@pytest.mark.slow
def test_a_bart_language_model_from_a_classifier(tmp_path):
    classifier = save("BartForSequenceClassification", tmp_path)
    model, _ = loaded(
        BartForConditionalGeneration, tmp_path, "no use for classification_head.dense.bias"
    )
    assert equal(model.model, classifier.model)


def test_a_classifier_from_a_gpt2_language_model(tmp_path, monkeypatch):
    model = save("GPT2LMHeadModel", tmp_path)
    edit_tensors(tmp_path, lambda t: {**t, "lm_head.weight": t["transformer.wte.weight"].clone()})
    poison(monkeypatch)
    classifier, messages = loaded(
        GPT2ForSequenceClassification, tmp_path, "no matching score: newly initialized"
    )
    assert "no use for lm_head.weight" in messages
    assert equal(classifier.transformer, model.transformer)
    assert classifier.score.weight.std().item() == pytest.approx(0.02, rel=0.4)


@pytest.mark.slow
def test_other_classes_need_a_new_head(tmp_path):
    old = save("GPT2ForSequenceClassification", tmp_path)
    classifier, _ = loaded(
        GPT2ForSequenceClassification,
        tmp_path,
        "no matching score: newly initialized",
        id2label={0: "bad", 1: "good"},
    )
    assert classifier.score.weight.shape == (2, 12)
    assert equal(classifier.transformer, old.transformer)


@pytest.mark.slow
def test_a_gpt2_language_model_from_a_backbone_and_from_a_classifier(tmp_path):
    backbone = save("GPT2Model", tmp_path / "backbone")
    model, _ = loaded(GPT2LMHeadModel, tmp_path / "backbone", None)
    assert equal(model.transformer, backbone)
    classifier = save("GPT2ForSequenceClassification", tmp_path / "classes")
    model, _ = loaded(GPT2LMHeadModel, tmp_path / "classes", "no use for score.weight")
    assert equal(model.transformer, classifier.transformer)
    model, _ = loaded(GPT2Model, tmp_path / "classes", "no use for score.weight")
    assert equal(model, classifier.transformer)


@pytest.mark.parametrize("name", ["BartForSequenceClassification", "GPT2ForSequenceClassification"])
def test_a_file_without_classes_means_the_default_number(name, tmp_path):
    """Three in BART, two in GPT-2: the stored head is used."""
    classes = {number: f"LABEL_{number}" for number in range(3 if "Bart" in name else 2)}
    model = save(name, tmp_path, id2label=classes)
    edit_config(tmp_path, id2label=..., label2id=...)
    assert equal(from_pretrained(tmp_path), model)


def test_a_classifier_without_its_head_is_damage(tmp_path):
    save("GPT2ForSequenceClassification", tmp_path)
    edit_tensors(tmp_path, renamed(lambda n: None if n == "score.weight" else n))
    with pytest.raises(CheckpointError, match="no weights for score"):
        from_pretrained(tmp_path)


@pytest.mark.slow
def test_the_backbones_of_t5(tmp_path, monkeypatch):
    tied = save("T5ForConditionalGeneration", tmp_path / "tied")
    edit_tensors(tmp_path / "tied", lambda t: {**t, "lm_head.weight": t["shared.weight"].clone()})
    backbone, _ = loaded(T5Model, tmp_path / "tied", "no use for lm_head.weight")
    assert equal(backbone, tied.backbone)
    untied = save("T5ForConditionalGeneration 1.1", tmp_path / "untied")
    backbone, _ = loaded(T5Model, tmp_path / "untied", "no use for lm_head.weight")
    assert equal(backbone, untied.backbone)
    save("T5Model", tmp_path / "plain")
    model, _ = loaded(T5ForConditionalGeneration, tmp_path / "plain", None)
    assert model.lm_head is None
    poison(monkeypatch)
    edit_config(tmp_path / "plain", tie_word_embeddings=False)
    model, _ = loaded(
        T5ForConditionalGeneration, tmp_path / "plain", "no matching lm_head: newly initialized"
    )
    factor = model.config.initializer_factor
    assert model.lm_head.weight.std().item() == pytest.approx(factor, rel=0.15)


@pytest.mark.slow
def test_marian_s_backbone(tmp_path):
    model = save("MarianMTModel", tmp_path)
    backbone, _ = loaded(MarianModel, tmp_path, "no use for final_logits_bias")
    assert equal(backbone, model.model)
    assert torch.equal(backbone.encoder.position_embedding.table, sinusoids(24, 12).float())

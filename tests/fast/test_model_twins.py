"""Twins of backbones and task models where something inside could observe the difference.

Elsewhere they are tested together with the plain models, as one of the `VARIANTS`.
"""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from minitransformer import optimize
from minitransformer.fast import model_twins
from minitransformer.fast.layer_twins import FastDropout
from minitransformer.fast.model_twins import can_unpad
from minitransformer.layers.feed_forward import FeedForward, GatedFeedForward
from minitransformer.layers.normalization import LayerNorm
from minitransformer.models.bart import DecoderLayer
from minitransformer.models.bert import BertEmbeddings, EncoderLayer, MaskedLMHead
from minitransformer.models.gpt2 import GPT2Layer
from minitransformer.models.t5 import T5DecoderLayer
from minitransformer.parity import random_batch
from tests.tiny import BART, CLASSES, SEQ2SEQ, UNTIED, assert_equal, new

LOSSES = [
    "BertForMaskedLM",
    "RobertaForMaskedLM",
    "DistilBertForMaskedLM",
    "GPT2LMHeadModel",
    "BartForConditionalGeneration",
    "MarianMTModel",
    "T5ForConditionalGeneration",
    "T5ForConditionalGeneration 1.1",
    *UNTIED,
]


def mixed(output: Any) -> Any:
    """Mix each token with all others, as no module of the package does."""
    hidden, *rest = output if isinstance(output, tuple) else (output,)
    hidden = hidden + hidden.mean(dim=-2, keepdim=True)
    return (hidden, *rest) if isinstance(output, tuple) else hidden


def mixing(kind: type[nn.Module]) -> type[nn.Module]:
    """A user's subclass."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return mixed(kind.forward(self, *args, **kwargs))

    return type(f"Mixing{kind.__name__}", (kind,), {"forward": forward})


def labelled_batch(model: Any) -> dict[str, Any]:
    """A padded batch with labels at some tokens."""
    batch = random_batch(model, length=7)
    if "decoder_input_ids" in batch:
        labels = batch.pop("decoder_input_ids").clone()
        batch.pop("decoder_attention_mask", None)
        labels[1:, -3:] = -100
    else:
        labels = batch["input_ids"].clone()
        labels[batch["attention_mask"] == 0] = -100
        labels[:, ::2] = -100
    return {**batch, "labels": labels}


def without_padding(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.ones_like(t) if name.endswith("mask") else t for name, t in batch.items()}


MIXING = {
    "BertModel": [FeedForward, BertEmbeddings, EncoderLayer, LayerNorm, nn.Linear],
    "RobertaModel": [FeedForward],
    "DistilBertModel": [FeedForward],
    "GPT2Model": [FeedForward, GPT2Layer, nn.Dropout],
    "BartModel": [FeedForward, EncoderLayer, DecoderLayer],
    "MarianModel": [FeedForward],
    "T5Model": [FeedForward, T5DecoderLayer],
    "BertForMaskedLM": [FeedForward, BertEmbeddings, MaskedLMHead],
    "BertForSequenceClassification": [FeedForward, BertEmbeddings],
    "GPT2LMHeadModel": [FeedForward, GPT2Layer],
    "BartForConditionalGeneration": [FeedForward, DecoderLayer],
    "T5ForConditionalGeneration": [FeedForward],
    "T5ForConditionalGeneration 1.1": [GatedFeedForward, nn.Linear],
}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kinds in MIXING.items() for kind in kinds]
)
@pytest.mark.parametrize("padded", [True, False])
def test_a_users_module_that_mixes_tokens(name, kind, padded):
    """It gets the batch in the same shape as in the plain model."""
    if padded and kind is MaskedLMHead:
        pytest.skip("a head sees zeros at padding")
    plain = new(name)
    for module in plain.modules():
        if type(module) is kind:
            module.__class__ = mixing(kind)
    optimized = optimize(copy.deepcopy(plain))
    batch = random_batch(plain, length=7)
    batch = batch if padded else without_padding(batch)
    found, expected = optimized(**batch), plain(**batch)
    if not hasattr(plain, "backbone"):
        real = batch.get("decoder_attention_mask", batch["attention_mask"]) == 1
        assert_equal(found.last_hidden_state[real], expected.last_hidden_state[real])
        return
    assert_equal(found.logits, expected.logits)
    if name in LOSSES:
        batch = labelled_batch(plain)
        batch = batch if padded else without_padding(batch)
        assert_equal(optimized.loss_sum(**batch), plain.loss_sum(**batch))
    if name == "BertForMaskedLM":
        where = batch.pop("labels") != -100
        assert_equal(optimized.logits_at(where, **batch), plain.logits_at(where, **batch))


@pytest.mark.parametrize("name", [*CLASSES, *UNTIED])
def test_a_model_of_built_in_modules_can_be_unpadded(name):
    """Conversely, a class that is missing from the list would disable unpadding."""
    model = new(name, "optimized")
    backbone = getattr(model, "backbone", model)
    has_both = hasattr(backbone, "decoder")
    stacks = [backbone.encoder, backbone.decoder] if has_both else [backbone]
    assert all(map(can_unpad, stacks))
    head = getattr(model, "lm_head", None)
    assert head is None or can_unpad(head)
    stacks[0].register_forward_hook(lambda *_: None)
    assert not can_unpad(stacks[0])


@pytest.mark.parametrize("name", [*MIXING, "DistilBertForMaskedLM", "MarianMTModel"])
def test_dropout_falls_where_it_falls_in_the_plain_model(name, monkeypatch):
    """Here it halves every number, so that one that is left out, or is too many, is seen."""
    for kind in (nn.Dropout, FastDropout):
        monkeypatch.setattr(kind, "forward", lambda _self, x: x / 2)
    plain, optimized = new(name).train(), new(name, "optimized").train()
    batch = random_batch(plain, length=7)
    if name in LOSSES:
        batch = labelled_batch(plain)
        assert_equal(optimized.loss_sum(**batch), plain.loss_sum(**batch))
        return
    found, expected = optimized(**batch), plain(**batch)
    if hasattr(plain, "backbone"):
        assert_equal(found.logits, expected.logits)
        return
    real = batch.get("decoder_attention_mask", batch["attention_mask"]) == 1
    assert_equal(found.last_hidden_state[real], expected.last_hidden_state[real])


@pytest.fixture
def ways(monkeypatch):
    """Which losses were computed from the labelled tokens' logits only."""
    seen = []

    def note(kind, method):
        own = getattr(kind, method)

        def noted(self, **inputs):
            seen.append(type(self).__name__)
            return own(self, **inputs)

        monkeypatch.setattr(kind, method, noted)

    note(model_twins.FastBertForMaskedLM, "_selected_loss_sum")
    note(model_twins.FastGPT2LMHeadModel, "selected_loss_sum")
    note(model_twins.FastSeq2SeqLM, "selected_loss_sum")
    return seen


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_known_arguments_skips_unlabelled_tokens(name, ways):
    plain, optimized = new(name), new(name, "optimized")
    batch = labelled_batch(plain)
    assert_equal(optimized.loss_sum(**batch), plain.loss_sum(**batch))
    assert ways == [type(optimized).__name__]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_on_a_model_runs_as_often_as_in_the_plain_model(name, register, ways):
    plain = new(name)
    counts = []
    for model in (plain, optimize(copy.deepcopy(plain))):
        seen = []
        getattr(model, register)(lambda *_, seen=seen: seen.append(1))
        model.loss_sum(**labelled_batch(plain))
        counts.append(len(seen))
    assert counts == [1, 1] and ways == []


@pytest.mark.parametrize(
    "name", ["RobertaForMaskedLM", "T5ForConditionalGeneration 1.1", f"{BART} untied"]
)
def test_a_hook_on_the_head_gets_every_token(name):
    plain, shapes = new(name), []
    for model in (plain, optimize(copy.deepcopy(plain))):
        model.lm_head.register_forward_hook(lambda *args: shapes.append(args[2].shape))
        model.loss_sum(**labelled_batch(plain))
    assert len(shapes) == 2 and shapes[0] == shapes[1]


@pytest.mark.parametrize("name", LOSSES)
def test_a_forward_set_on_the_instance_is_used(name, ways):
    model, seen = new(name, "optimized"), []
    forward = model.forward
    model.forward = lambda **inputs: seen.append(1) or forward(**inputs)
    model.loss_sum(**labelled_batch(model))
    assert seen == [1] and ways == []


def outcome(call: Any) -> Any:
    """The result of a call, or its error."""
    try:
        return call()
    except (AttributeError, TypeError, ValueError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "further",
    [
        {"output_attentions": False},
        {"output_hidden_states": True},
        {"atention_mask": None},
        {"label": None},
        {"labels": None},
        {"labels": [1]},
    ],
    ids=str,
)
def test_other_arguments_of_a_loss_are_taken_or_refused_as_in_the_plain_model(name, further):
    plain, optimized = new(name), new(name, "optimized")
    batch = labelled_batch(plain) | further
    found, expected = (outcome(partial(m.loss_sum, **batch)) for m in (optimized, plain))
    if next(iter(further)).startswith("output"):
        assert_equal(found, expected)
    else:
        assert found == expected and issubclass(found[0], Exception)


@pytest.mark.parametrize("name", [name for name in SEQ2SEQ if name in LOSSES])
@pytest.mark.parametrize("value", [2, -1])
def test_a_mask_of_the_target_with_other_values_is_refused(name, value):
    plain, optimized = new(name), new(name, "optimized")
    batch = random_batch(plain, length=7)
    labels = batch["decoder_input_ids"]
    batch["decoder_attention_mask"] = torch.full_like(labels, value)
    batch["labels"] = labels
    for call in ("loss_sum", "forward"):
        found, expected = (outcome(partial(getattr(m, call), **batch)) for m in (optimized, plain))
        assert found == expected and found[0] is ValueError
        assert "decoder_attention_mask" in found[1]


@pytest.mark.parametrize("name", [name for name in SEQ2SEQ if name in LOSSES])
def test_tokens_after_the_last_label_are_computed_if_a_module_may_use_them(name):
    """A hook on the decoder gets the same as in the plain model."""
    plain, seen = new(name), []
    for model in (plain, optimize(copy.deepcopy(plain))):
        model.backbone.decoder.layers[-1].register_forward_hook(lambda *a: seen.append(a[2][0]))
        model.loss_sum(**labelled_batch(plain))
    assert_equal(*seen)

"""The exercises of blocks and whole models: their steps are the library's classes, their mistakes
reach whole models."""

import copy

import pytest
import torch

from minitransformer.exercises import blocks, models, roberta
from minitransformer.exercises.attention import SCALED_DOT_PRODUCT_ATTENTION
from minitransformer.exercises.inputs import normal, real_tokens, weights
from minitransformer.exercises.runner import Case, evaluate
from minitransformer.layers.attention import FusedSelfAttention
from minitransformer.layers.feed_forward import FeedForward
from minitransformer.models import bert, gpt2
from minitransformer.parity import random_batch
from tests import tiny

RIGHT = real_tokens(4, 2, total=4)[:, None, None]  # (B, 1, 1, T)
HIDDEN = normal(2, 4, 6)


def library_layer(*sizes):
    hidden_size, heads, intermediate_size, eps = sizes
    return bert.EncoderLayer(hidden_size, heads, intermediate_size, "gelu", 0.0, 0.0, eps, "sdpa")


def library_block(*sizes):
    hidden_size, heads, intermediate_size, eps = sizes
    attention = FusedSelfAttention(hidden_size, heads)
    feed_forward = FeedForward(hidden_size, intermediate_size, "gelu_new")
    return gpt2.GPT2Layer(attention, feed_forward, hidden_size, 0.0, eps)


def library_head(hidden_size, vocab_size, eps):
    return bert.MaskedLMHead(hidden_size, vocab_size, "gelu", eps, tied=True)


@pytest.mark.parametrize(
    ("library", "exercise", "sizes", "second"),
    [
        (library_layer, blocks.ENCODER_LAYER, (6, 2, 5, 0.1), RIGHT),
        (library_block, blocks.DECODER_LAYER, (6, 2, 5, 0.1), RIGHT),
        (library_head, blocks.TIED_LM_HEAD, (6, 9, 0.1), normal(9, 6, seed=1)),
    ],
    ids=["encoder layer", "decoder layer", "head"],
)
def test_the_steps_are_the_layers_of_the_library(library, exercise, sizes, second):
    init = dict(enumerate(sizes))
    case = Case("", {"hidden": HIDDEN, "second": second}, init, weights(library(*sizes)))
    ours, steps = evaluate(library, case), evaluate(exercise.steps, case)
    assert ours.error is steps.error is None
    torch.testing.assert_close(steps.value, ours.value, rtol=1e-12, atol=1e-12)
    assert steps.gradients.keys() == ours.gradients.keys()
    for name, gradient in ours.gradients.items():
        torch.testing.assert_close(steps.gradients[name], gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["RobertaForMaskedLM", "GPT2LMHeadModel", tiny.BART, tiny.T5])
def test_a_model_in_steps_without_a_mistake_is_the_same(name):
    model = tiny.new(name, "eager")
    batch = random_batch(model, 11)
    in_steps = copy.deepcopy(model)
    for exercise in (blocks.ENCODER_LAYER, blocks.DECODER_LAYER, blocks.TIED_LM_HEAD):
        exercise.put_into_model(in_steps)
    expected = model(**batch, output_attentions=True)
    found = in_steps(**batch, output_attentions=True)
    tiny.assert_equal(found.loss, expected.loss)
    if name == "RobertaForMaskedLM":
        tiny.assert_equal(found.attentions, expected.attentions)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RobertaForMaskedLM", {"no scale", "norms first", "no bias", "no token types"}),
        ("BertForTokenClassification", {"no scale", "norms first", "second text as the first"}),
        ("GPT2LMHeadModel", {"no scale", "norms last", "thirds inside the heads", "no final norm"}),
        (tiny.BART, {"no scale", "norms first", "values not projected", "no logits bias"}),
        (f"{tiny.T5} 1.1", {"layer norm instead", "gate swapped", "transposed bias"}),
    ],
)
def test_mistakes_of_a_model_change_a_copy_of_it_alone(name, expected):
    model = tiny.new(name, "eager")
    batch = random_batch(model, 11)
    before = model(**batch).loss
    found = list(models.model_mistakes(model))
    assert expected <= {mistake.name for mistake, _ in found}
    reasons = [mistake.reason for mistake, _ in found]
    assert len({*reasons}) == len(reasons)
    for mistake, put_into in found:
        if mistake.name in expected:
            wrong = copy.deepcopy(model)
            put_into(wrong)
            assert type(wrong).__name__.removesuffix("Steps") == type(model).__name__
            assert (wrong(**batch).loss - before).abs() > 1e-6, mistake.name
    assert torch.equal(model(**batch).loss, before)


def test_only_mistakes_that_fit_are_given():
    names = {mistake.name for mistake, _ in models.model_mistakes(tiny.build("BertModel"))}
    assert not names & {"thirds inside the heads", "gate swapped", "untied copy", "sign reversed"}


def test_the_scale_of_a_layer_does_not_hide_a_mistake_in_it():
    model = tiny.new("GPT2LMHeadModel", "eager")
    batch = random_batch(model, 11)
    before = model(**batch).loss
    tiny.bug_of(SCALED_DOT_PRODUCT_ATTENTION, "no scale")(model)
    assert (model(**batch).loss - before).abs() > 1e-6


@pytest.mark.parametrize("layers", [2, 11])
def test_the_checkpoints_of_the_whole_model_have_no_size_twice(layers):
    path = roberta.checkpoint(layers).name
    config = roberta.RobertaForMaskedLMSteps.from_pretrained(path).config
    assert config.num_hidden_layers == layers
    sizes = [
        config.vocab_size, config.hidden_size, config.num_hidden_layers,
        config.num_attention_heads, config.intermediate_size, config.max_position_embeddings,
    ]  # fmt: skip
    assert len({*sizes}) == len(sizes)
    assert (config.pad_token_id, config.layer_norm_eps) == (4, 0.05)

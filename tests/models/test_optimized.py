"""Where an optimized model gives other numbers than a plain one: at padding, and nowhere else.

Equality elsewhere is tested together with the plain models, as one of the `VARIANTS`.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from minitransformer import optimize, restore
from minitransformer.parity import random_batch
from tests.tiny import assert_equal, new

every_backbone = pytest.mark.parametrize(
    "name",
    [
        "BertModel",
        "RobertaModel",
        "DistilBertModel",
        "GPT2Model",
        "BartModel",
        "MarianModel",
        "T5Model",
    ],
)


def states_of(output: Any) -> list[Tensor]:
    names = ("last_hidden_state", "encoder_last_hidden_state", "pooler_output")
    found = [getattr(output, name, None) for name in names]
    return [tensor for tensor in found if tensor is not None]


@every_backbone
@pytest.mark.parametrize("masked", ["some tokens", "a sequence"])
def test_padding_gets_zeros(name, masked):
    plain, optimized = new(name), new(name, "optimized")
    batch = random_batch(plain, length=7)
    for field in batch:
        if field.endswith("mask") and masked == "a sequence":
            batch[field][1] = 0
    found, expected = states_of(optimized(**batch)), states_of(plain(**batch))
    masks = [batch.get("decoder_attention_mask", batch["attention_mask"]), batch["attention_mask"]]
    for ours, theirs, mask in zip(found, expected, masks, strict=False):
        if ours.dim() == 3:
            assert not ours[mask == 0].any()
            ours, theirs = ours[mask == 1], theirs[mask == 1]
        assert_equal(ours, theirs)


@every_backbone
def test_padding_between_two_tokens_changes_no_real_one(name):
    """T5's positions are distances, which it sets apart: taken out, they would be others."""
    plain, optimized = new(name), new(name, "optimized")
    batch = random_batch(plain, length=7)
    for field in batch:
        if field.endswith("mask"):
            batch[field][0] = 1
            batch[field][0, 1::3] = 0
    found, expected = states_of(optimized(**batch)), states_of(plain(**batch))
    masks = [batch.get("decoder_attention_mask", batch["attention_mask"]), batch["attention_mask"]]
    for ours, theirs, mask in zip(found, expected, masks, strict=False):
        real = mask == 1 if ours.dim() == 3 else slice(None)
        assert_equal(ours[real], theirs[real])


@every_backbone
def test_a_batch_of_padding_alone_is_finite_and_pooled_as_in_the_plain_model(name):
    plain, optimized = new(name), new(name, "optimized")
    batch = random_batch(plain, length=7)
    batch |= {field: values * 0 for field, values in batch.items() if field.endswith("mask")}
    found = optimized(**batch)
    assert all(states.isfinite().all() for states in states_of(found))
    pooled, expected = (getattr(o, "pooler_output", None) for o in (found, plain(**batch)))
    assert_equal(pooled, expected)


@every_backbone
@pytest.mark.parametrize("collect", ["output_hidden_states", "output_attentions"])
def test_a_call_that_collects_is_the_plain_one(name, collect):
    """At padding too: it takes the plain forward."""
    plain, optimized = new(name), new(name, "optimized")
    batch = random_batch(plain, length=7)
    found = optimized(**batch, **{collect: True})
    assert_equal(states_of(found), states_of(plain(**batch)))


@every_backbone
def test_restored_it_is_the_plain_one(name):
    plain, optimized = new(name), new(name, "optimized")
    batch = random_batch(plain, length=7)
    assert restore(optimized) is optimized
    assert [*map(type, optimized.modules())] == [*map(type, plain.modules())]
    for ours, theirs in zip(states_of(optimized(**batch)), states_of(plain(**batch)), strict=True):
        assert torch.equal(ours, theirs)
    assert type(optimize(optimized)) is type(new(name, "optimized"))

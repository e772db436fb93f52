"""Parity that only GPT-2 promises; `test_parity.py` tests what all families share."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minitransformer.cli import main
from minitransformer.exercises import models
from minitransformer.exercises.blocks import DECODER_LAYER
from minitransformer.parity import compare, random_batch
from tests.tiny import (
    bug_of,
    every_variant,
    pad,
    pair,
    random_ids,
    their_model,
)

pytest.importorskip("transformers", reason="parity needs transformers")


def test_a_transposed_gradient_would_be_detected(tmp_path):
    """A square matrix has the shape of its transpose, so only the values differ."""
    ours, theirs = pair("GPT2LMHeadModel", tmp_path)
    weight = ours.transformer.layers[0].attention.output.weight
    assert weight.shape == (12, 12)
    weight.register_hook(lambda gradient: gradient.T)
    report = compare(ours, theirs, random_batch(ours, length=11))
    differing = [row.name for row in report.rows if row.status != "OK"]
    assert differing == ["gradient of backbone.layers.0.attention.output.weight"]


@pytest.mark.slow
@pytest.mark.parametrize("field", ["add_cross_attention", "is_decoder"])
def test_fields_that_would_make_another_model_are_refused(field, tmp_path):
    with pytest.raises(ValueError, match=f"{field}=True is not supported, only False is"):
        pair("GPT2LMHeadModel", tmp_path, **{field: True})


@pytest.mark.slow
@every_variant
def test_padding_on_the_left_where_transformers_gets_position_ids(variant, tmp_path):
    """By default transformers counts padding there; its `generate` passes position_ids."""
    ours, theirs = pair("GPT2LMHeadModel", tmp_path, variant)
    ids, mask = pad([random_ids(11), random_ids(7), random_ids(3)], 0, left=True)
    real = mask.bool()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    told = theirs(input_ids=ids, attention_mask=mask, position_ids=positions).logits[real]
    torch.testing.assert_close(ours(ids, mask).logits[real], told, rtol=1e-5, atol=1e-5)
    untold = theirs(input_ids=ids, attention_mask=mask).logits[real]
    assert (told - untold).abs().max() > 0.01


@pytest.mark.slow
def test_one_sequence_is_classified_without_a_padding_token(tmp_path):
    ours, theirs = pair("GPT2ForSequenceClassification", tmp_path, pad_token_id=None)
    batch = random_batch(ours, length=11)
    assert batch["input_ids"].shape == (1, 11)
    report = compare(ours, theirs, batch)
    assert report.equal, report.table()


@pytest.mark.slow
@pytest.mark.parametrize("attention_dropout", [0.0, 0.2])
def test_dropout_is_applied_in_the_same_places(attention_dropout, tmp_path):
    """The same seed gives the same masks only if each dropout has the same place and size."""
    fields = {"resid_pdrop": 0.3, "embd_pdrop": 0.4, "attn_pdrop": attention_dropout}
    ours, theirs = pair("GPT2LMHeadModel", tmp_path, **fields)
    ids = torch.randint(31, (3, 11))
    losses = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(3)
        losses.append(model(ids, labels=ids).loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    torch.manual_seed(4)
    assert abs(ours(ids, labels=ids).loss.item() - losses[0]) > 1e-3


# Bugs, each put into our model, or a part of it, and the first module that must be named.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "part", "first"),
    [
        (
            models.thirds_stored_in_another_order.put_into_model,
            "",
            "backbone.layers.0.attention.query_key_value",
        ),
        (
            bug_of(DECODER_LAYER, "thirds inside the heads"),
            "backbone.layers.0",
            "backbone.layers.0.attention.output",
        ),
        (
            bug_of(DECODER_LAYER, "norms last"),
            "",
            "backbone.layers.0.attention.query_key_value",
        ),
        (models.norms_stored_in_each_other.put_into_model, "", "backbone.layers.0.attention_norm"),
        (models.no_final_norm.put_into_model, "", "backbone.final_norm"),
        (models.later_tokens_attended_to.put_into_model, "", "backbone.layers.0.attention.output"),
        (
            models.one_token_ahead.put_into_model,
            "backbone.layers.1",
            "backbone.layers.1.attention.output",
        ),
        (
            models.padding_of_the_decoder_attended_to.put_into_model,
            "",
            "backbone.layers.0.attention.output",
        ),
        (
            bug_of(DECODER_LAYER, "exact for tanh gelu"),
            "",
            "backbone.layers.0.feed_forward.down_proj",
        ),
        (
            models.positions_that_count_padding.put_into_model,
            "",
            "backbone.position_embedding.table",
        ),
        (models.scale_as_in_other_models.put_into_model, "", "backbone.layers.1.attention.output"),
        (
            models.eps_of_keras.put_into_model,
            "backbone.layers.1.feed_forward_norm",
            "backbone.layers.1.feed_forward_norm",
        ),
        (models.head_untied.put_into_model, "", "gradient of backbone.token_embedding.weight"),
        (models.token_as_type.put_into_model, "", "backbone.token_embedding"),
    ],
)
def test_the_comparison_finds_the_bug_and_names_the_module(bug, part, first, tmp_path):
    fields = {"scale_attn_by_inverse_layer_idx": True}
    ours, theirs = pair("GPT2LMHeadModel", tmp_path, **fields)
    batch = random_batch(ours, length=11)
    assert compare(ours, theirs, batch).equal
    bug(ours.get_submodule(part))
    report = compare(ours, theirs, batch)
    assert report.first_difference is not None
    assert report.first_difference.name == first, report.table()


@pytest.mark.slow
def test_the_comparison_finds_labels_that_are_not_shifted(tmp_path, monkeypatch):
    ours, theirs = pair("GPT2LMHeadModel", tmp_path)
    monkeypatch.setattr(
        "minitransformer.models.gpt2.next_token_labels", lambda labels, _attention_mask: labels
    )
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.first_difference.name == "loss"


@pytest.mark.slow
def test_the_comparison_finds_the_wrong_classified_token(tmp_path, monkeypatch):
    ours, theirs = pair("GPT2ForSequenceClassification", tmp_path)
    monkeypatch.setattr(
        "minitransformer.models.gpt2.last_token", lambda hidden, _attention_mask: hidden[:, -1]
    )
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.first_difference.name == "logits"


@pytest.mark.slow
def test_the_command_finds_what_differs(tmp_path, capsys, monkeypatch):
    their_model("GPT2LMHeadModel").save_pretrained(tmp_path)
    # transformers has its own class for these linear layers.
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: F.linear(x, self.weight))
    assert main(["parity", str(tmp_path), "--length", "11"]) == 1
    out = capsys.readouterr().out
    first = "backbone.layers.0.attention.query_key_value"
    assert out.count(f"first differs: {first}\n") == 2  # in either dtype
    assert out.endswith("not the same function: they still differ in float64\n")


@pytest.mark.slow
@pytest.mark.parametrize("length", [2, 3, 4])
def test_the_shortest_sequences_have_a_label_too(length, tmp_path):
    """The first token of a sequence is predicted nowhere, so its label counts for nothing."""
    ours, theirs = pair("GPT2LMHeadModel", tmp_path)
    batch = random_batch(ours, length=length)
    assert ours.num_supervised_tokens(batch) > 0
    report = compare(ours, theirs, batch)
    assert report.equal, report.table()

"""Bugs put into BART, Marian and T5 one at a time: each must be found and its module named."""

import pytest
import torch

from minitransformer.exercises import models
from minitransformer.exercises.attention import CROSS_ATTENTION as CROSS
from minitransformer.exercises.attention import SCALED_DOT_PRODUCT_ATTENTION as ATTENTION
from minitransformer.exercises.blocks import ENCODER_LAYER
from minitransformer.exercises.layers import GELU, RMS_NORM, SINUSOIDS
from minitransformer.exercises.layers import RELATIVE_POSITION_BUCKET as BUCKET
from minitransformer.parity import compare, random_batch
from tests.tiny import BART, MARIAN, T5, bug_of, pair

pytest.importorskip("transformers", reason="parity needs transformers")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bug", "part", "first"),
    [
        (
            BART,
            bug_of(CROSS, "mask ignored"),
            "",
            "backbone.decoder.layers.0.cross_attention.output",
        ),
        (
            BART,
            bug_of(ATTENTION, "mask ignored"),
            "backbone.encoder",
            "backbone.encoder.layers.0.attention.output",
        ),
        (
            BART,
            models.padding_of_the_decoder_attended_to.put_into_model,
            "",
            "backbone.decoder.layers.0.attention.output",
        ),
        (
            BART,
            models.later_tokens_attended_to.put_into_model,
            "",
            "backbone.decoder.layers.0.attention.output",
        ),
        (
            BART,
            models.causal_mask_in_the_encoder.put_into_model,
            "",
            "backbone.encoder.layers.0.attention.output",
        ),
        (
            BART,
            models.source_of_another_sequence.put_into_model,
            "backbone.decoder.layers.1",
            "backbone.decoder.layers.1.cross_attention.key",
        ),
        (
            BART,
            models.norms_of_the_attentions_swapped.put_into_model,
            "",
            "backbone.decoder.layers.0.attention_norm",
        ),
        (
            BART,
            models.positions_without_offset.put_into_model,
            "",
            "backbone.encoder.position_embedding.table",
        ),
        (
            BART,
            models.positions_that_count_padding.put_into_model,
            "backbone.decoder",
            "backbone.decoder.position_embedding.table",
        ),
        (
            BART,
            bug_of(ENCODER_LAYER, "norms first"),
            "",
            "backbone.encoder.layers.0.attention_norm",
        ),
        (
            BART,
            bug_of(GELU, "tanh approximation"),
            "",
            "backbone.encoder.layers.0.feed_forward.down_proj",
        ),
        (BART, models.no_logits_bias.put_into_model, "", "logits"),
        (
            BART,
            models.head_untied.put_into_model,
            "",
            "gradient of backbone.token_embedding.weight",
        ),
        (
            BART,
            models.decoder_reads_the_labels.put_into_model,
            "",
            "backbone.token_embedding (target)",
        ),
        (
            MARIAN,
            models.no_embedding_scale.put_into_model,
            "",
            "backbone.encoder.layers.0.attention.query",
        ),
        (MARIAN, bug_of(SINUSOIDS, "side by side"), "", "backbone.encoder.position_embedding"),
        (
            MARIAN,
            bug_of(SINUSOIDS, "positions from one"),
            "backbone.decoder",
            "backbone.decoder.position_embedding",
        ),
        (
            MARIAN,
            bug_of(CROSS, "mask ignored"),
            "",
            "backbone.decoder.layers.0.cross_attention.output",
        ),
        (
            T5,
            models.scale_as_in_other_models.put_into_model,
            "",
            "backbone.encoder.layers.0.attention.output",
        ),
        (
            T5,
            models.scale_as_in_other_models.put_into_model,
            "backbone.decoder.layers.0.cross_attention",
            "backbone.decoder.layers.0.cross_attention.output",
        ),
        (
            T5,
            models.bias_for_the_first_layer_alone.put_into_model,
            "",
            "backbone.encoder.layers.1.attention.output",
        ),
        (
            T5,
            models.bias_of_the_encoder_in_the_decoder.put_into_model,
            "",
            "backbone.decoder.position_bias.table",
        ),
        (
            T5,
            models.two_directions_in_the_decoder.put_into_model,
            "",
            "backbone.decoder.position_bias.table",
        ),
        (
            T5,
            models.one_direction_in_the_encoder.put_into_model,
            "",
            "backbone.encoder.position_bias.table",
        ),
        (
            T5,
            bug_of(BUCKET, "max distance always 128"),
            "backbone.decoder",
            "backbone.decoder.position_bias.table",
        ),
        (
            T5,
            models.transposed_bias.put_into_model,
            "",
            "backbone.encoder.layers.0.attention.output",
        ),
        (
            T5,
            models.bias_in_cross_attention.put_into_model,
            "",
            "backbone.decoder.layers.0.cross_attention.output",
        ),
        (
            T5,
            bug_of(RMS_NORM, "layer norm instead"),
            "",
            "backbone.encoder.layers.0.attention_norm",
        ),
        (
            T5,
            models.eps_of_keras.put_into_model,
            "backbone.decoder.final_norm",
            "backbone.decoder.final_norm",
        ),
        (
            T5,
            models.norms_after_the_sums.put_into_model,
            "",
            "backbone.encoder.layers.0.attention.query",
        ),
        (T5, bug_of(CROSS, "mask ignored"), "", "backbone.decoder.layers.0.cross_attention.output"),
        (
            T5,
            models.later_tokens_attended_to.put_into_model,
            "",
            "backbone.decoder.layers.0.attention.output",
        ),
        (T5, models.no_head_scale.put_into_model, "", "logits"),
        (T5 + " 1.1", models.head_of_its_own_scaled.put_into_model, "", "logits"),
        (T5 + " 1.1", models.head_tied.put_into_model, "", "logits"),
        (
            T5 + " 1.1",
            models.exact_gelu_in_the_gate.put_into_model,
            "",
            "backbone.encoder.layers.0.feed_forward.down_proj",
        ),
        (
            T5 + " 1.1",
            models.gate_swapped.put_into_model,
            "",
            "backbone.encoder.layers.0.feed_forward.gate_proj",
        ),
    ],
)
def test_the_comparison_finds_the_bug_and_names_the_module(name, bug, part, first, tmp_path):
    ours, theirs = pair(name, tmp_path)
    batch = random_batch(ours, length=11)
    if first.endswith("(target)"):  # the decoder makes its inputs from the labels
        batch = {n: values for n, values in batch.items() if not n.startswith("decoder")}
        batch["labels"] = torch.randint(3, 30, (3, 7))
    assert compare(ours, theirs, batch).equal
    bug(ours.get_submodule(part))
    report = compare(ours, theirs, batch)
    assert report.first_difference is not None
    assert report.first_difference.name == first, report.table()


@pytest.mark.slow
def test_the_comparison_finds_the_wrong_classified_token(tmp_path, monkeypatch):
    ours, theirs = pair("BartForSequenceClassification", tmp_path)
    monkeypatch.setattr(
        "minitransformer.models.bart.last_token", lambda hidden, _is_end: hidden[:, -1]
    )
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.first_difference.name == "classification_head.dense"

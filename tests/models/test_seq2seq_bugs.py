"""Bugs put into BART, Marian and T5 one at a time: each must be found and its module named."""

import functools
import math
import types

import pytest
import torch
import torch.nn.functional as F

from minitransformer.layers.normalization import layer_norm
from minitransformer.parity import compare, random_batch
from tests.tiny import BART, MARIAN, T5, attend_otherwise, pair

pytest.importorskip("transformers", reason="parity needs transformers")


def encoder_attentions(model):
    return [layer.attention for layer in model.backbone.encoder.layers]


def decoder_attentions(model):
    return [layer.attention for layer in model.backbone.decoder.layers]


def cross_attentions(model):
    return [layer.cross_attention for layer in model.backbone.decoder.layers]


def every_layer(model):
    return [*model.backbone.encoder.layers, *model.backbone.decoder.layers]


def causal(mask):
    """The causal mask of as many queries as there are keys."""
    return torch.ones(mask.shape[-1], mask.shape[-1], dtype=torch.bool).tril()


def no_cross_mask(model):
    attend_otherwise(cross_attentions(model), lambda **_: {"mask": None})


def no_source_mask(model):
    attend_otherwise(encoder_attentions(model), lambda **_: {"mask": None})


def no_target_mask(model):
    attend_otherwise(decoder_attentions(model), lambda mask, **_: {"mask": causal(mask)})


def attend_to_what_comes(model):
    attend_otherwise(
        decoder_attentions(model), lambda mask, **_: {"mask": mask.any(dim=2, keepdim=True)}
    )


def causal_encoder(model):
    attend_otherwise(encoder_attentions(model), lambda mask, **_: {"mask": mask & causal(mask)})


def one_source_for_all(model):
    cross_attentions(model)[1].register_forward_pre_hook(
        lambda _module, arguments: (arguments[0], arguments[1].roll(1, dims=0), *arguments[2:])
    )


def swap_decoder_norms(model):
    for layer in model.backbone.decoder.layers:
        norms = layer.cross_attention_norm, layer.attention_norm
        layer.attention_norm, layer.cross_attention_norm = norms


def no_offset(model):
    embedding = model.backbone.encoder.position_embedding
    embedding.forward = lambda position_ids: embedding.table(position_ids.clamp(min=0))


def positions_that_count_padding(model):
    embedding = model.backbone.decoder.position_embedding
    forward = embedding.forward
    embedding.forward = lambda position_ids: forward(
        torch.ones_like(position_ids).cumsum(dim=1) - 1
    )


def norms_first(model):
    def forward(layer, hidden, mask, output_attentions):
        normed = layer.attention_norm(hidden)
        attended, weights = layer.attention(
            normed, normed, mask, output_attentions=output_attentions
        )
        hidden = hidden + attended
        return hidden + layer.feed_forward(layer.feed_forward_norm(hidden)), weights

    for layer in model.backbone.encoder.layers:
        layer.forward = types.MethodType(forward, layer)


def norms_last(model):
    def forward(layer, hidden, mask, bias, output_attentions):
        attended, weights = layer.attention(
            hidden, hidden, mask, bias=bias, output_attentions=output_attentions
        )
        hidden = layer.attention_norm(hidden + attended)
        return layer.feed_forward_norm(hidden + layer.feed_forward(hidden)), weights

    for layer in model.backbone.encoder.layers:
        layer.forward = types.MethodType(forward, layer)


def tanh_for_exact_gelu(model):
    for layer in every_layer(model):
        layer.feed_forward.activation = functools.partial(F.gelu, approximate="tanh")


def exact_for_tanh_gelu(model):
    for layer in every_layer(model):
        layer.feed_forward.activation = F.gelu


def swap_gate(model):
    for layer in every_layer(model):
        projections = layer.feed_forward.gate_proj, layer.feed_forward.up_proj
        layer.feed_forward.up_proj, layer.feed_forward.gate_proj = projections


def no_logits_bias(model):
    model.final_logits_bias.zero_()


def copied_head(model):
    copied = model.backbone.token_embedding.weight.detach().clone()
    bias = model.final_logits_bias[0]
    model.logits = lambda hidden: F.linear(hidden, copied, bias)


def no_embedding_scale(model):
    model.backbone.embed = lambda ids: model.backbone.token_embedding(ids)


def interleaved_sinusoids(model):
    for stack in (model.backbone.encoder, model.backbone.decoder):
        table = stack.position_embedding.table
        table.copy_(torch.stack(table.chunk(2, dim=1), dim=-1).flatten(1))


def positions_begin_at_one(model):
    embedding = model.backbone.decoder.position_embedding
    embedding.forward = lambda position_ids: embedding.table[position_ids + 1]


def scale_scores(model):
    for layer in every_layer(model):
        layer.attention.scale = 5**-0.5


def scale_cross_scores(model):
    for attention in cross_attentions(model):
        attention.scale = 5**-0.5


def bias_for_the_first_layer_alone(model):
    attend_otherwise(encoder_attentions(model)[1:2], lambda **_: {"bias": None})


def bias_of_the_encoder_in_the_decoder(model):
    encoder, decoder = model.backbone.encoder, model.backbone.decoder
    decoder.position_bias.table.weight.data.copy_(encoder.position_bias.table.weight.data)


def two_directions_in_the_decoder(model):
    model.backbone.decoder.position_bias.bidirectional = True


def one_direction_in_the_encoder(model):
    model.backbone.encoder.position_bias.bidirectional = False


def other_distance(model):
    model.backbone.decoder.position_bias.max_distance = 128


def transposed_bias(model):
    position_bias = model.backbone.encoder.position_bias
    forward = position_bias.forward
    position_bias.forward = lambda *inputs: forward(*inputs).transpose(2, 3)


def bias_in_cross_attention(model):
    bias = torch.linspace(-1, 1, 11)
    attend_otherwise(cross_attentions(model), lambda **_: {"bias": bias})


def mean_is_subtracted(model):
    for module in model.backbone.modules():
        if type(module).__name__ == "RMSNorm":
            module.forward = functools.partial(
                layer_norm, weight=module.weight, bias=torch.zeros(12), eps=module.eps
            )


def eps_outside_the_root(model):
    model.backbone.decoder.final_norm.eps = 1e-3


def no_head_scale(model):
    model.logits = lambda hidden: F.linear(hidden, model.backbone.token_embedding.weight)


def head_scaled_as_a_vector(model):
    logits = model.logits
    model.logits = lambda hidden: logits(hidden) / math.sqrt(12)


def tied_head(model):
    model.logits = lambda hidden: F.linear(hidden, model.backbone.token_embedding.weight)


def decoder_reads_the_labels(model):
    model.decoder_inputs = lambda _ids, _mask, labels: (labels.clamp(min=0), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bug", "first"),
    [
        (BART, no_cross_mask, "backbone.decoder.layers.0.cross_attention.output"),
        (BART, no_source_mask, "backbone.encoder.layers.0.attention.output"),
        (BART, no_target_mask, "backbone.decoder.layers.0.attention.output"),
        (BART, attend_to_what_comes, "backbone.decoder.layers.0.attention.output"),
        (BART, causal_encoder, "backbone.encoder.layers.0.attention.output"),
        (BART, one_source_for_all, "backbone.decoder.layers.1.cross_attention.key"),
        (BART, swap_decoder_norms, "backbone.decoder.layers.0.attention_norm"),
        (BART, no_offset, "backbone.encoder.position_embedding.table"),
        (BART, positions_that_count_padding, "backbone.decoder.position_embedding.table"),
        (BART, norms_first, "backbone.encoder.layers.0.attention_norm"),
        (BART, tanh_for_exact_gelu, "backbone.encoder.layers.0.feed_forward.down_proj"),
        (BART, no_logits_bias, "logits"),
        (BART, copied_head, "gradient of backbone.token_embedding.weight"),
        (BART, decoder_reads_the_labels, "backbone.token_embedding (target)"),
        (MARIAN, no_embedding_scale, "backbone.encoder.layers.0.attention.query"),
        (MARIAN, interleaved_sinusoids, "backbone.encoder.position_embedding"),
        (MARIAN, positions_begin_at_one, "backbone.decoder.position_embedding"),
        (MARIAN, no_cross_mask, "backbone.decoder.layers.0.cross_attention.output"),
        (T5, scale_scores, "backbone.encoder.layers.0.attention.output"),
        (T5, scale_cross_scores, "backbone.decoder.layers.0.cross_attention.output"),
        (T5, bias_for_the_first_layer_alone, "backbone.encoder.layers.1.attention.output"),
        (T5, bias_of_the_encoder_in_the_decoder, "backbone.decoder.position_bias.table"),
        (T5, two_directions_in_the_decoder, "backbone.decoder.position_bias.table"),
        (T5, one_direction_in_the_encoder, "backbone.encoder.position_bias.table"),
        (T5, other_distance, "backbone.decoder.position_bias.table"),
        (T5, transposed_bias, "backbone.encoder.layers.0.attention.output"),
        (T5, bias_in_cross_attention, "backbone.decoder.layers.0.cross_attention.output"),
        (T5, mean_is_subtracted, "backbone.encoder.layers.0.attention_norm"),
        (T5, eps_outside_the_root, "backbone.decoder.final_norm"),
        (T5, norms_last, "backbone.encoder.layers.0.attention.query"),
        (T5, no_cross_mask, "backbone.decoder.layers.0.cross_attention.output"),
        (T5, attend_to_what_comes, "backbone.decoder.layers.0.attention.output"),
        (T5, no_head_scale, "logits"),
        (T5 + " 1.1", head_scaled_as_a_vector, "logits"),
        (T5 + " 1.1", tied_head, "logits"),
        (T5 + " 1.1", exact_for_tanh_gelu, "backbone.encoder.layers.0.feed_forward.down_proj"),
        (T5 + " 1.1", swap_gate, "backbone.encoder.layers.0.feed_forward.gate_proj"),
    ],
)
def test_the_comparison_finds_the_bug_and_names_the_module(name, bug, first, tmp_path):
    ours, theirs = pair(name, tmp_path)
    batch = random_batch(ours, length=11)
    if bug is decoder_reads_the_labels:
        batch = {n: values for n, values in batch.items() if not n.startswith("decoder")}
        batch["labels"] = torch.randint(3, 30, (3, 7))
    assert compare(ours, theirs, batch).equal
    bug(ours)
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

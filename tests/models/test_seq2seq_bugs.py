"""Bugs put into BART, Marian and T5 one at a time: each must be caught and its place named."""

import functools
import math
import types

import pytest
import torch
import torch.nn.functional as F

from minitransformer.layers.norm import layer_norm
from minitransformer.parity import compare, random_batch
from tests.models.pairs import BART, MARIAN, T5, pair

pytest.importorskip("transformers", reason="parity needs transformers")


def backbone(model):
    return getattr(model, model.backbone_name)


def every_layer(model):
    return [*backbone(model).encoder.layers, *backbone(model).decoder.layers]


def leave_out_mask(kernel):
    kernel.register_forward_pre_hook(
        lambda _kernel, arguments: (*arguments[:3], None, *arguments[4:])
    )


def no_cross_mask(model):
    for layer in backbone(model).decoder.layers:
        leave_out_mask(layer.cross_attention.kernel)


def no_source_mask(model):
    for layer in backbone(model).encoder.layers:
        leave_out_mask(layer.attention.kernel)


def no_target_mask(model):
    for layer in backbone(model).decoder.layers:
        leave_out_mask(layer.attention.kernel)


def see_what_comes(model):
    for layer in backbone(model).decoder.layers:
        layer.attention.kernel.causal = False


def causal_encoder(model):
    for layer in backbone(model).encoder.layers:
        layer.attention.kernel.causal = True


def one_source_for_all(model):
    decoder = backbone(model).decoder
    decoder.layers[1].cross_attention.register_forward_pre_hook(
        lambda _module, arguments: (arguments[0], arguments[1].roll(1, dims=0), *arguments[2:])
    )


def swap_decoder_norms(model):
    for layer in backbone(model).decoder.layers:
        norms = layer.cross_attention_norm, layer.attention_norm
        layer.attention_norm, layer.cross_attention_norm = norms


def no_offset(model):
    positions = backbone(model).encoder.positions
    positions.forward = lambda numbers: positions.table(numbers.clamp(min=0))


def places_for_positions(model):
    positions = backbone(model).decoder.positions
    forward = positions.forward
    positions.forward = lambda numbers: forward(torch.ones_like(numbers).cumsum(dim=1) - 1)


def norms_first(model):
    def forward(layer, hidden, mask):
        hidden = hidden + layer.attention(layer.attention_norm(hidden), mask=mask)
        return hidden + layer.feed_forward(layer.feed_forward_norm(hidden))

    for layer in backbone(model).encoder.layers:
        layer.forward = types.MethodType(forward, layer)


def norms_last(model):
    def forward(layer, hidden, mask, bias):
        hidden = layer.attention_norm(hidden + layer.attention(hidden, mask=mask, bias=bias))
        return layer.feed_forward_norm(hidden + layer.feed_forward(hidden))

    for layer in backbone(model).encoder.layers:
        layer.forward = types.MethodType(forward, layer)


def tanh_for_exact_gelu(model):
    for layer in every_layer(model):
        layer.feed_forward.activation = functools.partial(F.gelu, approximate="tanh")


def exact_for_tanh_gelu(model):
    for layer in every_layer(model):
        layer.feed_forward.activation = F.gelu


def swap_gate(model):
    for layer in every_layer(model):
        feed_forward = layer.feed_forward
        feed_forward.gate, feed_forward.gated = feed_forward.gated, feed_forward.gate


def no_logits_bias(model):
    model.final_logits_bias.zero_()


def copied_head(model):
    copied = backbone(model).words.weight.detach().clone()
    bias = model.final_logits_bias[0]
    model.logits = lambda hidden: F.linear(hidden, copied, bias)


def no_embedding_scale(model):
    backbone(model).embed = lambda ids: backbone(model).words(ids)


def interleaved_sinusoids(model):
    for stack in (backbone(model).encoder, backbone(model).decoder):
        table = stack.positions.table
        table.copy_(torch.stack(table.chunk(2, dim=1), dim=-1).flatten(1))


def positions_begin_at_one(model):
    positions = backbone(model).decoder.positions
    positions.forward = lambda numbers: positions.table[numbers + 1]


def scale_scores(model):
    for layer in every_layer(model):
        layer.attention.kernel.scale = 6**-0.5


def scale_cross_scores(model):
    for layer in backbone(model).decoder.layers:
        layer.cross_attention.kernel.scale = 6**-0.5


def bias_for_the_first_layer_alone(model):
    backbone(model).encoder.layers[1].attention.kernel.register_forward_pre_hook(
        lambda _kernel, arguments: (*arguments[:4], None)
    )


def bias_of_the_encoder_in_the_decoder(model):
    encoder, decoder = backbone(model).encoder, backbone(model).decoder
    decoder.position_bias.table.weight.data.copy_(encoder.position_bias.table.weight.data)


def two_directions_in_the_decoder(model):
    backbone(model).decoder.position_bias.bidirectional = True


def one_direction_in_the_encoder(model):
    backbone(model).encoder.position_bias.bidirectional = False


def other_distance(model):
    backbone(model).decoder.position_bias.max_distance = 128


def transposed_bias(model):
    position_bias = backbone(model).encoder.position_bias
    forward = position_bias.forward
    position_bias.forward = lambda *lengths: forward(*lengths).transpose(2, 3)


def bias_in_cross_attention(model):
    bias = torch.linspace(-1, 1, 11)
    for layer in backbone(model).decoder.layers:
        kernel = layer.cross_attention.kernel
        kernel.register_forward_pre_hook(lambda _kernel, arguments: (*arguments[:4], bias))


def mean_is_subtracted(model):
    for module in backbone(model).modules():
        if type(module).__name__ == "RMSNorm":
            module.forward = functools.partial(
                layer_norm, weight=module.weight, bias=torch.zeros(32), eps=module.eps
            )


def eps_outside_the_root(model):
    norm = backbone(model).decoder.final_norm
    norm.eps = 1e-3


def no_head_scale(model):
    model.logits = lambda hidden: F.linear(hidden, backbone(model).words.weight)


def head_scaled_as_a_vector(model):
    logits = model.logits
    model.logits = lambda hidden: logits(hidden) / math.sqrt(32)


def tied_head(model):
    model.logits = lambda hidden: F.linear(hidden, backbone(model).words.weight)


def decoder_reads_the_labels(model):
    model._decoder_inputs = lambda _ids, mask, labels: (labels.clamp(min=0), mask)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bug", "first"),
    [
        (BART, no_cross_mask, "model.decoder.layers.0.cross_attention.output"),
        (BART, no_source_mask, "model.encoder.layers.0.attention.output"),
        (BART, no_target_mask, "model.decoder.layers.0.attention.output"),
        (BART, see_what_comes, "model.decoder.layers.0.attention.output"),
        (BART, causal_encoder, "model.encoder.layers.0.attention.output"),
        (BART, one_source_for_all, "model.decoder.layers.1.cross_attention.key"),
        (BART, swap_decoder_norms, "model.decoder.layers.0.attention_norm"),
        (BART, no_offset, "model.encoder.positions.table"),
        (BART, places_for_positions, "model.decoder.positions.table"),
        (BART, norms_first, "model.encoder.layers.0.attention_norm"),
        (BART, tanh_for_exact_gelu, "model.encoder.layers.0.feed_forward.contract"),
        (BART, no_logits_bias, "logits"),
        (BART, copied_head, "gradient of model.words.weight"),
        (BART, decoder_reads_the_labels, "model.words (target)"),
        (MARIAN, no_embedding_scale, "model.encoder.layers.0.attention.query"),
        (MARIAN, interleaved_sinusoids, "model.encoder.positions"),
        (MARIAN, positions_begin_at_one, "model.decoder.positions"),
        (MARIAN, no_cross_mask, "model.decoder.layers.0.cross_attention.output"),
        (T5, scale_scores, "transformer.encoder.layers.0.attention.output"),
        (T5, scale_cross_scores, "transformer.decoder.layers.0.cross_attention.output"),
        (T5, bias_for_the_first_layer_alone, "transformer.encoder.layers.1.attention.output"),
        (T5, bias_of_the_encoder_in_the_decoder, "transformer.decoder.position_bias.table"),
        (T5, two_directions_in_the_decoder, "transformer.decoder.position_bias.table"),
        (T5, one_direction_in_the_encoder, "transformer.encoder.position_bias.table"),
        (T5, other_distance, "transformer.decoder.position_bias.table"),
        (T5, transposed_bias, "transformer.encoder.layers.0.attention.output"),
        (T5, bias_in_cross_attention, "transformer.decoder.layers.0.cross_attention.output"),
        (T5, mean_is_subtracted, "transformer.encoder.layers.0.attention_norm"),
        (T5, eps_outside_the_root, "transformer.decoder.final_norm"),
        (T5, norms_last, "transformer.encoder.layers.0.attention.query"),
        (T5, no_cross_mask, "transformer.decoder.layers.0.cross_attention.output"),
        (T5, see_what_comes, "transformer.decoder.layers.0.attention.output"),
        (T5, no_head_scale, "logits"),
        (T5 + " 1.1", head_scaled_as_a_vector, "logits"),
        (T5 + " 1.1", tied_head, "logits"),
        (T5 + " 1.1", exact_for_tanh_gelu, "transformer.encoder.layers.0.feed_forward.contract"),
        (T5 + " 1.1", swap_gate, "transformer.encoder.layers.0.feed_forward.gate"),
    ],
)
def test_the_harness_catches_the_bug_and_names_its_place(name, bug, first, tmp_path):
    ours, theirs = pair(name, tmp_path)
    batch = random_batch(ours, length=11)
    if bug is decoder_reads_the_labels:
        batch = {n: values for n, values in batch.items() if not n.startswith("decoder")}
        batch["labels"] = torch.randint(3, 98, (3, 7))
    assert compare(ours, theirs, batch).equal
    bug(ours)
    report = compare(ours, theirs, batch)
    assert report.first_difference is not None
    assert report.first_difference.name == first, report.table()


@pytest.mark.slow
def test_the_harness_sees_which_token_is_classified(tmp_path, monkeypatch):
    ours, theirs = pair("BartForSequenceClassification", tmp_path)
    monkeypatch.setattr(
        "minitransformer.models.bart_heads.last_tokens",
        lambda present: torch.full((len(present), 1), present.shape[1] - 1),
    )
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.first_difference.name == "classification_head.dense"

"""T5's names in Hugging Face checkpoints.

Hugging Face numbers the parts of a layer: `layer.0` is self-attention, the last one is the
feed-forward network, and in a decoder `layer.1` between them is cross-attention.
"""

from collections.abc import Collection
from typing import Any

from minitransformer.hf.bart import ALIASES, STACKS
from minitransformer.hf.family import Family, WeightMap
from minitransformer.models.t5 import T5Config, T5ForConditionalGeneration, T5Model

# The tensors of both versions.
SHARED: WeightMap = {
    "shared.weight": "token_embedding.weight",
    "encoder.block.{}.layer.0.SelfAttention.q.weight": "encoder.layers.{}.attention.query.weight",
    "encoder.block.{}.layer.0.SelfAttention.k.weight": "encoder.layers.{}.attention.key.weight",
    "encoder.block.{}.layer.0.SelfAttention.v.weight": "encoder.layers.{}.attention.value.weight",
    "encoder.block.{}.layer.0.SelfAttention.o.weight": "encoder.layers.{}.attention.output.weight",
    "encoder.block.{}.layer.0.layer_norm.weight": "encoder.layers.{}.attention_norm.weight",
    "encoder.block.{}.layer.1.DenseReluDense.wo.weight": (
        "encoder.layers.{}.feed_forward.down_proj.weight"
    ),
    "encoder.block.{}.layer.1.layer_norm.weight": "encoder.layers.{}.feed_forward_norm.weight",
    "decoder.block.{}.layer.0.SelfAttention.q.weight": "decoder.layers.{}.attention.query.weight",
    "decoder.block.{}.layer.0.SelfAttention.k.weight": "decoder.layers.{}.attention.key.weight",
    "decoder.block.{}.layer.0.SelfAttention.v.weight": "decoder.layers.{}.attention.value.weight",
    "decoder.block.{}.layer.0.SelfAttention.o.weight": "decoder.layers.{}.attention.output.weight",
    "decoder.block.{}.layer.0.layer_norm.weight": "decoder.layers.{}.attention_norm.weight",
    "decoder.block.{}.layer.1.EncDecAttention.q.weight": (
        "decoder.layers.{}.cross_attention.query.weight"
    ),
    "decoder.block.{}.layer.1.EncDecAttention.k.weight": (
        "decoder.layers.{}.cross_attention.key.weight"
    ),
    "decoder.block.{}.layer.1.EncDecAttention.v.weight": (
        "decoder.layers.{}.cross_attention.value.weight"
    ),
    "decoder.block.{}.layer.1.EncDecAttention.o.weight": (
        "decoder.layers.{}.cross_attention.output.weight"
    ),
    "decoder.block.{}.layer.1.layer_norm.weight": "decoder.layers.{}.cross_attention_norm.weight",
    "decoder.block.{}.layer.2.DenseReluDense.wo.weight": (
        "decoder.layers.{}.feed_forward.down_proj.weight"
    ),
    "decoder.block.{}.layer.2.layer_norm.weight": "decoder.layers.{}.feed_forward_norm.weight",
    # Stored in the first layer; all layers of the stack share this table.
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (
        "encoder.position_bias.table.weight"
    ),
    "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (
        "decoder.position_bias.table.weight"
    ),
    # In the first checkpoints only, and never used: cross-attention has no position bias.
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": None,
    "encoder.final_layer_norm.weight": "encoder.final_norm.weight",
    "decoder.final_layer_norm.weight": "decoder.final_norm.weight",
}

# Version 1.0: up projection, activation, down projection.
WEIGHT_MAP: WeightMap = {
    **SHARED,
    "encoder.block.{}.layer.1.DenseReluDense.wi.weight": (
        "encoder.layers.{}.feed_forward.up_proj.weight"
    ),
    "decoder.block.{}.layer.2.DenseReluDense.wi.weight": (
        "decoder.layers.{}.feed_forward.up_proj.weight"
    ),
}

# Version 1.1: gated, activation(gate_proj(x)) * up_proj(x).
GATED_WEIGHT_MAP: WeightMap = {
    **SHARED,
    "encoder.block.{}.layer.1.DenseReluDense.wi_0.weight": (
        "encoder.layers.{}.feed_forward.gate_proj.weight"
    ),
    "encoder.block.{}.layer.1.DenseReluDense.wi_1.weight": (
        "encoder.layers.{}.feed_forward.up_proj.weight"
    ),
    "decoder.block.{}.layer.2.DenseReluDense.wi_0.weight": (
        "decoder.layers.{}.feed_forward.gate_proj.weight"
    ),
    "decoder.block.{}.layer.2.DenseReluDense.wi_1.weight": (
        "decoder.layers.{}.feed_forward.up_proj.weight"
    ),
}


def resolve_head_fields(content: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Set `tie_word_embeddings`, `scale_decoder_outputs` and `num_decoder_layers` explicitly.

    Before transformers 5, `tie_word_embeddings=False` marked version 1.1, whose LM head is untied
    and whose decoder outputs are not scaled. Transformers 5 always writes True, and marks version
    1.1 by `scale_decoder_outputs=False`; the head is then untied if its weight is stored.
    """
    tied = content.get("tie_word_embeddings", True)
    scaled = content.get("scale_decoder_outputs", tied)
    if tied is True and scaled is False and "lm_head.weight" in names:
        tied = False
    resolved = {"tie_word_embeddings": tied, "scale_decoder_outputs": scaled}
    if content.get("num_decoder_layers") is None:
        resolved["num_decoder_layers"] = content.get("num_layers", 6)
    return content | resolved


T5 = Family(
    model_type="t5",
    config_class=T5Config,
    backbone_name="",
    weights=WEIGHT_MAP,
    gated_weights=GATED_WEIGHT_MAP,
    aliases=ALIASES,
    models={T5Model: {}, T5ForConditionalGeneration: {"lm_head.weight": "lm_head.weight"}},
    tied={"lm_head.weight": "backbone.token_embedding.weight"},
    stacks=STACKS,
    config_names={
        "hidden_size": "d_model",
        "head_size": "d_kv",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "d_ff",
        "hidden_dropout_prob": "dropout_rate",
        "layer_norm_eps": "layer_norm_epsilon",
    },
    only_values={"is_encoder_decoder": True},
    without_effect=frozenset(
        {
            "bos_token_id",
            "classifier_dropout",
            "dense_act_fn",  # this and is_gated_act repeat feed_forward_proj
            "is_gated_act",
            "n_positions",  # the length in training; relative positions set no limit
            "problem_type",
        }
    ),
    adjust=resolve_head_fields,
    positions_count_padding=False,
)

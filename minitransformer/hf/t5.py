"""T5's names in Hugging Face checkpoints."""

from collections.abc import Collection
from typing import Any

from minitransformer.hf.bart import STACKS, WORDS
from minitransformer.hf.family import Family, WeightMap
from minitransformer.models.t5 import T5ForConditionalGeneration, T5Model
from minitransformer.models.t5_config import T5Config


def attention(theirs: str, ours: str) -> WeightMap:
    """The four projections of an attention."""
    parts = {"q": "query", "k": "key", "v": "value", "o": "output"}
    return {f"{theirs}.{p}.weight": f"{ours}.{part}.weight" for p, part in parts.items()}


def feed_forward(theirs: str) -> WeightMap:
    """The feed-forward network of either version."""
    return {
        f"{theirs}.DenseReluDense.wi.weight": "feed_forward.expand.weight",
        f"{theirs}.DenseReluDense.wi_0.weight": "feed_forward.gate.weight",
        f"{theirs}.DenseReluDense.wi_1.weight": "feed_forward.gated.weight",
        f"{theirs}.DenseReluDense.wo.weight": "feed_forward.contract.weight",
        f"{theirs}.layer_norm.weight": "feed_forward_norm.weight",
    }


ENCODER_LAYER: WeightMap = {
    **attention("layer.0.SelfAttention", "attention"),
    "layer.0.layer_norm.weight": "attention_norm.weight",
    **feed_forward("layer.1"),
}

DECODER_LAYER: WeightMap = {
    **attention("layer.0.SelfAttention", "attention"),
    "layer.0.layer_norm.weight": "attention_norm.weight",
    **attention("layer.1.EncDecAttention", "cross_attention"),
    "layer.1.layer_norm.weight": "cross_attention_norm.weight",
    **feed_forward("layer.2"),
}

WEIGHT_MAP: WeightMap = {
    **WORDS,
    **{f"encoder.block.{{}}.{t}": f"encoder.layers.{{}}.{o}" for t, o in ENCODER_LAYER.items()},
    **{f"decoder.block.{{}}.{t}": f"decoder.layers.{{}}.{o}" for t, o in DECODER_LAYER.items()},
    # The first layer keeps the table that all of its stack use.
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (
        "encoder.position_bias.table.weight"
    ),
    "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (
        "decoder.position_bias.table.weight"
    ),
    # Of the first checkpoints; cross-attention knows no positions.
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": None,
    "encoder.final_layer_norm.weight": "encoder.final_norm.weight",
    "decoder.final_layer_norm.weight": "decoder.final_norm.weight",
}


def as_meant(content: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Say whether the head is tied and scaled, which one field used to say, and then another.

    `tie_word_embeddings=False` was what made a checkpoint one of version 1.1. Transformers 5 writes
    True always and says the rest by `scale_decoder_outputs`; a head that is stored beside the word
    embedding is one of its own.
    """
    tied = content.get("tie_word_embeddings", True)
    scaled = content.get("scale_decoder_outputs", tied)
    if tied is True and scaled is False and "lm_head.weight" in names:
        tied = False
    layers = content.get("num_decoder_layers", content.get("num_layers", 6))
    return {
        **content,
        "tie_word_embeddings": tied,
        "scale_decoder_outputs": scaled,
        "num_decoder_layers": content.get("num_layers", 6) if layers is None else layers,
    }


T5 = Family(
    model_type="t5",
    config_class=T5Config,
    backbone_name="",
    weights=WEIGHT_MAP,
    models={T5Model: {}, T5ForConditionalGeneration: {"lm_head.weight": "lm_head.weight"}},
    tied={"lm_head.weight": "transformer.words.weight"},
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
            "dense_act_fn",  # these two say again what feed_forward_proj says
            "is_gated_act",
            "n_positions",  # what it was trained on; there is no table that could end
            "problem_type",
        }
    ),
    adjust=as_meant,
    numbers_places=False,
)

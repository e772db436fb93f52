"""Marian's names in Hugging Face checkpoints: BART's, except for positions and embedding norms."""

from collections.abc import Collection
from typing import Any

from minitransformer.hf import bart
from minitransformer.hf.bart import CONFIG_NAMES, GENERATION, ONLY_VALUES, STACKS, WITHOUT_EFFECT
from minitransformer.hf.family import Family, WeightMap
from minitransformer.models.marian import MarianConfig, MarianModel, MarianMTModel

# The embeddings have no layer norm, and the sinusoidal positions are computed.
WEIGHT_MAP: WeightMap = {
    **{
        theirs: ours
        for theirs, ours in bart.WEIGHT_MAP.items()
        if "layernorm_embedding" not in theirs
    },
    "encoder.embed_positions.weight": None,
    "decoder.embed_positions.weight": None,
}

# What makes a Marian of a BART, in the fields of transformers 2 and 3.
MARIAN_POSITIONS = {"normalize_embedding": False, "static_position_embeddings": True}


def drop_shared_vocab_size(content: dict[str, Any], _names: Collection[str]) -> dict[str, Any]:
    """Drop `decoder_vocab_size` if it equals `vocab_size`; other sizes are not supported."""
    same = content.get("decoder_vocab_size") in (None, content.get("vocab_size"))
    return {n: v for n, v in content.items() if not (same and n == "decoder_vocab_size")}


MARIAN = Family(
    model_type="marian",
    config_class=MarianConfig,
    backbone_name="model",
    weights=WEIGHT_MAP,
    aliases=bart.ALIASES,
    models={MarianModel: {}, MarianMTModel: GENERATION},
    tied={"lm_head.weight": "backbone.token_embedding.weight"},
    untied_copies=frozenset(bart.ALIASES),
    stacks=STACKS,
    optional=frozenset({"final_logits_bias"}),
    config_names=CONFIG_NAMES,
    only_values={
        **ONLY_VALUES,
        **MARIAN_POSITIONS,
        "share_encoder_decoder_embeddings": True,
        "decoder_vocab_size": None,
    },
    without_effect=WITHOUT_EFFECT | {"classifier_dropout", "problem_type"},
    adjust=drop_shared_vocab_size,
)

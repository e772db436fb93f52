"""BART's names in Hugging Face checkpoints."""

from collections.abc import Mapping

from minitransformer.hf.family import Family, WeightMap
from minitransformer.models.bart import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BartModel,
)

WEIGHT_MAP: WeightMap = {
    "shared.weight": "token_embedding.weight",
    "encoder.version": None,  # written by fairseq, in the first checkpoints
    "decoder.version": None,
    "encoder.embed_positions.weight": "encoder.position_embedding.table.weight",
    "encoder.layernorm_embedding.weight": "encoder.embedding_norm.weight",
    "encoder.layernorm_embedding.bias": "encoder.embedding_norm.bias",
    "decoder.embed_positions.weight": "decoder.position_embedding.table.weight",
    "decoder.layernorm_embedding.weight": "decoder.embedding_norm.weight",
    "decoder.layernorm_embedding.bias": "decoder.embedding_norm.bias",
    "encoder.layers.{}.self_attn.q_proj.weight": "encoder.layers.{}.attention.query.weight",
    "encoder.layers.{}.self_attn.q_proj.bias": "encoder.layers.{}.attention.query.bias",
    "encoder.layers.{}.self_attn.k_proj.weight": "encoder.layers.{}.attention.key.weight",
    "encoder.layers.{}.self_attn.k_proj.bias": "encoder.layers.{}.attention.key.bias",
    "encoder.layers.{}.self_attn.v_proj.weight": "encoder.layers.{}.attention.value.weight",
    "encoder.layers.{}.self_attn.v_proj.bias": "encoder.layers.{}.attention.value.bias",
    "encoder.layers.{}.self_attn.out_proj.weight": "encoder.layers.{}.attention.output.weight",
    "encoder.layers.{}.self_attn.out_proj.bias": "encoder.layers.{}.attention.output.bias",
    "encoder.layers.{}.self_attn_layer_norm.weight": "encoder.layers.{}.attention_norm.weight",
    "encoder.layers.{}.self_attn_layer_norm.bias": "encoder.layers.{}.attention_norm.bias",
    "encoder.layers.{}.fc1.weight": "encoder.layers.{}.feed_forward.up_proj.weight",
    "encoder.layers.{}.fc1.bias": "encoder.layers.{}.feed_forward.up_proj.bias",
    "encoder.layers.{}.fc2.weight": "encoder.layers.{}.feed_forward.down_proj.weight",
    "encoder.layers.{}.fc2.bias": "encoder.layers.{}.feed_forward.down_proj.bias",
    "encoder.layers.{}.final_layer_norm.weight": "encoder.layers.{}.feed_forward_norm.weight",
    "encoder.layers.{}.final_layer_norm.bias": "encoder.layers.{}.feed_forward_norm.bias",
    "decoder.layers.{}.self_attn.q_proj.weight": "decoder.layers.{}.attention.query.weight",
    "decoder.layers.{}.self_attn.q_proj.bias": "decoder.layers.{}.attention.query.bias",
    "decoder.layers.{}.self_attn.k_proj.weight": "decoder.layers.{}.attention.key.weight",
    "decoder.layers.{}.self_attn.k_proj.bias": "decoder.layers.{}.attention.key.bias",
    "decoder.layers.{}.self_attn.v_proj.weight": "decoder.layers.{}.attention.value.weight",
    "decoder.layers.{}.self_attn.v_proj.bias": "decoder.layers.{}.attention.value.bias",
    "decoder.layers.{}.self_attn.out_proj.weight": "decoder.layers.{}.attention.output.weight",
    "decoder.layers.{}.self_attn.out_proj.bias": "decoder.layers.{}.attention.output.bias",
    "decoder.layers.{}.self_attn_layer_norm.weight": "decoder.layers.{}.attention_norm.weight",
    "decoder.layers.{}.self_attn_layer_norm.bias": "decoder.layers.{}.attention_norm.bias",
    "decoder.layers.{}.encoder_attn.q_proj.weight": (
        "decoder.layers.{}.cross_attention.query.weight"
    ),
    "decoder.layers.{}.encoder_attn.q_proj.bias": "decoder.layers.{}.cross_attention.query.bias",
    "decoder.layers.{}.encoder_attn.k_proj.weight": "decoder.layers.{}.cross_attention.key.weight",
    "decoder.layers.{}.encoder_attn.k_proj.bias": "decoder.layers.{}.cross_attention.key.bias",
    "decoder.layers.{}.encoder_attn.v_proj.weight": (
        "decoder.layers.{}.cross_attention.value.weight"
    ),
    "decoder.layers.{}.encoder_attn.v_proj.bias": "decoder.layers.{}.cross_attention.value.bias",
    "decoder.layers.{}.encoder_attn.out_proj.weight": (
        "decoder.layers.{}.cross_attention.output.weight"
    ),
    "decoder.layers.{}.encoder_attn.out_proj.bias": "decoder.layers.{}.cross_attention.output.bias",
    "decoder.layers.{}.encoder_attn_layer_norm.weight": (
        "decoder.layers.{}.cross_attention_norm.weight"
    ),
    "decoder.layers.{}.encoder_attn_layer_norm.bias": "decoder.layers.{}.cross_attention_norm.bias",
    "decoder.layers.{}.fc1.weight": "decoder.layers.{}.feed_forward.up_proj.weight",
    "decoder.layers.{}.fc1.bias": "decoder.layers.{}.feed_forward.up_proj.bias",
    "decoder.layers.{}.fc2.weight": "decoder.layers.{}.feed_forward.down_proj.weight",
    "decoder.layers.{}.fc2.bias": "decoder.layers.{}.feed_forward.down_proj.bias",
    "decoder.layers.{}.final_layer_norm.weight": "decoder.layers.{}.feed_forward_norm.weight",
    "decoder.layers.{}.final_layer_norm.bias": "decoder.layers.{}.feed_forward_norm.bias",
}

# Encoder and decoder share one token embedding, which some versions of transformers store thrice.
ALIASES: Mapping[str, str] = {
    "encoder.embed_tokens.weight": "token_embedding.weight",
    "decoder.embed_tokens.weight": "token_embedding.weight",
}

GENERATION: WeightMap = {
    "final_logits_bias": "final_logits_bias",
    "lm_head.weight": "lm_head.weight",  # of an untied head
}

CLASSIFIER: WeightMap = {
    "classification_head.dense.weight": "classification_head.dense.weight",
    "classification_head.dense.bias": "classification_head.dense.bias",
    "classification_head.out_proj.weight": "classification_head.output.weight",
    "classification_head.out_proj.bias": "classification_head.output.bias",
}

STACKS = {"encoder.layers.": "num_hidden_layers", "decoder.layers.": "num_decoder_layers"}

CONFIG_NAMES = {
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
    "num_decoder_layers": "decoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "num_decoder_attention_heads": "decoder_attention_heads",
    "intermediate_size": "encoder_ffn_dim",
    "decoder_intermediate_size": "decoder_ffn_dim",
    "hidden_act": "activation_function",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "initializer_range": "init_std",
}

# LayerDrop, which skips whole layers at random in training, is not supported.
ONLY_VALUES = {
    "is_encoder_decoder": True,
    "normalize_before": False,
    "add_final_layer_norm": False,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "do_blenderbot_90_layernorm": False,
}

WITHOUT_EFFECT = frozenset(
    {
        "add_bias_logits",
        "classif_dropout",
        "extra_pos_embeddings",  # always 2
        "replacing_rate",  # this and the next three describe how a checkpoint was distilled
        "save_step",
        "student_decoder_layers",
        "student_encoder_layers",
    }
)

BART = Family(
    model_type="bart",
    config_class=BartConfig,
    backbone_name="model",
    weights=WEIGHT_MAP,
    aliases=ALIASES,
    models={
        BartModel: {},
        BartForConditionalGeneration: GENERATION,
        BartForSequenceClassification: CLASSIFIER,
    },
    tied={"lm_head.weight": "backbone.token_embedding.weight"},
    untied_copies=frozenset(ALIASES),
    stacks=STACKS,
    optional=frozenset({"final_logits_bias"}),
    config_names=CONFIG_NAMES,
    only_values={
        **ONLY_VALUES,
        "normalize_embedding": True,
        "static_position_embeddings": False,
    },
    without_effect=WITHOUT_EFFECT,
)

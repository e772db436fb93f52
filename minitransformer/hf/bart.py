"""BART's names in Hugging Face checkpoints."""

from minitransformer.hf.family import Family, WeightMap
from minitransformer.models.bart import BartConfig, BartForConditionalGeneration, BartModel
from minitransformer.models.bart_heads import BartForSequenceClassification


def attention(theirs: str, ours: str) -> WeightMap:
    """The four projections of an attention."""
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
    return {
        f"{theirs}.{their_part}.{kind}": f"{ours}.{our_part}.{kind}"
        for their_part, our_part in parts.items()
        for kind in ("weight", "bias")
    }


# What every layer has, of the encoder ("encoder.layers.{}.") and of the decoder.
LAYER: WeightMap = {
    **attention("self_attn", "attention"),
    "self_attn_layer_norm.weight": "attention_norm.weight",
    "self_attn_layer_norm.bias": "attention_norm.bias",
    "fc1.weight": "feed_forward.expand.weight",
    "fc1.bias": "feed_forward.expand.bias",
    "fc2.weight": "feed_forward.contract.weight",
    "fc2.bias": "feed_forward.contract.bias",
    "final_layer_norm.weight": "feed_forward_norm.weight",
    "final_layer_norm.bias": "feed_forward_norm.bias",
}

DECODER_LAYER: WeightMap = {
    **LAYER,
    **attention("encoder_attn", "cross_attention"),
    "encoder_attn_layer_norm.weight": "cross_attention_norm.weight",
    "encoder_attn_layer_norm.bias": "cross_attention_norm.bias",
}

# Encoder and decoder have one table of words, which old versions stored three times.
WORDS: WeightMap = {
    "shared.weight": "words.weight",
    "encoder.embed_tokens.weight": "words.weight",
    "decoder.embed_tokens.weight": "words.weight",
}

LAYERS: WeightMap = {
    **{f"encoder.layers.{{}}.{theirs}": f"encoder.layers.{{}}.{o}" for theirs, o in LAYER.items()},
    **{
        f"decoder.layers.{{}}.{theirs}": f"decoder.layers.{{}}.{o}"
        for theirs, o in DECODER_LAYER.items()
    },
}

WEIGHT_MAP: WeightMap = {
    **WORDS,
    "encoder.version": None,  # of fairseq, in the first checkpoints
    "decoder.version": None,
    "encoder.embed_positions.weight": "encoder.positions.table.weight",
    "encoder.layernorm_embedding.weight": "encoder.embedding_norm.weight",
    "encoder.layernorm_embedding.bias": "encoder.embedding_norm.bias",
    "decoder.embed_positions.weight": "decoder.positions.table.weight",
    "decoder.layernorm_embedding.weight": "decoder.embedding_norm.weight",
    "decoder.layernorm_embedding.bias": "decoder.embedding_norm.bias",
    **LAYERS,
}

GENERATION: WeightMap = {"final_logits_bias": "final_logits_bias"}

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

# Layers that are left out at random while training are not built.
ONLY_VALUES = {
    "is_encoder_decoder": True,
    "normalize_before": False,
    "add_final_layer_norm": False,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}

WITHOUT_EFFECT = frozenset(
    {
        "add_bias_logits",
        "classif_dropout",
        "extra_pos_embeddings",  # always 2
        "num_hidden_layers",  # says again what encoder_layers says
        "replacing_rate",  # this and the next three: how a checkpoint was distilled
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
    models={
        BartModel: {},
        BartForConditionalGeneration: GENERATION,
        BartForSequenceClassification: CLASSIFIER,
    },
    tied={"lm_head.weight": "model.words.weight"},
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

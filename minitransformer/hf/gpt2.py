"""GPT-2's names in Hugging Face checkpoints.

Its weight matrices are stored as (in, out), the transpose of `nn.Linear`'s, because the original
code wrote linear layers as convolutions of width one.
"""

from minitransformer.hf.family import Family, WeightMap
from minitransformer.models.gpt2 import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
)

WEIGHT_MAP: WeightMap = {
    "wte.weight": "token_embedding.weight",
    "wpe.weight": "position_embedding.table.weight",
    "h.{}.ln_1.weight": "layers.{}.attention_norm.weight",
    "h.{}.ln_1.bias": "layers.{}.attention_norm.bias",
    "h.{}.attn.c_attn.weight": "layers.{}.attention.query_key_value.weight",
    "h.{}.attn.c_attn.bias": "layers.{}.attention.query_key_value.bias",
    "h.{}.attn.c_proj.weight": "layers.{}.attention.output.weight",
    "h.{}.attn.c_proj.bias": "layers.{}.attention.output.bias",
    "h.{}.attn.bias": None,  # the causal mask, stored by old versions of transformers
    "h.{}.attn.masked_bias": None,  # -10000, the score of masked positions
    "h.{}.crossattention.bias": None,
    "h.{}.ln_2.weight": "layers.{}.feed_forward_norm.weight",
    "h.{}.ln_2.bias": "layers.{}.feed_forward_norm.bias",
    "h.{}.mlp.c_fc.weight": "layers.{}.feed_forward.up_proj.weight",
    "h.{}.mlp.c_fc.bias": "layers.{}.feed_forward.up_proj.bias",
    "h.{}.mlp.c_proj.weight": "layers.{}.feed_forward.down_proj.weight",
    "h.{}.mlp.c_proj.bias": "layers.{}.feed_forward.down_proj.bias",
    "ln_f.weight": "final_norm.weight",
    "ln_f.bias": "final_norm.bias",
}

GPT2 = Family(
    model_type="gpt2",
    config_class=GPT2Config,
    backbone_name="transformer",
    weights=WEIGHT_MAP,
    models={
        GPT2Model: {},
        GPT2LMHeadModel: {"lm_head.weight": "lm_head.weight"},  # of an untied head
        GPT2ForSequenceClassification: {"score.weight": "score.weight"},
    },
    tied={"lm_head.weight": "backbone.token_embedding.weight"},
    transposed=frozenset(
        {
            "h.{}.attn.c_attn.weight",
            "h.{}.attn.c_proj.weight",
            "h.{}.mlp.c_fc.weight",
            "h.{}.mlp.c_proj.weight",
        }
    ),
    config_names={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "hidden_act": "activation_function",
        "hidden_dropout_prob": "resid_pdrop",
        "embedding_dropout_prob": "embd_pdrop",
        "attention_probs_dropout_prob": "attn_pdrop",
        "max_position_embeddings": "n_positions",
        "layer_norm_eps": "layer_norm_epsilon",
    },
    without_effect=frozenset(
        {
            "n_ctx",
            "predict_special_tokens",
            "reorder_and_upcast_attn",  # concerns training in half precision
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
        }
    ),
)

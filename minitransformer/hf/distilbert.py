"""DistilBERT's names in Hugging Face checkpoints."""

from minitransformer.hf.bert import CLASSIFIER, QUESTION_ANSWERING
from minitransformer.hf.family import Family, WeightMap
from minitransformer.models.distilbert import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
)

WEIGHT_MAP: WeightMap = {
    "embeddings.word_embeddings.weight": "embeddings.token_embedding.weight",
    "embeddings.position_embeddings.weight": "embeddings.position_embedding.table.weight",
    "embeddings.LayerNorm.weight": "embeddings.norm.weight",
    "embeddings.LayerNorm.bias": "embeddings.norm.bias",
    "embeddings.position_ids": None,  # 0, 1, 2, ..., stored by old versions of transformers
    "transformer.layer.{}.attention.q_lin.weight": "layers.{}.attention.query.weight",
    "transformer.layer.{}.attention.q_lin.bias": "layers.{}.attention.query.bias",
    "transformer.layer.{}.attention.k_lin.weight": "layers.{}.attention.key.weight",
    "transformer.layer.{}.attention.k_lin.bias": "layers.{}.attention.key.bias",
    "transformer.layer.{}.attention.v_lin.weight": "layers.{}.attention.value.weight",
    "transformer.layer.{}.attention.v_lin.bias": "layers.{}.attention.value.bias",
    "transformer.layer.{}.attention.out_lin.weight": "layers.{}.attention.output.weight",
    "transformer.layer.{}.attention.out_lin.bias": "layers.{}.attention.output.bias",
    "transformer.layer.{}.sa_layer_norm.weight": "layers.{}.attention_norm.weight",
    "transformer.layer.{}.sa_layer_norm.bias": "layers.{}.attention_norm.bias",
    "transformer.layer.{}.ffn.lin1.weight": "layers.{}.feed_forward.up_proj.weight",
    "transformer.layer.{}.ffn.lin1.bias": "layers.{}.feed_forward.up_proj.bias",
    "transformer.layer.{}.ffn.lin2.weight": "layers.{}.feed_forward.down_proj.weight",
    "transformer.layer.{}.ffn.lin2.bias": "layers.{}.feed_forward.down_proj.bias",
    "transformer.layer.{}.output_layer_norm.weight": "layers.{}.feed_forward_norm.weight",
    "transformer.layer.{}.output_layer_norm.bias": "layers.{}.feed_forward_norm.bias",
}

MASKED_LM: WeightMap = {
    "vocab_projector.bias": "lm_head.bias",
    "vocab_transform.weight": "lm_head.dense.weight",
    "vocab_transform.bias": "lm_head.dense.bias",
    "vocab_layer_norm.weight": "lm_head.norm.weight",
    "vocab_layer_norm.bias": "lm_head.norm.bias",
    "vocab_projector.weight": "lm_head.output.weight",  # of an untied head
}

SEQUENCE_CLASSIFIER: WeightMap = {
    "pre_classifier.weight": "pre_classifier.weight",
    "pre_classifier.bias": "pre_classifier.bias",
    **CLASSIFIER,
}

DISTILBERT = Family(
    model_type="distilbert",
    config_class=DistilBertConfig,
    backbone_name="distilbert",
    weights=WEIGHT_MAP,
    models={
        DistilBertModel: {},
        DistilBertForMaskedLM: MASKED_LM,
        DistilBertForQuestionAnswering: QUESTION_ANSWERING,
        DistilBertForSequenceClassification: SEQUENCE_CLASSIFIER,
        DistilBertForTokenClassification: CLASSIFIER,
    },
    tied={"vocab_projector.weight": "backbone.embeddings.token_embedding.weight"},
    config_names={
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
)

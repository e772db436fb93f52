"""BERT's names in Hugging Face checkpoints."""

from minitransformer.hf.family import Family, WeightMap
from minitransformer.models.bert import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

WEIGHT_MAP: WeightMap = {
    "embeddings.word_embeddings.weight": "embeddings.token_embedding.weight",
    "embeddings.position_embeddings.weight": "embeddings.position_embedding.table.weight",
    "embeddings.token_type_embeddings.weight": "embeddings.token_type_embedding.weight",
    "embeddings.LayerNorm.weight": "embeddings.norm.weight",
    "embeddings.LayerNorm.bias": "embeddings.norm.bias",
    "embeddings.position_ids": None,  # 0, 1, 2, ..., stored by old versions of transformers
    "encoder.layer.{}.attention.self.query.weight": "layers.{}.attention.query.weight",
    "encoder.layer.{}.attention.self.query.bias": "layers.{}.attention.query.bias",
    "encoder.layer.{}.attention.self.key.weight": "layers.{}.attention.key.weight",
    "encoder.layer.{}.attention.self.key.bias": "layers.{}.attention.key.bias",
    "encoder.layer.{}.attention.self.value.weight": "layers.{}.attention.value.weight",
    "encoder.layer.{}.attention.self.value.bias": "layers.{}.attention.value.bias",
    "encoder.layer.{}.attention.output.dense.weight": "layers.{}.attention.output.weight",
    "encoder.layer.{}.attention.output.dense.bias": "layers.{}.attention.output.bias",
    "encoder.layer.{}.attention.output.LayerNorm.weight": "layers.{}.attention_norm.weight",
    "encoder.layer.{}.attention.output.LayerNorm.bias": "layers.{}.attention_norm.bias",
    "encoder.layer.{}.intermediate.dense.weight": "layers.{}.feed_forward.up_proj.weight",
    "encoder.layer.{}.intermediate.dense.bias": "layers.{}.feed_forward.up_proj.bias",
    "encoder.layer.{}.output.dense.weight": "layers.{}.feed_forward.down_proj.weight",
    "encoder.layer.{}.output.dense.bias": "layers.{}.feed_forward.down_proj.bias",
    "encoder.layer.{}.output.LayerNorm.weight": "layers.{}.feed_forward_norm.weight",
    "encoder.layer.{}.output.LayerNorm.bias": "layers.{}.feed_forward_norm.bias",
    "pooler.dense.weight": "pooler.dense.weight",
    "pooler.dense.bias": "pooler.dense.bias",
}

MASKED_LM: WeightMap = {
    "cls.predictions.bias": "lm_head.bias",
    "cls.predictions.transform.dense.weight": "lm_head.dense.weight",
    "cls.predictions.transform.dense.bias": "lm_head.dense.bias",
    "cls.predictions.transform.LayerNorm.weight": "lm_head.norm.weight",
    "cls.predictions.transform.LayerNorm.bias": "lm_head.norm.bias",
    "cls.predictions.decoder.weight": "lm_head.output.weight",  # of an untied head
}

QUESTION_ANSWERING: WeightMap = {
    "qa_outputs.weight": "qa_outputs.weight",
    "qa_outputs.bias": "qa_outputs.bias",
}

CLASSIFIER: WeightMap = {
    "classifier.weight": "classifier.weight",
    "classifier.bias": "classifier.bias",
}

BERT = Family(
    model_type="bert",
    config_class=BertConfig,
    backbone_name="bert",
    weights=WEIGHT_MAP,
    models={
        BertModel: {},
        BertForMaskedLM: MASKED_LM,
        BertForQuestionAnswering: QUESTION_ANSWERING,
        BertForSequenceClassification: CLASSIFIER,
        BertForTokenClassification: CLASSIFIER,
    },
    tied={
        "cls.predictions.decoder.weight": "backbone.embeddings.token_embedding.weight",
        "cls.predictions.decoder.bias": "lm_head.bias",
    },
    untied_copies=frozenset({"cls.predictions.decoder.bias"}),
)

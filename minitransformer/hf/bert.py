"""BERT's names in Hugging Face checkpoints."""

from minitransformer.hf.family import Family
from minitransformer.models.bert import BertConfig, BertModel

WEIGHT_MAP: dict[str, str | None] = {
    "embeddings.word_embeddings.weight": "embeddings.words.weight",
    "embeddings.position_embeddings.weight": "embeddings.positions.table.weight",
    "embeddings.token_type_embeddings.weight": "embeddings.token_types.weight",
    "embeddings.LayerNorm.weight": "embeddings.norm.weight",
    "embeddings.LayerNorm.bias": "embeddings.norm.bias",
    "embeddings.position_ids": None,  # the numbers 0, 1, 2, ..., which old versions stored
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
    "encoder.layer.{}.intermediate.dense.weight": "layers.{}.feed_forward.expand.weight",
    "encoder.layer.{}.intermediate.dense.bias": "layers.{}.feed_forward.expand.bias",
    "encoder.layer.{}.output.dense.weight": "layers.{}.feed_forward.contract.weight",
    "encoder.layer.{}.output.dense.bias": "layers.{}.feed_forward.contract.bias",
    "encoder.layer.{}.output.LayerNorm.weight": "layers.{}.feed_forward_norm.weight",
    "encoder.layer.{}.output.LayerNorm.bias": "layers.{}.feed_forward_norm.bias",
    "pooler.dense.weight": "pooler.dense.weight",
    "pooler.dense.bias": "pooler.dense.bias",
}

BERT = Family(
    model_type="bert",
    config_class=BertConfig,
    models=(BertModel,),
    backbone_name="bert",
    weights=WEIGHT_MAP,
    other_heads=("cls.", "classifier.", "qa_outputs."),
)

"""RoBERTa's names in Hugging Face checkpoints: BERT's, and the head's."""

from minitransformer.hf.bert import WEIGHT_MAP
from minitransformer.hf.family import Family
from minitransformer.models.roberta import RobertaConfig, RobertaForMaskedLM, RobertaModel

HEAD_MAP: dict[str, str | None] = {
    "lm_head.bias": "lm_head.bias",
    "lm_head.dense.weight": "lm_head.dense.weight",
    "lm_head.dense.bias": "lm_head.dense.bias",
    "lm_head.layer_norm.weight": "lm_head.norm.weight",
    "lm_head.layer_norm.bias": "lm_head.norm.bias",
}

ROBERTA = Family(
    model_type="roberta",
    config_class=RobertaConfig,
    models=(RobertaModel, RobertaForMaskedLM),
    backbone_name="roberta",
    weights=WEIGHT_MAP,
    heads=HEAD_MAP,
    tied={
        "lm_head.decoder.weight": "roberta.embeddings.words.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    other_heads=("classifier.", "qa_outputs."),
    # RobertaConfig() of transformers has BERT's sizes, not those of any RoBERTa checkpoint.
    absent_fields={"max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12},
)

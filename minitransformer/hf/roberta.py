"""RoBERTa's names in Hugging Face checkpoints: BERT's, except for the heads."""

from minitransformer.hf.bert import CLASSIFIER, QUESTION_ANSWERING, WEIGHT_MAP
from minitransformer.hf.family import Family, WeightMap
from minitransformer.models.roberta import (
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    RobertaModel,
)

MASKED_LM: WeightMap = {
    "lm_head.bias": "lm_head.bias",
    "lm_head.dense.weight": "lm_head.dense.weight",
    "lm_head.dense.bias": "lm_head.dense.bias",
    "lm_head.layer_norm.weight": "lm_head.norm.weight",
    "lm_head.layer_norm.bias": "lm_head.norm.bias",
}

SEQUENCE_CLASSIFIER: WeightMap = {
    "classifier.dense.weight": "classifier.dense.weight",
    "classifier.dense.bias": "classifier.dense.bias",
    "classifier.out_proj.weight": "classifier.output.weight",
    "classifier.out_proj.bias": "classifier.output.bias",
}

ROBERTA = Family(
    model_type="roberta",
    config_class=RobertaConfig,
    backbone_name="roberta",
    weights=WEIGHT_MAP,
    models={
        RobertaModel: {},
        RobertaForMaskedLM: MASKED_LM,
        RobertaForQuestionAnswering: QUESTION_ANSWERING,
        RobertaForSequenceClassification: SEQUENCE_CLASSIFIER,
        RobertaForTokenClassification: CLASSIFIER,
    },
    tied={
        "lm_head.decoder.weight": "backbone.embeddings.token_embedding.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    # The defaults of transformers' RobertaConfig are BERT's, not those of a RoBERTa checkpoint.
    hf_defaults={"max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12},
    positions_count_padding=False,
)

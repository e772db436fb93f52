"""RoBERTa's names in Hugging Face checkpoints: BERT's, except for the heads."""

import warnings
from collections.abc import Collection
from typing import Any

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
    "lm_head.decoder.weight": "lm_head.output.weight",  # of an untied head
}

SEQUENCE_CLASSIFIER: WeightMap = {
    "classifier.dense.weight": "classifier.dense.weight",
    "classifier.dense.bias": "classifier.dense.bias",
    "classifier.out_proj.weight": "classifier.output.weight",
    "classifier.out_proj.bias": "classifier.output.bias",
}


def name_unused_padding(content: dict[str, Any], _names: Collection[str]) -> dict[str, Any]:
    """Warn of the `pad_token_id` that transformers 2.4 wrote in every family.

    Its RoBERTa did not read the field and padded with 1, after which positions begin.
    """
    if content.get("pad_token_id") == 0 and "eos_token_ids" in content:
        warnings.warn(
            "config.json has pad_token_id=0 and eos_token_ids, as transformers 2.4 wrote, whose "
            "RoBERTa padded with 1 and numbered positions after it. They are numbered after 0, as "
            "in today's transformers; to get the old ones, pass pad_token_id=1 to from_pretrained",
            stacklevel=5,
        )
    return content


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
    untied_copies=frozenset({"lm_head.decoder.bias"}),
    # The defaults of transformers' RobertaConfig are BERT's, not those of a RoBERTa checkpoint.
    hf_defaults={"max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12},
    adjust=name_unused_padding,
    positions_count_padding=False,
)

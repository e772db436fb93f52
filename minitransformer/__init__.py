"""Transformers from scratch in plain PyTorch, equal to Hugging Face number by number."""

from minitransformer.files import CheckpointError
from minitransformer.hf.loading import from_pretrained
from minitransformer.models.bert import BertConfig, BertModel
from minitransformer.models.bert_heads import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from minitransformer.models.distilbert import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
)
from minitransformer.models.outputs import (
    EncoderOutput,
    MaskedLMOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from minitransformer.models.roberta import (
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    RobertaModel,
)
from minitransformer.tasks.pipeline import pipeline
from minitransformer.tokenization import Tokenizer

__version__ = "0.2.0"

__all__ = [
    "BertConfig",
    "BertForMaskedLM",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "CheckpointError",
    "DistilBertConfig",
    "DistilBertForMaskedLM",
    "DistilBertForQuestionAnswering",
    "DistilBertForSequenceClassification",
    "DistilBertForTokenClassification",
    "DistilBertModel",
    "EncoderOutput",
    "MaskedLMOutput",
    "QuestionAnsweringOutput",
    "RobertaConfig",
    "RobertaForMaskedLM",
    "RobertaForQuestionAnswering",
    "RobertaForSequenceClassification",
    "RobertaForTokenClassification",
    "RobertaModel",
    "SequenceClassifierOutput",
    "TokenClassifierOutput",
    "Tokenizer",
    "from_pretrained",
    "pipeline",
]

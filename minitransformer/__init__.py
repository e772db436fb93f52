"""Transformers from scratch in plain PyTorch, with the same numbers as Hugging Face's."""

from minitransformer.fast import optimize, report, restore
from minitransformer.files import CheckpointError
from minitransformer.generation import GenerationOutput, generate, stream
from minitransformer.generation_config import GenerationConfig
from minitransformer.hf.checkpoint import from_pretrained
from minitransformer.layers.kv_cache import KVCache
from minitransformer.models.bart import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BartModel,
)
from minitransformer.models.bert import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from minitransformer.models.distilbert import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
)
from minitransformer.models.gpt2 import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
)
from minitransformer.models.marian import MarianConfig, MarianModel, MarianMTModel
from minitransformer.models.outputs import (
    CausalLMOutput,
    DecoderOutput,
    EncoderOutput,
    MaskedLMOutput,
    QuestionAnsweringOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
    Seq2SeqSequenceClassifierOutput,
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
from minitransformer.models.t5 import T5Config, T5ForConditionalGeneration, T5Model
from minitransformer.tasks.pipeline import pipeline
from minitransformer.tokenization import Tokenizer
from minitransformer.version import __version__

__all__ = [
    "BartConfig",
    "BartForConditionalGeneration",
    "BartForSequenceClassification",
    "BartModel",
    "BertConfig",
    "BertForMaskedLM",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "CausalLMOutput",
    "CheckpointError",
    "DecoderOutput",
    "DistilBertConfig",
    "DistilBertForMaskedLM",
    "DistilBertForQuestionAnswering",
    "DistilBertForSequenceClassification",
    "DistilBertForTokenClassification",
    "DistilBertModel",
    "EncoderOutput",
    "GPT2Config",
    "GPT2ForSequenceClassification",
    "GPT2LMHeadModel",
    "GPT2Model",
    "GenerationConfig",
    "GenerationOutput",
    "KVCache",
    "MarianConfig",
    "MarianMTModel",
    "MarianModel",
    "MaskedLMOutput",
    "QuestionAnsweringOutput",
    "RobertaConfig",
    "RobertaForMaskedLM",
    "RobertaForQuestionAnswering",
    "RobertaForSequenceClassification",
    "RobertaForTokenClassification",
    "RobertaModel",
    "Seq2SeqLMOutput",
    "Seq2SeqModelOutput",
    "Seq2SeqSequenceClassifierOutput",
    "SequenceClassifierOutput",
    "T5Config",
    "T5ForConditionalGeneration",
    "T5Model",
    "TokenClassifierOutput",
    "Tokenizer",
    "__version__",
    "from_pretrained",
    "generate",
    "optimize",
    "pipeline",
    "report",
    "restore",
    "stream",
]

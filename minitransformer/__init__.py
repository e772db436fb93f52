"""Transformers from scratch in plain PyTorch, equal to Hugging Face number by number."""

from minitransformer.files import CheckpointError
from minitransformer.generation import GenerationOutput, generate, stream
from minitransformer.hf.loading import from_pretrained
from minitransformer.layers.cache import KVCache
from minitransformer.models.bart import BartForConditionalGeneration, BartModel
from minitransformer.models.bart_config import BartConfig
from minitransformer.models.bart_heads import BartForSequenceClassification
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
from minitransformer.models.generation_config import GenerationConfig
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
from minitransformer.models.t5 import T5ForConditionalGeneration, T5Model
from minitransformer.models.t5_config import T5Config
from minitransformer.tasks.pipeline import pipeline
from minitransformer.tokenization import Tokenizer

__version__ = "0.4.0"

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
    "from_pretrained",
    "generate",
    "pipeline",
    "stream",
]

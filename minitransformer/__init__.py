"""Transformers from scratch in plain PyTorch, with the same numbers as Hugging Face's."""

from importlib.util import find_spec
from typing import Any

from minitransformer.auto import (
    TOKENIZERS,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    set_seed,
)
from minitransformer.elsewhere import advice
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
from minitransformer.tokenization import BatchEncoding, Tokenizer
from minitransformer.version import __version__

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForQuestionAnswering",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoTokenizer",
    "BartConfig",
    "BartForConditionalGeneration",
    "BartForSequenceClassification",
    "BartModel",
    "BatchEncoding",
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
    "set_seed",
    "stream",
]


def __getattr__(name: str) -> Any:
    """The class name of a tokenizer, or the error for a name that is not here.

    An ImportError can say what to type: `from minitransformer import name` shows it, where the
    message of an AttributeError is lost. That is the error for the name of a module, since Python
    asks for it before it imports the module.
    """
    if name in TOKENIZERS:
        return TOKENIZERS[name]
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is None:
        said = advice(name, [*__all__, *TOKENIZERS])
        if said is not None:
            raise ImportError(f"{__name__} has no {name}: {said}", name=__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

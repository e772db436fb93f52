"""The names of the package, and the module that each is imported from when it is first used."""

from typing import Any

from minitransformer.auto import AutoConfig as AutoConfig
from minitransformer.auto import AutoModel as AutoModel
from minitransformer.auto import AutoModelForCausalLM as AutoModelForCausalLM
from minitransformer.auto import AutoModelForMaskedLM as AutoModelForMaskedLM
from minitransformer.auto import AutoModelForQuestionAnswering as AutoModelForQuestionAnswering
from minitransformer.auto import AutoModelForSeq2SeqLM as AutoModelForSeq2SeqLM
from minitransformer.auto import (
    AutoModelForSequenceClassification as AutoModelForSequenceClassification,
)
from minitransformer.auto import AutoModelForTokenClassification as AutoModelForTokenClassification
from minitransformer.auto import AutoTokenizer as AutoTokenizer
from minitransformer.auto import set_seed as set_seed
from minitransformer.fast import optimize as optimize
from minitransformer.fast import report as report
from minitransformer.fast import restore as restore
from minitransformer.files import CheckpointError as CheckpointError
from minitransformer.generation import GenerationOutput as GenerationOutput
from minitransformer.generation import generate as generate
from minitransformer.generation import stream as stream
from minitransformer.generation_config import GenerationConfig as GenerationConfig
from minitransformer.hf.checkpoint import from_pretrained as from_pretrained
from minitransformer.layers.kv_cache import KVCache as KVCache
from minitransformer.models.bart import BartConfig as BartConfig
from minitransformer.models.bart import BartForConditionalGeneration as BartForConditionalGeneration
from minitransformer.models.bart import (
    BartForSequenceClassification as BartForSequenceClassification,
)
from minitransformer.models.bart import BartModel as BartModel
from minitransformer.models.bert import BertConfig as BertConfig
from minitransformer.models.bert import BertForMaskedLM as BertForMaskedLM
from minitransformer.models.bert import BertForQuestionAnswering as BertForQuestionAnswering
from minitransformer.models.bert import (
    BertForSequenceClassification as BertForSequenceClassification,
)
from minitransformer.models.bert import BertForTokenClassification as BertForTokenClassification
from minitransformer.models.bert import BertModel as BertModel
from minitransformer.models.distilbert import DistilBertConfig as DistilBertConfig
from minitransformer.models.distilbert import DistilBertForMaskedLM as DistilBertForMaskedLM
from minitransformer.models.distilbert import (
    DistilBertForQuestionAnswering as DistilBertForQuestionAnswering,
)
from minitransformer.models.distilbert import (
    DistilBertForSequenceClassification as DistilBertForSequenceClassification,
)
from minitransformer.models.distilbert import (
    DistilBertForTokenClassification as DistilBertForTokenClassification,
)
from minitransformer.models.distilbert import DistilBertModel as DistilBertModel
from minitransformer.models.gpt2 import GPT2Config as GPT2Config
from minitransformer.models.gpt2 import (
    GPT2ForSequenceClassification as GPT2ForSequenceClassification,
)
from minitransformer.models.gpt2 import GPT2LMHeadModel as GPT2LMHeadModel
from minitransformer.models.gpt2 import GPT2Model as GPT2Model
from minitransformer.models.marian import MarianConfig as MarianConfig
from minitransformer.models.marian import MarianModel as MarianModel
from minitransformer.models.marian import MarianMTModel as MarianMTModel
from minitransformer.models.outputs import CausalLMOutput as CausalLMOutput
from minitransformer.models.outputs import DecoderOutput as DecoderOutput
from minitransformer.models.outputs import EncoderOutput as EncoderOutput
from minitransformer.models.outputs import MaskedLMOutput as MaskedLMOutput
from minitransformer.models.outputs import QuestionAnsweringOutput as QuestionAnsweringOutput
from minitransformer.models.outputs import Seq2SeqLMOutput as Seq2SeqLMOutput
from minitransformer.models.outputs import Seq2SeqModelOutput as Seq2SeqModelOutput
from minitransformer.models.outputs import (
    Seq2SeqSequenceClassifierOutput as Seq2SeqSequenceClassifierOutput,
)
from minitransformer.models.outputs import SequenceClassifierOutput as SequenceClassifierOutput
from minitransformer.models.outputs import TokenClassifierOutput as TokenClassifierOutput
from minitransformer.models.roberta import RobertaConfig as RobertaConfig
from minitransformer.models.roberta import RobertaForMaskedLM as RobertaForMaskedLM
from minitransformer.models.roberta import (
    RobertaForQuestionAnswering as RobertaForQuestionAnswering,
)
from minitransformer.models.roberta import (
    RobertaForSequenceClassification as RobertaForSequenceClassification,
)
from minitransformer.models.roberta import (
    RobertaForTokenClassification as RobertaForTokenClassification,
)
from minitransformer.models.roberta import RobertaModel as RobertaModel
from minitransformer.models.t5 import T5Config as T5Config
from minitransformer.models.t5 import T5ForConditionalGeneration as T5ForConditionalGeneration
from minitransformer.models.t5 import T5Model as T5Model
from minitransformer.tasks.pipeline import pipeline as pipeline
from minitransformer.tokenization import BatchEncoding as BatchEncoding
from minitransformer.tokenization import Tokenizer as Tokenizer
from minitransformer.version import __version__ as __version__

def __getattr__(name: str) -> Any: ...  # a module, or the class name of a tokenizer

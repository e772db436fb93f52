"""Transformers from scratch in plain PyTorch, equal to Hugging Face number by number."""

from minitransformer.files import CheckpointError
from minitransformer.hf.loading import from_pretrained
from minitransformer.models.bert import BertConfig, BertModel
from minitransformer.models.outputs import EncoderOutput, MaskedLMOutput
from minitransformer.models.roberta import RobertaConfig, RobertaForMaskedLM, RobertaModel
from minitransformer.tasks import pipeline
from minitransformer.tokenization import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "BertConfig",
    "BertModel",
    "CheckpointError",
    "EncoderOutput",
    "MaskedLMOutput",
    "RobertaConfig",
    "RobertaForMaskedLM",
    "RobertaModel",
    "Tokenizer",
    "from_pretrained",
    "pipeline",
]

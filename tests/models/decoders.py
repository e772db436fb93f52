"""Tiny decoders and encoder-decoders, and batches for them; no two of their sizes are equal."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BartModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
    MarianConfig,
    MarianModel,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
)
from minitransformer.models.base import Model
from minitransformer.models.config import Config
from tests.tiny import as_variant, attention_of, perturb

Batch = dict[str, Tensor]

VOCABULARY = 31
FIRST_WORD = 4  # the ids before it have a role
THREE_CLASSES = {0: "no", 1: "maybe", 2: "yes"}

GPT2_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 17,
    "max_position_embeddings": 24,
    "hidden_dropout_prob": 0.0,
    "embedding_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "id2label": THREE_CLASSES,
}
BART_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_decoder_layers": 3,
    "num_attention_heads": 3,
    "num_decoder_attention_heads": 2,
    "intermediate_size": 17,
    "decoder_intermediate_size": 19,
    "max_position_embeddings": 24,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
MARIAN_SIZES = {
    **BART_SIZES,
    "hidden_act": "swish",
    "scale_embedding": True,
    "eos_token_id": 0,
    "pad_token_id": VOCABULARY - 1,
    "decoder_start_token_id": VOCABULARY - 1,
}
T5_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 12,
    "head_size": 5,
    "num_hidden_layers": 2,
    "num_decoder_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 17,
    "relative_attention_num_buckets": 6,
    "relative_attention_max_distance": 9,
    "hidden_dropout_prob": 0.0,
}
T5_1_1 = {
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "scale_decoder_outputs": False,
}

CLASSES: dict[str, tuple[type[Model], type[Config], dict]] = {
    "GPT2Model": (GPT2Model, GPT2Config, GPT2_SIZES),
    "GPT2LMHeadModel": (GPT2LMHeadModel, GPT2Config, GPT2_SIZES),
    "GPT2ForSequenceClassification": (GPT2ForSequenceClassification, GPT2Config, GPT2_SIZES),
    "BartModel": (BartModel, BartConfig, BART_SIZES),
    "BartForConditionalGeneration": (BartForConditionalGeneration, BartConfig, BART_SIZES),
    "BartForSequenceClassification": (BartForSequenceClassification, BartConfig, BART_SIZES),
    "MarianModel": (MarianModel, MarianConfig, MARIAN_SIZES),
    "MarianMTModel": (MarianMTModel, MarianConfig, MARIAN_SIZES),
    "T5Model": (T5Model, T5Config, T5_SIZES),
    "T5ForConditionalGeneration": (T5ForConditionalGeneration, T5Config, T5_SIZES),
    "T5 1.1": (T5ForConditionalGeneration, T5Config, T5_SIZES | T5_1_1),
}
CAUSAL = ["GPT2Model", "GPT2LMHeadModel"]
CLASSIFIERS = ["GPT2ForSequenceClassification", "BartForSequenceClassification"]
SEQ2SEQ = [name for name in CLASSES if name not in CAUSAL + CLASSIFIERS]
WRITERS = [
    "GPT2LMHeadModel",
    "BartForConditionalGeneration",
    "MarianMTModel",
    "T5ForConditionalGeneration",
    "T5 1.1",
]


def new(name: str, variant: str = "sdpa", **changes: object) -> Model:
    """A perturbed model in float64 and evaluation mode; `variant` is one of `VARIANTS`."""
    model_class, config_class, sizes = CLASSES[name]
    torch.manual_seed(0)  # the same weights, whatever was drawn before
    model = model_class(config_class(**{**sizes, **changes}), attention=attention_of(variant))
    return as_variant(perturb(model).double(), variant)


@functools.cache
def build(name: str, variant: str = "sdpa") -> Model:
    """The same, made once; not to be changed."""
    return new(name, variant)


def backbone_of(model: Model) -> Any:
    """The model under the head, or the model itself where it has none."""
    return getattr(model, "backbone", model)


def words(length: int, seed: int = 0) -> Tensor:
    """(T,) ids of tokens that have no role."""
    generator = torch.Generator().manual_seed(1000 * length + seed)
    return torch.randint(FIRST_WORD, VOCABULARY - 1, (length,), generator=generator)


def rows(count: int, length: int, seed: int = 0) -> Tensor:
    """(B, T) ids of tokens that have no role."""
    return torch.stack([words(length, seed + 100 * number) for number in range(count)])


def pad(
    texts: Sequence[Tensor], fill: int, *, left: bool = False, extra: int = 0
) -> tuple[Tensor, Tensor]:
    """Sequences padded to one length on one side, and their padding mask: (B, T) twice."""
    length = max(map(len, texts)) + extra
    filled = torch.full((len(texts), length), fill)
    mask = torch.zeros(len(texts), length, dtype=torch.int64)
    for number, text in enumerate(texts):
        where = slice(length - len(text), None) if left else slice(0, len(text))
        filled[number, where], mask[number, where] = text, 1
    return filled, mask


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    """Of every parameter; zeros where the loss does not depend on it."""
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, found, strict=True)
    ]


def assert_equal(a: object, b: object) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)

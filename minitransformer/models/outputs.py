"""What the models return.

B batch, T tokens, S key tokens (of an encoder-decoder: the source's), H heads, E hidden size,
V vocabulary, C classes.
"""

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor
from torch.export import register_dataclass

SomeClass = TypeVar("SomeClass")


def _registered(output_class: type[SomeClass]) -> type[SomeClass]:
    """Tell torch.export, vmap and the like how to take an output apart and put it together."""
    register_dataclass(output_class)
    return output_class


@dataclass(frozen=True, kw_only=True)
class Output:
    """What every model returns on request."""

    # What enters each layer, and what leaves the stack: (B, T, E) each.
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None  # each layer's (B, H, T, S)


@_registered
@dataclass(frozen=True, kw_only=True)
class EncoderOutput(Output):
    """What an encoder without a task head returns."""

    last_hidden_state: Tensor  # (B, T, E)
    pooler_output: Tensor | None = None  # (B, E), where the model has a pooler


@_registered
@dataclass(frozen=True, kw_only=True)
class MaskedLMOutput(Output):
    """What a model for masked language modelling returns."""

    logits: Tensor  # (B, T, V)
    loss: Tensor | None = None  # (), the mean over the labelled tokens, where labels were given
    num_supervised_tokens: Tensor | None = None  # (), how many those are


@_registered
@dataclass(frozen=True, kw_only=True)
class QuestionAnsweringOutput(Output):
    """What a model for extractive question answering returns."""

    start_logits: Tensor  # (B, T), of the answer's first token
    end_logits: Tensor  # (B, T), of its last token
    loss: Tensor | None = None  # (), the mean over the sequences, where positions were given


@_registered
@dataclass(frozen=True, kw_only=True)
class SequenceClassifierOutput(Output):
    """What a model for sequence classification returns."""

    logits: Tensor  # (B, C)
    loss: Tensor | None = None  # (), the mean over the labels, where there are any


@_registered
@dataclass(frozen=True, kw_only=True)
class TokenClassifierOutput(Output):
    """What a model for token classification returns."""

    logits: Tensor  # (B, T, C)
    loss: Tensor | None = None  # (), the mean over the labelled tokens, where labels were given


@_registered
@dataclass(frozen=True, kw_only=True)
class DecoderOutput(Output):
    """What a decoder without a task head returns."""

    last_hidden_state: Tensor  # (B, T, E)
    cross_attentions: tuple[Tensor, ...] | None = None  # each layer's (B, H, T, S), of the source


@_registered
@dataclass(frozen=True, kw_only=True)
class CausalLMOutput(Output):
    """What a decoder that predicts the next token returns."""

    logits: Tensor  # (B, T, V), at each position those of the token that comes next
    loss: Tensor | None = None  # (), the mean over the labelled tokens, where labels were given
    num_supervised_tokens: Tensor | None = None  # (), how many those are


@dataclass(frozen=True, kw_only=True)
class Seq2SeqOutput:
    """What every encoder-decoder returns."""

    encoder_last_hidden_state: Tensor  # (B, S, E)
    encoder_hidden_states: tuple[Tensor, ...] | None = None  # as in Output, (B, S, E)
    encoder_attentions: tuple[Tensor, ...] | None = None  # each layer's (B, H, S, S)
    decoder_hidden_states: tuple[Tensor, ...] | None = None  # (B, T, E)
    decoder_attentions: tuple[Tensor, ...] | None = None  # each layer's (B, H, T, T)
    cross_attentions: tuple[Tensor, ...] | None = None  # each layer's (B, H, T, S)


@_registered
@dataclass(frozen=True, kw_only=True)
class Seq2SeqModelOutput(Seq2SeqOutput):
    """What an encoder-decoder without a task head returns."""

    last_hidden_state: Tensor  # (B, T, E)


@_registered
@dataclass(frozen=True, kw_only=True)
class Seq2SeqLMOutput(Seq2SeqOutput):
    """What an encoder-decoder that generates text returns."""

    logits: Tensor  # (B, T, V), at each position those of the token that comes next
    loss: Tensor | None = None  # (), the mean over the labelled tokens, where labels were given
    num_supervised_tokens: Tensor | None = None  # (), how many those are


@_registered
@dataclass(frozen=True, kw_only=True)
class Seq2SeqSequenceClassifierOutput(Seq2SeqOutput):
    """What an encoder-decoder for sequence classification returns."""

    logits: Tensor  # (B, C)
    loss: Tensor | None = None  # (), the mean over the labels, where there are any

"""What the models return.

A field has a name, `output.logits` or `output["logits"]`, and a place, `output[0]`, as in Hugging
Face's outputs, so that `loss, logits = output[:2]` works.

B batch, T tokens, S key tokens (of an encoder-decoder: the source's), H heads, E hidden size,
V vocabulary, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import Tensor
from torch.export import register_dataclass

from minitransformer.names import shortened

# The places of the fields, in Hugging Face's order. Others can be had by name alone.
ORDER = (
    "loss",
    "last_hidden_state",
    "logits",
    "start_logits",
    "end_logits",
    "pooler_output",
    "hidden_states",
    "attentions",
    "decoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
    "encoder_last_hidden_state",
    "encoder_hidden_states",
    "encoder_attentions",
)

SomeClass = TypeVar("SomeClass")


def _registered(output_class: type[SomeClass]) -> type[SomeClass]:
    """Tell torch.export, vmap and the like how to take an output apart and put it together."""
    register_dataclass(output_class)
    return output_class


class Named:
    """Access by key and by position to the fields of an output that are not None.

    As in Hugging Face, iterating gives the names, so `dict(output)` works.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __getitem__(self, key: str | int | slice) -> Any:
        """A field by its name, or one or several by their places."""
        try:
            return self._by_name()[key] if isinstance(key, str) else self.to_tuple()[key]
        except (KeyError, IndexError):
            places = ", ".join(f"{place} {name!r}" for place, name in enumerate(self))
            given = f"a {type(self).__name__} has no {shortened(key)}; it has {places}"
            raise (KeyError if isinstance(key, str) else IndexError)(given) from None

    if not TYPE_CHECKING:  # a type checker knows the fields

        def __getattr__(self, name: str) -> Any:  # called for unknown names alone
            known = ", ".join(field.name for field in fields(self))
            raise AttributeError(f"a {type(self).__name__} has no {shortened(name)}, only {known}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self._by_name()

    def keys(self) -> list[str]:
        """The names of the fields that have a place and are not None, in their order."""
        return [name for name in ORDER if getattr(self, name, None) is not None]

    def values(self) -> list[Any]:
        """Their values."""
        return [getattr(self, name) for name in self]

    def items(self) -> list[tuple[str, Any]]:
        """Both."""
        return [(name, getattr(self, name)) for name in self]

    def to_tuple(self) -> tuple[Any, ...]:
        """The values, such as `(loss, logits)`, or `(logits,)` where no labels were given."""
        return tuple(self.values())

    def _by_name(self) -> dict[str, Any]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Output(Named):
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
class Seq2SeqOutput(Named):
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

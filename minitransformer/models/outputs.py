"""What the models return, and how hidden states and attention maps are collected.

B batch, T tokens, S key tokens (of an encoder-decoder: the source's), H heads, E hidden size,
V vocabulary, C classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minitransformer.layers.packing import PackedMask


@dataclass(frozen=True, kw_only=True)
class Output:
    """What every model returns if it is asked for it."""

    hidden_states: tuple[Tensor, ...] | None = None  # the embeddings, then each layer: (B, T, E)
    attentions: tuple[Tensor, ...] | None = None  # each layer: (B, H, T, S)


@dataclass(frozen=True, kw_only=True)
class EncoderOutput(Output):
    """What an encoder without a task head returns."""

    last_hidden_state: Tensor  # (B, T, E)
    pooler_output: Tensor | None = None  # (B, E), where the model has a pooler


@dataclass(frozen=True, kw_only=True)
class MaskedLMOutput(Output):
    """What a model for masked language modelling returns."""

    logits: Tensor  # (B, T, V)
    loss: Tensor | None = None  # (), the mean over the labelled tokens, where labels were given
    num_supervised_tokens: Tensor | None = None  # (), how many those are


@dataclass(frozen=True, kw_only=True)
class QuestionAnsweringOutput(Output):
    """What a model for extractive question answering returns."""

    start_logits: Tensor  # (B, T), of the answer's first token
    end_logits: Tensor  # (B, T), of its last token
    loss: Tensor | None = None  # (), the mean over the rows, where positions were given


@dataclass(frozen=True, kw_only=True)
class SequenceClassifierOutput(Output):
    """What a model for sequence classification returns."""

    logits: Tensor  # (B, C)
    loss: Tensor | None = None  # (), the mean over the labels, where there are any


@dataclass(frozen=True, kw_only=True)
class TokenClassifierOutput(Output):
    """What a model for token classification returns."""

    logits: Tensor  # (B, T, C)
    loss: Tensor | None = None  # (), the mean over the labelled tokens, where labels were given


@dataclass(frozen=True, kw_only=True)
class DecoderOutput(Output):
    """What a decoder without a task head returns."""

    last_hidden_state: Tensor  # (B, T, E)


@dataclass(frozen=True, kw_only=True)
class CausalLMOutput(Output):
    """What a decoder that guesses the next word returns."""

    logits: Tensor  # (B, T, V), at each place those of the word that comes after it
    loss: Tensor | None = None  # (), the mean over the labelled tokens, where labels were given
    num_supervised_tokens: Tensor | None = None  # (), how many those are


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What the decoder of an encoder-decoder asks: the source, encoded."""

    hidden: Tensor  # (B, S, E)
    attention_mask: Tensor | None  # (B, S) bool, True at real tokens; None where all are


@dataclass(frozen=True, kw_only=True)
class Seq2SeqOutput:
    """What every encoder-decoder returns."""

    encoder_last_hidden_state: Tensor  # (B, S, E)
    encoder_hidden_states: tuple[Tensor, ...] | None = None  # as in Output, (B, S, E)
    encoder_attentions: tuple[Tensor, ...] | None = None  # each layer: (B, H, S, S)
    decoder_hidden_states: tuple[Tensor, ...] | None = None  # (B, T, E)
    decoder_attentions: tuple[Tensor, ...] | None = None  # each layer: (B, H, T, T)
    cross_attentions: tuple[Tensor, ...] | None = None  # each layer: (B, H, T, S)


@dataclass(frozen=True, kw_only=True)
class Seq2SeqModelOutput(Seq2SeqOutput):
    """What an encoder-decoder without a task head returns."""

    last_hidden_state: Tensor  # (B, T, E)


@dataclass(frozen=True, kw_only=True)
class Seq2SeqLMOutput(Seq2SeqOutput):
    """What an encoder-decoder that writes text returns."""

    logits: Tensor  # (B, T, V), at each place those of the word that comes after it
    loss: Tensor | None = None  # (), the mean over the labelled tokens, where labels were given
    num_supervised_tokens: Tensor | None = None  # (), how many those are


@dataclass(frozen=True, kw_only=True)
class Seq2SeqSequenceClassifierOutput(Seq2SeqOutput):
    """What an encoder-decoder for sequence classification returns."""

    logits: Tensor  # (B, C)
    loss: Tensor | None = None  # (), the mean over the labels, where there are any


@dataclass
class Recording:
    """What :func:`recording` has seen so far, in the order of the layers; None: did not look."""

    hidden_states: list[Tensor] | None  # what entered, then each layer's
    attentions: list[Tensor] | None  # one map a layer
    cross_attentions: list[Tensor] | None = None  # of a decoder that has an encoder

    def fields(self) -> dict[str, Any]:
        """The fields of :class:`Output`."""
        return {
            "hidden_states": _as_tuple(self.hidden_states),
            "attentions": _as_tuple(self.attentions),
        }


@dataclass
class Seq2SeqRecording:
    """What was seen of an encoder and of its decoder."""

    encoder: Recording
    decoder: Recording
    encoder_last_hidden_state: Tensor

    def fields(self) -> dict[str, Any]:
        """The fields of :class:`Seq2SeqOutput`."""
        return {
            "encoder_last_hidden_state": self.encoder_last_hidden_state,
            "encoder_hidden_states": _as_tuple(self.encoder.hidden_states),
            "encoder_attentions": _as_tuple(self.encoder.attentions),
            "decoder_hidden_states": _as_tuple(self.decoder.hidden_states),
            "decoder_attentions": _as_tuple(self.decoder.attentions),
            "cross_attentions": _as_tuple(self.decoder.cross_attentions),
        }


@contextmanager
def recording(
    layers: nn.ModuleList,
    *,
    hidden_states: bool,
    attentions: bool,
    final: nn.Module | None = None,
) -> Iterator[Recording]:
    """Collect hidden states and attention maps of the forward passes inside the `with` block.

    Hooks listen at the layers and at their attention kernels, so no layer has to hand on what
    only a curious reader wants. Each layer has its self-attention at `layer.attention` and, in a
    decoder that has an encoder, the other at `layer.cross_attention`.

    Args:
        layers: of one stack.
        hidden_states, attentions: what to collect.
        final: what comes after the last layer, a norm, where there is one: the last hidden state
            is what it gives, as in Hugging Face.
    """
    record = Recording([] if hidden_states else None, None)
    every: list[Any] = [*layers]
    hooks = []
    if hidden_states:
        hooks += _listen_to_states(every, final, record)
    if attentions:
        record.attentions = []
        hooks += _listen_to_maps([layer.attention for layer in every], record.attentions)
    if attentions and hasattr(every[0], "cross_attention"):
        record.cross_attentions = []
        crossing = [layer.cross_attention for layer in every]
        hooks += _listen_to_maps(crossing, record.cross_attentions)
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()


def _listen_to_states(
    layers: list[Any], final: nn.Module | None, record: Recording
) -> list[RemovableHandle]:
    states = record.hidden_states
    assert states is not None
    mask: Any = None

    def keep_input(_layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        states.append(_padded(arguments[0], arguments[1]))

    def keep_output(_layer: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        nonlocal mask
        mask = arguments[1]
        states.append(_padded(output, mask))

    def replace_last(_norm: nn.Module, _arguments: tuple[Any, ...], output: Tensor) -> None:
        states[-1] = _padded(output, mask)

    hooks = [layers[0].register_forward_pre_hook(keep_input)]
    hooks += [layer.register_forward_hook(keep_output) for layer in layers]
    return hooks if final is None else [*hooks, final.register_forward_hook(replace_last)]


def _listen_to_maps(attentions: list[Any], maps: list[Tensor]) -> list[RemovableHandle]:
    def keep_map(kernel: Any, arguments: tuple[Tensor, ...], _output: Tensor) -> None:
        # Computed anew, so that the map is there under every kernel; before dropout.
        query, key, _value, *mask_and_bias = arguments
        maps.append(kernel.weights(query, key, *mask_and_bias))  # (B, H, T, S)

    return [attention.kernel.register_forward_hook(keep_map) for attention in attentions]


def _padded(hidden: Tensor, mask: Any) -> Tensor:
    """Packed rows with their padding, as they are collected: (1, N, E) to (B, T, E)."""
    return mask.queries.unpack(hidden) if isinstance(mask, PackedMask) else hidden


def _as_tuple(tensors: list[Tensor] | None) -> tuple[Tensor, ...] | None:
    return None if tensors is None else tuple(tensors)

"""What the models return, and how hidden states and attention maps are collected.

B batch, T tokens, S key tokens, H heads, E hidden size, V vocabulary,
C classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from minitransformer.layers.attention import attention_weights


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


@dataclass
class Recording:
    """What :func:`recording` has seen so far, in the order of the layers; None: did not look."""

    hidden_states: list[Tensor] | None  # what entered, then each layer's
    attentions: list[Tensor] | None  # one map a layer

    def fields(self) -> dict[str, Any]:
        """The fields of :class:`Output`."""
        return {
            "hidden_states": None if self.hidden_states is None else tuple(self.hidden_states),
            "attentions": None if self.attentions is None else tuple(self.attentions),
        }


@contextmanager
def recording(
    layers: nn.ModuleList, *, hidden_states: bool, attentions: bool
) -> Iterator[Recording]:
    """Collect hidden states and attention maps of the forward passes inside the `with` block.

    Hooks listen at the layers and at their attention kernels, so no layer has to hand on what
    only a curious reader wants. Each layer has its self-attention at `layer.attention`.
    """
    states: list[Tensor] = []
    maps: list[Tensor] = []

    def keep_input(_layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        states.append(arguments[0])

    def keep_output(_layer: nn.Module, _arguments: tuple[Tensor, ...], output: Tensor) -> None:
        states.append(output)

    def keep_map(_kernel: nn.Module, arguments: tuple[Tensor, ...], _output: Tensor) -> None:
        # Computed anew, so that the map is there under every kernel; before dropout.
        query, key, _value, mask = arguments
        maps.append(attention_weights(query, key, mask))  # (B, H, T, S)

    hooks = []
    if hidden_states:
        hooks.append(layers[0].register_forward_pre_hook(keep_input))
        hooks.extend(layer.register_forward_hook(keep_output) for layer in layers)
    if attentions:
        kernels: list[Any] = [layer.attention for layer in layers]
        hooks.extend(module.kernel.register_forward_hook(keep_map) for module in kernels)
    try:
        yield Recording(states if hidden_states else None, maps if attentions else None)
    finally:
        for hook in hooks:
            hook.remove()

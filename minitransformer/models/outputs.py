"""What the models return, and how hidden states and attention maps are collected.

B batch, T tokens, S key tokens, H heads, E hidden size, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from minitransformer.layers.attention import attention_weights


@dataclass(frozen=True, kw_only=True)
class EncoderOutput:
    """What an encoder without a task head returns."""

    last_hidden_state: Tensor  # (B, T, E)
    pooler_output: Tensor | None = None  # (B, E), where the model has a pooler
    hidden_states: tuple[Tensor, ...] | None = None  # the embeddings, then each layer: (B, T, E)
    attentions: tuple[Tensor, ...] | None = None  # each layer: (B, H, T, S)


@dataclass(frozen=True, kw_only=True)
class MaskedLMOutput:
    """What a model for masked language modelling returns."""

    logits: Tensor  # (B, T, V)
    loss: Tensor | None = None  # (), the mean over the supervised tokens, where labels were given
    num_supervised_tokens: Tensor | None = None  # (), how many those are
    hidden_states: tuple[Tensor, ...] | None = None  # the embeddings, then each layer: (B, T, E)
    attentions: tuple[Tensor, ...] | None = None  # each layer: (B, H, T, S)


@dataclass
class Recording:
    """What :func:`recording` has seen so far, in the order of the layers."""

    hidden_states: list[Tensor] = field(default_factory=list)  # what entered, then each layer's
    attentions: list[Tensor] = field(default_factory=list)  # one map a layer


@contextmanager
def recording(
    layers: nn.ModuleList, *, hidden_states: bool, attentions: bool
) -> Iterator[Recording]:
    """Collect hidden states and attention maps of the forward passes inside the `with` block.

    Hooks listen at the layers and at their attention kernels, so no layer has to hand on what
    only a curious reader wants. Each layer has its self-attention at `layer.attention`.
    """
    record = Recording()

    def keep_input(_layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        record.hidden_states.append(arguments[0])

    def keep_output(_layer: nn.Module, _arguments: tuple[Tensor, ...], output: Tensor) -> None:
        record.hidden_states.append(output)

    def keep_map(_kernel: nn.Module, arguments: tuple[Tensor, ...], _output: Tensor) -> None:
        # Computed anew, so that the map is there under every kernel; before dropout.
        query, key, _value, mask = arguments
        record.attentions.append(attention_weights(query, key, mask))  # (B, H, T, S)

    hooks = []
    if hidden_states:
        hooks.append(layers[0].register_forward_pre_hook(keep_input))
        hooks.extend(layer.register_forward_hook(keep_output) for layer in layers)
    if attentions:
        kernels: list[Any] = [layer.attention for layer in layers]
        hooks.extend(module.kernel.register_forward_hook(keep_map) for module in kernels)
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()

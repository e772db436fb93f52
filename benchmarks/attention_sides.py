"""The implementations of attention that `benchmarks/attention_cost.py` measures, and their input.

B batch, T tokens of the longest sequence, N tokens of all sequences, E hidden size, H heads,
D head size.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from minitransformer.fast import optimize
from minitransformer.fast.unpadding import UnpaddedMask, Unpadding
from minitransformer.fast.varlen_attention import varlen_attention
from minitransformer.layers.attention import causal_mask, padding_mask
from minitransformer.models.bert import BertConfig, BertModel


def ragged_lengths(batch: int, length: int) -> tuple[int, ...]:
    """As many tokens as full sequences have, in twice as many, spread evenly from 0 to `length`.

    The shortest comes first; one without tokens is left out.
    """
    # The sum of evenly spread lengths is a square: length * batch after the last of them.
    ends = [length * number * number // (4 * batch) for number in range(2 * batch + 1)]
    return tuple(sorted(end - start for start, end in pairwise(ends) if end > start))


@dataclass(frozen=True)
class Layout:
    """How N tokens are laid out: padded, (B, T, E), or unpadded, (1, N, E).

    Args:
        lengths: tokens of each sequence, the shortest first.
        is_unpadded: whether they are concatenated.
        device: of the tensors.
    """

    lengths: tuple[int, ...]
    is_unpadded: bool
    device: str

    @property
    def is_full(self) -> bool:
        """Whether all sequences are equally long."""
        return min(self.lengths) == max(self.lengths)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and their length in memory, padding included."""
        if self.is_unpadded:
            return 1, sum(self.lengths)
        return len(self.lengths), max(self.lengths)

    def real(self) -> Tensor:
        """(B, T) bool, True at real tokens, which padding follows."""
        positions = torch.arange(max(self.lengths), device=self.device)
        return positions < torch.tensor(self.lengths, device=self.device)[:, None]

    def mask(self, causal: bool) -> Any:
        """What our attention is given: None, a bool mask, or where each sequence begins."""
        if self.is_unpadded:
            unpadding = Unpadding(self.real())
            return UnpaddedMask(unpadding, unpadding, causal)
        padding = None if self.is_full else padding_mask(self.real())  # (B, 1, 1, T)
        if not causal:
            return padding
        length = max(self.lengths)
        triangle = causal_mask(torch.arange(length, device=self.device), length)  # (1, 1, T, T)
        return triangle if padding is None else padding & triangle

    def lay(self, tokens: Tensor) -> Tensor:
        """(N, E) to what a layer takes, with zeros at padding; unpadding sorts by length too."""
        if self.is_unpadded:
            return tokens[None]
        padded = tokens.new_zeros(*self.shape, tokens.shape[-1])
        padded[self.real()] = tokens
        return padded

    def pick(self, laid: Tensor) -> Tensor:
        """What a layer gives to (N, E)."""
        return laid[0] if self.is_unpadded else laid[self.real()]


@dataclass(frozen=True)
class Weights:
    """A checkpoint of one layer, and how it is to be loaded."""

    directory: Path
    hidden_size: int
    num_heads: int
    intermediate_size: int
    causal: bool
    dtype: torch.dtype
    device: str

    def save(self) -> None:
        """Write a BERT of one layer, all of its parameters perturbed.

        Else biases would be zero and all attention alike, and a wrong result would look right.
        """
        config = BertConfig(
            vocab_size=8,
            hidden_size=self.hidden_size,
            num_attention_heads=self.num_heads,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=1,
            max_position_embeddings=8,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        model = BertModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        model.save_pretrained(self.directory)

    def our_layer(self, kind: str) -> Any:
        """Our layer with one of the attention implementations."""
        model = BertModel.from_pretrained(
            self.directory, attention=kind, dtype=self.dtype, device=self.device
        )
        return model.layers[0]


@dataclass(frozen=True)
class Built:
    """An implementation with its weights.

    Args:
        attend: queries, keys, values and mask, (B, T, E) each, to (B, T, E): attention without its
            projections. The heads lie side by side, as projections give them.
        layer: hidden states and mask to (B, T, E): the whole encoder layer.
        parameters: of the layer.
        mask: of a layout, as a whole model would give it to its layers.
    """

    attend: Callable[..., Tensor] | None
    layer: Callable[..., Tensor]
    parameters: list[nn.Parameter]
    mask: Callable[[Layout], Any]


def ours(
    kind: str, weights: Weights, kernel: SDPBackend | None = None, optimized: bool = False
) -> Built:
    """Our layer; with one of PyTorch's kernels, where it is named, or optimized and unpadded."""
    layer = weights.our_layer(kind)
    if optimized:
        optimize(layer)

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
        query, key, value = map(layer.attention.split_heads, (query, key, value))
        if optimized:
            return varlen_attention(query, key, value, mask).transpose(1, 2).flatten(2)
        return layer.attention.attend(query, key, value, mask)[0].transpose(1, 2).flatten(2)

    def whole(hidden: Tensor, mask: Any) -> Tensor:
        return layer(hidden, mask)[0]

    def within(call: Callable[..., Tensor], *arguments: Any) -> Tensor:
        with nullcontext() if kernel is None else sdpa_kernel(kernel):
            return call(*arguments)

    return Built(
        partial(within, attend),
        partial(within, whole),
        list(layer.parameters()),
        lambda layout: layout.mask(weights.causal),
    )


def no_attention(weights: Weights) -> Built:
    """Our layer without the T^2 part.

    Instead of attention the sum of queries, keys and values, so that every projection gets a
    gradient.
    """
    layer = weights.our_layer("sdpa")
    layer.attention.attend = lambda query, key, value, *_, **__: (query + key + value, None)
    parameters = list(layer.parameters())
    return Built(None, lambda hidden, _: layer(hidden, None)[0], parameters, lambda _: None)


def theirs(kind: str, weights: Weights) -> Built:
    """transformers' layer, and the function that it calls for attention."""
    import transformers
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.bert import modeling_bert

    model: Any = transformers.BertModel.from_pretrained(
        weights.directory,
        attn_implementation=kind,
        is_decoder=weights.causal,  # which makes BERT causal
        dtype=weights.dtype,
    )
    layer = model.to(weights.device).eval().encoder.layer[0]
    itself = layer.attention.self
    function = ALL_ATTENTION_FUNCTIONS.get_interface(kind, modeling_bert.eager_attention_forward)

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
        heads = (
            tokens.unflatten(-1, (weights.num_heads, -1)).transpose(1, 2)
            for tokens in (query, key, value)
        )  # (B, H, T, D) each
        return function(itself, *heads, mask, dropout=0.0, scaling=itself.scaling)[0].flatten(2)

    def mask(layout: Layout) -> Any:
        """Eager attention adds it to the scores; sdpa takes a bool one, or sees to the triangle."""
        allowed = layout.mask(weights.causal and not (kind == "sdpa" and layout.is_full))
        if allowed is None or kind == "sdpa":
            return allowed
        zeros = torch.zeros_like(allowed, dtype=weights.dtype)
        return zeros.masked_fill(~allowed, torch.finfo(weights.dtype).min)

    return Built(attend, layer, list(layer.parameters()), mask)


@dataclass(frozen=True)
class Implementation:
    """A side.

    Args:
        name: of the side.
        build: loads it.
        is_ragged: whether it gets sequences of unequal length.
        is_unpadded: whether it gets them unpadded.
    """

    name: str
    build: Callable[[Weights], Built]
    is_ragged: bool = False
    is_unpadded: bool = False

    def layout(self, batch: int, length: int, device: str) -> Layout:
        """How it gets batch * length tokens."""
        lengths = ragged_lengths(batch, length) if self.is_ragged else (length,) * batch
        return Layout(lengths, self.is_unpadded, device)


OURS_SDPA, THEIRS_SDPA, NO_ATTENTION = "ours sdpa", "transformers sdpa", "no attention"
THEIRS_PADDED = "transformers sdpa, padded"
IMPLEMENTATIONS = [
    Implementation(NO_ATTENTION, no_attention),
    Implementation("ours eager", partial(ours, "eager")),
    Implementation(OURS_SDPA, partial(ours, "sdpa")),
    Implementation("sdpa: math", partial(ours, "sdpa", kernel=SDPBackend.MATH)),
    Implementation("transformers eager", partial(theirs, "eager")),
    Implementation(THEIRS_SDPA, partial(theirs, "sdpa")),
    Implementation(
        "ours optimized", partial(ours, "sdpa", optimized=True), is_ragged=True, is_unpadded=True
    ),
    Implementation("ours sdpa, padded", partial(ours, "sdpa"), is_ragged=True),
    Implementation(THEIRS_PADDED, partial(theirs, "sdpa"), is_ragged=True),
]

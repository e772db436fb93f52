"""The implementations of attention that `benchmarks/attention_cost.py` measures, and their input.

B batch, T tokens of the longest sequence, N tokens of all sequences, E hidden size, H heads, G
heads of keys and values, D head size.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial, reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from minitransformer.fast import optimize
from minitransformer.fast.unpadding import UnpaddedMask, Unpadding
from minitransformer.fast.varlen_attention import (
    padded_attention,
    simplified_mask,
    varlen_attention,
)
from minitransformer.layers.attention import causal_mask, get_attention, padding_mask
from minitransformer.models.bert import BertConfig, BertModel

# Queries (B, H, T, D), keys and values (B, G, T, D), mask and dropout to (B, H, T, D).
Attend = Callable[[Tensor, Tensor, Tensor, Any, float], Tensor]


def ragged_lengths(batch: int, length: int) -> tuple[int, ...]:
    """As many tokens as full sequences have, in twice as many, spread evenly from 0 to `length`.

    The shortest comes first; one without tokens is left out.
    """
    # The sum of evenly spread lengths is a square: length * batch after the last of them.
    ends = [length * number * number // (4 * batch) for number in range(2 * batch + 1)]
    return tuple(sorted(end - start for start, end in pairwise(ends) if end > start))


@dataclass(frozen=True)
class Layout:
    """How N tokens are laid out, padded, (B, T, E), or unpadded, (1, N, E), and who sees whom.

    Args:
        lengths: tokens of each sequence, the shortest first.
        is_unpadded: whether they are concatenated.
        device: of the tensors.
        causal: whether no token sees what comes after it.
        window: a token sees those that are less than so many tokens away; T: all.
    """

    lengths: tuple[int, ...]
    is_unpadded: bool
    device: str
    causal: bool
    window: int

    @property
    def is_full(self) -> bool:
        """Whether all sequences are equally long."""
        return min(self.lengths) == max(self.lengths)

    @property
    def is_windowed(self) -> bool:
        """Whether the window hides something."""
        return self.window < max(self.lengths)

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

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a query at one position sees a key at another, padding aside: bool."""
        near = (query - key).abs() < self.window
        return near & (key <= query) if self.causal else near

    def mask(self) -> Tensor | None:
        """(B or 1, 1, T or 1, T) bool, what our models give to attention; None: all see all."""
        length = max(self.lengths)
        positions = torch.arange(length, device=self.device)
        masks = [] if self.is_full else [padding_mask(self.real())]
        if self.is_windowed:
            masks.append(self.sees(positions[:, None], positions)[None, None])
        elif self.causal:
            masks.append(causal_mask(positions, length))
        return reduce(operator.and_, masks) if masks else None

    def lay(self, tokens: Tensor) -> Tensor:
        """(N, E) to what a layer takes, with zeros at padding; unpadding sorts by length too."""
        if self.is_full or self.is_unpadded:
            return tokens.unflatten(0, self.shape)
        padded = tokens.new_zeros(*self.shape, tokens.shape[-1])
        padded[self.real()] = tokens
        return padded

    def pick(self, laid: Tensor) -> Tensor:
        """What a layer gives to (N, E)."""
        is_dense = self.is_full or self.is_unpadded
        return laid.flatten(0, 1) if is_dense else laid[self.real()]


@dataclass(frozen=True)
class Weights:
    """A checkpoint of one layer, and how it is to be loaded."""

    directory: Path
    hidden_size: int
    num_heads: int
    intermediate_size: int
    causal: bool
    dropout: float
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
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
        )
        model = BertModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        model.save_pretrained(self.directory)

    def our_layer(self, kind: str = "sdpa") -> Any:
        """Our layer with one of the attention implementations."""
        model = BertModel.from_pretrained(
            self.directory, attention=kind, dtype=self.dtype, device=self.device
        )
        return model.layers[0]


class Built(NamedTuple):
    """An implementation with its weights.

    Attributes:
        attend: attention without its projections; None: there is none.
        layer: hidden states (B, T, E) and mask to the same, or to a tuple that begins with it.
        mask: of a layout, what both are given; made before the clock starts.
    """

    attend: Attend | None
    layer: nn.Module
    mask: Callable[[Layout], Any] = Layout.mask


def repeat_heads(query: Tensor, *others: Tensor) -> list[Tensor]:
    """Keys and values (B, G, T, D), each repeated for the queries that share it: (B, H, T, D)."""
    times = query.shape[1] // others[0].shape[1]
    return [other.repeat_interleave(times, dim=1) if times > 1 else other for other in others]


def ours(kind: str, weights: Weights) -> Built:
    """Our layer as it is loaded."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any, dropout: float) -> Tensor:
        key, value = repeat_heads(query, key, value)
        return get_attention(kind)(query, key, value, mask, dropout=dropout)[0]

    return Built(attend, weights.our_layer(kind))


def optimized(weights: Weights) -> Built:
    """Our layer optimized; unpadded sequences get no mask, but where each begins."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any, dropout: float) -> Tensor:
        if isinstance(mask, UnpaddedMask):
            return varlen_attention(query, key, value, mask, dropout=dropout)
        key, value = repeat_heads(query, key, value)
        simple, causal = simplified_mask(mask, query.shape[2])
        return padded_attention(query, key, value, simple, dropout=dropout, causal=causal)

    def mask(layout: Layout) -> Any:
        unpadding = Unpadding(layout.real()) if layout.is_unpadded else None
        return UnpaddedMask(unpadding, unpadding, layout.causal) if unpadding else layout.mask()

    return Built(attend, optimize(weights.our_layer()), mask)


def with_function(attend: Attend, mask: Callable[[Layout], Any], weights: Weights) -> Built:
    """Our layer with another function in the place of attention."""
    layer = weights.our_layer()
    layer.attention.attend = lambda query, key, value, mask, bias, scale, dropout, _: (
        attend(query, key, value, mask, dropout),
        None,
    )
    return Built(attend, layer, mask)


def no_attention(weights: Weights) -> Built:
    """Our layer without the T^2 part.

    Instead of attention the sum of queries, keys and values, so that every projection gets a
    gradient.
    """
    built = with_function(lambda query, key, value, *_: query + key + value, Layout.mask, weights)
    return Built(None, built.layer, lambda _: None)


def kernel(backend: SDPBackend, weights: Weights) -> Built:
    """One of PyTorch's kernels, told that attention is causal instead of given a mask."""

    def mask(layout: Layout) -> dict[str, Any]:
        if layout.causal and layout.is_full and not layout.is_windowed:
            return {"is_causal": True}
        return {"attn_mask": layout.mask()}

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any, dropout: float) -> Tensor:
        groups = query.shape[1] != key.shape[1]
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(
                query, key, value, dropout_p=dropout, enable_gqa=groups, **mask
            )

    return with_function(attend, mask, weights)


@cache
def compiled_flex_attention() -> Any:
    """FlexAttention, which is fast when it is compiled: for each number of heads once."""
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.config.recompile_limit = 64
    return torch.compile(flex_attention, dynamic=True)


def flex(weights: Weights) -> Built:
    """FlexAttention, which skips blocks of keys that no query of a block sees."""

    def mask(layout: Layout) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask  # which takes seconds

        if not (layout.causal or layout.is_windowed):
            return None
        sees, length = layout.sees, max(layout.lengths)
        return create_block_mask(
            lambda batch, head, query, key: sees(query, key),
            None,
            None,
            length,
            length,
            layout.device,
        )

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any, dropout: float) -> Tensor:
        if dropout:
            raise NotImplementedError("FlexAttention has no dropout")
        groups = query.shape[1] != key.shape[1]
        return compiled_flex_attention()(query, key, value, block_mask=mask, enable_gqa=groups)

    return with_function(attend, mask, weights)


def varlen(weights: Weights) -> Built:
    """torch.nn.attention.varlen: FlashAttention over concatenated sequences."""
    from torch.nn.attention.varlen import varlen_attn

    def mask(layout: Layout) -> Any:
        ends = torch.tensor([0, *layout.lengths], device=layout.device).cumsum(0).int()
        back = layout.window - 1 if layout.is_windowed else -1
        return ends, max(layout.lengths), (back, 0 if layout.causal else back)

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any, dropout: float) -> Tensor:
        if dropout:
            raise NotImplementedError("varlen_attn has no dropout")
        ends, length, window = mask
        q, k, v = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
        groups = query.shape[1] != key.shape[1]
        attended: Any = varlen_attn(
            q, k, v, ends, ends, length, length, window_size=window, enable_gqa=groups
        )  # (N, H, D)
        return attended.unflatten(0, (query.shape[0], -1)).transpose(1, 2)

    return with_function(attend, mask, weights)


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

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any, dropout: float) -> Tensor:
        scale = itself.scaling
        found = function(itself, query, key, value, mask, dropout=dropout, scaling=scale)[0]
        return found.transpose(1, 2)

    def mask(layout: Layout) -> Any:
        """Eager attention adds it to the scores; sdpa takes a bool one, or sees to the triangle."""
        is_own = kind == "sdpa" and layout.is_full and not layout.is_windowed
        allowed = None if is_own else layout.mask()
        if allowed is None or kind == "sdpa":
            return allowed
        zeros = torch.zeros_like(allowed, dtype=weights.dtype)
        return zeros.masked_fill(~allowed, torch.finfo(weights.dtype).min)

    return Built(attend, layer, mask)


@dataclass(frozen=True)
class Implementation:
    """A side.

    Args:
        name: of the side.
        build: loads it.
        is_predicted: whether its time and memory are.
        is_ragged: whether it gets sequences of unequal length.
        is_unpadded: whether it gets them unpadded.
    """

    name: str
    build: Callable[[Weights], Built]
    is_predicted: bool = False
    is_ragged: bool = False
    is_unpadded: bool = False

    def layout(
        self, batch: int, length: int, device: str, causal: bool = False, window: int | None = None
    ) -> Layout:
        """How it gets batch * length tokens."""
        lengths = ragged_lengths(batch, length) if self.is_ragged else (length,) * batch
        return Layout(lengths, self.is_unpadded, device, causal, window or length)


OURS_SDPA, THEIRS_SDPA, NO_ATTENTION = "ours sdpa", "transformers sdpa", "no attention"
THEIRS_PADDED = "transformers sdpa, padded"
IMPLEMENTATIONS = [
    Implementation(NO_ATTENTION, no_attention, is_predicted=True),
    Implementation("ours eager", partial(ours, "eager"), is_predicted=True),
    Implementation(OURS_SDPA, partial(ours, "sdpa"), is_predicted=True),
    Implementation("ours optimized", optimized),
    Implementation("sdpa: math", partial(kernel, SDPBackend.MATH)),
    Implementation("sdpa: flash", partial(kernel, SDPBackend.FLASH_ATTENTION), is_predicted=True),
    Implementation("sdpa: efficient", partial(kernel, SDPBackend.EFFICIENT_ATTENTION)),
    Implementation("sdpa: cudnn", partial(kernel, SDPBackend.CUDNN_ATTENTION)),
    Implementation("flex", flex),
    Implementation("varlen_attn", varlen),
    Implementation("transformers eager", partial(theirs, "eager")),
    Implementation(THEIRS_SDPA, partial(theirs, "sdpa")),
    Implementation("ours optimized, unpadded", optimized, is_ragged=True, is_unpadded=True),
    Implementation("ours sdpa, padded", partial(ours, "sdpa"), is_ragged=True),
    Implementation(THEIRS_PADDED, partial(theirs, "sdpa"), is_ragged=True),
]
# Functions that are not bound to the sizes of the layer: for other heads, and for windows.
FREE = [one.name for one in IMPLEMENTATIONS[1:10]]

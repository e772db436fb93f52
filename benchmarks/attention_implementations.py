"""Who computes attention, and on what: the rows of `benchmarks/attention_cost.py`.

B rows, T tokens of the longest row, N tokens of all rows, E hidden size, H heads, D head size.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.arrangements import Arrangement, FullRows, PaddedRows, UnpaddedRows
from benchmarks.attention_formulas import Sizes
from minitransformer.fast import optimize
from minitransformer.fast.unpadding import UnpaddedMask
from minitransformer.fast.varlen_attention import varlen_attention
from minitransformer.layers.attention import causal_mask
from minitransformer.models.bert import BertConfig, BertModel


@dataclass(frozen=True)
class Built:
    """An implementation with its weights.

    Args:
        attend: queries, keys, values and mask, (B, T, E) each, to (B, T, E): attention without its
            projections. The heads lie side by side, as projections give them.
        layer: hidden states and mask to (B, T, E): the whole encoder layer.
        parameters: of the layer.
    """

    attend: Callable[..., Tensor] | None
    layer: Callable[..., Tensor]
    parameters: list[nn.Parameter]


@dataclass(frozen=True)
class Weights:
    """A checkpoint of one layer, and how it is to be loaded."""

    directory: Path
    sizes: Sizes
    causal: bool
    dtype: torch.dtype
    device: str


@dataclass(frozen=True)
class Implementation:
    """A row.

    Args:
        name: of the row.
        build: loads it.
        arrange: how tokens lie for it.
        fused: whether (T, T) weights never go to memory, as far as is known before it runs.
    """

    name: str
    build: Callable[[Weights], Built]
    arrange: Callable[[int, int, str], Arrangement] = FullRows
    fused: bool = True


def save_weights(sizes: Sizes, directory: Path) -> None:
    """Write a BERT of one layer, every number of it moved from where it is drawn.

    Else biases would be zero and all attention alike, and a wrong result would look right.
    """
    config = BertConfig(
        vocab_size=8,
        hidden_size=sizes.hidden,
        num_attention_heads=sizes.heads,
        num_hidden_layers=1,
        intermediate_size=sizes.intermediate,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(directory)


def our_layer(kind: str, weights: Weights) -> Any:
    """Our layer with one of the attention implementations."""
    model = BertModel.from_pretrained(
        weights.directory, attention=kind, dtype=weights.dtype, device=weights.device
    )
    return model.layers[0]


def ours(kind: str, weights: Weights) -> Built:
    """Our plain layer with one of the attention implementations."""
    layer = our_layer(kind, weights)
    attention, masks = layer.attention, OurMasks(weights)

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
        heads = map(attention.split_heads, (query, key, value))
        attended, _ = attention.attend(*heads, masks.whole(mask, query.shape[1]))
        return attended.transpose(1, 2).flatten(2)  # (B, T, E)

    def whole(hidden: Tensor, mask: Any) -> Tensor:
        return layer(hidden, masks.whole(mask, hidden.shape[1]))[0]

    return Built(attend, whole, list(layer.parameters()))


def ours_optimized(weights: Weights) -> Built:
    """Our layer as `optimize` leaves it, on unpadded rows."""
    layer = optimize(our_layer("sdpa", weights))

    @lru_cache(maxsize=1)  # made once for all layers, as in a whole model
    def told(mask: UnpaddedMask) -> UnpaddedMask:
        """The mask of these rows, causal where attention is."""
        return UnpaddedMask(mask.queries, mask.keys, weights.causal)

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
        query, key, value = map(layer.attention.split_heads, (query, key, value))
        attended = varlen_attention(query, key, value, told(mask))
        return attended.transpose(1, 2).flatten(2)  # (1, N, E)

    def whole(hidden: Tensor, mask: Any) -> Tensor:
        return layer(hidden, told(mask))[0]

    return Built(attend, whole, list(layer.parameters()))


def without_attention(weights: Weights) -> Built:
    """Our layer without the T^2 part: every token gathers its own value alone."""
    layer = our_layer("sdpa", weights)
    layer.attention.attend = own_value
    return Built(None, lambda hidden, mask: layer(hidden, mask)[0], list(layer.parameters()))


def own_value(
    query: Tensor, key: Tensor, value: Tensor, *_: Any, **_settings: Any
) -> tuple[Tensor, None]:
    """In place of attention; the sum, so that every projection gets a gradient: (B, H, T, D)."""
    return query + key + value, None


def within(context: Callable[[], AbstractContextManager], build: Callable[[Weights], Built]) -> Any:
    """A build whose calls run within a context."""

    def wrap(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapped(*arguments: Any) -> Tensor:
            with context():
                return call(*arguments)

        return wrapped

    def build_within(weights: Weights) -> Built:
        built = build(weights)
        assert built.attend is not None
        return Built(wrap(built.attend), wrap(built.layer), built.parameters)

    return build_within


def theirs(kind: str, weights: Weights) -> Built:
    """transformers' layer, and the function that it calls for attention."""
    import transformers
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.bert import modeling_bert

    model: Any = transformers.BertModel.from_pretrained(
        weights.directory,
        attn_implementation=kind,
        is_decoder=weights.causal,  # which is how BERT is told to be causal
        dtype=weights.dtype,
    )
    layer = model.to(weights.device).eval().encoder.layer[0]
    itself = layer.attention.self
    function = ALL_ATTENTION_FUNCTIONS.get_interface(kind, modeling_bert.eager_attention_forward)
    masks = TheirMasks(weights, kind)

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
        heads = (
            tokens.unflatten(-1, (weights.sizes.heads, -1)).transpose(1, 2)  # (B, H, T, D)
            for tokens in (query, key, value)
        )
        mask = masks.whole(mask, query.shape[1])
        gathered, _ = function(itself, *heads, mask, dropout=0.0, scaling=itself.scaling)
        return gathered.flatten(2)  # (B, T, E)

    def whole(hidden: Tensor, mask: Any) -> Tensor:
        return layer(hidden, masks.whole(mask, hidden.shape[1]))

    return Built(attend, whole, list(layer.parameters()))


class OurMasks:
    """The masks that our model would hand to its layers, each made once, as there."""

    def __init__(self, weights: Weights) -> None:
        self.causal = weights.causal
        self.dtype, self.device = weights.dtype, weights.device
        self.padding: Any = None  # what the last one was made of, and it
        self.joined: Any = None

    def whole(self, mask: Any, length: int) -> Any:
        """The mask of padding, or None, joined with the triangle where attention is causal."""
        if not self.causal:
            return mask
        if self.joined is None or self.padding is not mask or self.joined.shape[-1] != length:
            triangle = causal_mask(torch.arange(length, device=self.device), length)  # (1, 1, T, T)
            joined = triangle if mask is None else mask & triangle  # (B or 1, 1, T, T)
            self.padding, self.joined = mask, self.as_taken(joined)
        return self.joined

    def as_taken(self, mask: Tensor) -> Tensor:
        """The bool mask as attention takes it."""
        return mask


class TheirMasks(OurMasks):
    """The masks that their model would hand to its layers.

    Their eager attention adds a mask to the scores; their sdpa takes a bool one, and none at all
    where it is told to be causal and nothing is padded.
    """

    def __init__(self, weights: Weights, kind: str) -> None:
        super().__init__(weights)
        self.added = kind == "eager"

    def whole(self, mask: Any, length: int) -> Any:
        """As ours, but None where sdpa is told to be causal and nothing is padded."""
        return mask if mask is None and not self.added else super().whole(mask, length)

    def as_taken(self, mask: Tensor) -> Tensor:
        """The bool mask as attention takes it."""
        return self.numbers(mask) if self.added else mask

    def numbers(self, mask: Tensor) -> Tensor:
        """0 where attention is allowed, and the lowest number elsewhere."""
        zeros = torch.zeros_like(mask, dtype=self.dtype)
        return zeros.masked_fill(~mask, torch.finfo(self.dtype).min)


OURS_SDPA, THEIRS_SDPA, NO_ATTENTION = "ours sdpa", "transformers sdpa", "no attention"
THEIRS_PADDED = "transformers sdpa, padded"
# PyTorch's kernels by name; which of them a device has is found out by trying.
NAMED = {
    "sdpa: math": SDPBackend.MATH,
    "sdpa: flash": SDPBackend.FLASH_ATTENTION,
    "sdpa: efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa: cudnn": SDPBackend.CUDNN_ATTENTION,
}
IMPLEMENTATIONS = [
    Implementation(NO_ATTENTION, without_attention),
    Implementation("ours eager", partial(ours, "eager"), fused=False),
    Implementation(OURS_SDPA, partial(ours, "sdpa")),
    *(
        Implementation(
            name,
            within(partial(sdpa_kernel, backend), partial(ours, "sdpa")),
            fused=backend != SDPBackend.MATH,
        )
        for name, backend in NAMED.items()
    ),
    Implementation("transformers eager", partial(theirs, "eager"), fused=False),
    Implementation(THEIRS_SDPA, partial(theirs, "sdpa")),
    Implementation("ours optimized", ours_optimized, UnpaddedRows),
    Implementation("ours sdpa, padded", partial(ours, "sdpa"), PaddedRows),
    Implementation(THEIRS_PADDED, partial(theirs, "sdpa"), PaddedRows),
]

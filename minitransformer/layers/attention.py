"""Attention ("Attention Is All You Need", section 3.2): the formula, its masks, several heads.

Masks are bool, True = attend, broadcastable to (B, H, T, S); they combine with `&`.

B batch, T query tokens, S key tokens, H heads, D head size, E hidden size; in cross-attention
R = B * K decoded sequences, K of each source (1, unless beam search decodes several).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.layers.kv_cache import KeyValues


def boolean_mask(attention_mask: Tensor | None, input_ids: Tensor) -> Tensor:
    """The padding mask as bool, (B, T), True at real tokens: everywhere if there is none."""
    return (torch.ones_like(input_ids) if attention_mask is None else attention_mask).bool()


def padding_mask(attention_mask: Tensor) -> Tensor:
    """(B, S) bool, True at real tokens, to (B, 1, 1, S): no query attends to padding."""
    return attention_mask[:, None, None, :]


def causal_mask(query_positions: Tensor, num_keys: int) -> Tensor:
    """(1, 1, T, S) bool: queries at positions (T,) attend to the keys up to their own position.

    Args:
        query_positions: int64; 0, 1, 2, ... without a cache, the last T of the S with one.
        num_keys: S.
    """
    keys = torch.arange(num_keys, device=query_positions.device)  # (S,)
    return (keys <= query_positions[:, None])[None, None]  # (1, 1, T, S)


def attention_weights(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(Q K^T * scale + bias), equation 1: how much each query takes from each key.

    A query whose keys are all masked has weights of zero: it takes nothing.

    Args:
        query: (B, H, T, D).
        key: (B, H, S, D).
        mask: bool, broadcastable to (B, H, T, S), True = attend.
        bias: added to the scores, broadcastable to (B, H, T, S): T5's relative positions.
        scale: None stands for 1 / sqrt(D).

    Returns:
        (B, H, T, S), each query's weights a distribution over the keys it may attend to.
    """
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)  # (B, H, T, S), as Q K^T * scale
    if bias is not None:
        scores = scores + bias
    if mask is None:
        return scores.softmax(dim=-1)
    # -inf fits every dtype and gives a weight of exactly zero. The softmax over nothing but -inf
    # is NaN, which the second fill turns into zeros, in the gradient as well.
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1).masked_fill(~mask, 0.0)


def eager_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    output_attentions: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The formula as the paper writes it. Dropout falls on the weights, as in the original code.

    Takes queries (B, H, T, D), keys and values (B, H, S, D); gives (B, H, T, D) and the weights,
    (B, H, T, S), as they were before dropout.
    """
    weights = attention_weights(query, key, mask, bias, scale)  # (B, H, T, S)
    attended = F.dropout(weights, dropout) @ value  # (B, H, T, D); `dropout` is 0 in evaluation
    return attended, weights if output_attentions else None


def sdpa_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    output_attentions: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The same numbers from PyTorch, which need not keep the (B, H, T, S) weights in memory."""
    attn_mask = mask
    if bias is not None:  # PyTorch takes either a bool mask or numbers to add to the scores
        attn_mask = bias if mask is None else bias.masked_fill(~mask, -math.inf)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask, dropout, scale=scale)
    # If they are asked for, the weights are computed once more, by the formula.
    weights = attention_weights(query, key, mask, bias, scale) if output_attentions else None
    return attended, weights


ATTENTION_IMPLEMENTATIONS: dict[str, Callable[..., tuple[Tensor, Tensor | None]]] = {
    "eager": eager_attention,
    "sdpa": sdpa_attention,
}


def get_attention(name: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention implementation of that name.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if name not in ATTENTION_IMPLEMENTATIONS:
        known = sorted(ATTENTION_IMPLEMENTATIONS)
        fix = "; 'packed' is now optimize(model)" if name == "packed" else ""
        raise ValueError(f"attention={name!r:.200} is unknown; choose one of {known}{fix}")
    return ATTENTION_IMPLEMENTATIONS[name]


class MultiHeadAttention(nn.Module):
    """H attentions of size D side by side, each over its own projection of the tokens (3.2.2).

    Args:
        hidden_size: E.
        num_heads: H, which divides E. With `head_size` it need not.
        dropout: probability of dropping a weight while training.
        attention: the implementation, "eager" or "sdpa".
        head_size: D, E / H by default.
        bias: whether the four projections have one; T5's have none.
        scale: factor of the scores; None stands for 1 / sqrt(D).

    Raises:
        ValueError: H does not divide E, or the implementation is unknown.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        dropout: float = 0.0,
        attention: str = "sdpa",
        *,
        head_size: int | None = None,
        bias: bool = True,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        if head_size is None and hidden_size % num_heads:
            raise ValueError(
                f"hidden_size={hidden_size} is not a multiple of num_attention_heads={num_heads}"
            )
        inner_size = hidden_size if head_size is None else num_heads * head_size  # H * D
        self.num_heads = num_heads
        self.dropout = dropout
        self.scale = scale
        self.attend = get_attention(attention)
        self.build_projections(hidden_size, inner_size, bias)
        self.output = nn.Linear(inner_size, hidden_size, bias=bias)

    def build_projections(self, hidden_size: int, inner_size: int, bias: bool) -> None:
        """Make the projections to queries, keys and values."""
        self.query = nn.Linear(hidden_size, inner_size, bias=bias)
        self.key = nn.Linear(hidden_size, inner_size, bias=bias)
        self.value = nn.Linear(hidden_size, inner_size, bias=bias)

    def forward(
        self,
        hidden: Tensor,
        context: Tensor,
        mask: Tensor | None,
        *,
        bias: Tensor | None = None,
        cache: KeyValues | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Each token takes from those that it attends to: gives (B, T, E).

        With `output_attentions` also the weights before dropout, (B, H, T, S), else None.

        Args:
            hidden: (B, T, E), the tokens that make the queries.
            context: (B, S, E), those that make keys and values: in self-attention `hidden` itself.
            mask: bool, broadcastable to (B, H, T, S), True = attend.
            bias: added to the scores, broadcastable to (B, H, T, S).
            cache: keys and values of earlier tokens, to which those of `context` are added.
            output_attentions: whether the weights are returned.
        """
        query, key, value = self.project(hidden, context)  # (B, H, T, D), (B, H, S, D) twice
        if cache is not None:
            key, value = cache.update(key, value)
        return self.attend_and_merge(query, key, value, mask, bias, output_attentions)

    def project(self, hidden: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of (B, T, E), keys and values of (B, S, E), split into heads."""
        query = self.split_heads(self.query(hidden))  # (B, H, T, D)
        key = self.split_heads(self.key(context))  # (B, H, S, D)
        value = self.split_heads(self.value(context))  # (B, H, S, D)
        return query, key, value

    def split_heads(self, projected: Tensor) -> Tensor:
        """(B, T, H * D) to (B, H, T, D)."""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def attend_and_merge(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        bias: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend in every head and merge them: (B, T, E); with `output_attentions`, weights too."""
        dropout = self.dropout if self.training else 0.0
        attended, weights = self.attend(
            query, key, value, mask, bias, self.scale, dropout, output_attentions
        )  # (B, H, T, D), (B, H, T, S)
        merged = attended.transpose(1, 2).flatten(2)  # (B, T, H * D)
        return self.output(merged), weights


class FusedSelfAttention(MultiHeadAttention):
    """Self-attention with queries, keys and values from one matrix, as GPT-2 stores them."""

    def build_projections(self, hidden_size: int, inner_size: int, bias: bool) -> None:
        """Make the one projection to queries, keys and values."""
        self.query_key_value = nn.Linear(hidden_size, 3 * inner_size, bias=bias)

    def project(self, hidden: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of (B, T, E), split into heads."""
        assert context is hidden, "one matrix serves self-attention only"
        projected = self.query_key_value(hidden)  # (B, T, 3 * H * D)
        query, key, value = map(self.split_heads, projected.chunk(3, dim=-1))
        return query, key, value  # (B, H, T, D) each


class CrossAttention(MultiHeadAttention):
    """A decoder's tokens attend to the encoder's ("encoder-decoder attention", 3.2.3).

    The encoder's output stays the same while the decoder generates, so that with a `cache` its keys
    and values are computed once. In beam search K sequences, `per_source`, are decoded from one
    source: those of source b are K b to K b + K - 1.
    """

    def forward(
        self,
        hidden: Tensor,
        context: Tensor,
        mask: Tensor | None,
        *,
        bias: Tensor | None = None,
        cache: KeyValues | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Each token of the decoder attends to the tokens of the encoder: gives (R, T, E).

        With `output_attentions` also the weights before dropout, (R, H, T, S), else None.

        Args:
            hidden: (R, T, E), the decoder's tokens.
            context: (B, S, E), the encoder's.
            mask: (B, 1, 1, S) bool.
            bias: as in :class:`MultiHeadAttention`; no family has one here.
            cache: the keys and values of `context`, once they are known.
            output_attentions: whether the weights are returned.

        Raises:
            ValueError: the cache belongs to another source.
        """
        query = self.split_heads(self.query(hidden))  # (R, H, T, D)
        key, value = self.keys_and_values(context, cache)  # (B, H, S, D) twice
        # Not len(), which would fix the batch size in an exported or compiled program.
        per_source = query.shape[0] // key.shape[0]  # K
        if per_source > 1:
            key = key.repeat_interleave(per_source, dim=0)  # (R, H, S, D)
            value = value.repeat_interleave(per_source, dim=0)  # (R, H, S, D)
            mask = None if mask is None else mask.repeat_interleave(per_source, dim=0)
        return self.attend_and_merge(query, key, value, mask, bias, output_attentions)

    def keys_and_values(self, context: Tensor, cache: KeyValues | None) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's tokens, (B, H, S, D) each, cached ones if there are."""
        if cache is not None and cache.length:
            if cache.source is not context:  # identity: comparing the values would take too long
                raise ValueError("the cache belongs to another source; start with a new one")
            return cache.keys, cache.values
        key = self.split_heads(self.key(context))  # (B, H, S, D)
        value = self.split_heads(self.value(context))  # (B, H, S, D)
        if cache is not None:
            key, value = cache.update(key, value)
            cache.source = context
        return key, value

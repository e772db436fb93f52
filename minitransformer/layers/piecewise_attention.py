"""Attention with dropout on its weights, on a CPU, a few rows at a time.

PyTorch's fast kernel for the CPU has no dropout: with it, PyTorch computes the formula over the
whole batch, and every pass reads and writes B H T S numbers from memory. Here the formula is
computed for as many rows or heads as stay in the cache, and again for the gradients instead of
being kept ("FlashAttention", Dao et al. 2022, section 3.1: recomputation). What is kept is which
weights were dropped, a byte each.

B batch, H heads, T query tokens, S key tokens, D head size.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minitransformer.layers.attention import attention_weights
from minitransformer.layers.dropout import kept

_IN_CACHE = 2**19  # weights that are computed at a time: 2 MB of float32

Piece = tuple[slice, slice]  # rows, heads


def piecewise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scale: float | None = None,
) -> Tensor:
    """dropout(softmax(Q K^T * scale)) V.

    Args:
        query: (B, H, T, D).
        key, value: (B, H, S, D).
        mask: bool, broadcastable to (B, H, T, S), True = attend, or None.
        dropout: probability of dropping a weight; above 0.
        scale: of the products; None stands for 1 / sqrt(D).

    Returns:
        (B, H, T, D).
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
    return _PiecewiseAttention.apply(query, key, value, mask, dropout, scale)


class _PiecewiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        dropout: float,
        scale: float,
    ) -> Tensor:
        shape = (*query.shape[:3], key.shape[2])
        gathered = _room(query, value.shape[-1])
        kept_ones = []
        for piece in pieces(shape):
            q, k, v = (_part(tensor, piece) for tensor in (query, key, value))  # (P, T, D)
            weights = attention_weights(q, k, _mask_part(mask, piece, shape), scale=scale)
            keep, keep_scale = kept(weights.shape, dropout)  # (P, T, S)
            weights.mul_(keep.to(weights.dtype))
            _put(gathered, piece, (weights @ v).mul_(keep_scale))
            kept_ones.append(keep)
        context.save_for_backward(query, key, value, mask, gathered, *kept_ones)
        context.scale, context.keep_scale = scale, keep_scale
        return gathered

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, gathered, *kept_ones = context.saved_tensors
        shape = (*query.shape[:3], key.shape[2])
        for_query, for_key, for_value = _room(query), _room(key), _room(value)
        # The derivative of a softmax is w * (g - sum of w * g), and that sum over the keys is also
        # one over D: of what was gathered times its gradient (FlashAttention, appendix B.2).
        wide = torch.promote_types(query.dtype, torch.float32)  # for differences of like numbers
        sums = (gradient * gathered).sum(dim=-1, keepdim=True, dtype=wide)  # (B, H, T, 1)
        gradient = gradient * context.keep_scale
        for piece, keep in zip(pieces(shape), kept_ones, strict=True):
            q, k, v, g = (_part(tensor, piece) for tensor in (query, key, value, gradient))
            weights = attention_weights(q, k, _mask_part(mask, piece, shape), scale=context.scale)
            keep = keep.to(weights.dtype)  # (P, T, S), for both products
            for_weights = (g @ v.transpose(1, 2)).mul_(keep).to(wide)  # (P, T, S)
            for_scores = for_weights.sub_(_part(sums, piece)).mul_(weights).to(q.dtype)
            _put(for_query, piece, (for_scores @ k).mul_(context.scale))
            _put(for_key, piece, (for_scores.transpose(1, 2) @ q).mul_(context.scale))
            _put(for_value, piece, weights.mul_(keep).transpose(1, 2) @ g)
        return for_query, for_key, for_value, None, None, None


def pieces(shape: tuple[int, ...]) -> Iterator[Piece]:
    """Cut (B, H, T, S) weights into pieces of whole rows, or where a row is large, of heads."""
    num_rows, num_heads, num_queries, num_keys = shape
    heads = max(1, _IN_CACHE // (num_queries * num_keys))
    rows = max(1, heads // num_heads)
    heads = min(heads, num_heads)
    for row in range(0, num_rows, rows):
        for head in range(0, num_heads, heads):
            yield (
                slice(row, min(row + rows, num_rows)),
                slice(head, min(head + heads, num_heads)),
            )


def _room(like: Tensor, size: int | None = None) -> Tensor:
    """Memory for (B, H, T, size) in the order (B, T, H, size), in which heads are merged."""
    rows, heads, tokens, head_size = like.shape
    return like.new_empty(rows, tokens, heads, size or head_size).transpose(1, 2)


def _part(tensor: Tensor, piece: Piece) -> Tensor:
    """A piece of (B, H, ...) as (P, ...), P rows times heads: of one row, without a copy."""
    part = tensor[piece]
    return part[0] if len(part) == 1 else part.flatten(0, 1)


def _put(tensor: Tensor, piece: Piece, part: Tensor) -> None:
    """The other way round."""
    place = tensor[piece]
    place.copy_(part.view(place.shape))


def _mask_part(mask: Tensor | None, piece: Piece, shape: tuple[int, ...]) -> Tensor | None:
    """The part of a mask, in which a dimension of 1 stands for all, that belongs to a piece."""
    if mask is None:
        return None
    return _part(mask.expand(*shape[:2], *mask.shape[2:]), piece)

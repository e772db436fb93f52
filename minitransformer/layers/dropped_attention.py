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


def dropped_attention(
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
    return _DroppedAttention.apply(query, key, value, mask, dropout, scale)


class _DroppedAttention(torch.autograd.Function):
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
        num_rows, num_heads, num_queries, _ = query.shape
        shape = (num_rows, num_heads, num_queries, key.shape[2])
        keep = torch.empty(shape, dtype=torch.bool)  # (B, H, T, S)
        gathered = _room(query, value.shape[-1])
        for piece in pieces(shape):
            weights = attention_weights(query[piece], key[piece], _of(mask, piece), scale=scale)
            keep[piece], keep_scale = kept(weights.shape, dropout)
            gathered[piece] = weights.mul_(keep[piece]) @ value[piece]
        context.save_for_backward(query, key, value, mask, keep)
        context.scale, context.keep_scale = scale, keep_scale
        return gathered.mul_(keep_scale)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, keep = context.saved_tensors
        gradient = gradient * context.keep_scale
        for_query, for_key, for_value = _room(query), _room(key), _room(value)
        for piece in pieces(keep.shape):
            q, k, v, g = (tensor[piece] for tensor in (query, key, value, gradient))
            weights = attention_weights(q, k, _of(mask, piece), scale=context.scale)
            # Of a weight w: its share in what was gathered. Of the scores, by the derivative of
            # the softmax: w * (that - the mean of all of them, weighted by w).
            for_weights = (g @ v.transpose(-2, -1)).mul_(keep[piece]).mul_(weights)
            for_scores = for_weights - weights * for_weights.sum(dim=-1, keepdim=True)
            for_scores.mul_(context.scale)
            for_query[piece] = for_scores @ k
            for_key[piece] = for_scores.transpose(-2, -1) @ q
            for_value[piece] = weights.mul_(keep[piece]).transpose(-2, -1) @ g
        return for_query, for_key, for_value, None, None, None


def pieces(shape: tuple[int, ...]) -> Iterator[Piece]:
    """Cut (B, H, T, S) weights into pieces of whole rows, or where a row is large, of heads."""
    num_rows, num_heads, num_queries, num_keys = shape
    heads = max(1, _IN_CACHE // (num_queries * num_keys))
    rows = max(1, heads // num_heads)
    heads = min(heads, num_heads)
    for row in range(0, num_rows, rows):
        for head in range(0, num_heads, heads):
            yield slice(row, row + rows), slice(head, head + heads)


def _room(like: Tensor, size: int | None = None) -> Tensor:
    """Memory for (B, H, T, size) in the order (B, T, H, size), in which heads are merged."""
    rows, heads, tokens, head_size = like.shape
    return like.new_empty(rows, tokens, heads, size or head_size).transpose(1, 2)


def _of(mask: Tensor | None, piece: Piece) -> Tensor | None:
    """The part of a mask that belongs to a piece; a dimension of 1 stands for all."""
    if mask is None:
        return None
    rows, heads = piece
    mask = mask if mask.shape[0] == 1 else mask[rows]
    return mask if mask.shape[1] == 1 else mask[:, heads]

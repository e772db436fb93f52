"""Attention with dropout on its weights, on a CPU, a few rows at a time.

PyTorch's fast kernel for the CPU has no dropout: with it, PyTorch computes the formula over the
whole batch, and every pass reads and writes B H T S numbers from memory. Here the formula is
computed for as many rows or heads as stay in the cache, and again for the gradients instead of
being kept ("FlashAttention", Dao et al. 2022, section 3.1: recomputation). What is kept is which
weights were dropped, a byte each.

B batch, H heads, T query tokens, S key tokens, D head size, N queries and M keys of packed rows,
P rows times heads of a piece.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minitransformer.layers.attention import attention_weights
from minitransformer.layers.dropout import kept, ones_where
from minitransformer.layers.packing import Group, key_rows, query_rows

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
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
    return _PiecewiseAttention.apply(query, key, value, [mask], None, dropout, scale)


def packed_piecewise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    groups: Sequence[Group],
    masks: Sequence[Tensor | None],
    dropout: float,
    scale: float | None = None,
) -> Tensor:
    """The same of packed rows: the queries of a row over the keys of that row.

    Args:
        query: (1, H, N, D).
        key, value: (1, H, M, D).
        groups: how many rows of how many tokens lie side by side.
        masks: of each group, (1, 1, T, S) bool, True = attend, or None.
        dropout, scale: as in :func:`piecewise_attention`.

    Returns:
        (1, H, N, D).
    """
    return _PiecewiseAttention.apply(query, key, value, masks, groups, dropout, scale)


class _PiecewiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        masks: Sequence[Tensor | None],
        groups: Sequence[Group] | None,
        dropout: float,
        scale: float | None,
    ) -> Tensor:
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        gathered = _room(query, value.shape[-1])
        kept_ones = []
        parts = _parts((query, gathered), (key, value), masks, groups)
        for (q, gathered_part), (k, v), mask in parts:
            weights = attention_weights(_flat(q), _flat(k), mask, scale=scale)  # (P, T, S)
            keep, keep_scale = kept(weights.shape, dropout)  # (P, T, S)
            weights.mul_(ones_where(keep, weights.dtype))
            _put(gathered_part, torch.bmm(weights, _flat(v)).mul_(keep_scale))
            kept_ones.append(keep)
        context.save_for_backward(query, key, value, gathered, *masks, *kept_ones)
        context.groups, context.num_masks = groups, len(masks)
        context.scale, context.keep_scale = scale, keep_scale
        return gathered

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, gathered, *others = context.saved_tensors
        masks, kept_ones = others[: context.num_masks], others[context.num_masks :]
        for_query, for_key, for_value = _room(query), _room(key), _room(value)
        of_queries = query, gathered, gradient, for_query
        of_keys = key, value, for_key, for_value
        wide = torch.promote_types(query.dtype, torch.float32)  # for differences of like numbers
        parts = _parts(of_queries, of_keys, masks, context.groups)
        for (query_side, key_side, mask), keep in zip(parts, kept_ones, strict=True):
            *query_parts, query_place = query_side
            *key_parts, key_place, value_place = key_side
            q, o, g = map(_flat, query_parts)  # (P, T, D)
            k, v = map(_flat, key_parts)  # (P, S, D)
            # The derivative of a softmax is w * (g - sum of w * g), and that sum over the keys is
            # also one over D: of what was gathered times its gradient (FlashAttention, app. B.2).
            sums = (g * o).sum(dim=-1, keepdim=True, dtype=wide)  # (P, T, 1)
            g = g * context.keep_scale
            weights = attention_weights(q, k, mask, scale=context.scale)
            keep = ones_where(keep, weights.dtype)  # (P, T, S), for both products
            for_weights = torch.bmm(g, v.transpose(1, 2)).mul_(keep).to(wide)  # (P, T, S)
            for_scores = for_weights.sub_(sums).mul_(weights).to(q.dtype)
            _put(query_place, torch.bmm(for_scores, k).mul_(context.scale))
            _put(key_place, torch.bmm(for_scores.transpose(1, 2), q).mul_(context.scale))
            _put(value_place, torch.bmm(weights.mul_(keep).transpose(1, 2), g))
        return for_query, for_key, for_value, None, None, None, None


def _parts(
    of_queries: Sequence[Tensor],
    of_keys: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    groups: Sequence[Group] | None,
) -> Iterator[tuple[list[Tensor], list[Tensor], Tensor | None]]:
    """Cut tensors of the two sides into pieces, (rows, heads, T or S, D) each: views.

    With each piece comes its mask, (P, T, S), in which a dimension of 1 stands for all.
    """
    if groups is None:
        blocks = [(list(of_queries), list(of_keys))]
    else:
        query_sides = zip(*(query_rows(tensor, groups) for tensor in of_queries), strict=True)
        key_sides = zip(*(key_rows(tensor, groups) for tensor in of_keys), strict=True)
        blocks = [*zip(map(list, query_sides), map(list, key_sides), strict=True)]
    for (query_side, key_side), mask in zip(blocks, masks, strict=True):
        shape = (*query_side[0].shape[:3], key_side[0].shape[2])
        whole = None if mask is None else mask.expand(*shape[:2], *mask.shape[2:])
        for piece in pieces(shape):
            yield (
                [tensor[piece] for tensor in query_side],
                [tensor[piece] for tensor in key_side],
                None if whole is None else _flat(whole[piece]),
            )


def pieces(shape: tuple[int, ...]) -> Iterator[Piece]:
    """Cut (B, H, T, S) weights into pieces of whole rows, or where a row is large, of heads."""
    num_rows, num_heads, num_queries, num_keys = shape
    heads = max(1, _IN_CACHE // max(1, num_queries * num_keys))
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


def _flat(part: Tensor) -> Tensor:
    """(rows, heads, ...) as (P, ...): of one row, without a copy."""
    return part[0] if len(part) == 1 else part.flatten(0, 1)


def _put(place: Tensor, part: Tensor) -> None:
    """The other way round: (P, ...) into its place, (rows, heads, ...)."""
    place.copy_(part.view(place.shape))

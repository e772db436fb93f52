"""Attention with dropout on its weights, on a CPU, block by block with recomputation.

PyTorch's fast attention kernel for the CPU has no dropout: with it, PyTorch computes the formula
over the whole batch, and every pass reads and writes B H T S numbers from memory. Here the formula
is computed for as many sequences or heads as fit the cache, and again for the gradients instead of
being kept ("FlashAttention", Dao et al. 2022, section 3.1: recomputation). What is kept is the
dropout mask, a byte for each weight. A layer with 8 sequences of 512 tokens takes 450 ms forward
and backward by PyTorch, 190 ms in blocks, 100 ms without dropout. Serves the rows "MLM, rows of
512" and "MLM, one line a row" with attention dropout; measured: see docs/decisions.md.

B batch, H heads, T query tokens, S key tokens, D head size, N queries and M keys of unpadded
batches, P sequences times heads of a block.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minitransformer.fast.dropout import dropout_mask, ones_where
from minitransformer.fast.unpadding import Bucket, split_keys, split_queries
from minitransformer.layers.attention import attention_weights

_IN_CACHE = 2**19  # weights that are computed at a time: 2 MB of float32

Block = tuple[slice, slice]  # sequences, heads


def blockwise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    dropout: float,
    scale: float | None = None,
) -> Tensor:
    """dropout(softmax(Q K^T * scale)) V. It has first derivatives only.

    Args:
        query: (B, H, T, D).
        key, value: (B, H, S, D).
        mask: bool, broadcastable to (B, H, T, S), True = attend, or None.
        dropout: probability of dropping a weight; above 0.
        scale: factor of the scores; None stands for 1 / sqrt(D).

    Returns:
        (B, H, T, D).
    """
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
    return _BlockwiseAttention.apply(query, key, value, [mask], None, dropout, scale)


def unpadded_blockwise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    buckets: Sequence[Bucket],
    masks: Sequence[Tensor | None],
    *,
    dropout: float,
    scale: float | None = None,
) -> Tensor:
    """The same of unpadded batches: the queries of a sequence over the keys of that sequence.

    Args:
        query: (1, H, N, D).
        key, value: (1, H, M, D).
        buckets: how many sequences of how many tokens lie side by side.
        masks: of each bucket, (1, 1, T, S) bool, True = attend, or None.
        dropout, scale: as in :func:`blockwise_attention`.

    Returns:
        (1, H, N, D).
    """
    return _BlockwiseAttention.apply(query, key, value, masks, buckets, dropout, scale)


class _BlockwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        masks: Sequence[Tensor | None],
        buckets: Sequence[Bucket] | None,
        dropout: float,
        scale: float | None,
    ) -> Tensor:
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        attended = _empty_heads(query, value.shape[-1])
        dropout_masks = []
        parts = _parts((query, attended), (key, value), masks, buckets)
        for (q, attended_block), (k, v), mask in parts:
            weights = attention_weights(_flat(q), _flat(k), mask, scale=scale)  # (P, T, S)
            kept, keep_scale = dropout_mask(weights.shape, dropout)  # (P, T, S)
            weights.mul_(ones_where(kept, weights.dtype))
            _write(attended_block, torch.bmm(weights, _flat(v)).mul_(keep_scale))
            dropout_masks.append(kept)
        context.save_for_backward(query, key, value, attended, *masks, *dropout_masks)
        context.buckets, context.num_masks = buckets, len(masks)
        context.scale, context.keep_scale = scale, keep_scale
        return attended

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, attended, *rest = context.saved_tensors
        masks, dropout_masks = rest[: context.num_masks], rest[context.num_masks :]
        query_gradient, key_gradient = _empty_heads(query), _empty_heads(key)
        value_gradient = _empty_heads(value)
        of_queries = query, attended, gradient, query_gradient
        of_keys = key, value, key_gradient, value_gradient
        wide = torch.promote_types(query.dtype, torch.float32)  # for differences of like numbers
        parts = _parts(of_queries, of_keys, masks, context.buckets)
        for (query_side, key_side, mask), kept in zip(parts, dropout_masks, strict=True):
            *query_blocks, query_target = query_side
            *key_blocks, key_target, value_target = key_side
            q, o, g = map(_flat, query_blocks)  # (P, T, D)
            k, v = map(_flat, key_blocks)  # (P, S, D)
            # The derivative of a softmax is w * (g - sum of w * g), and that sum over the keys is
            # also one over D: of the output times its gradient (FlashAttention, app. B.2).
            sums = (g * o).sum(dim=-1, keepdim=True, dtype=wide)  # (P, T, 1)
            g = g * context.keep_scale
            weights = attention_weights(q, k, mask, scale=context.scale)
            ones = ones_where(kept, weights.dtype)  # (P, T, S), for both products
            of_weights = torch.bmm(g, v.transpose(1, 2)).mul_(ones).to(wide)  # (P, T, S)
            of_scores = of_weights.sub_(sums).mul_(weights).to(q.dtype)
            _write(query_target, torch.bmm(of_scores, k).mul_(context.scale))
            _write(key_target, torch.bmm(of_scores.transpose(1, 2), q).mul_(context.scale))
            _write(value_target, torch.bmm(weights.mul_(ones).transpose(1, 2), g))
        return query_gradient, key_gradient, value_gradient, None, None, None, None


def _parts(
    of_queries: Sequence[Tensor],
    of_keys: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    buckets: Sequence[Bucket] | None,
) -> Iterator[tuple[list[Tensor], list[Tensor], Tensor | None]]:
    """Cut tensors of the two sides into blocks, (sequences, heads, T or S, D) each: views.

    With each block comes its mask, (P, T, S), in which a dimension of 1 stands for all.
    """
    if buckets is None:
        sides = [(list(of_queries), list(of_keys))]
    else:
        query_sides = zip(*(split_queries(tensor, buckets) for tensor in of_queries), strict=True)
        key_sides = zip(*(split_keys(tensor, buckets) for tensor in of_keys), strict=True)
        sides = [*zip(map(list, query_sides), map(list, key_sides), strict=True)]
    for (query_side, key_side), mask in zip(sides, masks, strict=True):
        shape = (*query_side[0].shape[:3], key_side[0].shape[2])
        whole = None if mask is None else mask.expand(*shape[:2], *mask.shape[2:])
        for block in blocks(shape):
            yield (
                [tensor[block] for tensor in query_side],
                [tensor[block] for tensor in key_side],
                None if whole is None else _flat(whole[block]),
            )


def blocks(shape: tuple[int, ...]) -> Iterator[Block]:
    """Cut (B, H, T, S) weights into blocks of whole sequences, or where one is large, of heads."""
    num_sequences, num_heads, num_queries, num_keys = shape
    heads = max(1, _IN_CACHE // max(1, num_queries * num_keys))
    sequences = max(1, heads // num_heads)
    heads = min(heads, num_heads)
    for sequence in range(0, num_sequences, sequences):
        for head in range(0, num_heads, heads):
            yield (
                slice(sequence, min(sequence + sequences, num_sequences)),
                slice(head, min(head + heads, num_heads)),
            )


def _empty_heads(like: Tensor, size: int | None = None) -> Tensor:
    """Memory for (B, H, T, size) in the order (B, T, H, size), in which heads are merged."""
    batch, heads, tokens, head_size = like.shape
    return like.new_empty(batch, tokens, heads, size or head_size).transpose(1, 2)


def _flat(block: Tensor) -> Tensor:
    """(sequences, heads, ...) as (P, ...): of one sequence, without a copy."""
    return block[0] if len(block) == 1 else block.flatten(0, 1)


def _write(target: Tensor, block: Tensor) -> None:
    """The other way round: (P, ...) into its place, (sequences, heads, ...)."""
    target.copy_(block.view(target.shape))

"""Attention with dropout on a CPU, block by block, recomputed in the backward pass.

PyTorch's fast attention kernel for the CPU has no dropout. With dropout, PyTorch applies the
formula to the whole batch, and each operation reads and writes B H T S numbers in memory. Here the
formula is applied to as many sequences or heads at a time as fit in the cache, and its weights are
computed again in the backward pass instead of being stored ("FlashAttention", Dao et al. 2022,
section 3.1: recomputation). Only the dropout mask is stored, one byte per weight. Forward and
backward of a layer with 8 sequences of 512 tokens take 450 ms in PyTorch, 190 ms in blocks, and
100 ms without dropout.

Speeds up the rows "MLM, sequences of 512" and "MLM, one line per sequence" of the training table
with dropout. Measurements: benchmarks/results/README.md, "Measurements behind decisions".

B batch, H heads, T query tokens, S key tokens, D head size, N queries and M keys of unpadded
batches, P the number of sequences times heads in a block.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minitransformer.fast.dropout import dropout_mask, mask_to_dtype
from minitransformer.fast.unpadding import Bucket, split_keys, split_queries
from minitransformer.layers.attention import attention_weights

_MAX_WEIGHTS_IN_BLOCK = 2**19  # the most weights in a block: 2 MB of float32

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
    """dropout(softmax(Q K^T * scale)) V, with first derivatives only.

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
    """The same for unpadded batches: each query attends to the keys of its own sequence.

    Args:
        query: (1, H, N, D).
        key, value: (1, H, M, D).
        buckets: the adjacent sequences of equal length, in order.
        masks: one for each bucket, (1, 1, T, S) bool, True = attend, or None.
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
        block_tensors = _block_tensors((query, attended), (key, value), masks, buckets)
        for (q, attended_block), (k, v), mask in block_tensors:
            weights = attention_weights(_flat(q), _flat(k), mask, scale=scale)  # (P, T, S)
            keep_mask, keep_scale = dropout_mask(weights.shape, dropout)  # (P, T, S)
            weights.mul_(mask_to_dtype(keep_mask, weights.dtype))
            _write(attended_block, torch.bmm(weights, _flat(v)).mul_(keep_scale))
            dropout_masks.append(keep_mask)
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
        query_tensors = query, attended, gradient, query_gradient
        key_tensors = key, value, key_gradient, value_gradient
        # Differences of nearly equal numbers are taken in float32 at least.
        sum_dtype = torch.promote_types(query.dtype, torch.float32)
        block_tensors = _block_tensors(query_tensors, key_tensors, masks, context.buckets)
        for block, keep_mask in zip(block_tensors, dropout_masks, strict=True):
            query_side, key_side, mask = block
            *query_blocks, query_target = query_side
            *key_blocks, key_target, value_target = key_side
            q, o, g = map(_flat, query_blocks)  # (P, T, D)
            k, v = map(_flat, key_blocks)  # (P, S, D)
            # The gradient of the scores is w * (g - sum of w * g). This sum over the keys equals
            # the sum over D of the output times its gradient (FlashAttention, appendix B.2).
            sums = (g * o).sum(dim=-1, keepdim=True, dtype=sum_dtype)  # (P, T, 1)
            g = g * context.keep_scale
            weights = attention_weights(q, k, mask, scale=context.scale)
            kept = mask_to_dtype(keep_mask, weights.dtype)  # (P, T, S), for both products
            weights_gradient = torch.bmm(g, v.transpose(1, 2)).mul_(kept).to(sum_dtype)  # (P, T, S)
            scores_gradient = weights_gradient.sub_(sums).mul_(weights).to(q.dtype)
            _write(query_target, torch.bmm(scores_gradient, k).mul_(context.scale))
            _write(key_target, torch.bmm(scores_gradient.transpose(1, 2), q).mul_(context.scale))
            _write(value_target, torch.bmm(weights.mul_(kept).transpose(1, 2), g))
        return query_gradient, key_gradient, value_gradient, None, None, None, None


def _block_tensors(
    query_tensors: Sequence[Tensor],
    key_tensors: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    buckets: Sequence[Bucket] | None,
) -> Iterator[tuple[list[Tensor], list[Tensor], Tensor | None]]:
    """Cut tensors into blocks, which are views of shape (sequences, heads, T or S, D).

    Each block comes with its mask, broadcastable to (P, T, S).

    Args:
        query_tensors: with T tokens, or N where unpadded.
        key_tensors: with S tokens, or M where unpadded.
        masks, buckets: as in :func:`unpadded_blockwise_attention`; without buckets, one mask.
    """
    if buckets is None:
        sides = [(list(query_tensors), list(key_tensors))]
    else:
        query_sides = zip(*(split_queries(t, buckets) for t in query_tensors), strict=True)
        key_sides = zip(*(split_keys(t, buckets) for t in key_tensors), strict=True)
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
    """Cut (B, H, T, S) weights into blocks: whole sequences, or heads where sequences are long."""
    num_sequences, num_heads, num_queries, num_keys = shape
    heads = max(1, _MAX_WEIGHTS_IN_BLOCK // max(1, num_queries * num_keys))
    sequences = max(1, heads // num_heads)
    heads = min(heads, num_heads)
    for sequence in range(0, num_sequences, sequences):
        for head in range(0, num_heads, heads):
            yield (
                slice(sequence, min(sequence + sequences, num_sequences)),
                slice(head, min(head + heads, num_heads)),
            )


def _empty_heads(like: Tensor, size: int | None = None) -> Tensor:
    """Uninitialized (B, H, T, size), laid out as (B, T, H, size): merging heads copies nothing."""
    batch, heads, tokens, head_size = like.shape
    return like.new_empty(batch, tokens, heads, size or head_size).transpose(1, 2)


def _flat(block: Tensor) -> Tensor:
    """(sequences, heads, ...) to (P, ...), without a copy if there is one sequence."""
    return block[0] if len(block) == 1 else block.flatten(0, 1)


def _write(target: Tensor, block: Tensor) -> None:
    """Copy (P, ...) into `target`, (sequences, heads, ...)."""
    target.copy_(block.view(target.shape))

"""Attention by the fastest kernel, over unpadded batches and over padded ones.

Unpadded batches (:func:`varlen_attention`): on CUDA, FlashAttention takes sequences of different
lengths; elsewhere the sequences of equal length form a bucket, which PyTorch's kernel computes
without a mask. Padded batches (:func:`padded_attention`): a causal mask becomes an argument of the
kernel, which then skips what is masked instead of reading a mask. On a CPU, attention with dropout
is computed block by block (:mod:`minitransformer.fast.blockwise_attention`), and short sequences in
bfloat16 are computed in float32: forward and backward of 32 sequences of 16 tokens take 13 ms by
PyTorch's bfloat16 kernel, and 2 ms by its float32 kernel, casts included.

Speeds up the rows "MLM, one line per sequence", "SQuAD, windows of 384", "encode, ragged sequences"
and "classify, ragged sequences", and with dropout "MLM, sequences of 512". Measurements:
benchmarks/results/README.md, "Measurements behind decisions".

B batch, T query tokens, S key tokens, N queries and M keys of unpadded batches, H heads, D head
size.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.fast.blockwise_attention import (
    blockwise_attention,
    unpadded_blockwise_attention,
)
from minitransformer.fast.dispatch import is_plain_eager
from minitransformer.fast.unpadding import UnpaddedMask, split_keys, split_queries
from minitransformer.layers.attention import causal_mask

_MAX_BYTES = 4 * 2**20  # of the keys of a block of heads in float32
_MAX_SHORT_KEYS = 128  # up to so many keys, float32 is faster than bfloat16 with gradients


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: UnpaddedMask,
    bias: Tensor | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(Q K^T * scale + bias) V over unpadded batches.

    Queries of a sequence without keys get zeros.

    Args:
        query: (1, H, N, D).
        key, value: (1, H, M, D).
        mask: the boundaries of the sequences, and whether attention is causal.
        bias: (1, H, T, S), added to the scores, with T and S of the longest sequences.
        scale: None stands for 1 / sqrt(D).
        dropout: probability of dropping a weight.

    Returns:
        (1, H, N, D).
    """
    if bias is None and _has_varlen_kernel(query):
        return _flash_attention(query, key, value, mask, scale, dropout)
    if _needs_blocks(query, key, value, bias, dropout):
        masks = [
            _causal_mask(bucket.num_queries, bucket.num_keys, query.device) if mask.causal else None
            for bucket in mask.buckets
        ]
        return unpadded_blockwise_attention(
            query, key, value, mask.buckets, masks, dropout=dropout, scale=scale
        )
    attended = []
    for bucket, q, k, v in zip(
        mask.buckets,
        split_queries(query, mask.buckets),
        split_keys(key, mask.buckets),
        split_keys(value, mask.buckets),
        strict=True,
    ):  # (sequences, H, T, D), (sequences, H, S, D) twice
        cut = None if bias is None else bias[..., : bucket.num_queries, : bucket.num_keys]
        if q.numel() and k.numel():
            out = padded_attention(
                q, k, v, None, cut, scale=scale, dropout=dropout, causal=mask.causal
            )
        else:
            out = torch.zeros_like(q)
        attended.append(out.transpose(1, 2).flatten(0, 1))  # (sequences * T, H, D)
    return torch.cat(attended).transpose(0, 1)[None]  # (1, H, N, D)


def padded_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """softmax(Q K^T * scale + bias) V over padded batches, or batches that need no padding.

    Args:
        query: (B, H, T, D).
        key, value: (B, H, S, D).
        mask: bool, broadcastable to (B, H, T, S), True = attend.
        bias: added to the scores, broadcastable to (B, H, T, S).
        scale: None stands for 1 / sqrt(D).
        dropout: probability of dropping a weight.
        causal: whether a query, which is one of the last T of S tokens, attends to no later token.

    Returns:
        (B, H, T, D).
    """
    if _needs_blocks(query, key, value, bias, dropout):
        combined = _combined(mask, query, key, causal)
        return blockwise_attention(query, key, value, combined, dropout=dropout, scale=scale)
    if _is_faster_in_float32(query, key):
        # A few heads at a time: what is cast stays in the cache.
        num_blocks = max(1, math.ceil(4 * key.numel() / _MAX_BYTES))
        heads = [tensor.chunk(num_blocks, dim=1) for tensor in (query, key, value)]
        masks, biases = (_of_heads(tensor, len(heads[0])) for tensor in (mask, bias))
        with torch.autocast("cpu", enabled=False):  # autocast would cast them back
            blocks = [
                padded_attention(
                    q.float(),
                    k.float(),
                    v.float(),
                    block_mask,
                    None if block_bias is None else block_bias.float(),
                    scale=scale,
                    dropout=dropout,
                    causal=causal,
                ).to(query.dtype)
                for q, k, v, block_mask, block_bias in zip(*heads, masks, biases, strict=True)
            ]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
    same_length = query.shape[-2] == key.shape[-2] > 1
    is_causal = causal and mask is None and bias is None and same_length
    combined = None if is_causal else _combined(mask, query, key, causal)
    if bias is not None:
        combined = bias if combined is None else bias.masked_fill(~combined, -math.inf)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=combined,
        dropout_p=dropout,
        is_causal=is_causal,
        scale=scale,
    )


def simplified_mask(mask: Tensor | None, num_queries: int) -> tuple[Tensor | None, bool]:
    """The mask, or None if it is all True or exactly causal; and whether it is exactly causal.

    Only for tensors on a CPU that pass :func:`is_plain_eager`, because it reads the mask's values.
    All layers of a model get the same mask, so the result for the last mask is cached.

    Args:
        mask: bool, broadcastable to (B, H, T, S), True = attend.
        num_queries: T.
    """
    global _last
    if mask is None:
        return None, False
    if mask.is_inference():  # PyTorch counts no changes of inference tensors
        properties = _MaskProperties(ref(mask), 0, num_queries, *_read(mask, num_queries))
    else:
        properties = _last
        if (
            properties.mask() is not mask
            or properties.version != mask._version
            or properties.num_queries != num_queries
        ):
            read = _read(mask, num_queries)
            properties = _MaskProperties(ref(mask), mask._version, num_queries, *read)
            _last = properties
    is_simple = properties.is_full or properties.is_causal
    return None if is_simple else mask, properties.is_causal


class _MaskProperties(NamedTuple):
    """What is known about the values of a mask."""

    mask: Callable[[], Tensor | None]  # a weak reference
    version: int
    num_queries: int
    is_full: bool
    is_causal: bool


_last = _MaskProperties(lambda: None, 0, 0, False, False)


def _read(mask: Tensor, num_queries: int) -> tuple[bool, bool]:
    """Whether a mask is all True, and whether it is exactly the causal mask of several queries."""
    if bool(mask.all()):
        return True, False
    if mask.shape[-2:] != (num_queries, num_queries) or not bool(mask[..., -1, :].all()):
        return False, False
    causal = _causal_mask(num_queries, num_queries, mask.device)
    return False, causal is not None and bool((mask == causal).all())


def _flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: UnpaddedMask,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """FlashAttention over sequences of different lengths (Dao 2023): (1, H, N, D).

    `torch.nn.attention.varlen` calls the same operator, but without dropout.
    """
    query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    attended, *_ = torch.ops.aten._flash_attention_forward(
        query,  # (N, H, D)
        key,
        value,
        mask.queries.cu_seqlens,
        mask.keys.cu_seqlens,
        mask.queries.max_seqlen,
        mask.keys.max_seqlen,
        dropout,
        mask.causal,
        False,
        scale=scale,
    )
    return attended.transpose(0, 1)[None]


def _has_varlen_kernel(query: Tensor) -> bool:
    """Whether FlashAttention can be used: half precision on CUDA, capability 8.0 or more."""
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _needs_blocks(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float
) -> bool:
    """Whether to compute in blocks: with dropout, on a CPU, without a bias."""
    return (
        dropout > 0
        and bias is None
        and query.device.type == "cpu"
        and is_plain_eager(query, key, value, under_autocast=True)
    )


def _is_faster_in_float32(query: Tensor, key: Tensor) -> bool:
    """Whether PyTorch's bfloat16 kernel on a CPU is slower than its float32 kernel with casts.

    It takes twice as long for one query, and with gradients, seven times as long for 16 keys and
    equally long for 192.
    """
    if query.dtype != torch.bfloat16 or query.device.type != "cpu":
        return False
    with_gradient = query.requires_grad and torch.is_grad_enabled()
    return query.shape[-2] == 1 or (with_gradient and key.shape[-2] <= _MAX_SHORT_KEYS)


def _of_heads(tensor: Tensor | None, num_blocks: int) -> Sequence[Tensor | None]:
    """A mask or bias, broadcastable to (B, H, T, S), for each block of heads."""
    if tensor is None or tensor.dim() < 3 or tensor.shape[-3] == 1:
        return [tensor] * num_blocks
    return tensor.chunk(num_blocks, dim=-3)


def _combined(mask: Tensor | None, query: Tensor, key: Tensor, causal: bool) -> Tensor | None:
    """The mask, combined with the causal mask if attention is causal."""
    triangle = _causal_mask(query.shape[-2], key.shape[-2], query.device) if causal else None
    if mask is None or triangle is None:
        return triangle if mask is None else mask
    return mask & triangle


def _causal_mask(num_queries: int, num_keys: int, device: torch.device) -> Tensor | None:
    """(1, 1, T, S) bool for the last T of S tokens; None if it would mask nothing."""
    if num_queries <= 1 or not num_keys:
        return None
    positions = torch.arange(num_keys - num_queries, num_keys, device=device)
    return causal_mask(positions, num_keys)

"""The fastest kernel for an attention: over unpadded batches, and over padded ones.

Unpadded batches (:func:`varlen_attention`): CUDA has a FlashAttention kernel for sequences of any
length; elsewhere sequences of equal length are a bucket, computed together by PyTorch's kernel
without a mask. Padded batches (:func:`padded_attention`): a kernel that is told that the mask is a
triangle leaves out what is masked, where a mask is gone through. On a CPU, dropout goes block by
block (:mod:`minitransformer.fast.blockwise_attention`), and short sequences in bfloat16 are
computed in float32: 32 sequences of 16 tokens take 13 ms forward and backward by PyTorch's kernel
for bfloat16, 2 ms by that for float32 with its casts.

Serves every row with padding or dropout, and MLM on lines in bfloat16; measured: see
docs/decisions.md.

B batch, T query tokens, S key tokens, N queries and M keys of unpadded batches, H heads, D head
size.
"""

import math
from collections.abc import Callable
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

_SHORT = 128  # keys: up to here float32 is faster than bfloat16 where there are gradients


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

    A sequence without keys gives zeros.

    Args:
        query: (1, H, N, D).
        key, value: (1, H, M, D).
        mask: where each sequence begins, and whether it is causal.
        bias: (1, H, T, S), added to the scores of each sequence; T and S of the longest.
        scale: None stands for 1 / sqrt(D).
        dropout: probability of dropping a weight.

    Returns:
        (1, H, N, D).
    """
    if bias is None and _has_varlen_kernel(query):
        return _flash_attention(query, key, value, mask, scale, dropout)
    if _needs_blocks(query, key, value, bias, dropout):
        masks = [
            _triangle(bucket.num_queries, bucket.num_keys, query.device) if mask.causal else None
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
        own = None if bias is None else bias[..., : bucket.num_queries, : bucket.num_keys]
        if q.numel() and k.numel():
            out = padded_attention(
                q, k, v, None, own, scale=scale, dropout=dropout, causal=mask.causal
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
    """softmax(Q K^T * scale + bias) V over padded batches, or those without padding.

    Args:
        query: (B, H, T, D).
        key, value: (B, H, S, D).
        mask: bool, broadcastable to (B, H, T, S), True = attend.
        bias: added to the scores, broadcastable to (B, H, T, S).
        scale: None stands for 1 / sqrt(D).
        dropout: probability of dropping a weight.
        causal: a query, one of the last T of the S tokens, attends to none after it.

    Returns:
        (B, H, T, D).
    """
    if _needs_blocks(query, key, value, bias, dropout):
        whole = _combined(mask, query, key, causal)
        return blockwise_attention(query, key, value, whole, dropout=dropout, scale=scale)
    if _is_faster_in_float32(query, key):
        bias = None if bias is None else bias.float()
        with torch.autocast("cpu", enabled=False):  # which would cast them back
            return padded_attention(
                query.float(),
                key.float(),
                value.float(),
                mask,
                bias,
                scale=scale,
                dropout=dropout,
                causal=causal,
            ).to(query.dtype)
    is_triangle = causal and mask is None and bias is None and query.shape[-2] == key.shape[-2] > 1
    added = None if is_triangle else _combined(mask, query, key, causal)
    if bias is not None:
        added = bias if added is None else bias.masked_fill(~added, -math.inf)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=added,
        dropout_p=dropout,
        is_causal=is_triangle,
        scale=scale,
    )


def simplified_mask(mask: Tensor | None, num_queries: int) -> tuple[Tensor | None, bool]:
    """The mask, or None in place of a mask of ones or of a triangle; and whether it is a triangle.

    It reads the values: only for :func:`is_plain_eager` tensors on a CPU. All layers of a model are
    given the same mask, so the answer for the last one is remembered.

    Args:
        mask: bool, broadcastable to (B, H, T, S), True = attend.
        num_queries: T.
    """
    global _last
    if mask is None:
        return None, False
    if mask.is_inference():  # whose changes are not counted
        known = _Known(ref(mask), 0, num_queries, *_properties(mask, num_queries))
    else:
        known = _last
        if (
            known.mask() is not mask
            or known.version != mask._version
            or known.num_queries != num_queries
        ):
            known = _Known(ref(mask), mask._version, num_queries, *_properties(mask, num_queries))
            _last = known
    return None if known.is_full or known.is_triangle else mask, known.is_triangle


class _Known(NamedTuple):
    """What was found out about a mask."""

    mask: Callable[[], Tensor | None]  # a weak reference
    version: int
    num_queries: int
    is_full: bool
    is_triangle: bool


_last = _Known(lambda: None, 0, 0, False, False)


def _properties(mask: Tensor, num_queries: int) -> tuple[bool, bool]:
    """Whether a mask is all ones, and whether it is a triangle of more than one query."""
    if bool(mask.all()):
        return True, False
    if mask.shape[-2:] != (num_queries, num_queries) or not bool(mask[..., -1, :].all()):
        return False, False
    triangle = _triangle(num_queries, num_queries, mask.device)
    return False, triangle is not None and bool((mask == triangle).all())


def _flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: UnpaddedMask,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """FlashAttention for sequences of any length (Dao 2023): (1, H, N, D).

    `torch.nn.attention.varlen` calls it too, but without dropout.
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
    """Whether PyTorch's FlashAttention takes it: half precision on CUDA, from capability 8.0 on."""
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
    """Whether PyTorch has no fast kernel, and the blocks serve: dropout on a CPU, without bias."""
    return (
        dropout > 0
        and bias is None
        and query.device.type == "cpu"
        and is_plain_eager(query, key, value, under_autocast=True)
    )


def _is_faster_in_float32(query: Tensor, key: Tensor) -> bool:
    """Whether PyTorch's kernel for bfloat16 on a CPU takes longer than that for float32 and casts.

    Measured: twice as long for one query; with gradients seven times for 16 keys, and as long for
    192.
    """
    if query.dtype != torch.bfloat16 or query.device.type != "cpu":
        return False
    with_gradient = query.requires_grad and torch.is_grad_enabled()
    return query.shape[-2] == 1 or (with_gradient and key.shape[-2] <= _SHORT)


def _combined(mask: Tensor | None, query: Tensor, key: Tensor, causal: bool) -> Tensor | None:
    """The mask and, where it is causal, the triangle."""
    triangle = _triangle(query.shape[-2], key.shape[-2], query.device) if causal else None
    if mask is None or triangle is None:
        return triangle if mask is None else mask
    return mask & triangle


def _triangle(num_queries: int, num_keys: int, device: torch.device) -> Tensor | None:
    """(1, 1, T, S) bool for the last T of S tokens; None where it would hide nothing."""
    if num_queries <= 1 or not num_keys:
        return None
    positions = torch.arange(num_keys - num_queries, num_keys, device=device)
    return causal_mask(positions, num_keys)

"""The kernels that compute attention: the formula, PyTorch's, and PyTorch's without padding.

All give the same numbers at real tokens.

B batch, T query tokens, S key tokens, N queries and M keys of all rows, H heads, D head size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.layers.attention import EagerAttention, Kernel, attention_weights
from minitransformer.layers.masks import padding_mask
from minitransformer.layers.packing import Mask, PackedMask, Packing, key_rows, query_rows
from minitransformer.layers.piecewise_attention import (
    packed_piecewise_attention,
    piecewise_attention,
)
from minitransformer.layers.shortcuts import only_backward_derives


class SdpaAttention(Kernel):
    """The same numbers from PyTorch's kernel, which need not keep the (T, S) weights in memory.

    With dropout on a CPU, for which PyTorch has no such kernel, from our own pieces.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Queries (B, H, T, D) over keys and values (B, H, S, D) give (B, H, T, D)."""
        probability = self.dropout if self.training else 0.0
        if self.needs_pieces(query, bias) and query.numel() and key.numel():
            whole = self.whole_mask(query, key, mask)
            return piecewise_attention(query, key, value, whole, probability, self.scale)
        if _on_cpu(query) and query.dtype == torch.bfloat16 and _is_faster_in_float32(query, key):
            bias = None if bias is None else bias.float()
            floats = query.float(), key.float(), value.float()
            with torch.autocast("cpu", enabled=False):  # which would turn them back
                return SdpaAttention.forward(self, *floats, mask, bias).to(query.dtype)
        # Told that it is a triangle, the kernel leaves out what is masked; a mask it goes through.
        triangle = self.causal and mask is None and bias is None
        triangle = triangle and query.shape[-2] == key.shape[-2] > 1
        whole = None if triangle else self.whole_mask(query, key, mask)
        if bias is not None:
            whole = bias if whole is None else bias.masked_fill(~whole, -math.inf)
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=whole,
            dropout_p=probability,
            is_causal=triangle,
            scale=self.scale,
        )

    def needs_pieces(self, query: Tensor, bias: Tensor | None) -> bool:
        """Whether PyTorch has no fast kernel for it, and our pieces serve: dropout on a CPU."""
        drops = self.training and self.dropout > 0
        return drops and _on_cpu(query) and bias is None and only_backward_derives()


class PackedAttention(SdpaAttention):
    """The same for rows without padding, laid end to end; see :mod:`..layers.packing`.

    CUDA has a kernel for rows of any length. Elsewhere, rows that are equally long are computed
    together, without a mask.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Mask,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Queries (1, H, N, D) over keys and values (1, H, M, D) give (1, H, N, D).

        Args:
            query, key, value: of packed rows. With a mask of another kind, as in `SdpaAttention`.
            mask: where each row begins.
            bias: (1, H, T, S), added to the scores of each row; T and S of the longest.
        """
        if not isinstance(mask, PackedMask):
            return super().forward(query, key, value, mask, bias)
        if bias is None and _has_kernel_for_any_length(query):
            return self._on_cuda(query, key, value, mask)
        if self.needs_pieces(query, bias):
            masks = [
                self.triangle(group.num_queries, group.num_keys, query.device)
                for group in mask.groups
            ]
            return packed_piecewise_attention(
                query, key, value, mask.groups, masks, self.dropout, self.scale
            )
        gathered = []
        for group, q, k, v in zip(
            mask.groups,
            query_rows(query, mask.groups),
            key_rows(key, mask.groups),
            key_rows(value, mask.groups),
            strict=True,
        ):
            own_bias = None if bias is None else bias[..., : group.num_queries, : group.num_keys]
            gathered.append(self._group(q, k, v, own_bias))
        return torch.cat(gathered).transpose(0, 1)[None]  # (1, H, N, D)

    def _group(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Rows of one length, (rows, H, T, D), over as many, to (rows * T, H, D)."""
        if not query.numel() or not key.numel():
            # Who has nobody to ask gets nothing.
            return torch.zeros_like(query).transpose(1, 2).flatten(0, 1)
        return super().forward(query, key, value, None, bias).transpose(1, 2).flatten(0, 1)

    def _on_cuda(self, query: Tensor, key: Tensor, value: Tensor, mask: PackedMask) -> Tensor:
        """FlashAttention for rows of any length (Dao 2023), which has dropout.

        `torch.nn.attention.varlen` calls it too, but with a dropout of 0.
        """
        query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
        gathered, *_ = torch.ops.aten._flash_attention_forward(
            query,  # (N, H, D)
            key,
            value,
            mask.queries.borders,
            mask.keys.borders,
            mask.queries.longest,
            mask.keys.longest,
            self.dropout if self.training else 0.0,
            self.causal,
            False,
            scale=self.scale,
        )
        return gathered.transpose(0, 1)[None]  # (1, H, N, D)

    def weights(self, query: Tensor, key: Tensor, mask: Mask, bias: Tensor | None = None) -> Tensor:
        """The attention map with its padding, (B, H, T, S), which gets and gives nothing."""
        if not isinstance(mask, PackedMask):
            return super().weights(query, key, mask, bias)
        query, key = _unpacked(query, mask.queries), _unpacked(key, mask.keys)
        there = padding_mask(mask.keys.present) & mask.queries.present[:, None, :, None]
        whole = self.whole_mask(query, key, there)  # (B, 1, T, S)
        return attention_weights(query, key, whole, bias, self.scale)


KERNELS: dict[str, type[Kernel]] = {
    "eager": EagerAttention,
    "sdpa": SdpaAttention,
    "packed": PackedAttention,
}


def kernel_named(name: str) -> type[Kernel]:
    """The kernel of that name.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if name not in KERNELS:
        raise ValueError(f"attention={name!r} is unknown; choose one of {sorted(KERNELS)}")
    return KERNELS[name]


def _has_kernel_for_any_length(query: Tensor) -> bool:
    """Whether PyTorch's FlashAttention takes rows of unequal length here: on CUDA, from 8.0 on."""
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _on_cpu(query: Tensor) -> bool:
    """On one, and not while the compiler chooses."""
    return query.device.type == "cpu" and not torch.compiler.is_compiling()


def _is_faster_in_float32(query: Tensor, key: Tensor) -> bool:
    """Whether PyTorch's kernel for bfloat16 on a CPU takes longer than that for float32 and casts.

    Measured: for one query twice as long; with gradients seven times for 16 keys, and for 192 as
    long.
    """
    with_gradient = query.requires_grad and torch.is_grad_enabled()
    return query.shape[-2] == 1 or (with_gradient and key.shape[-2] <= 128)


def _unpacked(heads: Tensor, packing: Packing) -> Tensor:
    """(1, H, N, D) to (B, H, T, D)."""
    return packing.unpack(heads.transpose(1, 2)).transpose(1, 2)

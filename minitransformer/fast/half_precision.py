"""Products in bfloat16 and float16 computed in float32, on CPUs without instructions for these.

There, PyTorch's own product takes five times as long as in float32, from about 16 rows on. Here the
weight is converted to float32 in blocks that stay in the cache, which costs hardly any time beside
the product, and no memory. Results are rounded once, as by such instructions. Where the processor
has them, PyTorch's product stays; which way is faster is measured.

Speeds up the inference rows in bfloat16, and prompts and sources in the generation rows.
Measurements: benchmarks/results/README.md, "Measurements behind decisions".

N rows, I inputs, O outputs.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.fast.dispatch import is_plain_eager_cpu, shapes_fit
from minitransformer.fast.measuring import Ways, is_faster

HALF = (torch.bfloat16, torch.float16)
_MAX_BYTES = 4 * 2**20  # of a block in float32; blocks of 2 MB are as fast, smaller ones slower
_MIN_ROWS = 16  # for fewer, converting the weight takes longer than it saves


def is_faster_in_float32(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether :func:`linear_in_float32` may replace a product, and is faster on this processor.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,), or None.
    """
    return (
        x.dtype in HALF  # first: it rules out most calls
        and is_plain_eager_cpu(x, weight, bias)
        and not torch.is_grad_enabled()
        and shapes_fit(x, weight, bias)
        and (num_rows := x.numel() // x.shape[-1]) >= _MIN_ROWS
        and _is_faster_for(x.dtype, num_rows)
    )


def linear_in_float32(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, computed in float32 and rounded to the dtype of x, without a gradient.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,), or None.

    Returns:
        (..., O).
    """
    exact, product = x.float(), x.new_empty(*x.shape[:-1], len(weight))
    num_blocks = math.ceil(4 * weight.numel() / _MAX_BYTES)
    weights, outputs = weight.chunk(num_blocks), product.chunk(num_blocks, dim=-1)
    biases: Sequence[Tensor | None] = [None] * len(weights)
    if bias is not None:
        biases = bias.float().chunk(num_blocks)
    for output, block, part in zip(outputs, weights, biases, strict=True):
        output.copy_(F.linear(exact, block.float(), part))
    return product


def _is_faster_for(dtype: torch.dtype, num_rows: int) -> bool:
    measured_rows = 16 if num_rows <= 64 else 128
    name = f"products of {measured_rows} rows in float32, {dtype}"
    return is_faster(name, lambda: _both_products(dtype, measured_rows), rounds=5)


def _both_products(dtype: torch.dtype, num_rows: int) -> Ways:
    x, weight = (torch.ones(rows, 768, dtype=dtype, device="cpu") for rows in (num_rows, 1536))
    return lambda: F.linear(x, weight), lambda: linear_in_float32(x, weight, None)

"""Dropout (Srivastava et al. 2014) with 16 random bits per number, on a CPU.

PyTorch draws a random float per number, which takes 15 ms for 3 million numbers on a CPU, about as
long as a matrix product of a small layer, and was a fifth of a training step. Drawing 16 bits takes
3 ms.

Speeds up all rows of the training table with dropout. Measurements: benchmarks/results/README.md,
"Measurements behind decisions".

The probability is rounded to a multiple of 1 / 65,536, and the scale fits the rounded probability.
With the same seed, PyTorch's dropout drops other numbers.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.fast.dispatch import is_plain_eager

STEPS = 2**16  # probabilities are multiples of 1 / 65,536: 16 random bits decide


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Zero random elements while training, and scale the others so that the mean stays the same.

    On other devices, and where something other than autograd observes it, PyTorch's dropout runs.

    Args:
        x: of any shape.
        probability: of an element being zeroed.
        training: False returns `x` itself.
    """
    if not training or probability == 0.0:
        return x
    if not is_plain_eager(x, under_autocast=True) or x.device.type != "cpu":
        return F.dropout(x, probability)
    mask, scale = dropout_mask(x.shape, probability)
    return x * mask_to_dtype(mask, x.dtype).mul_(scale)


def dropout_mask(shape: torch.Size, probability: float) -> tuple[Tensor, float]:
    """A dropout mask on the CPU, bool of this shape, True = keep; and the scale of what is kept.

    Each 64-bit integer of PyTorch's generator provides the bits for four elements.
    """
    dropped = round(probability * STEPS)  # out of STEPS
    if dropped == STEPS:
        return torch.zeros(shape, dtype=torch.bool, device="cpu"), 0.0
    count = math.prod(shape)
    drawn = torch.empty((count + 3) // 4, dtype=torch.int64, device="cpu").random_(-(2**63), None)
    bits = drawn.view(torch.int16)[:count].view(shape)  # uniform from -32,768 to 32,767
    return bits >= dropped - STEPS // 2, STEPS / (STEPS - dropped)


def mask_to_dtype(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask of any shape as ones and zeros of another dtype.

    PyTorch converts bytes to floats five times as fast as bools.
    """
    return mask.view(torch.uint8).to(dtype)

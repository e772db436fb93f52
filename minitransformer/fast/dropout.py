"""Dropout (Srivastava et al. 2014) with 16 random bits for each number, on a CPU.

PyTorch draws a random float for each number, which on a CPU takes as long as a matrix product of a
small layer: 15 ms for 3 million numbers, against 3 ms for the bits drawn here. Drawn so, dropout
was a fifth of a training step. Serves the training rows of the speed tables with dropout on (MLM
on rows of 512 and on lines, SQuAD); measured: see docs/decisions.md.

The probability is rounded to a multiple of 1 / 65,536, and the scale follows the rounded one. A
seed does not drop the same numbers as PyTorch's dropout does.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.fast.dispatch import is_plain_eager

STEPS = 2**16  # probabilities are multiples of 1 / 65,536: 16 random bits decide


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Zero numbers at random while training, and scale the others so that the mean stays.

    On other devices than a CPU, and where more than autograd sees it, PyTorch's own dropout runs.

    Args:
        x: of any shape.
        probability: of a zero.
        training: False returns `x` itself.
    """
    if not training or probability == 0.0:
        return x
    if not is_plain_eager(x, under_autocast=True) or x.device.type != "cpu":
        return F.dropout(x, probability)
    mask, scale = dropout_mask(x.shape, probability)
    return x * ones_where(mask, x.dtype).mul_(scale)


def dropout_mask(shape: torch.Size, probability: float) -> tuple[Tensor, float]:
    """The numbers that dropout keeps, on a CPU: (shape) bool, True with 1 - p; and their scale.

    Each 64-bit integer of PyTorch's generator decides about four numbers.
    """
    dropped = round(probability * STEPS)  # of as many steps
    if dropped == STEPS:
        return torch.zeros(shape, dtype=torch.bool, device="cpu"), 0.0
    count = math.prod(shape)
    drawn = torch.empty((count + 3) // 4, dtype=torch.int64, device="cpu").random_(-(2**63), None)
    bits = drawn.view(torch.int16)[:count].view(shape)  # uniform from -32,768 to 32,767
    return bits >= dropped - STEPS // 2, STEPS / (STEPS - dropped)


def ones_where(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where `mask`, any shape of bool, is True, and 0 elsewhere.

    Bytes become floats five times as fast as bools do.
    """
    return mask.view(torch.uint8).to(dtype)

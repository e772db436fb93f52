"""Layer normalization (Ba, Kiros and Hinton 2016), and its variant without a mean. E hidden size.

The modules call PyTorch's operations, as `nn.LayerNorm` and `nn.RMSNorm` would; the formulas beside
them say what those compute, and the tests check that they agree, values and gradients.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last dimension.

    The variance divides by E, not by E - 1, and eps is added inside the root: the two places
    where hand-written norms go wrong.
    """
    mean = x.mean(dim=-1, keepdim=True)  # (..., 1)
    variance = (x - mean).square().mean(dim=-1, keepdim=True)  # (..., 1)
    return (x - mean) * torch.rsqrt(variance + eps) * weight + bias


class LayerNorm(nn.Module):
    """Layer normalization with a weight and a bias; :func:`layer_norm` is its formula.

    Args:
        hidden_size: E.
        eps: added to the variance. 1e-12 in BERT, 1e-5 in RoBERTa: config.json decides.
    """

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean of squares + eps) * weight, over the last dimension.

    Nothing is subtracted and nothing added (Zhang and Sennrich 2019, "Root Mean Square Layer
    Normalization").
    """
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


class RMSNorm(nn.Module):
    """T5's norm, with a weight and neither a mean nor a bias; :func:`rms_norm` is its formula.

    PyTorch squares and sums half precision in float32: their squares would overflow.

    Args:
        hidden_size: E.
        eps: added to the mean of squares.
    """

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)

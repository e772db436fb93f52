"""Activations: the formulas, and the one-pass kernels of PyTorch that compute them.

The models call the kernels, which read and write memory once; the formulas say what the kernels
compute, and the tests hold the two together to the last bits of float64.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def gelu(x: Tensor) -> Tensor:
    """x * P(N(0, 1) <= x): the exact GELU (Hendrycks and Gimpel 2016), BERT's and RoBERTa's."""
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU, from the same paper; GPT-2's "gelu_new".

    It differs from the exact one by up to 5e-4: enough to fail parity, too little to be seen.
    """
    return x * 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _tanh_kernel(x: Tensor) -> Tensor:
    """PyTorch's kernel for :func:`gelu_tanh`."""
    return F.gelu(x, approximate="tanh")


# By Hugging Face's names in config.json ("hidden_act").
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _tanh_kernel,
    "gelu_pytorch_tanh": _tanh_kernel,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,  # the name it had before, as in Marian's checkpoints
}


def activation_named(name: str) -> Callable[[Tensor], Tensor]:
    """The activation of that name.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"hidden_act={name!r} is unknown; choose one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]

"""Linear maps by the faster of the two libraries of products that PyTorch brings for a CPU.

PyTorch multiplies matrices of float32 by Intel's MKL. On AMD's processors oneDNN, which comes with
PyTorch too, takes 7 to 30% less time for x W^T and for its gradient by x. On Intel's, and
elsewhere, PyTorch's choice stands.

N rows, I inputs, O outputs.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


class Linear(nn.Linear):
    """PyTorch's linear map, computed by :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b. The numbers are those of `F.linear` but for rounding.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,), or None.

    Returns:
        (..., O).
    """
    faster = (
        not torch.compiler.is_compiling()  # first: the compiler does not take the rest
        and prefers_onednn()
        and x.dtype == torch.float32
        and x.dim() > 1
        and is_usual(x, weight)
        and (bias is None or bias.dtype == torch.float32)
        and onednn_works(torch.float32)
    )
    if not faster:
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias)
    return onednn_linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    """Both gradients are products too, so that they have gradients of their own."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = context.saved_tensors
        by_x, by_weight, by_bias = context.needs_input_grad
        x_rows, rows = x.flatten(0, -2), gradient.flatten(0, -2)  # (N, I), (N, O)
        for_weight = None
        if by_weight and x_rows.shape[1] > rows.shape[1]:
            for_weight = linear(rows.t(), x_rows.t())  # (O, I); oneDNN copies `rows`
        elif by_weight:
            for_weight = rows.t() @ x_rows  # (O, I); a copy would cost what oneDNN gains
        return (
            linear(gradient, weight.t()) if by_x else None,  # (..., I)
            for_weight,
            rows.sum(dim=0) if by_bias else None,
        )


def is_usual(x: Tensor, weight: Tensor) -> bool:
    """Whether both are plain numbers on a CPU, which nobody but autograd follows.

    Whoever counts or records operations, compiles, casts, or derives in another way is given those
    of PyTorch that he knows.
    """
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.numel() > 0
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)  # others may be of other numbers than they say
        and weight.device == x.device
        and weight.dtype == x.dtype
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and not is_in_torch_dispatch_mode()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def onednn_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none", algorithm: str = ""
) -> Tensor:
    """activation(x W^T + b) by oneDNN, without a gradient.

    Args:
        x: (..., I).
        weight: (O, I), or what `torch.ops.mkldnn._reorder_linear_weight` made of it.
        bias: (O,), or None.
        activation, algorithm: as oneDNN calls them.

    Returns:
        (..., O).
    """
    # The kernel reads a bias as if it were contiguous.
    bias = None if bias is None else bias.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)


@cache
def prefers_onednn() -> bool:
    """Whether oneDNN is the faster one in float32: PyTorch's is MKL, and the processor AMD's."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.backends.mkl.is_available() and "AMD" in str(capabilities.get("cpu_name"))


@cache
def onednn_works(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has oneDNN's kernel for a dtype, and it computes what it should.

    It is not part of PyTorch's public interface, so it is tried before it is trusted.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    weight = (torch.arange(15.0).view(5, 3) - 7).to(dtype)  # small integers: nothing is rounded
    x, bias = weight[:2] + 1, weight[:, 0]
    try:
        with torch.no_grad():
            there = onednn_linear(x, weight, bias)  # (2, 5)
            back = onednn_linear(there, weight.t(), None)  # (2, 3)
            return torch.equal(there, F.linear(x, weight, bias)) and torch.equal(
                back, there @ weight
            )
    except (AttributeError, RuntimeError, TypeError):
        return False

"""Linear maps by the faster of the two libraries of products that PyTorch brings for a CPU.

PyTorch multiplies matrices of float32 by Intel's MKL. On AMD's processors oneDNN, which comes with
PyTorch too, is the faster one for x W^T and for its gradient by x (docs/decisions.md has the
numbers). It serves models that learn; in `eval` and without gradients PyTorch's choice stands, for
results stay nearer to Hugging Face's where both multiply by the same library. On Intel's
processors, and elsewhere, PyTorch's choice always stands.

N rows, I inputs, O outputs.
"""

from functools import cache
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.layers.dropout import Dropout
from minitransformer.layers.shortcuts import nobody_listens, only_autograd_follows


class Linear(nn.Linear):
    """PyTorch's linear map (`torch.nn.Linear`), computed by :func:`linear`.

    Tools that look for the very type `nn.Linear`, such as `torch.ao.quantization.quantize_dynamic`,
    have to be told of this one too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return linear(x, self.weight, self.bias, self.training)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, training: bool) -> Tensor:
    """x W^T + b. The numbers are those of `F.linear`; while a model learns, but for rounding.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,), or None.
        training: whether it belongs to a model that learns.

    Returns:
        (..., O).

    Raises:
        RuntimeError: the shapes or the dtypes do not fit; it is PyTorch's own.
    """
    learns = training and torch.is_grad_enabled()
    return _product(x, weight, bias) if learns else F.linear(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b by the faster library: forward, and in `backward`, which needs no gradient."""
    faster = (
        not torch.compiler.is_compiling()  # first: the compiler does not take the rest
        and prefers_onednn()
        and only_autograd_follows(x, weight, bias)
        and x.dtype == torch.float32
        and shapes_fit(x, weight, bias)
        and onednn_works()
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
        by_x, by_weight, _ = context.needs_input_grad
        # Each gradient needs the other factor; what none needs may change or go.
        context.save_for_backward(x if by_weight else None, weight if by_x else None)
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = context.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])  # (N, O)
        x_gradient = weight_gradient = bias_gradient = None
        if weight is not None:
            x_gradient = _product(gradient, weight.t())  # (..., I)
        if x is not None:
            x = x.reshape(-1, x.shape[-1])  # (N, I)
            # oneDNN copies its left factor where that lies across, which pays if it is the smaller.
            small = rows.shape[1] < x.shape[1]
            weight_gradient = _product(rows.t(), x.t()) if small else rows.t() @ x  # (O, I)
        if context.needs_input_grad[2]:
            bias_gradient = rows.sum(dim=0)  # (O,)
        return x_gradient, weight_gradient, bias_gradient


def shapes_fit(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, under_autocast: bool = False
) -> bool:
    """Whether shapes and dtypes are those of a linear map; PyTorch knows what to say of others.

    Args:
        x, weight, bias: as in :func:`linear`.
        under_autocast: whether autocast, which leaves float64 alone, makes other dtypes alike.
    """
    dtypes = {t.dtype for t in (x, weight, bias) if t is not None}
    return (
        x.dim() > 1
        and weight.dim() == 2
        and weight.shape[1:] == x.shape[-1:]
        and (bias is None or bias.shape == weight.shape[:1])
        and (len(dtypes) == 1 or (under_autocast and torch.float64 not in dtypes))
    )


def is_usual_map(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is one of the two linear maps; subclasses may compute something else."""
    return type(module) in (nn.Linear, Linear)


def nobody_sees(x: Tensor, *modules: nn.Module) -> bool:
    """Whether nobody but the caller, and autograd, sees what the modules make of x: on a CPU."""
    return all(
        type(m) is Dropout or (is_usual_map(m) and only_autograd_follows(x, m.weight, m.bias))
        for m in modules
    ) and nobody_listens(*modules)


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

    Raises:
        AttributeError, RuntimeError: this PyTorch has no such kernel.
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
def onednn_works() -> bool:
    """Whether this PyTorch has oneDNN's kernel for float32, and it computes what it should.

    It is not part of PyTorch's public interface, so it is tried before it is trusted.
    """
    small = torch.arange(15, device="cpu").view(5, 3) - 7  # integers: nothing is rounded
    weight = small.float()
    x, bias = weight[:2] + 1, weight[:, 0]
    try:
        with torch.no_grad():
            there = onednn_linear(x, weight, bias)  # (2, 5)
            back = onednn_linear(there, weight.t(), None)  # (2, 3)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.equal(there, F.linear(x, weight, bias)) and torch.equal(back, there @ weight)

"""Linear maps in float32 and bfloat16 by the faster product that PyTorch has for a CPU.

While training (:func:`linear`): PyTorch multiplies matrices of float32 by Intel's MKL, and oneDNN,
which comes with PyTorch too, is faster on some processors. On an EPYC with AVX-512, oneDNN took a
step of "MLM, one line a row" from 1.87 to 1.76 s, one of SQuAD from 4.2 to 3.9 s; on one with AVX2
alone it is the slower one. Without gradients PyTorch's choice stays, for results then lie nearer to
Hugging Face's.

Without gradients (:func:`linear_with_activation`): a linear map and its activation, each by itself,
write N O numbers, read them and write them again. Where it is faster, oneDNN applies the activation
before a block leaves the cache; elsewhere the activation at least writes in place.

Which is faster here is measured (:mod:`minitransformer.fast.measuring`). N rows, I inputs,
O outputs.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.fast.dispatch import is_plain_eager_cpu
from minitransformer.fast.measuring import is_faster
from minitransformer.layers.feed_forward import ACTIVATIONS, Activation

LIBRARIES = ("onednn", "default")
_QUESTION = "products by oneDNN while training, torch.float32"

# What oneDNN calls the activations that it knows, None among them: name and algorithm.
_FUSED: dict[Activation | None, tuple[str, str]] = {
    None: ("none", ""),
    ACTIVATIONS["gelu"]: ("gelu", "none"),
    ACTIVATIONS["gelu_new"]: ("gelu", "tanh"),
    ACTIVATIONS["relu"]: ("relu", ""),
}
_IN_PLACE: dict[Activation, Activation] = {
    ACTIVATIONS["gelu"]: torch.ops.aten.gelu_,
    ACTIVATIONS["gelu_new"]: partial(torch.ops.aten.gelu_, approximate="tanh"),
    ACTIVATIONS["relu"]: torch.relu_,
    ACTIVATIONS["silu"]: partial(F.silu, inplace=True),
}
# In float32 oneDNN's products may serve below. Above, where they are the faster ones, results would
# lie further from Hugging Face's, which multiplies by MKL.
_MOST_ROWS_IN_FLOAT32 = 512


_chosen: str | None = None  # by set_library


def measured_library() -> str:
    """The library that multiplies float32 while training, measured at the first call.

    Returns:
        "onednn" or "default", which is PyTorch's own choice.
    """
    if _chosen is not None:
        return _chosen
    if not torch.backends.mkl.is_available() or not torch.backends.mkldnn.enabled:
        return "default"
    faster = onednn_works() and is_faster(_QUESTION, _both_products, rounds=5)
    return "onednn" if faster else "default"


def set_library(name: str | None) -> None:
    """Let this library multiply from now on, whatever is measured; None: what is measured.

    A training run that is resumed goes on with the library that it began with, for the two differ
    in the last bit.

    Args:
        name: "onednn", "default" or None.

    Raises:
        ValueError: there is no such library, or this PyTorch is without it.
    """
    global _chosen
    if name not in (*LIBRARIES, None):
        raise ValueError(f"library={name!r} is unknown; choose one of {sorted(LIBRARIES)}")
    if name == "onednn" and not (torch.backends.mkldnn.enabled and onednn_works()):
        raise ValueError("library='onednn': this PyTorch cannot multiply by oneDNN; use 'default'")
    _chosen = name


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, training: bool) -> Tensor:
    """x W^T + b: the numbers of `F.linear`, and while training those but for rounding.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,), or None.
        training: whether it belongs to a model that trains.

    Returns:
        (..., O).

    Raises:
        RuntimeError: the shapes or the dtypes do not fit; it is PyTorch's own.
    """
    trains = training and torch.is_grad_enabled()
    return _product(x, weight, bias) if trains else F.linear(x, weight, bias)


def linear_with_activation(
    x: Tensor, module: nn.Linear, activation: Activation | None = None
) -> Tensor:
    """activation(x W^T + b), with fewer passes over memory where no gradient is needed.

    The numbers are the same but for rounding: in bfloat16, what the activation takes is not
    rounded.

    Args:
        x: (..., I), on a CPU, with nothing but autograd to see what is computed.
        module: computes x W^T + b and has no hooks: `nn.Linear` or its twin.
        activation: of :data:`minitransformer.layers.feed_forward.ACTIVATIONS`, or any other; or
            None.

    Returns:
        (..., O).
    """
    if torch.is_grad_enabled() or not _shapes_fit(x, module.weight, module.bias):
        product = module(x)
        return product if activation is None else activation(product)
    num_rows = x.numel() // x.shape[-1]
    may_fuse = num_rows <= _MOST_ROWS_IN_FLOAT32 or x.dtype == torch.bfloat16
    if may_fuse and activation in _FUSED and _fusing_pays(x.dtype, activation, num_rows):
        return onednn_linear(x, module.weight, module.bias, *_FUSED[activation])
    product = module(x)
    return product if activation is None else _IN_PLACE.get(activation, activation)(product)


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
def onednn_works() -> bool:
    """Whether this PyTorch has oneDNN's kernel for float32, and it computes what it should.

    It is not part of PyTorch's public interface, so it is tried before it is trusted.
    """
    small = torch.arange(15, device="cpu").view(5, 3) - 7  # integers: nothing is rounded
    weight = small.float()
    x, bias = weight[:2] + 1, weight[:, 0]
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            there = onednn_linear(x, weight, bias)  # (2, 5)
            back = onednn_linear(there, weight.t(), None)  # (2, 3)
            expected = F.linear(x, weight, bias)
            return torch.equal(there, expected) and torch.equal(back, expected @ weight)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b by the faster library: forward, and in `backward`, which needs no gradient."""
    faster = (
        is_plain_eager_cpu(x, weight, bias)  # first: the compiler cannot trace the rest
        and x.dtype == torch.float32
        and _shapes_fit(x, weight, bias)
        and measured_library() == "onednn"
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
        for_x, for_weight, _ = context.needs_input_grad
        # Each gradient needs the other factor; what none needs may change or be freed.
        context.save_for_backward(x if for_weight else None, weight if for_x else None)
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
            # oneDNN copies a transposed left factor, which pays where that is the smaller one.
            is_small = rows.shape[1] < x.shape[1]
            weight_gradient = _product(rows.t(), x.t()) if is_small else rows.t() @ x  # (O, I)
        if context.needs_input_grad[2]:
            bias_gradient = rows.sum(dim=0)  # (O,)
        return x_gradient, weight_gradient, bias_gradient


def _both_products() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The maps of a layer of a base model, by PyTorch's choice and by oneDNN."""
    # Not drawn: measuring must not move the generator that training draws from.
    x, square, wide = (ones(rows, 768) for rows in (1024, 768, 3072))
    bias = ones(3072)

    def multiply(way: Callable[..., Tensor]) -> None:
        way(x, square, bias[:768])
        way(x, wide, bias)

    return partial(multiply, F.linear), partial(multiply, onednn_linear)


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Something to measure with, on the CPU, whatever the default dtype and device."""
    return torch.ones(*shape, dtype=dtype, device="cpu")


def _fusing_pays(dtype: torch.dtype, activation: Activation | None, num_rows: int) -> bool:
    """Whether oneDNN's product with the activation is faster than PyTorch's, then it in place."""
    if not _kernel_works(dtype, activation):
        return False
    measured = 16 if num_rows <= 32 else 256
    name = f"a linear map fused with {_FUSED[activation][0]}, {measured} rows, {dtype}"
    return is_faster(name, partial(_fused_or_not, dtype, activation, measured))


def _fused_or_not(
    dtype: torch.dtype, activation: Activation | None, num_rows: int
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    x, weight, bias = (
        ones(num_rows, 768, dtype=dtype),
        ones(3072, 768, dtype=dtype),
        ones(3072, dtype=dtype),
    )

    def separate() -> Tensor:
        product = F.linear(x, weight, bias)
        return product if activation is None else _IN_PLACE[activation](product)

    return separate, lambda: onednn_linear(x, weight, bias, *_FUSED[activation])


def _shapes_fit(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether shapes and dtypes are those of a linear map; of others PyTorch says what is wrong."""
    return (
        x.dim() > 1
        and weight.dim() == 2
        and weight.shape[1:] == x.shape[-1:]
        and (bias is None or bias.shape == weight.shape[:1])
        and len({t.dtype for t in (x, weight, bias) if t is not None}) == 1
    )


@cache
def _kernel_works(dtype: torch.dtype, activation: Activation | None) -> bool:
    """Whether this PyTorch has oneDNN's kernel with this activation, and it is right.

    It is not part of PyTorch's public interface, so it is tried before it is trusted.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    weight = ((torch.arange(15, device="cpu").view(5, 3) - 7) / 8).to(dtype)
    x, bias = weight[:2], weight[:, 0]
    try:
        found = onednn_linear(x, weight, bias, *_FUSED[activation])
    except (AttributeError, RuntimeError, TypeError):
        return False
    with torch.autocast("cpu", enabled=False):
        expected = F.linear(x.float(), weight.float(), bias.float())
    expected = (expected if activation is None else activation(expected)).to(dtype)
    return torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-5) and (
        dtype == torch.bfloat16 or torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    )

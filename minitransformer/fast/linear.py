"""Linear layers in float32 and bfloat16 by the faster matrix product of PyTorch on this CPU.

In training (:func:`linear`): PyTorch multiplies float32 matrices by Intel's MKL. oneDNN, which also
comes with PyTorch, is faster on some processors. On an EPYC with AVX-512, oneDNN reduced a step of
"MLM, one line per sequence" from 1.87 to 1.76 s and one of "SQuAD, windows of 384" from 4.2 to
3.9 s. On an EPYC with AVX2 only, it is nearly as fast as MKL in the forward pass, but half to three
quarters as fast in the gradients, so both passes are measured. Without gradients MKL stays, because
its results are closer to Hugging Face's, but for what follows.

Without gradients (:func:`linear_with_activation`): a linear layer and then its activation write N O
numbers, read them and write them again. oneDNN applies the activation before a block leaves the
cache, and is used where that is faster; elsewhere the activation is computed in place. Speeds up
the inference rows, together with :mod:`minitransformer.fast.feed_forward`.

Without gradients, for few rows (:func:`transposed_linear`): x W^T is (W x^T)^T, which MKL computes
up to 1.5 times as fast on the EPYC with AVX2. Speeds up the row "encode one sequence of 16 tokens",
there from 0.90 to 1.00 times a compiled transformers.

Which way is faster is measured on the processor at hand (:mod:`minitransformer.fast.measuring`).
Measurements: benchmarks/results/README.md, "Measurements behind decisions".

N rows, I inputs, O outputs.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.fast.dispatch import is_plain_eager_cpu, shapes_fit
from minitransformer.fast.half_precision import is_faster_in_float32, linear_in_float32
from minitransformer.fast.measuring import Ways, is_faster
from minitransformer.layers.feed_forward import ACTIVATIONS, Activation
from minitransformer.names import shortened

LIBRARIES = ("onednn", "default")
_COMPARISON = "products by oneDNN while training, torch.float32"

# oneDNN's name and algorithm of each activation that it can fuse; None is no activation.
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
# In float32, oneDNN is used for at most so many rows. For more rows it may be faster too, but its
# results would be further from those of Hugging Face, which multiplies by MKL.
_MAX_ROWS_IN_FLOAT32 = 512
_MEASURED_ROWS = (8, 16, 64, 256)
_ROUNDS = 3  # of a measurement with that many
# A transposed product is hardly faster for more rows. It is measured with a weight of a base model,
# and used for those of layers, not of vocabularies.
_MAX_ROWS_TRANSPOSED = 64
_TRANSPOSED_SIZES = (2**18, 2**23)

_chosen: str | None = None  # by set_library


def measured_library() -> str:
    """The library that multiplies float32 matrices in training, measured at the first call.

    Returns:
        "onednn" or "default", which is PyTorch's own choice.
    """
    if _chosen is not None:
        return _chosen
    if not torch.backends.mkl.is_available() or not torch.backends.mkldnn.enabled:
        return "default"
    faster = onednn_works() and is_faster(_COMPARISON, _both_products, rounds=5)
    return "onednn" if faster else "default"


def set_library(name: str | None) -> None:
    """Use this library from now on, or with None, the one that is measured to be faster.

    A resumed training run continues with the library that it began with, because the results of the
    two differ in the last bit.

    Args:
        name: "onednn", "default" or None.

    Raises:
        ValueError: the library is unknown, or this PyTorch does not have it.
    """
    global _chosen
    if name not in (*LIBRARIES, None):
        raise ValueError(f"library={shortened(name)} is unknown; choose one of {sorted(LIBRARIES)}")
    if name == "onednn" and not (torch.backends.mkldnn.enabled and onednn_works()):
        raise ValueError("library='onednn': this PyTorch cannot multiply by oneDNN; use 'default'")
    _chosen = name


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, training: bool) -> Tensor:
    """x W^T + b, equal to `F.linear` up to rounding.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,), or None.
        training: whether the module is in training mode.

    Returns:
        (..., O).

    Raises:
        RuntimeError: the shapes or the dtypes do not match; raised by PyTorch.
    """
    if training and torch.is_grad_enabled():
        return _product(x, weight, bias)
    if is_faster_in_float32(x, weight, bias):
        return linear_in_float32(x, weight, bias)
    if _is_faster_transposed(x, weight, bias):
        return transposed_linear(x, weight, bias)
    return F.linear(x, weight, bias)


def transposed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, computed as (W x^T + b)^T: the same sums, with other blocks of the matrices.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,), or None.

    Returns:
        (..., O).
    """
    columns = x.reshape(-1, x.shape[-1]).t()  # (I, N)
    product = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)
    return product.t().contiguous().view(*x.shape[:-1], len(weight))


def linear_with_activation(
    x: Tensor, module: nn.Linear, activation: Activation | None = None
) -> Tensor:
    """activation(x W^T + b), with fewer passes over memory where no gradient is needed.

    The numbers are the same up to rounding: in bfloat16, the input of a fused activation is not
    rounded.

    Args:
        x: (..., I), on a CPU; nothing but autograd observes what is computed.
        module: `nn.Linear` or its twin, without hooks.
        activation: one of :data:`minitransformer.layers.feed_forward.ACTIVATIONS`, or any other
            function; None for none.

    Returns:
        (..., O).
    """
    if torch.is_grad_enabled() or not shapes_fit(x, module.weight, module.bias):
        product = module(x)
        return product if activation is None else activation(product)
    num_rows = x.numel() // x.shape[-1]
    may_fuse = num_rows <= _MAX_ROWS_IN_FLOAT32 or x.dtype == torch.bfloat16
    if may_fuse and activation in _FUSED and _is_fusing_faster(x.dtype, activation, num_rows):
        return onednn_linear(x, module.weight, module.bias, *_FUSED[activation])
    product = module(x)
    return product if activation is None else _IN_PLACE.get(activation, activation)(product)


def onednn_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none", algorithm: str = ""
) -> Tensor:
    """activation(x W^T + b) by oneDNN, without a gradient.

    Args:
        x: (..., I).
        weight: (O, I), or the result of `torch.ops.mkldnn._reorder_linear_weight` for it.
        bias: (O,), or None.
        activation, algorithm: oneDNN's names.

    Returns:
        (..., O).

    Raises:
        AttributeError, RuntimeError: this PyTorch has no such kernel.
    """
    # The kernel ignores the stride of a bias.
    bias = None if bias is None else bias.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)


@cache
def onednn_works() -> bool:
    """Whether this PyTorch has oneDNN's kernel for float32, and its results are right.

    The kernel is not part of PyTorch's public interface, so it is tested before it is used.
    """
    small = torch.arange(15, device="cpu").view(5, 3) - 7  # integers: nothing is rounded
    weight = small.float()
    x, bias = weight[:2] + 1, weight[:, 0]
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            product = onednn_linear(x, weight, bias)  # (2, 5)
            transposed = onednn_linear(product, weight.t(), None)  # (2, 3)
            expected = F.linear(x, weight, bias)
            return torch.equal(product, expected) and torch.equal(transposed, expected @ weight)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b by the faster library, in the forward and the backward pass."""
    faster = (
        is_plain_eager_cpu(x, weight, bias)  # first: the compiler cannot trace the rest
        and x.dtype == torch.float32
        and shapes_fit(x, weight, bias)
        and measured_library() == "onednn"
    )
    if not faster:
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias)
    return onednn_linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    """x W^T + b by oneDNN, with gradients of any order: each is a product of the same kind."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        for_x, for_weight, _ = context.needs_input_grad
        # Each gradient needs the other factor. A factor that is not saved may change or be freed.
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
            # oneDNN copies a transposed left factor, which pays if that is the smaller of the two.
            is_small = rows.shape[1] < x.shape[1]
            weight_gradient = _product(rows.t(), x.t()) if is_small else rows.t() @ x  # (O, I)
        if context.needs_input_grad[2]:
            bias_gradient = rows.sum(dim=0)  # (O,)
        return x_gradient, weight_gradient, bias_gradient


def _both_products() -> Ways:
    """Forward product and gradient of x of two linear layers, by PyTorch's choice and by oneDNN.

    The layers have the sizes of a base model. oneDNN's product with a transposed factor, as in the
    gradient, may be much slower than that of the forward pass. The gradient of a weight is mostly
    left to MKL.
    """
    # Not random: measuring must not advance the generator that training uses.
    x, square, wide, gradient = (ones(rows, 768) for rows in (512, 768, 3072, 512))
    wide_gradient, bias = ones(512, 3072), ones(3072)

    def multiply(product: Callable[..., Tensor]) -> None:
        for weight, of_output in ((square, gradient), (wide, wide_gradient)):
            product(x, weight, bias[: len(weight)])  # (512, O)
            product(of_output, weight.t(), None)  # the gradient of x, (512, 768)

    return partial(multiply, F.linear), partial(multiply, onednn_linear)


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Ones to measure with, on the CPU, whatever the default dtype and device are."""
    return torch.ones(*shape, dtype=dtype, device="cpu")


def _is_faster_transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether :func:`transposed_linear` may replace a product, and is faster on this processor."""
    return (
        is_plain_eager_cpu(x, weight, bias)  # first: the compiler cannot trace the rest
        and not torch.is_grad_enabled()
        and x.dtype == torch.float32
        and shapes_fit(x, weight, bias)
        and 1 < (num_rows := x.numel() // x.shape[-1]) <= _MAX_ROWS_TRANSPOSED
        and _TRANSPOSED_SIZES[0] <= weight.numel() <= _TRANSPOSED_SIZES[1]
        and _is_transposing_faster(_measured_rows(num_rows))
    )


def _is_transposing_faster(num_rows: int) -> bool:
    name = f"products of {num_rows} rows, transposed, torch.float32"
    return is_faster(name, partial(_usual_and_transposed, num_rows), _ROUNDS)


def _usual_and_transposed(num_rows: int) -> Ways:
    x, bias, weights = ones(num_rows, 768), ones(3072), weights_of_layers()
    return (
        lambda: [F.linear(x, weight, bias) for weight in weights],
        lambda: [transposed_linear(x, weight, bias) for weight in weights],
    )


def _measured_rows(num_rows: int) -> int:
    """The nearest number of rows that is measured."""
    return min(_MEASURED_ROWS, key=lambda rows: abs(math.log(rows / num_rows)))


def weights_of_layers(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Of several layers, (3072, 768) each: 64 MB, as a cache does not hold those of a model."""
    return [ones(3072, 768, dtype=dtype) for _ in range(2**26 // (3072 * 768 * dtype.itemsize))]


def _is_fusing_faster(dtype: torch.dtype, activation: Activation | None, num_rows: int) -> bool:
    """Whether oneDNN's fused kernel is faster than a product and then the activation in place."""
    if not _kernel_works(dtype, activation):
        return False
    measured_rows = _measured_rows(num_rows)
    name = f"a linear map fused with {_FUSED[activation][0]}, {measured_rows} rows, {dtype}"
    return is_faster(name, partial(_separate_and_fused, dtype, activation, measured_rows), _ROUNDS)


def _separate_and_fused(dtype: torch.dtype, activation: Activation | None, num_rows: int) -> Ways:
    x, bias = ones(num_rows, 768, dtype=dtype), ones(3072, dtype=dtype)
    weights = weights_of_layers(dtype)

    def separate(weight: Tensor) -> Tensor:
        product = linear(x, weight, bias, training=False)
        return product if activation is None else _IN_PLACE[activation](product)

    return (
        lambda: [separate(weight) for weight in weights],
        lambda: [onednn_linear(x, weight, bias, *_FUSED[activation]) for weight in weights],
    )


@cache
def _kernel_works(dtype: torch.dtype, activation: Activation | None) -> bool:
    """Whether this PyTorch has oneDNN's kernel with this activation, and its results are right.

    The kernel is not part of PyTorch's public interface, so it is tested before it is used.
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

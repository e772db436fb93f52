"""Linear maps in float32 and bfloat16 by the faster product that PyTorch has for a CPU.

While training (:func:`linear`): PyTorch multiplies matrices of float32 by Intel's MKL, and oneDNN,
which comes with PyTorch too, is faster on some processors, AMD's EPYC among them: 207 to 212
GFLOP/s against 182 to 188 for x W^T with 2,080 rows on two cores. Which is faster here is measured
once in a process (:func:`measured_library`), never read off the processor's name. It takes a step
of "MLM, one line a row" from 1.87 to 1.76 s, one of SQuAD from 4.2 to 3.9 s. Without gradients
PyTorch's choice stays, for results then lie nearer to Hugging Face's.

Without gradients (:func:`linear_with_activation`): a linear map and its activation, each by itself,
write N O numbers, read them and write them again. oneDNN applies the activation before a block
leaves the cache; where its products are the slower ones, the activation at least writes in place.
Serves "encode one row" and "encode, ragged rows".

Measured: see docs/decisions.md. N rows, I inputs, O outputs.
"""

import time
from collections.abc import Callable
from functools import cache, partial
from threading import Lock
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.fast.dispatch import is_plain_eager_cpu
from minitransformer.layers.feed_forward import ACTIVATIONS, Activation

LIBRARIES = ("onednn", "default")
_WORTH_IT = 1.05  # oneDNN has to be faster by so much
# (N, I, O) of the products that are measured: the maps of a base model, few enough to be quick.
_MEASURED_SHAPES = ((1024, 768, 768), (1024, 768, 3072))
_MEASURED_ROUNDS = 4

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
# In float32 oneDNN's products are the faster ones below, by up to a tenth. Above, they are the
# slower ones on Intel's processors; on AMD's they would be faster, but results would lie further
# from Hugging Face's, which multiplies by MKL.
_MOST_ROWS_IN_FLOAT32 = 512


class Measurement(NamedTuple):
    """Which library multiplies while training, and why."""

    library: str  # "onednn" or "default", PyTorch's choice
    ratio: float | None  # time by default / time by oneDNN; None where nothing was measured


_measurement: Measurement | None = None
_measuring = Lock()


def measured_library() -> str:
    """The library that multiplies float32 while training, measured at the first call.

    Returns:
        "onednn" or "default", which is PyTorch's own choice.
    """
    return measurement().library


def measurement() -> Measurement:
    """:func:`measured_library`, and how much faster oneDNN was."""
    global _measurement
    if not torch.backends.mkldnn.enabled:  # for now: it may be switched on again
        return Measurement("default", None)
    with _measuring:
        if _measurement is None:
            _measurement = _measure()
        return _measurement


def set_library(name: str) -> None:
    """Let this library multiply from now on, whatever is measured.

    A training run that is resumed goes on with the library that it began with, for the two differ
    in the last bit.

    Args:
        name: "onednn" or "default".

    Raises:
        ValueError: there is no such library, or this PyTorch is without it.
    """
    global _measurement
    if name not in LIBRARIES:
        raise ValueError(f"library={name!r} is unknown; choose one of {sorted(LIBRARIES)}")
    if name == "onednn" and not onednn_works():
        raise ValueError("library='onednn': this PyTorch cannot multiply by oneDNN; use 'default'")
    with _measuring:
        _measurement = Measurement(name, None)


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
    x: Tensor, linear: nn.Linear, activation: Activation | None = None
) -> Tensor:
    """activation(x W^T + b), with fewer passes over memory where no gradient is needed.

    The numbers are the same but for rounding: in bfloat16, what the activation takes is not
    rounded.

    Args:
        x: (..., I), on a CPU, with nothing but autograd to see what is computed.
        linear: computes x W^T + b and has no hooks: `nn.Linear` or its twin.
        activation: of :data:`minitransformer.layers.feed_forward.ACTIVATIONS`, or any other; or
            None.

    Returns:
        (..., O).
    """
    if torch.is_grad_enabled() or not _shapes_fit(x, linear.weight, linear.bias):
        product = linear(x)
        return product if activation is None else activation(product)
    faster = _num_rows(x) <= _MOST_ROWS_IN_FLOAT32 or x.dtype == torch.bfloat16
    if faster and activation in _FUSED and _kernel_works(x.dtype, activation):
        return onednn_linear(x, linear.weight, linear.bias, *_FUSED[activation])
    product = linear(x)
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
        with torch.no_grad():
            there = onednn_linear(x, weight, bias)  # (2, 5)
            back = onednn_linear(there, weight.t(), None)  # (2, 3)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.equal(there, F.linear(x, weight, bias)) and torch.equal(back, there @ weight)


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


def _measure() -> Measurement:
    """Multiply by both in turns, a few products of usual shapes: some 0.3 s."""
    if not torch.backends.mkl.is_available() or not onednn_works():
        return Measurement("default", None)
    ratio = _measured_ratio()
    return Measurement("onednn" if ratio >= _WORTH_IT else "default", ratio)


def _measured_ratio() -> float:
    """Time of PyTorch's choice over that of oneDNN, summed over the shapes.

    The least of many short times each: one that no other process disturbed is among them.
    """
    ways: tuple[Callable[..., Tensor], ...] = (F.linear, onednn_linear)
    least = [0.0, 0.0]
    float32: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for num_rows, inputs, outputs in _MEASURED_SHAPES:
            # Not drawn: measuring must not move the generator that training draws from.
            x = torch.linspace(-1, 1, num_rows * inputs, **float32).view(num_rows, inputs)
            weight = torch.linspace(-1, 1, outputs * inputs, **float32).view(outputs, inputs)
            bias = weight[:, 0].contiguous()
            times = [[_seconds(w, x, weight, bias) for w in ways] for _ in range(_MEASURED_ROUNDS)]
            for number, taken in enumerate(zip(*times, strict=True)):
                least[number] += min(taken)
    return least[0] / least[1]


def _seconds(way: Callable[..., Tensor], *arguments: Tensor) -> float:
    start = time.perf_counter()
    way(*arguments)
    return time.perf_counter() - start


def _shapes_fit(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether shapes and dtypes are those of a linear map; of others PyTorch says what is wrong."""
    return (
        x.dim() > 1
        and weight.dim() == 2
        and weight.shape[1:] == x.shape[-1:]
        and (bias is None or bias.shape == weight.shape[:1])
        and len({t.dtype for t in (x, weight, bias) if t is not None}) == 1
    )


def _num_rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


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
    expected = F.linear(x.float(), weight.float(), bias.float())
    expected = (expected if activation is None else activation(expected)).to(dtype)
    return torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-5) and (
        dtype == torch.bfloat16 or torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    )

"""Linear maps without gradients, on a CPU: fewer passes over memory for the same numbers.

A linear map and the activation after it, each by itself, write N O numbers, read them and write
them again elsewhere; for the tokens of a batch that is as much time as a fifth of the product.
oneDNN, which comes with PyTorch, applies the activation to each block before it leaves the cache.
Where its products are slower than PyTorch's usual ones, in float32 from some hundred rows on,
the activation at least writes where it reads.

N rows, I inputs, O outputs.
"""

from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.layers.activations import ACTIVATIONS
from minitransformer.layers.linear import nobody_sees, onednn_linear, shapes_fit

Activation = Callable[[Tensor], Tensor]

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


def fused_linear(x: Tensor, linear: nn.Linear, activation: Activation | None = None) -> Tensor:
    """activation(x W^T + b), with fewer passes over memory on a CPU where no gradient is needed.

    The numbers are the same but for rounding: in bfloat16, what the activation takes is not
    rounded.

    Args:
        x: (..., I).
        linear: from I to O.
        activation: of :data:`minitransformer.layers.activations.ACTIVATIONS`, or any other; or
            None.

    Returns:
        (..., O).
    """
    unseen = not torch.is_grad_enabled() and nobody_sees(x, linear)
    if not unseen or not shapes_fit(x, linear.weight, linear.bias):
        product = linear(x)
        return product if activation is None else activation(product)
    few = x.numel() <= _MOST_ROWS_IN_FLOAT32 * x.shape[-1]
    faster = few or x.dtype == torch.bfloat16
    if faster and activation in _FUSED and _kernel_works(x.dtype, activation):
        return onednn_linear(x, linear.weight, linear.bias, *_FUSED[activation])
    product = linear(x)
    return product if activation is None else _IN_PLACE.get(activation, activation)(product)


@cache
def _kernel_works(dtype: torch.dtype, activation: Activation | None) -> bool:
    """Whether this PyTorch has oneDNN's kernel, and it computes what it should.

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

"""A linear map and the activation after it in one pass, where oneDNN does both.

By themselves a product of N rows and a GELU of what it gives write N O numbers to memory, read them
and write them again; for the tokens of a batch that is as much time as a fifth of the product.
oneDNN, which comes with PyTorch, applies the activation to each block before it leaves the cache.

N rows, I inputs, O outputs.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from minitransformer.layers.activations import ACTIVATIONS

Activation = Callable[[Tensor], Tensor]

# What oneDNN calls the activations that it knows: name and algorithm.
_FUSED: dict[Activation, tuple[str, str]] = {
    ACTIVATIONS["gelu"]: ("gelu", "none"),
    ACTIVATIONS["gelu_new"]: ("gelu", "tanh"),
    ACTIVATIONS["relu"]: ("relu", ""),
}


def activated_linear(x: Tensor, linear: nn.Linear, activation: Activation) -> Tensor:
    """activation(x W^T + b), in one pass on a CPU that needs no gradient.

    The numbers are the same but for rounding: in bfloat16, what the activation takes is not
    rounded.

    Args:
        x: (..., I).
        linear: from I to O.
        activation: of :data:`minitransformer.layers.activations.ACTIVATIONS`, or any other.

    Returns:
        (..., O).
    """
    if not _serves(x, linear, activation):
        return activation(linear(x))
    name, algorithm = _FUSED[activation]
    # The kernel reads a bias as if it were contiguous.
    bias = None if linear.bias is None else linear.bias.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, linear.weight, bias, name, [], algorithm)


def _serves(x: Tensor, linear: nn.Linear, activation: Activation) -> bool:
    return (
        type(linear) is nn.Linear  # others may compute something else
        and type(linear.weight) is nn.Parameter  # as may other kinds of tensors
        and type(x) is Tensor
        and activation in _FUSED
        and x.device.type == "cpu"
        and x.dtype == linear.weight.dtype
        and x.numel() > 0
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and bool(torch.backends.mkldnn.enabled)
        # Somebody looks at what the linear map gives, or has put something in its place.
        and not (linear._forward_hooks or linear._forward_pre_hooks or "forward" in vars(linear))
        and not nn.modules.module._has_any_global_hook()
        and _kernel_works(x.dtype, activation)
    )


@cache
def _kernel_works(dtype: torch.dtype, activation: Activation) -> bool:
    """Whether this PyTorch has oneDNN's kernel, and it computes what it should.

    It is not part of PyTorch's public interface, so it is tried before it is trusted.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    weight = ((torch.arange(15.0).view(5, 3) - 7) / 8).to(dtype)
    x, bias = weight[:2], weight[:, 0].contiguous()
    name, algorithm = _FUSED[activation]
    try:
        found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
    except (AttributeError, RuntimeError, TypeError):
        return False
    products = nn.functional.linear(x.float(), weight.float(), bias.float())
    expected = activation(products).to(dtype)
    return torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-5) and (
        dtype == torch.bfloat16 or torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    )

"""Dispatch guards: when a twin may compute its numbers in another way than the plain module.

A faster computation may run only where nothing except the caller and autograd can observe the
difference. Anything that observes or transforms operations (torch.compile, torch.export, jit
traces, dispatch modes such as a FLOP counter, vmap and the other transforms of `torch.func`,
forward-mode AD, autocast, tensor subclasses, hooks) gets the plain modules and PyTorch's public
operations. The guards themselves save no time; every technique of this package checks them first.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.utils._python_dispatch as python_dispatch
from torch import Tensor, nn
from torch.autograd import forward_ad


def _private(module: Any, name: str) -> Callable[..., bool]:
    """A private predicate of PyTorch; where it does not exist, one that is always true."""
    return getattr(module, name, lambda *_: True)


_in_functorch_transform = _private(torch._C, "_are_functorch_transforms_active")
_in_dispatch_mode = _private(python_dispatch, "is_in_torch_dispatch_mode")
_has_global_hook = _private(nn.modules.module, "_has_any_global_hook")
_is_batched = _private(getattr(torch._C, "_functorch", None), "is_legacy_batchedtensor")


def is_plain_eager(*tensors: Tensor | None, under_autocast: bool = False) -> bool:
    """Whether nothing but autograd observes operations on these tensors, and they have values.

    Args:
        tensors: the inputs, on any device; None is skipped. An empty tensor makes it False.
        under_autocast: whether the caller handles autocast itself.
    """
    if torch.compiler.is_compiling():  # first: the compiler cannot trace the rest
        return False
    if torch.jit.is_tracing() or _in_dispatch_mode() or not is_reverse_mode_only():
        return False
    for tensor in tensors:  # a loop: `all` takes twice as long, and every layer calls this
        if tensor is None:
            continue
        if not _is_plain(tensor) or (
            not under_autocast and torch.is_autocast_enabled(tensor.device.type)
        ):
            return False
        if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
            return False
    return True


def is_plain_eager_cpu(*tensors: Tensor | None) -> bool:
    """:func:`is_plain_eager`, with all tensors on a CPU and oneDNN switched on."""
    if torch.compiler.is_compiling():
        return False
    for tensor in tensors:
        if tensor is not None and not (type(tensor) in _TYPES and tensor.is_cpu):
            return False
    return bool(torch.backends.mkldnn.enabled) and is_plain_eager(*tensors)


def shapes_fit(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether shapes and dtypes match; if not, PyTorch's own function raises the error."""
    return (
        x.dim() > 1
        and weight.dim() == 2
        and weight.shape[1:] == x.shape[-1:]
        and (bias is None or bias.shape == weight.shape[:1])
        and len({t.dtype for t in (x, weight, bias) if t is not None}) == 1
    )


def is_reverse_mode_only() -> bool:
    """Whether neither forward-mode AD nor a transform of `torch.func` is active."""
    return not _in_functorch_transform() and getattr(forward_ad, "_current_level", 0) < 0


_THE_SAME = "computes_the_same"  # an attribute of such a forward


def has_no_hooks(*modules: nn.Module) -> bool:
    """Whether these modules have no hooks, and each runs the forward of its class.

    PyTorch's global module hooks count, and so does a `forward` that was set on the instance, as
    some tools do, unless it says that it computes the same, as that of gradient checkpointing does.
    """
    return not _has_global_hook() and not any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or ("forward" in vars(module) and not getattr(module.forward, _THE_SAME, False))
        for module in modules
    )


_TYPES = (Tensor, nn.Parameter)  # a subclass may redefine operations


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in _TYPES
        and not tensor.is_meta
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and not _is_batched(tensor)
        and tensor.numel() > 0
    )

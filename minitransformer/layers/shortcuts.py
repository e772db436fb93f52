"""When a layer may compute the same numbers in another way than its formula says.

Only on a CPU, and only where nobody but the caller, and autograd, can tell. Whoever hooks a module,
counts or records operations, compiles, casts (but where a caller knows about autocast), or derives
in another way is given the modules and the operations of PyTorch that he knows.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.utils._python_dispatch as python_dispatch
from torch import Tensor, nn
from torch.autograd import forward_ad


def _asked_of_pytorch(module: Any, name: str) -> Callable[..., bool]:
    """A private function of PyTorch's; of a PyTorch without it, that the answer is always yes."""
    return getattr(module, name, lambda *_: True)


_transforms_are_active = _asked_of_pytorch(torch._C, "_are_functorch_transforms_active")
_operations_are_followed = _asked_of_pytorch(python_dispatch, "is_in_torch_dispatch_mode")
_all_modules_have_hooks = _asked_of_pytorch(nn.modules.module, "_has_any_global_hook")
_functorch = getattr(torch._C, "_functorch", None)
is_batched = _asked_of_pytorch(_functorch, "is_legacy_batchedtensor")


def only_autograd_follows(*tensors: Tensor | None, under_autocast: bool = False) -> bool:
    """Whether all are plain numbers on a CPU, and only autograd sees what is done with them.

    Args:
        tensors: what is computed with; None counts for nothing.
        under_autocast: whether the caller knows what to do where autocast is on.
    """
    return (
        not torch.compiler.is_compiling()
        and all(tensor is None or _is_plain(tensor) for tensor in tensors)
        and bool(torch.backends.mkldnn.enabled)
        and (under_autocast or not torch.is_autocast_enabled("cpu"))
        and not torch.jit.is_tracing()
        and not _operations_are_followed()
        and only_backward_derives()
    )


def only_backward_derives() -> bool:
    """Whether nobody derives forward, or by the transforms of `torch.func`."""
    return not _transforms_are_active() and getattr(forward_ad, "_current_level", 0) < 0


def nobody_listens(*modules: nn.Module) -> bool:
    """Whether no hook of the modules sees their numbers or gradients, and all compute as usual."""
    return not _all_modules_have_hooks() and not any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
        for module in modules
    )


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)  # others may be of other numbers than they say
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and not is_batched(tensor)
        and tensor.numel() > 0
    )

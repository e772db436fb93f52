"""When a layer may compute the same numbers in another way than its formula says.

Only on a CPU, and only where nobody but the caller, and autograd, can tell. Whoever hooks a module,
counts or records operations, compiles, casts, or derives in another way is given the modules and
the operations of PyTorch that he knows.
"""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def only_autograd_follows(*tensors: Tensor | None) -> bool:
    """Whether all are plain numbers on a CPU, and only autograd sees what is done with them."""
    return (
        not torch.compiler.is_compiling()
        and all(tensor is None or _is_plain(tensor) for tensor in tensors)
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and not is_in_torch_dispatch_mode()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def nobody_listens(*modules: nn.Module) -> bool:
    """Whether no hook sees what the modules take and give, and none has another `forward`."""
    return not nn.modules.module._has_any_global_hook() and not any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        for module in modules
    )


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)  # others may be of other numbers than they say
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
        and tensor.numel() > 0
    )

"""Whether the numbers in a tensor can be looked at now, or only operations on them are recorded."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

# Private in PyTorch, as are the two imports above: nothing public says it.
_transforms_are_active = torch._C._are_functorch_transforms_active


def values_are_readable(*tensors: Tensor) -> bool:
    """Whether `bool(tensor.any())` and the like may be asked of all tensors.

    Not while torch.compile, torch.export or torch.jit.trace records, under vmap and the other
    transforms of torch.func, of fake tensors and those on the meta device, and not while a CUDA
    graph is captured.
    """
    return not (
        torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
        or torch.jit.is_tracing()
        or _transforms_are_active()
        or any(
            type(mode).__name__ == "FakeTensorMode" for mode in _get_current_dispatch_mode_stack()
        )
        or any(isinstance(tensor, FakeTensor) or tensor.is_meta for tensor in tensors)
        or (any(tensor.is_cuda for tensor in tensors) and torch.cuda.is_current_stream_capturing())
    )

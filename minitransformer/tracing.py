"""Whether the values of a tensor can be read, or operations on it are only being recorded."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

# Private, as are the two imports above: PyTorch has no public function that tells this.
_transforms_are_active = torch._C._are_functorch_transforms_active


def values_are_readable(*tensors: Tensor) -> bool:
    """Whether the values of all tensors can be read, as `bool(tensor.any())` does.

    They cannot while torch.compile, torch.export or torch.jit.trace is recording, under vmap and
    the other transforms of torch.func, for fake tensors and tensors on the meta device, and while a
    CUDA graph is being captured.
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

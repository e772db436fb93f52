"""Which operations PyTorch carried out, and so, which of its attention kernels."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

STEPS = "products and softmax"  # the formula, step by step


class OperationNames(TorchDispatchMode):
    """Notes the name of every operation that PyTorch carries out within it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        self.names.append(function.overloadpacket.__name__)
        return function(*arguments, **(keywords or {}))

    def kernel(self) -> str:
        """PyTorch's fused kernel, or that the formula was computed step by step, or nothing."""
        fused = [n for n in dict.fromkeys(self.names) if "attention" in n and "backward" not in n]
        if fused:
            return ", ".join(fused)
        return STEPS if any("softmax" in name for name in self.names) else ""

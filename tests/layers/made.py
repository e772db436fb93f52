"""What operations give that is not a view of what they were given."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Made(TorchDispatchMode):
    """Notes the name of each operation that makes a tensor, and the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[str, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            given = [a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)]
            if result.untyped_storage().data_ptr() not in given:
                self.noted.append((func.overloadpacket.__name__, result))
        return result

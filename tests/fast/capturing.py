"""A CUDA graph on the CPU: the operations of one run, repeated on the same memory.

Like the real one it knows nothing of what Python did between them, and breaks where a number is
read on the way.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minitransformer.fast import cuda_graph, model_twins

Run = Callable[[], Tensor]
READING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_unique2", "masked_select"}


class Operations(TorchDispatchMode):
    """Notes each operation with its arguments and its results."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in READING, f"{name} reads what is only being captured"
        results = func(*args, **(kwargs or {}))
        self.noted.append((func, args, kwargs or {}, results))
        return results

    def repeat(self) -> None:
        """Do the same with the same memory."""
        for func, args, kwargs, results in self.noted:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                # A view, and what was written in place, is where it was.
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Captures:
    """Stands in for `cuda_graph.capture`, and counts."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, run: Run, _device: torch.device) -> Run:
        self.captured += 1
        for _ in range(3):
            run()
        with pytest.MonkeyPatch.context() as patch, Operations() as operations:
            patch.setattr("minitransformer.models.validation.values_are_readable", lambda *_: False)
            output = run()
        assert operations.noted

        def replay() -> Tensor:
            self.replayed += 1
            operations.repeat()
            return output

        return replay


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    """The CPU, taken for a device that replays what was captured."""
    made = Captures()
    monkeypatch.setattr(cuda_graph, "capture", made)
    for module in (cuda_graph, model_twins):
        monkeypatch.setattr(module, "runs_ahead", lambda _: True)
    return made

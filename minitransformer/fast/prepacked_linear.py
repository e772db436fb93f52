"""Linear maps of few rows at the speed of the memory: weights in the layout that kernels read best.

Decoding one token at a time reads every weight for it and computes two operations with each, so no
decoder is faster than its memory. The usual product, whose weights lie row after row, is slower: by
a factor of two to four for 8 rows, as measured on two cores. oneDNN, which comes with PyTorch, has
kernels that keep up with the memory if the weights lie in blocks. Packing takes as long as ten
products and a second copy of each weight, and is done once. Serves the rows of generation (GPT-2
with 1 and 8 prompts, T5 and Marian with 4 beams); measured: see docs/decisions.md.

The numbers are those of `F.linear` but for rounding. The copies serve between :func:`prepack` and
:func:`release`, the beginning and the end of a decoding session, and there only where they are of
use: few rows, no gradient, nothing but autograd to see it, and a weight that has not changed.

O outputs, I inputs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.fast.dispatch import is_plain_eager_cpu
from minitransformer.fast.linear import linear, onednn_linear

# oneDNN is told how many rows to expect. Of 1, 8 and 64, measured with 1 to 128 rows, 8 gives the
# layout that is nearly the fastest for all.
_EXPECTED_ROWS = 8
_MOST_ROWS = 128
# Its kernel for one row reads more slowly than that for four, so a single row is given four times.
_FEWEST_ROWS = 4
_WORTH_A_COPY = 16  # uses: a copy takes as long as some ten products, and saves half of each
_PARTS = 8  # of a weight, each with a checksum of its own


class PrepackedWeight:
    """A prepacked copy of a weight, and what the weight was when it was made.

    Args:
        weight: (O, I).
    """

    def __init__(self, weight: Tensor) -> None:
        self.blocks = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _EXPECTED_ROWS)
        self._state = _state(weight)
        self._checksum = _checksum(weight)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + b: (..., I) to (..., O)."""
        if x.numel() > x.shape[-1]:
            return onednn_linear(x, self.blocks, bias)
        rows = x.reshape(1, -1).expand(_FEWEST_ROWS, -1)  # (4, I)
        products = onednn_linear(rows, self.blocks, bias)
        return products[0].view(*x.shape[:-1], -1)

    def serves(self, x: Tensor, weight: Tensor) -> bool:
        """Whether it may stand for `weight` in a product with `x`."""
        return (
            is_plain_eager_cpu(x, weight)
            and x.dtype == weight.dtype
            and x.dim() > 1
            and x.numel() <= _MOST_ROWS * x.shape[-1]
            and self._state == _state(weight)
        )

    def is_current(self, weight: Tensor) -> bool:
        """Whether it is a copy of what `weight` is now.

        PyTorch counts the changes of a tensor, though not those through `.data`. For these the
        weight is read once, which takes about as long as decoding one token.
        """
        return self._state == _state(weight) and self._checksum == _checksum(weight)


@dataclass
class _Entry:
    """What is kept of a module: its copy, and how many sessions decode with it."""

    copy: PrepackedWeight | None = None
    num_sessions: int = 0


# Beside the modules, not in them: neither a deep copy nor a state dict of a model has anything to
# do with the copies, which go when their modules go.
_ENTRIES: WeakKeyDictionary[nn.Module, _Entry] = WeakKeyDictionary()
_CHANGING = Lock()


def prepack(modules: Iterable[nn.Module], num_uses: int) -> None:
    """Begin to decode with prepacked copies of these modules' weights.

    The copies are kept for the next session, as long as the modules live, and made anew where a
    weight has changed. They take as much memory as the weights; :func:`forget` frees it.

    Args:
        modules: linear maps, and modules whose weight is used by :func:`prepacked_linear`, such as
            a token embedding that is the head as well.
        num_uses: how often each weight will be used. For a few times no copies are made, but those
            that are there serve.
    """
    with _CHANGING:
        for module in modules:
            entry = _ENTRIES.setdefault(module, _Entry())
            entry.num_sessions += 1
            weight: Any = module.weight
            possible = _can_be_prepacked(weight)
            if possible and entry.copy is not None and entry.copy.is_current(weight):
                continue
            entry.copy = None  # before a new one takes its memory
            if possible and num_uses >= _WORTH_A_COPY:
                entry.copy = PrepackedWeight(weight)


def release(modules: Iterable[nn.Module]) -> None:
    """End what :func:`prepack` began. The copies stay, and serve again in the next session."""
    with _CHANGING:
        for module in modules:
            if module in _ENTRIES:
                _ENTRIES[module].num_sessions -= 1


def forget(modules: Iterable[nn.Module]) -> None:
    """Free the memory of the copies of these modules' weights."""
    with _CHANGING:
        for module in modules:
            if module in _ENTRIES:
                _ENTRIES[module].copy = None


def prepacked_copy(module: nn.Module, x: Tensor) -> PrepackedWeight | None:
    """The copy that may stand for the module's weight in a product with x, (..., I), if any."""
    # Whether it compiles, first: the compiler cannot trace the rest.
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return None
    entry = _ENTRIES.get(module)
    if entry is None or entry.copy is None or not entry.num_sessions:
        return None
    weight: Any = module.weight
    return entry.copy if entry.copy.serves(x, weight) else None


def prepacked_linear(x: Tensor, module: nn.Module, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, through the prepacked copy of the module's weight where there is one that serves.

    Args:
        x: (..., I).
        module: whose `weight` is (O, I): a linear map, or a token embedding that is the head.
        bias: (O,), or None.

    Returns:
        (..., O).
    """
    copy = prepacked_copy(module, x)
    if copy is not None:
        return copy(x, bias)
    weight: Any = module.weight
    return linear(x, weight, bias, module.training)


def _can_be_prepacked(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dim() == 2
        and weight.numel() > 0
        and not weight.is_inference()  # whose changes are not counted
        and bool(torch.backends.mkldnn.enabled)
        and _kernels_work(weight.dtype)
    )


@cache
def _kernels_work(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has oneDNN's kernels for a dtype, and they compute what they should.

    They are not part of PyTorch's public interface, so they are tried before they are trusted.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    small = torch.arange(15, device="cpu").view(5, 3) - 7  # integers: nothing is rounded
    weight = small.to(dtype)
    x, bias = weight[:2] + 1, weight[:, 0]
    try:
        with torch.no_grad():
            return torch.equal(PrepackedWeight(weight)(x, bias), F.linear(x, weight, bias))
    except (AttributeError, RuntimeError, TypeError):
        return False


def _state(weight: Tensor) -> tuple[int, int, torch.dtype]:
    return weight.data_ptr(), weight._version, weight.dtype


def _checksum(weight: Tensor) -> tuple[int, ...]:
    """Sums of the bits of a weight, eight bytes at a time, of each eighth of its rows."""
    bits = weight.detach().contiguous().flatten()
    in_words = bits.nbytes % 8 == 0
    parts = bits.view(torch.int64 if in_words else torch.uint8).tensor_split(_PARTS)
    return tuple(torch.stack([part.sum() for part in parts]).tolist())

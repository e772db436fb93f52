"""Linear maps of few rows at the speed of the memory: weights in the order that kernels read best.

Who writes one token at a time reads every weight for it and computes two operations with each, so
no decoder is faster than its memory. The usual product, whose weights lie row after row, is slower:
with 8 rows by a factor of two to four, as measured on two cores. oneDNN, which comes with PyTorch,
has kernels that keep up with the memory if the weights lie in blocks. Putting them so takes as long
as ten products and a second copy of each weight, and is done once.

The numbers are those of `F.linear` but for rounding. Wherever a copy is of no use (another device
or dtype, gradients, torch.compile, a PyTorch without oneDNN, a weight that has changed) the usual
:func:`minitransformer.layers.linear.linear` is what runs.

O outputs, I inputs.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.layers.linear import is_usual_map, linear, onednn_linear
from minitransformer.layers.shortcuts import only_autograd_follows

# oneDNN is told how many rows to expect. Of 1, 8 and 64, measured with 1 to 128 rows, 8 gives the
# order that is nearly the fastest for all.
_EXPECTED_ROWS = 8
# Its kernel for one row reads more slowly than that for four, so a single row is given four times.
_FEWEST_ROWS = 4
_WORTH_A_COPY = 16  # uses: a copy takes as long as some ten products, and spares half of each
_PARTS = 8  # of a weight, each with a sum of its own


class ReorderedWeight:
    """A copy of a weight, and what the weight was when it was made.

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
            not torch.is_grad_enabled()
            and only_autograd_follows(x, weight)
            and x.dtype == weight.dtype
            and x.dim() > 1
            and self._state == _state(weight)
        )

    def is_current(self, weight: Tensor) -> bool:
        """Whether it is a copy of what `weight` is now.

        PyTorch counts the changes of a tensor, though not those through `.data`. For these the
        weight is read once, which takes about as long as one word that is written.
        """
        return self._state == _state(weight) and self._checksum == _checksum(weight)


# The copies go when their modules go. They are no part of the modules: neither a deep copy nor a
# checkpoint of a model has anything to do with them.
_COPIES: WeakKeyDictionary[nn.Module, ReorderedWeight] = WeakKeyDictionary()
_IN_USE: dict[int, ReorderedWeight] = {}  # by id() of the weight, in the blocks that are open


def reordered_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, training: bool
) -> Tensor:
    """x W^T + b, through the copy of the weight inside :func:`reordered_weights`.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,), or None.
        training: whether it belongs to a model that learns.

    Returns:
        (..., O).
    """
    copy = _IN_USE.get(id(weight))
    if copy is None or not copy.serves(x, weight):
        return linear(x, weight, bias, training)
    return copy(x, bias)


@contextmanager
def reordered_weights(modules: Iterable[nn.Module], num_uses: int) -> Iterator[None]:
    """Inside the block, compute with reordered copies of these modules' weights.

    The copies are kept for the next block, as long as the modules live, and made anew when a weight
    has changed. They take as much memory as the weights; :func:`forget_copies` frees it.

    Args:
        modules: linear maps, and modules whose weight is used by :func:`reordered_linear`, such as
            word embeddings that serve as a head.
        num_uses: how often each weight will be used. For a few times no copies are made, but those
            that there are serve.
    """
    with ExitStack() as at_the_end:
        for module in modules:
            copy = _copy_of(module, make=num_uses >= _WORTH_A_COPY)
            if copy is None:
                continue
            weight: Any = module.weight
            if id(weight) not in _IN_USE:  # else an outer block, or another thread's, sees to it
                _IN_USE[id(weight)] = copy
                at_the_end.callback(_IN_USE.pop, id(weight), None)
            if is_usual_map(module) and "forward" not in vars(module):
                module.forward = partial(_forward, module)  # type: ignore[method-assign]
                at_the_end.callback(vars(module).pop, "forward", None)
        yield


def forget_copies(modules: Iterable[nn.Module]) -> None:
    """Free the memory of the copies of these modules' weights."""
    for module in modules:
        _COPIES.pop(module, None)


def _forward(module: nn.Linear, x: Tensor) -> Tensor:
    return reordered_linear(x, module.weight, module.bias, training=module.training)


def _copy_of(module: nn.Module, *, make: bool) -> ReorderedWeight | None:
    """The copy of a module's weight as it is now, or None where there can be, or is, none."""
    weight: Any = module.weight
    if not _can_be_reordered(weight):
        return None
    copy = _COPIES.get(module)
    if copy is not None and copy.is_current(weight):
        return copy
    _COPIES.pop(module, None)  # before a new one takes its memory
    if not make:
        return None
    copy = _COPIES[module] = ReorderedWeight(weight)
    return copy


def _can_be_reordered(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dim() == 2
        and weight.numel() > 0
        and not weight.is_inference()  # whose changes nobody counts
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
            return torch.equal(ReorderedWeight(weight)(x, bias), F.linear(x, weight, bias))
    except (AttributeError, RuntimeError, TypeError):
        return False


def _state(weight: Tensor) -> tuple[int, int, torch.dtype]:
    return weight.data_ptr(), weight._version, weight.dtype


def _checksum(weight: Tensor) -> tuple[int, ...]:
    """Sums of the bits of a weight, eight bytes at a time, of each eighth of its rows."""
    bits = weight.detach().contiguous().flatten()
    whole = bits.nbytes % 8 == 0
    parts = bits.view(torch.int64 if whole else torch.uint8).tensor_split(_PARTS)
    return tuple(torch.stack([part.sum() for part in parts]).tolist())

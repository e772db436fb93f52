"""Linear layers with few rows at memory bandwidth: weights are prepacked for oneDNN's kernels.

Decoding one token reads every weight and computes two operations with each, so its speed is limited
by memory bandwidth. PyTorch's product, whose weights are stored row after row, does not reach it:
for 8 rows on two cores it was two to four times slower. oneDNN, which comes with PyTorch, has
kernels that do, for weights stored in blocks. Prepacking takes the time of about ten products and
the memory of a second copy of each weight, and is done once. For half precision on a processor
without instructions for it, the copy is in float32.

For a single row, some processors are as fast without a copy: oneDNN's kernel reads the weight row
after row, with all threads. MKL, which PyTorch uses, reaches half of the bandwidth there.

Speeds up all rows of the generation table. Which way is faster is measured. Measurements:
benchmarks/results/README.md, "Measurements behind decisions".

The numbers are those of `F.linear` up to rounding. The copies are used only in the steps of a
:class:`PrepackedSession`, and there only for few rows, without gradients, where nothing but
autograd observes it, and as long as the weight has not changed.

B prompts, R decoded sequences, L tokens so far, V vocabulary, I inputs, O outputs.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.fast.dispatch import is_plain_eager_cpu
from minitransformer.fast.linear import (
    linear,
    onednn_linear,
    onednn_works,
    ones,
    weights_of_layers,
)
from minitransformer.fast.measuring import Ways, is_faster
from minitransformer.models.base import DecodingSession, LanguageModel

# oneDNN chooses the layout for an expected number of rows. Of 1, 8 and 64, measured with 1 to 128
# rows, 8 gives a layout that is nearly the fastest for all.
_EXPECTED_ROWS = 8
_MAX_ROWS = 64  # for more, the usual product is as fast or faster
# With prepacked weights oneDNN's kernel for one row is, on some processors, slower than that for
# four, so a single row is repeated four times.
_MIN_ROWS = 4
# For fewer uses no copy is made. It takes as long as about ten products, and saves half of each.
MIN_USES = 16
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PARTS = 8  # of a weight, each with its own checksum
_uncopied = partial(linear, training=False)  # a product by the weight itself


class PrepackedWeight:
    """A prepacked copy of a weight, and the state of the weight when it was copied.

    Args:
        weight: (O, I).
    """

    def __init__(self, weight: Tensor) -> None:
        self.dtype = _dtype_of_copies(weight.dtype)
        self.blocks = _reordered(weight.detach().to(self.dtype))
        self._state = _state(weight)
        self._checksum = _checksum(weight)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + b: (..., I) to (..., O)."""
        if x.dtype != self.dtype:
            bias = None if bias is None else bias.to(self.dtype)
            return self(x.to(self.dtype), bias).to(x.dtype)
        if x.numel() > x.shape[-1]:
            return onednn_linear(x, self.blocks, bias)
        rows = x.reshape(1, -1).expand(_MIN_ROWS, -1)  # (4, I)
        products = onednn_linear(rows, self.blocks, bias)
        return products[0].view(*x.shape[:-1], -1)

    def serves(self, x: Tensor, weight: Tensor) -> bool:
        """Whether it may replace `weight` in a product with `x`."""
        return (
            is_plain_eager_cpu(x, weight)
            and x.dtype == weight.dtype
            and x.dim() > 1
            and _is_faster_for(x.dtype, x.numel() // x.shape[-1])
            and self._state == _state(weight)
        )

    def is_current(self, weight: Tensor) -> bool:
        """Whether it still is a copy of `weight`.

        PyTorch counts the changes of a tensor, but not those through `.data`. To detect these, a
        checksum is computed, which takes about as long as decoding one token.
        """
        return self._state == _state(weight) and self._checksum == _checksum(weight)


# Stored outside the modules, so that deep copies and state dicts of a model do not contain the
# copies. They are freed with their modules.
_COPIES: WeakKeyDictionary[nn.Module, PrepackedWeight] = WeakKeyDictionary()
_CHANGING = Lock()
# True only within a step of a session: all other calls, and other threads, multiply as usual.
_IS_DECODING: ContextVar[bool] = ContextVar("is_decoding", default=False)


def prepack(modules: Iterable[nn.Module], num_uses: int, num_rows: int) -> None:
    """Make prepacked copies of these modules' weights, and free copies that are out of date.

    The copies are kept for later sessions, as long as the modules exist. They take as much memory
    as the weights; :func:`free_prepacked` frees it.

    Args:
        modules: linear layers, and modules whose weight is used by :func:`prepacked_linear`, such
            as a token embedding that is also the LM head.
        num_uses: how often each weight will be used. For few uses no copies are made, but existing
            ones are used.
        num_rows: rows of the inputs, which are the decoded sequences. No copies are made if they
            are no faster for so many rows on this processor.
    """
    for module in modules:
        weight: Any = module.weight
        possible = _can_be_prepacked(weight)
        worthwhile = possible and num_uses >= MIN_USES and _is_faster_for(weight.dtype, num_rows)
        with _CHANGING:
            copy = _COPIES.get(module)
            if possible and copy is not None and copy.is_current(weight):
                continue
            _COPIES.pop(module, None)  # frees its memory before a new copy takes as much
            if worthwhile:
                _COPIES[module] = PrepackedWeight(weight)


def free_prepacked(modules: Iterable[nn.Module]) -> None:
    """Free the memory of the copies of these modules' weights."""
    with _CHANGING:
        for module in modules:
            _COPIES.pop(module, None)


@contextmanager
def decoding() -> Iterator[None]:
    """A block within which this thread uses the copies."""
    token = _IS_DECODING.set(True)
    try:
        yield
    finally:
        _IS_DECODING.reset(token)


def prepacked_copy(module: nn.Module, x: Tensor) -> PrepackedWeight | None:
    """The copy that may replace the module's weight in a product with x, (..., I), if any."""
    if not _is_decoding():
        return None
    copy = _COPIES.get(module)
    weight: Any = module.weight
    return copy if copy is not None and copy.serves(x, weight) else None


def prepacked_linear(x: Tensor, module: nn.Module, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, by the prepacked copy of the module's weight if there is one for this product.

    Args:
        x: (..., I).
        module: has a `weight`, (O, I): a linear layer, or a token embedding that is the LM head.
        bias: (O,), or None.

    Returns:
        (..., O).
    """
    copy = prepacked_copy(module, x)
    if copy is not None:
        return copy(x, bias)
    weight: Any = module.weight
    if _is_decoding() and _is_faster_by_onednn(x, weight, bias):
        return onednn_linear(x, weight, bias)
    return linear(x, weight, bias, module.training)


def _is_decoding() -> bool:
    """Whether this is a step of a session, without gradients."""
    # Compilation is checked first: the compiler cannot trace the rest.
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    return _IS_DECODING.get()


def _is_faster_by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether this is a product of one row in float32, which oneDNN computes faster."""
    return (
        x.numel() == x.shape[-1]
        and x.dim() > 1
        and x.dtype == weight.dtype == torch.float32
        and is_plain_eager_cpu(x, weight, bias)
        and _is_row_faster_by_onednn()
    )


def _is_row_faster_by_onednn() -> bool:
    if not onednn_works():
        return False
    return is_faster("one row by oneDNN, torch.float32", _row_products)


def _is_faster_for(dtype: torch.dtype, num_rows: int) -> bool:
    """Whether prepacked weights are faster on this processor for so many rows."""
    if num_rows > _MAX_ROWS:
        return False
    measured_rows = 1 if num_rows == 1 else _EXPECTED_ROWS
    rows = "one row" if measured_rows == 1 else "several rows"
    by_onednn = num_rows == 1 and dtype == torch.float32 and _is_row_faster_by_onednn()
    product = onednn_linear if by_onednn else _uncopied
    name = f"prepacked weights for {rows}, {dtype}"
    return is_faster(name, partial(_usual_and_prepacked, dtype, measured_rows, product))


def _row_products() -> Ways:
    """Products of one row by PyTorch's choice and by oneDNN."""
    x, bias, weights = ones(1, 768), ones(3072), weights_of_layers()
    return (
        lambda: [F.linear(x, weight, bias) for weight in weights],
        lambda: [onednn_linear(x, weight, bias) for weight in weights],
    )


def _usual_and_prepacked(
    dtype: torch.dtype, num_rows: int, product: Callable[..., Tensor] = _uncopied
) -> Ways:
    """The same with copies, beside the faster product without."""
    x, bias = ones(num_rows, 768, dtype=dtype), ones(3072, dtype=dtype)
    with torch.inference_mode(False):  # PyTorch counts no changes of inference tensors
        weights = weights_of_layers(dtype)
        copies = [PrepackedWeight(weight) for weight in weights]
    return (
        lambda: [product(x, weight, bias) for weight in weights],
        lambda: [copy(x, bias) for copy in copies],
    )


def _can_be_prepacked(weight: Tensor) -> bool:
    return (
        type(weight) is nn.Parameter  # neither a subclass nor what a parametrization computes
        and weight.device.type == "cpu"
        and weight.dim() == 2
        and weight.numel() > 0
        and not weight.is_inference()  # PyTorch counts no changes of these
        and weight.dtype in _DTYPES
        and bool(torch.backends.mkldnn.enabled)
        and _kernels_work(_dtype_of_copies(weight.dtype))
    )


def _dtype_of_copies(dtype: torch.dtype) -> torch.dtype:
    """The dtype itself, or float32 where oneDNN has no kernels for it on this processor."""
    return dtype if _kernels_work(dtype) else torch.float32


def _reordered(weight: Tensor) -> Tensor:
    """A weight, (O, I), in oneDNN's blocks."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, _EXPECTED_ROWS)


@cache
def _kernels_work(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has oneDNN's kernels for a dtype, and their results are right.

    They are not part of PyTorch's public interface, so they are tested before they are used.
    """
    small = torch.arange(15, device="cpu").view(5, 3) - 7  # integers: nothing is rounded
    weight = small.to(dtype)
    x, bias = weight[:2] + 1, weight[:, 0]
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            product = onednn_linear(x, _reordered(weight), bias)
            return torch.equal(product, F.linear(x, weight, bias))
    except (AttributeError, RuntimeError, TypeError):
        return False


def _state(weight: Tensor) -> tuple[int, int, torch.dtype]:
    return weight.data_ptr(), weight._version, weight.dtype


def _checksum(weight: Tensor) -> tuple[int, ...]:
    """For each of `_PARTS` parts of a weight, the sum of its bytes, taken as int64 if possible."""
    values = weight.detach().contiguous().flatten()
    as_integers = values.view(torch.int64 if values.nbytes % 8 == 0 else torch.uint8)
    parts = as_integers.tensor_split(_PARTS)
    return tuple(torch.stack([part.sum() for part in parts]).tolist())


def weights_of_a_step(model: LanguageModel) -> list[nn.Module]:
    """The modules whose weights are read for every generated token: the decoder and the head.

    The encoder is not included, because it runs only once for each source.
    """
    backbone: Any = model.backbone
    modules = getattr(backbone, "decoder", backbone).modules()
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    return [*linears, backbone.token_embedding if model.lm_head is None else model.lm_head]


class PrepackedSession(DecodingSession):
    """A session during which the decoder's weights are prepacked.

    Args:
        session: the session to speed up.
        modules: the modules whose weights are read in each step.
        num_uses: the most steps that there will be.
        num_sequences: R.
    """

    def __init__(
        self,
        session: DecodingSession,
        modules: list[nn.Module],
        num_uses: int,
        num_sequences: int,
    ) -> None:
        self.session = session
        self.prompt = session.prompt
        prepack(modules, num_uses, num_sequences)

    def start(self) -> Tensor:
        """The scores of the first new token: (B, V)."""
        with decoding():
            return self.session.start()

    def step(self, history: Tensor) -> Tensor:
        """The scores of the next token: (R, L), all tokens so far, to (R, V)."""
        with decoding():
            return self.session.step(history)

    def select(self, sequences: Tensor) -> None:
        """Make sequence r what sequence `sequences[r]` was."""
        self.session.select(sequences)

    def close(self) -> None:
        """Close the session; the copies are kept for the next one."""
        self.session.close()

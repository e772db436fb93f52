"""Linear maps of few rows at the speed of the memory: weights in the layout that kernels read best.

Decoding one token at a time reads every weight for it and computes two operations with each, so no
decoder is faster than its memory. The usual product, whose weights lie row after row, is slower: by
a factor of two to four for 8 rows, as measured on two cores. oneDNN, which comes with PyTorch, has
kernels that keep up with the memory if the weights lie in blocks. Packing takes as long as ten
products and a second copy of each weight, and is done once. Serves the rows of generation (GPT-2
with 1 and 8 prompts, T5 and Marian with 4 beams); measured: see docs/decisions.md.

The numbers are those of `F.linear` but for rounding. The copies serve within the steps of a
:class:`PrepackedSession`, and there only where they are of use: few rows, no gradient, nothing but
autograd to see it, and a weight that has not changed.

O outputs, I inputs.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.fast.dispatch import is_plain_eager_cpu
from minitransformer.fast.linear import linear, onednn_linear, ones
from minitransformer.fast.measuring import is_faster
from minitransformer.models.base import DecodingSession, LanguageModel

# oneDNN is told how many rows to expect. Of 1, 8 and 64, measured with 1 to 128 rows, 8 gives the
# layout that is nearly the fastest for all.
_EXPECTED_ROWS = 8
_MOST_ROWS = 64  # more are as fast, or faster, by the usual product
# Its kernel for one row reads more slowly than that for four, so a single row is given four times.
_FEWEST_ROWS = 4
_WORTH_A_COPY = 16  # uses: a copy takes as long as some ten products, and saves half of each
_NUM_MEASURED = 4  # weights of 9 MB in float32
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
            and _pays(x.dtype, x.numel() // x.shape[-1])
            and self._state == _state(weight)
        )

    def is_current(self, weight: Tensor) -> bool:
        """Whether it is a copy of what `weight` is now.

        PyTorch counts the changes of a tensor, though not those through `.data`. For these the
        weight is read once, which takes about as long as decoding one token.
        """
        return self._state == _state(weight) and self._checksum == _checksum(weight)


# Beside the modules, not in them: neither a deep copy nor a state dict of a model has anything to
# do with the copies, which go when their modules go.
_COPIES: WeakKeyDictionary[nn.Module, PrepackedWeight] = WeakKeyDictionary()
_CHANGING = Lock()
# Only within a step of a session: all other calls, in other threads too, multiply as usual.
_IS_DECODING: ContextVar[bool] = ContextVar("is_decoding", default=False)


def prepack(modules: Iterable[nn.Module], num_uses: int, num_rows: int) -> None:
    """Make prepacked copies of these modules' weights, and drop those that are out of date.

    The copies are kept for the next session, as long as the modules live. They take as much memory
    as the weights; :func:`forget` frees it.

    Args:
        modules: linear layers, and modules whose weight is used by :func:`prepacked_linear`, such
            as a token embedding that is the head as well.
        num_uses: how often each weight will be used. For a few times no copies are made, but those
            that are there serve.
        num_rows: of what the weights will be multiplied by, the sequences that are decoded; no
            copies are made where they do not pay for so many on this processor.
    """
    for module in modules:
        weight: Any = module.weight
        possible = _can_be_prepacked(weight)
        wanted = possible and num_uses >= _WORTH_A_COPY and _pays(weight.dtype, num_rows)
        with _CHANGING:
            copy = _COPIES.get(module)
            if possible and copy is not None and copy.is_current(weight):
                continue
            _COPIES.pop(module, None)  # before a new one takes its memory
            if wanted:
                _COPIES[module] = PrepackedWeight(weight)


def forget(modules: Iterable[nn.Module]) -> None:
    """Free the memory of the copies of these modules' weights."""
    with _CHANGING:
        for module in modules:
            _COPIES.pop(module, None)


@contextmanager
def decoding() -> Iterator[None]:
    """Inside the block, in this thread, the copies serve."""
    token = _IS_DECODING.set(True)
    try:
        yield
    finally:
        _IS_DECODING.reset(token)


def prepacked_copy(module: nn.Module, x: Tensor) -> PrepackedWeight | None:
    """The copy that may stand for the module's weight in a product with x, (..., I), if any."""
    # Whether it compiles, first: the compiler cannot trace the rest.
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return None
    if not _IS_DECODING.get():
        return None
    copy = _COPIES.get(module)
    weight: Any = module.weight
    return copy if copy is not None and copy.serves(x, weight) else None


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


def _pays(dtype: torch.dtype, num_rows: int) -> bool:
    """Whether prepacked weights are faster here for so many rows."""
    if num_rows > _MOST_ROWS:
        return False
    measured = 1 if num_rows == 1 else _EXPECTED_ROWS
    question = f"prepacked weights for {'one row' if measured == 1 else 'several rows'}, {dtype}"
    return is_faster(question, lambda: _prepacked_or_not(dtype, measured))


def _prepacked_or_not(
    dtype: torch.dtype, num_rows: int
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The products of one token with several weights, which no cache holds all of."""
    x, bias = ones(num_rows, 768, dtype=dtype), ones(3072, dtype=dtype)
    with torch.inference_mode(False):  # changes of such weights would not be counted
        weights = [ones(3072, 768, dtype=dtype) for _ in range(_NUM_MEASURED)]
        copies = [PrepackedWeight(weight) for weight in weights]
    return (
        lambda: [F.linear(x, weight, bias) for weight in weights],
        lambda: [copy(x, bias) for copy in copies],
    )


def _can_be_prepacked(weight: Tensor) -> bool:
    return (
        type(weight) is nn.Parameter  # neither a subclass nor what a parametrization computes
        and weight.device.type == "cpu"
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
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
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


def weights_of_a_step(model: LanguageModel) -> list[nn.Module]:
    """The modules whose weights are read for every token that is generated: decoder and head.

    The encoder, which runs once a text, is not among them.
    """
    backbone: Any = model.backbone
    modules = getattr(backbone, "decoder", backbone).modules()
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    return [*linears, getattr(model, "lm_head", None) or backbone.token_embedding]


class PrepackedSession(DecodingSession):
    """A session during which the decoder's weights are prepacked.

    Args:
        session: that decodes.
        modules: whose weights are read in each step.
        num_uses: how often, at most.
        num_sequences: R, that are decoded side by side.
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

    def select(self, rows: Tensor) -> None:
        """Make sequence r what sequence `rows[r]` was."""
        self.session.select(rows)

    def close(self) -> None:
        """The last token was generated; the copies stay for the next session."""
        self.session.close()

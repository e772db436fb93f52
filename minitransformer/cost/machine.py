"""What a machine can do: the rate of each kind of operation, measured once and kept in a file.

A roofline model (Williams, Waterman and Patterson 2009) says that an operation takes as long as the
slower of its arithmetic and its memory traffic allows. Both roofs depend on the kind and the size
of the operation, so instead of two numbers, :func:`calibrate` measures the time for a unit of work
of each kind at a few sizes. A prediction multiplies it by the amount of work. Between measured
sizes it is interpolated on logarithmic scales; outside of them the nearest one counts. Nothing is
fitted to a whole model.
"""

import json
import mmap
import platform
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import cycle, product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.cost.operations import PARTS, Operation, Work
from minitransformer.fast.dropout import dropout_mask
from minitransformer.fast.measuring import SPEEDUPS
from minitransformer.fast.prepacked_linear import decoding, prepack, prepacked_linear
from minitransformer.files import atomic_directory, read_json
from minitransformer.version import __version__

_BEYOND_CACHE = 2**27  # bytes
_SHORTEST = 0.004  # seconds; a shorter call is repeated
_LONG = 0.1  # seconds; a longer one is made once, without a warm-up
# Each measures every kind once: what else the machine does disturbs one pass of many kinds, not all
# passes of one.
PASSES = 11
_IN_TURN = 4  # inputs and results of one kind: a model rarely writes where it has just read


@dataclass(frozen=True)
class Rate:
    """Seconds that one kind of operation takes for a unit of work, by its size.

    That is the inverse of a speed: a higher one is slower.

    Attributes:
        axes: the sizes that were measured, along each axis.
        seconds: for a unit of work, an array with a dimension for each axis, as nested lists.

    Raises:
        ValueError: they do not fit together, or are no positive numbers.
    """

    axes: list[list[float]]
    seconds: Any

    def __post_init__(self) -> None:
        found = np.asarray(self.seconds, dtype=float)  # a ValueError where it is no array
        if found.shape != tuple(map(len, self.axes)):
            raise ValueError(f"seconds of shape {found.shape} for {len(self.axes)} axes")
        if not (np.isfinite(found) & (found > 0)).all():
            raise ValueError("seconds that are not positive")

    def at(self, size: Sequence[float]) -> float:
        """Seconds for a unit of work of an operation of this size."""
        values = np.log(self.seconds)
        for axis, place in zip(reversed(self.axes), reversed(size), strict=True):
            along = partial(np.interp, np.log(max(place, 1)), np.log(axis))
            values = np.apply_along_axis(along, -1, values)
        return float(np.exp(values))


@dataclass(frozen=True)
class Machine:
    """The measured rates of a machine.

    Attributes:
        rates: by dtype and kind.
        memory: bytes that it has.
        about: what it was measured on: processor, threads, versions, date.
    """

    rates: dict[str, dict[str, Rate]]
    memory: int
    about: dict[str, Any] = field(default_factory=dict)

    def seconds(self, work: Work) -> float:
        """Predicted seconds of a computation."""
        return sum(self.seconds_by_part(work).values())

    def seconds_of(self, operation: Operation) -> float:
        """Predicted seconds of one operation, without its page faults."""
        rates = self._rates(operation.dtype)
        return operation.amount * rates[operation.kind].at(operation.size)

    def seconds_of_page_faults(self, operation: Operation) -> float:
        """Predicted seconds in which the system provides fresh pages for its result."""
        return operation.page_fault_bytes * self._rates(operation.dtype)["page faults"].at(())

    def _rates(self, dtype: str) -> dict[str, Rate]:
        """Those of a dtype; integers and masks, which only move, have those of any."""
        if dtype not in self.rates and getattr(torch, dtype).is_floating_point:
            raise ValueError(f"dtype={dtype!r} was not measured; these were: {sorted(self.rates)}")
        return self.rates.get(dtype) or next(iter(self.rates.values()))

    def seconds_by_part(self, work: Work) -> dict[str, float]:
        """Predicted seconds of each part that has operations, in the order of `PARTS`."""
        sums = dict.fromkeys(PARTS, 0.0)
        for operation in work.operations:
            sums[operation.part] += self.seconds_of(operation)
            sums[operation.part] += self.seconds_of_page_faults(operation)
        return {part: seconds for part, seconds in sums.items() if seconds}

    def seconds_by_kind(self, work: Work) -> dict[str, float]:
        """Predicted seconds of each kind of operation, and of page faults; the longest first."""
        sums = dict.fromkeys(KINDS, 0.0)
        for operation in work.operations:
            sums[operation.kind] += self.seconds_of(operation)
            sums["page faults"] += self.seconds_of_page_faults(operation)
        found = sorted(sums.items(), key=lambda item: -item[1])
        return {kind: seconds for kind, seconds in found if seconds}

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        path = Path(path)
        with atomic_directory(path.parent) as directory:
            text = json.dumps(asdict(self), indent=1)
            (directory / path.name).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Machine":
        """Read a file that :meth:`save` wrote.

        Raises:
            ValueError: it is not such a file.
            OSError: it cannot be read.
        """
        content = read_json(Path(path))
        try:
            rates = {
                dtype: {kind: Rate(**rate) for kind, rate in kinds.items()}
                for dtype, kinds in content["rates"].items()
            }
            for kinds in rates.values():
                if missing := set(KINDS) - set(kinds):
                    raise KeyError(min(missing))
            if not rates:
                raise KeyError("rates")
            about = {name: content["about"][name] for name in ABOUT}
            return cls(rates, int(content["memory"]), about)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} holds no rates of a machine ({error}); name another file, or measure "
                "with --calibrate"
            ) from error


# ---- calibration ----


@dataclass(frozen=True)
class Kind:
    """How a kind of operation is measured.

    Attributes:
        make: from the sizes along its axes and a dtype, the call and its amount of work.
        axes: the sizes that are measured.
    """

    make: Callable[..., tuple[Callable[[], object], float]]
    axes: list[list[int]]


def _matrix(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.full(shape, 0.5, dtype=dtype)


@cache
def _weights(dtype: torch.dtype) -> Tensor:
    """More weights than a cache holds."""
    return _matrix(dtype, _BEYOND_CACHE // dtype.itemsize)


def _product(dtype: torch.dtype, rows: int, width: int) -> tuple[Callable[[], object], float]:
    """A linear layer; its weights come from memory, as those of a model that a cache cannot hold.

    For few rows that decides: each weight is used only so many times.
    """
    inputs = _matrix(dtype, rows, width)
    turns = cycle(_weights(dtype).unfold(0, width * width, width * width).unbind())
    return lambda: F.linear(inputs, next(turns).view(width, width)), 2 * rows * width * width


def _prepacked_product(
    dtype: torch.dtype, rows: int, width: int
) -> tuple[Callable[[], object], float]:
    """The same in a decoding step of an optimized model, whichever way it multiplies here."""
    inputs = _matrix(dtype, rows, width)
    with torch.device("meta"):  # initial weights would take time
        modules = [
            nn.Linear(width, width, False)
            for _ in range(_BEYOND_CACHE // (dtype.itemsize * width**2))
        ]
    for module in modules:
        module.weight = nn.Parameter(_matrix(dtype, width, width))
    prepack(modules, num_uses=10**6, num_rows=rows)
    turns = cycle(modules)

    def call() -> Tensor:
        with decoding():
            return prepacked_linear(inputs, next(turns))

    return call, 2 * rows * width * width


def _short_product(
    dtype: torch.dtype, inner: int, width: int
) -> tuple[Callable[[], object], float]:
    """The gradient of weights: `inner` tokens."""
    left, right = _matrix(dtype, inner, width), _matrix(dtype, inner, width)
    return lambda: left.t() @ right, 2 * inner * width * width


def _batch(length: int) -> int:
    return max(2, 2**20 // length**2)


def _values(dtype: torch.dtype, size: int, length: int) -> tuple[Callable[[], object], float]:
    """Weights times values."""
    weights = _matrix(dtype, _batch(length), length, length)
    values = _matrix(dtype, _batch(length), length, size)
    return lambda: weights @ values, 2 * weights.numel() * size


def _scores(dtype: torch.dtype, size: int, length: int) -> tuple[Callable[[], object], float]:
    """Queries times keys."""
    query, key = (_matrix(dtype, _batch(length), length, size) for _ in range(2))
    return lambda: query @ key.transpose(1, 2), 2 * query.shape[0] * length**2 * size


def _num_heads(length: int) -> int:
    """So many that two threads have work, and a call takes milliseconds."""
    return max(2, min(64, 2**20 // length**2))


def _attention(dtype: torch.dtype, size: int, length: int) -> tuple[Callable[[], object], float]:
    """PyTorch's kernel; laid out as projections give it."""
    heads = _num_heads(length)
    query, key, value = (_matrix(dtype, 1, length, heads, size).transpose(1, 2) for _ in range(3))
    return lambda: F.scaled_dot_product_attention(query, key, value), heads * length**2


def _attention_of_one_query(dtype: torch.dtype, read: int) -> tuple[Callable[[], object], float]:
    """A decoded token. Keys and values are those of many layers, which a cache cannot hold."""
    length = max(1, read // (2 * 12 * 64 * dtype.itemsize))
    query = _matrix(dtype, 1, 12, 1, 64)
    layers = max(2, _BEYOND_CACHE // read)
    turns = cycle(_matrix(dtype, layers, 2, 1, 12, length, 64).unbind())
    return lambda: F.scaled_dot_product_attention(query, *next(turns)), read


def _attention_backward(
    dtype: torch.dtype, size: int, length: int
) -> tuple[Callable[[], object], float]:
    heads = _num_heads(length)
    inputs = [
        _matrix(dtype, 1, length, heads, size).transpose(1, 2).requires_grad_() for _ in range(3)
    ]
    with torch.enable_grad():
        result = F.scaled_dot_product_attention(inputs[0], inputs[1], inputs[2])
    gradient = torch.randn_like(result)
    call = partial(torch.autograd.grad, result, inputs, gradient, retain_graph=True)
    return call, heads * length**2


def _rowwise(
    function: Callable[[Tensor], Callable[[], object]], dtype: torch.dtype, elements: int
) -> tuple[Callable[[], object], float]:
    """A function of a tensor with rows of 512 elements."""
    shape = max(1, elements // 512), min(elements, 512)
    turns = cycle([function(_matrix(dtype, *shape)) for _ in range(_IN_TURN)])
    results: deque[object] = deque(maxlen=_IN_TURN)
    return lambda: results.append(next(turns)()), elements


def _elementwise(dtype: torch.dtype, moved: int) -> tuple[Callable[[], object], float]:
    """A sum, which reads two tensors and writes a third."""
    left, right, result = _matrix(dtype, 3, max(1, moved // (3 * dtype.itemsize)))
    return lambda: torch.add(left, right, out=result), 3 * left.nbytes


def _transposed_copy(dtype: torch.dtype, moved: int) -> tuple[Callable[[], object], float]:
    """Heads merged: (T, H, D) from (H, T, D)."""
    heads = _matrix(dtype, 12, max(1, moved // (2 * 12 * 64 * dtype.itemsize)), 64)
    merged = torch.empty_like(heads.transpose(0, 1), memory_format=torch.contiguous_format)
    return lambda: merged.copy_(heads.transpose(0, 1)), 2 * heads.nbytes


def _view(dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    some = _matrix(dtype, 8, 8)
    return lambda: [some.view(64) for _ in range(100)], 100


def _page_faults(_dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    """Pages that the system clears when they are first written to: one byte of each is.

    They are mapped here, because an allocator may have free memory of this size. As in a step that
    is repeated, they were returned to the system a moment ago.
    """
    size, private = 2**25, {}
    if hasattr(mmap, "MAP_PRIVATE"):  # Windows has no other
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}

    def call() -> None:
        with mmap.mmap(-1, size, **private) as memory:
            pages = torch.frombuffer(memory, dtype=torch.uint8)[:: mmap.PAGESIZE]
            pages.fill_(1)
            del pages  # or the memory could not be closed

    return call, size


def _adamw(dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    weights = [_matrix(dtype, 2**20).requires_grad_() for _ in range(16)]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    return torch.optim.AdamW(weights, fused=True).step, 16 * 2**20


def _gelu(x: Tensor) -> Callable[[], object]:
    return lambda: F.gelu(x)


def _gelu_backward(x: Tensor) -> Callable[[], object]:
    return lambda: torch.ops.aten.gelu_backward(x, x)


def _softmax(x: Tensor) -> Callable[[], object]:
    return lambda: x.softmax(-1)


def _safe_softmax(x: Tensor) -> Callable[[], object]:
    return lambda: torch.ops.aten._safe_softmax(x, -1)


def _softmax_backward(x: Tensor) -> Callable[[], object]:
    return lambda: torch.ops.aten._softmax_backward_data(x, x, -1, x.dtype)


def _norm(x: Tensor) -> Callable[[], object]:
    weight = torch.ones(x.shape[-1], dtype=x.dtype)
    return lambda: F.layer_norm(x, weight.shape, weight, weight)


def _norm_backward(x: Tensor) -> Callable[[], object]:
    weight = torch.ones(x.shape[-1], dtype=x.dtype)
    _, mean, deviation = torch.native_layer_norm(x, weight.shape, weight, weight, 1e-5)
    backward = torch.ops.aten.native_layer_norm_backward
    return lambda: backward(x, x, weight.shape, mean, deviation, weight, weight, [True, True, True])


def _random(x: Tensor) -> Callable[[], object]:
    return lambda: x.bernoulli_(0.9)


def _random_bits(x: Tensor) -> Callable[[], object]:
    return lambda: dropout_mask(x.shape, 0.1)


_ROWS, _WIDTHS = [1, 4, 16, 64, 256, 1024], [256, 768, 2048]
_LENGTHS, _HEAD_SIZES = [64, 256, 1024, 2048], [32, 64, 128]
_FEW_TO_MANY = [2**10, 2**14, 2**18, 2**21]
KINDS = {
    "matmul": Kind(_product, [_ROWS, _WIDTHS]),
    "matmul (prepacked)": Kind(_prepacked_product, [[1, 4, 16, 64], [768, 2048]]),
    "matmul (short inner dimension)": Kind(_short_product, [_ROWS, _WIDTHS]),
    "batched matmul": Kind(_values, [_HEAD_SIZES, _LENGTHS]),
    "batched matmul (short inner dimension)": Kind(_scores, [_HEAD_SIZES, _LENGTHS]),
    "attention kernel": Kind(_attention, [_HEAD_SIZES, _LENGTHS]),
    "attention kernel (backward)": Kind(_attention_backward, [_HEAD_SIZES, _LENGTHS]),
    "attention of one query": Kind(_attention_of_one_query, [[2**16, 2**20, 2**23, 2**26]]),
    "softmax": Kind(partial(_rowwise, _softmax), [_FEW_TO_MANY]),
    "softmax (a row may be masked)": Kind(partial(_rowwise, _safe_softmax), [_FEW_TO_MANY]),
    "softmax (backward)": Kind(partial(_rowwise, _softmax_backward), [_FEW_TO_MANY]),
    "gelu": Kind(partial(_rowwise, _gelu), [_FEW_TO_MANY]),
    "gelu (backward)": Kind(partial(_rowwise, _gelu_backward), [_FEW_TO_MANY]),
    "norm": Kind(partial(_rowwise, _norm), [_FEW_TO_MANY]),
    "norm (backward)": Kind(partial(_rowwise, _norm_backward), [_FEW_TO_MANY]),
    "random": Kind(partial(_rowwise, _random), [_FEW_TO_MANY]),
    "random (16 bits)": Kind(partial(_rowwise, _random_bits), [_FEW_TO_MANY]),
    "elementwise": Kind(_elementwise, [[2**8, 2**14, 2**18, 2**22, 2**24, 2**26]]),
    "transposed copy": Kind(_transposed_copy, [[2**14, 2**18, 2**22, 2**24, 2**26]]),
    "view": Kind(_view, []),
    "page faults": Kind(_page_faults, []),
    "adamw": Kind(_adamw, []),
}


def calibrate(
    threads: int | None = None,
    dtypes: Sequence[str] = ("float32",),
    passes: int = PASSES,
) -> Machine:
    """Measure this machine, in about a minute for each dtype.

    Args:
        threads: of the CPU; by default as many as PyTorch uses.
        dtypes: that are measured.
        passes: over all kinds and sizes. The median counts: the shortest time is one that a long
            computation never reaches on a machine that is shared.

    Returns:
        Its rates.
    """
    from tqdm import tqdm

    from minitransformer.generation.generate import memory_size  # imports more than predictions do

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    generator, speedups = torch.get_rng_state(), dict(SPEEDUPS)
    SPEEDUPS.clear()  # which way is faster depends on the threads
    try:
        places = [
            (dtype, kind, sizes)
            for dtype in dtypes
            for kind in KINDS
            for sizes in product(*KINDS[kind].axes)
        ]
        times: dict[tuple[Any, ...], list[float]] = {place: [] for place in places}
        with torch.no_grad(), tqdm(total=passes * len(places), desc="measuring", unit="") as bar:
            for _ in range(passes):
                for dtype, kind, sizes in places:
                    call, amount = KINDS[kind].make(getattr(torch, dtype), *sizes)
                    times[dtype, kind, sizes].append(_seconds(call) / amount)
                    bar.update()
        rates = {
            dtype: {
                kind: Rate(
                    [list(map(float, axis)) for axis in KINDS[kind].axes],
                    np.reshape(
                        [median(times[dtype, kind, s]) for s in product(*KINDS[kind].axes)],
                        [len(axis) for axis in KINDS[kind].axes],
                    ).tolist(),
                )
                for kind in KINDS
            }
            for dtype in dtypes
        }
        memory = memory_size(torch.device("cpu"))
        return Machine(rates, memory, environment(torch.get_num_threads()))
    finally:
        torch.set_num_threads(before)
        torch.set_rng_state(generator)
        SPEEDUPS.clear()
        SPEEDUPS.update(speedups)
        _weights.cache_clear()


def _seconds(call: Callable[[], object]) -> float:
    """The time of a call. The first one is a warm-up, unless it is long."""
    number, seconds = 1, _timed(call, 1)
    if seconds < _LONG:
        seconds = _timed(call, 1)
    if seconds < _SHORTEST:
        number = int(_SHORTEST / max(seconds, 1e-7)) + 1
        seconds = _timed(call, number)
    return seconds / number


def _timed(call: Callable[[], object], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        call()
    return time.perf_counter() - start


ABOUT = ("processor", "cpu_capability", "threads", "torch", "minitransformer", "date")


def environment(threads: int) -> dict[str, Any]:
    """What the rates depend on."""
    return {
        "processor": processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "torch": torch.__version__,
        "minitransformer": __version__,  # how it is measured, and what is counted
        "date": time.strftime("%Y-%m-%d"),
    }


def processor_name() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

"""What a computation consists of: its operations, counted without computing anything.

:func:`trace` runs a function on fake tensors, which have shapes but no values, and records every
ATen operation of the forward and the backward pass: its FLOPs, the bytes that it reads and writes,
and the part of the model that it belongs to. So no formula has to be kept in step with the models.
It also follows which tensors are alive at the same time: that is the peak memory.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from threading import get_ident
from typing import Any
from weakref import finalize

import torch
import torch.nn.modules.module as global_hooks
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from minitransformer.layers.attention import MultiHeadAttention
from minitransformer.layers.feed_forward import FeedForward, GatedFeedForward
from minitransformer.layers.normalization import LayerNorm, RMSNorm
from minitransformer.layers.positional_embeddings import RelativePositionBias
from minitransformer.models.base import EncoderDecoder
from minitransformer.models.bert import MaskedLMHead

PARTS = (
    "embeddings",
    "projections",
    "attention",
    "feed-forward",
    "norms",  # with dropout and residual sums
    "head",
    "loss",
    "optimizer",
)
# From this size on, glibc maps memory for each allocation and unmaps it when it is freed, so every
# page of such a result faults and is cleared. The threshold begins at 128 KiB and rises as mapped
# blocks are freed, to this at most (mallopt(3), M_MMAP_THRESHOLD); the memory of smaller results is
# mostly used again.
_MMAP_THRESHOLD = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation.

    Attributes:
        part: of the model, one of :data:`PARTS`.
        kind: whose rate it has; see :data:`minitransformer.cost.machine.KINDS`.
        dtype: that of its result.
        amount: what its time is proportional to: FLOPs of a product of matrices, pairs of a query
            and a key of an attention kernel, bytes or elements of the others.
        size: what its rate depends on, a number for each axis of its kind.
        flops: multiplications and additions of products and attention kernels; 0 for others.
        bytes: how many it reads and writes.
        page_fault_bytes: size of its result where the system has to provide fresh pages, else 0.
    """

    part: str
    kind: str
    dtype: str
    amount: float
    size: tuple[float, ...]
    flops: float = 0
    bytes: float = 0
    page_fault_bytes: float = 0


@dataclass(frozen=True)
class Work:
    """The operations of a computation, in their order, and its peak memory.

    Attributes:
        operations: of the forward and the backward pass.
        held_bytes: memory of what was there before: models, inputs, a cache.
        temporary_bytes: the most memory that results take at one time, on top of that; gradients
            are among them, AdamW's averages are not.
    """

    operations: list[Operation]
    held_bytes: int
    temporary_bytes: int

    @property
    def flops(self) -> float:
        """Of products and attention kernels."""
        return sum(operation.flops for operation in self.operations)

    @property
    def bytes(self) -> float:
        """Read and written by all operations."""
        return sum(operation.bytes for operation in self.operations)


def trace(build: Callable[[], Callable[[], object]]) -> Work:
    """Count what a call does.

    Args:
        build: makes models and inputs, which is not counted, and returns the call, which is. Both
            run on fake tensors: building a model of any size takes no memory.

    Raises:
        RuntimeError: the call needs the values of a tensor; raised by PyTorch.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # which takes seconds to import

    with FakeTensorMode():
        recorder = _Recorder()
        with ExitStack() as stack:
            for hook in (
                global_hooks.register_module_forward_pre_hook(recorder.enter),
                global_hooks.register_module_forward_hook(recorder.leave, always_call=True),
            ):
                stack.callback(hook.remove)
            stack.enter_context(recorder)
            call = build()
            recorder.begin()
            result = call()  # kept until the end, as its caller would
        del result
    return Work(recorder.operations, recorder.held, recorder.peak - recorder.held)


class _Recorder(TorchDispatchMode):
    """Sees every operation below autograd, and the modules that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.held = self.peak = 0
        self._alive = 0
        self._thread = get_ident()
        self._storages: set[int] = set()
        self._modules: list[nn.Module] = []
        # Autograd numbers its nodes as the forward pass makes them. At these numbers the part
        # changes, so that an operation of the backward pass belongs to the part of its node.
        self._numbers: list[int] = [0]
        self._parts = [part_of([])]

    def begin(self) -> None:
        """What was made so far was there before, and is not counted."""
        self.operations.clear()
        self.held = self.peak = self._alive

    def enter(self, module: nn.Module, _inputs: object) -> None:
        """A module is called; hooks are global, and other threads call modules too."""
        if get_ident() == self._thread:
            self._modules.append(module)
            self._note_part()

    def leave(self, _module: nn.Module, _inputs: object, _output: object) -> None:
        """It returned."""
        if get_ident() == self._thread:
            self._modules.pop()
            self._note_part()

    def _note_part(self) -> None:
        self._numbers.append(torch.autograd._get_sequence_nr())
        self._parts.append(part_of(self._modules))

    def _part(self, function: str) -> str:
        """The part of the operation that runs now."""
        node = torch._C._current_autograd_node()
        if node is None:
            part = part_of(self._modules)
        else:
            number = node._sequence_nr()
            # The node that stores the gradient of a parameter has the largest possible number.
            if number > torch.autograd._get_sequence_nr():
                return self.operations[-1].part
            part = self._parts[bisect_right(self._numbers, number) - 1]
        return "loss" if part == "head" and function in _OF_THE_LOSS else part

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.removeprefix("aten::")
        if name.startswith("prim::"):
            return result
        read = {key: value for key, value in (kwargs or {}).items() if key != "out"}
        inputs = list(tensors_in((args, read)))
        outputs = list(tensors_in(result))
        if not outputs:
            return result
        new = [size for output in outputs if (size := self._follow(output, inputs))]
        is_view = not new and not function._schema.is_mutable
        known = _describe(name, args, inputs, outputs, is_view)
        known["page_fault_bytes"] = sum(size for size in new if size >= _MMAP_THRESHOLD)
        self.operations.append(Operation(part=self._part(name), **known))
        return result

    def _follow(self, output: Tensor, inputs: Sequence[Tensor]) -> int:
        """The bytes of a result with memory of its own, which is followed until it is freed."""
        storage = output.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages or any(key == x.untyped_storage()._cdata for x in inputs):
            return 0
        self._storages.add(key)
        self._alive += size
        self.peak = max(self.peak, self._alive)
        finalize(storage, self._free, key, size)
        return size

    def _free(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self._alive -= size


_OF_THE_LOSS = {
    "_log_softmax",
    "_log_softmax_backward_data",
    "nll_loss_forward",
    "nll_loss_backward",
    "nll_loss2d_forward",
    "nll_loss2d_backward",
}


def part_of(modules: Sequence[nn.Module]) -> str:
    """The part of a model that an operation belongs to, by the modules that are being called.

    Args:
        modules: from the outermost to the innermost. With none it is attention, because
            `cost.attention` calls no module.
    """
    if not modules:
        return "attention"
    innermost = modules[-1]
    for module in modules:
        if isinstance(module, MultiHeadAttention):
            return "projections" if isinstance(innermost, nn.Linear) else "attention"
        if isinstance(module, RelativePositionBias):
            return "attention"
        if isinstance(module, FeedForward | GatedFeedForward):
            return "feed-forward"
        name = type(module).__name__
        if isinstance(module, nn.Embedding) or name.endswith(("Embeddings", "Positions")):
            return "embeddings"
        if isinstance(module, MaskedLMHead):
            return "head"
    if (
        isinstance(innermost, LayerNorm | RMSNorm | nn.Dropout)
        or "Layer" in type(innermost).__name__
    ):
        return "norms"
    # What a backbone does outside of its layers are positions and masks.
    is_backbone = hasattr(innermost, "layers") or isinstance(innermost, EncoderDecoder)
    return "embeddings" if is_backbone else "head"


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def _describe(
    name: str,
    args: Sequence[Any],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    is_view: bool,
) -> dict[str, Any]:
    """The fields of an operation, but for its part."""
    first = outputs[0]
    if name in _ONLY_WRITE:
        inputs = [x for x in inputs if all(x is not output for output in outputs)]
    moved = sum(x.numel() * x.element_size() for x in (*inputs, *outputs))
    found: dict[str, Any] = {"dtype": str(first.dtype).removeprefix("torch."), "bytes": moved}
    if is_view or name in _ALLOCATE:
        return found | {"kind": "view", "amount": 1, "size": (), "bytes": 0}
    if name in _PRODUCTS:
        left, right = inputs[-2:]  # of addmm and baddbmm, after the bias
        batch, rows, inner = (1, *left.shape) if left.dim() == 2 else tuple(left.shape)
        return found | _product(batch, rows, inner, right.shape[-1])
    if name in _ATTENTION_KERNELS:
        return found | _attention_kernel(name, args, inputs)
    if name == "random_":  # one int64 has the 16 bits of four elements
        elements = 4 * first.numel()
        return found | {"kind": "random (16 bits)", "amount": elements, "size": (elements,)}
    if name in _BY_ELEMENTS:
        # Of the first result: the others are mean and deviation, or gradients of weights.
        return found | {
            "kind": _BY_ELEMENTS[name],
            "amount": first.numel(),
            "size": (first.numel(),),
        }
    # Of a table, or of the target of a copy, only what is looked up or replaced is touched.
    if name in ("embedding", "index_select", "index"):
        moved = 2 * first.numel() * first.element_size()
    elif name == "index_copy_":
        moved = 2 * inputs[-1].numel() * inputs[-1].element_size()
    kind = "elementwise"
    if name in ("clone", "copy_", "_to_copy") and any(not x.is_contiguous() for x in inputs):
        kind = "transposed copy"
    return found | {"kind": kind, "amount": moved, "size": (moved,), "bytes": moved}


def _product(batch: int, rows: int, inner: int, columns: int) -> dict[str, Any]:
    """A product of matrices, (rows, inner) by (inner, columns), `batch` times.

    Its rate is looked up by the shortest of the three sizes and the geometric mean of the others. A
    short inner dimension is a kind of its own. Where rows are shortest, as in a linear layer with
    few tokens, the inner dimension replaces the mean: the length of each sum decides there.
    """
    flops = 2 * batch * rows * inner * columns
    shortest, *others = sorted((rows, inner, columns))
    kind, width = "batched matmul" if batch > 1 else "matmul", prod(others) ** 0.5
    if inner < min(rows, columns):
        kind += " (short inner dimension)"
    elif batch == 1 and rows == shortest:
        width = inner
    return {"kind": kind, "amount": flops, "flops": flops, "size": (shortest, width)}


def _attention_kernel(name: str, args: Sequence[Any], inputs: Sequence[Tensor]) -> dict[str, Any]:
    """PyTorch's attention kernel of the CPU; the causal one leaves out half of the pairs."""
    is_backward = name.endswith("_backward")
    query, key = inputs[1:3] if is_backward else inputs[:2]  # (B, H, T, D), (B, H, S, D)
    is_causal = args[7] if is_backward and len(args) > 7 else len(args) > 4 and args[4]
    share = 0.5 if is_causal else 1.0
    pairs = share * query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    if query.shape[2] == 1 and not is_backward:  # a decoded token reads every key and value once
        read = 2 * key.numel() * key.element_size()
        flops = pairs * query.shape[3] * 4
        return {"kind": "attention of one query", "amount": read, "flops": flops, "size": (read,)}
    return {
        "kind": "attention kernel" + " (backward)" * is_backward,
        "amount": pairs,
        "flops": pairs * query.shape[3] * (10 if is_backward else 4),
        "size": (query.shape[3], key.shape[2]),
    }


_ALLOCATE = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
# What these change, they do not read.
_ONLY_WRITE = {"copy_", "fill_", "zero_", "random_", "bernoulli_"}
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
_ATTENTION_KERNELS = {
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
}
_BY_ELEMENTS = {
    "_softmax": "softmax",
    "_safe_softmax": "softmax (a row may be masked)",  # that of sdpa with dropout
    "_log_softmax": "softmax",
    "_softmax_backward_data": "softmax (backward)",
    "_log_softmax_backward_data": "softmax (backward)",
    "gelu": "gelu",
    "gelu_backward": "gelu (backward)",
    "native_layer_norm": "norm",
    "_fused_rms_norm": "norm",
    "native_layer_norm_backward": "norm (backward)",
    "_fused_rms_norm_backward": "norm (backward)",
    "bernoulli_": "random",
}

"""Any DataLoader or Dataset as the batches of the training loop, numbered by epoch and index.

A DataLoader can only be read from its beginning. So that a run can be resumed in the middle
of an epoch, the order of its batches, and whatever else is random in them, must be the same when it
runs again. :class:`LoaderBatches` makes it so where it comes from the usual generators.
"""

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from minitransformer.hf.config import reference_class
from minitransformer.models.base import TaskModel
from minitransformer.names import listed, nearest, shortened
from minitransformer.tokenization import Tokenizer
from train.collators import DataCollatorWithPadding, default_data_collator

Batch = dict[str, Tensor]
Examples = Dataset[Any] | Sequence[Mapping[str, Any]]

_DEFAULT_BATCH_SIZE = 8
# Arguments of a forward that are not in a batch.
_FLAGS = {"output_hidden_states", "output_attentions", "return_dict", "use_cache", "cache"}


class Data(Protocol):
    """Batches numbered by epoch and index, which give the same batch in every process."""

    @property
    def num_batches(self) -> int:
        """Number of batches per epoch."""

    def batch(self, epoch: int, index: int) -> Batch:
        """The arguments of the model's `loss_sum`, including labels."""


def is_numbered(data: object) -> TypeGuard[Data]:
    """Whether `data` has the methods of :class:`Data`."""
    return hasattr(data, "num_batches") and callable(getattr(data, "batch", None))


def build_loader(
    data: object,
    *,
    batch_size: int | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    tokenizer: Tokenizer | None = None,
    shuffle: bool = True,
) -> DataLoader[Any]:
    """The DataLoader that was given, or a new one for a dataset.

    Args:
        data: a DataLoader; or a dataset, which gives examples, one after the other or by index.
        batch_size: examples per batch of a dataset, 8 by default, as in transformers.
        collate_fn: makes a batch of a list of examples. By default they are padded if there is a
            tokenizer, and stacked if there is none.
        tokenizer: for padding.
        shuffle: a dataset.

    Raises:
        TypeError: `data` is something else.
        ValueError: there are no examples, or an argument has no effect on a DataLoader.
    """
    if isinstance(data, DataLoader):
        for name, value in (("batch_size", batch_size), ("collate_fn", collate_fn)):
            if value is not None:
                raise ValueError(f"{name} has no effect on a DataLoader; pass it to the DataLoader")
        return data
    is_stream = isinstance(data, IterableDataset)
    if not (is_stream or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))) or isinstance(
        data, Mapping | str
    ):
        raise TypeError(
            f"the data is a {type(data).__name__}; train() takes a DataLoader or a Dataset of "
            "dicts of tensors, or an object with num_batches and batch(epoch, index)"
        )
    if not is_stream and not len(data):  # type: ignore[arg-type]
        raise ValueError("the dataset is empty; there is nothing to train on")
    if collate_fn is None:
        collate_fn = default_data_collator
        if tokenizer is not None:
            collate_fn = DataCollatorWithPadding(tokenizer)
    return DataLoader(
        data,  # type: ignore[arg-type]
        batch_size=_DEFAULT_BATCH_SIZE if batch_size is None else batch_size,
        shuffle=None if is_stream else shuffle,
        collate_fn=collate_fn,
    )


class LoaderBatches:
    """The batches of a DataLoader as :class:`Data`.

    The generators of PyTorch, NumPy and Python are set before an epoch and before each batch, from
    the seed, the epoch and the index, and restored afterwards. So a shuffled order, and the masks
    of a collator, depend on nothing else, and dropout does not depend on them. A sampler or dataset
    with `set_epoch` is told the epoch.

    Batches should be asked for in order. After another one, the loader starts again and skips those
    before.

    Args:
        loader: its batches are dicts of tensors.
        model: that takes them.
        seed: of the run.
        num_batches: per epoch, for a loader without a length; it starts again when it has ended.

    Raises:
        ValueError: the loader is empty, or has no length and `num_batches` is None.

    Attributes:
        why_inexact: why a run with it may not be resumed exactly; None if it can.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        model: TaskModel,
        *,
        seed: int,
        num_batches: int | None = None,
    ) -> None:
        self.loader = loader
        self.model = model
        self.seed = seed
        length = _length(loader)
        self.is_endless = length is None
        if length == 0:
            raise ValueError("the DataLoader gives no batch; there is nothing to train on")
        if length is None and num_batches is None:
            raise ValueError(
                "the data has no length, so the number of steps is unknown; set max_steps, or give "
                "the dataset a __len__"
            )
        self._num_batches = length or num_batches or 0
        self.why_inexact = _why_inexact(loader)
        self._generators = [(g, g.get_state(), g.initial_seed()) for g in _generators(loader)]
        self._names = model_inputs(model)
        self._iterator: Iterator[Any] = iter(())
        self._next = (-1, 0)  # the epoch and the index that the iterator gives next

    @property
    def num_batches(self) -> int:
        """Number of batches per epoch."""
        return self._num_batches

    def batch(self, epoch: int, index: int) -> Batch:
        """The batch, checked; see :meth:`Data.batch`.

        Raises:
            TypeError: the batch is not a dict.
            ValueError: a value is no tensor, the model does not take a key, labels are missing, or
                the loader ended early.
        """
        if self._next[0] != epoch or self._next[1] > index:
            self._start(epoch)
        while self._next[1] < index:
            self._read()
        return check_batch(self._read(), self.model, self._names)

    def close(self) -> None:
        """Stop the loader's workers, and give its generators the state that they had."""
        self._iterator = iter(())
        for generator, state, _ in self._generators:
            generator.set_state(state)

    def _start(self, epoch: int) -> None:
        for part in (*_samplers(self.loader), self.loader.dataset):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        for generator, _, seed in self._generators:
            generator.manual_seed(seed + epoch)
        with seeded(self.seed, epoch, 0):
            self._iterator = iter(self.loader)  # draws a number for the workers
        self._next = (epoch, 0)

    def _read(self) -> Any:
        epoch, index = self._next
        with seeded(self.seed, epoch, index + 1):
            batch = next(self._iterator, None)
            if batch is None and self.is_endless and index:
                self._iterator = iter(self.loader)
                batch = next(self._iterator, None)
        if batch is None:
            raise ValueError(
                f"the data ended after {index} batches of an epoch, but its length is "
                f"{self.num_batches}; correct its __len__, or make it repeat itself"
            )
        self._next = (epoch, index + 1)
        return batch


def describe(loader: DataLoader[Any]) -> dict[str, Any]:
    """What must be the same when a run with this loader is resumed."""
    return {
        "batches": _length(loader),
        "batch_size": loader.batch_size,
        "samplers": [type(sampler).__name__ for sampler in _samplers(loader)],
        "seeds": [generator.initial_seed() for generator in _generators(loader)],
    }


def _samplers(loader: DataLoader[Any]) -> list[Any]:
    """The samplers of a loader, and those that they take their order from."""
    found: list[Any] = []
    for sampler in (loader.sampler, loader.batch_sampler):
        while sampler is not None and sampler not in found:
            found.append(sampler)
            sampler = getattr(sampler, "sampler", None)
    return found


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    """The generators that the user gave a loader and its samplers."""
    given = [getattr(part, "generator", None) for part in (loader, *_samplers(loader))]
    return list({id(g): g for g in given if g is not None}.values())


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within the context, the global generators of the CPU depend on the numbers alone."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed CUDA's as well
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _length(loader: DataLoader[Any]) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _why_inexact(loader: DataLoader[Any]) -> str | None:
    if loader.persistent_workers:
        return "persistent_workers go on with their random numbers from epoch to epoch"
    if isinstance(loader.dataset, IterableDataset):
        if hasattr(loader.dataset, "set_epoch"):
            return None
        return "an IterableDataset without set_epoch gives its examples in an order of its own"
    for sampler in _samplers(loader):
        kind = type(sampler)
        own = kind.__module__.startswith("torch.utils.data")
        if not (own or hasattr(sampler, "set_epoch")):
            return (
                f"{kind.__name__} has no set_epoch, so its order may be another when it runs again"
            )
    return None


def model_inputs(model: TaskModel) -> list[str]:
    """The names of the tensors that a model takes, labels included."""
    return [name for name in inspect.signature(model.forward).parameters if name not in _FLAGS]


def label_names(names: Sequence[str]) -> list[str]:
    """Those of a model's inputs that are labels."""
    return [name for name in ("labels", "start_positions", "end_positions") if name in names]


def check_batch(batch: Any, model: TaskModel, names: Sequence[str]) -> Batch:
    """Check a batch of a user's loader before a step.

    Args:
        batch: what the loader gave.
        model: that is trained.
        names: its inputs, see :func:`model_inputs`.

    Raises:
        TypeError: the batch is not a dict.
        ValueError: a value is no tensor, the model does not take a key, or labels are missing.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(
            f"a batch is a {type(batch).__name__}; it must be a dict with the names of the model's "
            f"inputs, {listed(names)}: let the dataset give dicts, or set collate_fn"
        )
    for name in batch:
        if name not in names:
            meant = "labels" if name in ("label", "label_ids") else nearest(str(name), names)
            raise ValueError(
                f"a batch has the key {shortened(name)}, which {reference_class(model).__name__} "
                f"does not take; it takes {listed(names)}: "
                + (f"rename it to {meant!r}, or " if meant in names else "")
                + "leave it out of the dataset's examples"
            )
    for name, value in batch.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name!r} in a batch is a {type(value).__name__}, not a tensor; convert it in "
                "collate_fn, for example with train.DataCollatorWithPadding(tokenizer)"
            )
    for name in label_names(names):
        if name not in batch:
            raise ValueError(
                f"a batch has no {name!r}, which the loss of {reference_class(model).__name__} "
                f"needs; it has {listed(map(str, batch))}"
            )
    return dict(batch)


def num_tokens(batch: Batch) -> int:
    """The number of real tokens in a batch: of all tokens where there is no attention_mask."""
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else int(mask.sum())

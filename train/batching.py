"""Which examples form which batch, and how they are padded.

Examples of similar length share a batch, which avoids nearly all padding. A batch depends only on
the seed, the epoch and its index: no state is carried from batch to batch, so a run can be resumed
at any of them.

Letters: B batch, T tokens, C classes.
"""

import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minitransformer.models.losses import IGNORED_LABEL
from minitransformer.tokenization import BatchEncoding


class BatchOrder:
    """Assigns examples to batches; a batch depends only on the seed, the epoch and its index.

    The examples are sorted by length and divided into batches. The order of examples of the same
    length, and the order of the batches, are random and differ from epoch to epoch.

    Args:
        lengths: (examples,) the number of tokens of each example.
        batch_size: examples per batch.
        seed: for the random orders.
        shuffle: False keeps the examples in their order in every epoch.

    Raises:
        ValueError: there are no examples, or the batch size is not positive.
    """

    def __init__(
        self, lengths: np.ndarray, *, batch_size: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        if not len(lengths):
            raise ValueError("there are no examples to make batches of")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self._epoch_batches = lru_cache(maxsize=1)(self._make_epoch)

    @property
    def num_batches(self) -> int:
        """Number of batches per epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def example_indices(self, epoch: int, index: int) -> np.ndarray:
        """(B,) the indices of the examples of batch `index`."""
        return self._epoch_batches(epoch if self.shuffle else 0)[index]

    def _make_epoch(self, epoch: int) -> list[np.ndarray]:
        order = np.arange(len(self.lengths))
        if self.shuffle:
            random = np.random.default_rng([self.seed, epoch])
            random.shuffle(order)
            order = order[np.argsort(self.lengths[order], kind="stable")]
        batches = [
            order[start : start + self.batch_size]
            for start in range(0, len(order), self.batch_size)
        ]
        if self.shuffle:
            random.shuffle(batches)
        return batches


class LabelledBatches:
    """Batches of tokenized texts with a label for each text, or for each token.

    Args:
        encoding: the tokenized texts, without padding.
        labels: for each text a class, a number, or a tensor with a value for each of C classes; or
            a class for each of its tokens.
        pad_token_id: the tokenizer's.
        batch_size: texts per batch.
        seed: for the order of the texts.

    Raises:
        ValueError: there are no texts.
    """

    def __init__(
        self,
        encoding: BatchEncoding,
        labels: Sequence[float] | Sequence[Tensor] | Sequence[Sequence[int]],
        *,
        pad_token_id: int,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        assert len(labels) == len(encoding.encodings)
        self.encoding = encoding
        self.labels: Sequence[Any] = labels
        self.pad_token_id = pad_token_id
        self.lengths = np.array([len(text) for text in encoding.encodings])
        self.order = BatchOrder(self.lengths, batch_size=batch_size, seed=seed)

    @property
    def num_batches(self) -> int:
        """Number of batches per epoch."""
        return self.order.num_batches

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        """The inputs of the model, (B, T) int64 each, and `labels`, (B,), (B, C) or (B, T)."""
        return self.collate(self.order.example_indices(epoch, index))

    def by_length(self) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Every text once, from short to long: the indices of the texts, (B,), and their batch."""
        order = np.argsort(self.lengths, kind="stable")
        for start in range(0, len(order), self.order.batch_size):
            indices = order[start : start + self.order.batch_size]
            yield indices, self.collate(indices)

    def checksum(self) -> int:
        """A checksum of the texts and labels."""
        total = 0
        for ids, label in zip(self.encoding["input_ids"], self.labels, strict=True):
            total = zlib.crc32(np.array(ids).tobytes() + np.asarray(label).tobytes(), total)
        return total

    def collate(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The batch of the texts with these indices; see :meth:`batch`."""
        labels = [self.labels[index] for index in indices]
        if isinstance(labels[0], Sequence):
            tensor = pad_sequences([np.array(each) for each in labels], IGNORED_LABEL)
        elif isinstance(labels[0], Tensor):
            tensor = torch.stack(labels)
        else:
            tensor = torch.tensor(labels)
        inputs = self.encoding.padded_batch(indices.tolist(), self.pad_token_id)
        return {**inputs, "labels": tensor}


def pad_sequences(sequences: Sequence[np.ndarray], padding_value: int) -> Tensor:
    """Pad integer sequences on the right and stack them: (B, T) int64."""
    padded = np.full((len(sequences), max(map(len, sequences))), padding_value, dtype=np.int64)
    for index, sequence in enumerate(sequences):
        padded[index, : len(sequence)] = sequence
    return torch.from_numpy(padded)

"""Which examples meet in which batch, and how they are padded.

Examples of like length share a batch, which saves nearly all padding. Each batch is a function of
seed, epoch and number alone: no state is carried from batch to batch, so a run can be resumed at
any of them.

B batch, T tokens.
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
    """The numbers of the examples of each batch, a function of seed, epoch and the batch's number.

    Batches are cut from the examples sorted by length. Ties, and the order of the batches, are
    drawn anew in every epoch.

    Args:
        lengths: (examples,) tokens of each.
        batch_size: examples a batch.
        seed: of the draws.
        shuffle: False keeps the examples in order, in every epoch.

    Raises:
        ValueError: there are no examples, or the batch size is not positive.
    """

    def __init__(
        self, lengths: np.ndarray, *, batch_size: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        if not len(lengths):
            raise ValueError("there is no text to make batches of")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self._epoch = lru_cache(maxsize=1)(self._draw_epoch)

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def examples(self, epoch: int, index: int) -> np.ndarray:
        """(B,) the numbers of the examples of a batch."""
        return self._epoch(epoch if self.shuffle else 0)[index]

    def _draw_epoch(self, epoch: int) -> list[np.ndarray]:
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
    """Tokenized texts with labels: one a text, or one a token.

    Args:
        encoding: the tokenized texts, without padding.
        labels: for each text a class, or a class for each of its tokens.
        pad_token_id: of the tokenizer.
        batch_size: texts a batch.
        seed: of the order.

    Raises:
        ValueError: there are no texts.
    """

    def __init__(
        self,
        encoding: BatchEncoding,
        labels: Sequence[int] | Sequence[Sequence[int]],
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
        """Batches in an epoch."""
        return self.order.num_batches

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        """The inputs of the model, (B, T) int64 each, and `labels`, (B,) or (B, T) int64."""
        return self.of_texts(self.order.examples(epoch, index))

    def by_length(self) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Every text once, the shortest first: the numbers of the texts, (B,), and their batch."""
        order = np.argsort(self.lengths, kind="stable")
        for start in range(0, len(order), self.order.batch_size):
            numbers = order[start : start + self.order.batch_size]
            yield numbers, self.of_texts(numbers)

    def checksum(self) -> int:
        """A number that other texts or labels would hardly have."""
        total = 0
        for ids, label in zip(self.encoding["input_ids"], self.labels, strict=True):
            total = zlib.crc32(np.array(ids).tobytes() + np.array(label).tobytes(), total)
        return total

    def of_texts(self, numbers: np.ndarray) -> dict[str, Tensor]:
        """The batch of the texts with these numbers."""
        labels = [self.labels[number] for number in numbers]
        if isinstance(labels[0], Sequence):
            tensor = pad_sequences([np.array(each) for each in labels], IGNORED_LABEL)
        else:
            tensor = torch.tensor(labels)
        inputs = self.encoding.padded_rows(numbers.tolist(), self.pad_token_id)
        return {**inputs, "labels": tensor}


def pad_sequences(sequences: Sequence[np.ndarray], filling: int) -> Tensor:
    """Integer sequences of unequal length to (B, T) int64, padded on the right."""
    padded = np.full((len(sequences), max(map(len, sequences))), filling, dtype=np.int64)
    for number, sequence in enumerate(sequences):
        padded[number, : len(sequence)] = sequence
    return torch.from_numpy(padded)

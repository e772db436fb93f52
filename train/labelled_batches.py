"""Batches of tokenized texts with labels: one a text, or one a token.

B rows, T tokens.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minitransformer.batch_encoding import BatchEncoding
from minitransformer.models.inputs import IGNORED_LABEL
from train.batching import BatchOrder, pad_rows


class LabelledBatches:
    """Texts of like length with their labels; each batch is a function of seed, epoch and number.

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
        self.lengths = np.array([len(row) for row in encoding.encodings])
        self.order = BatchOrder(self.lengths, batch_size=batch_size, seed=seed)

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return self.order.num_batches

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        """The inputs of the model, (B, T) int64 each, and `labels`, (B,) or (B, T) int64."""
        return self.of_texts(self.order.rows(epoch, index))

    def by_length(self) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Every text once, the shortest first: the numbers of the texts, (B,), and their batch."""
        order = np.argsort(self.lengths, kind="stable")
        for start in range(0, len(order), self.order.batch_size):
            rows = order[start : start + self.order.batch_size]
            yield rows, self.of_texts(rows)

    def checksum(self) -> int:
        """A number that other texts or labels would hardly have."""
        total = 0
        for row, label in zip(self.encoding["input_ids"], self.labels, strict=True):
            total = zlib.crc32(np.array(row).tobytes() + np.array(label).tobytes(), total)
        return total

    def of_texts(self, rows: np.ndarray) -> dict[str, Tensor]:
        """The batch of the texts with these numbers."""
        labels = [self.labels[row] for row in rows]
        if isinstance(labels[0], Sequence):
            tensor = pad_rows([np.array(row) for row in labels], IGNORED_LABEL)
        else:
            tensor = torch.tensor(labels)
        inputs = self.encoding.padded_rows(rows.tolist(), self.pad_token_id)
        return {**inputs, "labels": tensor}

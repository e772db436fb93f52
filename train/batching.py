"""Which rows meet in which batch: rows of like length, drawn anew in every epoch.

B rows, T tokens.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


class BatchOrder:
    """The numbers of the rows of each batch, a function of seed, epoch and the batch's number.

    Batches are cut from the rows sorted by length, which saves nearly all padding. Ties, and the
    order of the batches, are drawn anew in every epoch. No state is carried from batch to batch, so
    a run can be resumed at any of them.

    Args:
        lengths: (rows,) tokens of each row.
        batch_size: rows a batch.
        seed: of the draws.
        shuffle: False keeps the rows in order, in every epoch.

    Raises:
        ValueError: there are no rows, or the batch size is not positive.
    """

    def __init__(
        self, lengths: np.ndarray, *, batch_size: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        if not len(lengths):
            raise ValueError("there is no row of text to make batches of")
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

    def rows(self, epoch: int, index: int) -> np.ndarray:
        """(B,) the numbers of the rows of a batch."""
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


def pad_rows(rows: Sequence[np.ndarray], filling: int) -> Tensor:
    """Integer rows of unequal length to (B, T) int64, filled up on the right."""
    padded = np.full((len(rows), max(map(len, rows))), filling, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return torch.from_numpy(padded)

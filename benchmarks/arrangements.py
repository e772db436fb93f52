"""How the tokens of a batch lie in rows: full, padded, or unpadded.

B rows, T tokens of the longest row, N tokens of all rows, E hidden size.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from minitransformer.fast.unpadding import UnpaddedMask, Unpadding
from minitransformer.layers.attention import padding_mask


class Arrangement(ABC):
    """How N tokens lie in rows. Nothing of their size is made before it is asked for.

    Args:
        lengths: tokens of each row.
        rows, longest: as they lie in memory, padding included.
        device: where they lie.
    """

    def __init__(self, lengths: tuple[int, ...], rows: int, longest: int, device: str) -> None:
        self.lengths = lengths
        self.rows = rows
        self.longest = longest
        self.device = device

    @property
    def full(self) -> bool:
        """Whether all rows are equally long."""
        return min(self.lengths) == max(self.lengths)

    @cached_property
    def mask(self) -> Any:
        """What attention is told about the rows."""
        return None

    @abstractmethod
    def lay(self, tokens: Tensor) -> Tensor:
        """(N, E) to what a layer takes, (rows, longest, E)."""

    @abstractmethod
    def pick(self, rows: Tensor) -> Tensor:
        """(rows, longest, E) to (N, E), padding left out."""


class FullRows(Arrangement):
    """As many rows as the batch has, all of them full."""

    def __init__(self, batch: int, length: int, device: str) -> None:
        super().__init__((length,) * batch, batch, length, device)

    def lay(self, tokens: Tensor) -> Tensor:
        """(N, E) to (B, T, E)."""
        return tokens.unflatten(0, (self.rows, self.longest))

    def pick(self, rows: Tensor) -> Tensor:
        """(B, T, E) to (N, E)."""
        return rows.flatten(0, 1)


class PaddedRows(Arrangement):
    """Rows of unequal length, filled up with padding that nobody attends to."""

    def __init__(self, batch: int, length: int, device: str) -> None:
        lengths = ragged_lengths(batch, length)
        super().__init__(lengths, len(lengths), max(lengths), device)

    @cached_property
    def real(self) -> Tensor:
        """(B, T) bool, True at the tokens that are there."""
        return real_places(self.lengths, self.device)

    @cached_property
    def mask(self) -> Tensor:
        """(B, 1, 1, T) bool, True = attend."""
        return padding_mask(self.real)

    def lay(self, tokens: Tensor) -> Tensor:
        """(N, E) to (B, T, E), with zeros where no token is."""
        padded = tokens.new_zeros(self.rows, self.longest, tokens.shape[-1])
        padded[self.real] = tokens
        return padded

    def pick(self, rows: Tensor) -> Tensor:
        """(B, T, E) to (N, E)."""
        return rows[self.real]


class UnpaddedRows(Arrangement):
    """The same rows of unequal length, one after the other without padding."""

    def __init__(self, batch: int, length: int, device: str) -> None:
        super().__init__(ragged_lengths(batch, length), 1, batch * length, device)

    @cached_property
    def mask(self) -> UnpaddedMask:
        """Where each row begins."""
        unpadding = Unpadding(real_places(self.lengths, self.device))
        return UnpaddedMask(unpadding, unpadding)

    def lay(self, tokens: Tensor) -> Tensor:
        """(N, E) to (1, N, E): unpadding sorts rows by their length, which they are."""
        return tokens[None]

    def pick(self, rows: Tensor) -> Tensor:
        """(1, N, E) to (N, E)."""
        return rows[0]


def ragged_lengths(batch: int, length: int) -> tuple[int, ...]:
    """As many tokens as full rows have, in twice as many rows, spread evenly from 0 to `length`.

    A row of no tokens is none. The shortest comes first.
    """
    # The sum of evenly spread lengths is a square: length * batch after the last of the rows.
    ends = [length * row * row // (4 * batch) for row in range(2 * batch + 1)]
    return tuple(sorted(end - start for start, end in pairwise(ends) if end > start))


def real_places(lengths: tuple[int, ...], device: str) -> Tensor:
    """(B, T) bool, True at the tokens of rows that are padded on the right."""
    places = torch.arange(max(lengths), device=device)
    return places < torch.tensor(lengths, device=device)[:, None]

"""Rows without their padding: taken out once before the first layer, put back once after the last.

All but attention treats each token by itself, so B rows of unequal length can as well be one row of
all their tokens. Attention is told where each row begins.

B batch, T tokens of a padded row, N real tokens of all rows.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor


class Packing:
    """Which tokens of (B, T) are there, and in which order they are packed.

    The rows are sorted by their number of tokens: those of one length lie side by side.

    Args:
        present: (B, T) bool, True at the tokens that are there.
        order: (B,) int64, the rows in another order.
    """

    def __init__(self, present: Tensor, order: Tensor | None = None) -> None:
        counts = present.sum(dim=1)  # (B,)
        self.order = counts.argsort(stable=True) if order is None else order  # (B,)
        self.lengths: list[int] = counts[self.order].tolist()  # a GPU is waited for
        self.num_tokens = sum(self.lengths)  # N
        found = torch.nonzero_static(present[self.order], size=self.num_tokens)  # (N, 2)
        row, place = found.unbind(dim=1)  # (N,) twice
        self.places = self.order[row] * present.shape[1] + place  # (N,), among B * T
        self.shape = present.shape
        self.longest = max(self.lengths)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) to (1, N, ...)."""
        return padded.flatten(0, 1).index_select(0, self.places)[None]

    def unpack(self, packed: Tensor) -> Tensor:
        """(1, N, ...) to (B, T, ...), with zeros where no token is."""
        rows, length = self.shape
        padded = packed.new_zeros(rows * length, *packed.shape[2:])
        return padded.index_copy(0, self.places, packed.squeeze(0)).unflatten(0, (rows, length))

    @cached_property
    def borders(self) -> Tensor:
        """(B + 1,) int32, where each row begins and the last one ends, as CUDA's kernels ask."""
        borders = [0, *accumulate(self.lengths)]
        return torch.tensor(borders, dtype=torch.int32, device=self.places.device)

    @cached_property
    def present(self) -> Tensor:
        """(B, T) bool, True at the tokens that are there."""
        return self.unpack(torch.ones_like(self.places, dtype=torch.bool)[None])


class Group(NamedTuple):
    """Rows that lie side by side and have as many queries as each other, and as many keys."""

    num_rows: int
    num_queries: int  # of each
    num_keys: int


class PackedMask:
    """Who attends to whom where rows are packed: the queries of a row to the keys of that row.

    Args:
        queries, keys: how the two sides are packed, with their rows in the same order.
    """

    def __init__(self, queries: Packing, keys: Packing) -> None:
        self.queries = queries
        self.keys = keys
        pairs = zip(queries.lengths, keys.lengths, strict=True)
        self.groups = [Group(len([*rows]), *lengths) for lengths, rows in groupby(pairs)]


def query_rows(tensor: Tensor, groups: Sequence[Group]) -> list[Tensor]:
    """Views of (1, H, N, D), the side of the queries: (rows, H, T, D) of each group."""
    return _rows(tensor, groups, [group.num_queries for group in groups])


def key_rows(tensor: Tensor, groups: Sequence[Group]) -> list[Tensor]:
    """Views of (1, H, M, D), the side of the keys: (rows, H, S, D) of each group."""
    return _rows(tensor, groups, [group.num_keys for group in groups])


def _rows(tensor: Tensor, groups: Sequence[Group], lengths: list[int]) -> list[Tensor]:
    shapes = [(group.num_rows, length) for group, length in zip(groups, lengths, strict=True)]
    # Of the gradient of a split, PyTorch makes one tensor; of that of slices, one for each.
    parts = tensor.squeeze(0).split([rows * length for rows, length in shapes], dim=1)
    return [
        part.unflatten(1, shape).transpose(0, 1) for part, shape in zip(parts, shapes, strict=True)
    ]


Mask = Tensor | PackedMask | None

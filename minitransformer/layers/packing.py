"""Rows without their padding: taken out once before the first layer, put back once after the last.

All but attention treats each token by itself, so B rows of unequal length can as well be one row of
all their tokens. Attention is told where each row begins.

B batch, T tokens of a padded row, N real tokens of all rows, P or M chosen ones, W wanted ones,
E hidden size.
"""

from collections.abc import Callable
from functools import cached_property, partial
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from minitransformer.layers.masks import padding_mask
from minitransformer.layers.rows import chosen_rows


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
        self.lengths: list[int] = counts[self.order].tolist()  # the device is waited for, here only
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
        return padded.index_copy(0, self.places, packed[0]).unflatten(0, (rows, length))

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


Mask = Tensor | PackedMask | None


class Chosen(NamedTuple):
    """Tokens for which alone the last layer computes."""

    places: Tensor  # (B, P) or (1, M) int64, in the rows that the layers see
    mask: Mask  # where they are the queries
    take: Callable[[Tensor], Tensor]  # (B, P, E) or (1, M, E) to (W, E), in the order of `wanted`


class PaddedRows:
    """Rows that stay as they came, with a mask.

    Args:
        present: (B, T) bool, True at real tokens; None where all are.
    """

    def __init__(self, present: Tensor | None) -> None:
        self.mask: Mask = None if present is None else padding_mask(present)  # (B, 1, 1, T)

    def enter(self, padded: Tensor) -> Tensor:
        """(B, T, ...) as the layers see it: as it is."""
        return padded

    def leave(self, hidden: Tensor) -> Tensor:
        """What comes out of the layers, as (B, T, ...)."""
        return hidden

    def context(self, hidden: Tensor, present: Tensor | None) -> tuple[Tensor, Mask]:
        """Other rows that these ask, (B, S, E) and (B, S) bool, and who attends to what of them."""
        return hidden, None if present is None else padding_mask(present)

    def choose(self, wanted: Tensor) -> Chosen:
        """The tokens at which `wanted`, (B, T) bool, is True."""
        places, valid = chosen_rows(wanted)  # (B, P) twice
        return Chosen(places, self.mask, lambda hidden: hidden[valid])


class PackedRows:
    """Rows whose real tokens are laid end to end.

    Args:
        packing: which tokens those are.
    """

    def __init__(self, packing: Packing) -> None:
        self.packing = packing
        self.mask: Mask = PackedMask(packing, packing)

    def enter(self, padded: Tensor) -> Tensor:
        """(B, T, ...) as the layers see it: (1, N, ...)."""
        return self.packing.pack(padded)

    def leave(self, hidden: Tensor) -> Tensor:
        """(1, N, ...) to (B, T, ...), with zeros at padding."""
        return self.packing.unpack(hidden)

    def context(self, hidden: Tensor, present: Tensor | None) -> tuple[Tensor, Mask]:
        """Other rows that these ask, (B, S, E) and (B, S) bool, and who attends to what of them.

        Where there are fewer of them, as many rows in turn ask the same one.
        """
        if present is None:
            present = hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        times = len(self.packing.lengths) // len(hidden)
        source = Packing(present.repeat_interleave(times, dim=0), self.packing.order)
        packed = source.pack(hidden.repeat_interleave(times, dim=0))  # (1, M, E)
        return packed, PackedMask(self.packing, source)

    def choose(self, wanted: Tensor) -> Chosen:
        """The tokens at which `wanted`, (B, T) bool, is True.

        Wanted padding is not computed; `take` gives zeros for it.
        """
        there = self.packing.pack(wanted)[0]  # (N,)
        if not bool(there.any()):
            there[0] = True  # attention needs a query; `take` leaves it out
        chosen = Packing(self.packing.unpack(there[None]), self.packing.order)
        places = torch.nonzero_static(there, size=chosen.num_tokens).T  # (1, M)
        take = partial(_in_order, wanted=wanted.flatten(), places=chosen.places)
        return Chosen(places, PackedMask(chosen, self.packing), take)


def arrange(
    present: Tensor | None, *, packed: bool, places_matter: bool = False
) -> PaddedRows | PackedRows:
    """How the layers see rows of unequal length.

    Args:
        present: (B, T) bool, True at real tokens; None where all are.
        packed: without their padding. Where nothing is padded, or nothing real, they stay.
        places_matter: padding between two tokens sets them apart, as in T5.

    Raises:
        ValueError: such padding would be taken out.
    """
    if present is None or not packed or not bool(present.any()):
        return PaddedRows(present)
    if places_matter and not _is_unbroken(present):
        raise ValueError(
            "attention_mask has padding between the tokens of a row, which sets them apart here, "
            "and attention='packed' takes it out; move it to an end, or use attention='sdpa'"
        )
    return PackedRows(Packing(present))


def _is_unbroken(present: Tensor) -> bool:
    """Whether no row of (B, T) bool has False between True and True."""
    begins = present[:, 1:] & ~present[:, :-1]  # where a run of tokens begins, but for place 0
    return bool((begins.sum(dim=1) + present[:, 0] <= 1).all())


def _in_order(hidden: Tensor, *, wanted: Tensor, places: Tensor) -> Tensor:
    """(1, M, E), the tokens at `places`, to (W, E), all that are wanted of B * T in their order."""
    rank = wanted.cumsum(dim=0) - 1  # of a place among the wanted
    inside = wanted[places]  # (M,)
    taken = hidden.new_zeros(int(wanted.sum()), hidden.shape[-1])
    return taken.index_copy(0, rank[places[inside]], hidden[0, inside])

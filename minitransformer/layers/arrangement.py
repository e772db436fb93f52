"""How the layers see the rows of a batch: with their padding and a mask, or packed.

Both have the same methods, so that a model is written once.

B batch, T tokens of a padded row, N real tokens of all rows, P or M chosen ones, W wanted ones,
E hidden size.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from minitransformer.layers.masks import padding_mask
from minitransformer.layers.packing import Mask, PackedMask, Packing
from minitransformer.layers.rows import Wanted


class Chosen(NamedTuple):
    """Tokens for which alone the last layer computes."""

    places: Tensor  # (B, P) or (1, M) int64, in the rows that the layers see
    mask: Mask  # where they are the queries
    take: Callable[[Tensor], Tensor]  # (B, P, E) or (1, M, E) to (W, E), row after row


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

    def choose(self, wanted: Wanted) -> Chosen:
        """The wanted tokens."""
        places, valid = wanted  # (B, P) twice
        if valid is None:
            return Chosen(places, self.mask, lambda hidden: hidden.flatten(0, 1))
        found = valid.flatten().nonzero().squeeze(1)  # (W,), among B * P
        return Chosen(places, self.mask, lambda hidden: hidden.flatten(0, 1).index_select(0, found))


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

    def choose(self, wanted: Wanted) -> Chosen:
        """The wanted tokens. Padding is not computed; `take` gives zeros for it."""
        places, valid = wanted  # (B, P) twice
        valid = torch.ones_like(places, dtype=torch.bool) if valid is None else valid
        everywhere = places.new_zeros(self.packing.shape, dtype=torch.bool)
        every = everywhere.scatter(1, places, valid)  # (B, T), True where wanted
        there = self.packing.pack(every)[0]  # (N,)
        if not bool(there.any()):
            there[0] = True  # attention needs a query; `take` leaves it out
        chosen = Packing(self.packing.unpack(there[None]), self.packing.order)
        places = torch.nonzero_static(there, size=chosen.num_tokens).T  # (1, M)
        # Of the chosen ones, those that are wanted, and the place of each among the wanted.
        inside = every.flatten()[chosen.places].nonzero().squeeze(1)
        ranks = (every.flatten().cumsum(dim=0) - 1)[chosen.places[inside]]
        take = partial(_in_order, number=int(every.sum()), inside=inside, ranks=ranks)
        return Chosen(places, PackedMask(chosen, self.packing), take)


def arrange(
    present: Tensor | None, *, packed: bool, unbroken: str | None = None
) -> PaddedRows | PackedRows:
    """How the layers see rows of unequal length.

    Args:
        present: (B, T) bool, True at real tokens; None where all are.
        packed: without their padding. Where nothing is padded, or nothing real, they stay.
        unbroken: name of the mask, where padding between two tokens sets them apart, as in T5.

    Raises:
        ValueError: such padding would be taken out.
    """
    if present is None or not packed or not bool(present.any()):
        return PaddedRows(present)
    if unbroken is not None and not _is_unbroken(present):
        raise ValueError(
            f"{unbroken} has padding between the tokens of a row, which sets them apart here, and "
            "attention='packed' takes it out; move it to an end, or use attention='sdpa'"
        )
    return PackedRows(Packing(present))


def _is_unbroken(present: Tensor) -> bool:
    """Whether no row of (B, T) bool has False between True and True."""
    begins = present[:, 1:] & ~present[:, :-1]  # where a run of tokens begins, but for place 0
    return bool((begins.sum(dim=1) + present[:, 0] <= 1).all())


def _in_order(hidden: Tensor, *, number: int, inside: Tensor, ranks: Tensor) -> Tensor:
    """(1, M, E) to (W, E): the tokens that lie `inside` it come to their `ranks`.

    Wanted padding, which is not among them, is zeros.
    """
    taken = hidden.new_zeros(number, hidden.shape[-1])
    return taken.index_copy(0, ranks, hidden[0].index_select(0, inside))

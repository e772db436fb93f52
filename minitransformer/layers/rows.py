"""Choosing some tokens of each row, so that later work is done for them alone.

B batch, T tokens, P chosen tokens of the row that has most, E hidden size.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Wanted(NamedTuple):
    """Tokens for which alone something is computed."""

    places: Tensor  # (B, P) int64, no place twice in a row
    valid: Tensor | None  # (B, P) bool, False where a place only fills the row up; None: nowhere


def chosen_rows(chosen: Tensor) -> Wanted:
    """Turn a bool map of tokens into indices that a fixed-size gather can use.

    Rows with fewer chosen tokens than P are filled up with tokens nobody asked for; `valid` tells
    the two apart. P is at least 1, because attention kernels need a query.

    Args:
        chosen: (B, T) bool.

    Returns:
        The places of the chosen tokens in their order, then filling.

    Example:
        >>> chosen_rows(torch.tensor([[False, True, True], [False, False, True]]))[0]
        tensor([[1, 2],
                [2, 0]])
    """
    most = max(1, int(chosen.sum(dim=1).max()))
    index = chosen.byte().argsort(dim=1, descending=True, stable=True)[:, :most]  # (B, P)
    return Wanted(index, chosen.gather(1, index))


def first_tokens(present: Tensor) -> Tensor:
    """The place of each row's first real token: (B, T) bool, True at real tokens, to (B, 1).

    It is 0 unless the row is padded on the left, and 0 where nothing is real.
    """
    return present.int().argmax(dim=1, keepdim=True)


def last_tokens(present: Tensor) -> Tensor:
    """The place of each row's last real token: (B, T) bool, True at real tokens, to (B, 1).

    It is the last place where nothing is real.
    """
    return present.shape[1] - 1 - present.flip(1).int().argmax(dim=1, keepdim=True)


def take_rows(hidden: Tensor, index: Tensor) -> Tensor:
    """(B, T, E) at the places (B, P) gives (B, P, E)."""
    return torch.take_along_dim(hidden, index[..., None], dim=1)


def take_last(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The last real token of each row.

    Args:
        hidden: (B, T, E).
        attention_mask: (B, T), True or not 0 at real tokens; None where all are.

    Returns:
        (B, E).
    """
    if attention_mask is None or hidden.shape[1] == 1:
        return hidden[:, -1]
    return take_rows(hidden, last_tokens(attention_mask != 0)).squeeze(1)

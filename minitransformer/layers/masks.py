"""Attention masks: bool, True = attend, always broadcastable to (B, H, T, S).

B batch, H heads, T query tokens, S key tokens. Masks combine with `&`.
"""

import torch
from torch import Tensor


def padding_mask(attention_mask: Tensor) -> Tensor:
    """(B, S) bool, True at real tokens, to (B, 1, 1, S): no query attends to padding."""
    return attention_mask[:, None, None, :]


def causal_mask(num_queries: int, num_keys: int, device: torch.device | None = None) -> Tensor:
    """(1, 1, T, S): a query attends to the keys up to its own place, none that come later.

    The queries are the last T of the S tokens, so that a cache of earlier keys needs no other
    rule: T = S is the usual triangle, T = 1 a row of True.

    Raises:
        ValueError: there are more queries than keys.
    """
    if num_queries > num_keys:
        raise ValueError(f"{num_queries} queries cannot be the last of {num_keys} keys")
    every_pair = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    return every_pair.tril(diagonal=num_keys - num_queries)[None, None]  # (1, 1, T, S)

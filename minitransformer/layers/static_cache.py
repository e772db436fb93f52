"""Keys and values in memory of fixed size and place, for a step that is recorded and repeated.

A CUDA graph repeats its kernels with the sizes and addresses that it was recorded with, so nothing
in the recorded step may depend on a number that Python knows. Here the number of tokens so far is a
tensor: the place at which the next keys and values are written. All places take part in every step,
and a mask leaves out those that are not written yet.

R rows, S places, H heads, D head size.
"""

import torch
from torch import Tensor

from minitransformer.layers.cache import KVCache, PastTokens


class StaticPastTokens(PastTokens):
    """The keys and values of one attention, in memory for all the tokens that there will be.

    Args:
        past: what there is so far.
        num_places: S.
        slot: (1,) int64, where the next token is written; shared with all other layers.
    """

    def __init__(self, past: PastTokens, num_places: int, slot: Tensor) -> None:
        super().__init__()
        self.length = num_places
        self._slot = slot
        keys, _ = past.tokens()
        shape = (*keys.shape[:2], num_places, keys.shape[3])  # (R, H, S, D)
        self._keys, self._values = keys.new_empty(shape), keys.new_empty(shape)
        self.fill(past)

    def fill(self, past: PastTokens) -> None:
        """Hold what `past` holds, in the same memory as before."""
        self.context = past.context
        for mine, came in zip((self._keys, self._values), past.tokens(), strict=True):
            # Zeros where nothing is written: a weight of zero times what lies there by chance,
            # which may be NaN, must be zero.
            mine[:, :, past.length :] = 0
            mine[:, :, : past.length] = came

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values of one token, (R, H, 1, D) each, and return all places.

        Returns:
            (R, H, S, D) twice.
        """
        self._keys.index_copy_(2, self._slot, key)
        self._values.index_copy_(2, self._slot, value)
        return self._keys, self._values

    def select(self, rows: Tensor) -> None:
        """Not here: rows that change places are for a cache that grows."""
        raise ValueError("the rows of a static cache keep their places; choose them before")


class StaticCache(KVCache):
    """What a decoder keeps while it writes one token a call, all of it in fixed memory.

    It takes over from a cache that has seen the prompt. Before each call, :meth:`advance` makes
    the next place the one that is written; a call without it writes the same place once more, with
    the same result. So a step may be tried before it is recorded.

    Example:
        >>> static = StaticCache(cache, num_places=cache.length + 9)
        >>> static.advance()
        >>> logits = model.next_token_logits(token, cache=static)

    Args:
        past: what there is so far, of at least one token.
        num_places: S, for the tokens of `past` and all that will be read after them.
    """

    slot: Tensor  # (1,) int64, the place of the token that is read

    def __init__(self, past: KVCache, num_places: int) -> None:
        super().__init__(len(past.layers))
        keys, _ = past.layers[0].own.tokens()
        self.length = num_places  # of the keys that a query is held against, written or not
        self.slot = torch.zeros(1, dtype=torch.int64, device=keys.device)
        self._written = 0
        self._present = torch.empty(len(keys), num_places, dtype=torch.bool, device=keys.device)
        for mine, came in zip(self.layers, past.layers, strict=True):
            mine.own = StaticPastTokens(came.own, num_places, self.slot)
            if came.source.length:
                mine.source = StaticPastTokens(came.source, came.source.length, self.slot)
        self._count_in(past)

    def fill(self, past: KVCache) -> None:
        """Hold what another cache of the same sizes holds, in the same memory as before."""
        for mine, came in zip(self.layers, past.layers, strict=True):
            _static(mine.own).fill(came.own)
            if came.source.length:
                _static(mine.source).fill(came.source)
        self._count_in(past)

    def advance(self) -> None:
        """Go on to the next place: to be called for each token, outside of what is recorded.

        Raises:
            ValueError: all places are written.
        """
        if self._written == self.length:
            raise ValueError(f"all {self.length} places of the cache are written")
        self.slot.fill_(self._written)
        self._written += 1

    def extend(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Count the token of each row, (R, 1), in.

        Args:
            input_ids: (R, 1).
            attention_mask: None, for it is real.

        Returns:
            (R, S) bool, True at places that are written and real.

        Raises:
            ValueError: other rows came than there are, or not one token each.
        """
        assert self._present is not None
        rows = len(self._present)
        if input_ids.shape != (rows, 1) or attention_mask is not None:
            raise ValueError(
                f"a static cache of {rows} rows reads one token of each, all of them real: "
                f"({rows}, 1); {tuple(input_ids.shape)} came"
            )
        return self._present.index_fill_(1, self.slot, True)

    def select(self, rows: Tensor) -> None:
        """Not here; see :meth:`StaticPastTokens.select`."""
        self.layers[0].own.select(rows)

    def _count_in(self, past: KVCache) -> None:
        """Take over how many places are written, and which of them are real."""
        assert self._present is not None
        self._written = past.length
        self._present[:, past.length :] = False
        self._present[:, : past.length] = True if past.present is None else past.present


def _static(past: PastTokens) -> StaticPastTokens:
    assert isinstance(past, StaticPastTokens)
    return past

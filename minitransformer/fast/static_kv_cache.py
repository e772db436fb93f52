"""Caches of keys and values that write new tokens in place.

:class:`PreallocatedKVCache`, for a CPU: the plain cache joins old and new keys anew for every
token, which copies all that came before. Here memory grows by doubling. Serves the rows of
generation (GPT-2 with 1 and 8 prompts, T5 and Marian with 4 beams).

:class:`StaticKVCache`, for a CUDA graph (:mod:`minitransformer.fast.cuda_graph`): a graph repeats
its kernels with the sizes and addresses that it was captured with, so nothing in the captured step
may depend on a number that Python knows. The position of the next token is a tensor; all positions
take part in every step, and a mask leaves out those not yet written.

Measured: see docs/decisions.md. B prompts, R decoded sequences, T new tokens, S positions, H heads,
D head size.
"""

import torch
from torch import Tensor

from minitransformer.layers.kv_cache import KeyValues, KVCache, check_batch


class PreallocatedKeyValues(KeyValues):
    """The keys and values of one attention, in memory for more tokens than there are yet."""

    def __init__(self) -> None:
        super().__init__()
        self._memory: tuple[Tensor, Tensor] | None = None  # (B, H, capacity, D) twice

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values of new tokens; see :meth:`KeyValues.update`."""
        if not self.length:  # what is computed at once, such as a prompt, is not copied
            return super().update(key, value)
        self.check(key)
        start, self.length = self.length, self.length + key.shape[2]
        if (
            self._memory is None
            or self._memory[0].shape[2] < self.length
            # Memory of inference mode cannot be written outside of it.
            or (self._memory[0].is_inference() and not torch.is_inference_mode_enabled())
        ):
            capacity = max(2 * start, self.length)
            self._memory = _grown(self.keys, capacity), _grown(self.values, capacity)
        for memory, new in zip(self._memory, (key, value), strict=True):
            memory[:, :, start : self.length] = new
        self._look_at_memory()
        return self.keys, self.values

    def select(self, rows: Tensor) -> None:
        """Make sequence r what sequence `rows[r]` was; rows is (R,) int64, R need not be B."""
        if not self.length:
            return
        capacity = self.length if self._memory is None else self._memory[0].shape[2]
        self._memory = _selected(self.keys, rows, capacity), _selected(self.values, rows, capacity)
        self._look_at_memory()

    def _look_at_memory(self) -> None:
        assert self._memory is not None
        self.keys, self.values = (memory[:, :, : self.length] for memory in self._memory)


class PreallocatedKVCache(KVCache):
    """What a decoder keeps from call to call, its own tokens in memory that grows by doubling.

    Args:
        num_layers: of the decoder.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__(num_layers)
        for layer in self.layers:
            layer.self_attention = PreallocatedKeyValues()


class StaticKeyValues(KeyValues):
    """The keys and values of one attention, in memory for all the tokens that there will be.

    Args:
        past: those so far.
        num_positions: S.
        cache_position: (1,) int64, where the next token is written; shared by all layers.
    """

    def __init__(self, past: KeyValues, num_positions: int, cache_position: Tensor) -> None:
        super().__init__()
        self.length = num_positions
        self._cache_position = cache_position
        shape = (*past.keys.shape[:2], num_positions, past.keys.shape[3])  # (R, H, S, D)
        self.keys, self.values = past.keys.new_empty(shape), past.values.new_empty(shape)
        self.fill(past)

    def fill(self, past: KeyValues) -> None:
        """Hold what `past` holds, in the same memory as before."""
        self.source = past.source
        for memory, held in ((self.keys, past.keys), (self.values, past.values)):
            # Zeros where nothing is written: a weight of zero times what lies there by chance,
            # which may be NaN, must be zero.
            memory[:, :, past.length :] = 0
            memory[:, :, : past.length] = held

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values of one token, (R, H, 1, D) each.

        Returns:
            Those of all positions, (R, H, S, D) twice.
        """
        self.keys.index_copy_(2, self._cache_position, key)
        self.values.index_copy_(2, self._cache_position, value)
        return self.keys, self.values

    def select(self, rows: Tensor) -> None:
        """Not here: sequences that change places need a cache that grows."""
        raise ValueError("the sequences of a static cache keep their places; select them before")


class StaticKVCache(KVCache):
    """What a decoder keeps while it generates one token a call, all of it in fixed memory.

    It takes over from a cache that has seen the prompt. Before each call, :meth:`advance` makes
    the next position the one that is written; a call without it writes the same position once more,
    with the same result. So a step may be tried before it is captured.

    Example:
        >>> static = StaticKVCache(cache, num_positions=cache.length + 9)
        >>> static.advance()
        >>> logits = model.next_token_logits(token, cache=static)

    Args:
        past: what there is so far, of at least one token.
        num_positions: S, for the tokens of `past` and all that will be read after them.
    """

    attention_mask: Tensor  # (R, S) bool

    def __init__(self, past: KVCache, num_positions: int) -> None:
        super().__init__(len(past.layers))
        keys = past.layers[0].self_attention.keys
        self.length = num_positions  # all positions are attended to, written or not
        self.cache_position = torch.zeros(1, dtype=torch.int64, device=keys.device)
        self.attention_mask = torch.zeros(
            len(keys), num_positions, dtype=torch.bool, device=keys.device
        )
        for mine, other in zip(self.layers, past.layers, strict=True):
            mine.self_attention = StaticKeyValues(
                other.self_attention, num_positions, self.cache_position
            )
            source = other.cross_attention
            if source.length:
                mine.cross_attention = StaticKeyValues(source, source.length, self.cache_position)
        self._fill_mask(past)

    def fill(self, past: KVCache) -> None:
        """Hold what another cache of the same sizes holds, in the same memory as before."""
        for mine, other in zip(self.layers, past.layers, strict=True):
            for held, came in (
                (mine.self_attention, other.self_attention),
                (mine.cross_attention, other.cross_attention),
            ):
                if isinstance(held, StaticKeyValues):
                    held.fill(came)
        self._fill_mask(past)

    def advance(self) -> None:
        """Go on to the next position: called for each token, outside of what is captured.

        Raises:
            ValueError: all positions are written.
        """
        if self._num_written == self.length:
            raise ValueError(f"all {self.length} positions of the cache are written")
        self.cache_position.fill_(self._num_written)
        self._num_written += 1

    def extend(self, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Count the token of each sequence in.

        Args:
            attention_mask: (R, 1) bool.

        Returns:
            (R, S) bool, True at positions that are written and real; and (1,) int64, the position
            of the token.

        Raises:
            ValueError: other sequences came than there are, or not one token of each.
        """
        check_batch(len(self.attention_mask), len(attention_mask))
        if attention_mask.shape[1] != 1:
            raise ValueError(
                f"a static cache reads one token of each sequence, ({len(attention_mask)}, 1), but "
                f"got {tuple(attention_mask.shape)}"
            )
        self.attention_mask.index_copy_(1, self.cache_position, attention_mask)
        return self.attention_mask, self.cache_position

    def select(self, rows: Tensor) -> None:
        """Not here; see :meth:`StaticKeyValues.select`."""
        self.layers[0].self_attention.select(rows)

    def _fill_mask(self, past: KVCache) -> None:
        """Take over how many positions are written, and which of them are real."""
        assert past.attention_mask is not None
        self._num_written = past.length
        self.attention_mask[:, past.length :] = False
        self.attention_mask[:, : past.length] = past.attention_mask


def _grown(tensor: Tensor, capacity: int) -> Tensor:
    """(B, H, T, D) at the beginning of new memory, (B, H, capacity, D)."""
    batch, heads, length, size = tensor.shape
    grown = tensor.new_empty(batch, heads, capacity, size)
    grown[:, :, :length] = tensor
    return grown


def _selected(tensor: Tensor, rows: Tensor, capacity: int) -> Tensor:
    """Sequences of (B, H, T, D) at the beginning of new memory, (R, H, capacity, D)."""
    _, heads, length, size = tensor.shape
    selected = tensor.new_empty(len(rows), heads, capacity, size)
    torch.index_select(tensor, 0, rows, out=selected[:, :, :length])
    return selected

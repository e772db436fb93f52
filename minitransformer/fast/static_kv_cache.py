"""Caches of keys and values that write new tokens in place.

:class:`PreallocatedKVCache`, for a CPU: the plain cache concatenates old and new keys for every
token, which copies all earlier tokens. Here the allocated memory doubles when it is full. Speeds up
all rows of the generation table. Measurements: benchmarks/results/README.md, "Generation".

:class:`StaticKVCache`, for a CUDA graph (:mod:`minitransformer.fast.cuda_graph`): a graph repeats
its kernels with the sizes and addresses that were captured, so nothing in a step may depend on a
Python number. The position of the next token is therefore a tensor; all positions take part in each
step, and a mask excludes those not yet written.

B prompts, R decoded sequences, T new tokens, S positions, H heads, D head size.
"""

import torch
from torch import Tensor

from minitransformer.layers.kv_cache import KeyValues, KVCache, check_batch


class PreallocatedKeyValues(KeyValues):
    """The keys and values of one attention module, with memory for more tokens than so far."""

    def __init__(self) -> None:
        super().__init__()
        self._memory: tuple[Tensor, Tensor] | None = None  # (B, H, capacity, D) twice

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values of new tokens; see :meth:`KeyValues.update`."""
        if not self.length:  # a first call, which reads a whole prompt, copies nothing
            return super().update(key, value)
        self.check(key)
        start, self.length = self.length, self.length + key.shape[2]
        if (
            self._memory is None
            or self._memory[0].shape[2] < self.length
            # Inference tensors cannot be written outside inference mode.
            or (self._memory[0].is_inference() and not torch.is_inference_mode_enabled())
        ):
            capacity = max(2 * start, self.length)
            self._memory = _grown(self.keys, capacity), _grown(self.values, capacity)
        for memory, new in zip(self._memory, (key, value), strict=True):
            memory[:, :, start : self.length] = new
        self._update_views()
        return self.keys, self.values

    def select(self, sequences: Tensor) -> None:
        """Make sequence r what sequence `sequences[r]` was; `sequences` is (R,) int64."""
        if not self.length:
            return
        capacity = self.length if self._memory is None else self._memory[0].shape[2]
        self._memory = (
            _selected(self.keys, sequences, capacity),
            _selected(self.values, sequences, capacity),
        )
        self._update_views()

    def _update_views(self) -> None:
        """Make the keys and values views of the written part of the memory."""
        assert self._memory is not None
        self.keys, self.values = (memory[:, :, : self.length] for memory in self._memory)


class PreallocatedKVCache(KVCache):
    """A decoder's KV cache that writes new tokens in place, and doubles its memory when it is full.

    Args:
        num_layers: of the decoder.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__(num_layers)
        for layer in self.layers:
            layer.self_attention = PreallocatedKeyValues()


class StaticKeyValues(KeyValues):
    """The keys and values of one attention module, in fixed memory for all positions.

    Args:
        past: the keys and values so far.
        num_positions: S.
        cache_position: (1,) int64, the position of the next token; all layers share the tensor.
    """

    def __init__(self, past: KeyValues, num_positions: int, cache_position: Tensor) -> None:
        super().__init__()
        self.length = num_positions
        self._cache_position = cache_position
        shape = (*past.keys.shape[:2], num_positions, past.keys.shape[3])  # (R, H, S, D)
        self.keys, self.values = past.keys.new_empty(shape), past.values.new_empty(shape)
        self.fill(past)

    def fill(self, past: KeyValues) -> None:
        """Copy the keys and values of `past` into this memory."""
        self.source = past.source
        for memory, values in ((self.keys, past.keys), (self.values, past.values)):
            # Zeros at positions not yet written: uninitialized memory may contain NaN, and a weight
            # of zero times NaN is NaN.
            memory[:, :, past.length :] = 0
            memory[:, :, : past.length] = values

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values of one token, (R, H, 1, D) each.

        Returns:
            The keys and the values of all positions, (R, H, S, D) each.
        """
        self.keys.index_copy_(2, self._cache_position, key)
        self.values.index_copy_(2, self._cache_position, value)
        return self.keys, self.values

    def select(self, sequences: Tensor) -> None:
        """Not possible: reordering sequences needs a cache that grows."""
        raise ValueError(
            "a static cache cannot select sequences; call select on the cache that it is made from"
        )


class StaticKVCache(KVCache):
    """A decoder's KV cache in fixed memory, for generating one token a call.

    It is made from a cache that contains the prompt. Before each call, :meth:`advance` moves to the
    next position. A call without it writes the same position again, with the same result, so that a
    step may run before it is captured.

    Example:
        >>> static = StaticKVCache(cache, num_positions=cache.length + 9)
        >>> static.advance()
        >>> logits = model.next_token_logits(token, cache=static)

    Args:
        past: the cache so far, of at least one token.
        num_positions: S, for the tokens of `past` and all that will be read after them.
    """

    attention_mask: Tensor  # (R, S) bool

    def __init__(self, past: KVCache, num_positions: int) -> None:
        super().__init__(len(past.layers))
        keys = past.layers[0].self_attention.keys
        self.length = num_positions  # all positions take part, written or not
        self.cache_position = torch.zeros(1, dtype=torch.int64, device=keys.device)
        self.attention_mask = torch.zeros(
            len(keys), num_positions, dtype=torch.bool, device=keys.device
        )
        for layer, past_layer in zip(self.layers, past.layers, strict=True):
            layer.self_attention = StaticKeyValues(
                past_layer.self_attention, num_positions, self.cache_position
            )
            source = past_layer.cross_attention
            if source.length:
                layer.cross_attention = StaticKeyValues(source, source.length, self.cache_position)
        self._fill_mask(past)

    def fill(self, past: KVCache) -> None:
        """Copy another cache of the same sizes into this memory."""
        for layer, past_layer in zip(self.layers, past.layers, strict=True):
            for static, past_values in (
                (layer.self_attention, past_layer.self_attention),
                (layer.cross_attention, past_layer.cross_attention),
            ):
                if isinstance(static, StaticKeyValues):
                    static.fill(past_values)
        self._fill_mask(past)

    def advance(self) -> None:
        """Move to the next position: to be called before each token, outside the captured step.

        Raises:
            ValueError: all positions are written.
        """
        if self._num_written == self.length:
            raise ValueError(f"all {self.length} positions of the cache are written")
        self.cache_position.fill_(self._num_written)
        self._num_written += 1

    def extend(self, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Add one token of each sequence to the padding mask.

        Args:
            attention_mask: (R, 1) bool.

        Returns:
            (R, S) bool, True at positions that are written and real; and (1,) int64, the position
            of the token.

        Raises:
            ValueError: the number of sequences is not R, or there is not one token of each.
        """
        check_batch(len(self.attention_mask), len(attention_mask))
        if attention_mask.shape[1] != 1:
            raise ValueError(
                f"a static cache reads one token of each sequence, ({len(attention_mask)}, 1), but "
                f"got {tuple(attention_mask.shape)}"
            )
        self.attention_mask.index_copy_(1, self.cache_position, attention_mask)
        return self.attention_mask, self.cache_position

    def select(self, sequences: Tensor) -> None:
        """Not possible; see :meth:`StaticKeyValues.select`."""
        self.layers[0].self_attention.select(sequences)

    def _fill_mask(self, past: KVCache) -> None:
        """Copy the number of written positions, and which of them are real."""
        assert past.attention_mask is not None
        self._num_written = past.length
        self.attention_mask[:, past.length :] = False
        self.attention_mask[:, : past.length] = past.attention_mask


def _grown(tensor: Tensor, capacity: int) -> Tensor:
    """Copy (B, H, T, D) to the beginning of new memory, (B, H, capacity, D)."""
    batch, heads, length, size = tensor.shape
    grown = tensor.new_empty(batch, heads, capacity, size)
    grown[:, :, :length] = tensor
    return grown


def _selected(tensor: Tensor, sequences: Tensor, capacity: int) -> Tensor:
    """Copy selected sequences of (B, H, T, D) to the beginning of new (R, H, capacity, D)."""
    _, heads, length, size = tensor.shape
    selected = tensor.new_empty(len(sequences), heads, capacity, size)
    torch.index_select(tensor, 0, sequences, out=selected[:, :, :length])
    return selected

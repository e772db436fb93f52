"""The keys and values of the tokens that a decoder has seen, so that each is computed once.

Without them, writing N tokens runs the model over 1, 2, ..., N tokens; with them over one at a
time.

B batch, T new tokens, S all tokens so far, H heads, D head size.
"""

import torch
from torch import Tensor


class PastTokens:
    """The keys and values of one attention, in memory that grows by doubling.

    Joining old and new anew at every token would copy all that came before, at every token.
    """

    def __init__(self) -> None:
        self.length = 0  # S
        self.context: Tensor | None = None  # whose they are, of a source, which does not change
        self._keys = torch.empty(0)  # (B, H, capacity, D), of which S are in use
        self._values = torch.empty(0)

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens, (B, H, T, D) each, and return those of all.

        Returns:
            (B, H, S, D) twice.

        Raises:
            ValueError: gradients are asked for, which writing in place would spoil; or the number
                of rows, or of heads, or their size has changed.
        """
        if key.requires_grad or value.requires_grad:
            raise ValueError("a cache is for generation: call the model within torch.no_grad()")
        if self.length:
            _check_rows(len(self._keys), len(key))
            held, came = self._keys.shape[1::2], key.shape[1::2]  # (H, D)
            if held != came:
                raise ValueError(
                    f"the cache holds {held[0]} heads of size {held[1]}, but {came[0]} of size "
                    f"{came[1]} came: it was filled by another model"
                )
        start, self.length = self.length, self.length + key.shape[2]
        if not start:  # what is computed once, such as a prompt, is not copied
            self._keys, self._values = key, value
            return key, value
        self._keys = _room_for(self._keys, start, self.length)
        self._values = _room_for(self._values, start, self.length)
        self._keys[:, :, start : self.length] = key
        self._values[:, :, start : self.length] = value
        return self.tokens()

    def tokens(self) -> tuple[Tensor, Tensor]:
        """The keys and values of all tokens so far: (B, H, S, D) twice."""
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def select(self, rows: Tensor) -> None:
        """Make row r what row `rows[r]` was; rows is (R,) int64, and R need not be B."""
        if self.length:
            self._keys = _chosen(self._keys, rows, self.length)
            self._values = _chosen(self._values, rows, self.length)


class LayerPast:
    """What one layer of a decoder keeps: its own tokens, and the encoder's where there is one."""

    def __init__(self) -> None:
        self.own = PastTokens()
        self.source = PastTokens()


class KVCache:
    """What a decoder keeps from call to call: hand the same one to each.

    It remembers the padding mask too: the `attention_mask` of a call is that of its new tokens.

    Example:
        >>> cache = KVCache(model.config.num_hidden_layers)
        >>> logits = model.next_token_logits(prompt, cache=cache)
        >>> logits = model.next_token_logits(logits.argmax(-1, keepdim=True), cache=cache)

    Args:
        num_layers: of the decoder.
    """

    # (1,) int64, where the token that is read stands; None where new tokens are the last ones.
    slot: Tensor | None = None

    def __init__(self, num_layers: int) -> None:
        self.layers = [LayerPast() for _ in range(num_layers)]
        self.length = 0  # S, padding included
        self._present: Tensor | None = None  # (B, S) bool; None as long as nothing was padding

    def extend(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        """Count new tokens in.

        Args:
            input_ids: (B, T), the new tokens.
            attention_mask: (B, T) bool, True where they are real, or None where all are.

        Returns:
            (B, S) bool for all tokens so far, or None where all are real.

        Raises:
            ValueError: an earlier call counted its tokens in and then failed, so that they have no
                keys; or the number of rows has changed.
        """
        if any(layer.own.length != self.length for layer in self.layers):
            raise ValueError(
                "an earlier call with this cache ended in an error; begin with a new cache"
            )
        if self.length:
            _check_rows(len(self.layers[0].own.tokens()[0]), len(input_ids))
        if attention_mask is not None or self._present is not None:
            before, now = self._present, attention_mask
            if before is None:
                before = input_ids.new_ones(len(input_ids), self.length, dtype=torch.bool)
            if now is None:
                now = torch.ones_like(input_ids, dtype=torch.bool)
            self._present = torch.cat([before, now], dim=1)  # (B, S)
        self.length += input_ids.shape[1]
        return self._present

    @property
    def present(self) -> Tensor | None:
        """(B, S) bool, True at real tokens; None as long as nothing was padding."""
        return self._present

    def select(self, rows: Tensor) -> None:
        """Make row r what row `rows[r]` was: beams that go on, or one prompt for several answers.

        The encoder's keys and values stay: they belong to the source, not to what is written.

        Args:
            rows: (R,) int64; R need not be B.
        """
        for layer in self.layers:
            layer.own.select(rows)
        if self._present is not None:
            self._present = self._present.index_select(0, rows)


def _check_rows(held: int, came: int) -> None:
    if held != came:
        raise ValueError(
            f"the cache holds {held} rows, but {came} came; choose its rows by "
            "cache.select(rows), or begin with a new cache"
        )


def _room_for(tensor: Tensor, used: int, needed: int) -> Tensor:
    """(B, H, capacity, D) with room for `needed` tokens, the first `used` of which are kept."""
    if needed <= tensor.shape[2]:
        return tensor
    shape = list(tensor.shape)
    shape[2] = max(2 * used, needed)
    larger = tensor.new_empty(shape)
    larger[:, :, :used] = tensor[:, :, :used]
    return larger


def _chosen(tensor: Tensor, rows: Tensor, used: int) -> Tensor:
    """Rows of (B, H, capacity, D): (R, H, capacity, D), of which the first `used` are copied."""
    chosen = tensor.new_empty(len(rows), *tensor.shape[1:])
    torch.index_select(tensor[:, :, :used], 0, rows, out=chosen[:, :, :used])
    return chosen


def of_new_tokens(numbers: Tensor, num_new: int, cache: KVCache | None) -> Tensor:
    """Of numbers for all tokens so far, (B, S), those of the new ones: (B, T)."""
    if cache is None or cache.slot is None:
        return numbers[:, -num_new:]
    return numbers.index_select(1, cache.slot)


def layer_pasts(cache: KVCache | None, num_layers: int) -> list[LayerPast] | list[None]:
    """What each layer keeps; None for each where nothing is kept.

    Raises:
        ValueError: the cache was made for another number of layers.
    """
    if cache is None:
        return [None] * num_layers
    if len(cache.layers) != num_layers:
        raise ValueError(
            f"the cache has {len(cache.layers)} layers, the decoder {num_layers}; "
            "make it by model.new_cache()"
        )
    return cache.layers

"""The keys and values of the tokens that a decoder has seen, so that each is computed once.

Without them, generating N tokens runs the model over 1, 2, ..., N tokens; with them over one at a
time.

B batch, T new tokens, S all tokens so far, H heads, D head size, L layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class KeyValues:
    """The keys and values of one attention."""

    keys: Tensor  # (B, H, S, D)
    values: Tensor  # (B, H, S, D)

    def __init__(self) -> None:
        self.length = 0  # S
        self.source: Tensor | None = None  # in cross-attention, the encoder output they belong to

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of new tokens, (B, H, T, D) twice; gives those of all, (B, H, S, D) twice.

        Raises:
            ValueError: gradients are needed; or the batch, the heads or their size are not
                those of the tokens before.
        """
        if self.length:
            self.check(key)
            key = torch.cat([self.keys, key], dim=2)  # (B, H, S, D)
            value = torch.cat([self.values, value], dim=2)
        elif key.requires_grad or value.requires_grad:
            raise ValueError("a cache is for generation: call the model within torch.no_grad()")
        self.keys, self.values, self.length = key, value, key.shape[2]
        return key, value

    def check(self, key: Tensor) -> None:
        """Check that new keys, (B, H, T, D), fit those that are stored."""
        if key.requires_grad:
            raise ValueError("a cache is for generation: call the model within torch.no_grad()")
        check_batch(self.keys.shape[0], key.shape[0])
        here, new = self.keys.shape[1::2], key.shape[1::2]  # (H, D)
        if here != new:
            raise ValueError(
                f"the cache holds {here[0]} heads of size {here[1]}, but got {new[0]} of size "
                f"{new[1]}: it was filled by another model"
            )

    def select(self, sequences: Tensor) -> None:
        """Make sequence r what sequence `sequences[r]` was; `sequences` is (R,) int64."""
        if self.length:
            self.keys = self.keys.index_select(0, sequences)
            self.values = self.values.index_select(0, sequences)


class LayerCache:
    """The keys and values of one decoder layer: of self-attention and of cross-attention."""

    def __init__(self) -> None:
        self.self_attention = KeyValues()
        self.cross_attention = KeyValues()


class KVCache:
    """The cache of a decoder with L layers: pass the same one to every call.

    It remembers the padding mask too: the `attention_mask` of a call is that of its new tokens.

    Example:
        >>> cache = model.new_cache()
        >>> logits = model.next_token_logits(prompt, cache=cache)
        >>> logits = model.next_token_logits(logits.argmax(-1, keepdim=True), cache=cache)
    """

    def __init__(self, num_layers: int) -> None:
        self.layers = [LayerCache() for _ in range(num_layers)]
        self.length = 0  # S, padding included
        self.attention_mask: Tensor | None = None  # (B, S) bool; None while empty

    def extend(self, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Count new tokens in: their mask, (B, T), to that of all, (B, S), and positions, (T,).

        Raises:
            ValueError: an earlier call counted its tokens in and then failed, so that they have no
                keys; or the number of sequences has changed.
        """
        if any(layer.self_attention.length != self.length for layer in self.layers):
            raise ValueError("an earlier call with this cache failed; start with a new cache")
        start = self.length
        if self.attention_mask is not None:
            check_batch(self.attention_mask.shape[0], attention_mask.shape[0])
            attention_mask = torch.cat([self.attention_mask, attention_mask], dim=1)  # (B, S)
        self.attention_mask, self.length = attention_mask, attention_mask.shape[1]
        return attention_mask, torch.arange(start, self.length, device=attention_mask.device)

    def select(self, sequences: Tensor) -> None:
        """Make sequence r what sequence `sequences[r]` was: beams, or several answers to a prompt.

        The encoder's keys and values stay: they belong to the source, not to what is generated.

        Args:
            sequences: (R,) int64, indices of the sequences to keep; R need not be B.
        """
        for layer in self.layers:
            layer.self_attention.select(sequences)
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask.index_select(0, sequences)


def layer_caches(cache: KVCache | None, num_layers: int) -> Sequence[LayerCache | None]:
    """The cache of each of L layers; without a cache, None for each.

    Raises:
        ValueError: the cache was made for another number of layers.
    """
    if cache is not None and len(cache.layers) != num_layers:
        raise ValueError(
            f"the cache has {len(cache.layers)} layers, the decoder {num_layers}; "
            "make one with model.new_cache()"
        )
    return [None] * num_layers if cache is None else cache.layers


def check_batch(cached: int, new: int) -> None:
    """Check that a call has as many sequences as the cache."""
    if cached != new:
        raise ValueError(
            f"the cache holds {cached} sequences, but got {new}; select among them with "
            "cache.select(sequences), or start with a new cache"
        )

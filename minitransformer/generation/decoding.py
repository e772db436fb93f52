"""The two kinds of models behind one face: scores of the first new token, then of each next one.

B prompts, W their tokens, R rows that are written, L tokens so far, V vocabulary.
"""

from typing import Protocol

import torch
from torch import Tensor

from minitransformer.layers.cache import KVCache
from minitransformer.models.generative import CausalLM, Seq2SeqLM
from minitransformer.models.outputs import Encoded


class Decoder(Protocol):
    """A model at work on its prompts."""

    prompt: Tensor  # (B, W), what the rows begin with; vocab_size stands for padding

    def start(self) -> Tensor:
        """The scores of the first new token: (B, V)."""

    def step(self, history: Tensor) -> Tensor:
        """The scores of the next token: (R, L), all tokens so far, to (R, V)."""

    def select(self, rows: Tensor) -> None:
        """Make row r what row `rows[r]` was; rows is (R,) int64."""


class CausalDecoder:
    """A decoder that goes on from its prompts.

    Args:
        model: the decoder.
        prompt: (B, W), padded on the left by `vocab_size`.
        use_cache: whether keys and values are kept, or all is computed anew for each token.
    """

    def __init__(self, model: CausalLM, prompt: Tensor, *, use_cache: bool) -> None:
        self.model = model
        self.prompt = prompt
        self.cache: KVCache | None = model.new_cache() if use_cache else None

    def start(self) -> Tensor:
        """The scores of the first new token: (B, V)."""
        return self._logits(self.prompt)

    def step(self, history: Tensor) -> Tensor:
        """The scores of the next token: (R, L), all tokens so far, to (R, V)."""
        if self.cache is None:
            return self._logits(history)
        return self.model.next_token_logits(history[:, -1:], cache=self.cache)

    def select(self, rows: Tensor) -> None:
        """Make row r what row `rows[r]` was."""
        if self.cache is not None:
            self.cache.select(rows)

    def _logits(self, ids: Tensor) -> Tensor:
        real = ids < self.model.config.vocab_size
        # Masked places need an id that the model knows.
        return self.model.next_token_logits(
            ids.masked_fill(~real, 0), attention_mask=real, cache=self.cache
        )


class Seq2SeqDecoder:
    """An encoder-decoder that writes from the start token on.

    Args:
        model: the encoder-decoder.
        input_ids: (B, S), the source.
        attention_mask: (B, S), or None where nothing is padded.
        start_token_id: what the decoder reads first.
        use_cache: whether keys and values are kept, or all is computed anew for each token.
    """

    def __init__(
        self,
        model: Seq2SeqLM,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        start_token_id: int,
        *,
        use_cache: bool,
    ) -> None:
        self.model = model
        self.source = (input_ids, attention_mask)
        self.encoded: Encoded | None = None
        self.prompt = torch.full_like(input_ids[:, :1], start_token_id)
        self.cache: KVCache | None = model.new_cache() if use_cache else None

    def start(self) -> Tensor:
        """The scores of the first new token: (B, V)."""
        self.encoded = self.model.encode(*self.source)
        return self._logits(self.prompt)

    def step(self, history: Tensor) -> Tensor:
        """The scores of the next token: (R, L), all tokens so far, to (R, V)."""
        return self._logits(history if self.cache is None else history[:, -1:])

    def select(self, rows: Tensor) -> None:
        """Make row r what row `rows[r]` was, of the same source."""
        if self.cache is not None:
            self.cache.select(rows)

    def _logits(self, ids: Tensor) -> Tensor:
        assert self.encoded is not None
        return self.model.next_token_logits(ids, self.encoded, cache=self.cache)

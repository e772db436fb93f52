"""BART (Lewis et al. 2019), the encoder-decoder of "Attention Is All You Need" almost as drawn.

Positions are learnt, the activation is GELU, and the embeddings are normed; all else is the paper's
figure 1. Matches `transformers.models.bart.modeling_bart`. Marian imports from here.

B sources, S source tokens, R rows that are written, T their tokens, E hidden size, C classes.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.layers.arrangement import arrange
from minitransformer.layers.cache import KVCache, LayerPast, layer_pasts, of_new_tokens
from minitransformer.layers.dropout import Dropout
from minitransformer.layers.feedforward import FeedForward
from minitransformer.layers.multihead import CrossAttention, MultiHeadAttention
from minitransformer.layers.norm import LayerNorm
from minitransformer.layers.packing import Mask
from minitransformer.layers.positions import (
    OffsetPositions,
    count_positions,
    present_or_all,
)
from minitransformer.layers.word_loss import WordScores
from minitransformer.models.bart_config import BartConfig
from minitransformer.models.base import initialize
from minitransformer.models.bert import EncoderLayer
from minitransformer.models.generative import Seq2SeqLM
from minitransformer.models.outputs import Encoded
from minitransformer.models.seq2seq import Seq2SeqModel, Stack

NORM_EPS = 1e-5  # BART's and Marian's norms have no field for it


class DecoderLayer(nn.Module):
    """Masked self-attention, cross-attention, feed-forward; each is added and the sum is normed."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        activation: str,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        attention: str,
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(
            hidden_size, num_heads, attention_dropout, attention, causal=True
        )
        self.attention_norm = LayerNorm(hidden_size, NORM_EPS)
        self.cross_attention = CrossAttention(hidden_size, num_heads, attention_dropout, attention)
        self.cross_attention_norm = LayerNorm(hidden_size, NORM_EPS)
        self.feed_forward = FeedForward(
            hidden_size, intermediate_size, activation, activation_dropout
        )
        self.feed_forward_norm = LayerNorm(hidden_size, NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        hidden: Tensor,
        mask: Mask,
        source: Tensor,
        source_mask: Mask,
        past: LayerPast | None,
    ) -> Tensor:
        """(R, T, E) to (R, T, E).

        Args:
            hidden: (R, T, E).
            mask: bool, True at real tokens of those so far, (R, 1, 1, so far); None where all are;
                of packed rows, where each begins.
            source: (B, S, E), the encoder's last hidden state.
            source_mask: (B, 1, 1, S) bool, the same for the source.
            past: what this layer keeps of the tokens before, and of the source.
        """
        own, others = (None, None) if past is None else (past.own, past.source)
        attended = self.attention(hidden, mask=mask, past=own)  # (R, T, E)
        hidden = self.attention_norm(hidden + self.dropout(attended))
        attended = self.cross_attention(hidden, source, source_mask, others)  # (R, T, E)
        hidden = self.cross_attention_norm(hidden + self.dropout(attended))
        return self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))


class BartEncoder(Stack):
    """Positions are added to the words; then come the layers, which are BERT's.

    Args:
        config: the sizes.
        positions: module that turns the numbers of tokens, (B, S), into (B, S, E).
        embedding_norm: norm of the embeddings, or nothing.
        attention: the kernel.
    """

    def __init__(
        self, config: Any, positions: nn.Module, embedding_norm: nn.Module, attention: str
    ) -> None:
        super().__init__(attention)
        self.positions = positions
        self.embedding_norm = embedding_norm
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(
            EncoderLayer(
                config.hidden_size,
                config.num_attention_heads,
                config.intermediate_size,
                config.hidden_act,
                config.hidden_dropout_prob,
                config.attention_probs_dropout_prob,
                NORM_EPS,
                attention,
                config.activation_dropout,
            )
            for _ in range(config.num_hidden_layers)
        )

    def forward(self, embedded: Tensor, present: Tensor | None) -> Tensor:
        """(B, S, E) and (B, S) bool, None where all tokens are real, to (B, S, E)."""
        places = present_or_all(present, embedded.shape[1], embedded.device)  # (B, S)
        rows = arrange(present, packed=self.packed)
        hidden = rows.enter(embedded + self.positions(count_positions(places)))  # (B, S, E)
        hidden = self.dropout(self.embedding_norm(hidden))
        for layer in self.layers:
            hidden = layer(hidden, rows.mask)  # (B, S, E)
        return rows.leave(hidden)


class BartDecoder(Stack):
    """Positions are added to the words; then come the layers, each of which asks the source.

    Args:
        config, positions, embedding_norm, attention: as in :class:`BartEncoder`.
    """

    def __init__(
        self, config: Any, positions: nn.Module, embedding_norm: nn.Module, attention: str
    ) -> None:
        super().__init__(attention)
        self.positions = positions
        self.embedding_norm = embedding_norm
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(
            DecoderLayer(
                config.hidden_size,
                config.num_decoder_attention_heads,
                config.decoder_intermediate_size,
                config.hidden_act,
                config.hidden_dropout_prob,
                config.attention_probs_dropout_prob,
                config.activation_dropout,
                attention,
            )
            for _ in range(config.num_decoder_layers)
        )

    def forward(
        self, embedded: Tensor, present: Tensor | None, source: Encoded, cache: KVCache | None
    ) -> Tensor:
        """(R, T, E) to (R, T, E); `present` is (R, tokens so far) bool, None where all are real."""
        length = embedded.shape[1]  # T
        so_far = length if cache is None else cache.length
        places = present_or_all(present, so_far, embedded.device)
        rows = arrange(present, packed=self.packed and cache is None)
        context = rows.context(source.hidden, source.attention_mask)
        numbers = of_new_tokens(count_positions(places), length, cache)  # (R, T)
        hidden = rows.enter(embedded + self.positions(numbers))  # (R, T, E)
        hidden = self.dropout(self.embedding_norm(hidden))
        for layer, past in zip(self.layers, layer_pasts(cache, len(self.layers)), strict=True):
            hidden = layer(hidden, rows.mask, *context, past)  # (R, T, E)
        return rows.leave(hidden)


class BartModel(Seq2SeqModel):
    """Encoder and decoder over one table of words.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's kernel; "packed", without padding; or "eager", the formula.
    """

    config: BartConfig
    config_class = BartConfig

    def __init__(self, config: BartConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.encoder = BartEncoder(
            config, self.build_positions(), self.build_embedding_norm(), attention
        )
        self.decoder = BartDecoder(
            config, self.build_positions(), self.build_embedding_norm(), attention
        )
        initialize(self, config.initializer_range)

    def build_positions(self) -> nn.Module:
        """The position module of this family, one for each stack."""
        config = self.config
        return OffsetPositions(config.max_position_embeddings, config.hidden_size, offset=2)

    def build_embedding_norm(self) -> nn.Module:
        """The norm of the embeddings of this family, one for each stack."""
        return LayerNorm(self.config.hidden_size, NORM_EPS)

    def embed(self, input_ids: Tensor) -> Tensor:
        """The vectors of words: (B, T) to (B, T, E)."""
        scale = math.sqrt(self.config.hidden_size) if self.config.scale_embedding else 1.0
        return self.words(input_ids) * scale


class BartForConditionalGeneration(Seq2SeqLM):
    """BART with a score for each word that may come next; its head is the word embedding.

    `final_logits_bias` is added to the scores. Training leaves it as it is, as in Hugging Face.
    """

    backbone_name = "model"
    config: BartConfig
    config_class = BartConfig
    model_class: type[BartModel] = BartModel

    final_logits_bias: Tensor  # (1, V)

    def __init__(self, config: BartConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.model = self.model_class(config, attention=attention)
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))

    def word_scores(self, hidden: Tensor) -> WordScores:
        """(..., E), what it is multiplied by, and what is added."""
        return WordScores(hidden, self.head.weight, self.final_logits_bias[0])

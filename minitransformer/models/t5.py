"""T5 (Raffel et al. 2019), and its version 1.1 (Shazeer 2020): text in, text out.

What differs from the original paper: norms come first, are without mean and bias and stand once
more at the end; no linear map has a bias; scores are not scaled; positions are a bias on the
scores, one table for all layers of a stack. Matches `transformers.models.t5.modeling_t5`.

B sources, S source tokens, R rows that are written, T their tokens, E hidden size.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from minitransformer.layers.arrangement import arrange
from minitransformer.layers.cache import KVCache, LayerPast, layer_pasts
from minitransformer.layers.dropout import Dropout
from minitransformer.layers.feedforward import FeedForward, GatedFeedForward
from minitransformer.layers.multihead import CrossAttention, MultiHeadAttention
from minitransformer.layers.norm import RMSNorm
from minitransformer.layers.packing import Mask
from minitransformer.layers.relative_positions import RelativePositionBias
from minitransformer.layers.word_loss import WordScores
from minitransformer.models.generative import Seq2SeqLM
from minitransformer.models.outputs import Encoded
from minitransformer.models.seq2seq import Seq2SeqModel, Stack
from minitransformer.models.t5_config import T5Config


class T5EncoderLayer(nn.Module):
    """Self-attention, then feed-forward; each reads a normed copy of what it adds to."""

    def __init__(
        self,
        attention: MultiHeadAttention,
        feed_forward: FeedForward | GatedFeedForward,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        hidden_size = feed_forward.contract.out_features
        self.attention_norm = RMSNorm(hidden_size, eps)
        self.attention = attention
        self.feed_forward_norm = RMSNorm(hidden_size, eps)
        self.feed_forward = feed_forward
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Mask, bias: Tensor) -> Tensor:
        """(B, S, E), (B, 1, 1, S) bool or None, and (1, H, S, S) of positions, to (B, S, E)."""
        attended = self.attention(self.attention_norm(hidden), mask=mask, bias=bias)  # (B, S, E)
        hidden = hidden + self.dropout(attended)
        return hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))


class T5DecoderLayer(T5EncoderLayer):
    """Masked self-attention, cross-attention, feed-forward; no positions in cross-attention."""

    def __init__(
        self,
        attention: MultiHeadAttention,
        cross_attention: CrossAttention,
        feed_forward: FeedForward | GatedFeedForward,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__(attention, feed_forward, dropout, eps)
        self.cross_attention_norm = RMSNorm(feed_forward.contract.out_features, eps)
        self.cross_attention = cross_attention

    def forward(  # type: ignore[override]
        self,
        hidden: Tensor,
        mask: Mask,
        bias: Tensor,
        source: Tensor,
        source_mask: Mask,
        past: LayerPast | None,
    ) -> Tensor:
        """(R, T, E) to (R, T, E); see :class:`minitransformer.models.bart.DecoderLayer`."""
        own, others = (None, None) if past is None else (past.own, past.source)
        attended = self.attention(self.attention_norm(hidden), mask=mask, bias=bias, past=own)
        hidden = hidden + self.dropout(attended)  # (R, T, E)
        normed = self.cross_attention_norm(hidden)
        hidden = hidden + self.dropout(
            self.cross_attention(normed, source, source_mask, others)  # (R, T, E)
        )
        return hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))


class T5Stack(Stack):
    """What encoder and decoder share: dropout, positions for all layers, and a last norm.

    Args:
        config: the sizes.
        layers: of the stack.
        causal: whether it is the decoder's.
        attention: the kernel.
    """

    def __init__(
        self, config: T5Config, layers: Sequence[nn.Module], causal: bool, attention: str
    ) -> None:
        super().__init__(attention)
        self.position_bias = RelativePositionBias(
            config.num_attention_heads,
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
            bidirectional=not causal,
        )
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(layers)
        self.final_norm = RMSNorm(config.hidden_size, config.layer_norm_eps)
        self.final = Dropout(config.hidden_dropout_prob)

    def finish(self, hidden: Tensor) -> Tensor:
        """The last norm, and dropout."""
        assert self.final is not None
        return self.final(self.final_norm(hidden))


class T5Encoder(T5Stack):
    """The layers that read the source."""

    def __init__(self, config: T5Config, attention: str) -> None:
        layers = [
            T5EncoderLayer(
                self_attention(config, attention, causal=False),
                feed_forward(config),
                config.hidden_dropout_prob,
                config.layer_norm_eps,
            )
            for _ in range(config.num_hidden_layers)
        ]
        super().__init__(config, layers, causal=False, attention=attention)

    def forward(self, embedded: Tensor, present: Tensor | None) -> Tensor:
        """(B, S, E) and (B, S) bool, None where all tokens are real, to (B, S, E)."""
        rows = arrange(present, packed=self.packed, unbroken="attention_mask")
        length = embedded.shape[1]
        bias = self.position_bias(length, length)  # (1, H, S, S)
        hidden = self.dropout(rows.enter(embedded))
        for layer in self.layers:
            hidden = layer(hidden, rows.mask, bias)  # (B, S, E)
        return rows.leave(self.finish(hidden))


class T5Decoder(T5Stack):
    """The layers that write."""

    def __init__(self, config: T5Config, attention: str) -> None:
        layers = [
            T5DecoderLayer(
                self_attention(config, attention, causal=True),
                CrossAttention(**attention_sizes(config, attention)),
                feed_forward(config),
                config.hidden_dropout_prob,
                config.layer_norm_eps,
            )
            for _ in range(config.num_decoder_layers)
        ]
        super().__init__(config, layers, causal=True, attention=attention)

    def forward(
        self, embedded: Tensor, present: Tensor | None, source: Encoded, cache: KVCache | None
    ) -> Tensor:
        """(R, T, E) to (R, T, E); `present` is (R, tokens so far) bool, None where all are real."""
        packed = self.packed and cache is None
        rows = arrange(present, packed=packed, unbroken="decoder_attention_mask")
        context = rows.context(source.hidden, source.attention_mask)
        length = embedded.shape[1]  # T
        so_far, slot = (length, None) if cache is None else (cache.length, cache.slot)
        bias = self.position_bias(length, so_far, slot)  # (1, H, T, so far)
        hidden = self.dropout(rows.enter(embedded))  # (R, T, E)
        for layer, past in zip(self.layers, layer_pasts(cache, len(self.layers)), strict=True):
            hidden = layer(hidden, rows.mask, bias, *context, past)  # (R, T, E)
        return rows.leave(self.finish(hidden))


class T5Model(Seq2SeqModel):
    """Encoder and decoder over one table of words.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's kernel; "packed", without padding; or "eager", the formula.
    """

    config: T5Config
    config_class = T5Config
    overflows_in_float16 = True

    def __init__(self, config: T5Config, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = T5Encoder(config, attention)
        self.decoder = T5Decoder(config, attention)
        self.draw(self)

    def embed(self, input_ids: Tensor) -> Tensor:
        """The vectors of words: (B, T) to (B, T, E)."""
        return self.words(input_ids)

    def draw(self, part: nn.Module) -> None:
        """Give a part of the model the weights that training begins with; see `draw_t5`."""
        draw_t5(part, self.config)


class T5ForConditionalGeneration(Seq2SeqLM):
    """T5 with a score for each word that may come next.

    The head is the word embedding, whose input is scaled down, or in version 1.1 a matrix of its
    own: `config.tie_word_embeddings` and `config.scale_decoder_outputs` say which.
    """

    backbone_name = "transformer"
    config: T5Config
    config_class = T5Config
    overflows_in_float16 = True

    def __init__(self, config: T5Config, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.transformer = T5Model(config, attention=attention)
        self.lm_head: nn.Linear | None = None
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.draw(self.lm_head)

    def word_scores(self, hidden: Tensor) -> WordScores:
        """(..., E), scaled down where the config says so, and what it is multiplied by."""
        if self.config.scale_decoder_outputs:
            hidden = hidden * self.config.hidden_size**-0.5
        return WordScores(hidden, self.head.weight)

    @property
    def head(self) -> nn.Embedding | nn.Linear:
        """The module whose weight, (V, E), scores the words."""
        return self.transformer.words if self.lm_head is None else self.lm_head

    def draw(self, part: nn.Module) -> None:
        """Give a part of the model the weights that training begins with; see `draw_t5`.

        A head of its own is drawn like the word embedding, in whose place it stands.
        """
        draw_t5(part, self.config)
        if part is self.lm_head:
            nn.init.normal_(part.weight, std=self.config.initializer_factor)


def attention_sizes(config: T5Config, attention: str) -> dict[str, Any]:
    """What self- and cross-attention are made of: no bias, no scale, heads of any size."""
    return {
        "hidden_size": config.hidden_size,
        "num_heads": config.num_attention_heads,
        "dropout": config.hidden_dropout_prob,
        "attention": attention,
        "head_size": config.head_size,
        "bias": False,
        "scale": 1.0,
    }


def self_attention(config: T5Config, attention: str, *, causal: bool) -> MultiHeadAttention:
    """The self-attention of a layer."""
    return MultiHeadAttention(**attention_sizes(config, attention), causal=causal)


def feed_forward(config: T5Config) -> FeedForward | GatedFeedForward:
    """The feed-forward network of a layer."""
    network = GatedFeedForward if config.is_gated else FeedForward
    return network(
        config.hidden_size,
        config.intermediate_size,
        config.activation,
        config.hidden_dropout_prob,
        bias=False,
    )


def draw_t5(part: nn.Module, config: T5Config) -> None:
    """Draw every weight of `part` from N(0, deviation), as Hugging Face's T5 does.

    Each matrix is drawn so that what it gives is of size 1 if what it takes is; the queries are
    smaller by sqrt(head size), for nothing else scales the scores down.
    """
    factor = config.initializer_factor
    for module in part.modules():
        if isinstance(module, RMSNorm):
            nn.init.constant_(module.weight, factor)
        elif isinstance(module, RelativePositionBias):
            nn.init.normal_(module.table.weight, std=factor * config.hidden_size**-0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=factor * module.in_features**-0.5)
    for module in part.modules():
        if isinstance(module, MultiHeadAttention):
            deviation = factor * (config.hidden_size * config.head_size) ** -0.5
            nn.init.normal_(module.query.weight, std=deviation)
        elif isinstance(module, T5Model):
            nn.init.normal_(module.words.weight, std=factor)

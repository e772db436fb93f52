"""T5 (Raffel et al. 2019), and its version 1.1 (Shazeer 2020): text in, text out.

What differs from the original paper: norms come first, with one more at the end, and have no mean
and no bias; no linear layer has a bias; scores are not scaled; positions are a bias on the scores,
one table for all layers of a stack. base.py puts encoder and decoder together. Matches
`transformers.models.t5.modeling_t5`.

B sources, S source tokens, R decoded sequences, T their tokens, L those so far, H heads,
E hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minitransformer.layers.attention import (
    CrossAttention,
    MultiHeadAttention,
    causal_mask,
    padding_mask,
)
from minitransformer.layers.feed_forward import ACTIVATIONS, FeedForward, GatedFeedForward
from minitransformer.layers.kv_cache import KVCache, LayerCache, layer_caches
from minitransformer.layers.normalization import RMSNorm
from minitransformer.layers.positional_embeddings import RelativePositionBias
from minitransformer.models.base import EncoderDecoder, Seq2SeqLM
from minitransformer.models.config import Config
from minitransformer.models.outputs import DecoderOutput, EncoderOutput
from minitransformer.names import shortened


@dataclass(frozen=True, kw_only=True)
class T5Config(Config):
    """The sizes of a T5; the defaults are those of google-t5/t5-small.

    Version 1.1 has `feed_forward_proj="gated-gelu"`, and a head of its own whose input is not
    scaled: `tie_word_embeddings=False`, `scale_decoder_outputs=False`.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value is invalid; the message names field and value.
    """

    vocab_size: int = 32_128
    hidden_size: int = 512
    head_size: int = 64  # num_attention_heads * head_size need not be hidden_size
    num_hidden_layers: int = 6  # of the encoder
    num_decoder_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    feed_forward_proj: str = "relu"  # an activation, or "gated-" and an activation
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    hidden_dropout_prob: float = 0.1  # of everything: hidden values, weights of attention
    layer_norm_eps: float = 1e-6
    initializer_factor: float = 1.0
    scale_decoder_outputs: bool = True  # by 1 / sqrt(hidden_size), before the head
    eos_token_id: int | None = 1
    pad_token_id: int = 0
    decoder_start_token_id: int | None = 0

    known_elsewhere: ClassVar[dict[str, str]] = {
        "d_model": "hidden_size",
        "d_kv": "head_size",
        "d_ff": "intermediate_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "dropout_rate": "hidden_dropout_prob",
        "layer_norm_epsilon": "layer_norm_eps",
        "hidden_act": "feed_forward_proj",
    }

    def __post_init__(self) -> None:
        self._require_integers(
            "vocab_size",
            "hidden_size",
            "head_size",
            "num_hidden_layers",
            "num_decoder_layers",
            "num_attention_heads",
            "intermediate_size",
            minimum=1,
        )
        # Two directions, each with a half of near distances and a half of far ones.
        self._require_integers("relative_attention_num_buckets", minimum=4)
        self._require_integers(
            "relative_attention_max_distance",
            minimum=self.relative_attention_num_buckets // 2 + 1,
        )
        self._require_tokens("pad_token_id")
        self._require_tokens("eos_token_id", "decoder_start_token_id", optional=True)
        self._require_probabilities("hidden_dropout_prob")
        self._require_positive("layer_norm_eps", "initializer_factor")
        self._require_booleans("tie_word_embeddings", "scale_decoder_outputs")
        if not isinstance(self.feed_forward_proj, str) or self.activation not in ACTIVATIONS:
            raise ValueError(
                f"feed_forward_proj={shortened(self.feed_forward_proj)} is unknown; choose one of "
                f"{sorted(ACTIVATIONS)}, or 'gated-' and one of these"
            )

    @property
    def activation(self) -> str:
        """The activation of the feed-forward; "gated-gelu" means the approximation by tanh."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.is_gated and name == "gelu" else name

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward is gated."""
        return self.feed_forward_proj.startswith("gated-")


class T5EncoderLayer(nn.Module):
    """Self-attention, then feed-forward; each reads a normalized copy of what it adds to."""

    def __init__(
        self,
        attention: MultiHeadAttention,
        feed_forward: FeedForward | GatedFeedForward,
        hidden_size: int,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(hidden_size, eps)
        self.attention = attention
        self.feed_forward_norm = RMSNorm(hidden_size, eps)
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        bias: Tensor,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, S, E) to (B, S, E), with a mask, (B, 1, 1, S) bool, and a bias, (1, H, S, S).

        With `output_attentions` also the attention weights, (B, H, S, S), else None.
        """
        normed = self.attention_norm(hidden)
        attended, weights = self.attention(
            normed, normed, mask, bias=bias, output_attentions=output_attentions
        )
        hidden = hidden + self.dropout(attended)
        hidden = hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))
        return hidden, weights


class T5DecoderLayer(nn.Module):
    """Masked self-attention, cross-attention, feed-forward; no positions in cross-attention."""

    def __init__(
        self,
        attention: MultiHeadAttention,
        cross_attention: CrossAttention,
        feed_forward: FeedForward | GatedFeedForward,
        hidden_size: int,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(hidden_size, eps)
        self.attention = attention
        self.cross_attention_norm = RMSNorm(hidden_size, eps)
        self.cross_attention = cross_attention
        self.feed_forward_norm = RMSNorm(hidden_size, eps)
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        bias: Tensor,
        encoder_hidden: Tensor,
        encoder_mask: Tensor | None,
        cache: LayerCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(R, T, E) to (R, T, E), with a mask, (R, 1, T, L) bool, and a bias, (1, H, T, L).

        `cache` holds this layer's keys and values, of earlier tokens and of the source. With
        `output_attentions` also the weights of both attentions, (R, H, T, L) and (R, H, T, S), else
        None.
        """
        normed = self.attention_norm(hidden)
        self_cache = None if cache is None else cache.self_attention
        cross_cache = None if cache is None else cache.cross_attention
        attended, weights = self.attention(
            normed, normed, mask, bias=bias, cache=self_cache, output_attentions=output_attentions
        )
        hidden = hidden + self.dropout(attended)
        normed = self.cross_attention_norm(hidden)
        attended, cross_weights = self.cross_attention(
            normed,
            encoder_hidden,
            encoder_mask,
            cache=cross_cache,
            output_attentions=output_attentions,
        )
        hidden = hidden + self.dropout(attended)
        hidden = hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))
        return hidden, weights, cross_weights


class T5Encoder(nn.Module):
    """The layers that read the source, and a last norm.

    Args:
        config: the sizes.
        attention: the implementation.
    """

    def __init__(self, config: T5Config, attention: str) -> None:
        super().__init__()
        self.position_bias = build_position_bias(config, bidirectional=True)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(
            T5EncoderLayer(
                MultiHeadAttention(**attention_arguments(config, attention)),
                build_feed_forward(config),
                config.hidden_size,
                config.hidden_dropout_prob,
                config.layer_norm_eps,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.final_norm = RMSNorm(config.hidden_size, config.layer_norm_eps)

    def forward(
        self,
        embedded: Tensor,
        attention_mask: Tensor,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """Embedded tokens, (B, S, E), and their padding mask, (B, S) bool, to (B, S, E)."""
        positions = torch.arange(embedded.shape[1], device=embedded.device)  # (S,)
        bias = self.position_bias(positions, embedded.shape[1])  # (1, H, S, S)
        hidden = self.dropout(embedded)  # (B, S, E)
        mask = padding_mask(attention_mask)  # (B, 1, 1, S)
        hidden_states, attentions = [], []
        for layer in self.layers:
            if output_hidden_states:
                hidden_states.append(hidden)
            hidden, weights = layer(hidden, mask, bias, output_attentions)  # (B, S, E)
            if output_attentions:
                attentions.append(weights)
        hidden = self.dropout(self.final_norm(hidden))
        hidden_states.append(hidden)
        return EncoderOutput(
            last_hidden_state=hidden,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )


class T5Decoder(nn.Module):
    """The layers that generate, and a last norm.

    Args:
        config, attention: as in :class:`T5Encoder`.
    """

    def __init__(self, config: T5Config, attention: str) -> None:
        super().__init__()
        self.position_bias = build_position_bias(config, bidirectional=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(
            T5DecoderLayer(
                MultiHeadAttention(**attention_arguments(config, attention)),
                CrossAttention(**attention_arguments(config, attention)),
                build_feed_forward(config),
                config.hidden_size,
                config.hidden_dropout_prob,
                config.layer_norm_eps,
            )
            for _ in range(config.num_decoder_layers)
        )
        self.final_norm = RMSNorm(config.hidden_size, config.layer_norm_eps)

    def forward(
        self,
        embedded: Tensor,
        attention_mask: Tensor,
        positions: Tensor,
        encoder_hidden: Tensor,
        encoder_attention_mask: Tensor,
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> DecoderOutput:
        """(R, T, E) to (R, T, E).

        Args:
            embedded: (R, T, E), the new tokens.
            attention_mask: (R, L) bool, True at real tokens, of all tokens so far.
            positions: (T,), the positions of the new ones among these.
            encoder_hidden: (B, S, E), the encoded source.
            encoder_attention_mask: (B, S) bool, True at its real tokens.
            cache: keys and values from earlier calls.
            output_hidden_states, output_attentions: what to collect.
        """
        so_far = attention_mask.shape[1]  # L
        bias = self.position_bias(positions, so_far)  # (1, H, T, L)
        hidden = self.dropout(embedded)  # (R, T, E)
        mask = causal_mask(positions, so_far) & padding_mask(attention_mask)  # (R, 1, T, L)
        encoder_mask = padding_mask(encoder_attention_mask)  # (B, 1, 1, S)
        hidden_states, attentions, cross_attentions = [], [], []
        layers = zip(self.layers, layer_caches(cache, len(self.layers)), strict=True)
        for layer, layer_cache in layers:
            if output_hidden_states:
                hidden_states.append(hidden)
            hidden, weights, cross_weights = layer(
                hidden, mask, bias, encoder_hidden, encoder_mask, layer_cache, output_attentions
            )  # (R, T, E)
            if output_attentions:
                attentions.append(weights)
                cross_attentions.append(cross_weights)
        hidden = self.dropout(self.final_norm(hidden))
        hidden_states.append(hidden)
        return DecoderOutput(
            last_hidden_state=hidden,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            cross_attentions=tuple(cross_attentions) if output_attentions else None,
        )


class T5Model(EncoderDecoder):
    """Encoder and decoder over one token embedding.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's `scaled_dot_product_attention`, or "eager", the formula.
    """

    config: T5Config
    config_class = T5Config
    overflows_in_float16 = True

    def __init__(self, config: T5Config, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = T5Encoder(config, attention)
        self.decoder = T5Decoder(config, attention)
        self.init_weights(self)

    def init_weights(self, part: nn.Module) -> None:
        """Give a part of the model the weights that training begins with; see `init_t5_weights`."""
        init_t5_weights(part, self.config)


class T5ForConditionalGeneration(Seq2SeqLM):
    """T5 with a score for each token that may come next.

    The head is the token embedding, whose input is scaled down, or in version 1.1 a matrix of its
    own: `config.tie_word_embeddings` and `config.scale_decoder_outputs` say which.
    """

    config: T5Config
    config_class = T5Config
    backbone_class = T5Model
    overflows_in_float16 = True

    def __init__(self, config: T5Config, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.backbone = T5Model(config, attention=attention)
        self.lm_head = self.build_lm_head()  # None: the token embedding

    def logits(self, hidden: Tensor) -> Tensor:
        """Score each token of the vocabulary as the next one: (..., E) to (..., V)."""
        if self.config.scale_decoder_outputs:
            hidden = hidden * self.config.hidden_size**-0.5
        return self.apply_lm_head(hidden)

    def init_weights(self, part: nn.Module) -> None:
        """Give a part of the model the weights that training begins with; see `init_t5_weights`.

        A head of its own is drawn like the token embedding, which it replaces.
        """
        init_t5_weights(part, self.config)
        if isinstance(part, nn.Linear):  # the head
            nn.init.normal_(part.weight, std=self.config.initializer_factor)


def attention_arguments(config: T5Config, attention: str) -> dict[str, Any]:
    """What self- and cross-attention are made with: no bias, unscaled scores, heads of any size."""
    return {
        "hidden_size": config.hidden_size,
        "num_heads": config.num_attention_heads,
        "dropout": config.hidden_dropout_prob,
        "attention": attention,
        "head_size": config.head_size,
        "bias": False,
        "scale": 1.0,
    }


def build_position_bias(config: T5Config, *, bidirectional: bool) -> RelativePositionBias:
    """The relative positions of a stack."""
    return RelativePositionBias(
        config.num_attention_heads,
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
        bidirectional=bidirectional,
    )


def build_feed_forward(config: T5Config) -> FeedForward | GatedFeedForward:
    """The feed-forward network of a layer."""
    network = GatedFeedForward if config.is_gated else FeedForward
    return network(
        config.hidden_size,
        config.intermediate_size,
        config.activation,
        config.hidden_dropout_prob,
        bias=False,
    )


def init_t5_weights(part: nn.Module, config: T5Config) -> None:
    """Draw every weight of `part` from N(0, deviation), as Hugging Face's T5 does.

    Each matrix is drawn so that its output is of size 1 if its input is; the queries are smaller by
    sqrt(head size), for nothing else scales the scores down.
    """
    factor = config.initializer_factor
    for module in part.modules():
        if isinstance(module, RMSNorm):
            nn.init.constant_(module.weight, factor)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=factor)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=factor * module.in_features**-0.5)
    for module in part.modules():
        if isinstance(module, MultiHeadAttention):
            deviation = factor * (config.hidden_size * config.head_size) ** -0.5
            nn.init.normal_(module.query.weight, std=deviation)
        elif isinstance(module, RelativePositionBias):
            nn.init.normal_(module.table.weight, std=factor * config.hidden_size**-0.5)

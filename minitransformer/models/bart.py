"""BART (Lewis et al. 2019), the encoder-decoder of "Attention Is All You Need" almost as drawn.

Positions are learnt, the activation is GELU, and the embeddings are normalized; all else is the
paper's figure 1. The encoder's layers are BERT's; base.py puts encoder and decoder together.
Matches `transformers.models.bart.modeling_bart`. Marian imports from here.

B sources, S source tokens, R decoded sequences, T their tokens, L those so far, H heads,
E hidden size, V vocabulary, C classes.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from minitransformer.layers.attention import (
    CrossAttention,
    MultiHeadAttention,
    causal_mask,
    padding_mask,
)
from minitransformer.layers.feed_forward import FeedForward, get_activation
from minitransformer.layers.kv_cache import KVCache, LayerCache, layer_caches
from minitransformer.layers.normalization import LayerNorm
from minitransformer.layers.positional_embeddings import OffsetPositions, position_ids_from_mask
from minitransformer.models.base import (
    EncoderDecoder,
    Seq2SeqLM,
    SequenceClassifier,
    last_token,
    shift_right,
    start_token,
)
from minitransformer.models.bert import EncoderLayer
from minitransformer.models.config import ClassifierConfig, Config
from minitransformer.models.losses import mean_loss
from minitransformer.models.outputs import (
    DecoderOutput,
    EncoderOutput,
    Seq2SeqModelOutput,
    Seq2SeqSequenceClassifierOutput,
)
from minitransformer.models.roberta import RobertaClassificationHead
from minitransformer.models.validation import (
    check_end_tokens,
    check_same_shape,
    refuse_token_types,
    strict_names,
)

NORM_EPS = 1e-5  # BART's and Marian's norms have no field for it


@dataclass(frozen=True, kw_only=True)
class BartFields(Config):
    """The fields that BART and Marian share; the defaults are those of facebook/bart-large.

    Encoder and decoder may differ in layers, heads and feed-forward.
    """

    vocab_size: int = 50_265
    hidden_size: int = 1024
    num_hidden_layers: int = 12  # of the encoder
    num_decoder_layers: int = 12
    num_attention_heads: int = 16  # of the encoder
    num_decoder_attention_heads: int = 16
    intermediate_size: int = 4096  # of the encoder
    decoder_intermediate_size: int = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    activation_dropout: float = 0.0  # between the two linear layers of the feed-forward
    max_position_embeddings: int = 1024  # usable positions, in either stack
    scale_embedding: bool = False  # whether token vectors are multiplied by sqrt(hidden_size)
    initializer_range: float = 0.02
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2
    pad_token_id: int = 1
    decoder_start_token_id: int | None = 2

    known_elsewhere: ClassVar[dict[str, str]] = {
        "d_model": "hidden_size",
        "encoder_layers": "num_hidden_layers",
        "decoder_layers": "num_decoder_layers",
        "encoder_attention_heads": "num_attention_heads",
        "decoder_attention_heads": "num_decoder_attention_heads",
        "encoder_ffn_dim": "intermediate_size",
        "decoder_ffn_dim": "decoder_intermediate_size",
        "activation_function": "hidden_act",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "init_std": "initializer_range",
    }

    def __post_init__(self) -> None:
        self._require_integers(
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_decoder_layers",
            "num_attention_heads",
            "num_decoder_attention_heads",
            "intermediate_size",
            "decoder_intermediate_size",
            "max_position_embeddings",
            minimum=1,
        )
        self._require_tokens("pad_token_id")
        self._require_tokens(
            "bos_token_id", "eos_token_id", "decoder_start_token_id", optional=True
        )
        self._require_probabilities(
            "hidden_dropout_prob", "attention_probs_dropout_prob", "activation_dropout"
        )
        self._require_positive("initializer_range")
        self._require_booleans("tie_word_embeddings", "scale_embedding")
        get_activation(self.hidden_act)
        self._require_whole_heads("num_attention_heads", "num_decoder_attention_heads")

    @property
    def max_sequence_length(self) -> int:
        """How many tokens fit into one sequence, source or target."""
        return self.max_position_embeddings


@dataclass(frozen=True, kw_only=True)
class BartConfig(BartFields, ClassifierConfig):
    """The sizes of a BART; the defaults are those of facebook/bart-large.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value is invalid; the message names field and value.
    """

    classifier_dropout: float = 0.0  # of the classification head
    id2label: dict[int, str] = field(
        default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, hash=False
    )

    known_elsewhere: ClassVar[dict[str, str]] = {
        **BartFields.known_elsewhere,
        **ClassifierConfig.known_elsewhere,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_probabilities("classifier_dropout")
        self._require_labels()


class DecoderLayer(nn.Module):
    """Masked self-attention, cross-attention, feed-forward; each is added and normalized."""

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
        self.attention = MultiHeadAttention(hidden_size, num_heads, attention_dropout, attention)
        self.attention_norm = LayerNorm(hidden_size, NORM_EPS)
        self.cross_attention = CrossAttention(hidden_size, num_heads, attention_dropout, attention)
        self.cross_attention_norm = LayerNorm(hidden_size, NORM_EPS)
        self.feed_forward = FeedForward(
            hidden_size, intermediate_size, activation, activation_dropout
        )
        self.feed_forward_norm = LayerNorm(hidden_size, NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        encoder_hidden: Tensor,
        encoder_mask: Tensor | None,
        cache: LayerCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(R, T, E) to (R, T, E); with `output_attentions` also the weights of both attentions.

        Args:
            hidden: (R, T, E).
            mask: (R, 1, T, L) bool, True = attend.
            encoder_hidden: (B, S, E), the encoder's last hidden state.
            encoder_mask: (B, 1, 1, S) bool.
            cache: this layer's keys and values of earlier tokens and of the source.
            output_attentions: whether the weights are returned, (R, H, T, L) and (R, H, T, S).
        """
        self_cache = None if cache is None else cache.self_attention
        cross_cache = None if cache is None else cache.cross_attention
        attended, weights = self.attention(
            hidden, hidden, mask, cache=self_cache, output_attentions=output_attentions
        )
        hidden = self.attention_norm(hidden + self.dropout(attended))
        attended, cross_weights = self.cross_attention(
            hidden,
            encoder_hidden,
            encoder_mask,
            cache=cross_cache,
            output_attentions=output_attentions,
        )
        hidden = self.cross_attention_norm(hidden + self.dropout(attended))
        hidden = self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))
        return hidden, weights, cross_weights


class BartEncoder(nn.Module):
    """Positions are added to the tokens; then come the layers, which are BERT's.

    Args:
        config: the sizes.
        position_embedding: module that turns position_ids, (B, S), into (B, S, E).
        embedding_norm: norm of the embeddings, or nothing.
        attention: the implementation.
    """

    def __init__(
        self,
        config: BartFields,
        position_embedding: nn.Module,
        embedding_norm: nn.Module,
        attention: str,
    ) -> None:
        super().__init__()
        self.position_embedding = position_embedding
        self.embedding_norm = embedding_norm
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(
            EncoderLayer(
                hidden_size=config.hidden_size,
                num_heads=config.num_attention_heads,
                intermediate_size=config.intermediate_size,
                activation=config.hidden_act,
                dropout=config.hidden_dropout_prob,
                attention_dropout=config.attention_probs_dropout_prob,
                eps=NORM_EPS,
                attention=attention,
                activation_dropout=config.activation_dropout,
            )
            for _ in range(config.num_hidden_layers)
        )

    def forward(
        self,
        embedded: Tensor,
        attention_mask: Tensor,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """Embedded tokens, (B, S, E), and their padding mask, (B, S) bool, to (B, S, E)."""
        position_ids = position_ids_from_mask(attention_mask)  # (B, S)
        hidden = self.add_positions(embedded, position_ids)  # (B, S, E)
        mask = padding_mask(attention_mask)  # (B, 1, 1, S)
        hidden_states, attentions = [], []
        for layer in self.layers:
            if output_hidden_states:
                hidden_states.append(hidden)
            hidden, weights = layer(hidden, mask, output_attentions)  # (B, S, E)
            if output_attentions:
                attentions.append(weights)
        hidden_states.append(hidden)
        return EncoderOutput(
            last_hidden_state=hidden,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def add_positions(self, embedded: Tensor, position_ids: Tensor) -> Tensor:
        """What enters the layers: (B, S, E) and (B, S) to (B, S, E)."""
        return self.dropout(self.embedding_norm(embedded + self.position_embedding(position_ids)))


class BartDecoder(nn.Module):
    """Positions are added to the tokens; then come the layers, each of which sees the source.

    Args:
        config, position_embedding, embedding_norm, attention: as in :class:`BartEncoder`.
    """

    def __init__(
        self,
        config: BartFields,
        position_embedding: nn.Module,
        embedding_norm: nn.Module,
        attention: str,
    ) -> None:
        super().__init__()
        self.position_embedding = position_embedding
        self.embedding_norm = embedding_norm
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(
            DecoderLayer(
                hidden_size=config.hidden_size,
                num_heads=config.num_decoder_attention_heads,
                intermediate_size=config.decoder_intermediate_size,
                activation=config.hidden_act,
                dropout=config.hidden_dropout_prob,
                attention_dropout=config.attention_probs_dropout_prob,
                activation_dropout=config.activation_dropout,
                attention=attention,
            )
            for _ in range(config.num_decoder_layers)
        )

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
        position_ids = position_ids_from_mask(attention_mask)[:, positions]  # (R, T)
        hidden = self.add_positions(embedded, position_ids)  # (R, T, E)
        mask = causal_mask(positions, attention_mask.shape[1]) & padding_mask(attention_mask)
        encoder_mask = padding_mask(encoder_attention_mask)  # (B, 1, 1, S)
        hidden_states, attentions, cross_attentions = [], [], []
        layers = zip(self.layers, layer_caches(cache, len(self.layers)), strict=True)
        for layer, layer_cache in layers:
            if output_hidden_states:
                hidden_states.append(hidden)
            hidden, weights, cross_weights = layer(
                hidden, mask, encoder_hidden, encoder_mask, layer_cache, output_attentions
            )  # (R, T, E)
            if output_attentions:
                attentions.append(weights)
                cross_attentions.append(cross_weights)
        hidden_states.append(hidden)
        return DecoderOutput(
            last_hidden_state=hidden,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            cross_attentions=tuple(cross_attentions) if output_attentions else None,
        )

    def add_positions(self, embedded: Tensor, position_ids: Tensor) -> Tensor:
        """What enters the layers: (R, T, E) and (R, T) to (R, T, E)."""
        return self.dropout(self.embedding_norm(embedded + self.position_embedding(position_ids)))


class BartModel(EncoderDecoder):
    """Encoder and decoder over one token embedding.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's `scaled_dot_product_attention`, or "eager", the formula.
    """

    config_class: ClassVar[type[Config]] = BartConfig

    def __init__(self, config: BartFields, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.token_embedding = nn.Embedding(
            config.vocab_size, config.hidden_size, config.pad_token_id
        )
        self.encoder = BartEncoder(
            config, self.build_position_embedding(), self.build_embedding_norm(), attention
        )
        self.decoder = BartDecoder(
            config, self.build_position_embedding(), self.build_embedding_norm(), attention
        )
        self.init_weights(self)

    def build_position_embedding(self) -> nn.Module:
        """The position module of this family, one for each stack."""
        config = self.config
        return OffsetPositions(config.max_position_embeddings, config.hidden_size, offset=2)

    def build_embedding_norm(self) -> nn.Module:
        """The norm of the embeddings of this family, one for each stack."""
        return LayerNorm(self.config.hidden_size, NORM_EPS)

    def embed(self, input_ids: Tensor) -> Tensor:
        """The vectors of tokens: (B, T) to (B, T, E)."""
        scale = math.sqrt(self.config.hidden_size) if self.config.scale_embedding else 1.0
        return self.token_embedding(input_ids) * scale


class BartForConditionalGeneration(Seq2SeqLM):
    """BART with a score for each token that may come next.

    `final_logits_bias` is added to the scores. Training leaves it as it is, as in Hugging Face.
    """

    config_class: ClassVar[type[Config]] = BartConfig
    backbone_class: ClassVar[type[BartModel]] = BartModel

    final_logits_bias: Tensor  # (1, V)

    def __init__(self, config: BartFields, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.backbone = self.backbone_class(config, attention=attention)
        self.lm_head = self.build_lm_head()  # None: the token embedding
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))

    @property
    def model(self) -> EncoderDecoder:
        """Encoder and decoder under the head."""
        return self.backbone

    def logits(self, hidden: Tensor) -> Tensor:
        """Score each token of the vocabulary as the next one: (..., E) to (..., V)."""
        return self.apply_lm_head(hidden, self.final_logits_bias[0])


class BartForSequenceClassification(SequenceClassifier):
    """BART with a score for each class, from the decoder's state at the text's end token.

    Encoder and decoder read the same text, the decoder shifted right. Each sequence needs an end
    token, `eos_token_id`; of several the last counts, and none at padding. Hugging Face needs the
    same number of them in every sequence, so it cannot pad with that token.
    """

    config: BartConfig
    config_class = BartConfig
    backbone_class = BartModel
    backbone: BartModel

    def __init__(self, config: BartConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.backbone = BartModel(config, attention=attention)
        self.classification_head = RobertaClassificationHead(
            config.hidden_size, config.num_labels, config.classifier_dropout
        )
        self.init_weights(self.classification_head)

    @property
    def model(self) -> BartModel:
        """Encoder and decoder under the head."""
        return self.backbone

    @strict_names
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> Seq2SeqSequenceClassifierOutput:
        """Score every class.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 or True at real tokens; may be left out where none is padded.
            token_type_ids: refused; there are none.
            labels: see :class:`SequenceClassifier`.
            output_hidden_states, output_attentions: as in :meth:`EncoderDecoder.forward`.

        Raises:
            ValueError: an input has the wrong shape, dtype or values.
        """
        refuse_token_types(token_type_ids, "BART")
        if labels is not None:
            self.check_labels(labels, input_ids)
        is_end = self.end_tokens(input_ids, attention_mask)  # (B, T)
        output: Seq2SeqModelOutput = self.backbone(
            input_ids,
            attention_mask,
            *self.decoder_inputs(input_ids, attention_mask),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        pooled = last_token(output.last_hidden_state, is_end)  # (B, E)
        logits = self.classification_head(pooled)  # (B, C)
        loss = None
        if labels is not None:
            loss = mean_loss(*self.classification_loss_sum(logits, labels))
        return Seq2SeqSequenceClassifierOutput(
            logits=logits,
            loss=loss,
            encoder_last_hidden_state=output.encoder_last_hidden_state,
            encoder_hidden_states=output.encoder_hidden_states,
            encoder_attentions=output.encoder_attentions,
            decoder_hidden_states=output.decoder_hidden_states,
            decoder_attentions=output.decoder_attentions,
            cross_attentions=output.cross_attentions,
        )

    def decoder_inputs(
        self, input_ids: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What the decoder reads, (B, T), and its padding mask, (B, T) bool."""
        first = torch.zeros_like(input_ids[:, :1])  # (B, 1)
        if attention_mask is not None:
            first = (attention_mask != 0).int().argmax(dim=1, keepdim=True)
        config = self.config
        return shift_right(input_ids, start_token(config), config.pad_token_id, first)

    def end_tokens(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, T) bool, True at the real end tokens, of which each sequence has one at least."""
        self.backbone.check_ids("input_ids", input_ids)
        end = -1 if self.config.eos_token_id is None else self.config.eos_token_id
        is_end = input_ids == end  # (B, T)
        if attention_mask is not None:
            check_same_shape("attention_mask", attention_mask, input_ids)
            is_end = is_end & (attention_mask != 0)
        check_end_tokens(is_end, self.config.eos_token_id)
        return is_end

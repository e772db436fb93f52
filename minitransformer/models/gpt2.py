"""GPT-2 (Radford et al. 2019), the decoder of "Attention Is All You Need" without an encoder.

What differs from the paper: norms come before attention and feed-forward, with one more at the end;
positions are learnt; the activation is a GELU. Config, layer, decoder, then every head with its
forward and its loss. Matches `transformers.models.gpt2.modeling_gpt2`.

B batch, T new tokens, S tokens so far, H heads, E hidden size, V vocabulary, C classes.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minitransformer.generation_config import GenerationConfig
from minitransformer.layers.attention import (
    FusedSelfAttention,
    boolean_mask,
    causal_mask,
    padding_mask,
)
from minitransformer.layers.feed_forward import FeedForward, get_activation
from minitransformer.layers.kv_cache import KVCache, LayerCache, layer_caches
from minitransformer.layers.normalization import LayerNorm
from minitransformer.layers.positional_embeddings import LearnedPositions, position_ids_from_mask
from minitransformer.models.base import (
    CausalDecodingSession,
    DecodingSession,
    LanguageModel,
    Model,
    SequenceClassifier,
    last_token,
    next_token_labels,
)
from minitransformer.models.config import ClassifierConfig
from minitransformer.models.losses import IGNORED_LABEL, cross_entropy_sum, mean_loss
from minitransformer.models.outputs import (
    CausalLMOutput,
    DecoderOutput,
    SequenceClassifierOutput,
)
from minitransformer.models.validation import (
    check_attention_mask,
    check_ids,
    check_labels,
    check_length,
    refuse_token_types,
    strict_names,
)


@dataclass(frozen=True, kw_only=True)
class GPT2Config(ClassifierConfig):
    """The sizes of a GPT-2; the defaults are those of gpt2.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value is invalid; the message names field and value.
    """

    vocab_size: int = 50_257
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None  # None: 4 * hidden_size
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.1  # of what attention and feed-forward add
    embedding_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 1024
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True  # by 1 / sqrt(head size)
    scale_attn_by_inverse_layer_idx: bool = False  # and by 1 / (number of the layer, from 1)
    bos_token_id: int | None = 50_256
    eos_token_id: int | None = 50_256
    pad_token_id: int | None = None

    known_elsewhere: ClassVar[dict[str, str]] = {
        **ClassifierConfig.known_elsewhere,
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
        "n_ctx": "max_position_embeddings",
        "n_inner": "intermediate_size",
        "activation_function": "hidden_act",
        "resid_pdrop": "hidden_dropout_prob",
        "embd_pdrop": "embedding_dropout_prob",
        "attn_pdrop": "attention_probs_dropout_prob",
        "layer_norm_epsilon": "layer_norm_eps",
    }

    def __post_init__(self) -> None:
        self._require_integers(
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
            minimum=1,
        )
        if self.intermediate_size is not None:
            self._require_integers("intermediate_size", minimum=1)
        self._require_tokens("bos_token_id", "eos_token_id", "pad_token_id", optional=True)
        self._require_probabilities(
            "hidden_dropout_prob", "embedding_dropout_prob", "attention_probs_dropout_prob"
        )
        self._require_positive("layer_norm_eps", "initializer_range")
        self._require_booleans(
            "tie_word_embeddings", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"
        )
        get_activation(self.hidden_act)
        self._require_whole_heads("num_attention_heads")
        self._require_labels()

    @property
    def max_sequence_length(self) -> int:
        """How many tokens fit into one sequence."""
        return self.max_position_embeddings

    @property
    def feed_forward_size(self) -> int:
        """The width of the feed-forward."""
        return self.intermediate_size or 4 * self.hidden_size

    def attention_scale(self, layer: int) -> float:
        """The factor of the scores in layer 0, 1, 2, ..."""
        head_size = self.hidden_size // self.num_attention_heads
        scale = head_size**-0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale


class GPT2Layer(nn.Module):
    """Masked self-attention, then feed-forward; each reads a normalized copy of what it adds to.

    This is the pre-norm order: what runs from the embeddings to the last norm is itself never
    normalized (BERT, like the original paper, normalizes the sums).
    """

    def __init__(
        self,
        attention: FusedSelfAttention,
        feed_forward: FeedForward,
        hidden_size: int,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(hidden_size, eps)
        self.attention = attention
        self.feed_forward_norm = LayerNorm(hidden_size, eps)
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        cache: LayerCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, E) to (B, T, E), under a mask, (B, 1, T, S) bool, True = attend.

        With `output_attentions` also the attention weights, (B, H, T, S), else None. `cache` holds
        this layer's keys and values of earlier tokens.
        """
        normed = self.attention_norm(hidden)
        attended, weights = self.attention(
            normed,
            normed,
            mask,
            cache=None if cache is None else cache.self_attention,
            output_attentions=output_attentions,
        )
        hidden = hidden + self.dropout(attended)
        hidden = hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))
        return hidden, weights


class GPT2Model(Model):
    """The decoder: tokens and positions, layers, and a norm at the end.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's `scaled_dot_product_attention`, or "eager", the formula.
    """

    config: GPT2Config
    config_class = GPT2Config

    def __init__(self, config: GPT2Config, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = LearnedPositions(
            config.max_position_embeddings, config.hidden_size
        )
        self.dropout = nn.Dropout(config.embedding_dropout_prob)
        self.layers = nn.ModuleList(
            GPT2Layer(
                FusedSelfAttention(
                    config.hidden_size,
                    config.num_attention_heads,
                    config.attention_probs_dropout_prob,
                    attention,
                    scale=config.attention_scale(number),
                ),
                FeedForward(
                    config.hidden_size,
                    config.feed_forward_size,
                    config.hidden_act,
                ),
                config.hidden_size,
                config.hidden_dropout_prob,
                config.layer_norm_eps,
            )
            for number in range(config.num_hidden_layers)
        )
        self.final_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.init_weights(self)
        # What 2 L matrices add up to should not grow with the number of layers, L ("Language Models
        # are Unsupervised Multitask Learners", section 2.3).
        residual_std = config.initializer_range / (2 * config.num_hidden_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.output.weight", "down_proj.weight")):
                nn.init.normal_(parameter, std=residual_std)

    @strict_names
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> DecoderOutput:
        """Run over every token, each of which attends to those before it.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 or True at real tokens; may be left out where none is padded.
            cache: keys and values from earlier calls; these tokens come after those.
            output_hidden_states: collect what enters each layer, and what leaves the final norm.
            output_attentions: collect each layer's attention weights, before dropout.

        Raises:
            ValueError: an input has the wrong shape, dtype or values, see
                :mod:`minitransformer.models.validation`.
        """
        self.check_inputs(input_ids, attention_mask, cache)
        attention_mask = boolean_mask(attention_mask, input_ids)  # (B, T)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # (T,)
        if cache is not None:
            attention_mask, positions = cache.extend(attention_mask)  # (B, S), (T,)
        hidden = self.embed(input_ids, attention_mask, positions)  # (B, T, E)
        mask = causal_mask(positions, attention_mask.shape[1]) & padding_mask(attention_mask)
        hidden_states, attentions = [], []
        layers = zip(self.layers, layer_caches(cache, len(self.layers)), strict=True)
        for layer, layer_cache in layers:
            if output_hidden_states:
                hidden_states.append(hidden)
            hidden, weights = layer(hidden, mask, layer_cache, output_attentions)  # (B, T, E)
            if output_attentions:
                attentions.append(weights)
        hidden = self.final_norm(hidden)
        hidden_states.append(hidden)
        return DecoderOutput(
            last_hidden_state=hidden,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def embed(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor) -> Tensor:
        """Ids, (B, T), of S tokens' mask, (B, S) bool, those at positions, (T,), to (B, T, E)."""
        position_ids = position_ids_from_mask(attention_mask)[:, positions]  # (B, T)
        embedded = self.token_embedding(input_ids) + self.position_embedding(position_ids)
        return self.dropout(embedded)  # (B, T, E)

    def check_inputs(
        self, input_ids: Tensor, attention_mask: Tensor | None, cache: KVCache | None
    ) -> None:
        """Check the inputs."""
        config = self.config
        check_ids("input_ids", input_ids, size=config.vocab_size, size_name="vocab_size")
        check_length(
            input_ids.shape[1] + (0 if cache is None else cache.length),
            longest=config.max_sequence_length,
            table_rows=config.max_position_embeddings,
        )
        # With a cache the padding token may be what was generated last.
        pad_token_id = None if cache is not None and cache.length else config.pad_token_id
        check_attention_mask(attention_mask, input_ids, pad_token_id)


class GPT2LMHeadModel(LanguageModel):
    """GPT-2 with a score for each token that may come next."""

    config: GPT2Config
    config_class = GPT2Config
    backbone_class = GPT2Model
    backbone: GPT2Model

    def __init__(self, config: GPT2Config, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.backbone = GPT2Model(config, attention=attention)
        self.lm_head = self.build_lm_head()  # None: the token embedding

    @property
    def transformer(self) -> GPT2Model:
        """The decoder under the head."""
        return self.backbone

    @strict_names
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> CausalLMOutput:
        """Score, at every position, each token of the vocabulary as the next one.

        Args:
            input_ids, attention_mask, cache: as in :meth:`GPT2Model.forward`.
            labels: (B, T) int64, `input_ids` themselves, -100 at padding and wherever a token is
                not to be learnt. They are shifted here, by :func:`next_token_labels`.
            output_hidden_states, output_attentions: as there.

        Raises:
            ValueError: an input has the wrong shape, dtype or values.
        """
        if labels is not None:
            check_labels(labels, input_ids, attention_mask, self.config.vocab_size)
            if cache is not None:
                raise ValueError("labels need whole sequences: pass them without a cache")
        output = self.backbone(
            input_ids,
            attention_mask,
            cache=cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = self.logits(output.last_hidden_state)  # (B, T, V)
        loss = count = None
        if labels is not None:
            total, count = cross_entropy_sum(logits, next_token_labels(labels, attention_mask))
            loss = mean_loss(total, count)
        return CausalLMOutput(
            logits=logits,
            loss=loss,
            num_supervised_tokens=count,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def num_supervised_tokens(self, inputs: dict[str, Any]) -> Tensor:
        """The tokens of a batch that are predicted; the first of a sequence is not."""
        targets = next_token_labels(inputs["labels"], inputs.get("attention_mask"))
        return (targets != IGNORED_LABEL).sum()

    @strict_names
    def next_token_logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Score the tokens that may come after the last real token of each sequence.

        Args:
            input_ids, attention_mask, cache: as in :meth:`GPT2Model.forward`.

        Returns:
            (B, V).
        """
        hidden = self.backbone(input_ids, attention_mask, cache=cache).last_hidden_state
        return self.logits(last_token(hidden, attention_mask))

    def new_cache(self) -> KVCache:
        """An empty cache of keys and values."""
        return KVCache(self.config.num_hidden_layers)

    def decoding_session(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        config: GenerationConfig,
        use_cache: bool = True,
        read_every_step: bool = True,
    ) -> DecodingSession:
        """See :meth:`LanguageModel.decoding_session`."""
        if attention_mask is not None:  # padding is marked in the ids, where processors see it too
            input_ids = input_ids.masked_fill(attention_mask == 0, self.config.vocab_size)
        return CausalDecodingSession(self, input_ids, use_cache=use_cache)


class GPT2ForSequenceClassification(SequenceClassifier):
    """GPT-2 with a score for each class, from the last token: the only one that has seen all.

    The last token is that of the mask; Hugging Face takes the last that is not the padding token.
    """

    config: GPT2Config
    config_class = GPT2Config
    backbone_class = GPT2Model
    backbone: GPT2Model

    def __init__(self, config: GPT2Config, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.backbone = GPT2Model(config, attention=attention)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.init_weights(self.score)

    @property
    def transformer(self) -> GPT2Model:
        """The decoder under the head."""
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
    ) -> SequenceClassifierOutput:
        """Score every class.

        Args:
            input_ids, attention_mask: as in :meth:`GPT2Model.forward`.
            token_type_ids: refused; there are none.
            labels: see :class:`SequenceClassifier`.
            output_hidden_states, output_attentions: as in :meth:`GPT2Model.forward`.

        Raises:
            ValueError: an input has the wrong shape, dtype or values.
        """
        refuse_token_types(token_type_ids, "GPT-2")
        if labels is not None:
            self.check_labels(labels, input_ids)
        output = self.backbone(
            input_ids,
            attention_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        pooled = last_token(output.last_hidden_state, attention_mask)  # (B, E)
        logits = self.score(pooled)  # (B, C)
        loss = None
        if labels is not None:
            loss = mean_loss(*self.classification_loss_sum(logits, labels))
        return SequenceClassifierOutput(
            logits=logits,
            loss=loss,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

"""BERT (Devlin et al. 2018), the encoder of "Attention Is All You Need".

What differs from the paper: positions are learnt, a token has a type (first or second text), the
embeddings are normalized, and the activation is GELU. Config, embeddings, layer, encoder, then
every head with its forward and its loss. RoBERTa and DistilBERT import from here and say what
differs. Matches `transformers.models.bert.modeling_bert`.

B batch, T tokens, N chosen tokens, H heads, E hidden size, V vocabulary, C classes.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.layers.attention import MultiHeadAttention, boolean_mask, padding_mask
from minitransformer.layers.feed_forward import FeedForward, get_activation
from minitransformer.layers.normalization import LayerNorm
from minitransformer.layers.positional_embeddings import LearnedPositions, position_ids_from_mask
from minitransformer.models.base import Model, SequenceClassifier, TaskModel, first_token
from minitransformer.models.config import Config, EncoderConfig
from minitransformer.models.losses import answer_loss_sum, cross_entropy_sum, mean_loss
from minitransformer.models.outputs import (
    EncoderOutput,
    MaskedLMOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from minitransformer.models.validation import (
    check_answer_positions,
    check_attention_mask,
    check_ids,
    check_labels,
    check_length,
    check_same_shape,
    strict_names,
)


@dataclass(frozen=True, kw_only=True)
class BertConfig(EncoderConfig):
    """The sizes of a BERT; the defaults are those of bert-base-uncased.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value is invalid; the message names field and value.
    """

    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    classifier_dropout: float | None = None  # of classification heads; None: hidden_dropout_prob

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("type_vocab_size", minimum=1)
        self._require_positive("layer_norm_eps")
        if self.classifier_dropout is not None:
            self._require_probabilities("classifier_dropout")

    @property
    def head_dropout(self) -> float:
        """The dropout of classification heads."""
        return (
            self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout
        )


class BertEmbeddings(nn.Module):
    """The sum of three embeddings: of the token, of its position, and of the text it belongs to.

    Args:
        vocab_size, hidden_size, type_vocab_size: rows and width of the tables.
        position_embedding: module that turns position_ids, (B, T), into (B, T, E).
        pad_token_id: the token whose vector gets no gradient from being looked up.
        eps: of the norm.
        dropout: probability.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        type_vocab_size: int,
        position_embedding: nn.Module,
        pad_token_id: int,
        eps: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, hidden_size, padding_idx=pad_token_id)
        self.token_type_embedding = nn.Embedding(type_vocab_size, hidden_size)
        self.position_embedding = position_embedding
        self.norm = LayerNorm(hidden_size, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor | None
    ) -> Tensor:
        """Ids, positions and types (None: all 0), (B, T) each, to (B, T, E)."""
        if token_type_ids is None:
            token_types = self.token_type_embedding.weight[0]  # (E,), as if all types were 0
        else:
            token_types = self.token_type_embedding(token_type_ids)  # (B, T, E)
        embedded = self.token_embedding(input_ids) + token_types
        embedded = embedded + self.position_embedding(position_ids)  # (B, T, E)
        return self.dropout(self.norm(embedded))


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward; each is added to its input and the sum is normalized.

    This is the post-norm order of the original paper (GPT-2 normalizes before, not after).

    Args:
        hidden_size, num_heads, intermediate_size: E, H, and the width of the feed-forward.
        activation: of the feed-forward.
        dropout: probability, of what attention and feed-forward add.
        attention_dropout: of attention weights.
        eps: of the norms.
        attention: the implementation, "eager" or "sdpa".
        activation_dropout: inside the feed-forward; 0 in BERT.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        activation: str,
        dropout: float,
        attention_dropout: float,
        eps: float,
        attention: str,
        activation_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(hidden_size, num_heads, attention_dropout, attention)
        self.attention_norm = LayerNorm(hidden_size, eps)
        self.feed_forward = FeedForward(
            hidden_size, intermediate_size, activation, activation_dropout
        )
        self.feed_forward_norm = LayerNorm(hidden_size, eps)
        self.attention_dropout: nn.Module = nn.Dropout(dropout)
        self.feed_forward_dropout = nn.Dropout(dropout)

    def forward(
        self, hidden: Tensor, mask: Tensor | None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, E) to (B, T, E), under a mask, (B, 1, 1, T) bool, True = attend.

        With `output_attentions` also the attention weights, (B, H, T, T), else None.
        """
        attended, weights = self.attention(
            hidden, hidden, mask, output_attentions=output_attentions
        )
        hidden = self.attention_norm(hidden + self.attention_dropout(attended))
        transformed = self.feed_forward(hidden)  # (B, T, E)
        hidden = self.feed_forward_norm(hidden + self.feed_forward_dropout(transformed))
        return hidden, weights


class Pooler(nn.Module):
    """tanh(W x + b) of the first real token, [CLS]."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        """The first token's (B, E) to (B, E)."""
        return torch.tanh(self.dense(first))


class BertModel(Model):
    """The encoder: embeddings, then layers, and optionally a pooler.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's `scaled_dot_product_attention`, or "eager", the formula.
        add_pooling_layer: False leaves out the pooler.
    """

    config_class: ClassVar[type[Config]] = BertConfig
    layer_class: ClassVar[type[EncoderLayer]] = EncoderLayer

    def __init__(
        self, config: EncoderConfig, *, attention: str = "sdpa", add_pooling_layer: bool = True
    ) -> None:
        super().__init__(config, attention=attention)
        self.embeddings = self.build_embeddings()
        self.layers = nn.ModuleList(
            self.layer_class(
                hidden_size=self.config.hidden_size,
                num_heads=self.config.num_attention_heads,
                intermediate_size=self.config.intermediate_size,
                activation=self.config.hidden_act,
                dropout=self.config.hidden_dropout_prob,
                attention_dropout=self.config.attention_probs_dropout_prob,
                eps=self.config.layer_norm_eps,
                attention=attention,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.pooler = Pooler(config.hidden_size) if add_pooling_layer else None
        self.init_weights(self)

    def build_embeddings(self) -> Any:
        """The embeddings of this family."""
        return BertEmbeddings(
            self.config.vocab_size,
            self.config.hidden_size,
            self.config.type_vocab_size,
            self.build_position_embedding(),
            self.config.pad_token_id,
            self.config.layer_norm_eps,
            self.config.hidden_dropout_prob,
        )

    def build_position_embedding(self) -> nn.Module:
        """The position module of this family."""
        return LearnedPositions(self.config.max_position_embeddings, self.config.hidden_size)

    @strict_names  # a misspelled argument is an error that says the right name
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """Encode every token.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 or True at real tokens; may be left out where none is padded.
            token_type_ids: (B, T) int64, 0 for the first text and 1 for the second; 0 by default.
            output_hidden_states: collect what enters each layer, and what leaves the last.
            output_attentions: collect each layer's attention weights, before dropout.

        Raises:
            ValueError: an input has the wrong shape, dtype or values, see
                :mod:`minitransformer.models.validation`.
        """
        self.check_inputs(input_ids, attention_mask, token_type_ids)
        attention_mask = boolean_mask(attention_mask, input_ids)  # (B, T)
        position_ids = self.position_ids(input_ids, attention_mask)  # (B, T)
        hidden = self.embeddings(input_ids, position_ids, token_type_ids)  # (B, T, E)
        mask = padding_mask(attention_mask)  # (B, 1, 1, T)
        hidden_states, attentions = [], []
        for layer in self.layers:
            if output_hidden_states:
                hidden_states.append(hidden)
            hidden, weights = layer(hidden, mask, output_attentions)  # (B, T, E)
            if output_attentions:
                attentions.append(weights)
        hidden_states.append(hidden)
        pooled = None
        if self.pooler is not None:
            pooled = self.pooler(first_token(hidden, attention_mask))  # (B, E)
        return EncoderOutput(
            last_hidden_state=hidden,
            pooler_output=pooled,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def position_ids(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The position of each token, (B, T), from the ids and the bool mask, (B, T) each."""
        return position_ids_from_mask(attention_mask)

    def check_inputs(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> None:
        """Check the inputs."""
        config = self.config
        check_ids("input_ids", input_ids, size=config.vocab_size, size_name="vocab_size")
        check_length(
            input_ids.shape[1],
            longest=config.max_sequence_length,
            table_rows=config.max_position_embeddings,
        )
        self.check_token_types(token_type_ids, input_ids)
        check_attention_mask(attention_mask, input_ids, config.pad_token_id)

    def check_token_types(self, token_type_ids: Tensor | None, input_ids: Tensor) -> None:
        """Check that every token has a type, and every type a row in the table."""
        if token_type_ids is not None:
            check_same_shape("token_type_ids", token_type_ids, input_ids)
            size = self.config.type_vocab_size
            check_ids("token_type_ids", token_type_ids, size=size, size_name="type_vocab_size")


class MaskedLMHead(nn.Module):
    """Linear, activation, norm, then a score for each token of the vocabulary.

    Args:
        hidden_size, vocab_size: E, V.
        activation: after the first linear layer.
        eps: of the norm.
        tied: whether the last matrix is the token embedding, which is passed in, not stored here;
            else the head has one of its own.
    """

    def __init__(
        self, hidden_size: int, vocab_size: int, activation: str, eps: float, tied: bool
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.activation = get_activation(activation)
        self.norm = LayerNorm(hidden_size, eps)
        self.output = None if tied else nn.Linear(hidden_size, vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, hidden: Tensor, token_embedding: Tensor) -> Tensor:
        """(..., E) and (V, E) to (..., V)."""
        hidden = self.norm(self.activation(self.dense(hidden)))  # (..., E)
        if self.output is None:
            return F.linear(hidden, token_embedding, self.bias)  # (..., V)
        return self.output(hidden) + self.bias  # (..., V)


class BertForMaskedLM(TaskModel):
    """BERT with the head that predicts masked tokens (Devlin et al., section 3.1)."""

    config_class: ClassVar[type[Config]] = BertConfig
    backbone_class: ClassVar[type[BertModel]] = BertModel
    has_lm_head = True
    backbone: BertModel

    def __init__(self, config: EncoderConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.backbone = self.backbone_class(config, attention=attention, add_pooling_layer=False)
        self.lm_head = self.build_lm_head()
        self.init_weights(self.lm_head)

    def build_lm_head(self) -> MaskedLMHead:
        """The head of this family."""
        config = self.config
        return MaskedLMHead(
            config.hidden_size,
            config.vocab_size,
            config.hidden_act,
            config.layer_norm_eps,
            tied=config.tie_word_embeddings,
        )

    @property
    def bert(self) -> BertModel:
        """The encoder under the head."""
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
    ) -> MaskedLMOutput:
        """Score every token of the vocabulary at every position.

        Args:
            input_ids, attention_mask, token_type_ids: as in :meth:`BertModel.forward`.
            labels: (B, T) int64, the right token where one is asked for, -100 elsewhere.
            output_hidden_states, output_attentions: as there.

        Raises:
            ValueError: an input has the wrong shape, dtype or values.
        """
        if labels is not None:
            check_labels(labels, input_ids, attention_mask, self.config.vocab_size)
        output = self.backbone(
            input_ids,
            attention_mask,
            token_type_ids,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        token_embedding = self.backbone.embeddings.token_embedding.weight
        logits = self.lm_head(output.last_hidden_state, token_embedding)  # (B, T, V)
        loss = count = None
        if labels is not None:
            total, count = cross_entropy_sum(logits, labels)
            loss = mean_loss(total, count)
        return MaskedLMOutput(
            logits=logits,
            loss=loss,
            num_supervised_tokens=count,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    @strict_names
    def logits_at(
        self,
        positions: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """The logits of `forward` at some positions alone.

        Here that is `forward` and an index; an optimized model computes no others.

        Args:
            positions: (B, T) bool.
            input_ids, attention_mask, token_type_ids: as in `forward`.

        Returns:
            (N, V), in the order of `positions.nonzero()`.
        """
        check_same_shape("positions", positions, input_ids)
        if positions.dtype != torch.bool:
            raise ValueError(f"positions has dtype {positions.dtype}; torch.bool is needed")
        return self(input_ids, attention_mask, token_type_ids).logits[positions]


class BertForQuestionAnswering(TaskModel):
    """BERT with two scores for each token: does the answer begin here, does it end here (4.2).

    The loss is the mean of two cross-entropies: start and end are each one choice among the tokens
    of a sequence. Padding is no choice here. In Hugging Face's `*ForQuestionAnswering` it is one,
    so its loss depends on how much was padded; where nothing is, the two are equal.

    Raises:
        ValueError: the config does not name two classes, start and end; Hugging Face would give
            each token another number of scores.
    """

    config_class: ClassVar[type[Config]] = BertConfig
    backbone_class: ClassVar[type[BertModel]] = BertModel
    backbone: BertModel

    def __init__(self, config: EncoderConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        if config.num_labels != 2:
            raise ValueError(
                f"id2label has {config.num_labels} classes; question answering has two, start and "
                "end: leave id2label out, or pass id2label={0: 'LABEL_0', 1: 'LABEL_1'}"
            )
        self.backbone = self.backbone_class(config, attention=attention, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.init_weights(self.qa_outputs)

    @property
    def bert(self) -> BertModel:
        """The encoder under the head."""
        return self.backbone

    @strict_names
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> QuestionAnsweringOutput:
        """Score every token as the first and as the last of the answer.

        Args:
            input_ids, attention_mask, token_type_ids: as in :meth:`BertModel.forward`.
            start_positions, end_positions: (B,) int64, the positions of the answer's first and last
                token; where there is no answer, of [CLS] twice. Both or neither.
            output_hidden_states, output_attentions: as there.

        Raises:
            ValueError: an input has the wrong shape, dtype or values, or a position is at padding.
        """
        if (start_positions is None) != (end_positions is None):
            raise ValueError("pass start_positions and end_positions together, or neither")
        if start_positions is not None and end_positions is not None:
            check_answer_positions(start_positions, end_positions, input_ids, attention_mask)
        output = self.backbone(
            input_ids,
            attention_mask,
            token_type_ids,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = self.token_logits(output.last_hidden_state)  # (B, T, 2)
        start_logits, end_logits = logits.unbind(dim=-1)  # (B, T) twice
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = mean_loss(
                *answer_loss_sum(
                    start_logits, end_logits, start_positions, end_positions, attention_mask
                )
            )
        return QuestionAnsweringOutput(
            start_logits=start_logits,
            end_logits=end_logits,
            loss=loss,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def token_logits(self, hidden: Tensor) -> Tensor:
        """(B, T, E) to (B, T, 2): the family's head."""
        return self.qa_outputs(hidden)

    def num_supervised_tokens(self, inputs: dict[str, Any]) -> Tensor:
        """Every sequence has a start and an end."""
        batch_size = inputs["start_positions"].shape[0]
        return torch.full((), batch_size, device=inputs["input_ids"].device)


class BertForSequenceClassification(SequenceClassifier):
    """BERT with a score for each class, from the pooled first token (4.1)."""

    config_class: ClassVar[type[Config]] = BertConfig
    backbone_class: ClassVar[type[BertModel]] = BertModel
    add_pooling_layer: ClassVar[bool] = True
    backbone: BertModel

    def __init__(self, config: EncoderConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.backbone = self.backbone_class(
            config, attention=attention, add_pooling_layer=self.add_pooling_layer
        )
        self.build_head()

    def build_head(self) -> None:
        """Make the modules after the encoder, with their initial weights."""
        self.dropout = nn.Dropout(self.config.head_dropout)
        self.classifier: nn.Module = nn.Linear(self.config.hidden_size, self.config.num_labels)
        self.init_weights(self.classifier)

    @property
    def bert(self) -> BertModel:
        """The encoder under the head."""
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
            input_ids, attention_mask, token_type_ids: as in :meth:`BertModel.forward`.
            labels: see :class:`SequenceClassifier`.
            output_hidden_states, output_attentions: as in :meth:`BertModel.forward`.

        Raises:
            ValueError: an input has the wrong shape, dtype or values.
        """
        if labels is not None:
            self.check_labels(labels, input_ids)
        output = self.backbone(
            input_ids,
            attention_mask,
            token_type_ids,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = self.class_logits(self.pool(output, attention_mask))  # (B, C)
        loss = None
        if labels is not None:
            loss = mean_loss(*self.classification_loss_sum(logits, labels))
        return SequenceClassifierOutput(
            logits=logits,
            loss=loss,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def pool(self, output: EncoderOutput, attention_mask: Tensor | None) -> Tensor:
        """The vector of each text, (B, E)."""
        assert output.pooler_output is not None
        return output.pooler_output

    def class_logits(self, pooled: Tensor) -> Tensor:
        """(B, E) to (B, C): the family's head."""
        return self.classifier(self.dropout(pooled))


class BertForTokenClassification(TaskModel):
    """BERT with a score for each class at every token (5.3)."""

    config_class: ClassVar[type[Config]] = BertConfig
    backbone_class: ClassVar[type[BertModel]] = BertModel
    backbone: BertModel

    def __init__(self, config: EncoderConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.backbone = self.backbone_class(config, attention=attention, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights(self.classifier)

    @property
    def bert(self) -> BertModel:
        """The encoder under the head."""
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
    ) -> TokenClassifierOutput:
        """Score every class at every token.

        Args:
            input_ids, attention_mask, token_type_ids: as in :meth:`BertModel.forward`.
            labels: (B, T) int64, the class of each token, or -100 where none is asked for.
            output_hidden_states, output_attentions: as there.

        Raises:
            ValueError: an input has the wrong shape, dtype or values.
        """
        if labels is not None:
            check_labels(labels, input_ids, attention_mask, self.config.num_labels)
        output = self.backbone(
            input_ids,
            attention_mask,
            token_type_ids,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = self.classifier(self.dropout(output.last_hidden_state))  # (B, T, C)
        loss = None
        if labels is not None:
            loss = mean_loss(*cross_entropy_sum(logits, labels))
        return TokenClassifierOutput(
            logits=logits,
            loss=loss,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

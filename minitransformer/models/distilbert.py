"""DistilBERT (Sanh et al. 2019): half of BERT's layers, no token types, no pooler, less dropout.

What differs from BERT is all here. Matches `transformers.models.distilbert.modeling_distilbert`.

B batch, T tokens, C classes, E hidden size.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minitransformer.layers.normalization import LayerNorm
from minitransformer.models.base import first_token
from minitransformer.models.bert import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    EncoderLayer,
)
from minitransformer.models.config import EncoderConfig
from minitransformer.models.outputs import EncoderOutput
from minitransformer.models.validation import refuse_token_types


@dataclass(frozen=True, kw_only=True)
class DistilBertConfig(EncoderConfig):
    """The sizes of a DistilBERT; the defaults are those of distilbert-base-uncased.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value is invalid; the message names field and value.
    """

    num_hidden_layers: int = 6
    qa_dropout: float = 0.1  # before the head for question answering
    seq_classif_dropout: float = 0.2  # inside the head of a sequence classifier

    layer_norm_eps: ClassVar[float] = 1e-12  # the same in every checkpoint; config.json has none

    known_elsewhere: ClassVar[dict[str, str]] = EncoderConfig.known_elsewhere | {
        "dim": "hidden_size",
        "hidden_dim": "intermediate_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "activation": "hidden_act",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_probabilities("qa_dropout", "seq_classif_dropout")


class DistilBertEmbeddings(nn.Module):
    """The sum of two embeddings: of the token and of its position.

    Args:
        vocab_size, hidden_size: rows and width of the table.
        position_embedding: module that turns position_ids, (B, T), into (B, T, E).
        pad_token_id: the token whose vector gets no gradient from here.
        eps: of the norm.
        dropout: probability.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        position_embedding: nn.Module,
        pad_token_id: int,
        eps: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, hidden_size, padding_idx=pad_token_id)
        self.position_embedding = position_embedding
        self.norm = LayerNorm(hidden_size, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, token_type_ids: None = None
    ) -> Tensor:
        """Ids and positions, (B, T) each, to (B, T, E); BERT's third argument stays None."""
        embedded = self.token_embedding(input_ids) + self.position_embedding(position_ids)
        return self.dropout(self.norm(embedded))  # (B, T, E)


class DistilBertLayer(EncoderLayer):
    """BERT's layer, but what attention gathered is added without dropout, as in Hugging Face."""

    def __init__(self, *sizes: Any, **more: Any) -> None:
        super().__init__(*sizes, **more)
        self.attention_dropout = nn.Identity()


class DistilBertModel(BertModel):
    """BERT's layers over embeddings without token types, by default without a pooler.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's `scaled_dot_product_attention`, or "eager", the formula.
    """

    config_class = DistilBertConfig
    layer_class = DistilBertLayer

    def __init__(
        self, config: EncoderConfig, *, attention: str = "sdpa", add_pooling_layer: bool = False
    ) -> None:
        super().__init__(config, attention=attention, add_pooling_layer=add_pooling_layer)

    def build_embeddings(self) -> Any:
        """The embeddings of this family."""
        return DistilBertEmbeddings(
            self.config.vocab_size,
            self.config.hidden_size,
            self.build_position_embedding(),
            self.config.pad_token_id,
            self.config.layer_norm_eps,
            self.config.hidden_dropout_prob,
        )

    def check_token_types(self, token_type_ids: Tensor | None, input_ids: Tensor) -> None:
        """Refuse token types."""
        refuse_token_types(token_type_ids, "DistilBERT")


class DistilBertForMaskedLM(BertForMaskedLM):
    """DistilBERT with the head that predicts masked tokens."""

    config_class = DistilBertConfig
    backbone_class = DistilBertModel
    distilbert = BertForMaskedLM.bert  # the same property by its own name


class DistilBertForQuestionAnswering(BertForQuestionAnswering):
    """DistilBERT with two scores for each token: does the answer begin here, does it end here."""

    config_class = DistilBertConfig
    backbone_class = DistilBertModel
    distilbert = BertForQuestionAnswering.bert  # the same property by its own name

    def __init__(self, config: DistilBertConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.dropout = nn.Dropout(config.qa_dropout)

    def token_logits(self, hidden: Tensor) -> Tensor:
        """(B, T, E) to (B, T, 2), after dropout."""
        return self.qa_outputs(self.dropout(hidden))


class DistilBertForSequenceClassification(BertForSequenceClassification):
    """DistilBERT with a score for each class, from the first token and a dense layer with ReLU."""

    config_class = DistilBertConfig
    backbone_class = DistilBertModel
    distilbert = BertForSequenceClassification.bert  # the same property by its own name
    add_pooling_layer = False

    def build_head(self) -> None:
        """Make the modules after the encoder, with their initial weights."""
        config = self.config
        self.pre_classifier = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.seq_classif_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights(self.pre_classifier)
        self.init_weights(self.classifier)

    def pool(self, output: EncoderOutput, attention_mask: Tensor | None) -> Tensor:
        """The first token's (B, E)."""
        return first_token(output.last_hidden_state, attention_mask)

    def class_logits(self, pooled: Tensor) -> Tensor:
        """(B, E) to (B, C)."""
        hidden = torch.relu(self.pre_classifier(pooled))  # (B, E)
        return self.classifier(self.dropout(hidden))


class DistilBertForTokenClassification(BertForTokenClassification):
    """DistilBERT with a score for each class at every token."""

    config_class = DistilBertConfig
    backbone_class = DistilBertModel
    distilbert = BertForTokenClassification.bert  # the same property by its own name

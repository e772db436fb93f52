"""RoBERTa (Liu et al. 2019): BERT with other positions and no use for token types.

What differs from BERT is all here. Matches `transformers.models.roberta.modeling_roberta`.

B batch, T tokens, E hidden size, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minitransformer.layers.positional_embeddings import OffsetPositions, position_ids_from_mask
from minitransformer.models.base import first_token
from minitransformer.models.bert import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    MaskedLMHead,
)
from minitransformer.models.outputs import EncoderOutput


@dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """The sizes of a RoBERTa; the defaults are those of roberta-base.

    `max_position_embeddings` counts the rows of the table, as in every config.json. The first
    `pad_token_id + 1` of them belong to no token, so 514 rows hold 512 tokens.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value is invalid; the message names field and value.
    """

    vocab_size: int = 50_265
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("bos_token_id", "eos_token_id"):
            if getattr(self, name) is not None:
                self._require_integers(name, minimum=0)
        if self.max_sequence_length < 1:
            raise ValueError(
                f"max_position_embeddings={self.max_position_embeddings} leaves no row for a token:"
                f" the first {self.pad_token_id + 1} (pad_token_id + 1) belong to none"
            )

    @property
    def max_sequence_length(self) -> int:
        """How many tokens fit into one sequence."""
        return self.max_position_embeddings - self.pad_token_id - 1


class RobertaModel(BertModel):
    """BERT's encoder with RoBERTa's positions."""

    config_class = RobertaConfig

    def build_position_embedding(self) -> nn.Module:
        """A table whose first rows belong to no token."""
        return OffsetPositions(
            self.config.max_sequence_length,
            self.config.hidden_size,
            offset=self.config.pad_token_id + 1,
            padding_idx=self.config.pad_token_id,
        )

    def position_ids(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The position of each token, (B, T), from the ids and the bool mask, (B, T) each."""
        # A padding token that is attended to on purpose is not counted: fairseq's rule, and so
        # Hugging Face's.
        return position_ids_from_mask(attention_mask & (input_ids != self.config.pad_token_id))


class RobertaForMaskedLM(BertForMaskedLM):
    """RoBERTa with the head that predicts masked tokens.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's `scaled_dot_product_attention`, or "eager", the formula.
    """

    config_class = RobertaConfig
    backbone_class = RobertaModel
    roberta = BertForMaskedLM.bert  # the same property by its own name

    def build_lm_head(self) -> MaskedLMHead:
        """The head of this family."""
        config = self.config
        # With the exact GELU, whatever config.hidden_act says: as in fairseq and Hugging Face.
        return MaskedLMHead(
            config.hidden_size,
            config.vocab_size,
            "gelu",
            config.layer_norm_eps,
            tied=config.tie_word_embeddings,
        )


class RobertaForQuestionAnswering(BertForQuestionAnswering):
    """RoBERTa with two scores for each token: does the answer begin here, does it end here."""

    config_class = RobertaConfig
    backbone_class = RobertaModel
    roberta = BertForQuestionAnswering.bert  # the same property by its own name


class RobertaClassificationHead(nn.Module):
    """A dense layer with tanh, then a score for each class, with dropout before both.

    BERT has its dense layer in the pooler, which is trained with the encoder; RoBERTa's is new for
    each task.
    """

    def __init__(self, hidden_size: int, num_labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, E) to (B, C)."""
        hidden = torch.tanh(self.dense(self.dropout(pooled)))  # (B, E)
        return self.output(self.dropout(hidden))


class RobertaForSequenceClassification(BertForSequenceClassification):
    """RoBERTa with a score for each class, from the first token and a head of two layers."""

    config_class = RobertaConfig
    backbone_class = RobertaModel
    roberta = BertForSequenceClassification.bert  # the same property by its own name
    add_pooling_layer = False

    def build_head(self) -> None:
        """Make the modules after the encoder, with their initial weights."""
        config = self.config
        self.classifier = RobertaClassificationHead(
            config.hidden_size, config.num_labels, config.head_dropout
        )
        self.init_weights(self.classifier)

    def pool(self, output: EncoderOutput, attention_mask: Tensor | None) -> Tensor:
        """The first token's (B, E)."""
        return first_token(output.last_hidden_state, attention_mask)

    def class_logits(self, pooled: Tensor) -> Tensor:
        """(B, E) to (B, C)."""
        return self.classifier(pooled)


class RobertaForTokenClassification(BertForTokenClassification):
    """RoBERTa with a score for each class at every token."""

    config_class = RobertaConfig
    backbone_class = RobertaModel
    roberta = BertForTokenClassification.bert  # the same property by its own name

"""RoBERTa (Liu et al. 2019): BERT with other positions and no use for token types.

Matches `transformers.models.roberta.modeling_roberta`. What differs from BERT is all here.

B batch, T tokens, C classes, E hidden size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minitransformer.layers.dropout import Dropout
from minitransformer.layers.positions import OffsetPositions
from minitransformer.models.base import initialize
from minitransformer.models.bert import BertConfig, BertModel
from minitransformer.models.classification import SequenceClassification, TokenClassification
from minitransformer.models.config import EncoderConfig
from minitransformer.models.masked_lm import MaskedLM, MaskedLMHead
from minitransformer.models.question_answering import QuestionAnswering


@dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """The sizes of a RoBERTa; the defaults are those of roberta-base.

    `max_position_embeddings` counts the rows of the table, as in every config.json. The first
    `pad_token_id + 1` of them belong to no token, so 514 rows hold 512 tokens.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value has no meaning; the message names field and value.
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
        """How many tokens fit into one row."""
        return self.max_position_embeddings - self.pad_token_id - 1


class RobertaModel(BertModel):
    """BERT's encoder with RoBERTa's positions."""

    config: RobertaConfig
    config_class = RobertaConfig

    def build_positions(self, config: EncoderConfig) -> nn.Module:
        """The position module of this family."""
        return OffsetPositions(
            config.max_sequence_length,
            config.hidden_size,
            offset=config.pad_token_id + 1,
            padding_idx=config.pad_token_id,
        )

    def counted_tokens(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, T) bool: the tokens that are numbered.

        A padding token that is attended to on purpose gets no number: fairseq's rule, and so
        Hugging Face's.
        """
        return super().counted_tokens(input_ids, attention_mask) & (
            input_ids != self.config.pad_token_id
        )


class RobertaForMaskedLM(MaskedLM):
    """RoBERTa with the head that guesses masked words; its decoder is the word embedding.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's kernel; "packed", without padding; or "eager", the formula.
    """

    backbone_name = "roberta"
    config: RobertaConfig
    config_class = RobertaConfig

    def __init__(self, config: RobertaConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.roberta = RobertaModel(config, attention=attention, add_pooling_layer=False)
        # Always the exact GELU, whatever config.hidden_act says: as in fairseq and Hugging Face.
        self.lm_head = MaskedLMHead(
            config.hidden_size, config.vocab_size, "gelu", config.layer_norm_eps
        )
        initialize(self.lm_head, config.initializer_range)


class RobertaForQuestionAnswering(QuestionAnswering):
    """RoBERTa with two scores for each token: does the answer begin here, does it end here."""

    backbone_name = "roberta"
    config: RobertaConfig
    config_class = RobertaConfig

    def __init__(self, config: RobertaConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.roberta = RobertaModel(config, attention=attention, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        initialize(self.qa_outputs, config.initializer_range)


class RobertaClassificationHead(nn.Module):
    """A dense layer with tanh, then a score for each class, with dropout before both.

    BERT has its dense layer in the pooler, which is trained with the backbone; RoBERTa's is new for
    each task.
    """

    def __init__(self, hidden_size: int, num_labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, first: Tensor) -> Tensor:
        """The first token's (B, E) to (B, C)."""
        hidden = torch.tanh(self.dense(self.dropout(first)))  # (B, E)
        return self.output(self.dropout(hidden))


class RobertaForSequenceClassification(SequenceClassification):
    """RoBERTa with a score for each class, from the first token and a head of two layers."""

    backbone_name = "roberta"
    config: RobertaConfig
    config_class = RobertaConfig

    def __init__(self, config: RobertaConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.roberta = RobertaModel(config, attention=attention, add_pooling_layer=False)
        self.classifier = RobertaClassificationHead(
            config.hidden_size, config.num_labels, config.head_dropout
        )
        initialize(self.classifier, config.initializer_range)

    def scores(self, representation: Tensor) -> Tensor:
        """The first token's (B, E) to (B, C)."""
        return self.classifier(representation)


class RobertaForTokenClassification(TokenClassification):
    """RoBERTa with a score for each class at every token."""

    backbone_name = "roberta"
    config: RobertaConfig
    config_class = RobertaConfig

    def __init__(self, config: RobertaConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.roberta = RobertaModel(config, attention=attention, add_pooling_layer=False)
        self.dropout = Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        initialize(self.classifier, config.initializer_range)

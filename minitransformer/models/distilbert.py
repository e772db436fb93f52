"""DistilBERT (Sanh et al. 2019): half of BERT's layers, no token types, no pooler.

Matches `transformers.models.distilbert.modeling_distilbert`. What differs from BERT is all here.

B batch, T tokens, C classes, E hidden size.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from minitransformer.layers.dropout import Dropout
from minitransformer.layers.norm import LayerNorm
from minitransformer.layers.packing import Mask
from minitransformer.layers.rows import take_rows
from minitransformer.models.base import initialize
from minitransformer.models.bert import BertModel, EncoderLayer
from minitransformer.models.classification import SequenceClassification, TokenClassification
from minitransformer.models.config import EncoderConfig
from minitransformer.models.inputs import refuse_token_types
from minitransformer.models.masked_lm import MaskedLM, MaskedLMHead
from minitransformer.models.question_answering import QuestionAnswering


@dataclass(frozen=True, kw_only=True)
class DistilBertConfig(EncoderConfig):
    """The sizes of a DistilBERT; the defaults are those of distilbert-base-uncased.

    Raises:
        TypeError: a field's name is unknown.
        ValueError: a field's value has no meaning; the message names field and value.
    """

    num_hidden_layers: int = 6
    qa_dropout: float = 0.1  # before the head for question answering
    seq_classif_dropout: float = 0.2  # before the head of a sequence classifier

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
    """What each token is and where it stands, added up.

    Args:
        vocab_size, hidden_size: rows and width of the table.
        positions: module that turns the numbers of tokens, (B, T), into (B, T, E).
        pad_token_id: the token whose vector gets no gradient from here.
        eps: of the norm.
        dropout: probability.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        positions: nn.Module,
        pad_token_id: int,
        eps: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, hidden_size, padding_idx=pad_token_id)
        self.positions = positions
        self.norm = LayerNorm(hidden_size, eps)
        self.dropout = Dropout(dropout)

    def forward(self, input_ids: Tensor, _token_type_ids: None, positions: Tensor) -> Tensor:
        """(B, T) twice: ids, numbers of tokens. Gives (B, T, E)."""
        embedded = self.words(input_ids) + self.positions(positions)  # (B, T, E)
        return self.dropout(self.norm(embedded))


class DistilBertLayer(EncoderLayer):
    """BERT's layer, but what attention gathered is added without dropout, as in Hugging Face."""

    def forward(self, hidden: Tensor, mask: Mask, wanted: Tensor | None = None) -> Tensor:
        """As in :class:`EncoderLayer`."""
        tokens = hidden if wanted is None else take_rows(hidden, wanted)  # (B, P, E)
        tokens = self.attention_norm(tokens + self.attention(tokens, hidden, mask))
        return self.feed_forward_norm(tokens + self.dropout(self.feed_forward(tokens)))


class DistilBertModel(BertModel):
    """BERT's layers over embeddings without token types.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's kernel; "packed", without padding; or "eager", the formula.
    """

    config: DistilBertConfig  # type: ignore[assignment]
    config_class = DistilBertConfig  # type: ignore[assignment]
    layer_class = DistilBertLayer

    def __init__(self, config: DistilBertConfig, *, attention: str = "sdpa") -> None:
        # BERT's constructor asks for nothing that this config lacks, the token types aside.
        super().__init__(config, attention=attention, add_pooling_layer=False)  # type: ignore[arg-type]

    def build_embeddings(self, config: DistilBertConfig) -> nn.Module:
        """The embeddings of this family."""
        return DistilBertEmbeddings(
            config.vocab_size,
            config.hidden_size,
            self.build_positions(config),
            config.pad_token_id,
            config.layer_norm_eps,
            config.hidden_dropout_prob,
        )

    def check_token_types(self, token_type_ids: Tensor | None) -> None:
        """Refuse token types."""
        refuse_token_types(token_type_ids, "DistilBERT")


class DistilBertForMaskedLM(MaskedLM):
    """DistilBERT with the head that guesses masked words; its decoder is the word embedding."""

    backbone_name = "distilbert"
    config: DistilBertConfig
    config_class = DistilBertConfig

    def __init__(self, config: DistilBertConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.distilbert = DistilBertModel(config, attention=attention)
        self.lm_head = MaskedLMHead(
            config.hidden_size, config.vocab_size, config.hidden_act, config.layer_norm_eps
        )
        initialize(self.lm_head, config.initializer_range)


class DistilBertForQuestionAnswering(QuestionAnswering):
    """DistilBERT with two scores for each token: does the answer begin here, does it end here."""

    backbone_name = "distilbert"
    config: DistilBertConfig
    config_class = DistilBertConfig

    def __init__(self, config: DistilBertConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.distilbert = DistilBertModel(config, attention=attention)
        self.dropout = Dropout(config.qa_dropout)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        initialize(self.qa_outputs, config.initializer_range)


class DistilBertForSequenceClassification(SequenceClassification):
    """DistilBERT with a score for each class, from the first token and a dense layer with ReLU."""

    backbone_name = "distilbert"
    config: DistilBertConfig
    config_class = DistilBertConfig

    def __init__(self, config: DistilBertConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.distilbert = DistilBertModel(config, attention=attention)
        self.pre_classifier = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.seq_classif_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        initialize(self.pre_classifier, config.initializer_range)
        initialize(self.classifier, config.initializer_range)

    def scores(self, representation: Tensor) -> Tensor:
        """The first token's (B, E) to (B, C)."""
        hidden = torch.relu(self.pre_classifier(representation))  # (B, E)
        return self.classifier(self.dropout(hidden))


class DistilBertForTokenClassification(TokenClassification):
    """DistilBERT with a score for each class at every token."""

    backbone_name = "distilbert"
    config: DistilBertConfig
    config_class = DistilBertConfig

    def __init__(self, config: DistilBertConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.distilbert = DistilBertModel(config, attention=attention)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        initialize(self.classifier, config.initializer_range)

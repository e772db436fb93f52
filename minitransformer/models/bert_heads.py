"""BERT with task heads. Matches `transformers.models.bert.modeling_bert`.

Each class says what its backbone and its head are made of; what they compute is in the base class.

B batch, C classes, E hidden size.
"""

from torch import Tensor, nn

from minitransformer.layers.dropout import Dropout
from minitransformer.models.base import initialize
from minitransformer.models.bert import BertConfig, BertModel
from minitransformer.models.classification import SequenceClassification, TokenClassification
from minitransformer.models.masked_lm import MaskedLM, MaskedLMHead
from minitransformer.models.question_answering import QuestionAnswering


class BertForMaskedLM(MaskedLM):
    """BERT with the head that guesses masked words; its decoder is the word embedding."""

    backbone_name = "bert"
    config: BertConfig
    config_class = BertConfig

    def __init__(self, config: BertConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.bert = BertModel(config, attention=attention, add_pooling_layer=False)
        self.lm_head = MaskedLMHead(
            config.hidden_size, config.vocab_size, config.hidden_act, config.layer_norm_eps
        )
        initialize(self.lm_head, config.initializer_range)


class BertForQuestionAnswering(QuestionAnswering):
    """BERT with two scores for each token: does the answer begin here, does it end here."""

    backbone_name = "bert"
    config: BertConfig
    config_class = BertConfig

    def __init__(self, config: BertConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.bert = BertModel(config, attention=attention, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        initialize(self.qa_outputs, config.initializer_range)


class BertForSequenceClassification(SequenceClassification):
    """BERT with a score for each class, from the pooled first token."""

    backbone_name = "bert"
    config: BertConfig
    config_class = BertConfig

    def __init__(self, config: BertConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.bert = BertModel(config, attention=attention)
        self.dropout = Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        initialize(self.classifier, config.initializer_range)

    def scores(self, representation: Tensor) -> Tensor:
        """The first token's (B, E) to (B, C)."""
        assert self.bert.pooler is not None
        return self.classifier(self.dropout(self.bert.pooler(representation)))


class BertForTokenClassification(TokenClassification):
    """BERT with a score for each class at every token."""

    backbone_name = "bert"
    config: BertConfig
    config_class = BertConfig

    def __init__(self, config: BertConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.bert = BertModel(config, attention=attention, add_pooling_layer=False)
        self.dropout = Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        initialize(self.classifier, config.initializer_range)

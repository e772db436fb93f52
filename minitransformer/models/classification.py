"""Classification: of a whole text by its first token, or of every token.

(Devlin et al. 2018, sections 4.1 and 5.3)

B batch, T tokens, C classes, E hidden size.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.layers.dropout import Dropout
from minitransformer.layers.rows import Wanted, first_tokens, take_rows
from minitransformer.models.base import mean_loss
from minitransformer.models.heads import EncoderTask, summable, summed_cross_entropy
from minitransformer.models.inputs import (
    check_class_labels,
    check_labels,
    check_same_shape,
    check_shape,
    check_targets,
)
from minitransformer.models.outputs import (
    Recording,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from minitransformer.names import strict_names


class SequenceClassification(EncoderTask):
    """Base of the models that put a text, or a pair, into classes by its first token.

    `config.problem_type` says what the scores are, and with it the loss:

    - single_label_classification (None, with several classes): each text is of one class; labels
      (B,) int64; cross-entropy.
    - multi_label_classification: a text is of any number of classes; labels (B, C) float, 0 to 1;
      binary cross-entropy of each.
    - regression (None, with one class): the scores are numbers; labels (B, C), or (B,) where C = 1,
      float; squared error.

    What represents the text is the first token, unless a family says otherwise in `represent`.

    Hugging Face reads an unset problem type off the labels' dtype too; here float labels for
    several classes are an error that names the field to set. It takes place 0 for the first
    token, which is padding where a row is padded on the left; here it is the first real one.
    """

    output_class: ClassVar[Any] = SequenceClassifierOutput

    def scores(self, representation: Tensor) -> Tensor:
        """The text's (B, E) to (B, C): the family's head."""
        raise NotImplementedError(f"{type(self).__name__} has no head")

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

        Unless something is collected, the last layer computes the first token alone.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 or True at real tokens; may be left out where none is padded.
            token_type_ids: (B, T) int64, in families that have types; 0 by default.
            labels: see above.
            output_hidden_states: collect what enters the layers, and what leaves each of them.
            output_attentions: collect each layer's attention map.

        Raises:
            ValueError: an input's shape, dtype or values are off.
        """
        if labels is not None:
            labels = self._checked(labels, input_ids)
        represented, record = self.represent(
            input_ids, attention_mask, token_type_ids, output_hidden_states, output_attentions
        )
        logits = self._scores(represented, attention_mask)  # (B, C)
        loss = None if labels is None else mean_loss(*self._summed_loss(logits, labels))
        return self.output_class(logits=logits, loss=loss, **record.fields())

    @strict_names
    def summed_loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The sum of the losses of the labels, and how many labels there are."""
        labels = self._checked(labels, input_ids)
        represented, _ = self.represent(input_ids, attention_mask, token_type_ids)
        return self._summed_loss(self._scores(represented, attention_mask), labels)

    def count_supervised(self, batch: dict[str, Tensor]) -> int:
        """The texts, or for the other problem types the numbers, that are labelled."""
        single = self.problem_type == "single_label_classification"
        return super().count_supervised(batch) if single else batch["labels"].numel()

    @property
    def problem_type(self) -> str:
        """What the scores are, where the config leaves it open too."""
        if self.config.problem_type is not None:
            return self.config.problem_type
        return "regression" if self.config.num_labels == 1 else "single_label_classification"

    def represent(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> tuple[Tensor, Recording]:
        """What stands for each text, (B, E), and what was to be collected on the way."""
        check_shape("input_ids", input_ids)
        first = input_ids.new_zeros(len(input_ids), 1)  # (B, 1)
        if attention_mask is not None:
            check_same_shape("attention_mask", attention_mask, input_ids)
            first = first_tokens(attention_mask != 0)
        wanted = None if hidden_states or attentions else Wanted(first, None)
        hidden, record = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            wanted=wanted,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        if wanted is None:
            hidden = take_rows(hidden, first).squeeze(1)
        return hidden, record  # (B, E)

    def _scores(self, represented: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, E) to (B, C); a row of nothing but padding stands for zeros, under any kernel."""
        if attention_mask is not None:
            nothing = ~(attention_mask != 0).any(dim=1, keepdim=True)  # (B, 1)
            represented = represented.masked_fill(nothing, 0.0)
        return self.scores(represented)

    def _checked(self, labels: Tensor, input_ids: Tensor) -> Tensor:
        """The labels, (B,) or (B, C). Before the layers, for reading them waits for a GPU."""
        check_shape("input_ids", input_ids)
        shape = len(input_ids), self.config.num_labels
        if self.problem_type == "single_label_classification":
            check_class_labels(labels, *shape)
            return labels
        several = self.problem_type == "multi_label_classification"
        return check_targets(labels, shape, between_0_and_1=several)

    def _summed_loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.problem_type == "single_label_classification":
            return summed_cross_entropy(logits, labels)
        several = self.problem_type == "multi_label_classification"
        loss = F.binary_cross_entropy_with_logits if several else F.mse_loss
        logits = summable(logits)
        total = loss(logits, labels.to(logits.dtype), reduction="sum")
        return total, torch.full((), labels.numel(), dtype=torch.int64, device=labels.device)


class TokenClassification(EncoderTask):
    """Base of the models that put every token into a class: a backbone and a `classifier`."""

    dropout: Dropout
    classifier: nn.Linear

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
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 or True at real tokens; may be left out where none is padded.
            token_type_ids: (B, T) int64, in families that have types; 0 by default.
            labels: (B, T) int64, the class of each token, or -100 where none is asked for.
            output_hidden_states: collect what enters the layers, and what leaves each of them.
            output_attentions: collect each layer's attention map.

        Raises:
            ValueError: an input's shape, dtype or values are off.
        """
        if labels is not None:
            check_labels(labels, input_ids, attention_mask, self.config.num_labels)
        logits, record = self._logits(
            input_ids, attention_mask, token_type_ids, output_hidden_states, output_attentions
        )
        loss = None if labels is None else mean_loss(*summed_cross_entropy(logits, labels))
        return TokenClassifierOutput(logits=logits, loss=loss, **record.fields())

    @strict_names
    def summed_loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The sum of the losses of the labelled tokens, and how many those are."""
        check_labels(labels, input_ids, attention_mask, self.config.num_labels)
        logits, _ = self._logits(input_ids, attention_mask, token_type_ids)
        return summed_cross_entropy(logits, labels)

    def _logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> tuple[Tensor, Recording]:
        hidden, record = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        return self.classifier(self.dropout(hidden)), record  # (B, T, C)

"""What the task heads of the encoders have in common.

B batch, T tokens, W tokens wanted of the last layer, E hidden size, V vocabulary or classes.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.layers.linear import linear
from minitransformer.layers.rows import Wanted
from minitransformer.layers.word_loss import HALF_FORMATS, WordScores, pieces_pay, word_loss
from minitransformer.models.base import TaskModel
from minitransformer.models.config import EncoderConfig
from minitransformer.models.inputs import IGNORED_LABEL
from minitransformer.models.outputs import Recording, recording

if TYPE_CHECKING:
    from minitransformer.models.bert import BertModel


class EncoderTask(TaskModel):
    """Base of the encoders with a task head.

    A task has its own file, with a base class that runs the backbone, applies the head and measures
    the loss; a family's class, such as `BertForQuestionAnswering`, says what the two are made of.
    """

    config: EncoderConfig

    @property
    def backbone(self) -> "BertModel":
        """The encoder under the head."""
        return getattr(self, self.backbone_name)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        *,
        wanted: Wanted | None = None,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> tuple[Tensor, Recording]:
        """The backbone's last hidden state, and what was to be collected on the way.

        Args:
            input_ids, attention_mask, token_type_ids: (B, T) each; the last two may be None.
            wanted: W tokens: the last layer computes these alone.
            hidden_states, attentions: what to collect.

        Returns:
            (B, T, E), or (W, E), row after row, and the recording.
        """
        with recording(
            self.backbone.layers, hidden_states=hidden_states, attentions=attentions
        ) as record:
            hidden, _ = self.backbone.encode(input_ids, attention_mask, token_type_ids, wanted)
        return hidden, record


def summable(logits: Tensor) -> Tensor:
    """float32 at least: a sum over thousands of losses does not fit the half formats."""
    return logits.float() if logits.dtype in HALF_FORMATS else logits


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[label], summed over the labelled rows, and how many those are.

    A sum and a count, not a mean: means of unequal micro-batches do not add up to the mean of
    the batch, sums do. No label at all gives a sum of 0 with a gradient of zeros.

    Args:
        logits: (..., V).
        labels: (...) int64, -100 where there is no label.
    """
    total = F.cross_entropy(
        summable(logits).flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="sum",
    )
    return total, (labels != IGNORED_LABEL).sum()


def summed_word_loss(scores: WordScores, labels: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    """:func:`summed_cross_entropy` of the scores of words, each row of which has a label.

    Args:
        scores: of N rows.
        labels: (N,) int64; -100, for no label, only where the compiler asks.
        training: whether they belong to a model that learns.
    """
    count = (labels != IGNORED_LABEL).sum()
    if pieces_pay(scores) and int(count) == len(labels):  # on a CPU: nobody waits for it
        return word_loss(scores, labels), count
    return summed_cross_entropy(linear(*scores, training), labels)


class Labelled(NamedTuple):
    """The tokens that have a label."""

    labels: Tensor  # (N,) int64
    places: Tensor | None  # (N,) int64, among B * T; None: all of them

    @classmethod
    def of(cls, labels: Tensor) -> "Labelled":
        """Find them: (B, T) int64, -100 where there is no label.

        Before the layers, for it waits for a GPU, which has nothing to do yet.
        """
        labels = labels.flatten()
        if torch.compiler.is_compiling():  # which needs to know how many there are
            return cls(labels, None)
        places = (labels != IGNORED_LABEL).nonzero().squeeze(1)
        if len(places) == len(labels):
            return cls(labels, None)
        return cls(labels.index_select(0, places), places)

    def rows(self, hidden: Tensor) -> Tensor:
        """Their hidden states: (B, T, E) to (N, E)."""
        hidden = hidden.flatten(0, 1)
        return hidden if self.places is None else hidden.index_select(0, self.places)

"""Extractive question answering: where in the context does the answer begin, where does it end?

(Rajpurkar et al. 2016; Devlin et al. 2018, section 4.2)

B batch, T tokens, E hidden size.
"""

import math

from torch import Tensor, nn

from minitransformer.models.base import mean_loss
from minitransformer.models.config import EncoderConfig
from minitransformer.models.heads import EncoderTask, summed_cross_entropy
from minitransformer.models.inputs import check_positions
from minitransformer.models.outputs import QuestionAnsweringOutput, Recording
from minitransformer.names import strict_names


class QuestionAnswering(EncoderTask):
    """Base of the models that mark the answer in a text: a backbone and `qa_outputs`.

    The loss is the mean of two cross-entropies: the start and the end are each one choice among the
    tokens of the row. Padding is no choice here. In Hugging Face's `*ForQuestionAnswering` it is
    one, so its loss and the gradient depend on how much a row was padded; where nothing is
    padded, the two are equal.

    Raises:
        ValueError: the config names another number of classes than two, start and end, which
            Hugging Face would take for the number of scores a token.
    """

    qa_outputs: nn.Linear

    def __init__(self, config: EncoderConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        if config.num_labels != 2:
            raise ValueError(
                f"id2label has {config.num_labels} classes; question answering has two, start and "
                "end: leave id2label out, or pass id2label={0: 'LABEL_0', 1: 'LABEL_1'}"
            )
        self.dropout: nn.Module = nn.Identity()  # before the head; DistilBERT has one

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
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 or True at real tokens; may be left out where none is padded.
            token_type_ids: (B, T) int64, 0 for the question and 1 for the context, in families that
                have types; 0 by default.
            start_positions, end_positions: (B,) int64, the places of the answer's first and last
                token; where there is no answer, of [CLS] twice. Both or neither.
            output_hidden_states: collect what enters the layers, and what leaves each of them.
            output_attentions: collect each layer's attention map.

        Raises:
            ValueError: an input's shape, dtype or values are off, or a position is that of padding.
        """
        if (start_positions is None) != (end_positions is None):
            raise ValueError("start_positions and end_positions are given together or not at all")
        if start_positions is not None and end_positions is not None:
            check_positions(start_positions, end_positions, input_ids, attention_mask)
        start_logits, end_logits, record = self._logits(
            input_ids, attention_mask, token_type_ids, output_hidden_states, output_attentions
        )
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = mean_loss(
                *_summed_loss(
                    start_logits, end_logits, start_positions, end_positions, attention_mask
                )
            )
        return QuestionAnsweringOutput(
            start_logits=start_logits, end_logits=end_logits, loss=loss, **record.fields()
        )

    @strict_names
    def summed_loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        start_positions: Tensor,
        end_positions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The sum of the losses of the rows, and how many rows there are."""
        check_positions(start_positions, end_positions, input_ids, attention_mask)
        start_logits, end_logits, _ = self._logits(input_ids, attention_mask, token_type_ids)
        return _summed_loss(
            start_logits, end_logits, start_positions, end_positions, attention_mask
        )

    def count_supervised(self, batch: dict[str, Tensor]) -> int:
        """Every row has a start and an end."""
        return len(batch["start_positions"])

    def _logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> tuple[Tensor, Tensor, Recording]:
        hidden, record = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        start, end = self.qa_outputs(self.dropout(hidden)).unbind(dim=-1)  # (B, T) twice
        return start, end, record


def _summed_loss(
    start_logits: Tensor,
    end_logits: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    attention_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Half the sum of the cross-entropies of start and end over real tokens, and B."""
    if attention_mask is not None:
        padding = attention_mask == 0
        start_logits = start_logits.masked_fill(padding, -math.inf)
        end_logits = end_logits.masked_fill(padding, -math.inf)
    start_total, count = summed_cross_entropy(start_logits, start_positions)
    end_total, _ = summed_cross_entropy(end_logits, end_positions)
    return (start_total + end_total) / 2, count

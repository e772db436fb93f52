"""BART's head for classification.

B batch, T tokens, E hidden size, C classes.
"""

import torch
from torch import Tensor

from minitransformer.layers.rows import first_tokens, last_tokens, take_rows
from minitransformer.models.bart import BartModel
from minitransformer.models.bart_config import BartConfig
from minitransformer.models.base import initialize
from minitransformer.models.classification import SequenceClassification
from minitransformer.models.inputs import check_same_shape, check_shape, refuse_token_types
from minitransformer.models.outputs import Seq2SeqRecording, Seq2SeqSequenceClassifierOutput
from minitransformer.models.roberta import RobertaClassificationHead
from minitransformer.models.shifting import shift_right, start_token


class BartForSequenceClassification(SequenceClassification):
    """BART with a score for each class, from the decoder's state at the text's end token.

    Encoder and decoder read the same text, the decoder shifted right. Each row needs an end token,
    `eos_token_id`; of several the last counts. Hugging Face asks all rows for the same number of
    them, so that padding with it is impossible there as here.
    """

    backbone_name = "model"
    config: BartConfig  # type: ignore[assignment]
    config_class = BartConfig
    output_class = Seq2SeqSequenceClassifierOutput

    def __init__(self, config: BartConfig, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.model = BartModel(config, attention=attention)
        self.classification_head = RobertaClassificationHead(
            config.hidden_size, config.num_labels, config.classifier_dropout
        )
        initialize(self.classification_head, config.initializer_range)

    def represent(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> tuple[Tensor, Seq2SeqRecording]:
        """The decoder's (B, E) at the end of each text, and what was to be collected."""
        refuse_token_types(token_type_ids, "BART")
        check_shape("input_ids", input_ids)
        begins = None
        present = torch.ones_like(input_ids, dtype=torch.bool)
        if attention_mask is not None:
            check_same_shape("attention_mask", attention_mask, input_ids)
            present = attention_mask != 0  # (B, T)
            begins = first_tokens(present)  # (B, 1)
        config = self.config
        decoder_input_ids, decoder_attention_mask = shift_right(
            input_ids, start_token(config), config.pad_token_id, begins
        )
        hidden, record = self.model.run(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        ends = present & (input_ids == config.eos_token_id)  # (B, T)
        if not torch.compiler.is_compiling() and not bool(ends.any(dim=1).all()):
            row = int(ends.any(dim=1).int().argmin())
            raise ValueError(
                f"input_ids has no end token, eos_token_id={config.eos_token_id}, in row {row}; "
                "BART classifies a text at its end: tokenize it with special tokens"
            )
        return take_rows(hidden, last_tokens(ends)).squeeze(1), record

    def scores(self, representation: Tensor) -> Tensor:
        """(B, E) to (B, C)."""
        return self.classification_head(representation)

"""The models that write, decoders and encoder-decoders, and how they are trained.

B batch, R rows that are written, T tokens, S source tokens, E hidden size, V vocabulary.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from minitransformer.layers.cache import KVCache
from minitransformer.layers.rows import take_last
from minitransformer.models.base import mean_loss
from minitransformer.models.heads import Labelled, summed_cross_entropy
from minitransformer.models.inputs import IGNORED_LABEL, check_labels, check_shape
from minitransformer.models.outputs import CausalLMOutput, Encoded, Seq2SeqLMOutput, recording
from minitransformer.models.shifting import (
    next_token_labels,
    shift_right,
    start_token,
    until_last_label,
)
from minitransformer.models.writing_model import GenerativeModel
from minitransformer.names import strict_names

if TYPE_CHECKING:
    from minitransformer.models.gpt2 import GPT2Model
    from minitransformer.models.seq2seq import Seq2SeqModel


class CausalLM(GenerativeModel):
    """Base of the decoders that write: each token guesses the one that comes after it."""

    @property
    def backbone(self) -> "GPT2Model":
        """The decoder under the head."""
        return getattr(self, self.backbone_name)

    @strict_names
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> CausalLMOutput:
        """Score, at every place, each word of the vocabulary as the next one.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 or True at real tokens; may be left out where none is padded.
            labels: (B, T) int64, `input_ids` themselves, -100 at padding and wherever a word is not
                to be learnt. They are moved here: see :mod:`minitransformer.models.shifting`.
            cache: what earlier calls have kept; these tokens come after those.
            output_hidden_states: collect what enters the layers, and what leaves each of them.
            output_attentions: collect each layer's attention map.

        Raises:
            ValueError: an input's shape, dtype or values are off.
        """
        if labels is not None:
            check_labels(labels, input_ids, attention_mask, self.config.vocab_size)
            if cache is not None:
                raise ValueError("labels need whole rows: pass them without a cache")
        with recording(
            self.backbone.layers,
            hidden_states=output_hidden_states,
            attentions=output_attentions,
            final=self.backbone.final_norm,
        ) as record:
            hidden = self.backbone.decode(input_ids, attention_mask, cache)  # (B, T, E)
        logits = self.logits(hidden)  # (B, T, V)
        loss = count = None
        if labels is not None:
            total, count = summed_cross_entropy(logits, self._targets(labels, attention_mask))
            loss = mean_loss(total, count)
        return CausalLMOutput(
            logits=logits, loss=loss, num_supervised_tokens=count, **record.fields()
        )

    @strict_names
    def summed_loss(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum of the losses of the words that are guessed, and how many those are."""
        check_labels(labels, input_ids, attention_mask, self.config.vocab_size)
        labelled = Labelled.of(self._targets(labels, attention_mask))
        hidden = self.backbone.decode(input_ids, attention_mask)  # (B, T, E)
        return self._summed_word_loss(hidden, labelled)

    def count_supervised(self, batch: dict[str, Tensor]) -> int:
        """The words of a batch that are guessed; the first of a row is not."""
        targets = self._targets(batch["labels"], batch.get("attention_mask"))
        return int((targets != IGNORED_LABEL).sum())

    @strict_names
    def next_token_logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Score the words that may come after the last real token of each row.

        Args:
            input_ids, attention_mask, cache: as in `forward`.

        Returns:
            (B, V).
        """
        hidden = self.backbone.decode(input_ids, attention_mask, cache)  # (B, T, E)
        return self.logits(take_last(hidden, attention_mask))

    def new_cache(self) -> KVCache:
        """An empty cache."""
        return KVCache(self.config.num_hidden_layers)

    @staticmethod
    def _targets(labels: Tensor, attention_mask: Tensor | None) -> Tensor:
        return next_token_labels(labels, None if attention_mask is None else attention_mask != 0)


class Seq2SeqLM(GenerativeModel):
    """Base of the encoder-decoders that write: one text in, another out."""

    @property
    def backbone(self) -> "Seq2SeqModel":
        """Encoder and decoder under the head."""
        return getattr(self, self.backbone_name)

    @strict_names
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> Seq2SeqLMOutput:
        """Score, at every place of the decoder, each word of the vocabulary as the next one.

        Args:
            input_ids: (B, S) int64, the source.
            attention_mask: (B, S), 1 or True at real tokens; may be left out where none is padded.
            decoder_input_ids: (B, T) int64, what the decoder reads; by default the labels, shifted
                right: see :mod:`minitransformer.models.shifting`.
            decoder_attention_mask: (B, T), for these.
            labels: (B, T) int64, what it is to write, -100 at padding, which may stand on either
                side: a row begins at its first label that is not -100.
            output_hidden_states: collect what enters the layers, and what leaves each of them.
            output_attentions: collect each layer's attention maps.

        Raises:
            ValueError: an input's shape, dtype or values are off, or the decoder has nothing to
                read.
        """
        decoder_input_ids, decoder_attention_mask = self._decoder_inputs(
            decoder_input_ids, decoder_attention_mask, labels
        )
        hidden, record = self.backbone.run(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            hidden_states=output_hidden_states,
            attentions=output_attentions,
        )
        logits = self.logits(hidden)  # (B, T, V)
        loss = count = None
        if labels is not None:
            total, count = summed_cross_entropy(logits, labels)
            loss = mean_loss(total, count)
        return Seq2SeqLMOutput(
            logits=logits, loss=loss, num_supervised_tokens=count, **record.fields()
        )

    @strict_names
    def summed_loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        *,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The sum of the losses of the labelled words, and how many those are."""
        target = self._decoder_inputs(decoder_input_ids, decoder_attention_mask, labels)
        labelled = Labelled.of(labels)
        hidden, _ = self.backbone.run(input_ids, attention_mask, *target)
        return self._summed_word_loss(hidden, labelled)

    @strict_names
    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Encoded:
        """What the decoder asks of the source, (B, S): to be computed once for a whole text."""
        return self.backbone.encode(input_ids, attention_mask)

    @strict_names
    def next_token_logits(
        self,
        decoder_input_ids: Tensor,
        encoded: Encoded,
        *,
        decoder_attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Score the words that may come after the last real token of each row.

        Args:
            decoder_input_ids: (R, T), R = B * K: K rows in turn are written from one source.
            encoded: what `encode` gave for the B sources.
            decoder_attention_mask: (R, T).
            cache: what earlier calls have kept; these tokens come after those.

        Returns:
            (R, V).
        """
        hidden = self.backbone.decode(decoder_input_ids, encoded, decoder_attention_mask, cache)
        return self.logits(take_last(hidden, decoder_attention_mask))

    def new_cache(self) -> KVCache:
        """An empty cache."""
        config: Any = self.config
        return KVCache(config.num_decoder_layers)

    def _decoder_inputs(
        self,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        labels: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """What the decoder reads, and where it is padded."""
        config: Any = self.config
        if labels is not None:
            check_shape("labels", labels)
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError(
                    "the decoder has nothing to read: pass labels or decoder_input_ids; to have a "
                    "text written: minitransformer.generate(model, input_ids, ...)"
                )
            check_labels(labels, labels, None, config.vocab_size)
            if decoder_attention_mask is not None:
                raise ValueError("decoder_attention_mask was given without decoder_input_ids")
            ids, present = shift_right(labels, start_token(config), config.pad_token_id)
            if self.attention == "packed":
                present = until_last_label(labels, present)
            return ids, present
        if labels is not None:
            check_labels(
                labels, decoder_input_ids, decoder_attention_mask, config.vocab_size, "decoder_"
            )
        return decoder_input_ids, decoder_attention_mask

"""Encoder and decoder, put together ("Attention Is All You Need", figure 1).

B sources, S source tokens, R rows that are written, T their tokens, E hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from minitransformer.layers.cache import KVCache
from minitransformer.models.base import Model
from minitransformer.models.inputs import (
    check_attention_mask,
    check_ids,
    check_length,
    check_shape,
)
from minitransformer.models.outputs import (
    Encoded,
    Recording,
    Seq2SeqModelOutput,
    Seq2SeqRecording,
    recording,
)
from minitransformer.names import strict_names


class Stack(nn.Module):
    """Base of an encoder's and of a decoder's layers.

    Args:
        attention: the kernel.

    Attributes:
        layers: in their order.
        packed: whether they see rows without padding.
        final: what comes after the last of them, or None.
    """

    layers: nn.ModuleList

    def __init__(self, attention: str) -> None:
        super().__init__()
        self.packed = attention == "packed"
        self.final: nn.Module | None = None


class Seq2SeqModel(Model):
    """Base of the backbones: word embeddings for both, an encoder, and a decoder that asks it."""

    encoder: Stack
    decoder: Stack

    def embed(self, input_ids: Tensor) -> Tensor:
        """The vectors of words: (B, T) to (B, T, E)."""
        raise NotImplementedError(f"{type(self).__name__} has no embeddings")

    @strict_names
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> Seq2SeqModelOutput:
        """Encode the source, and run the decoder over what has been written so far.

        Args:
            input_ids: (B, S) int64, the source.
            attention_mask: (B, S), 1 or True at real tokens; may be left out where none is padded.
            decoder_input_ids: (B, T) int64, what the decoder reads.
            decoder_attention_mask: (B, T), for these.
            output_hidden_states: collect what enters the layers, and what leaves each of them.
            output_attentions: collect each layer's attention maps.

        Raises:
            ValueError: an input's shape, dtype or values are off, or the decoder has nothing to
                read.
        """
        if decoder_input_ids is None:
            raise ValueError("the decoder has nothing to read: pass decoder_input_ids")
        hidden, record = self.run(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            hidden_states=output_hidden_states,
            attentions=output_attentions,
        )
        return Seq2SeqModelOutput(last_hidden_state=hidden, **record.fields())

    def run(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor | None,
        *,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> tuple[Tensor, Seq2SeqRecording]:
        """The decoder's last hidden state, (B, T, E), and what was to be collected on the way.

        Raises:
            ValueError: an input is off, or what is written has not a row for each source.
        """
        check_shape("input_ids", input_ids)
        check_shape("decoder_input_ids", decoder_input_ids)
        if len(decoder_input_ids) != len(input_ids):
            raise ValueError(
                f"input_ids has {len(input_ids)} rows, but decoder_input_ids, or the labels that "
                f"they are made of, {len(decoder_input_ids)}; one for each source is needed"
            )
        with self._recording(hidden_states, attentions) as (encoder, decoder):
            encoded = self.encode(input_ids, attention_mask)
            hidden = self.decode(decoder_input_ids, encoded, decoder_attention_mask)
        return hidden, Seq2SeqRecording(encoder, decoder, encoded.hidden)

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Encoded:
        """The source, (B, S), through the encoder."""
        config: Any = self.config
        self._check_ids("input_ids", input_ids)
        attention_mask = check_attention_mask(attention_mask, input_ids, config.pad_token_id)
        hidden = self.encoder(self.embed(input_ids), attention_mask)  # (B, S, E)
        return Encoded(hidden=hidden, attention_mask=attention_mask)

    def decode(
        self,
        decoder_input_ids: Tensor,
        encoded: Encoded,
        decoder_attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """What has been written so far through the decoder, which asks the encoded source.

        Args:
            decoder_input_ids: (R, T), R = B * K: K rows in turn are written from one source.
            encoded: the B sources.
            decoder_attention_mask: (R, T), 1 or True at real tokens; None where all are, whatever
                their ids, for many a decoder's first token is the padding token.
            cache: what earlier calls have kept; these tokens come after those.

        Returns:
            (R, T, E).
        """
        self._check_ids("decoder_input_ids", decoder_input_ids, cache)
        rows, sources = len(decoder_input_ids), len(encoded.hidden)
        if rows % sources:
            raise ValueError(
                f"decoder_input_ids has {rows} rows, which is no multiple of the {sources} sources"
            )
        present = check_attention_mask(
            decoder_attention_mask, decoder_input_ids, None, "decoder_attention_mask"
        )
        if cache is not None:
            present = cache.extend(decoder_input_ids, present)
        return self.decoder(self.embed(decoder_input_ids), present, encoded, cache)

    def _check_ids(self, name: str, ids: Tensor, cache: KVCache | None = None) -> None:
        config: Any = self.config
        check_ids(name, ids, size=config.vocab_size, size_name="vocab_size")
        if config.max_sequence_length is not None:
            length = ids.shape[1] + (0 if cache is None else cache.length)
            rows = config.max_position_embeddings
            check_length(length, longest=config.max_sequence_length, table_rows=rows, name=name)

    @contextmanager
    def _recording(
        self, hidden_states: bool, attentions: bool
    ) -> Iterator[tuple[Recording, Recording]]:
        with (
            recording(
                self.encoder.layers,
                hidden_states=hidden_states,
                attentions=attentions,
                final=self.encoder.final,
            ) as encoder,
            recording(
                self.decoder.layers,
                hidden_states=hidden_states,
                attentions=attentions,
                final=self.decoder.final,
            ) as decoder,
        ):
            yield encoder, decoder

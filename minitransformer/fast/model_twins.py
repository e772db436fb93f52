"""The twins of backbones and task models: they compute no padding and no unused outputs.

Unpadding (:mod:`minitransformer.fast.unpadding`) removes padding before the first layer and puts it
back after the last. For a loss, and for the logits at given positions, the head and an encoder's
last layer compute only the tokens that are needed; the last layer of an encoder's classifier
computes only the first token. The numbers of real tokens are those of the plain model; padding gets
zeros.

The plain forward runs wherever something else could observe the difference: when hidden states or
attention weights are collected, a module inside has a hook, the model is compiled, exported or
traced, or a submodule is of a class that is not listed here.

Speeds up the rows of the training and inference tables with padding, MLM and SQuAD. Measurements:
benchmarks/results/README.md, "What makes the difference".

B batch, T tokens, S source tokens, N real tokens of a batch, R decoded sequences, P the most
selected tokens of a sequence, W selected tokens of all sequences, E hidden size, C classes, V
vocabulary.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minitransformer.fast.cuda_graph import graphed_session, runs_asynchronously
from minitransformer.fast.dispatch import has_no_hooks, is_plain_eager
from minitransformer.fast.layer_twins import (
    FastCrossAttention,
    FastDropout,
    FastFeedForward,
    FastFusedSelfAttention,
    FastGatedFeedForward,
    FastLinear,
    FastMultiHeadAttention,
    has_usual_attention,
)
from minitransformer.fast.linear import linear
from minitransformer.fast.prepacked_linear import (
    PrepackedSession,
    prepacked_linear,
    weights_of_a_step,
)
from minitransformer.fast.static_kv_cache import PreallocatedKVCache
from minitransformer.fast.unpadding import (
    PaddedBatch,
    QueryPositions,
    UnpaddedBatch,
    is_contiguous,
    query_positions,
    until_last_label,
)
from minitransformer.layers.attention import boolean_mask
from minitransformer.layers.kv_cache import KVCache
from minitransformer.layers.normalization import LayerNorm, RMSNorm
from minitransformer.layers.positional_embeddings import (
    LearnedPositions,
    OffsetPositions,
    RelativePositionBias,
    SinusoidalPositions,
    position_ids_from_mask,
)
from minitransformer.models.bart import (
    BartDecoder,
    BartEncoder,
    BartForConditionalGeneration,
    DecoderLayer,
)
from minitransformer.models.base import (
    DecodingSession,
    LanguageModel,
    Seq2SeqLM,
    first_token,
)
from minitransformer.models.base import next_token_labels as shifted_labels
from minitransformer.models.bert import (
    BertEmbeddings,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    EncoderLayer,
    MaskedLMHead,
    Pooler,
)
from minitransformer.models.distilbert import (
    DistilBertEmbeddings,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertLayer,
    DistilBertModel,
)
from minitransformer.models.gpt2 import GPT2Layer, GPT2LMHeadModel, GPT2Model
from minitransformer.models.losses import IGNORED_LABEL, cross_entropy_sum, mean_loss
from minitransformer.models.marian import MarianMTModel
from minitransformer.models.outputs import (
    DecoderOutput,
    EncoderOutput,
    SequenceClassifierOutput,
)
from minitransformer.models.roberta import (
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
)
from minitransformer.models.t5 import (
    T5Decoder,
    T5DecoderLayer,
    T5Encoder,
    T5EncoderLayer,
    T5ForConditionalGeneration,
)
from minitransformer.models.validation import (
    check_attention_mask,
    check_labels,
    check_same_shape,
    strict_names,
)

_ATTENTIONS = (FastMultiHeadAttention, FastFusedSelfAttention, FastCrossAttention)


def can_unpad(stack: nn.Module, *tensors: Tensor | None) -> bool:
    """Whether a stack of layers may get its tokens in another shape than (B, T, E).

    False if something else could observe the difference, or if a module inside is of a class that
    is not known to work on unpadded batches, such as a user's subclass.

    Args:
        stack: contains the layers and every other module that runs with them.
        tensors: inputs to check; None is skipped.
    """
    return (
        is_plain_eager(*tensors, under_autocast=True)
        and all(map(_may_be_unpadded, stack.modules()))
        and has_no_hooks(*stack.modules())
    )


def _may_be_unpadded(module: nn.Module) -> bool:
    """Whether the module may be part of an unpadded stack."""
    if isinstance(module, _ATTENTIONS):
        return type(module) in _ATTENTIONS and has_usual_attention(module)
    return type(module) in _UNPADDABLE


def _has_padding(stack: nn.Module, attention_mask: Tensor, tokens: Tensor) -> bool:
    """Whether there is padding beside real tokens, and this stack can run without it."""
    if not is_plain_eager(attention_mask, under_autocast=True):
        return False
    real = attention_mask != 0
    return bool(real.any() & ~real.all()) and can_unpad(stack, tokens, attention_mask)


def _has_labels(inputs: dict[str, Any], known: set[str]) -> bool:
    """Whether there are labels and only known inputs; the plain model reports what is wrong."""
    return isinstance(inputs.get("labels"), Tensor) and inputs.keys() <= known


def _tensors(inputs: dict[str, Any]) -> list[Tensor]:
    return [value for value in inputs.values() if isinstance(value, Tensor)]


# ---- encoders ----


class FastEncoderLayer(EncoderLayer):
    """A layer that can compute some of its tokens only; all of them are keys and values."""

    def forward(
        self,
        hidden: Tensor,
        mask: Any,
        output_attentions: bool = False,
        *,
        query_indices: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, E) to (B, T, E), or to (B, P, E) for the tokens at `query_indices`, (B, P)."""
        if query_indices is None:
            return super().forward(hidden, mask, output_attentions)
        queries = torch.take_along_dim(hidden, query_indices[..., None], dim=1)  # (B, P, E)
        attended, _ = self.attention(queries, hidden, mask)
        queries = self.attention_norm(queries + self.attention_dropout(attended))
        transformed = self.feed_forward(queries)  # (B, P, E)
        return self.feed_forward_norm(queries + self.feed_forward_dropout(transformed)), None


class FastDistilBertLayer(FastEncoderLayer, DistilBertLayer):
    """The same for DistilBERT's layer."""


class FastBertModel(BertModel):
    """The encoder without padding, and with a last layer for some tokens only."""

    @strict_names
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """See :meth:`BertModel.forward`; zeros at padding, unless something is collected."""
        collects = output_hidden_states or output_attentions
        if collects or attention_mask is None or not _has_padding(self, attention_mask, input_ids):
            return super().forward(
                input_ids,
                attention_mask,
                token_type_ids,
                output_hidden_states=output_hidden_states,
                output_attentions=output_attentions,
            )
        self.check_inputs(input_ids, attention_mask, token_type_ids)
        attention_mask = boolean_mask(attention_mask, input_ids)  # (B, T)
        hidden = self.run(input_ids, attention_mask, token_type_ids)  # (B, T, E)
        if self.pooler is None:
            return EncoderOutput(last_hidden_state=hidden)
        pooled = self.pooler(first_token(hidden, attention_mask))  # (B, E)
        return EncoderOutput(last_hidden_state=hidden, pooler_output=pooled)

    def run(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None,
        queries: QueryPositions | None = None,
    ) -> Tensor:
        """Pass checked inputs through the embeddings and the layers.

        Args:
            input_ids, token_type_ids: (B, T) each.
            attention_mask: (B, T) bool.
            queries: the positions that the last layer computes; None for all.

        Returns:
            (B, T, E), or (W, E) for the selected tokens, sequence after sequence.
        """
        batch: Any
        if bool(attention_mask.all()):
            batch = PaddedBatch(None)
        elif bool(attention_mask.any()):
            batch = UnpaddedBatch(attention_mask)
        else:
            batch = PaddedBatch(attention_mask)
        position_ids = batch.unpad(self.position_ids(input_ids, attention_mask))
        if token_type_ids is not None:
            token_type_ids = batch.unpad(token_type_ids)
        hidden = self.embeddings(batch.unpad(input_ids), position_ids, token_type_ids)
        # Before the layers: it waits for the GPU, which is still idle.
        selection = None if queries is None else batch.select(queries)
        *earlier, last = self.layers
        for layer in earlier:
            hidden, _ = layer(hidden, batch.mask)
        if selection is None:
            return batch.pad(last(hidden, batch.mask)[0])
        hidden, _ = last(hidden, selection.mask, query_indices=selection.indices)
        return selection.gather(hidden)  # (W, E)

    def first_token(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> EncoderOutput:
        """As `forward`, but for the first real token of each sequence only: (B, 1, E)."""
        self.check_inputs(input_ids, attention_mask, token_type_ids)
        attention_mask = boolean_mask(attention_mask, input_ids)  # (B, T)
        first = attention_mask.int().argmax(dim=1, keepdim=True)  # (B, 1)
        queries = QueryPositions(first, None)
        hidden = self.run(input_ids, attention_mask, token_type_ids, queries)  # (B, E)
        hidden = hidden.masked_fill(~attention_mask.any(dim=1, keepdim=True), 0.0)
        pooled = None if self.pooler is None else self.pooler(hidden)
        return EncoderOutput(last_hidden_state=hidden[:, None], pooler_output=pooled)


class FastRobertaModel(FastBertModel, RobertaModel):
    """The same for RoBERTa's encoder."""


class FastDistilBertModel(FastBertModel, DistilBertModel):
    """The same for DistilBERT's encoder."""


class FastMaskedLMHead(MaskedLMHead):
    """The head with the faster matrix product."""

    def forward(self, hidden: Tensor, token_embedding: Tensor) -> Tensor:
        """(..., E) and (V, E) to (..., V)."""
        if self.output is not None:
            return super().forward(hidden, token_embedding)  # `output` is a twin itself
        hidden = self.norm(self.activation(self.dense(hidden)))  # (..., E)
        return linear(hidden, token_embedding, self.bias, self.training)


class FastBertForMaskedLM(BertForMaskedLM):
    """BERT with a last layer and a head for the needed tokens only."""

    def loss_sum(self, **inputs: Any) -> tuple[Tensor, Tensor]:
        """See :meth:`TaskModel.loss_sum`; computes no logits of unlabelled tokens."""
        known = {"input_ids", "attention_mask", "token_type_ids", "labels"}
        if not _has_labels(inputs, known) or not self._can_select(*_tensors(inputs)):
            return super().loss_sum(**inputs)
        return self._selected_loss_sum(**inputs)

    def _selected_loss_sum(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        check_labels(labels, input_ids, attention_mask, self.config.vocab_size)
        selected = labels != IGNORED_LABEL  # (B, T)
        labels = labels[selected]  # (W,)
        logits = self._selected_logits(selected, input_ids, attention_mask, token_type_ids)
        return cross_entropy_sum(logits, labels)

    @strict_names
    def logits_at(
        self,
        positions: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`BertForMaskedLM.logits_at`; computes no other positions' logits."""
        check_same_shape("positions", positions, input_ids)
        possible = self._can_select(positions, input_ids, attention_mask, token_type_ids)
        if positions.dtype != torch.bool or not possible:
            return super().logits_at(positions, input_ids, attention_mask, token_type_ids)
        return self._selected_logits(positions, input_ids, attention_mask, token_type_ids)

    def _can_select(self, *tensors: Tensor | None) -> bool:
        return (
            isinstance(self.backbone, FastBertModel)
            and can_unpad(self.backbone, *tensors)
            and can_unpad(self.lm_head)
            and has_no_hooks(self)
        )

    def _selected_logits(
        self,
        selected: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
    ) -> Tensor:
        """The logits, (W, V), of the tokens where `selected`, (B, T) bool, is True."""
        assert isinstance(self.backbone, FastBertModel)
        self.backbone.check_inputs(input_ids, attention_mask, token_type_ids)
        mask = boolean_mask(attention_mask, input_ids)  # (B, T)
        queries = query_positions(selected)
        hidden = self.backbone.run(input_ids, mask, token_type_ids, queries)  # (W, E)
        return self.lm_head(hidden, self.backbone.embeddings.token_embedding.weight)


class FastRobertaForMaskedLM(FastBertForMaskedLM, RobertaForMaskedLM):
    """The same for RoBERTa."""


class FastDistilBertForMaskedLM(FastBertForMaskedLM, DistilBertForMaskedLM):
    """The same for DistilBERT."""


class FastBertForSequenceClassification(BertForSequenceClassification):
    """BERT's classifier with a last layer for the first token only."""

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
        """See :meth:`BertForSequenceClassification.forward`."""
        encoder, collects = self.backbone, output_hidden_states or output_attentions
        if (
            collects
            or not isinstance(encoder, FastBertModel)
            or not can_unpad(encoder, input_ids, attention_mask, token_type_ids)
        ):
            return super().forward(
                input_ids,
                attention_mask,
                token_type_ids,
                labels,
                output_hidden_states=output_hidden_states,
                output_attentions=output_attentions,
            )
        if labels is not None:
            self.check_labels(labels, input_ids)
        output = encoder.first_token(input_ids, attention_mask, token_type_ids)  # (B, 1, E)
        logits = self.class_logits(self.pool(output, None))  # (B, C)
        loss = None
        if labels is not None:
            loss = mean_loss(*self.classification_loss_sum(logits, labels))
        return SequenceClassifierOutput(logits=logits, loss=loss)


class FastRobertaForSequenceClassification(
    FastBertForSequenceClassification, RobertaForSequenceClassification
):
    """The same for RoBERTa."""


class FastDistilBertForSequenceClassification(
    FastBertForSequenceClassification, DistilBertForSequenceClassification
):
    """The same for DistilBERT."""


# ---- decoders ----


class FastGPT2Model(GPT2Model):
    """The decoder without padding."""

    @strict_names
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> DecoderOutput:
        """See :meth:`GPT2Model.forward`; zeros at padding, unless something is collected."""
        collects = output_hidden_states or output_attentions or cache is not None
        if collects or attention_mask is None or not _has_padding(self, attention_mask, input_ids):
            return super().forward(
                input_ids,
                attention_mask,
                cache=cache,
                output_hidden_states=output_hidden_states,
                output_attentions=output_attentions,
            )
        self.check_inputs(input_ids, attention_mask, None)
        mask = boolean_mask(attention_mask, input_ids)  # (B, T)
        batch = UnpaddedBatch(mask, causal=True)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # (T,)
        hidden = batch.unpad(self.embed(input_ids, mask, positions))  # (1, N, E)
        for layer in self.layers:
            hidden, _ = layer(hidden, batch.mask)
        return DecoderOutput(last_hidden_state=batch.pad(self.final_norm(hidden)))


class FastLanguageModel(LanguageModel):
    """A loss from labelled tokens only, and faster decoding sessions."""

    selected_loss_sum: Callable[..., tuple[Tensor, Tensor]]  # from labelled tokens only
    loss_inputs: ClassVar[set[str]]  # its arguments

    def loss_sum(self, **inputs: Any) -> tuple[Tensor, Tensor]:
        """See :meth:`TaskModel.loss_sum`; computes no logits of unlabelled tokens."""
        if (
            not _has_labels(inputs, self.loss_inputs)
            or not is_plain_eager(*_tensors(inputs), under_autocast=True)
            or not has_no_hooks(self)
            or not (self.lm_head is None or can_unpad(self.lm_head))
        ):
            return super().loss_sum(**inputs)
        return self.selected_loss_sum(**inputs)

    def labelled_loss_sum(
        self, hidden: Tensor, labels: Tensor, indices: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum of the losses of the labelled tokens, and their number.

        Args:
            hidden: (B, T, E).
            labels: (B, T), those of the same positions.
            indices: (W,), the result of :func:`labelled_indices` for the labels.
        """
        hidden = hidden.flatten(0, 1).index_select(0, indices)  # (W, E)
        return cross_entropy_sum(self.logits(hidden), labels.flatten().index_select(0, indices))

    def apply_lm_head(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """See :meth:`LanguageModel.apply_lm_head`; reads the prepacked copy of a tied matrix."""
        if self.lm_head is None:
            return prepacked_linear(hidden, self.backbone.token_embedding, bias)
        return super().apply_lm_head(hidden, bias)  # `lm_head` is a twin itself

    def new_cache(self) -> KVCache:
        """An empty cache that writes new tokens in place."""
        return PreallocatedKVCache(len(super().new_cache().layers))

    def decoding_session(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **settings: Any
    ) -> DecodingSession:
        """See :meth:`LanguageModel.decoding_session`."""
        session = super().decoding_session(input_ids, attention_mask, **settings)
        config, read_every_step = settings["config"], settings.get("read_every_step", True)
        if runs_asynchronously(session.prompt.device):
            return graphed_session(session, config.max_new_tokens, read_every_step)
        per_prompt = max(config.num_beams, config.num_return_sequences)
        num_sequences = len(session.prompt) * per_prompt  # R
        modules = weights_of_a_step(self)
        return PrepackedSession(session, modules, config.max_new_tokens, num_sequences)


def labelled_indices(labels: Tensor) -> Tensor:
    """(W,), the indices of labelled tokens among B * T.

    To be called before the layers, because it waits for the GPU.
    """
    return (labels.flatten() != IGNORED_LABEL).nonzero().squeeze(1)


class FastGPT2LMHeadModel(FastLanguageModel, GPT2LMHeadModel):
    """GPT-2 with a loss from labelled tokens only, and faster decoding sessions."""

    loss_inputs: ClassVar[set[str]] = {"input_ids", "attention_mask", "labels"}

    def selected_loss_sum(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss, from the labelled tokens' logits only."""
        check_labels(labels, input_ids, attention_mask, self.config.vocab_size)
        labels = shifted_labels(labels, attention_mask)  # (B, T)
        indices = labelled_indices(labels)
        hidden = self.backbone(input_ids, attention_mask).last_hidden_state  # (B, T, E)
        return self.labelled_loss_sum(hidden, labels, indices)


# ---- encoder-decoders ----


class FastBartEncoder(BartEncoder):
    """The encoder without padding."""

    def forward(
        self,
        embedded: Tensor,
        attention_mask: Tensor,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """See :meth:`BartEncoder.forward`; zeros at padding, unless something is collected."""
        collects = output_hidden_states or output_attentions
        if collects or not _has_padding(self, attention_mask, embedded):
            return super().forward(
                embedded, attention_mask, output_hidden_states, output_attentions
            )
        batch = UnpaddedBatch(attention_mask)
        position_ids = batch.unpad(position_ids_from_mask(attention_mask))  # (1, N)
        hidden = self.add_positions(batch.unpad(embedded), position_ids)  # (1, N, E)
        for layer in self.layers:
            hidden, _ = layer(hidden, batch.mask)
        return EncoderOutput(last_hidden_state=batch.pad(hidden))


class FastBartDecoder(BartDecoder):
    """The decoder without padding."""

    def forward(
        self,
        embedded: Tensor,
        attention_mask: Tensor,
        positions: Tensor,
        encoder_hidden: Tensor,
        encoder_attention_mask: Tensor,
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> DecoderOutput:
        """See :meth:`BartDecoder.forward`; zeros at padding, unless something is collected."""
        collects = output_hidden_states or output_attentions or cache is not None
        if collects or not _has_padding(self, attention_mask, embedded):
            return super().forward(
                embedded,
                attention_mask,
                positions,
                encoder_hidden,
                encoder_attention_mask,
                cache,
                output_hidden_states,
                output_attentions,
            )
        batch = UnpaddedBatch(attention_mask, causal=True)
        context = batch.context(encoder_hidden, encoder_attention_mask)
        position_ids = batch.unpad(position_ids_from_mask(attention_mask))  # (1, N)
        hidden = self.add_positions(batch.unpad(embedded), position_ids)  # (1, N, E)
        for layer in self.layers:
            hidden, _, _ = layer(hidden, batch.mask, *context)
        return DecoderOutput(last_hidden_state=batch.pad(hidden))


class FastT5Encoder(T5Encoder):
    """The encoder without padding, unless there is padding between two tokens."""

    def forward(
        self,
        embedded: Tensor,
        attention_mask: Tensor,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """See :meth:`T5Encoder.forward`; zeros at padding, unless something is collected."""
        collects = output_hidden_states or output_attentions
        if collects or not _t5_can_unpad(self, embedded, attention_mask):
            return super().forward(
                embedded, attention_mask, output_hidden_states, output_attentions
            )
        batch = UnpaddedBatch(attention_mask)
        length = batch.unpadding.max_seqlen
        bias = self.position_bias(torch.arange(length, device=embedded.device), length)
        hidden = self.dropout(batch.unpad(embedded))  # (1, N, E)
        for layer in self.layers:
            hidden, _ = layer(hidden, batch.mask, bias)
        hidden = self.dropout(self.final_norm(hidden))
        return EncoderOutput(last_hidden_state=batch.pad(hidden))


class FastT5Decoder(T5Decoder):
    """The decoder without padding, unless there is padding between two tokens."""

    def forward(
        self,
        embedded: Tensor,
        attention_mask: Tensor,
        positions: Tensor,
        encoder_hidden: Tensor,
        encoder_attention_mask: Tensor,
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> DecoderOutput:
        """See :meth:`T5Decoder.forward`; zeros at padding, unless something is collected."""
        collects = output_hidden_states or output_attentions or cache is not None
        if collects or not _t5_can_unpad(self, embedded, attention_mask):
            return super().forward(
                embedded,
                attention_mask,
                positions,
                encoder_hidden,
                encoder_attention_mask,
                cache,
                output_hidden_states,
                output_attentions,
            )
        batch = UnpaddedBatch(attention_mask, causal=True)
        context = batch.context(encoder_hidden, encoder_attention_mask)
        length = batch.unpadding.max_seqlen
        bias = self.position_bias(torch.arange(length, device=embedded.device), length)
        hidden = self.dropout(batch.unpad(embedded))  # (1, N, E)
        for layer in self.layers:
            hidden, _, _ = layer(hidden, batch.mask, bias, *context)
        hidden = self.dropout(self.final_norm(hidden))
        return DecoderOutput(last_hidden_state=batch.pad(hidden))


def _t5_can_unpad(stack: nn.Module, embedded: Tensor, attention_mask: Tensor) -> bool:
    return _has_padding(stack, attention_mask, embedded) and is_contiguous(attention_mask)


class FastSeq2SeqLM(FastLanguageModel, Seq2SeqLM):
    """An encoder-decoder with a loss from labelled tokens only, and faster decoding sessions."""

    loss_inputs: ClassVar[set[str]] = {
        "input_ids",
        "attention_mask",
        "decoder_input_ids",
        "decoder_attention_mask",
        "labels",
    }

    def selected_loss_sum(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        *,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The loss, from the labelled tokens' logits only; a target ends with its last label."""
        decoder_input_ids, decoder_mask = self.decoder_inputs(
            decoder_input_ids, decoder_attention_mask, labels
        )
        mask_name = "decoder_attention_mask"
        check_attention_mask(decoder_mask, decoder_input_ids, None, mask_name)
        decoder_mask = boolean_mask(decoder_mask, decoder_input_ids)  # (B, T)
        if can_unpad(self.backbone.decoder):  # else a module inside may use later tokens
            decoder_mask = decoder_mask & until_last_label(labels)  # (B, T)
        indices = labelled_indices(labels)
        output = self.backbone(input_ids, attention_mask, decoder_input_ids, decoder_mask)
        return self.labelled_loss_sum(output.last_hidden_state, labels, indices)


class FastBartForConditionalGeneration(FastSeq2SeqLM, BartForConditionalGeneration):
    """BART with a loss from labelled tokens only, and faster decoding sessions."""


class FastMarianMTModel(FastBartForConditionalGeneration, MarianMTModel):
    """Marian with a loss from labelled tokens only, and faster decoding sessions."""


class FastT5ForConditionalGeneration(FastSeq2SeqLM, T5ForConditionalGeneration):
    """T5 with a loss from labelled tokens only, and faster decoding sessions."""


# The classes, besides attention, that work on unpadded batches: they compute each token
# independently, or pass the batch on to modules that work on it.
_UNPADDABLE = {
    nn.Linear,
    nn.Embedding,
    nn.Dropout,
    nn.Identity,
    nn.ModuleList,
    LayerNorm,
    RMSNorm,
    LearnedPositions,
    OffsetPositions,
    SinusoidalPositions,
    RelativePositionBias,
    BertEmbeddings,
    DistilBertEmbeddings,
    Pooler,
    MaskedLMHead,
    FastMaskedLMHead,
    FastLinear,
    FastDropout,
    FastFeedForward,
    FastGatedFeedForward,
    FastEncoderLayer,
    FastDistilBertLayer,
    GPT2Layer,
    DecoderLayer,
    T5EncoderLayer,
    T5DecoderLayer,
    FastBertModel,
    FastRobertaModel,
    FastDistilBertModel,
    FastGPT2Model,
    FastBartEncoder,
    FastBartDecoder,
    FastT5Encoder,
    FastT5Decoder,
}

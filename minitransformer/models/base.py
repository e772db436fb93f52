"""What the models have in common: construction, initial weights, loading and saving, losses.

Then the frames of what several families share in full: classifiers of sequences, language models,
and encoder-decoders ("Attention Is All You Need", figure 1).

B batch or sources, T tokens, S source tokens, R = B * K decoded sequences, L tokens so far, W
tokens of a prompt, E hidden size, V vocabulary, C classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.generation_config import GenerationConfig
from minitransformer.layers.attention import boolean_mask
from minitransformer.layers.kv_cache import KVCache
from minitransformer.models.config import Config
from minitransformer.models.losses import (
    IGNORED_LABEL,
    at_least_float32,
    cross_entropy_sum,
    mean_loss,
)
from minitransformer.models.methods import ModelMethods
from minitransformer.models.outputs import (
    DecoderOutput,
    EncoderOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from minitransformer.models.validation import (
    check_attention_mask,
    check_class_labels,
    check_ids,
    check_labels,
    check_length,
    check_shape,
    check_targets,
    strict_names,
)


class Model(ModelMethods):
    """Base of the models.

    A model keeps its `config` and hands plain arguments to its layers. `attention` is not part of
    the config: it changes how the numbers are computed, not what they are.

    Args:
        config: the sizes.
        attention: "sdpa", PyTorch's `scaled_dot_product_attention`, or "eager", the formula.

    Raises:
        TypeError: the config is that of another family.
        ValueError: the attention implementation is unknown.
    """

    config: Any
    config_class: ClassVar[type[Config]]
    # Whether hidden values grow beyond what float16 can hold.
    overflows_in_float16: ClassVar[bool] = False
    # Whether a head scores the vocabulary, with the token embedding or a matrix of its own.
    has_lm_head: ClassVar[bool] = False

    def __init__(self, config: Config, *, attention: str = "sdpa") -> None:
        super().__init__()
        if type(config) is not self.config_class:
            raise TypeError(
                f"{type(self).__name__} needs a {self.config_class.__name__}, "
                f"not a {type(config).__name__}"
            )
        self.config = config
        self.attention = attention

    def init_weights(self, part: nn.Module) -> None:
        """Initialize a part of the model, such as a new head, for training."""
        init_weights(part, self.config.initializer_range)

    def save_pretrained(self, path: str | Path) -> None:
        """Write config.json and model.safetensors in Hugging Face's layout, atomically.

        Raises:
            NotADirectoryError: `path` is a file.
        """
        # This import and the next go against the direction of all others. They are made here, so
        # that models/ can be used without hf/.
        from minitransformer.hf.checkpoint import save_pretrained

        save_pretrained(self, path)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        attention: str = "sdpa",
        dtype: torch.dtype | str = torch.float32,
        device: str | torch.device = "cpu",
        **changes: object,
    ) -> Self:
        """Load a checkpoint into this class, whatever class its config names.

        A task head that the checkpoint lacks gets initial weights and is named in a warning; so is
        one that the checkpoint has and this class does not. See
        :func:`minitransformer.from_pretrained`.

        Args:
            path, attention, dtype, device: as there.
            changes: fields of the config that get other values than in the checkpoint, such as
                `hidden_dropout_prob=0.0`, `id2label={0: "no", 1: "maybe", 2: "yes"}` or
                `num_labels=3`; or a whole `config=`. A classification head for another number of
                classes gets initial weights. With fewer layers, such as `num_hidden_layers=3`, they
                are the first ones. A warning names this, and a field with which the weights compute
                something else, such as `num_attention_heads`, `hidden_act` or `layer_norm_eps`.
                `revision=` is a branch, tag or commit on the hub.

        Raises:
            CheckpointError: the checkpoint is missing, unsafe, damaged, or of another family.
            TypeError: a field of `changes` is unknown.
            ValueError: a field of `changes` has an invalid value.
        """
        from minitransformer.hf.checkpoint import load_model, options_of

        return load_model(cls, path, options_of(attention, dtype, device, changes))


def init_weights(root: nn.Module, standard_deviation: float) -> None:
    """Draw every weight of `root` as BERT does: N(0, standard_deviation), biases 0, norms 1 and 0.

    The vector of the padding token is zero.
    """
    for module in root.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                nn.init.zeros_(parameter)
            elif isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(parameter, std=standard_deviation)
            else:
                nn.init.ones_(parameter)  # the weight of a norm
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])


class TaskModel(Model):
    """Base of the models with a task head: a `backbone`, a head, and a loss to train on."""

    backbone_class: ClassVar[Any]  # the class of the backbone, a Model
    backbone: Any

    def loss(self, **inputs: Tensor | None) -> Tensor:
        """The mean loss of a labelled batch, as `forward(**inputs).loss`; zero without a label."""
        return mean_loss(*self.loss_sum(**inputs))

    def loss_sum(self, **inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sum of the losses of a labelled batch, and how many they are.

        Divide by the number in the whole batch, over all of its micro-batches.

        Raises:
            ValueError: the batch has no labels, or an input is invalid.
        """
        loss = self(**inputs).loss
        if loss is None:
            raise ValueError("a loss needs labels: pass those that `forward` takes")
        count = self.num_supervised_tokens(inputs)
        return loss * count, count

    def num_supervised_tokens(self, inputs: dict[str, Any]) -> Tensor:
        """How many labels a batch has, (), known before anything is run."""
        return (inputs["labels"] != IGNORED_LABEL).sum()


class SequenceClassifier(TaskModel):
    """Base of the models that classify a text, or a pair of texts.

    `config.problem_type` says what the scores are, and with it the loss:

    - single_label_classification (None, with several classes): each text is of one class; labels
      (B,) int64; cross-entropy.
    - multi_label_classification: a text is of any number of classes; labels (B, C) float, 0 to 1;
      binary cross-entropy of each.
    - regression (None, with one class): the scores are numbers; labels (B, C), or (B,) where C = 1,
      float; squared error.

    Hugging Face also infers an unset problem type from the labels' dtype; here the config alone
    decides. Float labels for several classes are an error that names the field to set, see
    :meth:`SequenceClassifier.check_labels`.
    """

    @property
    def problem_type(self) -> str:
        """What the scores are; never None, even where the config leaves it open."""
        if self.config.problem_type is not None:
            return self.config.problem_type
        return "regression" if self.config.num_labels == 1 else "single_label_classification"

    def check_labels(self, labels: Tensor, input_ids: Tensor) -> None:
        """Check labels: (B,) int64, or (B, C) float."""
        check_shape("input_ids", input_ids)
        shape = input_ids.shape[0], self.config.num_labels
        if self.problem_type == "single_label_classification":
            check_class_labels(labels, *shape)
        else:
            is_multi_label = self.problem_type == "multi_label_classification"
            check_targets(labels, shape, between_0_and_1=is_multi_label)

    def classification_loss_sum(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the losses of (B, C) scores, and the number of labels."""
        if self.problem_type == "single_label_classification":
            return cross_entropy_sum(logits, labels)
        is_multi_label = self.problem_type == "multi_label_classification"
        loss = F.binary_cross_entropy_with_logits if is_multi_label else F.mse_loss
        logits = at_least_float32(logits)
        total = loss(logits, labels.to(logits.dtype).view_as(logits), reduction="sum")
        return total, torch.full((), labels.numel(), dtype=torch.int64, device=labels.device)

    def num_supervised_tokens(self, inputs: dict[str, Any]) -> Tensor:
        """The number of labelled texts or, for the other problem types, of labels."""
        labels = inputs["labels"]
        if self.problem_type == "single_label_classification":
            return (labels != IGNORED_LABEL).sum()
        return torch.full((), labels.numel(), dtype=torch.int64, device=labels.device)


def first_token(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The hidden state of each sequence's first real token; zeros where all is padding.

    Hugging Face takes position 0, which is padding where a sequence is padded on the left.

    Args:
        hidden: (B, T, E).
        attention_mask: (B, T), True or not 0 at real tokens; None where all are.

    Returns:
        (B, E).
    """
    if attention_mask is None:
        return hidden[:, 0]
    real = attention_mask != 0
    first = real.int().argmax(dim=1)  # (B,)
    found = hidden[torch.arange(hidden.shape[0], device=hidden.device), first]  # (B, E)
    return found.masked_fill(~real.any(dim=1, keepdim=True), 0.0)


def last_token(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The hidden state of each sequence's last real token, (B, E); zeros where all is padding."""
    if attention_mask is None:
        return hidden[:, -1]
    return first_token(hidden.flip(1), attention_mask.flip(1))


# ---- language models ----


class LanguageModel(TaskModel):
    """Base of the models that generate text: they score the tokens that may come next.

    Attributes:
        generation_config: the checkpoint's defaults for :func:`minitransformer.generate`.
        task_specific_params: the field of this name in the checkpoint's config.json, unchanged.
    """

    has_lm_head = True
    lm_head: nn.Linear | None  # None: the head is the token embedding

    def __init__(self, config: Config, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.generation_config = GenerationConfig.from_model_config(config)
        self.task_specific_params: dict[str, Any] = {}

    def build_lm_head(self) -> nn.Linear | None:
        """The head's own matrix, or None where it is the token embedding ("tied")."""
        config = self.config
        if config.tie_word_embeddings:
            return None
        head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.init_weights(head)
        return head

    def apply_lm_head(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """(..., E) times the head's matrix, plus the bias, (V,), if there is one: (..., V)."""
        if self.lm_head is None:
            return F.linear(hidden, self.backbone.token_embedding.weight, bias)
        scores = self.lm_head(hidden)  # (..., V)
        return scores if bias is None else scores + bias  # (..., V)

    def logits(self, hidden: Tensor) -> Tensor:
        """Score each token of the vocabulary as the next one: (..., E) to (..., V)."""
        return self.apply_lm_head(hidden)

    def new_cache(self) -> KVCache:
        """An empty cache of keys and values."""
        raise NotImplementedError

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        generation_config: GenerationConfig | None = None,
        return_dict_in_generate: bool = False,
        **settings: Any,
    ) -> Any:
        """Generate text, and return its tokens, (R, L): :func:`minitransformer.generate`, in short.

        Args:
            input_ids, attention_mask, settings: as there.
            generation_config: what `config` is there.
            return_dict_in_generate: True returns its :class:`GenerationOutput`.
        """
        from minitransformer.generation import generate

        output = generate(self, input_ids, attention_mask, config=generation_config, **settings)
        return output if return_dict_in_generate else output.sequences

    def decoding_session(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        config: GenerationConfig,
        use_cache: bool = True,
        read_every_step: bool = True,
    ) -> "DecodingSession":
        """A session that generates from prompts or sources, for :func:`minitransformer.generate`.

        Args:
            input_ids: (B, T) int64; prompts are padded on the left.
            attention_mask: (B, T), True or 1 at real tokens; None where all are.
            config: the resolved generation config; `max_new_tokens` is known.
            use_cache: whether keys and values are kept, or all is computed anew for each token.
            read_every_step: whether the caller reads the tokens of each step as soon as they are
                chosen, as streaming, stop strings and beam search do. A plain session ignores it;
                one that captures a CUDA graph needs False.
        """
        raise NotImplementedError


class DecodingSession:
    """One run of generation: scores of the first new token, then of each next one.

    Sessions that are faster (minitransformer/fast) have the same methods.

    Attributes:
        prompt: (B, W), what the sequences begin with; `vocab_size` stands for padding.
        cache: keys and values of the tokens so far, or None.
        eos_check_interval: how many tokens are generated between two checks whether all
            sequences have ended.
    """

    prompt: Tensor
    cache: KVCache | None
    eos_check_interval = 1

    def start(self) -> Tensor:
        """The scores of the first new token: (B, V)."""
        raise NotImplementedError

    def step(self, history: Tensor) -> Tensor:
        """The scores of the next token: (R, L), all tokens so far, to (R, V)."""
        raise NotImplementedError

    def select(self, sequences: Tensor) -> None:
        """Make sequence r what sequence `sequences[r]`, of the same prompt, was.

        Args:
            sequences: (R,) int64, indices of the sequences to keep.
        """
        if self.cache is not None:
            self.cache.select(sequences)

    def close(self) -> None:
        """Release what the session keeps for speed, after the last token."""


class CausalDecodingSession(DecodingSession):
    """A decoder that continues its prompts.

    Args:
        model: a decoder such as GPT-2.
        prompt: (B, W), padded on the left by `vocab_size`.
        use_cache: whether keys and values are kept.
    """

    def __init__(self, model: Any, prompt: Tensor, *, use_cache: bool) -> None:
        self.model = model
        self.prompt = prompt
        self.cache = model.new_cache() if use_cache else None

    def start(self) -> Tensor:
        """The scores of the first new token: (B, V)."""
        return self._read(self.prompt)

    def step(self, history: Tensor) -> Tensor:
        """The scores of the next token: (R, L), all tokens so far, to (R, V)."""
        return self._read(history if self.cache is None else history[:, -1:])

    def _read(self, ids: Tensor) -> Tensor:
        real = ids < self.model.config.vocab_size
        # Padding needs an id that the model knows.
        ids = ids.masked_fill(~real, 0)
        return self.model.next_token_logits(ids, attention_mask=real, cache=self.cache)


# ---- encoder-decoders ----


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What the decoder of an encoder-decoder attends to: the source, encoded."""

    last_hidden_state: Tensor  # (B, S, E)
    attention_mask: Tensor  # (B, S) bool, True at real tokens
    hidden_states: tuple[Tensor, ...] | None = None  # what enters each layer, what leaves the last
    attentions: tuple[Tensor, ...] | None = None  # each layer's (B, H, S, S)


class EncoderDecoder(Model):
    """Base of the backbones with one token embedding, an encoder, and a decoder that attends to it.

    A family provides `encoder` and `decoder`, modules that take embedded tokens and their padding
    mask, and `embed`.
    """

    token_embedding: nn.Embedding
    encoder: nn.Module
    decoder: nn.Module

    def embed(self, input_ids: Tensor) -> Tensor:
        """The vectors of tokens: (B, T) to (B, T, E)."""
        return self.token_embedding(input_ids)

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
        """Encode the source, and run the decoder over the target so far.

        Args:
            input_ids: (B, S) int64, the source.
            attention_mask: (B, S), 1 or True at real tokens; may be left out where none is padded.
            decoder_input_ids: (B, T) int64, what the decoder reads.
            decoder_attention_mask: (B, T), for these.
            output_hidden_states: collect what enters each layer, and what leaves the stack.
            output_attentions: collect each layer's attention maps.

        Raises:
            ValueError: an input has the wrong shape, dtype or values, or the decoder has nothing to
                read.
        """
        if decoder_input_ids is None:
            raise ValueError("the decoder has nothing to read: pass decoder_input_ids")
        check_shape("input_ids", input_ids)
        check_shape("decoder_input_ids", decoder_input_ids)
        sources, targets = input_ids.shape[0], decoder_input_ids.shape[0]
        if targets != sources:
            raise ValueError(
                f"input_ids has {sources} sequences, but decoder_input_ids (made from the "
                f"labels if not given) has {targets}; it needs one for each source"
            )
        encoded = self.encode(
            input_ids,
            attention_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        decoded = self.decode(
            decoder_input_ids,
            encoded,
            decoder_attention_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
        )

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> Encoded:
        """The source, (B, S), through the encoder; arguments as in `forward`."""
        self.check_ids("input_ids", input_ids)
        check_attention_mask(attention_mask, input_ids, self.config.pad_token_id)
        attention_mask = boolean_mask(attention_mask, input_ids)  # (B, S)
        output: EncoderOutput = self.encoder(
            self.embed(input_ids), attention_mask, output_hidden_states, output_attentions
        )
        return Encoded(
            last_hidden_state=output.last_hidden_state,
            attention_mask=attention_mask,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def decode(
        self,
        decoder_input_ids: Tensor,
        encoded: Encoded,
        decoder_attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> DecoderOutput:
        """The target so far through the decoder, which attends to the encoded source.

        Args:
            decoder_input_ids: (R, T), R = B * K: the first K are decoded from the first source.
            encoded: the B sources.
            decoder_attention_mask: (R, T), 1 or True at real tokens; None where all are, whatever
                their ids, for many a decoder's first token is the padding token.
            cache: keys and values from earlier calls; these tokens come after those.
            output_hidden_states, output_attentions: as in `forward`.
        """
        self.check_ids("decoder_input_ids", decoder_input_ids, cache)
        source = encoded.last_hidden_state  # (B, S, E)
        if decoder_input_ids.shape[0] % source.shape[0]:
            raise ValueError(
                f"decoder_input_ids has {decoder_input_ids.shape[0]} sequences, which is not a "
                f"multiple of the {source.shape[0]} sources"
            )
        check_attention_mask(
            decoder_attention_mask, decoder_input_ids, None, "decoder_attention_mask"
        )
        mask = boolean_mask(decoder_attention_mask, decoder_input_ids)  # (R, T)
        positions = torch.arange(mask.shape[1], device=mask.device)  # (T,)
        if cache is not None:
            mask, positions = cache.extend(mask)  # (R, L), (T,)
        embedded = self.embed(decoder_input_ids)  # (R, T, E)
        real = encoded.attention_mask  # (B, S)
        return self.decoder(
            embedded, mask, positions, source, real, cache, output_hidden_states, output_attentions
        )

    def check_ids(self, name: str, ids: Tensor, cache: KVCache | None = None) -> None:
        """Check that ids are in the vocabulary, and that there is a position for each token."""
        check_ids(name, ids, size=self.config.vocab_size, size_name="vocab_size")
        if self.config.max_sequence_length is not None:
            config = self.config
            length = ids.shape[1] + (0 if cache is None else cache.length)
            rows = config.max_position_embeddings
            check_length(length, longest=config.max_sequence_length, table_rows=rows, name=name)


class Seq2SeqLM(LanguageModel):
    """Base of the encoder-decoders that generate: one text in, another out."""

    backbone: EncoderDecoder

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
        """Score, at every position of the decoder, each token of the vocabulary as the next one.

        Args:
            input_ids: (B, S) int64, the source.
            attention_mask: (B, S), 1 or True at real tokens; may be left out where none is padded.
            decoder_input_ids: (B, T) int64, what the decoder reads; by default the labels, shifted
                right by :func:`shift_right`.
            decoder_attention_mask: (B, T), for these.
            labels: (B, T) int64, the target, -100 at padding, which may be on either side: a target
                begins at its first label that is not -100.
            output_hidden_states: collect what enters each layer, and what leaves the stack.
            output_attentions: collect each layer's attention maps.

        Raises:
            ValueError: an input has the wrong shape, dtype or values, or the decoder has nothing to
                read.
        """
        decoder_input_ids, decoder_attention_mask = self.decoder_inputs(
            decoder_input_ids, decoder_attention_mask, labels
        )
        output: Seq2SeqModelOutput = self.backbone(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = self.logits(output.last_hidden_state)  # (B, T, V)
        loss = count = None
        if labels is not None:
            total, count = cross_entropy_sum(logits, labels)
            loss = mean_loss(total, count)
        return Seq2SeqLMOutput(
            logits=logits,
            loss=loss,
            num_supervised_tokens=count,
            encoder_last_hidden_state=output.encoder_last_hidden_state,
            encoder_hidden_states=output.encoder_hidden_states,
            encoder_attentions=output.encoder_attentions,
            decoder_hidden_states=output.decoder_hidden_states,
            decoder_attentions=output.decoder_attentions,
            cross_attentions=output.cross_attentions,
        )

    def decoder_inputs(
        self,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        labels: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """What the decoder reads and its padding mask, (B, T) each: the labels' if not given."""
        self.check_decoder_inputs(decoder_input_ids, decoder_attention_mask, labels)
        if decoder_input_ids is None and labels is not None:
            return shift_right(labels, start_token(self.config), self.config.pad_token_id)
        assert decoder_input_ids is not None
        return decoder_input_ids, decoder_attention_mask

    def check_decoder_inputs(
        self,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        labels: Tensor | None,
    ) -> None:
        """Check that the decoder has something to read, and that the labels fit it."""
        vocab_size = self.config.vocab_size
        if decoder_input_ids is not None:
            if labels is not None:
                mask = decoder_attention_mask
                check_labels(labels, decoder_input_ids, mask, vocab_size, "decoder_")
            return
        if labels is None:
            raise ValueError(
                "the decoder has nothing to read: pass labels or decoder_input_ids; to generate a "
                "text: minitransformer.generate(model, input_ids, ...)"
            )
        check_shape("labels", labels)
        check_labels(labels, labels, None, vocab_size)
        if decoder_attention_mask is not None:
            raise ValueError("decoder_attention_mask was given without decoder_input_ids")

    @strict_names
    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Encoded:
        """What the decoder attends to, of sources (B, S): to be computed once for a whole text."""
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
        """Score the tokens that may come after the last real token of each sequence.

        Args:
            decoder_input_ids: (R, T), R = B * K: the first K are decoded from the first source.
            encoded: what `encode` gave for the B sources.
            decoder_attention_mask: (R, T).
            cache: keys and values from earlier calls; these tokens come after those.

        Returns:
            (R, V).
        """
        output = self.backbone.decode(decoder_input_ids, encoded, decoder_attention_mask, cache)
        return self.logits(last_token(output.last_hidden_state, decoder_attention_mask))

    def new_cache(self) -> KVCache:
        """An empty cache of keys and values."""
        return KVCache(self.config.num_decoder_layers)

    def decoding_session(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        config: GenerationConfig,
        use_cache: bool = True,
        read_every_step: bool = True,
        decoder_input_ids: Tensor | None = None,
    ) -> DecodingSession:
        """See :meth:`LanguageModel.decoding_session`; targets begin with (B, W) tokens, or one."""
        start = decoder_input_ids
        if start is None:
            start = torch.full_like(input_ids[:, :1], start_token(config))
        return Seq2SeqDecodingSession(self, input_ids, attention_mask, start, use_cache=use_cache)


class Seq2SeqDecodingSession(DecodingSession):
    """An encoder-decoder that generates from the start of the target on.

    Args:
        model: the encoder-decoder.
        input_ids: (B, S), the sources.
        attention_mask: (B, S), or None where nothing is padded.
        prompt: (B, W), the start token, and what else the targets begin with.
        use_cache: whether keys and values are kept.
    """

    encoded: Encoded  # from `start` on

    def __init__(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        prompt: Tensor,
        *,
        use_cache: bool,
    ) -> None:
        self.model = model
        self.source = (input_ids, attention_mask)
        self.prompt = prompt
        self.cache = model.new_cache() if use_cache else None

    def start(self) -> Tensor:
        """The scores of the first new token: (B, V)."""
        self.encoded = self.model.encode(*self.source)
        return self.model.next_token_logits(self.prompt, self.encoded, cache=self.cache)

    def step(self, history: Tensor) -> Tensor:
        """The scores of the next token: (R, L), all tokens so far, to (R, V)."""
        ids = history if self.cache is None else history[:, -1:]
        return self.model.next_token_logits(ids, self.encoded, cache=self.cache)


# ---- labels of language models ----


def next_token_labels(labels: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """What a decoder without an encoder predicts at each position: the labels, shifted left.

    It reads the same text that it predicts. The first token of a sequence is never predicted,
    because there is none before it; nor is one that follows padding.

    Args:
        labels: (B, T) int64, the token at each position, -100 where it is not to be predicted.
        attention_mask: (B, T), True or not 0 at real tokens; None where all are.

    Returns:
        (B, T) int64.

    Example:
        >>> next_token_labels(torch.tensor([[5, 6, 7]]))
        tensor([[   6,    7, -100]])
    """
    following = labels.roll(-1, dims=1)
    following[:, -1] = IGNORED_LABEL
    if attention_mask is None:
        return following
    return following.masked_fill(attention_mask == 0, IGNORED_LABEL)


def shift_right(
    labels: Tensor, start_token_id: int, pad_token_id: int, first: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What the decoder of an encoder-decoder reads, to predict the label of the same position.

    It reads the labels shifted right, after a start token, so that no position sees the token that
    it has to predict.

    Args:
        labels: (B, T) int64, -100 where there is none.
        start_token_id: what the decoder reads first.
        pad_token_id: what it reads at other positions without a label.
        first: (B, 1), the position of the first token of each sequence; by default the first that
            is not -100, so that labels may be padded on either side.

    Returns:
        (B, T) int64, and (B, T) bool, True from the first position on. Padding on the right counts
        as real: no token before it attends to it, and it has no label.

    Example:
        >>> labels = torch.tensor([[5, 6, 7], [-100, 8, 9]])
        >>> shift_right(labels, start_token_id=2, pad_token_id=1)
        (tensor([[2, 5, 6],
                [1, 2, 8]]), tensor([[ True,  True,  True],
                [False,  True,  True]]))
    """
    if first is None:
        first = (labels != IGNORED_LABEL).int().argmax(dim=1, keepdim=True)  # (B, 1)
    positions = torch.arange(labels.shape[1], device=labels.device)  # (T,)
    shifted = labels.roll(1, dims=1)
    shifted = shifted.masked_fill((shifted == IGNORED_LABEL) | (positions < first), pad_token_id)
    shifted = shifted.masked_fill(positions == first, start_token_id)  # (B, T)
    return shifted, positions >= first


def start_token(config: Any) -> int:
    """The token that the decoder reads first, from a model's config or a generation config.

    Raises:
        ValueError: the config names none.
    """
    if config.decoder_start_token_id is None:
        raise ValueError(
            "decoder_start_token_id=None: the decoder needs a token to start with; set it in the "
            "config (T5 starts with the padding token)"
        )
    return config.decoder_start_token_id

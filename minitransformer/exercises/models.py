"""Mistakes that show in a whole model only: wiring, positions, masks, loading, heads.

Each is put into modules of the library; what a single exercise covers is in its file, and
:func:`model_mistakes` gives both. The parity tests, which must notice every one and name its
module, use them too.

B batch, T tokens, S source tokens, H heads, D head size, E hidden size, V vocabulary.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.exercises.exercise import Exercise, Mistake
from minitransformer.layers.attention import (
    CrossAttention,
    FusedSelfAttention,
    MultiHeadAttention,
    causal_mask,
    padding_mask,
    sdpa_attention,
)
from minitransformer.layers.feed_forward import GatedFeedForward
from minitransformer.layers.normalization import LayerNorm, RMSNorm
from minitransformer.layers.positional_embeddings import (
    LearnedPositions,
    OffsetPositions,
    RelativePositionBias,
    SinusoidalPositions,
    position_ids_from_mask,
)
from minitransformer.models.bart import BartForConditionalGeneration, BartModel, DecoderLayer
from minitransformer.models.base import LanguageModel, Seq2SeqLM
from minitransformer.models.bert import BertConfig, BertEmbeddings, BertModel, EncoderLayer
from minitransformer.models.distilbert import DistilBertEmbeddings
from minitransformer.models.gpt2 import GPT2Config, GPT2Layer, GPT2Model
from minitransformer.models.roberta import RobertaModel
from minitransformer.models.t5 import (
    T5Config,
    T5Decoder,
    T5DecoderLayer,
    T5Encoder,
    T5EncoderLayer,
    T5ForConditionalGeneration,
    T5Model,
)


@dataclass(frozen=True)
class ModelMistake(Mistake):
    """A mistake of modules of these classes; `put_into` takes one of them."""

    modules: tuple[type[nn.Module], ...]

    def modules_in(self, model: nn.Module) -> list[nn.Module]:
        """The modules that it is put into."""
        return [module for module in model.modules() if isinstance(module, self.modules)]

    def put_into_model(self, model: nn.Module) -> None:
        """Put it into every one of them."""
        for module in self.modules_in(model):
            self.put_into(module)


MODEL_MISTAKES: list[ModelMistake] = []


def model_mistakes(model: nn.Module) -> Iterator[tuple[Mistake, Callable[[nn.Module], None]]]:
    """The mistakes that a whole model can have: those of exercises, then those of this file.

    Args:
        model: of the library, not optimized; it stays as it is.

    Yields:
        A mistake, and what puts it into a model of the same class, such as a deep copy. The mistake
        is put in place, and there is no way to take it out again.
    """
    from minitransformer.exercises.catalogue import EXERCISES  # which has exercises made from these

    told: set[str] = set()  # layers have mistakes of their attention, models those of their layers
    for exercise in EXERCISES.values():
        if occurs_in(model, exercise):
            for mistake in exercise.mistakes:
                if mistake.reason not in told:
                    told.add(mistake.reason)
                    yield mistake, functools.partial(exercise.put_into_model, mistakes=[mistake])
    for mistake in MODEL_MISTAKES:
        if mistake.reason not in told and mistake.modules_in(model):
            yield mistake, mistake.put_into_model


def occurs_in(model: nn.Module, exercise: Exercise) -> bool:
    """Whether a module of the model does what the exercise asks for."""
    tensors = [*model.parameters(), *model.buffers()]
    tried = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})  # which are shared
    before = _attributes(tried)
    exercise.put_into_model(tried)
    after = _attributes(tried)
    return any(
        a.keys() != b.keys() or any(a[n] is not b[n] for n in a)
        for a, b in zip(before, after, strict=True)
    )


def _attributes(model: nn.Module) -> list[dict[str, Any]]:
    return [
        {**vars(m), "buffers": None, **dict(m.named_buffers(recurse=False)), "class": type(m)}
        for m in model.modules()
    ]


def model_mistake(
    read: str, of: Any, *modules: type[nn.Module]
) -> Callable[[Callable[[Any], None]], ModelMistake]:
    """Add a decorated function to :data:`MODEL_MISTAKES`, and make it one of them.

    Args:
        read: a piece of the line of the library where it is right.
        of: the function or class with that line.
        modules: the classes whose objects the function takes.
    """

    def add(put_into: Callable[[Any], None]) -> ModelMistake:
        MODEL_MISTAKES.append(ModelMistake(put_into, read, of, modules))
        return MODEL_MISTAKES[-1]

    return add


def attend_otherwise(attentions: Iterable[Any], change: Callable[..., dict[str, Any]]) -> None:
    """Change the arguments of the attention function of modules.

    Args:
        attentions: the modules.
        change: takes the arguments of `sdpa_attention` by name, and returns those to change.
    """
    signature = inspect.signature(sdpa_attention)

    def attend(*inputs: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
        given = signature.bind(*inputs, **named).arguments
        return sdpa_attention(**given | change(**given))

    for attention in attentions:
        attention.attend = attend


# ---- embeddings and positions ----


@model_mistake("self.token_type_embedding.weight[0]", BertEmbeddings, BertEmbeddings)
def no_token_types(embeddings: Any) -> None:
    """The token types are not added. RoBERTa has no use for them, but its checkpoints have row 0 of
    token_type_embeddings, and it is not zero.
    """
    embeddings.token_type_embedding.weight.data.zero_()


@model_mistake("self.token_type_embedding(token_type_ids)", BertEmbeddings, BertEmbeddings)
def second_text_as_the_first(embeddings: Any) -> None:
    """token_type_ids are not used: every token gets row 0 of the table, which is for the first
    text alone.
    """
    forward = embeddings.forward
    embeddings.forward = lambda ids, positions, types: forward(
        ids, positions, None if types is None else torch.zeros_like(types)
    )


@model_mistake(
    "return self.dropout(self.norm(embedded))", BertEmbeddings, BertEmbeddings, DistilBertEmbeddings
)
def embeddings_not_normalized(embeddings: Any) -> None:
    """The sum of the embeddings enters the first layer without its LayerNorm."""
    embeddings.norm.forward = lambda embedded: embedded


@model_mistake("self.table(position_ids + self.offset)", OffsetPositions, OffsetPositions)
def positions_without_offset(positions: Any) -> None:
    """The first token is at row 0 of the position table, as in BERT; RoBERTa's is at row
    pad_token_id + 1, BART's at row 2.
    """
    positions.forward = lambda position_ids: positions.table(position_ids.clamp(min=0))


@model_mistake("offset=self.config.pad_token_id + 1", RobertaModel, OffsetPositions)
def offset_of_two(positions: Any) -> None:
    """The first token is at row 2 of the position table whatever config.json says; it is at row
    pad_token_id + 1, which is 2 in roberta-base.
    """
    positions.forward = lambda position_ids: positions.table(position_ids + 2)


@model_mistake(
    "Because padding is not counted", position_ids_from_mask,
    LearnedPositions, OffsetPositions, SinusoidalPositions,
)  # fmt: skip
def positions_that_count_padding(positions: Any) -> None:
    """Positions are 0, 1, 2, ... whatever is padding, so that padding on the left moves every
    token; count the real tokens alone, by a cumulative sum of the mask.
    """
    forward = positions.forward
    positions.forward = lambda position_ids: forward(
        torch.ones_like(position_ids).cumsum(dim=1) - 1
    )


@model_mistake("self.token_embedding(input_ids) +", GPT2Model, GPT2Model)
def token_as_type(decoder: Any) -> None:
    """token_type_ids of 0 are passed, and each adds the vector of token 0: GPT-2 has no table of
    types, and Hugging Face looks them up among the tokens. Pass none.
    """
    embedding = decoder.token_embedding
    embedding.forward = lambda ids: F.embedding(ids, embedding.weight) + embedding.weight[0]


@model_mistake("self.token_embedding(input_ids) * scale", BartModel, BartModel)
def no_embedding_scale(model: Any) -> None:
    """Token vectors are not multiplied by sqrt(E), as scale_embedding asks for."""
    model.embed = lambda ids: model.token_embedding(ids)


# ---- the norms ----


@model_mistake("layer_norm_eps: float", BertConfig, LayerNorm, RMSNorm)
def eps_of_another_model(norm: Any) -> None:
    """The norms have an eps of their own, such as PyTorch's 1e-5 or BERT's 1e-12; theirs is that of
    config.json.
    """
    norm.eps = 1e-12


@model_mistake("layer_norm_eps: float", GPT2Config, LayerNorm, RMSNorm)
def eps_of_keras(norm: Any) -> None:
    """The norms have an eps of 1e-3, the default of Keras; theirs is that of config.json."""
    norm.eps = 1e-3


@model_mistake("hidden = self.final_norm(hidden)", GPT2Model, GPT2Model)
def no_final_norm(decoder: Any) -> None:
    """The norm after the last layer is left out. In the pre-norm order nothing else normalizes what
    the layers have added up.
    """
    decoder.final_norm.forward = lambda hidden: hidden


@model_mistake("self.cross_attention_norm(hidden + ", DecoderLayer, DecoderLayer)
def norms_of_the_attentions_swapped(layer: Any) -> None:
    """The norms of self-attention and of cross-attention are swapped: the names of a checkpoint's
    tensors say which is which.
    """
    norms = layer.cross_attention_norm, layer.attention_norm
    layer.attention_norm, layer.cross_attention_norm = norms


@model_mistake("normed = self.attention_norm(hidden)", T5EncoderLayer, T5EncoderLayer)
def norms_after_the_sums(layer: Any) -> None:
    """The norms come after the sums, as in BERT and BART (post-norm); in T5 attention and
    feed-forward read a normalized copy, and the sums stay as they are (pre-norm).
    """

    def forward(
        hidden: Tensor, mask: Tensor | None, bias: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        attended, weights = layer.attention(
            hidden, hidden, mask, bias=bias, output_attentions=output_attentions
        )
        hidden = layer.attention_norm(hidden + attended)
        return layer.feed_forward_norm(hidden + layer.feed_forward(hidden)), weights

    layer.forward = forward


# ---- loading ----


@model_mistake("self.layers = nn.ModuleList(", BertModel, BertModel, GPT2Model)
def last_layer_left_out(model: Any) -> None:
    """The last layer is not run: there are num_hidden_layers of them, numbered from 0."""
    model.layers[-1].forward = lambda hidden, *_: (hidden, None)


@model_mistake("self.query = nn.Linear(", MultiHeadAttention, MultiHeadAttention)
def attention_weights_transposed(attention: Any) -> None:
    """The square matrices of attention are transposed: nn.Linear computes x W^T, and Hugging Face's
    Conv1D, GPT-2's, x W. With a square matrix that raises no error.
    """
    for linear in attention.children():
        if linear.in_features == linear.out_features:
            linear.weight.data = linear.weight.data.T.contiguous()


@model_mistake("inner_size, bias)", MultiHeadAttention, EncoderLayer)
def no_biases(layer: Any) -> None:
    """The biases of the linear layers are not loaded or not added. Those of a new model are zero,
    so that only trained weights show it.
    """
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            module.bias.data.zero_()


@model_mistake("self.key = nn.Linear(hidden_size", MultiHeadAttention, EncoderLayer)
def biases_of_query_and_key_swapped(layer: Any) -> None:
    """The biases of queries and keys are swapped: look at the names by which they are loaded."""
    query, key = layer.attention.query, layer.attention.key
    query.bias, key.bias = key.bias, query.bias


@model_mistake("self.feed_forward_norm = LayerNorm", EncoderLayer, EncoderLayer, GPT2Layer)
def norms_stored_in_each_other(layer: Any) -> None:
    """The weights of a layer's two norms are loaded into each other: in Hugging Face's BERT
    attention.output.LayerNorm is attention's, output.LayerNorm the feed-forward's.
    """
    norms = layer.attention_norm, layer.feed_forward_norm
    layer.feed_forward_norm, layer.attention_norm = norms


@model_mistake("projected.chunk(3, dim=-1)", FusedSelfAttention, FusedSelfAttention)
def thirds_stored_in_another_order(attention: Any) -> None:
    """The matrix of GPT-2's attention is loaded as key, query, value; it is query, key, value."""
    for parameter in attention.query_key_value.parameters():
        query, key, value = parameter.data.chunk(3)
        parameter.data = torch.cat([key, query, value])


# ---- attention: what is attended to ----


@model_mistake(
    "return (keys <= query_positions[:, None])", causal_mask,
    GPT2Layer, DecoderLayer, T5DecoderLayer,
)  # fmt: skip
def later_tokens_attended_to(layer: Any) -> None:
    """There is no causal mask: a token of the decoder attends to later ones, which are what it
    should predict.
    """
    attend_otherwise([layer.attention], lambda mask, **_: {"mask": mask.any(dim=2, keepdim=True)})


@model_mistake(
    "return (keys <= query_positions[:, None])", causal_mask,
    GPT2Layer, DecoderLayer, T5DecoderLayer,
)  # fmt: skip
def one_token_ahead(layer: Any) -> None:
    """The causal mask is off by one (tril(1)): each token attends to the next, which is what it
    should predict.
    """
    attend_otherwise(
        [layer.attention],
        lambda mask, **_: {"mask": mask.any(dim=2, keepdim=True) & _causal(mask, ahead=1)},
    )


@model_mistake(
    "return attention_mask[:, None, None, :]", padding_mask, GPT2Layer, DecoderLayer, T5DecoderLayer
)
def padding_of_the_decoder_attended_to(layer: Any) -> None:
    """The decoder has a causal mask alone, so that tokens attend to padding before them; combine it
    with the padding mask.
    """
    attend_otherwise([layer.attention], lambda mask, **_: {"mask": _causal(mask)})


@model_mistake(
    "return attention_mask[:, None, None, :]", padding_mask, EncoderLayer, T5EncoderLayer
)
def causal_mask_in_the_encoder(layer: Any) -> None:
    """The encoder has a causal mask too; its tokens attend to later ones as well."""
    attend_otherwise([layer.attention], lambda mask, **_: {"mask": mask & _causal(mask)})


def _causal(mask: Tensor, ahead: int = 0) -> Tensor:
    """(S, S), for as many queries as there are keys."""
    size = mask.shape[-1]
    return torch.ones(size, size, dtype=torch.bool, device=mask.device).tril(ahead)


@model_mistake("key = self.split_heads(self.key(context))", CrossAttention, CrossAttention)
def source_of_another_sequence(attention: Any) -> None:
    """The sequences of a batch attend to each other's sources: sequence 0 to the last source,
    sequence 1 to source 0, and so on.
    """
    forward = attention.forward
    attention.forward = lambda hidden, context, *inputs, **options: forward(
        hidden, context.roll(1, dims=0), *inputs, **options
    )


@model_mistake("scale / (layer + 1)", GPT2Config, MultiHeadAttention)
def scale_as_in_other_models(attention: Any) -> None:
    """The scores are divided by sqrt(D), as in most models; T5 does not scale them, and a GPT-2
    with scale_attn_by_inverse_layer_idx divides by the number of the layer as well.
    """
    attention.scale = None  # 1 / sqrt(D)


# ---- T5's relative positions ----


@model_mistake("hidden, mask, bias, output_attentions)", T5Encoder, T5Encoder)
def bias_for_the_first_layer_alone(encoder: Any) -> None:
    """The bias of relative positions is added in the first layer alone. Its table is stored there,
    but every layer of the stack adds it.
    """
    attend_otherwise((layer.attention for layer in encoder.layers[1:]), lambda **_: {"bias": None})


@model_mistake("build_position_bias(config, bidirectional=False)", T5Decoder, T5Model)
def bias_of_the_encoder_in_the_decoder(model: Any) -> None:
    """The decoder uses the encoder's table of relative positions; it has one of its own."""
    table = model.decoder.position_bias.table
    table.weight.data.copy_(model.encoder.position_bias.table.weight.data)


@model_mistake("build_position_bias(config, bidirectional=False)", T5Decoder, T5Decoder)
def two_directions_in_the_decoder(decoder: Any) -> None:
    """The decoder keeps half of its buckets for later tokens, as the encoder does; it sees none, so
    all its buckets are for earlier ones.
    """
    decoder.position_bias.bidirectional = True


@model_mistake("build_position_bias(config, bidirectional=True)", T5Encoder, T5Encoder)
def one_direction_in_the_encoder(encoder: Any) -> None:
    """The encoder gives all later tokens one bucket, as the decoder does; half of its buckets are
    for them.
    """
    encoder.position_bias.bidirectional = False


@model_mistake(".permute(2, 0, 1)[None]", RelativePositionBias, RelativePositionBias)
def transposed_bias(position_bias: Any) -> None:
    """The bias of relative positions is transposed: rows are queries, columns are keys."""
    forward = position_bias.forward
    position_bias.forward = lambda *inputs: forward(*inputs).transpose(2, 3)


@model_mistake("attended, cross_weights = self.cross_attention(", T5DecoderLayer, T5Decoder)
def bias_in_cross_attention(decoder: Any) -> None:
    """Cross-attention adds a bias of relative positions; it has none: a token of the decoder is at
    no distance from the source.
    """
    table = decoder.position_bias.table.weight  # (buckets, H)

    def bias(query: Tensor, key: Tensor, **_: Any) -> dict[str, Any]:
        positions = [torch.arange(x.shape[2], device=x.device) for x in (query, key)]
        distance = positions[1] - positions[0][:, None]  # (T, S)
        buckets = distance.neg().clamp(min=0, max=len(table) - 1)  # (T, S)
        return {"bias": table[buckets].permute(2, 0, 1)[None]}  # (1, H, T, S)

    attend_otherwise((layer.cross_attention for layer in decoder.layers), bias)


# ---- T5's gated feed-forward ----


@model_mistake(
    "self.activation(self.gate_proj(hidden)) * self.up_proj", GatedFeedForward, GatedFeedForward
)
def exact_gelu_in_the_gate(feed_forward: Any) -> None:
    """The activation of the gate is the exact GELU; "gated-gelu" means its approximation
    by tanh.
    """
    feed_forward.activation = F.gelu


@model_mistake(
    "self.activation(self.gate_proj(hidden)) * self.up_proj", GatedFeedForward, GatedFeedForward
)
def gate_swapped(feed_forward: Any) -> None:
    """The two projections of the gated feed-forward are swapped: it is the gate, wi_0 in Hugging
    Face, that has the activation.
    """
    projections = feed_forward.gate_proj, feed_forward.up_proj
    feed_forward.up_proj, feed_forward.gate_proj = projections


# ---- heads ----


@model_mistake(
    "F.linear(hidden, self.backbone.token_embedding.weight", LanguageModel, LanguageModel
)
def head_untied(model: Any) -> None:
    """The head has a copy of the token embedding, so that the values are right, but the embedding
    gets no gradient from the head and the two part while training: use the same parameter.
    """
    model.apply_lm_head = lambda hidden, bias=None: F.linear(
        hidden, model.backbone.token_embedding.weight.detach(), bias
    )


@model_mistake(
    "self.apply_lm_head(hidden, self.final_logits_bias[0])",
    BartForConditionalGeneration, BartForConditionalGeneration,
)  # fmt: skip
def no_logits_bias(model: Any) -> None:
    """final_logits_bias is not added to the scores."""
    model.final_logits_bias.zero_()


@model_mistake("return shift_right(labels", Seq2SeqLM, Seq2SeqLM)
def decoder_reads_the_labels(model: Any) -> None:
    """The decoder reads the labels themselves, so that each token can be copied; shift them right,
    with decoder_start_token_id first.
    """
    model.decoder_inputs = lambda _ids, _mask, labels: (labels.clamp(min=0), None)


@model_mistake(
    "hidden * self.config.hidden_size**-0.5", T5ForConditionalGeneration, T5ForConditionalGeneration
)
def no_head_scale(model: Any) -> None:
    """What the head reads is not scaled; with a tied head T5 multiplies it by 1 / sqrt(E)."""
    model.logits = lambda hidden: model.apply_lm_head(hidden)


@model_mistake("scale_decoder_outputs: bool", T5Config, T5ForConditionalGeneration)
def head_of_its_own_scaled(model: Any) -> None:
    """What the head reads is multiplied by 1 / sqrt(E), as where it is tied; the head of T5 1.1, a
    matrix of its own, reads it as it is.
    """
    model.logits = lambda hidden: model.apply_lm_head(hidden * model.config.hidden_size**-0.5)


@model_mistake("if self.lm_head is None:", LanguageModel, LanguageModel)
def head_tied(model: Any) -> None:
    """The head is the token embedding, though the checkpoint has a matrix of its own for it
    (lm_head.weight), as T5 1.1 has.
    """
    model.apply_lm_head = lambda hidden, bias=None: F.linear(
        hidden, model.backbone.token_embedding.weight, bias
    )

"""The computations whose cost is asked for most: attention, a layer, a step of a model, a token.

Each is built on fake tensors and traced, so its size does not matter.
B batch, T tokens, S key tokens, H heads, D head size, E hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.cost.operations import Operation, Work, trace
from minitransformer.fast import optimize
from minitransformer.fast.blockwise_attention import blockwise_attention
from minitransformer.generation_config import GenerationConfig
from minitransformer.hf.checkpoint import class_for
from minitransformer.hf.config import family_of_config
from minitransformer.layers.attention import (
    MultiHeadAttention,
    causal_mask,
    get_attention,
    sdpa_attention,
)
from minitransformer.models.base import LanguageModel, Seq2SeqLM, TaskModel
from minitransformer.models.bert import BertConfig, BertForMaskedLM, BertModel
from minitransformer.models.config import Config

_TOKEN = 5  # any one that is no padding
_MAX_PREPACKED_ROWS = 64  # as many as are measured; for more, weights are not prepacked


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """The sizes of one attention.

    Attributes:
        batch, length: B and T.
        heads, head_size: H and D.
        key_length: S; T by default.
        dtype: "float32" or "bfloat16".
        causal: whether a token attends to those before it only.
        dropout: probability of dropping a weight, where there is a backward pass.
        implementation: "eager", "sdpa", or "optimized", which is sdpa after `optimize`.
    """

    batch: int = 1
    length: int
    heads: int = 12
    head_size: int = 64
    key_length: int | None = None
    dtype: str = "float32"
    causal: bool = False
    dropout: float = 0.0
    implementation: str = "sdpa"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype, as PyTorch names it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def mask(self) -> Tensor | None:
        """What our layers get: None, or the triangle of a causal attention."""
        keys = self.key_length or self.length
        return causal_mask(torch.arange(keys - self.length, keys), keys) if self.causal else None


def attention(shape: AttentionShape, *, backward: bool = False) -> Work:
    """softmax(Q K^T) V alone, without projections; with the gradients of Q, K and V if asked."""

    dropout = shape.dropout if backward else 0.0

    def build() -> Callable[[], object]:
        attend = _attention_of(shape.implementation)
        keys = shape.key_length or shape.length
        query, key, value = (
            torch.randn(shape.batch, tokens, shape.heads, shape.head_size, dtype=shape.torch_dtype)
            .transpose(1, 2)
            .requires_grad_(backward)
            for tokens in (shape.length, keys, keys)
        )  # (B, H, T, D), (B, H, S, D) twice
        mask = shape.mask()
        gradient = torch.empty_like(query, requires_grad=False)

        def call() -> object:
            attended, _ = attend(query, key, value, mask, dropout=dropout)
            if not backward:
                return attended
            return torch.autograd.grad(attended, (query, key, value), gradient)

        return call

    return trace(build)


def layer(shape: AttentionShape, intermediate_size: int, *, backward: bool = False) -> Work:
    """An encoder layer of BERT; with the gradients of its input and weights if asked."""

    def build() -> Callable[[], object]:
        config = BertConfig(
            vocab_size=8,
            hidden_size=shape.heads * shape.head_size,
            num_attention_heads=shape.heads,
            intermediate_size=intermediate_size,
            num_hidden_layers=1,
            max_position_embeddings=8,
            hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=shape.dropout,
        )
        built = _prepared(BertModel(config), shape.dtype, shape.implementation)
        first = built.train(backward).layers[0]
        hidden = torch.randn(
            *(shape.batch, shape.length, config.hidden_size), dtype=shape.torch_dtype
        ).requires_grad_(backward)  # (B, T, E)
        mask = shape.mask()
        gradient = torch.empty_like(hidden, requires_grad=False)

        def call() -> object:
            if not backward:
                with torch.no_grad():
                    return first(hidden, mask)
            output, _ = first(hidden, mask)
            return torch.autograd.grad(output, (hidden, *first.parameters()), gradient)

        return call

    return _with_fast_dropout(trace(build), shape.implementation)


def model(
    config: Config,
    *,
    batch: int,
    length: int,
    train: bool = False,
    dtype: str = "float32",
    implementation: str = "sdpa",
    labelled: float = 0.15,
) -> Work:
    """A call of a model, or a training step: forward, backward and AdamW.

    Args:
        config: of any family, with the head of its language model; a table of positions that is
            too short for the length is made longer.
        batch, length: sequences, and tokens of each; of an encoder-decoder, of source and target.
        train: whether it is a training step, with the dropout of the config.
        dtype: of the model.
        implementation: "eager", "sdpa", or "optimized", which is sdpa after `optimize`.
        labelled: the share of the tokens that a masked language model predicts. Only an optimized
            one computes less for fewer.
    """
    weights: list[int] = []

    def build() -> Callable[[], object]:
        built: Any = build_model(config, length, dtype, implementation).train(train)
        weights.append(sum(parameter.numel() for parameter in built.parameters()))
        ids = torch.full((batch, length), _TOKEN)  # (B, T)
        targets = {"decoder_input_ids": ids} if isinstance(built, Seq2SeqLM) else {}
        selects = implementation == "optimized" and isinstance(built, BertForMaskedLM)

        def call() -> object:
            if not train:
                with torch.no_grad():
                    return built(ids, **targets)
            if selects:
                loss = _loss_of_labelled(built, ids, round(labelled * length))
            else:
                loss = built(ids, labels=ids).loss
            loss.backward()
            return [parameter.grad for parameter in built.parameters()]

        return call

    work = _with_fast_dropout(trace(build), implementation)
    if not train:
        return work
    adamw = Operation(
        part="optimizer",
        kind="adamw",
        dtype=dtype,
        amount=weights[0],
        size=(),
        # Reads a weight, its gradient and two averages; writes all but the gradient.
        bytes=7 * weights[0] * getattr(torch, dtype).itemsize,
    )
    return replace(work, operations=[*work.operations, adamw])


def _loss_of_labelled(built: Any, ids: Tensor, number: int) -> Tensor:
    """The loss of an optimized masked language model with `number` labels in each sequence.

    Its last layer and its head compute these tokens alone. Which ones is of no importance here.
    """
    backbone = optimize(built.backbone)
    real = torch.ones_like(ids, dtype=torch.bool)
    chosen = torch.zeros(len(ids), number, dtype=torch.int64)  # (B, P)
    hidden = backbone.embeddings(ids, backbone.position_ids(ids, real), None)  # (B, T, E)
    *earlier, last = backbone.layers
    for one in earlier:
        hidden, _ = one(hidden, None)
    hidden, _ = last(hidden, None, query_indices=chosen)  # (B, P, E)
    logits = built.lm_head(hidden, backbone.embeddings.token_embedding.weight)  # (B, P, V)
    # A module: outside of all modules, it would be counted as attention.
    return nn.CrossEntropyLoss()(logits.flatten(0, 1), chosen.flatten())


def _attention_of(implementation: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention that is traced. Twins take the plain path while a trace watches them."""
    return _optimized_attention if implementation == "optimized" else get_attention(implementation)


def _optimized_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    output_attentions: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What attention is in a model after `optimize`, for sequences without padding.

    A mask is then a triangle, or hides nothing.
    """
    is_causal = mask is not None and 1 < query.shape[2] == key.shape[2] == mask.shape[-2]
    mask = mask if is_causal else None
    if bias is not None:
        return sdpa_attention(query, key, value, mask, bias, scale, dropout)
    if dropout:
        return blockwise_attention(query, key, value, mask, dropout=dropout, scale=scale), None
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=scale)
    return attended, None


def _with_fast_dropout(work: Work, implementation: str) -> Work:
    """An optimized model draws 16 random bits for dropout, where a plain one draws a float."""
    if implementation != "optimized":
        return work
    operations = [
        replace(one, kind="random (16 bits)") if one.kind == "random" else one
        for one in work.operations
    ]
    return replace(work, operations=operations)


def token(
    config: Config,
    *,
    batch: int,
    context: int,
    dtype: str = "float32",
    implementation: str = "sdpa",
) -> Work:
    """One decoded token of every sequence, with the cache that a plain model has.

    Args:
        config: of a decoder or an encoder-decoder.
        batch: B.
        context: tokens in the cache; of an encoder-decoder, of the source as well.
        dtype: of the model.
        implementation: "eager" or "sdpa", whose cache grows by copying; or "optimized", which
            copies nothing and has prepacked weights.

    Raises:
        ValueError: the family does not generate.
    """

    def build() -> Callable[[], object]:
        built: Any = build_model(config, context + 2, dtype, implementation)
        if not isinstance(built, LanguageModel):
            raise ValueError(f"a {type(built).__name__} decodes no tokens: it is an encoder")
        tokens = torch.full((batch, context), _TOKEN)  # (B, S)
        if implementation == "optimized":
            optimize(built)
        targets: Any = {"decoder_input_ids": tokens} if isinstance(built, Seq2SeqLM) else {}
        session = built.decoding_session(tokens, config=GenerationConfig(), **targets)
        with torch.no_grad():
            session.start()
            session.step(tokens)  # what is made once, such as room for more tokens

        def call() -> object:
            with torch.no_grad():
                return session.step(tokens)

        return call

    work = trace(build)
    if implementation != "optimized":
        return work
    operations = [
        replace(one, kind="matmul (prepacked)")
        if one.kind == "matmul" and one.size[0] <= _MAX_PREPACKED_ROWS
        else one
        for one in work.operations
    ]
    return replace(work, operations=operations)


def build_model(config: Config, length: int, dtype: str, implementation: str) -> TaskModel:
    """The language model of a config's family, for sequences of this length, with new weights.

    On fake tensors it takes no memory.
    """
    family = family_of_config(type(config))
    model_class: Any = class_for(family, BertForMaskedLM) or class_for(family, LanguageModel)
    sizes: Any = config
    if (sizes.max_sequence_length or length) < length:  # T5 has no limit
        rows = sizes.max_position_embeddings + length - sizes.max_sequence_length
        sizes = replace(sizes, max_position_embeddings=rows)
    return _prepared(model_class(sizes).eval(), dtype, implementation)


def _prepared(built: Any, dtype: str, implementation: str) -> Any:
    """A model on fake tensors in another dtype, with this attention.

    Fake parameters cannot be converted in place, so others are put in their stead.
    """
    for module in built.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                converted = parameter.detach().to(getattr(torch, dtype))
                module._parameters[name] = nn.Parameter(converted)
        if isinstance(module, MultiHeadAttention):
            module.attend = _attention_of(implementation)
    return built

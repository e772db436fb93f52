"""The computations whose cost is asked for most: attention, a layer, a step of a model, a token.

Each is built on fake tensors and traced, so its size does not matter.
B batch, T tokens, S key tokens, H heads, D head size, E hidden size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.cost.operations import Operation, Work, trace
from minitransformer.fast import optimize
from minitransformer.generation_config import GenerationConfig
from minitransformer.hf.checkpoint import class_for
from minitransformer.hf.config import family_of_config
from minitransformer.layers.attention import causal_mask, get_attention
from minitransformer.models.base import LanguageModel, Seq2SeqLM, TaskModel
from minitransformer.models.bert import BertConfig, BertForMaskedLM, BertModel
from minitransformer.models.config import Config


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

    is_optimized = shape.implementation == "optimized"
    dropout = shape.dropout if backward else 0.0

    def build() -> Callable[[], object]:
        attend = get_attention("sdpa" if is_optimized else shape.implementation)
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
            attended, _ = attend(query, key, value, mask, dropout=0.0 if is_optimized else dropout)
            if not backward:
                return attended
            return torch.autograd.grad(attended, (query, key, value), gradient)

        return call

    return _optimized(trace(build), dropout) if is_optimized else trace(build)


def layer(shape: AttentionShape, intermediate_size: int, *, backward: bool = False) -> Work:
    """An encoder layer of BERT; with the gradients of its input and weights if asked."""
    is_optimized = shape.implementation == "optimized"

    def build() -> Callable[[], object]:
        config = BertConfig(
            vocab_size=8,
            hidden_size=shape.heads * shape.head_size,
            num_attention_heads=shape.heads,
            intermediate_size=intermediate_size,
            num_hidden_layers=1,
            max_position_embeddings=8,
            hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=0.0 if is_optimized else shape.dropout,
        )
        with _default_dtype(shape.dtype):
            attention = "sdpa" if is_optimized else shape.implementation
            first = BertModel(config, attention=attention).train(backward).layers[0]
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

    dropout = shape.dropout if backward else 0.0
    return _optimized(trace(build), dropout) if is_optimized else trace(build)


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
    probability = getattr(config, "attention_probs_dropout_prob", 0.0) * train
    is_optimized = implementation == "optimized"
    if is_optimized and probability:
        config = replace(config, attention_probs_dropout_prob=0.0)  # type: ignore[call-arg]

    def build() -> Callable[[], object]:
        built: Any = build_model(config, length, dtype, implementation).train(train)
        weights.append(sum(parameter.numel() for parameter in built.parameters()))
        ids = torch.zeros(batch, length, dtype=torch.int64)
        targets = {"decoder_input_ids": ids} if isinstance(built, Seq2SeqLM) else {}
        selects = is_optimized and isinstance(built, BertForMaskedLM)

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

    work = _optimized(trace(build), probability) if is_optimized else trace(build)
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
    return F.cross_entropy(logits.flatten(0, 1), chosen.flatten())


def _optimized(work: Work, dropout: float, *, decodes: bool = False) -> Work:
    """The work of an optimized model, from a trace of the plain one without attention dropout.

    Twins take the plain path while something traces them, so their operations get other kinds here.
    """
    kinds = {"random": "random (16 bits)"}
    if dropout:
        kinds |= {
            "attention kernel": "blockwise attention",
            "attention kernel (backward)": "blockwise attention (backward)",
        }
    if decodes:
        kinds |= {"matmul": "matmul (prepacked)"}
    operations = [replace(x, kind=kinds.get(x.kind, x.kind)) for x in work.operations]
    # The backward pass needs the mask of dropout, a byte for each pair.
    masks = sum(x.amount for x in operations if x.kind == "blockwise attention")
    return replace(work, operations=operations, peak_bytes=work.peak_bytes + round(masks))


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
        tokens = torch.zeros(batch, context, dtype=torch.int64)
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

    if implementation == "optimized":
        return _optimized(trace(build), 0.0, decodes=True)
    return trace(build)


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
    with _default_dtype(dtype):
        attention = "sdpa" if implementation == "optimized" else implementation
        built: TaskModel = model_class(sizes, attention=attention).eval()
        return built


@contextmanager
def _default_dtype(name: str) -> Iterator[None]:
    """New weights are of this dtype. A model of fake tensors cannot be converted to another."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)

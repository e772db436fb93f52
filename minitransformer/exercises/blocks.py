"""The blocks of a model: the encoder's layer, the decoder's, and the head that scores tokens.

B batch, T tokens, H heads, D head size, E hidden size, I intermediate size, V vocabulary.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.exercises.attention import MULTI_HEAD_ATTENTION, MultiHeadAttentionSteps
from minitransformer.exercises.exercise import Exercise, Mistake
from minitransformer.exercises.inputs import normal, real_tokens, weights
from minitransformer.exercises.runner import Case
from minitransformer.layers.attention import FusedSelfAttention, MultiHeadAttention
from minitransformer.layers.feed_forward import FeedForward, gelu, gelu_tanh
from minitransformer.layers.kv_cache import LayerCache
from minitransformer.layers.normalization import LayerNorm
from minitransformer.models import bert, gpt2


def adopt(
    exercise: Exercise, other: Exercise, names: str, parts: Callable[[Any], Iterable[Any]]
) -> None:
    """Add mistakes of an exercise to those of another, of which it is a part.

    Args:
        exercise: gets them.
        other: has them.
        names: which, separated by commas.
        parts: finds the objects of `other.steps` in one of `exercise.steps`.
    """
    known = {mistake.name: mistake for mistake in other.mistakes}
    for name in names.split(", "):
        exercise.mistakes.append(of_parts(known[name], parts))


def of_parts(mistake: Mistake, parts: Callable[[Any], Iterable[Any]]) -> Mistake:
    """The mistake of all the parts of a whole: see :func:`adopt`."""

    @functools.wraps(mistake.put_into)  # the same name, the same reason
    def put_into(whole: Any) -> None:
        for part in parts(whole):
            mistake.put_into(part)

    return Mistake(put_into, mistake.read, mistake.reference)


class FusedSelfAttentionSteps(FusedSelfAttention, MultiHeadAttentionSteps):
    """The attention of GPT-2 in the steps of attention with several heads."""


def attention_steps(layer: Any) -> list[Any]:
    """The self-attention of a layer, which is taken into steps."""
    fused = isinstance(layer.attention, FusedSelfAttention)
    layer.attention.__class__ = FusedSelfAttentionSteps if fused else MultiHeadAttentionSteps
    return [layer.attention]


class LayerSteps:
    """What the layers of both orders have in common: two norms, and two sums."""

    attention_norm: LayerNorm
    feed_forward_norm: LayerNorm

    def first_norm(self, hidden: Tensor) -> Tensor:
        """The norm that belongs to attention."""
        return self.attention_norm(hidden)

    def second_norm(self, hidden: Tensor) -> Tensor:
        """The norm that belongs to the feed-forward."""
        return self.feed_forward_norm(hidden)

    def add_attended(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The residual connection around attention."""
        return hidden + attended

    def add_transformed(self, hidden: Tensor, transformed: Tensor) -> Tensor:
        """The residual connection around the feed-forward."""
        return hidden + transformed


# ---- the encoder's layer ----


class EncoderLayer(nn.Module):
    """A layer of BERT: self-attention, then a feed-forward, in the post-norm order.

    h = attention_norm(x + attention(x)), result = feed_forward_norm(h + feed_forward(h)).

    attention(x): queries, keys and values are three linear maps of x, each split into H heads of
    D = E / H: head 0 has the first D numbers of each token's vector, head 1 the next D. In each
    head softmax(Q K^T / sqrt(D)) V; the results of the heads stand side by side again, and a
    fourth linear map, `attention.output`, follows. feed_forward(h) = down_proj(gelu(up_proj(h)))
    with the exact GELU. The norms are nn.LayerNorm with the given eps. There is no dropout.

    Source: Devlin et al. 2018; `BertLayer` in Hugging Face.

    Args:
        hidden_size: E.
        num_heads: H.
        intermediate_size: I.
        eps: of both norms.

    Parameters, each with weight and bias: attention.query, attention.key, attention.value,
    attention.output (linear, E to E), attention_norm, feed_forward.up_proj (linear, E to I),
    feed_forward.down_proj (I to E), feed_forward_norm. A name with a dot is an attribute of a
    submodule: self.attention is a module of yours with the attribute query. The check loads its own
    weights, so initial values do not matter; there may be no other parameters.
    """

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int, eps: float):
        super().__init__()
        raise NotImplementedError("write me")

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, E) to (B, T, E).

        Args:
            hidden: (B, T, E).
            mask: (B, 1, 1, T) bool, True = attend, False = padding; or None: nothing is padded.
                The result at padding is computed like any other. No sequence of the check is all
                padding; in the library its tokens take zeros from the heads, so that attention
                gives the bias of `attention.output`.
        """
        raise NotImplementedError("write me")


class EncoderLayerSteps(bert.EncoderLayer, LayerSteps):
    """`bert.EncoderLayer` in steps."""

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int, eps: float):
        super().__init__(
            hidden_size, num_heads, intermediate_size, "gelu", 0.0, 0.0, eps, attention="eager"
        )

    def before_attention(self, hidden: Tensor) -> Tensor:
        """What attention reads."""
        return hidden

    def after_attention(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """What attention's result becomes."""
        return self.first_norm(self.add_attended(hidden, attended))

    def before_feed_forward(self, hidden: Tensor) -> Tensor:
        """What the feed-forward reads."""
        return hidden

    def after_feed_forward(self, hidden: Tensor, transformed: Tensor) -> Tensor:
        """What its result becomes."""
        return self.second_norm(self.add_transformed(hidden, transformed))

    def forward(
        self, hidden: Tensor, mask: Tensor | None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """As the class that it is made from."""
        x = self.before_attention(hidden)  # (B, T, E)
        attended, weights = self.attention(x, x, mask, output_attentions=output_attentions)
        hidden = self.after_attention(hidden, self.attention_dropout(attended))
        transformed = self.feed_forward(self.before_feed_forward(hidden))  # (B, T, E)
        return self.after_feed_forward(hidden, self.feed_forward_dropout(transformed)), weights


def layer_cases(layer: Callable[..., nn.Module], causal: bool) -> Iterator[Case]:
    """One token and one head to several; both paddings; a large eps; large inputs; bfloat16."""

    def case(
        label: str,
        *sizes: int,
        eps: float = 1e-5,
        padded: bool | None = None,
        left: bool = False,
        factor: float = 1.0,
        dtype: torch.dtype = torch.float64,
        **options: Any,
    ) -> Case:
        batch, tokens, heads, hidden_size, intermediate_size = sizes
        mask = None
        if padded is not None:
            lengths = [tokens, tokens - 2, *[tokens - 1] * batch][:batch] if padded else [tokens]
            mask = real_tokens(*lengths, total=tokens, left=left)[:, None, None]  # (B, 1, 1, T)
        if causal:
            past = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None]
            mask = past if mask is None else past & mask  # (1 or B, 1, T, T)
        init: dict[str, Any] = {
            "hidden_size": hidden_size,
            "num_heads": heads,
            "intermediate_size": intermediate_size,
            "eps": eps,
        }
        state = {name: w.to(dtype) for name, w in weights(layer(**init)).items()}
        hidden = factor * normal(batch, tokens, hidden_size, seed=7, dtype=dtype)
        return Case(label, {"hidden": hidden, "mask": mask}, init, state, **options)

    yield case("one token, one head", 1, 1, 1, 3, 2)
    yield case("two tokens, one head", 1, 2, 1, 2, 3)
    yield case("three tokens, two heads", 1, 3, 2, 4, 5)
    yield case("as many tokens as heads", 2, 3, 3, 6, 7)
    yield case("a large eps", 1, 2, 2, 4, 3, eps=0.5)
    yield case("padding on the right", 3, 5, 2, 6, 7, padded=True)
    # Where all keys are masked, -1e9 + score keeps few digits of the score.
    yield case("padding on the left", 3, 5, 2, 6, 7, padded=True, left=True, tolerance=1e-6)
    yield case("large inputs", 2, 4, 2, 8, 5, factor=100.0)
    yield case("float32", 2, 4, 2, 6, 7, padded=True, dtype=torch.float32, tolerance=1e-4)
    yield case(
        "bfloat16", 2, 4, 2, 6, 7, padded=True, dtype=torch.bfloat16, gradients=False, tolerance=0.1
    )  # fmt: skip


ENCODER_LAYER = Exercise(
    template=EncoderLayer,
    reference=bert.EncoderLayer,
    steps=EncoderLayerSteps,
    cases=lambda: layer_cases(EncoderLayerSteps, causal=False),
    title="a layer of an encoder, post-norm",
)


# ---- the decoder's layer ----


class DecoderLayer(nn.Module):
    """A layer of GPT-2: masked self-attention, then a feed-forward, in the pre-norm order.

    h = x + attention(attention_norm(x)), result = h + feed_forward(feed_forward_norm(h)).

    attention(y): one linear map of y gives (B, T, 3 E): all queries, then all keys, then all
    values, E numbers each; each is split into H heads of D = E / H: head 0 has the first D numbers
    of a token's vector, head 1 the next D. In each head softmax(Q K^T / sqrt(D)) V; the results of
    the heads stand side by side again, and a linear map, `attention.output`, follows.
    feed_forward(y) = down_proj(gelu(up_proj(y))) with GELU's approximation by tanh,
    y / 2 * (1 + tanh(sqrt(2 / pi) * (y + 0.044715 y^3))). The norms are nn.LayerNorm with the
    given eps. There is no dropout.

    Source: Radford et al. 2019; `GPT2Block` in Hugging Face.

    Args:
        hidden_size: E.
        num_heads: H.
        intermediate_size: I.
        eps: of both norms.

    Parameters, each with weight and bias: attention_norm, attention.query_key_value (linear, E to
    3 E), attention.output (linear, E to E), feed_forward_norm, feed_forward.up_proj (linear, E to
    I), feed_forward.down_proj (I to E). Linear ones are nn.Linear, not Hugging Face's transposed
    Conv1D. A name with a dot is an attribute of a submodule: self.attention is a module of yours
    with the attribute query_key_value. The check loads its own weights, so initial values do not
    matter; there may be no other parameters.
    """

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int, eps: float):
        super().__init__()
        raise NotImplementedError("write me")

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E).

        Args:
            hidden: (B, T, E).
            mask: (1, 1, T, T) or (B, 1, T, T) bool, True = attend; it hides later tokens, and
                padding. A query without a key takes zeros from the heads, so that attention gives
                the bias of `attention.output`.
        """
        raise NotImplementedError("write me")


class DecoderLayerSteps(gpt2.GPT2Layer, LayerSteps):
    """`gpt2.GPT2Layer` in steps."""

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int, eps: float):
        super().__init__(
            FusedSelfAttention(hidden_size, num_heads, attention="eager"),
            FeedForward(hidden_size, intermediate_size, "gelu_new"),
            hidden_size,
            0.0,
            eps,
        )

    def before_attention(self, hidden: Tensor) -> Tensor:
        """What attention reads."""
        return self.first_norm(hidden)

    def after_attention(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """What attention's result becomes."""
        return self.add_attended(hidden, attended)

    def before_feed_forward(self, hidden: Tensor) -> Tensor:
        """What the feed-forward reads."""
        return self.second_norm(hidden)

    def after_feed_forward(self, hidden: Tensor, transformed: Tensor) -> Tensor:
        """What its result becomes."""
        return self.add_transformed(hidden, transformed)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        cache: LayerCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As the class that it is made from."""
        x = self.before_attention(hidden)  # (B, T, E)
        past = None if cache is None else cache.self_attention
        attended, weights = self.attention(
            x, x, mask, cache=past, output_attentions=output_attentions
        )
        hidden = self.after_attention(hidden, self.dropout(attended))
        transformed = self.feed_forward(self.before_feed_forward(hidden))  # (B, T, E)
        return self.after_feed_forward(hidden, self.dropout(transformed)), weights


DECODER_LAYER = Exercise(
    template=DecoderLayer,
    reference=gpt2.GPT2Layer,
    steps=DecoderLayerSteps,
    cases=lambda: layer_cases(DecoderLayerSteps, causal=True),
    title="a layer of a decoder, pre-norm",
)


# ---- the mistakes of either layer, or of both; those of attention come first, inside out ----

for _layer in (ENCODER_LAYER, DECODER_LAYER):
    adopt(
        _layer,
        MULTI_HEAD_ATTENTION,
        "no scale, scale by all heads, softmax over queries, mask inverted, mask ignored, "
        "mask after the softmax, heads by reshaping, interleaved heads, "
        "interleaved heads throughout, merging by reshaping, no output projection",
        attention_steps,
    )
adopt(  # of queries without a key, which only padding on the left of a decoder makes
    DECODER_LAYER,
    MULTI_HEAD_ATTENTION,
    "weights of queries without a key, mean of masked values, large negative number added",
    attention_steps,
)
adopt(
    ENCODER_LAYER,
    MULTI_HEAD_ATTENTION,
    "keys of the query projection, values of the key projection",
    attention_steps,
)


@DECODER_LAYER.mistake(
    "causal_mask(positions, attention_mask.shape[1]) & padding_mask", gpt2.GPT2Model
)
def causal_mask_alone(layer: Any) -> None:
    """The mask that is given is not used, but a causal one (is_causal=True): padding on the left is
    attended to. The mask hides both later tokens and padding.
    """
    [steps] = attention_steps(layer)
    weights = steps.weights

    def causal(query: Tensor, key: Tensor, mask: Tensor, *bias: Any) -> Tensor:
        return weights(query, key, torch.ones_like(mask).tril(), *bias)

    steps.weights = causal


@ENCODER_LAYER.mistake("query = self.split_heads(self.query(hidden))", of=MultiHeadAttention)
def query_and_key_swapped(layer: Any) -> None:
    """Queries and keys are swapped, so that the scores are transposed: `attention.query` makes the
    token that attends, `attention.key` those that it attends to.
    """
    project = layer.attention.project

    def swapped(hidden: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = project(hidden, context)
        return key, query, value

    layer.attention.project = swapped


@DECODER_LAYER.mistake("projected.chunk(3, dim=-1)", of=FusedSelfAttention)
def thirds_in_another_order(layer: Any) -> None:
    """The matrix is read as key, query, value; the first E numbers are the query, then come key and
    value.
    """
    query_and_key_swapped(layer)


@DECODER_LAYER.mistake("projected.chunk(3, dim=-1)", of=FusedSelfAttention)
def thirds_inside_the_heads(layer: Any) -> None:
    """The 3 E numbers are split into heads first, and each head into query, key and value; GPT-2
    stores all queries, then all keys, then all values: split into three, then into heads.
    """

    def project(hidden: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        projected = layer.attention.query_key_value(hidden)  # (B, T, H * 3 * D)
        query, key, value = layer.attention.split_heads(projected).chunk(3, dim=-1)
        return query, key, value

    layer.attention.project = project


# The order of the norms, and the residual connections.


@ENCODER_LAYER.mistake("self.attention_norm(hidden + self.attention_dropout(attended))")
def norms_first(layer: Any) -> None:
    """The norms come before attention and feed-forward, as in GPT-2 (pre-norm); in BERT they come
    after, and normalize the sums (post-norm).
    """
    layer.before_attention = lambda hidden: layer.first_norm(hidden)
    layer.after_attention = lambda hidden, attended: layer.add_attended(hidden, attended)
    layer.before_feed_forward = lambda hidden: layer.second_norm(hidden)
    layer.after_feed_forward = lambda hidden, transformed: layer.add_transformed(
        hidden, transformed
    )


@DECODER_LAYER.mistake("normed = self.attention_norm(hidden)")
def norms_last(layer: Any) -> None:
    """The norms come after the sums, as in BERT (post-norm); in GPT-2 attention and feed-forward
    read a normalized copy, and the sums stay as they are (pre-norm).
    """
    layer.before_attention = lambda hidden: hidden
    layer.after_attention = lambda hidden, attended: layer.first_norm(
        layer.add_attended(hidden, attended)
    )
    layer.before_feed_forward = lambda hidden: hidden
    layer.after_feed_forward = lambda hidden, transformed: layer.second_norm(
        layer.add_transformed(hidden, transformed)
    )


@ENCODER_LAYER.mistake("self.attention_norm(hidden + self.attention_dropout(attended))")
def sum_not_normalized(layer: Any) -> None:
    """What attention and feed-forward give is normalized and then added; add first, and normalize
    the sum.
    """
    layer.after_attention = lambda hidden, attended: layer.add_attended(
        hidden, layer.first_norm(attended)
    )
    layer.after_feed_forward = lambda hidden, transformed: layer.add_transformed(
        hidden, layer.second_norm(transformed)
    )


@DECODER_LAYER.mistake("hidden = hidden + self.dropout(attended)")
def residual_of_the_normed(layer: Any) -> None:
    """Attention and feed-forward are added to the normalized copy that they read; add them to what
    was there before the norm.
    """
    layer.add_attended = lambda hidden, attended: layer.first_norm(hidden) + attended
    layer.add_transformed = lambda hidden, transformed: layer.second_norm(hidden) + transformed


def remember_input(layer: Any) -> dict[str, Tensor]:
    """What has the input of each call, under "input", once attention has run."""
    seen: dict[str, Tensor] = {}
    after = layer.after_attention

    def after_attention(hidden: Tensor, attended: Tensor) -> Tensor:
        seen["input"] = hidden
        return after(hidden, attended)

    layer.after_attention = after_attention
    return seen


@DECODER_LAYER.mistake("self.feed_forward(self.feed_forward_norm(hidden))")
def feed_forward_beside_attention(layer: Any) -> None:
    """Attention and feed-forward read the same input, as in GPT-J; in GPT-2 the feed-forward reads
    the sum that attention left.
    """
    seen = remember_input(layer)
    layer.before_feed_forward = lambda hidden: layer.second_norm(seen["input"])


@ENCODER_LAYER.mistake("self.feed_forward_norm(hidden + self.feed_forward_dropout(transformed))")
def second_sum_with_the_input(layer: Any) -> None:
    """The feed-forward is added to the input of the layer; add it to what it read, the result of
    the first norm.
    """
    seen = remember_input(layer)
    layer.add_transformed = lambda hidden, transformed: seen["input"] + transformed


@DECODER_LAYER.mistake("hidden = hidden + self.dropout(attended)")
@ENCODER_LAYER.mistake("hidden + self.attention_dropout(attended)")
def no_residual_around_attention(layer: Any) -> None:
    """What attention gives is not added to its input, but replaces it: without the sum a token
    forgets what it was, and deep models do not learn.
    """
    layer.add_attended = lambda hidden, attended: attended


@DECODER_LAYER.mistake("self.feed_forward(self.feed_forward_norm(hidden))")
@ENCODER_LAYER.mistake("hidden + self.feed_forward_dropout(transformed)")
def no_residual_around_the_feed_forward(layer: Any) -> None:
    """What the feed-forward gives is not added to its input, but replaces it; add the two."""
    layer.add_transformed = lambda hidden, transformed: transformed


@DECODER_LAYER.mistake("self.feed_forward_norm = LayerNorm")
@ENCODER_LAYER.mistake("self.feed_forward_norm = LayerNorm")
def norms_swapped(layer: Any) -> None:
    """The two norms are swapped: `attention_norm` belongs to attention and is the first."""
    layer.first_norm = lambda hidden: layer.feed_forward_norm(hidden)
    layer.second_norm = lambda hidden: layer.attention_norm(hidden)


@DECODER_LAYER.mistake("self.feed_forward_norm = LayerNorm")
@ENCODER_LAYER.mistake("self.feed_forward_norm = LayerNorm")
def one_norm_for_both(layer: Any) -> None:
    """`attention_norm` is used twice; the feed-forward has a norm with weights of its own."""
    layer.second_norm = lambda hidden: layer.attention_norm(hidden)


@DECODER_LAYER.mistake("self.feed_forward(self.feed_forward_norm(hidden))")
@ENCODER_LAYER.mistake("self.feed_forward_norm(hidden + self.feed_forward_dropout(transformed))")
def no_second_norm(layer: Any) -> None:
    """`feed_forward_norm` is not applied."""
    layer.second_norm = lambda hidden: hidden


@DECODER_LAYER.mistake("self.attention_norm = LayerNorm(hidden_size, eps)")
@ENCODER_LAYER.mistake("self.attention_norm = LayerNorm(hidden_size, eps)")
def eps_ignored(layer: Any) -> None:
    """The norms have PyTorch's eps of 1e-5 instead of the one that is given: pass it on, as in
    nn.LayerNorm(hidden_size, eps).
    """
    layer.attention_norm.eps = layer.feed_forward_norm.eps = 1e-5


# The feed-forward.


@ENCODER_LAYER.mistake("return x * 0.5 * (1.0 + torch.erf", of=gelu)
def tanh_for_exact_gelu(layer: Any) -> None:
    """The activation is GELU's approximation by tanh, GPT-2's; BERT's is the exact one. They differ
    by up to 5e-4: too little to be noticed, enough to fail.
    """
    layer.feed_forward.activation = gelu_tanh


@DECODER_LAYER.mistake("return x * 0.5 * (1.0 + torch.tanh", of=gelu_tanh)
def exact_for_tanh_gelu(layer: Any) -> None:
    """The activation is the exact GELU, BERT's; GPT-2's is the approximation by tanh
    (approximate="tanh"). They differ by up to 5e-4: too little to be noticed, enough to fail.
    """
    layer.feed_forward.activation = gelu


@DECODER_LAYER.mistake("return x * 0.5 * (1.0 + torch.tanh", of=gelu_tanh)
@ENCODER_LAYER.mistake("return x * 0.5 * (1.0 + torch.erf", of=gelu)
def relu_for_gelu(layer: Any) -> None:
    """The activation is ReLU, that of the paper of 2017; BERT and GPT-2 have a GELU."""
    layer.feed_forward.activation = torch.relu


@DECODER_LAYER.mistake("self.activation(self.up_proj(hidden))", of=FeedForward)
@ENCODER_LAYER.mistake("self.activation(self.up_proj(hidden))", of=FeedForward)
def no_activation(layer: Any) -> None:
    """There is no activation between the two linear maps of the feed-forward, which are then no
    more than one.
    """
    layer.feed_forward.activation = lambda hidden: hidden


# ---- the head ----


class TiedLMHead(nn.Module):
    """RoBERTa's head: a score for each token of the vocabulary, by the token embedding itself.

    h = norm(gelu(dense(x))), logits = h W^T + bias, where W is the token embedding, (V, E), which
    the head shares with the model ("tied weights"): it is passed in, and gets its gradient from
    here too. The GELU is the exact one, the norm nn.LayerNorm with the given eps.

    Source: Devlin et al. 2018, appendix A; Press and Wolf 2017; `RobertaLMHead` in Hugging Face.

    Args:
        hidden_size: E.
        vocab_size: V.
        eps: of the norm.

    Parameters: dense.weight and dense.bias (linear, E to E), norm.weight, norm.bias, and
    bias, (V,). The check loads its own weights, so initial values do not matter; there may be no
    other parameters, so no weight of the scores: W is passed in.
    """

    def __init__(self, hidden_size: int, vocab_size: int, eps: float):
        super().__init__()
        raise NotImplementedError("write me")

    def forward(self, hidden: Tensor, token_embedding: Tensor) -> Tensor:
        """(B, T, E) and (V, E) to logits, (B, T, V), not probabilities."""
        raise NotImplementedError("write me")


class TiedLMHeadSteps(bert.MaskedLMHead):
    """`bert.MaskedLMHead` in steps."""

    def __init__(self, hidden_size: int, vocab_size: int, eps: float):
        super().__init__(hidden_size, vocab_size, "gelu", eps, tied=True)

    def transform(self, hidden: Tensor) -> Tensor:
        """What the scores are computed from, before the norm."""
        return self.activation(self.dense(hidden))

    def normed(self, hidden: Tensor) -> Tensor:
        """The same after the norm."""
        return self.norm(hidden)

    def scores(self, hidden: Tensor, token_embedding: Tensor) -> Tensor:
        """One for each token, (..., V)."""
        if self.output is None:
            return hidden @ token_embedding.T
        return self.output(hidden)

    def with_bias(self, scores: Tensor) -> Tensor:
        """The logits."""
        return scores + self.bias

    def forward(self, hidden: Tensor, token_embedding: Tensor) -> Tensor:
        """As the class that it is made from."""
        hidden = self.normed(self.transform(hidden))  # (..., E)
        return self.with_bias(self.scores(hidden, token_embedding))  # (..., V)


def head_cases() -> Iterator[Case]:
    """From one token to several; as many tokens in the vocabulary as the hidden size."""

    def case(
        label: str,
        *sizes: int,
        eps: float = 1e-5,
        factor: float = 1.0,
        dtype: torch.dtype = torch.float64,
        **options: Any,
    ) -> Case:
        batch, tokens, hidden_size, vocab_size = sizes
        init = {"hidden_size": hidden_size, "vocab_size": vocab_size, "eps": eps}
        state = weights(TiedLMHeadSteps(hidden_size, vocab_size, eps))
        inputs = {
            "hidden": factor * normal(batch, tokens, hidden_size, seed=7, dtype=dtype),
            "token_embedding": normal(vocab_size, hidden_size, seed=8, dtype=dtype),
        }
        state = {name: values.to(dtype) for name, values in state.items()}
        return Case(label, inputs, init, state, **options)

    yield case("one token", 1, 1, 2, 3)
    yield case("two tokens", 1, 2, 3, 4)
    yield case("as many in the vocabulary as the hidden size", 2, 3, 4, 4)
    yield case("a large eps", 1, 2, 3, 4, eps=0.5)
    yield case("large inputs", 2, 3, 5, 7, factor=100.0)
    yield case("float32", 2, 3, 5, 7, dtype=torch.float32, tolerance=1e-4)
    yield case("bfloat16", 2, 3, 5, 7, dtype=torch.bfloat16, gradients=False, tolerance=0.1)


TIED_LM_HEAD = Exercise(
    template=TiedLMHead,
    reference=bert.MaskedLMHead,
    steps=TiedLMHeadSteps,
    cases=head_cases,
    title="an LM head that shares the token embedding",
)


@TIED_LM_HEAD.mistake("F.linear(hidden, token_embedding, self.bias)")
def untied_copy(head: Any) -> None:
    """The values are right, but the token embedding gets no gradient from the head: it was copied
    or detached. Multiply by the tensor that is passed in, at each call.
    """
    scores = head.scores
    head.scores = lambda hidden, token_embedding: scores(hidden, token_embedding.detach())


@TIED_LM_HEAD.mistake("F.linear(hidden, token_embedding, self.bias)")
def embedding_not_transposed(head: Any) -> None:
    """The hidden states are multiplied by W, (V, E); multiply by its transpose."""
    head.scores = lambda hidden, token_embedding: hidden @ token_embedding


@TIED_LM_HEAD.mistake("F.linear(hidden, token_embedding, self.bias)")
def scores_scaled(head: Any) -> None:
    """The scores are divided by sqrt(E), as in attention or T5; here they are not."""
    scores = head.scores
    head.scores = lambda hidden, token_embedding: (
        scores(hidden, token_embedding) / math.sqrt(hidden.shape[-1])
    )


@TIED_LM_HEAD.mistake("F.linear(hidden, token_embedding, self.bias)")
def no_bias(head: Any) -> None:
    """The bias of the vocabulary is not added."""
    head.with_bias = lambda scores: scores


@TIED_LM_HEAD.mistake("F.linear(hidden, token_embedding, self.bias)")
def probabilities(head: Any) -> None:
    """The result is a softmax; return the logits, since the loss has the softmax in it."""
    with_bias = head.with_bias
    head.with_bias = lambda scores: with_bias(scores).softmax(dim=-1)


@TIED_LM_HEAD.mistake("F.linear(hidden, token_embedding, self.bias)")
def log_probabilities(head: Any) -> None:
    """The result is a log_softmax; return the logits, since the loss has the softmax in it."""
    with_bias = head.with_bias
    head.with_bias = lambda scores: with_bias(scores).log_softmax(dim=-1)


@TIED_LM_HEAD.mistake("self.norm(self.activation(self.dense(hidden)))")
def no_transform(head: Any) -> None:
    """The dense layer and its activation are left out: they come before the norm."""
    head.transform = lambda hidden: hidden


@TIED_LM_HEAD.mistake("self.norm(self.activation(self.dense(hidden)))")
def no_activation_in_the_head(head: Any) -> None:
    """There is no activation between the dense layer and the norm."""
    head.activation = lambda hidden: hidden


@TIED_LM_HEAD.mistake("return x * 0.5 * (1.0 + torch.erf", of=gelu)
def tanh_in_the_head(head: Any) -> None:
    """The head's activation is GELU's approximation by tanh; it is the exact one, and so it is even
    where the layers have another.
    """
    head.activation = gelu_tanh


@TIED_LM_HEAD.mistake("return torch.tanh(self.dense(first))", of=bert.Pooler)
def tanh_for_gelu_in_the_head(head: Any) -> None:
    """The activation is tanh, that of BERT's pooler; the head has a GELU."""
    head.activation = torch.tanh


@TIED_LM_HEAD.mistake("self.norm(self.activation(self.dense(hidden)))")
def no_norm_in_the_head(head: Any) -> None:
    """The norm between the activation and the scores is left out."""
    head.normed = lambda hidden: hidden


@TIED_LM_HEAD.mistake("self.norm(self.activation(self.dense(hidden)))")
def norm_before_the_activation(head: Any) -> None:
    """The norm stands between the dense layer and the activation; it comes after the activation."""
    head.transform = lambda hidden: head.dense(hidden)
    head.normed = lambda hidden: head.activation(head.norm(hidden))


@TIED_LM_HEAD.mistake("self.norm = LayerNorm(hidden_size, eps)")
def eps_of_the_head_ignored(head: Any) -> None:
    """The norm has PyTorch's eps of 1e-5 instead of the one that is given: pass it on, as in
    nn.LayerNorm(hidden_size, eps).
    """
    head.norm.eps = 1e-5

"""Attention, from the softmax to several heads ("Attention Is All You Need", section 3.2).

B batch, T query tokens, S key tokens, H heads, D head size, E hidden size.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from minitransformer.exercises.exercise import Exercise
from minitransformer.exercises.inputs import normal, real_tokens
from minitransformer.exercises.runner import Case
from minitransformer.layers import attention as reference

HALF_PRECISION = {"float16": torch.float16, "bfloat16": torch.bfloat16}


# ---- softmax ----


def softmax(scores: Tensor) -> Tensor:
    """exp(x) / sum of exp(x) over the last dimension.

    Must hold for scores of any size: softmax(x) = softmax(x - max(x)). A score of -inf gives a
    probability of 0, as masks need it; a row of nothing but -inf may give NaN.

    Source: "Attention Is All You Need", equation 1.

    Args:
        scores: (..., S), of any float dtype.

    Returns:
        (..., S), of the same dtype; each row sums to 1.
    """
    raise NotImplementedError("write me")


class SoftmaxSteps:
    """`torch.softmax` as it is computed."""

    def shifted(self, scores: Tensor) -> Tensor:
        """Scores of at most 0, whose exponentials cannot overflow."""
        return scores - scores.amax(dim=-1, keepdim=True)

    def exponentials(self, scores: Tensor) -> Tensor:
        """e to the power of each score."""
        return scores.exp()

    def total(self, exponentials: Tensor) -> Tensor:
        """What the exponentials are divided by."""
        return exponentials.sum(dim=-1, keepdim=True)

    def __call__(self, scores: Tensor) -> Tensor:
        exponentials = self.exponentials(self.shifted(scores))
        return exponentials / self.total(exponentials)


def softmax_cases() -> Iterator[Case]:
    """Rows of two and more scores; large ones; masked ones; half precision."""
    yield Case("two scores", {"scores": torch.tensor([0.0, 1.0], dtype=torch.float64)})
    yield Case("two rows", {"scores": normal(2, 3)})
    yield Case("four dimensions", {"scores": normal(2, 3, 4, 5)})
    yield Case("as many rows as scores", {"scores": normal(4, 4)})
    yield Case("large scores", {"scores": 1000 * normal(3, 4)})
    yield Case("very negative scores", {"scores": normal(3, 4) - 2000})
    masked = normal(3, 4)
    masked[:, 2] = -math.inf
    yield Case("one score of -inf", {"scores": masked})
    yield Case("float32", {"scores": 30 * normal(3, 5, dtype=torch.float32)})
    for name, dtype in HALF_PRECISION.items():
        yield Case(name, {"scores": 5 * normal(3, 5, dtype=dtype)}, gradients=False)


SOFTMAX = Exercise(
    template=softmax,
    reference=SoftmaxSteps,
    steps=SoftmaxSteps,
    cases=softmax_cases,
    title="softmax that does not overflow",
)


@SOFTMAX.mistake("scores - scores.amax")
def no_shift(steps: Any) -> None:
    """exp of a large score is infinite, and infinity / infinity is NaN: subtract each row's
    largest score first, which changes no probability.
    """
    steps.shifted = lambda scores: scores


@SOFTMAX.mistake("scores.amax(dim=-1")
def largest_of_all_rows(steps: Any) -> None:
    """The largest score of the whole tensor is subtracted: a row far below it becomes 0 / 0.
    Subtract the largest of each row.
    """
    steps.shifted = lambda scores: scores - scores.max()


@SOFTMAX.mistake("exponentials.sum(dim=-1")
def over_the_first_dimension(steps: Any) -> None:
    """The sum runs over the first dimension, so columns sum to 1; each row should (dim=-1)."""
    steps.total = lambda exponentials: exponentials.sum(dim=0, keepdim=True)


@SOFTMAX.mistake("exponentials.sum(dim=-1")
def over_everything(steps: Any) -> None:
    """The sum runs over the whole tensor, so that all of it sums to 1; each row should."""
    steps.total = lambda exponentials: exponentials.sum()


@SOFTMAX.mistake("scores.exp()")
def powers_of_two(steps: Any) -> None:
    """The base is 2 instead of e."""
    steps.exponentials = lambda scores: scores.exp2()


@SOFTMAX.mistake("exponentials / self.total", of=SoftmaxSteps)
def not_divided(steps: Any) -> None:
    """The exponentials are not divided by their sum."""
    steps.total = lambda exponentials: 1.0


@SOFTMAX.mistake("exponentials.sum(dim=-1")
def eps_in_the_sum(steps: Any) -> None:
    """Something small is added to the sum, which is at least 1 and needs nothing."""
    steps.total = lambda exponentials: exponentials.sum(dim=-1, keepdim=True) + 1e-6


# ---- scaled dot-product attention ----


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V: each query takes a weighted mean of the values.

    A query attends to the keys where its mask is True. A query whose keys are all masked takes
    nothing: its result is zeros.

    Source: "Attention Is All You Need", equation 1.

    Args:
        query: (B, H, T, D), of any float dtype.
        key: (B, H, S, D).
        value: (B, H, S, D).
        mask: bool, broadcastable to (B, H, T, S), True = attend; or None: all are attended to.

    Returns:
        (B, H, T, D).
    """
    raise NotImplementedError("write me")


class ScaledDotProductAttentionSteps:
    """`eager_attention` in steps."""

    def scale(self, query: Tensor) -> float:
        """Factor of the scores."""
        return 1.0 / math.sqrt(query.shape[-1])

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, H, T, S)."""
        return (query * self.scale(query)) @ key.transpose(-2, -1)

    def masked(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Scores that give a weight of zero where there is no attention."""
        return scores.masked_fill(~mask, -math.inf)

    def normalized(self, scores: Tensor) -> Tensor:
        """Weights that sum to 1 for each query."""
        return scores.softmax(dim=-1)

    def cleared(self, weights: Tensor, mask: Tensor) -> Tensor:
        """Zeros for queries without a key, in place of NaN."""
        return weights.masked_fill(~mask, 0.0)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        scores = self.scores(query, key)  # (B, H, T, S)
        if mask is None:
            return self.normalized(scores) @ value  # (B, H, T, D)
        return self.cleared(self.normalized(self.masked(scores, mask)), mask) @ value


def attention_cases() -> Iterator[Case]:
    """From one token and two keys to masks of every kind, half precision, and large scores."""

    def inputs(
        *sizes: int, mask: Tensor | None = None, dtype: torch.dtype = torch.float64
    ) -> dict[str, Any]:
        batch, heads, queries, keys, size = sizes
        return {
            "query": normal(batch, heads, queries, size, seed=1, dtype=dtype),
            "key": normal(batch, heads, keys, size, seed=2, dtype=dtype),
            "value": normal(batch, heads, keys, size, seed=3, dtype=dtype),
            "mask": mask,
        }

    right = real_tokens(3, 5, total=5)[:, None, None]  # (B, 1, 1, S)
    left = real_tokens(3, 5, total=5, left=True)[:, None, None]
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    yield Case("one query, two keys", inputs(1, 1, 1, 2, 2))
    yield Case("two queries, three keys", inputs(1, 1, 2, 3, 2))
    yield Case("as many queries as keys", inputs(1, 1, 3, 3, 4))
    yield Case("two sequences, three heads", inputs(2, 3, 4, 5, 6))
    yield Case("padding on the right", inputs(2, 3, 4, 5, 6, mask=right))
    yield Case("padding on the left", inputs(2, 3, 4, 5, 6, mask=left))
    yield Case("a causal mask", inputs(2, 2, 4, 4, 3, mask=causal))
    nothing = torch.tensor([[True, False], [False, False]])
    yield Case("a query without a key", inputs(1, 1, 2, 2, 2, mask=nothing))
    yield Case("float32", inputs(2, 3, 4, 5, 6, mask=right, dtype=torch.float32))
    large = inputs(1, 2, 3, 4, 4, dtype=torch.float32)
    yield Case("large scores", large | {"query": 1000 * large["query"]}, gradients=False)
    for name, dtype in HALF_PRECISION.items():
        case = inputs(2, 3, 4, 5, 6, mask=right, dtype=dtype)
        yield Case(f"{name}, padding on the right", case, gradients=False)


def install_attention(module: Any, steps: Any) -> None:
    """Let an attention module of the library attend with these steps."""
    if isinstance(module, reference.MultiHeadAttention):
        scale = module.scale
        if scale is not None:  # T5 does not scale
            steps.scale = lambda query: scale
        module.attend = lambda query, key, value, mask, *_: (steps(query, key, value, mask), None)


SCALED_DOT_PRODUCT_ATTENTION = Exercise(
    template=scaled_dot_product_attention,
    reference=reference.attention_weights,
    steps=ScaledDotProductAttentionSteps,
    cases=attention_cases,
    install=install_attention,
    title="scaled dot-product attention",
)


@SCALED_DOT_PRODUCT_ATTENTION.mistake("1.0 / math.sqrt")
def no_scale(steps: Any) -> None:
    """The scores are not divided by sqrt(D). They grow with D, and the softmax of large scores has
    hardly any gradient.
    """
    steps.scale = lambda query: 1.0


@SCALED_DOT_PRODUCT_ATTENTION.mistake("1.0 / math.sqrt")
def scale_by_D(steps: Any) -> None:
    """The scores are divided by D; divide by its root, which is their standard deviation."""
    steps.scale = lambda query: 1.0 / query.shape[-1]


@SCALED_DOT_PRODUCT_ATTENTION.mistake("1.0 / math.sqrt")
def multiplied_by_the_root(steps: Any) -> None:
    """The scores are multiplied by sqrt(D); divide by it."""
    steps.scale = lambda query: math.sqrt(query.shape[-1])


@SCALED_DOT_PRODUCT_ATTENTION.mistake("1.0 / math.sqrt")
def scale_by_tokens(steps: Any) -> None:
    """The scores are divided by the root of the number of keys or queries; divide by sqrt(D), the
    size of a head, which is the last dimension of the query.
    """
    steps.scale = lambda query: 1.0 / math.sqrt(query.shape[-2])


@SCALED_DOT_PRODUCT_ATTENTION.mistake("key.transpose(-2, -1)")
def reshaped_key(steps: Any) -> None:
    """The keys are reshaped to (D, S), which mixes numbers of different tokens; transpose them."""
    steps.scores = lambda query, key: (
        query * steps.scale(query) @ key.reshape(*key.shape[:-2], key.shape[-1], key.shape[-2])
    )


@SCALED_DOT_PRODUCT_ATTENTION.mistake("softmax(dim=-1).masked_fill")
def softmax_over_queries(steps: Any) -> None:
    """The softmax runs over the queries (dim=-2), so that the weights of a key sum to 1; those of a
    query should (dim=-1).
    """
    steps.normalized = lambda scores: scores.softmax(dim=-2)


@SCALED_DOT_PRODUCT_ATTENTION.mistake("softmax(dim=-1).masked_fill")
def softmax_over_heads(steps: Any) -> None:
    """The softmax runs over the heads (dim=1); it should run over the keys (dim=-1)."""
    steps.normalized = lambda scores: scores.softmax(dim=1)


@SCALED_DOT_PRODUCT_ATTENTION.mistake("scores.masked_fill(~mask, -math.inf)")
def mask_after_the_softmax(steps: Any) -> None:
    """Weights are set to zero after the softmax, so those that stay do not sum to 1; mask the
    scores before it.
    """
    steps.masked = lambda scores, mask: scores


@SCALED_DOT_PRODUCT_ATTENTION.mistake("masked_fill(~mask, -math.inf)")
def mask_inverted(steps: Any) -> None:
    """The mask is inverted: True means attend."""
    masked, cleared = steps.masked, steps.cleared
    steps.masked = lambda scores, mask: masked(scores, ~mask)
    steps.cleared = lambda weights, mask: cleared(weights, ~mask)


@SCALED_DOT_PRODUCT_ATTENTION.mistake("masked_fill(~mask, -math.inf)")
def mask_ignored(steps: Any) -> None:
    """The mask is not used: padding and later tokens are attended to."""
    steps.masked = lambda scores, mask: scores
    steps.cleared = lambda weights, mask: weights


@SCALED_DOT_PRODUCT_ATTENTION.mistake("masked_fill(~mask, -math.inf)")
def masked_scores_of_zero(steps: Any) -> None:
    """Masked scores are set to 0, and exp(0) = 1 is a weight like others; set them to -inf."""
    steps.masked = lambda scores, mask: scores.masked_fill(~mask, 0.0)
    steps.cleared = lambda weights, mask: weights


@SCALED_DOT_PRODUCT_ATTENTION.mistake("-inf fits every dtype")
def large_negative_number(steps: Any) -> None:
    """Masked scores are set to -1e9, which float16 cannot hold; -inf fits every dtype."""
    steps.masked = lambda scores, mask: scores.masked_fill(~mask, -1e9)


@SCALED_DOT_PRODUCT_ATTENTION.mistake("is NaN, which the second fill turns into zeros")
def weights_of_queries_without_a_key(steps: Any) -> None:
    """A query whose keys are all masked gives NaN (after -inf) or the mean of all values (after a
    large negative number); it should give zeros, so set its weights to 0 after the softmax.
    """
    steps.cleared = lambda weights, mask: weights


@SCALED_DOT_PRODUCT_ATTENTION.mistake("scores.softmax(dim=-1)")
def no_gradient_through_the_weights(steps: Any) -> None:
    """The values are right, but queries and keys get no gradient: the weights are detached."""
    normalized = steps.normalized
    steps.normalized = lambda scores: normalized(scores).detach()

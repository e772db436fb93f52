"""Attention, from the softmax to several heads ("Attention Is All You Need", section 3.2).

B batch, T query tokens, S key tokens, H heads, D head size, E hidden size.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.exercises.exercise import Exercise, Mistake
from minitransformer.exercises.inputs import HALF_PRECISION, normal, real_tokens, weights
from minitransformer.exercises.runner import Case
from minitransformer.layers import attention as reference
from minitransformer.layers.kv_cache import KeyValues

# A softmax in float32, as in Hugging Face's models, is right for float64 as well.
SOFTMAX_ROUNDING = 1e-6
# Where all keys are masked, a large negative number + score keeps few digits of the score.
MASKED_ROUNDING = 1e-3


# ---- softmax ----


def softmax(scores: Tensor) -> Tensor:
    """exp(x) / sum of exp(x) over the last dimension.

    Must not overflow for large scores: softmax(x) = softmax(x - max(x)). A score of -inf gives a
    probability of 0, as masks need it; a row of nothing but -inf may give NaN. Half precision may
    be computed in float32; float64 is computed in float64.

    Write it from basic operations, to see what it does; PyTorch's own softmax is accepted, too.

    Source: "Attention Is All You Need", equation 1.

    Args:
        scores: (..., S), of any float dtype.

    Returns:
        (..., S), of the same dtype; each row sums to 1.
    """
    raise NotImplementedError("write me")


class SoftmaxSteps:
    """`torch.softmax` as it is computed."""

    def computed(self, scores: Tensor) -> Tensor:
        """The scores in the dtype of the result."""
        return scores

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
        exponentials = self.exponentials(self.shifted(self.computed(scores)))
        return exponentials / self.total(exponentials)


def softmax_cases() -> Iterator[Case]:
    """Rows of two and more scores; large ones; masked ones; half precision; no rows at all."""
    yield Case("one row of two scores", {"scores": torch.tensor([[0.0, 1.0]], dtype=torch.float64)})
    yield Case("two rows", {"scores": normal(2, 3)})
    yield Case("four dimensions", {"scores": normal(2, 3, 4, 5)})
    yield Case("as many rows as scores", {"scores": normal(4, 4)})
    yield Case("large scores", {"scores": 1000 * normal(4, 4)})
    yield Case("very negative scores", {"scores": normal(3, 4) - 2000})
    masked = normal(3, 4)
    masked[:, 2] = -math.inf
    yield Case("one score of -inf", {"scores": masked})
    yield Case("float32", {"scores": 30 * normal(3, 5, dtype=torch.float32)})
    for name, dtype in HALF_PRECISION.items():
        yield Case(name, {"scores": 5 * normal(3, 5, dtype=dtype)}, gradients=False)
    yield Case("one dimension", {"scores": normal(3)})


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


@SOFTMAX.mistake("exponentials.sum(dim=-1")
def over_dimension_1(steps: Any) -> None:
    """The sum runs over dimension 1, which is the last of a matrix only; attention scores have
    four dimensions, so name the last one (dim=-1).
    """
    steps.total = lambda exponentials: exponentials.sum(dim=1, keepdim=True)


@SOFTMAX.mistake("exponentials.sum(dim=-1, keepdim=True)")
def sum_without_keepdim(steps: Any) -> None:
    """The sum loses its dimension, so broadcasting divides column j by the sum of row j, or fails;
    keep the dimension (keepdim=True).
    """
    steps.total = lambda exponentials: exponentials.sum(dim=-1)


@SOFTMAX.mistake("scores.amax(dim=-1, keepdim=True)")
def largest_without_keepdim(steps: Any) -> None:
    """The maximum loses its dimension, so broadcasting subtracts the maximum of row j from column
    j, or fails; keep the dimension (keepdim=True).
    """
    steps.shifted = lambda scores: scores - scores.amax(dim=-1)


@SOFTMAX.mistake("scores - scores.amax")
def smallest_subtracted(steps: Any) -> None:
    """The smallest score is subtracted, so the others are positive and their exponentials can
    overflow; subtract the largest.
    """
    steps.shifted = lambda scores: scores - scores.amin(dim=-1, keepdim=True)


@SOFTMAX.mistake("over the last dimension", of=softmax)
def softmax_over_the_first_dimension(steps: Any) -> None:
    """The softmax runs over the first dimension (dim=0), so columns sum to 1; each row should, so
    let it run over the last one (dim=-1).
    """
    _over(0, steps)


@SOFTMAX.mistake("over the last dimension", of=softmax)
def softmax_over_dimension_1(steps: Any) -> None:
    """The softmax runs over dimension 1, which is the last of a matrix only; attention scores have
    four dimensions, so name the last one (dim=-1).
    """
    _over(1, steps)


def _over(dim: int, steps: Any) -> None:
    steps.shifted = lambda scores: scores - scores.amax(dim, keepdim=True)
    steps.total = lambda exponentials: exponentials.sum(dim, keepdim=True)


@SOFTMAX.mistake("of the same dtype", of=softmax)
def always_float32(steps: Any) -> None:
    """The scores are converted to float32, and the result stays so whatever they were; give it the
    dtype of the scores, and compute float64 in float64.
    """
    steps.computed = lambda scores: scores.float()


@SOFTMAX.mistake("of the same dtype", of=softmax)
def half_precision_to_float32(steps: Any) -> None:
    """Scores in half precision are computed in float32, which is right, but the result stays so;
    convert it to the dtype of the scores.
    """
    steps.computed = lambda scores: scores.to(torch.promote_types(scores.dtype, torch.float32))


# ---- scaled dot-product attention ----


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V: each query takes a weighted mean of the values.

    A query attends to the keys where its mask is True. A query whose keys are all masked takes
    nothing: its result is zeros, and so is its gradient.

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


class AttentionSteps:
    """`attention_weights` in steps."""

    def scaling(self, query: Tensor, key: Tensor) -> float:
        """Factor of the scores."""
        return 1.0 / math.sqrt(query.shape[-1])

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, H, T, S)."""
        return (query * self.scaling(query, key)) @ key.transpose(-2, -1)

    def left_out(self, mask: Tensor) -> Tensor:
        """True where there is no attention."""
        return ~mask

    def fill_value(self, scores: Tensor) -> float:
        """The score there."""
        return -math.inf

    def masked(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Scores that give a weight of zero where there is no attention."""
        return scores.masked_fill(self.left_out(mask), self.fill_value(scores))

    def normalized(self, scores: Tensor) -> Tensor:
        """Weights that sum to 1 for each query."""
        return scores.softmax(dim=-1)

    def cleared(self, weights: Tensor, mask: Tensor) -> Tensor:
        """Zeros for queries without a key, in place of NaN."""
        return weights.masked_fill(self.left_out(mask), 0.0)

    def weights(
        self, query: Tensor, key: Tensor, mask: Tensor | None, bias: Tensor | None = None
    ) -> Tensor:
        """(B, H, T, S), from scores to which T5 adds a bias."""
        scores = self.scores(query, key)
        scores = scores if bias is None else scores + bias
        if mask is None:
            return self.normalized(scores)
        return self.cleared(self.normalized(self.masked(scores, mask)), mask)


class ScaledDotProductAttentionSteps(AttentionSteps):
    """`eager_attention` in steps."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return self.weights(query, key, mask) @ value  # (B, H, T, D)


def attention_cases() -> Iterator[Case]:
    """From one token and two keys to masks of every kind, half precision, and large scores."""

    def case(
        label: str,
        *sizes: int,
        mask: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
        factor: float = 1.0,
        tolerance: float | None = SOFTMAX_ROUNDING,
    ) -> Case:
        batch, heads, queries, keys, size = sizes
        inputs = {
            "query": factor * normal(batch, heads, queries, size, seed=1, dtype=dtype),
            "key": normal(batch, heads, keys, size, seed=2, dtype=dtype),
            "value": normal(batch, heads, keys, size, seed=3, dtype=dtype),
            "mask": mask,
        }
        gradients = dtype.itemsize > 2 and factor == 1.0
        return Case(label, inputs, gradients=gradients, tolerance=tolerance)

    right = real_tokens(3, 5, total=5)[:, None, None]  # (B, 1, 1, S)
    left = real_tokens(3, 5, total=5, left=True)[:, None, None]
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    nothing = torch.tensor([[True, False], [False, False]])
    single = torch.float32
    yield case("one query, two keys", 1, 1, 1, 2, 2)
    yield case("two queries, three keys", 1, 1, 2, 3, 2)
    yield case("as many queries as keys", 1, 1, 3, 3, 4)
    yield case("two sequences, three heads", 2, 3, 4, 5, 6)
    yield case("padding on the right", 2, 3, 4, 5, 6, mask=right)
    yield case("padding on the left", 2, 3, 4, 5, 6, mask=left)
    yield case("a causal mask", 2, 2, 4, 4, 3, mask=causal)
    yield case("a query without a key", 1, 1, 2, 2, 2, mask=nothing, tolerance=MASKED_ROUNDING)
    yield case("float32", 2, 3, 4, 5, 6, mask=right, dtype=single, tolerance=None)
    yield case("large scores", 1, 2, 3, 4, 4, dtype=single, factor=1000.0, tolerance=1e-3)
    for name, dtype in HALF_PRECISION.items():
        label = f"{name}, padding on the right"
        yield case(label, 2, 3, 4, 5, 6, mask=right, dtype=dtype, tolerance=None)


def install_attention(module: Any, steps: Any) -> None:
    """Let an attention module of the library attend with these steps."""
    if not isinstance(module, reference.MultiHeadAttention):
        return
    if module.scale is not None and "scaling" not in vars(steps):  # not a mistake in it
        scale = module.scale  # 1 in T5
        steps.scaling = lambda query, key: scale

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        scale: float | None,
        dropout: float,
        output_attentions: bool,
    ) -> tuple[Tensor, Tensor | None]:
        weights = steps.weights(query, key, mask, bias)
        return F.dropout(weights, dropout) @ value, weights if output_attentions else None

    module.attend = attend


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
    steps.scaling = lambda query, key: 1.0


@SCALED_DOT_PRODUCT_ATTENTION.mistake("1.0 / math.sqrt")
def scale_by_D(steps: Any) -> None:
    """The scores are divided by D; divide by its root, which is their standard deviation."""
    steps.scaling = lambda query, key: 1.0 / query.shape[-1]


@SCALED_DOT_PRODUCT_ATTENTION.mistake("1.0 / math.sqrt")
def multiplied_by_the_root(steps: Any) -> None:
    """The scores are multiplied by sqrt(D); divide by it."""
    steps.scaling = lambda query, key: math.sqrt(query.shape[-1])


@SCALED_DOT_PRODUCT_ATTENTION.mistake("1.0 / math.sqrt")
def scale_by_queries(steps: Any) -> None:
    """The scores are divided by the root of T, the number of queries; divide by sqrt(D), the size
    of a head, which is the last dimension of the query.
    """
    steps.scaling = lambda query, key: 1.0 / math.sqrt(query.shape[-2])


@SCALED_DOT_PRODUCT_ATTENTION.mistake("1.0 / math.sqrt")
def scale_by_keys(steps: Any) -> None:
    """The scores are divided by the root of S, the number of keys; divide by sqrt(D), the size of a
    head, which is the last dimension of the key.
    """
    steps.scaling = lambda query, key: 1.0 / math.sqrt(key.shape[-2])


@SCALED_DOT_PRODUCT_ATTENTION.mistake("1.0 / math.sqrt")
def scale_by_all_heads(steps: Any) -> None:
    """The scores are divided by sqrt(H * D), the root of the hidden size; a score is a sum over
    one head, so divide by sqrt(D).
    """
    steps.scaling = lambda query, key: 1.0 / math.sqrt(query.shape[1] * query.shape[-1])


@SCALED_DOT_PRODUCT_ATTENTION.mistake("key.transpose(-2, -1)")
def reshaped_key(steps: Any) -> None:
    """The keys are reshaped to (D, S), which mixes numbers of different tokens; transpose them."""
    steps.scores = lambda query, key: (
        query
        * steps.scaling(query, key)
        @ key.reshape(*key.shape[:-2], key.shape[-1], key.shape[-2])
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


@SCALED_DOT_PRODUCT_ATTENTION.mistake("softmax(dim=-1).masked_fill")
def no_softmax(steps: Any) -> None:
    """The values are weighted by the scores themselves; their softmax is missing."""
    steps.normalized = lambda scores: scores


@SCALED_DOT_PRODUCT_ATTENTION.mistake("softmax(dim=-1).masked_fill")
def softmax_that_overflows(steps: Any) -> None:
    """exp of a large score is infinite, and infinity / infinity is NaN; torch's softmax subtracts
    each row's largest score first, as should your own.
    """
    steps.normalized = lambda scores: scores.exp() / scores.exp().sum(dim=-1, keepdim=True)


@SCALED_DOT_PRODUCT_ATTENTION.mistake("scores.masked_fill(~mask, -math.inf)")
def mask_after_the_softmax(steps: Any) -> None:
    """Weights are set to zero after the softmax, so those that stay do not sum to 1; mask the
    scores before it.
    """
    steps.masked = lambda scores, mask: scores


@SCALED_DOT_PRODUCT_ATTENTION.mistake("masked_fill(~mask, -math.inf)")
def mask_inverted(steps: Any) -> None:
    """The mask is inverted: True means attend."""
    steps.left_out = lambda mask: mask


@SCALED_DOT_PRODUCT_ATTENTION.mistake("masked_fill(~mask, -math.inf)")
def mask_ignored(steps: Any) -> None:
    """The mask is not used: what it hides, such as padding, is attended to."""
    steps.masked = lambda scores, mask: scores
    steps.cleared = lambda weights, mask: weights


@SCALED_DOT_PRODUCT_ATTENTION.mistake("masked_fill(~mask, -math.inf)")
def masked_scores_of_zero(steps: Any) -> None:
    """Masked scores are set to 0, or to -1e-9 in place of -1e9, and exp(0) = 1 is a weight like
    others; set them to -inf.
    """
    steps.fill_value = lambda scores: 0.0
    steps.cleared = lambda weights, mask: weights


@SCALED_DOT_PRODUCT_ATTENTION.mistake("masked_fill(~mask, -math.inf)")
def masked_scores_of_zero_except_without_a_key(steps: Any) -> None:
    """Masked scores are set to 0, or to -1e-9 in place of -1e9, and exp(0) = 1 is a weight like
    others; only where all keys are masked are the weights cleared. Set masked scores to -inf.
    """
    steps.fill_value = lambda scores: 0.0
    steps.cleared = lambda weights, mask: weights.masked_fill(
        steps.left_out(mask).all(dim=-1, keepdim=True), 0.0
    )


@SCALED_DOT_PRODUCT_ATTENTION.mistake("masked_fill(~mask, -math.inf)")
def masked_scores_of_zero_in_the_sum(steps: Any) -> None:
    """Masked scores are set to 0, or to -1e-9 in place of -1e9: the weights of masked keys are
    cleared, but each adds exp(0) = 1 to the sum in the softmax, so that the others do not sum to 1.
    Set masked scores to -inf.
    """
    steps.fill_value = lambda scores: 0.0


@SCALED_DOT_PRODUCT_ATTENTION.mistake("-inf fits every dtype")
def large_negative_number(steps: Any) -> None:
    """Masked scores are set to -1e9, which float16 cannot hold; -inf fits every dtype."""
    steps.fill_value = lambda scores: -1e9


@SCALED_DOT_PRODUCT_ATTENTION.mistake("-inf fits every dtype")
def large_negative_number_alone(steps: Any) -> None:
    """Masked scores are set to -1e9, which float16 cannot hold; and a query whose keys are all
    masked has equal scores and takes the mean of all values. Set them to -inf, which fits every
    dtype, and the weights of masked keys to 0 after the softmax.
    """
    large_negative_number(steps)
    weights_of_queries_without_a_key(steps)


@SCALED_DOT_PRODUCT_ATTENTION.mistake("is NaN, which the second fill turns into zeros")
def mean_of_masked_values(steps: Any) -> None:
    """Masked scores are set to a large negative number, so a query whose keys are all masked has
    equal scores and takes the mean of all values; it should take nothing, so set its weights to 0
    after the softmax.
    """
    steps.fill_value = lambda scores: torch.finfo(scores.dtype).min
    steps.cleared = lambda weights, mask: weights


@SCALED_DOT_PRODUCT_ATTENTION.mistake("is NaN, which the second fill turns into zeros")
def large_negative_number_added(steps: Any) -> None:
    """A large negative number is added to masked scores, so a query whose keys are all masked
    attends as if none was, since the softmax is blind to what all scores share; it should take
    nothing, so set its weights to 0 after the softmax.
    """
    steps.masked = lambda scores, mask: scores + steps.left_out(mask).to(scores.dtype) * -1e9
    steps.cleared = lambda weights, mask: weights


@SCALED_DOT_PRODUCT_ATTENTION.mistake("the gradient as well")
def infinity_added(steps: Any) -> None:
    """The values are right, but a query whose keys are all masked makes gradients NaN: adding -inf
    passes the NaN of its softmax on. Use masked_fill or where, whose gradient is 0 there.
    """
    steps.masked = lambda scores, mask: (
        scores + scores.new_zeros(mask.shape).masked_fill(steps.left_out(mask), -math.inf)
    )


@SCALED_DOT_PRODUCT_ATTENTION.mistake("masked_fill(~mask, -math.inf)")
def mask_added(steps: Any) -> None:
    """The bool mask is added to the scores, as 1 and 0, which only raises those that count; set
    the others to -inf.
    """
    steps.masked = lambda scores, mask: scores + mask
    steps.cleared = lambda weights, mask: weights


@SCALED_DOT_PRODUCT_ATTENTION.mistake("is NaN, which the second fill turns into zeros")
def weights_of_queries_without_a_key(steps: Any) -> None:
    """A query whose keys are all masked gives NaN, the softmax of nothing but -inf; it should give
    zeros, so set its weights to 0 after the softmax.
    """
    steps.cleared = lambda weights, mask: weights


@SCALED_DOT_PRODUCT_ATTENTION.mistake("scores.softmax(dim=-1)")
def no_gradient_through_the_weights(steps: Any) -> None:
    """The values are right, but queries and keys get no gradient: the weights are detached."""
    normalized = steps.normalized
    steps.normalized = lambda scores: normalized(scores).detach()


# ---- padding mask ----


def padding_mask(attention_mask: Tensor) -> Tensor:
    """The padding mask in the shape of attention scores: no query attends to padding.

    Where sequence b has a real token at s, the result is True at [b, 0, 0, s]. It is combined with
    other masks by `&`, and broadcast to (B, H, T, S): each head and each query see the same keys.

    Source: "Attention Is All You Need", section 3.2.3, has the masking.

    Args:
        attention_mask: (B, S) bool, True at real tokens, False at padding, on either side.

    Returns:
        (B, 1, 1, S) bool, True = attend.
    """
    raise NotImplementedError("write me")


class PaddingMaskSteps:
    """`padding_mask` in steps."""

    def values(self, attention_mask: Tensor) -> Tensor:
        """What stands at each token."""
        return attention_mask

    def shaped(self, mask: Tensor) -> Tensor:
        """(B, 1, 1, S)."""
        return mask[:, None, None, :]

    def __call__(self, attention_mask: Tensor) -> Tensor:
        return self.shaped(self.values(attention_mask))


def padding_mask_cases() -> Iterator[Case]:
    """One sequence and more, padding on both sides, and none."""

    def case(label: str, attention_mask: Tensor) -> Case:
        return Case(label, {"attention_mask": attention_mask}, gradients=False)

    yield case("one sequence, one padding token", real_tokens(1, total=2))
    yield case("padding on the right", real_tokens(3, 1, total=4))
    yield case("padding on the left", real_tokens(2, 5, 1, total=5, left=True))
    yield case("as many sequences as tokens", real_tokens(1, 3, 2, total=3))
    yield case("no padding", real_tokens(3, 3, total=3))
    yield case("one token", real_tokens(1, 1, total=1))


PADDING_MASK = Exercise(
    template=padding_mask,
    reference=reference.padding_mask,
    steps=PaddingMaskSteps,
    cases=padding_mask_cases,
    title="the mask that hides padding",
)


@PADDING_MASK.mistake("True at real tokens")
def padding_mask_inverted(steps: Any) -> None:
    """The mask is True at padding, as PyTorch's key_padding_mask; here True means attend."""
    values = steps.values
    steps.values = lambda attention_mask: values(~attention_mask)


@PADDING_MASK.mistake("bool, True at real tokens")
def padding_mask_of_numbers(steps: Any) -> None:
    """The mask is made of 1.0 and 0.0; keep it bool, which `&` and `masked_fill` need."""
    values = steps.values
    steps.values = lambda attention_mask: values(attention_mask).float()


@PADDING_MASK.mistake("bool, True at real tokens")
def padding_mask_to_add(steps: Any) -> None:
    """The mask is 0 and -inf, to be added to the scores; give the bool mask itself, which `&`
    combines with others and which fits every dtype.
    """
    _filled_with(-math.inf, steps)


@PADDING_MASK.mistake("bool, True at real tokens")
def padding_mask_of_minus_10000(steps: Any) -> None:
    """The mask is 0 and -10000, to be added to the scores, as in BERT's first code; give the bool
    mask itself, which `&` combines with others and which hides padding whatever the scores are.
    """
    _filled_with(-10_000.0, steps)


@PADDING_MASK.mistake("bool, True at real tokens")
def padding_mask_of_minus_1e9(steps: Any) -> None:
    """The mask is 0 and -1e9, to be added to the scores; give the bool mask itself, which `&`
    combines with others and which fits every dtype: float16 cannot hold -1e9.
    """
    _filled_with(-1e9, steps)


@PADDING_MASK.mistake("bool, True at real tokens")
def padding_mask_of_the_smallest_number(steps: Any) -> None:
    """The mask is 0 and the smallest number of float32 (torch.finfo), to be added to the scores, as
    in Hugging Face; give the bool mask itself, which `&` combines with others. Two such masks
    added up are -inf.
    """
    _filled_with(torch.finfo(torch.float32).min, steps)


def _filled_with(number: float, steps: Any) -> None:
    """The mask is 0 at real tokens and this number at padding."""
    values = steps.values
    steps.values = lambda attention_mask: torch.zeros(attention_mask.shape).masked_fill(
        ~values(attention_mask), number
    )


@PADDING_MASK.mistake("to (B, 1, 1, S)")
def padding_mask_without_heads(steps: Any) -> None:
    """The dimension of the heads is missing: (B, 1, S) is broadcast as (1, B, 1, S), so sequence b
    would decide what head b sees.
    """
    steps.shaped = lambda mask: mask[:, None, :]


@PADDING_MASK.mistake("to (B, 1, 1, S)")
def padding_mask_unshaped(steps: Any) -> None:
    """The mask keeps the shape (B, S), which is broadcast as (1, 1, B, S), so sequence b would
    decide what query b sees; put two dimensions of size 1 between.
    """
    steps.shaped = lambda mask: mask


@PADDING_MASK.mistake("to (B, 1, 1, S)")
def padding_mask_of_queries(steps: Any) -> None:
    """The tokens stand in the dimension of the queries: padding would attend to nothing, and real
    tokens to padding. The last dimension is that of the keys.
    """
    steps.shaped = lambda mask: mask[:, None, :, None]


@PADDING_MASK.mistake("to (B, 1, 1, S)")
def padding_mask_square(steps: Any) -> None:
    """The mask hides padding as queries too, (B, 1, S, S): it cannot be used where queries are
    other tokens than the keys, as with a cache or an encoder, and what padding computes is not
    used anyway.
    """
    steps.shaped = lambda mask: mask[:, None, :, None] * mask[:, None, None, :]


@PADDING_MASK.mistake("to (B, 1, 1, S)")
def padding_mask_repeated(steps: Any) -> None:
    """The mask is repeated for each query, (B, 1, S, S): it takes S times the memory, and fits no
    other number of queries; a dimension of size 1 is broadcast.
    """
    steps.shaped = lambda mask: mask[:, None, None, :].repeat(1, 1, mask.shape[-1], 1)


@PADDING_MASK.mistake("to (B, 1, 1, S)")
def no_mask_without_padding(steps: Any) -> None:
    """Without padding the result is None, so that its type depends on the values: `&` with it
    fails then, and on a GPU the program waits for the values.
    """
    values, shaped = steps.values, steps.shaped
    steps.values = lambda attention_mask: None if attention_mask.all() else values(attention_mask)
    steps.shaped = lambda mask: None if mask is None else shaped(mask)


# ---- causal mask ----


def causal_mask(query_positions: Tensor, num_keys: int) -> Tensor:
    """The mask of a decoder: a query attends to the keys up to its own position, its own included.

    The result is True at [0, 0, t, s] where s <= query_positions[t]. The keys stand at positions 0,
    1, ..., S - 1. Without a cache the queries are the same tokens: query_positions is 0, 1, 2, ...
    With a cache of earlier keys only new tokens are queries: positions begin with the number of
    cached tokens, and a cache of a fixed size has keys after them, which are still empty.

    Source: "Attention Is All You Need", section 3.2.3.

    Args:
        query_positions: (T,) int64, the positions of the queries among the S keys.
        num_keys: S.

    Returns:
        (1, 1, T, S) bool, True = attend.
    """
    raise NotImplementedError("write me")


class CausalMaskSteps:
    """`causal_mask` in steps."""

    def positions(self, query_positions: Tensor, num_keys: int) -> Tensor:
        """(T,), those of the queries among the keys."""
        return query_positions

    def compared(self, keys: Tensor, queries: Tensor) -> Tensor:
        """Whether keys at these positions are seen by queries at those."""
        return keys <= queries

    def shaped(self, mask: Tensor) -> Tensor:
        """(1, 1, T, S)."""
        return mask[None, None]

    def __call__(self, query_positions: Tensor, num_keys: int) -> Tensor:
        queries = self.positions(query_positions, num_keys)[:, None]  # (T, 1)
        return self.shaped(self.compared(torch.arange(num_keys), queries))


def causal_mask_cases() -> Iterator[Case]:
    """Without a cache, with one, and with one of a fixed size."""

    def case(label: str, positions: range, num_keys: int) -> Case:
        inputs = {"query_positions": torch.tensor(positions), "num_keys": num_keys}
        return Case(label, inputs, gradients=False)

    yield case("two tokens", range(2), 2)
    yield case("four tokens", range(4), 4)
    yield case("one token", range(1), 1)
    yield case("two new tokens after two in the cache", range(2, 4), 4)
    yield case("one new token after three in the cache", range(3, 4), 4)
    yield case("a cache of six places, of which four are in use", range(2, 4), 6)


CAUSAL_MASK = Exercise(
    template=causal_mask,
    reference=reference.causal_mask,
    steps=CausalMaskSteps,
    cases=causal_mask_cases,
    title="the mask that hides later tokens, with a cache or without",
)


@CAUSAL_MASK.mistake("up to their own position")
def own_token_hidden(steps: Any) -> None:
    """A token does not attend to itself, and the first one to nothing; s <= t includes it."""
    steps.compared = lambda keys, queries: keys < queries


@CAUSAL_MASK.mistake("up to their own position")
def next_token_seen(steps: Any) -> None:
    """The mask is shifted by one: each query sees the token that it should predict. Leave out
    what comes after its own position.
    """
    steps.compared = lambda keys, queries: keys <= queries + 1


@CAUSAL_MASK.mistake("up to their own position")
def causal_mask_inverted(steps: Any) -> None:
    """The mask is True at later tokens, those to hide; here True means attend."""
    steps.compared = lambda keys, queries: keys > queries


@CAUSAL_MASK.mistake("up to their own position")
def later_tokens_seen(steps: Any) -> None:
    """A query sees its own token and later ones (triu); it should see earlier ones (tril)."""
    steps.compared = lambda keys, queries: keys >= queries


@CAUSAL_MASK.mistake("up to their own position")
def all_keys_seen(steps: Any) -> None:
    """Every query sees every key, so that the model reads the answer; compare positions."""
    steps.compared = lambda keys, queries: (keys + queries) >= 0


@CAUSAL_MASK.mistake("query_positions: int64")
def positions_from_zero(steps: Any) -> None:
    """The queries are counted from 0, which forgets the cached tokens before them: use the
    positions that are given.
    """
    steps.positions = lambda positions, num_keys: torch.arange(len(positions))


@CAUSAL_MASK.mistake("queries at positions (T,)")
def queries_taken_for_the_last_keys(steps: Any) -> None:
    """The last query is taken to stand at the last key, so in a cache of a fixed size empty places
    are seen: use the positions that are given.
    """
    steps.positions = lambda positions, num_keys: (
        torch.arange(len(positions)) + num_keys - len(positions)
    )


@CAUSAL_MASK.mistake("(1, 1, T, S) bool")
def a_query_for_every_key(steps: Any) -> None:
    """The mask is (S, S) whatever the queries are; with a cache only new tokens are queries, so it
    has T rows.
    """
    steps.positions = lambda positions, num_keys: torch.arange(num_keys)


@CAUSAL_MASK.mistake("(1, 1, T, S) bool")
def queries_in_the_last_dimension(steps: Any) -> None:
    """The queries stand in the last dimension, (S, T), and the keys before; the scores are
    (T, S), queries by keys.
    """
    shaped = steps.shaped
    steps.shaped = lambda mask: shaped(mask.T)


@CAUSAL_MASK.mistake("(1, 1, T, S) bool")
def causal_mask_of_two_dimensions(steps: Any) -> None:
    """The mask is (T, S); put two dimensions of size 1 before, those of sequences and heads."""
    steps.shaped = lambda mask: mask


@CAUSAL_MASK.mistake("(1, 1, T, S) bool")
def causal_mask_of_numbers(steps: Any) -> None:
    """The mask is made of 1.0 and 0.0, as tril(ones) is; it should be bool, which `&` and
    `masked_fill` need.
    """
    shaped = steps.shaped
    steps.shaped = lambda mask: shaped(mask).float()


@CAUSAL_MASK.mistake("(1, 1, T, S) bool")
def causal_mask_to_add(steps: Any) -> None:
    """The mask is 0 and -inf, to be added to the scores; give a bool mask, True = attend, which `&`
    combines with others and which fits every dtype.
    """
    shaped = steps.shaped
    steps.shaped = lambda mask: shaped(torch.zeros(mask.shape).masked_fill(~mask, -math.inf))


# ---- splitting heads ----


def split_heads(projected: Tensor, num_heads: int) -> Tensor:
    """Give each head its own part of every token: (B, T, H * D) to (B, H, T, D).

    Head h has the numbers h * D to (h + 1) * D - 1 of a token, side by side:
    result[b, h, t, d] = projected[b, t, h * D + d].

    Source: "Attention Is All You Need", section 3.2.2.

    Args:
        projected: (B, T, H * D): queries, keys or values of all heads, side by side.
        num_heads: H.

    Returns:
        (B, H, T, D).
    """
    raise NotImplementedError("write me")


class SplitHeadsSteps:
    """`MultiHeadAttention.split_heads` in steps."""

    def divided(self, projected: Tensor, num_heads: int) -> Tensor:
        """(B, T, H, D)."""
        return projected.unflatten(-1, (num_heads, -1))

    def arranged(self, heads: Tensor) -> Tensor:
        """(B, H, T, D)."""
        return heads.transpose(1, 2)

    def __call__(self, projected: Tensor, num_heads: int) -> Tensor:
        return self.arranged(self.divided(projected, num_heads))


def split_heads_cases() -> Iterator[Case]:
    """Sizes that differ, sizes that do not, one head."""

    def case(label: str, *sizes: int) -> Case:
        batch, tokens, heads, size = sizes
        projected = torch.arange(batch * tokens * heads * size, dtype=torch.float64)
        inputs = {"projected": projected.view(batch, tokens, heads * size), "num_heads": heads}
        return Case(label, inputs)

    yield case("one token, two heads", 1, 1, 2, 2)
    yield case("two tokens, two heads", 1, 2, 2, 2)
    yield case("two tokens, three heads of two numbers", 1, 2, 3, 2)
    yield case("three tokens, two heads of four numbers", 2, 3, 2, 4)
    yield case("one head", 2, 3, 1, 4)


def install_split_heads(module: Any, steps: Any) -> None:
    """Let an attention module of the library split heads with these steps."""
    if isinstance(module, reference.MultiHeadAttention):
        module.split_heads = lambda projected: steps(projected, module.num_heads)  # type: ignore[method-assign]


SPLIT_HEADS = Exercise(
    template=split_heads,
    reference=reference.MultiHeadAttention.split_heads,
    steps=SplitHeadsSteps,
    cases=split_heads_cases,
    install=install_split_heads,
    title="from a projection to heads",
)


@SPLIT_HEADS.mistake("(B, T, H * D) to (B, H, T, D)")
def split_without_transposing(steps: Any) -> None:
    """The result is (B, T, H, D): heads and tokens have to change places (transpose(1, 2)), or
    attention runs over the heads of one token.
    """
    steps.arranged = lambda heads: heads


@SPLIT_HEADS.mistake("(B, T, H * D) to (B, H, T, D)")
def split_by_reshaping(steps: Any) -> None:
    """The projection is reshaped to (B, H, T, D), which has the right shape but gives a head
    numbers of other heads and tokens: reshape to (B, T, H, D), then transpose.
    """
    steps.arranged = lambda heads: heads.reshape(
        heads.shape[0], heads.shape[2], heads.shape[1], heads.shape[3]
    )


@SPLIT_HEADS.mistake("(B, T, H * D) to (B, H, T, D)")
def heads_interleaved(steps: Any) -> None:
    """The last dimension is taken as (D, H), so a head gets every H-th number; it is (H, D): a
    head's numbers are side by side, as checkpoints have them.
    """
    steps.divided = lambda projected, num_heads: projected.unflatten(-1, (-1, num_heads)).mT


@SPLIT_HEADS.mistake("(B, T, H * D) to (B, H, T, D)")
def number_of_heads_as_their_size(steps: Any) -> None:
    """The number of heads is taken for their size: there are D heads of size H."""
    steps.divided = lambda projected, num_heads: projected.unflatten(-1, (-1, num_heads))


@SPLIT_HEADS.mistake("(B, T, H * D) to (B, H, T, D)")
def tokens_last(steps: Any) -> None:
    """The result is (B, H, D, T), which suits K^T alone; the tokens come before the numbers."""
    arranged = steps.arranged
    steps.arranged = lambda heads: arranged(heads).mT


@SPLIT_HEADS.mistake("(B, T, H * D) to (B, H, T, D)")
def heads_before_sequences(steps: Any) -> None:
    """The result is (H, B, T, D), as stacked chunks are; the sequences come first."""
    steps.arranged = lambda heads: heads.permute(2, 0, 1, 3)


@SPLIT_HEADS.mistake("(B, T, H * D) to (B, H, T, D)")
def heads_in_the_batch(steps: Any) -> None:
    """Sequences and heads share a dimension, (B * H, T, D); masks of four dimensions do not fit
    that, so keep both.
    """
    arranged = steps.arranged
    steps.arranged = lambda heads: arranged(heads).flatten(0, 1)


@SPLIT_HEADS.mistake("(B, T, H * D) to (B, H, T, D)")
def tokens_for_sequences(steps: Any) -> None:
    """The input is taken as (T, B, E), with the tokens first, as PyTorch's own module does by
    default; sequences come first.
    """
    steps.arranged = lambda heads: heads.transpose(0, 1).transpose(1, 2)


# ---- merging heads ----


def merge_heads(attended: Tensor) -> Tensor:
    """Put the results of all heads side by side again: (B, H, T, D) to (B, T, H * D).

    It undoes the splitting: result[b, t, h * D + d] = attended[b, h, t, d].

    Source: "Attention Is All You Need", section 3.2.2: Concat(head_1, ..., head_h).

    Args:
        attended: (B, H, T, D).

    Returns:
        (B, T, H * D).
    """
    raise NotImplementedError("write me")


class MergeHeadsSteps:
    """The end of `MultiHeadAttention.attend_and_merge` in steps."""

    def arranged(self, attended: Tensor) -> Tensor:
        """(B, T, H, D)."""
        return attended.transpose(1, 2)

    def flattened(self, heads: Tensor) -> Tensor:
        """(B, T, H * D)."""
        return heads.flatten(2)

    def __call__(self, attended: Tensor) -> Tensor:
        return self.flattened(self.arranged(attended))


def merge_heads_cases() -> Iterator[Case]:
    """Sizes that differ, sizes that do not, one head."""

    def case(label: str, *sizes: int) -> Case:
        attended = torch.arange(math.prod(sizes), dtype=torch.float64).view(sizes)
        return Case(label, {"attended": attended})

    yield case("two heads, one token", 1, 2, 1, 2)
    yield case("two heads, two tokens", 1, 2, 2, 2)
    yield case("three heads, two tokens", 1, 3, 2, 2)
    yield case("two heads, three tokens of four numbers", 2, 2, 3, 4)
    yield case("one head", 2, 1, 3, 4)


MERGE_HEADS = Exercise(
    template=merge_heads,
    reference=reference.MultiHeadAttention.attend_and_merge,
    steps=MergeHeadsSteps,
    cases=merge_heads_cases,
    title="from heads back to tokens",
)


@MERGE_HEADS.mistake("def attend_and_merge(")
def merged_by_reshaping(steps: Any) -> None:
    """The heads are reshaped to (B, T, H * D) as they are, which mixes tokens: exchange heads and
    tokens first (transpose(1, 2)).
    """
    steps.arranged = lambda attended: attended.reshape(
        attended.shape[0], attended.shape[2], attended.shape[1], attended.shape[3]
    )


@MERGE_HEADS.mistake("def attend_and_merge(")
def merged_without_transposing(steps: Any) -> None:
    """The last two dimensions are flattened with the heads in front, (B, H, T * D); exchange heads
    and tokens first (transpose(1, 2)).
    """
    steps.arranged = lambda attended: attended


@MERGE_HEADS.mistake("def attend_and_merge(")
def heads_not_flattened(steps: Any) -> None:
    """The result is still (B, T, H, D); make one dimension of heads and numbers (flatten(2))."""
    steps.flattened = lambda heads: heads


@MERGE_HEADS.mistake("def attend_and_merge(")
def heads_added(steps: Any) -> None:
    """The heads are added up to (B, T, D); put them side by side."""
    steps.flattened = lambda heads: heads.sum(dim=2)


@MERGE_HEADS.mistake("def attend_and_merge(")
def heads_averaged(steps: Any) -> None:
    """The mean of the heads is taken, (B, T, D), as maps are averaged; put them side by side."""
    steps.flattened = lambda heads: heads.mean(dim=2)


@MERGE_HEADS.mistake("def attend_and_merge(")
def numbers_before_heads(steps: Any) -> None:
    """The heads are interleaved: a token's first H numbers are the first number of each head. All
    numbers of the first head come first.
    """
    flattened = steps.flattened
    steps.flattened = lambda heads: flattened(heads.mT)


@MERGE_HEADS.mistake("def attend_and_merge(")
def heads_as_tokens(steps: Any) -> None:
    """Tokens and heads are flattened into one dimension, (B, T * H, D); heads and numbers should
    be.
    """
    steps.flattened = lambda heads: heads.flatten(1, 2)


@MERGE_HEADS.mistake("def attend_and_merge(")
def flattened_from_the_first_dimension(steps: Any) -> None:
    """flatten() makes one dimension of everything; begin at the third one (flatten(2))."""
    steps.flattened = lambda heads: heads.flatten()


# ---- multi-head attention ----


class MultiHeadAttention(nn.Module):
    """H attentions of size D = E / H side by side, each over its own projection of the tokens.

    output(merge(softmax(split(query(x)) split(key(c))^T / sqrt(D)) split(value(c))))

    x is `hidden`, c is `context`. Four linear layers with a bias, from E to E, are its parameters:
    `query`, `key`, `value`, and `output`, each with `weight` and `bias`. The check loads its own
    weights, so initial values do not matter; there may be no other parameters. split makes
    (B, H, T, D) of (B, T, E): head h has the numbers h * D to (h + 1) * D - 1 of a token. merge
    undoes it. A query whose keys are all masked has weights of zero, without a gradient: all that
    it gets is the bias of `output`. No dropout, no residual connection, no normalization.

    Source: "Attention Is All You Need", section 3.2.2.

    Args:
        hidden_size: E.
        num_heads: H, which divides E.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        raise NotImplementedError("write me")

    def forward(self, hidden: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Each token of `hidden` attends to the tokens of `context`.

        Args:
            hidden: (B, T, E), the tokens that make the queries.
            context: (B, S, E), those that make keys and values: in self-attention the same.
            mask: bool, broadcastable to (B, H, T, S), True = attend; or None.

        Returns:
            (B, T, E).
        """
        raise NotImplementedError("write me")


class MultiHeadAttentionSteps(reference.MultiHeadAttention, AttentionSteps):
    """The library's layer in steps; what makes the weights is `AttentionSteps`."""

    def queries(self, hidden: Tensor, context: Tensor) -> Tensor:
        """(B, H, T, D)."""
        return self.split_heads(self.query(hidden))

    def keys(self, hidden: Tensor, context: Tensor) -> Tensor:
        """(B, H, S, D)."""
        return self.split_heads(self.key(context))

    def values(self, hidden: Tensor, context: Tensor) -> Tensor:
        """(B, H, S, D)."""
        return self.split_heads(self.value(context))

    def scaling(self, query: Tensor, key: Tensor) -> float:
        """Factor of the scores."""
        return super().scaling(query, key) if self.scale is None else self.scale

    def merge_heads(self, attended: Tensor) -> Tensor:
        """(B, T, H * D)."""
        return attended.transpose(1, 2).flatten(2)

    def projected_output(self, merged: Tensor) -> Tensor:
        """(B, T, E)."""
        return self.output(merged)

    def project(self, hidden: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, split into heads."""
        queries = self.queries(hidden, context)
        return queries, self.keys(hidden, context), self.values(hidden, context)

    def attend_and_merge(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        bias: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, E), and the weights or None."""
        weights = self.weights(query, key, mask, bias)  # (B, H, T, S)
        attended = F.dropout(weights, self.dropout, self.training) @ value  # (B, H, T, D)
        merged = self.merge_heads(attended)
        return self.projected_output(merged), weights if output_attentions else None


def _layer_case(
    layer: type[nn.Module],
    label: str,
    *sizes: int,
    mask: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
    tolerance: float | None = SOFTMAX_ROUNDING,
) -> Case:
    """A case of an attention layer: B, T, S, H and D, in this order."""
    batch, queries, keys, heads, size = sizes
    init = {"hidden_size": heads * size, "num_heads": heads}
    state = {name: w.to(dtype) for name, w in weights(layer(**init)).items()}
    inputs = {
        "hidden": normal(batch, queries, heads * size, seed=1, dtype=dtype),
        "context": normal(batch, keys, heads * size, seed=2, dtype=dtype),
        "mask": mask,
    }
    return Case(label, inputs, init, state, tolerance=tolerance)


def multi_head_attention_cases() -> Iterator[Case]:
    """From one head and two tokens to masks of every kind."""
    layer = reference.MultiHeadAttention
    right = real_tokens(3, 5, total=5)[:, None, None]  # (B, 1, 1, S)
    left = real_tokens(3, 5, total=5, left=True)[:, None, None]
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    nothing = torch.tensor([[True, False], [False, False]])
    yield _layer_case(layer, "one head, one query, two keys", 1, 1, 2, 1, 2)
    yield _layer_case(layer, "two heads, as many queries as keys", 1, 3, 3, 2, 2)
    yield _layer_case(layer, "two heads of size 3", 2, 3, 3, 2, 3)
    yield _layer_case(layer, "three heads, more keys than queries", 2, 4, 5, 3, 2)
    yield _layer_case(layer, "padding on the right", 2, 4, 5, 3, 2, mask=right)
    yield _layer_case(layer, "padding on the left", 2, 4, 5, 3, 2, mask=left)
    yield _layer_case(layer, "a causal mask", 2, 4, 4, 2, 3, mask=causal)
    yield _layer_case(
        layer, "a query without a key", 1, 2, 2, 2, 2, mask=nothing, tolerance=MASKED_ROUNDING
    )
    yield _layer_case(
        layer, "float32", 2, 4, 5, 3, 2, mask=right, dtype=torch.float32, tolerance=None
    )


MULTI_HEAD_ATTENTION = Exercise(
    template=MultiHeadAttention,
    reference=reference.MultiHeadAttention,
    steps=MultiHeadAttentionSteps,
    cases=multi_head_attention_cases,
    title="attention with several heads",
)


def _of_the_formula(*put_into: Any) -> list[Mistake]:
    """Mistakes in the formula, which layers make too."""
    return [m for m in SCALED_DOT_PRODUCT_ATTENTION.mistakes if m.put_into in put_into]


MULTI_HEAD_ATTENTION.mistakes += _of_the_formula(
    no_scale,
    scale_by_D,
    scale_by_all_heads,
    softmax_over_queries,
    softmax_over_heads,
    mask_inverted,
    mask_ignored,
    mask_after_the_softmax,
    weights_of_queries_without_a_key,
    mean_of_masked_values,
    large_negative_number_added,
    infinity_added,
)


@MULTI_HEAD_ATTENTION.mistake("(B, T, H * D) to (B, H, T, D)")
def heads_by_reshaping(layer: Any) -> None:
    """The projections are reshaped to (B, H, T, D), which gives a head numbers of other heads and
    tokens: reshape to (B, T, H, D), then transpose.
    """
    layer.split_heads = lambda projected: projected.reshape(
        projected.shape[0], layer.num_heads, projected.shape[1], -1
    )


@MULTI_HEAD_ATTENTION.mistake("projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)")
def attention_over_heads(layer: Any) -> None:
    """Heads and tokens are not transposed: (B, T, H, D), so each token's heads attend to each
    other and no token to another. Transpose after splitting and before merging.
    """
    layer.split_heads = lambda projected: projected.unflatten(-1, (layer.num_heads, -1))
    layer.merge_heads = lambda attended: attended.flatten(2)


@MULTI_HEAD_ATTENTION.mistake("(B, T, H * D) to (B, H, T, D)")
def interleaved_heads(layer: Any) -> None:
    """The last dimension is taken as (D, H), so a head gets every H-th number; it is (H, D): a
    head's numbers are side by side, as checkpoints have them.
    """
    layer.split_heads = lambda projected: projected.unflatten(-1, (-1, layer.num_heads)).permute(
        0, 3, 1, 2
    )


@MULTI_HEAD_ATTENTION.mistake("(B, T, H * D) to (B, H, T, D)")
def interleaved_heads_throughout(layer: Any) -> None:
    """The last dimension is taken as (D, H) both in splitting and in merging, so a head has every
    H-th number. A model could learn that, but in checkpoints it is (H, D): a head's numbers are
    side by side.
    """
    interleaved_heads(layer)
    layer.merge_heads = lambda attended: attended.permute(0, 2, 3, 1).flatten(2)


@MULTI_HEAD_ATTENTION.mistake("attended.transpose(1, 2).flatten(2)")
def merging_by_reshaping(layer: Any) -> None:
    """The heads are reshaped to (B, T, E) as they are, which mixes tokens: exchange heads and
    tokens first (transpose(1, 2)).
    """
    layer.merge_heads = lambda attended: attended.reshape(attended.shape[0], attended.shape[2], -1)


@MULTI_HEAD_ATTENTION.mistake("attended.transpose(1, 2).flatten(2)")
def never_transposed(layer: Any) -> None:
    """The projections are reshaped to (B, H, T, D), and the heads back to (B, T, E), without
    transposing: a head gets numbers of other heads and tokens. Transpose after splitting, and
    before merging.
    """
    heads_by_reshaping(layer)
    merging_by_reshaping(layer)


@MULTI_HEAD_ATTENTION.mistake("self.output(merged)")
def no_output_projection(layer: Any) -> None:
    """The merged heads are returned without the projection `output`, which mixes them."""
    layer.projected_output = lambda merged: merged


@MULTI_HEAD_ATTENTION.mistake("key = self.split_heads(self.key(context))")
def keys_of_the_query_projection(layer: Any) -> None:
    """The keys come from the projection `query`, so that `key` has no gradient."""
    layer.keys = lambda hidden, context: layer.split_heads(layer.query(context))


@MULTI_HEAD_ATTENTION.mistake("value = self.split_heads(self.value(context))")
def values_of_the_key_projection(layer: Any) -> None:
    """The values come from the projection `key`, so that `value` has no gradient."""
    layer.values = lambda hidden, context: layer.split_heads(layer.key(context))


@MULTI_HEAD_ATTENTION.mistake("value = self.split_heads(self.value(context))")
def values_not_projected(layer: Any) -> None:
    """The values are the tokens of `context` themselves; project them with `value`."""
    layer.values = lambda hidden, context: layer.split_heads(context)


@MULTI_HEAD_ATTENTION.mistake("key = self.split_heads(self.key(context))")
def context_ignored(layer: Any) -> None:
    """Keys and values come from `hidden`, so it is always self-attention; they come from
    `context`.
    """
    keys, values = layer.keys, layer.values
    layer.keys = lambda hidden, context: keys(hidden, hidden)
    layer.values = lambda hidden, context: values(hidden, hidden)


@MULTI_HEAD_ATTENTION.mistake("(B, H, S, D)")
def as_many_keys_as_queries(layer: Any) -> None:
    """Keys and values are reshaped with the length of `hidden`, which fails where `context` is
    longer or shorter; they have as many tokens as `context`.
    """

    def split(projected: Tensor, hidden: Tensor) -> Tensor:
        heads = layer.num_heads
        size = projected.shape[-1] // heads
        return projected.reshape(*hidden.shape[:2], heads, size).transpose(1, 2)

    layer.keys = lambda hidden, context: split(layer.key(context), hidden)
    layer.values = lambda hidden, context: split(layer.value(context), hidden)


@MULTI_HEAD_ATTENTION.mistake("return self.output(merged), weights")
def residual_inside(layer: Any) -> None:
    """The input is added to the result; the residual connection belongs to the block around it,
    which would add it once more.
    """
    forward = layer.forward

    def with_residual(hidden: Tensor, *inputs: Any, **options: Any) -> tuple[Tensor, Any]:
        attended, weights = forward(hidden, *inputs, **options)
        return attended + hidden, weights

    layer.forward = with_residual


# ---- cross-attention ----


class CrossAttention(nn.Module):
    """The tokens of a decoder attend to those of the encoder, with several heads.

    output(merge(softmax(split(query(x)) split(key(c))^T / sqrt(D)) split(value(c))))

    Queries come from x, the decoder's tokens; keys and values from c, the encoder's output. A
    token of the decoder may attend to the whole source, but to none of its padding. Four linear
    layers with a bias, from E to E, are its parameters: `query`, `key`, `value`, and `output`, each
    with `weight` and `bias`. The check loads its own weights, so initial values do not matter;
    there may be no other parameters. split makes (B, H, T, D) of (B, T, E): head h has the numbers
    h * D to (h + 1) * D - 1 of a token, D = E / H. merge undoes it. Where the source is all
    padding, the weights are zero, without a gradient: what is left is the bias of `output`. No
    dropout, no residual connection, no normalization.

    Source: "Attention Is All You Need", section 3.2.3, "encoder-decoder attention".

    Args:
        hidden_size: E.
        num_heads: H, which divides E.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        raise NotImplementedError("write me")

    def forward(self, hidden: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Each token of the decoder attends to the tokens of the encoder.

        Args:
            hidden: (B, T, E), the decoder's tokens.
            context: (B, S, E), the encoder's.
            mask: (B, 1, 1, S) bool, True at the source's real tokens; None: there is no padding.

        Returns:
            (B, T, E).
        """
        raise NotImplementedError("write me")


class CrossAttentionSteps(reference.CrossAttention, MultiHeadAttentionSteps):
    """The library's layer in steps, without a cache, which would give the same numbers."""

    def source_mask(self, mask: Tensor | None, hidden: Tensor, context: Tensor) -> Tensor | None:
        """Which tokens of the encoder are attended to."""
        return mask

    def forward(
        self,
        hidden: Tensor,
        context: Tensor,
        mask: Tensor | None,
        *,
        bias: Tensor | None = None,
        cache: KeyValues | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Each token of the decoder, (R, T, E), attends to those of the encoder, (B, S, E)."""
        per_source = hidden.shape[0] // context.shape[0]  # K
        context = context.repeat_interleave(per_source, dim=0)  # (R, S, E)
        mask = None if mask is None else mask.repeat_interleave(per_source, dim=0)
        mask = self.source_mask(mask, hidden, context)
        query, key, value = self.project(hidden, context)
        return self.attend_and_merge(query, key, value, mask, bias, output_attentions)


def cross_attention_cases() -> Iterator[Case]:
    """From one token of the decoder to padding on both sides, more tokens, and fewer."""
    layer = reference.CrossAttention
    right = real_tokens(3, 5, total=5)[:, None, None]  # (B, 1, 1, S)
    left = real_tokens(3, 5, total=5, left=True)[:, None, None]
    yield _layer_case(layer, "one token, two of the source", 1, 1, 2, 1, 2)
    yield _layer_case(layer, "as many tokens as the source has", 1, 3, 3, 2, 2)
    yield _layer_case(layer, "more tokens than the source has", 2, 4, 3, 2, 3)
    yield _layer_case(layer, "padding on the right", 2, 4, 5, 3, 2, mask=right)
    yield _layer_case(layer, "padding on the left", 2, 4, 5, 3, 2, mask=left)
    yield _layer_case(layer, "equal lengths, padding on the right", 2, 5, 5, 2, 3, mask=right)
    nothing = real_tokens(2, 0, total=2)[:, None, None]
    yield _layer_case(
        layer, "a source of padding alone", 2, 3, 2, 2, 2, mask=nothing, tolerance=MASKED_ROUNDING
    )
    yield _layer_case(
        layer, "float32", 2, 4, 5, 3, 2, mask=left, dtype=torch.float32, tolerance=None
    )


CROSS_ATTENTION = Exercise(
    template=CrossAttention,
    reference=reference.CrossAttention,
    steps=CrossAttentionSteps,
    cases=cross_attention_cases,
    title="attention of a decoder to its encoder",
)

CROSS_ATTENTION.mistakes += _of_the_formula(
    no_scale,
    scale_by_all_heads,
    softmax_over_queries,
    mask_inverted,
    mask_ignored,
    weights_of_queries_without_a_key,
    mean_of_masked_values,
)
CROSS_ATTENTION.mistakes += [
    mistake
    for mistake in MULTI_HEAD_ATTENTION.mistakes
    if mistake.put_into
    in (
        heads_by_reshaping,
        interleaved_heads,
        interleaved_heads_throughout,
        no_output_projection,
        keys_of_the_query_projection,
        values_of_the_key_projection,
        values_not_projected,
        as_many_keys_as_queries,
    )
]


@CROSS_ATTENTION.mistake("query = self.split_heads(self.query(hidden))")
def queries_from_the_encoder(layer: Any) -> None:
    """The queries come from the encoder's tokens, so the result has as many tokens as the source;
    it is the decoder's tokens that ask.
    """
    queries = layer.queries
    layer.queries = lambda hidden, context: queries(context, context)


@CROSS_ATTENTION.mistake("key = self.split_heads(self.key(context))")
def keys_from_the_decoder(layer: Any) -> None:
    """The keys come from the decoder's tokens; the source is matched by its own, the encoder's."""
    keys = layer.keys
    layer.keys = lambda hidden, context: keys(hidden, hidden)


@CROSS_ATTENTION.mistake("value = self.split_heads(self.value(context))")
def values_from_the_decoder(layer: Any) -> None:
    """The values come from the decoder's tokens, so that nothing of the source is read; they come
    from the encoder's, as the keys do.
    """
    values = layer.values
    layer.values = lambda hidden, context: values(hidden, hidden)


@CROSS_ATTENTION.mistake("mask: (B, 1, 1, S) bool")
def causal_mask_on_the_source(layer: Any) -> None:
    """Token t of the decoder sees only the first tokens of the source, up to t: the causal mask is
    for the decoder's own tokens. The source is known in full.
    """

    def causal(mask: Tensor | None, hidden: Tensor, context: Tensor) -> Tensor:
        mask = _every_token(mask, hidden, context)
        return mask & torch.ones_like(mask).tril()

    layer.source_mask = causal


@CROSS_ATTENTION.mistake("mask: (B, 1, 1, S) bool")
def causal_mask_on_the_scores(layer: Any) -> None:
    """The scores are filled by the causal mask as well, with a large negative number: token t of
    the decoder sees only the first tokens of the source, up to t. That mask is for the decoder's
    own tokens; the source is known in full.
    """
    layer.source_mask = _every_token
    layer.fill_value = lambda scores: torch.finfo(scores.dtype).min
    masked = layer.masked
    layer.masked = lambda scores, mask: masked(scores, mask & torch.ones_like(mask).tril())


def _every_token(mask: Tensor | None, hidden: Tensor, context: Tensor) -> Tensor:
    """The mask for each query, (B, 1, T, S)."""
    sizes = len(context), 1, hidden.shape[1], context.shape[1]
    return hidden.new_ones(sizes, dtype=torch.bool) if mask is None else mask.expand(sizes)


@CROSS_ATTENTION.mistake("mask: (B, 1, 1, S) bool")
def mask_of_the_source_on_queries(layer: Any) -> None:
    """The source's mask hides queries, (B, 1, S, 1); it is the keys, in the last dimension, that
    are the source's tokens.
    """
    layer.source_mask = lambda mask, hidden, context: None if mask is None else mask.mT

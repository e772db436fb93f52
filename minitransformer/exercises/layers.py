"""The small layers: norms, GELU, and three ways to number and encode positions.

B batch, T tokens, S key tokens, E hidden size.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.exercises.exercise import Exercise
from minitransformer.exercises.inputs import normal
from minitransformer.exercises.runner import Case
from minitransformer.layers import feed_forward, normalization, positional_embeddings
from minitransformer.models.roberta import RobertaModel

# ---- layer norm and RMS norm ----


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last dimension.

    Mean and variance are those of the E numbers of each token; the variance divides by E. Half
    precision is computed in float32, float64 in float64: float16 ends at 65504, which the squares
    of large numbers exceed. The squares are those of x - mean, since mean(x^2) - mean(x)^2 loses
    all digits where the mean is large. Gradients flow through mean and variance. Equal numbers give
    the bias, not NaN.

    Write it from basic operations, to see what it does; PyTorch's own is accepted, too.

    Source: "Layer Normalization" (Ba, Kiros and Hinton 2016); PyTorch's `nn.LayerNorm`.

    Args:
        x: (B, T, E), of any float dtype.
        weight: (E,), of the same dtype.
        bias: (E,), of the same dtype.
        eps: a number above 0, added to the variance.

    Returns:
        (B, T, E), of the dtype of x.
    """
    raise NotImplementedError("write me")


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean of squares + eps) * weight, over the last dimension.

    The mean is that of the E squares of each token; no mean of x is subtracted, and there is no
    bias. Half precision is computed in float32, float64 in float64: float16 ends at 65504, which
    the squares of large numbers exceed. Gradients flow through the mean. Zeros give zeros, not NaN.

    Write it from basic operations, to see what it does; PyTorch's own is accepted, too.

    Source: "Root Mean Square Layer Normalization" (Zhang and Sennrich 2019); T5's norm.

    Args:
        x: (B, T, E), of any float dtype.
        weight: (E,), of the same dtype.
        eps: a number above 0, added to the mean of squares.

    Returns:
        (B, T, E), of the dtype of x.
    """
    raise NotImplementedError("write me")


class NormSteps:
    """What both norms do: divide each token by the root of a mean of squares."""

    def computed(self, x: Tensor) -> Tensor:
        """The numbers in the dtype that they are averaged in."""
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def averaged(self, x: Tensor) -> Tensor:
        """The mean of each token, (B, T, 1)."""
        return x.mean(dim=-1, keepdim=True)

    def centered(self, x: Tensor) -> Tensor:
        """What is squared."""
        return x

    def mean_square(self, x: Tensor) -> Tensor:
        """(B, T, 1)."""
        return self.averaged(self.centered(x).square())

    def root(self, mean_square: Tensor, eps: float) -> Tensor:
        """What each token is divided by."""
        return torch.sqrt(mean_square + eps)

    def numerator(self, x: Tensor) -> Tensor:
        """What is divided."""
        return self.centered(x)

    def normalized(self, x: Tensor, eps: float) -> Tensor:
        """(B, T, E), before weight and bias."""
        return self.numerator(x) / self.root(self.mean_square(x), eps)

    def weighted(self, normalized: Tensor, weight: Tensor) -> Tensor:
        """Each of the E numbers by its weight."""
        return normalized * weight

    def returned(self, result: Tensor, x: Tensor) -> Tensor:
        """The result in the dtype of the input."""
        return result.to(x.dtype)


class LayerNormSteps(NormSteps):
    """`LayerNorm` in steps."""

    def centered(self, x: Tensor) -> Tensor:
        """Numbers with a mean of 0."""
        return x - self.averaged(x)

    def shifted(self, weighted: Tensor, bias: Tensor) -> Tensor:
        """Each of the E numbers plus its bias."""
        return weighted + bias

    def affine(self, normalized: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Weight, then bias."""
        return self.shifted(self.weighted(normalized, weight), bias)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return self.returned(self.affine(self.normalized(self.computed(x), eps), weight, bias), x)


class RMSNormSteps(NormSteps):
    """`RMSNorm` in steps."""

    def __call__(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return self.returned(self.weighted(self.normalized(self.computed(x), eps), weight), x)


def norm_cases(parameters: int) -> Iterator[Case]:
    """One token and several; small and large eps; equal, large and distant numbers.

    Args:
        parameters: how many vectors of size E there are: 2 with a bias, else 1.
    """

    def inputs(x: Tensor, eps: float, spread: float = 0.3) -> dict[str, Any]:
        vectors = {
            "weight": (1 + spread * normal(x.shape[-1], seed=1)).to(x.dtype),
            "bias": (0 + spread * normal(x.shape[-1], seed=2)).to(x.dtype),
        }
        return {"x": x, **dict([*vectors.items()][:parameters]), "eps": eps}

    one = torch.tensor([[[1.0, 2.0, 6.0]]], dtype=torch.float64)
    yield Case("three numbers, weights of 1", inputs(one, 0.1, spread=0.0))
    yield Case("three numbers", inputs(one, 0.1))
    yield Case("two tokens", inputs(normal(1, 2, 4) + 0.5, 1e-5))
    yield Case("as many tokens as numbers", inputs(normal(2, 4, 4) + 0.5, 1e-12))
    yield Case("two sequences", inputs(normal(2, 3, 5) + 0.5, 1e-5))
    yield Case("numbers as small as eps", inputs(1e-3 * normal(2, 3, 5), 1e-6))
    zeros = torch.zeros(1, 2, 4, dtype=torch.float64)
    yield Case("zeros", inputs(zeros, 1e-5), gradients=False)
    # Every sum of these numbers is exact in float32, those of their squares are not.
    distant = 2.0**14 + torch.tensor([1.0, -1.0, 1.0, -1.0]).expand(1, 2, 4)
    yield Case("numbers far from 0 in float32", inputs(distant, 1e-5), gradients=False)
    yield Case("float32", inputs(normal(2, 3, 5, dtype=torch.float32), 1e-5))
    yield Case("bfloat16", inputs(normal(2, 3, 5, dtype=torch.bfloat16), 1e-5), gradients=False)
    large = 400 * normal(2, 3, 8, dtype=torch.float16)
    yield Case("large numbers in float16", inputs(large, 1e-5), gradients=False)


def install_layer_norm(module: Any, steps: Any) -> None:
    """Let a layer norm of the library use these steps."""
    if isinstance(module, normalization.LayerNorm):
        module.forward = lambda x: steps(x, module.weight, module.bias, module.eps)  # type: ignore[method-assign]


def install_rms_norm(module: Any, steps: Any) -> None:
    """Let an RMS norm of the library use these steps."""
    if isinstance(module, normalization.RMSNorm):
        module.forward = lambda x: steps(x, module.weight, module.eps)  # type: ignore[method-assign]


LAYER_NORM = Exercise(
    template=layer_norm,
    reference=normalization.layer_norm,
    steps=LayerNormSteps,
    cases=partial(norm_cases, parameters=2),
    install=install_layer_norm,
    title="layer normalization",
)

RMS_NORM = Exercise(
    template=rms_norm,
    reference=normalization.rms_norm,
    steps=RMSNormSteps,
    cases=partial(norm_cases, parameters=1),
    install=install_rms_norm,
    title="RMS normalization, T5's",
)


@LAYER_NORM.mistake("x.mean(dim=-1")
@RMS_NORM.mistake("mean(dim=-1")
def over_the_tokens(steps: Any) -> None:
    """The means run over the tokens (dim=1 or -2), so that a token's result depends on the others
    and on padding. They should run over the E numbers of each token (dim=-1).
    """
    steps.averaged = lambda x: x.mean(dim=-2, keepdim=True)


@LAYER_NORM.mistake("x.mean(dim=-1")
@RMS_NORM.mistake("mean(dim=-1")
def over_tokens_and_numbers(steps: Any) -> None:
    """The means run over all numbers of a sequence, tokens and E alike (dim=(1, 2)), so that a
    token's result depends on the others and on padding. They should run over the E numbers of each
    token (dim=-1).
    """
    steps.averaged = lambda x: x.mean(dim=(-2, -1), keepdim=True)


@LAYER_NORM.mistake("x.mean(dim=-1")
@RMS_NORM.mistake("mean(dim=-1")
def over_the_sequences(steps: Any) -> None:
    """The means run over the batch (dim=0), as in batch normalization, so that a sequence's result
    depends on the others. They should run over the E numbers of each token (dim=-1).
    """
    steps.averaged = lambda x: x.mean(dim=0, keepdim=True)


@LAYER_NORM.mistake("x.mean(dim=-1")
@RMS_NORM.mistake("mean(dim=-1")
def over_everything(steps: Any) -> None:
    """There is one mean for the whole tensor: mean() without dim. Each token has its own
    (dim=-1, keepdim=True).
    """
    steps.averaged = lambda x: x.mean()


@LAYER_NORM.mistake("torch.rsqrt(variance + eps)")
@RMS_NORM.mistake("keepdim=True) + eps)")
def eps_outside_the_root(steps: Any) -> None:
    """eps is added after the root; add it before, inside the root. Models are trained with it
    there, and the root of exactly 0 has an infinite gradient.
    """
    steps.root = lambda mean_square, eps: mean_square.sqrt() + eps


@LAYER_NORM.mistake("torch.rsqrt(variance + eps)")
@RMS_NORM.mistake("torch.rsqrt(")
def no_root(steps: Any) -> None:
    """The numbers are divided by the mean of squares itself (for a layer norm: the variance);
    divide by its root.
    """
    steps.root = lambda mean_square, eps: mean_square + eps


@LAYER_NORM.mistake("torch.rsqrt(variance + eps)")
@RMS_NORM.mistake("keepdim=True) + eps)")
def no_eps(steps: Any) -> None:
    """eps is not added: a token of zeros or of equal numbers becomes 0 / 0 = NaN."""
    root = steps.root
    steps.root = lambda mean_square, eps: root(mean_square, 0.0)


@LAYER_NORM.mistake("torch.rsqrt(variance + eps)")
@RMS_NORM.mistake("keepdim=True) + eps)")
def eps_always_1e_5(steps: Any) -> None:
    """eps is always 1e-5, PyTorch's default, whatever the argument says. Checkpoints differ: BERT
    has 1e-12, T5 1e-6.
    """
    root = steps.root
    steps.root = lambda mean_square, eps: root(mean_square, 1e-5)


@LAYER_NORM.mistake("rsqrt(variance + eps) * weight + bias")
@RMS_NORM.mistake("keepdim=True) + eps) * weight")
def no_weight(steps: Any) -> None:
    """The weight is not used; multiply by it after the division."""
    steps.weighted = lambda normalized, weight: normalized


@LAYER_NORM.mistake("F.layer_norm(x", of=normalization.LayerNorm)
@RMS_NORM.mistake("squares and sums half precision in float32", of=normalization.RMSNorm)
def squares_in_half_precision(steps: Any) -> None:
    """Squares are computed in the dtype of x. Those of numbers above 256 are infinite in float16,
    and the result is lost; convert x to float32 first.
    """
    steps.computed = lambda x: x


@LAYER_NORM.mistake("F.layer_norm(x", of=normalization.LayerNorm)
@RMS_NORM.mistake("F.rms_norm(x", of=normalization.RMSNorm)
def result_in_float32(steps: Any) -> None:
    """For an x in half precision the result stays in float32; convert it to the dtype of x, or the
    next linear layer refuses it.
    """
    steps.returned = lambda result, x: result


@LAYER_NORM.mistake("(x - mean).square().mean(dim=-1")
@RMS_NORM.mistake("x.square().mean(dim=-1")
def constant_statistics(steps: Any) -> None:
    """The values are right, but means are treated as constants: under no_grad or detached. The
    gradient should flow through them.
    """
    averaged = steps.averaged
    steps.averaged = lambda x: averaged(x).detach()


@LAYER_NORM.mistake("square().mean(dim=-1")
def unbiased_variance(steps: Any) -> None:
    """The variance divides by E - 1, the default of torch.var and torch.std; divide by E
    (unbiased=False). In small layers the results are visibly smaller.
    """
    mean_square = steps.mean_square
    steps.mean_square = lambda x: mean_square(x) * x.shape[-1] / (x.shape[-1] - 1)


@LAYER_NORM.mistake("mean = x.mean(dim=-1")
def no_mean_subtracted(steps: Any) -> None:
    """The mean is subtracted nowhere, which makes it an RMS norm; subtract it before squaring and
    before dividing.
    """
    steps.centered = lambda x: x


@LAYER_NORM.mistake("(x - mean) * torch.rsqrt")
def mean_left_in_the_numerator(steps: Any) -> None:
    """The variance is right, but x itself is divided by its root; divide x - mean."""
    steps.numerator = lambda x: x


@LAYER_NORM.mistake("(x - mean).square()")
def variance_around_zero(steps: Any) -> None:
    """x - mean is divided, but by the root of the mean of x^2; the variance is the mean of
    (x - mean)^2.
    """
    steps.mean_square = lambda x: steps.averaged(x.square())


@LAYER_NORM.mistake("(x - mean).square()")
def difference_of_large_squares(steps: Any) -> None:
    """The variance is computed as mean(x^2) - mean(x)^2. Where the mean is large, that is the
    difference of two large, rounded numbers; square x - mean instead.
    """
    steps.mean_square = lambda x: steps.averaged(x.square()) - steps.averaged(x).square()


@LAYER_NORM.mistake("rsqrt(variance + eps) * weight + bias")
def no_bias(steps: Any) -> None:
    """The bias is not added; add it after the weight."""
    steps.shifted = lambda weighted, bias: weighted


@LAYER_NORM.mistake("rsqrt(variance + eps) * weight + bias")
def bias_before_weight(steps: Any) -> None:
    """The bias is added first and multiplied by the weight as well; multiply, then add."""
    steps.affine = lambda normalized, weight, bias: steps.weighted(
        steps.shifted(normalized, bias), weight
    )


@RMS_NORM.mistake("x * torch.rsqrt(x.square()")
def layer_norm_instead(steps: Any) -> None:
    """The mean is subtracted, as in a layer norm; an RMS norm leaves it in."""
    steps.centered = lambda x: x - steps.averaged(x)


@RMS_NORM.mistake("x.square().mean(dim=-1")
def variance_for_the_mean_square(steps: Any) -> None:
    """x is divided by the root of its variance, x.var(unbiased=False); that is the mean square of
    x - mean, but here of x itself.
    """
    steps.mean_square = lambda x: x.var(dim=-1, keepdim=True, unbiased=False)


@RMS_NORM.mistake("x.square().mean(dim=-1")
def unbiased_variance_for_the_mean_square(steps: Any) -> None:
    """x is divided by the root of x.var(), or by x.std(), which subtracts the mean and divides by
    E - 1; take the mean of the squares of x itself.
    """
    steps.mean_square = lambda x: x.var(dim=-1, keepdim=True)


@RMS_NORM.mistake("x.square().mean(dim=-1")
def sum_of_squares(steps: Any) -> None:
    """The squares are summed, not averaged, which is F.normalize: the result shrinks with the root
    of E.
    """
    mean_square = steps.mean_square
    steps.mean_square = lambda x: mean_square(x) * x.shape[-1]


@RMS_NORM.mistake("x.square().mean(dim=-1")
def square_of_the_mean(steps: Any) -> None:
    """The mean is squared; average the squares instead: square first, then mean."""
    steps.mean_square = lambda x: steps.averaged(x).square()


@RMS_NORM.mistake("keepdim=True) + eps) * weight")
def one_plus_weight(steps: Any) -> None:
    """The factor is 1 + weight, as in Gemma, whose weights begin at 0; here it is the weight."""
    weighted = steps.weighted
    steps.weighted = lambda normalized, weight: weighted(normalized, 1 + weight)


# ---- GELU ----


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x): the exact GELU.

    Phi(x) is the probability that a number drawn from N(0, 1) is at most x. The result is about 0
    for x < -4, about x for x > 4, and 0.8413 for x = 1. The approximations by tanh or by a sigmoid
    are other functions.

    Write Phi with the error function, `torch.erf`: for z >= 0, erf(z) is the probability that a
    number drawn from N(0, 1/2), whose standard deviation is 1 / sqrt(2), lies between -z and z; and
    erf(-z) = -erf(z). PyTorch's own GELU is accepted, too.

    Source: "Gaussian Error Linear Units" (Hendrycks and Gimpel 2016), section 2.

    Args:
        x: of any shape and float dtype.

    Returns:
        Of the same shape and dtype.
    """
    raise NotImplementedError("write me")


class GeluSteps:
    """`gelu` in steps."""

    def argument(self, x: Tensor) -> Tensor:
        """What erf is taken of."""
        return x / math.sqrt(2.0)

    def error_function(self, argument: Tensor) -> Tensor:
        """-1 to 1."""
        return torch.erf(argument)

    def probability(self, x: Tensor) -> Tensor:
        """That N(0, 1) is at most x."""
        return 0.5 * (1.0 + self.error_function(self.argument(x)))

    def gated(self, x: Tensor, probability: Tensor) -> Tensor:
        """The result."""
        return x * probability

    def __call__(self, x: Tensor) -> Tensor:
        return self.gated(x, self.probability(x))


def gelu_cases() -> Iterator[Case]:
    """Small numbers of both signs, large ones, half precision."""
    yield Case("1 and -1", {"x": torch.tensor([1.0, -1.0], dtype=torch.float64)})
    yield Case("four dimensions", {"x": 2 * normal(2, 3, 4, 5)})
    yield Case("zeros", {"x": torch.zeros(2, dtype=torch.float64)}, gradients=False)
    yield Case("numbers near 0", {"x": 1e-2 * normal(3, 4)})
    yield Case("large numbers", {"x": torch.tensor([-1e4, -30.0, 30.0, 1e4])})
    yield Case("float32", {"x": 2 * normal(3, 4, dtype=torch.float32)})
    for dtype in (torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        yield Case(name, {"x": 2 * normal(3, 4, dtype=dtype)}, gradients=False)


def install_gelu(module: Any, steps: Any) -> None:
    """Let a module of the library whose activation is the exact GELU use these steps."""
    if getattr(module, "activation", None) is F.gelu:
        module.activation = steps


GELU = Exercise(
    template=gelu,
    reference=feed_forward.gelu,
    steps=GeluSteps,
    cases=gelu_cases,
    install=install_gelu,
    title="the exact GELU",
)


@GELU.mistake("torch.erf(x / math.sqrt(2.0))")
def no_root_of_two(steps: Any) -> None:
    """erf is taken of x; take it of x / sqrt(2), since erf is made for a variance of 1/2."""
    steps.argument = lambda x: x


@GELU.mistake("torch.erf(x / math.sqrt(2.0))")
def root_of_two_outside_erf(steps: Any) -> None:
    """erf(x) is divided by sqrt(2); divide x by it, inside: erf(x / sqrt(2)). A closing parenthesis
    stands too early.
    """
    steps.argument = lambda x: x
    steps.error_function = lambda argument: torch.erf(argument) / math.sqrt(2.0)


@GELU.mistake("x / math.sqrt(2.0)")
def halved_in_erf(steps: Any) -> None:
    """erf is taken of x / 2; take it of x / sqrt(2)."""
    steps.argument = lambda x: x / 2


@GELU.mistake("x / math.sqrt(2.0)")
def multiplied_by_the_root_of_two(steps: Any) -> None:
    """erf is taken of x * sqrt(2); divide x by sqrt(2)."""
    steps.argument = lambda x: x * math.sqrt(2.0)


@GELU.mistake("torch.erf(")
def tanh_instead_of_erf(steps: Any) -> None:
    """tanh is taken in place of erf, which it resembles; erf belongs to the normal distribution."""
    steps.error_function = torch.tanh


@GELU.mistake("differs from the exact one", of=feed_forward.gelu_tanh)
def tanh_approximation(steps: Any) -> None:
    """This is the approximation by tanh, GPT-2's "gelu_new", which is off by up to 5e-4. BERT and
    RoBERTa were trained with the exact one, by torch.erf.
    """
    steps.probability = lambda x: (
        0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    )


@GELU.mistake("x * 0.5 * (1.0 + torch.erf")
def sigmoid_approximation(steps: Any) -> None:
    """This is the approximation x * sigmoid(1.702 x), CLIP's "quick_gelu", which is off by up to
    0.02; use torch.erf.
    """
    steps.probability = lambda x: torch.sigmoid(1.702 * x)


@GELU.mistake("x * 0.5 * (1.0 + torch.erf")
def silu(steps: Any) -> None:
    """This is x * sigmoid(x): SiLU, or Swish. GELU has the distribution of N(0, 1) in place of the
    sigmoid.
    """
    steps.probability = torch.sigmoid


@GELU.mistake("x * 0.5 * (1.0 + torch.erf")
def relu(steps: Any) -> None:
    """This is ReLU, which is 0 for every negative number; GELU is smooth: -0.1587 at -1."""
    steps.probability = lambda x: (x > 0).to(x.dtype)


@GELU.mistake("x * 0.5 * (1.0 + torch.erf")
def density_instead_of_distribution(steps: Any) -> None:
    """x is multiplied by the density of N(0, 1), exp(-x^2 / 2) / sqrt(2 pi); take its integral up
    to x, the distribution function.
    """
    steps.probability = lambda x: torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


@GELU.mistake("(1.0 + torch.erf")
def no_one_plus(steps: Any) -> None:
    """The 1 + before erf is missing, so that the factor lies between -0.5 and 0.5; a probability
    lies between 0 and 1.
    """
    probability = steps.probability
    steps.probability = lambda x: probability(x) - 0.5


@GELU.mistake("x * 0.5")
def no_half(steps: Any) -> None:
    """The factor 0.5 is missing: 1 + erf lies between 0 and 2, and large numbers are doubled."""
    probability = steps.probability
    steps.probability = lambda x: 2 * probability(x)


@GELU.mistake("x * 0.5")
def not_multiplied_by_x(steps: Any) -> None:
    """The probability itself is returned; multiply x by it."""
    steps.gated = lambda x, probability: probability


# ---- RoBERTa's positions ----


def roberta_positions(input_ids: Tensor, padding_idx: int) -> Tensor:
    """The row of RoBERTa's position table for each token.

    The real tokens of a sequence have the rows padding_idx + 1, padding_idx + 2, ... from left to
    right; padding, which is where the id is padding_idx, has the row padding_idx. Padding is not
    counted, so the same tokens have the same rows whether it is on their left, on their right,
    between them, or nowhere. The rows before padding_idx belong to nothing: this is why
    roberta-base has 514 rows for 512 tokens.

    With padding_idx 1, the ids [1, 1, 0, 8, 2] have the rows [1, 1, 2, 3, 4].

    Source: fairseq's `make_positions`; Hugging Face's `create_position_ids_from_input_ids`.

    Args:
        input_ids: (B, T) int64.
        padding_idx: the id of the padding token, not always 1.

    Returns:
        (B, T) int64.
    """
    raise NotImplementedError("write me")


class RobertaPositionsSteps:
    """`position_ids_from_mask` and the offset of `OffsetPositions` in steps."""

    def real(self, input_ids: Tensor, padding_idx: int) -> Tensor:
        """(B, T) bool, True at real tokens."""
        return input_ids != padding_idx

    def counted(self, real: Tensor) -> Tensor:
        """The number of real tokens up to each token, (B, T)."""
        return real.cumsum(dim=1)

    def reset(self, counted: Tensor, real: Tensor) -> Tensor:
        """0 at padding."""
        return counted * real

    def shifted(self, numbers: Tensor, padding_idx: int) -> Tensor:
        """Past the rows that belong to nothing."""
        return numbers + padding_idx

    def rows(self, counted: Tensor, real: Tensor, padding_idx: int) -> Tensor:
        """The result, (B, T)."""
        return self.shifted(self.reset(counted, real), padding_idx)

    def __call__(self, input_ids: Tensor, padding_idx: int) -> Tensor:
        real = self.real(input_ids, padding_idx)
        return self.rows(self.counted(real), real, padding_idx)


def roberta_positions_cases() -> Iterator[Case]:
    """No padding, padding on the right, on the left, between; several padding_idx."""

    def case(label: str, padding_idx: int, *rows: list[int]) -> Case:
        inputs = {"input_ids": torch.tensor(rows), "padding_idx": padding_idx}
        return Case(label, inputs, gradients=False)

    yield case("two tokens", 1, [0, 2])
    yield case("two sequences", 1, [0, 7, 8, 2], [0, 9, 0, 2])
    yield case("padding on the right", 1, [0, 7, 2, 1, 1], [0, 7, 8, 9, 2])
    yield case("padding on the left", 1, [1, 1, 0, 7, 2], [0, 7, 8, 9, 2])
    yield case("padding between tokens", 1, [0, 7, 1, 8, 2], [1, 7, 1, 2, 1])
    yield case("nothing but padding", 1, [1, 1, 1], [0, 7, 2])
    yield case("padding_idx 0", 0, [0, 0, 1, 7, 2], [1, 7, 2, 0, 0])
    yield case("padding_idx 5", 5, [5, 5, 0, 1, 2], [0, 1, 2, 5, 5])


def install_roberta_positions(module: Any, steps: Any) -> None:
    """Let a RoBERTa of the library number its tokens with these steps."""
    if isinstance(module, RobertaModel):
        padding_idx = module.config.pad_token_id

        def position_ids(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            rows = steps(input_ids.masked_fill(~attention_mask, padding_idx), padding_idx)
            return rows - module.embeddings.position_embedding.offset  # which it will add

        module.position_ids = position_ids  # type: ignore[method-assign]


ROBERTA_POSITIONS = Exercise(
    template=roberta_positions,
    reference=positional_embeddings.position_ids_from_mask,
    steps=RobertaPositionsSteps,
    cases=roberta_positions_cases,
    install=install_roberta_positions,
    title="RoBERTa's positions",
)


@ROBERTA_POSITIONS.mistake(
    "attention_mask & (input_ids != self.config.pad_token_id)", of=RobertaModel
)
def padding_numbered(steps: Any) -> None:
    """Padding is numbered as tokens are: rows are padding_idx + 1, + 2, ... by place in the tensor.
    Tokens after left padding get other rows than without it; count real tokens only.
    """
    steps.real = lambda input_ids, padding_idx: torch.ones_like(input_ids, dtype=torch.bool)


@ROBERTA_POSITIONS.mistake("input_ids != self.config.pad_token_id", of=RobertaModel)
def padding_is_id_zero(steps: Any) -> None:
    """Padding is looked for at id 0, as in BERT; it is where the id is padding_idx. RoBERTa's 0 is
    the token that begins a text.
    """
    steps.real = lambda input_ids, padding_idx: input_ids != 0


@ROBERTA_POSITIONS.mistake("input_ids != self.config.pad_token_id", of=RobertaModel)
def padding_is_id_one(steps: Any) -> None:
    """Padding is looked for at id 1; it is where the id is padding_idx, which is 1 in roberta-base
    but not in every checkpoint.
    """
    steps.real = lambda input_ids, padding_idx: input_ids != 1


@ROBERTA_POSITIONS.mistake("Because padding is not counted")
def padding_taken_to_be_on_the_right(steps: Any) -> None:
    """The lengths are right, but the first tokens are taken to be the real ones, which is wrong
    where padding is on the left; take them from the ids.
    """
    real = steps.real
    steps.real = lambda input_ids, padding_idx: (
        torch.arange(input_ids.shape[1]) < real(input_ids, padding_idx).sum(dim=1, keepdim=True)
    )


@ROBERTA_POSITIONS.mistake("Because padding is not counted")
def padding_counted(steps: Any) -> None:
    """Padding has the right row, but the tokens after it are numbered by their place in the tensor
    (arange); number them by the real tokens before them (cumsum).
    """
    steps.counted = lambda real: torch.arange(1, real.shape[1] + 1).expand(real.shape)


@ROBERTA_POSITIONS.mistake("real.cumsum(dim=1)", of=RobertaPositionsSteps)
def counted_down_the_batch(steps: Any) -> None:
    """The sum runs over the batch (dim=0), so a token's row depends on other sequences; sum over
    the tokens of each sequence (dim=1).
    """
    steps.counted = lambda real: real.cumsum(dim=0)


@ROBERTA_POSITIONS.mistake("return counted * real", of=RobertaPositionsSteps)
def padding_not_reset(steps: Any) -> None:
    """Padding gets the row of the token before it; multiply the running count by the mask, so that
    it gets padding_idx.
    """
    steps.reset = lambda counted, real: counted


@ROBERTA_POSITIONS.mistake("offset=self.config.pad_token_id + 1", of=RobertaModel)
def no_offset(steps: Any) -> None:
    """padding_idx is not added, so tokens have the rows 1, 2, ... and padding has 0: vectors that
    were trained for other positions, or never.
    """
    steps.shifted = lambda numbers, padding_idx: numbers


@ROBERTA_POSITIONS.mistake("offset=self.config.pad_token_id + 1", of=RobertaModel)
def offset_of_one(steps: Any) -> None:
    """1 is added in place of padding_idx: right for roberta-base, wrong for other checkpoints."""
    steps.shifted = lambda numbers, padding_idx: numbers + 1


@ROBERTA_POSITIONS.mistake("offset=self.config.pad_token_id + 1", of=RobertaModel)
def one_too_many(steps: Any) -> None:
    """Every row is one too large: cumsum counts from 1, so add padding_idx alone. The library
    counts from 0 and adds padding_idx + 1.
    """
    shifted = steps.shifted
    steps.shifted = lambda numbers, padding_idx: shifted(numbers, padding_idx) + 1


@ROBERTA_POSITIONS.mistake("real.cumsum(dim=1)", of=RobertaPositionsSteps)
def counted_from_zero(steps: Any) -> None:
    """Tokens are counted from 0, so the first has padding's row, padding_idx; it should have
    padding_idx + 1.
    """
    counted = steps.counted
    steps.counted = lambda real: counted(real) - 1


@ROBERTA_POSITIONS.mistake("self.reset(counted, real), padding_idx", of=RobertaPositionsSteps)
def padding_in_row_zero(steps: Any) -> None:
    """The mask is multiplied after padding_idx is added, so that padding has the row 0; multiply
    first, then add.
    """
    steps.rows = lambda counted, real, padding_idx: (
        steps.shifted(counted, padding_idx) * real.to(counted.dtype)
    )


@ROBERTA_POSITIONS.mistake("position_ids + self.offset", of=positional_embeddings.OffsetPositions)
def positions_of_bert(steps: Any) -> None:
    """These are BERT's positions, 0, 1, 2, ... by place in the tensor; RoBERTa counts real tokens
    only, and begins at padding_idx + 1.
    """
    steps.rows = lambda counted, real, padding_idx: torch.arange(real.shape[1]).expand(real.shape)


@ROBERTA_POSITIONS.mistake("(B, T) int64")
def rows_are_floats(steps: Any) -> None:
    """The rows are floats, since the mask was converted to a float dtype; an embedding takes
    integers. A sum of bools is int64 by itself.
    """
    rows = steps.rows
    steps.rows = lambda counted, real, padding_idx: rows(counted, real, padding_idx).float()


# ---- sinusoids ----


def sinusoids(num_positions: int, hidden_size: int) -> Tensor:
    """sin and cos of position / 10000^(2 i / E), a row for each position 0, 1, 2, ...

    i = 0, 1, 2, ... numbers the waves; E is the hidden size. The order is Marian's and Hugging
    Face's: first the sines of all waves, then the cosines of all waves. ("Attention Is All You
    Need" sets the sine and the cosine of a wave side by side.) With an odd E there is one more
    sine than cosine: (E + 1) // 2 sines and E // 2 cosines.

    Computed and returned in float64: in float32 the angles of distant positions lose digits.

    Source: "Attention Is All You Need", section 3.5; Hugging Face's
    `MarianSinusoidalPositionalEmbedding`.

    Args:
        num_positions: the number of rows.
        hidden_size: E, at least 3.

    Returns:
        (num_positions, E) float64.
    """
    raise NotImplementedError("write me")


class SinusoidsSteps:
    """`sinusoids` in steps. W is the number of waves."""

    def positions(self, num_positions: int) -> Tensor:
        """(positions, 1)."""
        return torch.arange(num_positions, dtype=torch.float64)[:, None]

    def exponents(self, hidden_size: int) -> Tensor:
        """2 i / E, (W,)."""
        return torch.arange(0, hidden_size, 2, dtype=torch.float64) / hidden_size

    def angles(self, positions: Tensor, exponents: Tensor) -> Tensor:
        """(positions, W)."""
        return positions / 10_000.0**exponents

    def sines(self, positions: Tensor, hidden_size: int) -> Tensor:
        """(positions, W)."""
        return self.angles(positions, self.exponents(hidden_size)).sin()

    def cosines(self, positions: Tensor, hidden_size: int) -> Tensor:
        """(positions, W)."""
        return self.angles(positions, self.exponents(hidden_size)).cos()

    def cut(self, cosines: Tensor, hidden_size: int) -> Tensor:
        """Without that of the last wave where E is odd, (positions, E // 2)."""
        return cosines[:, : hidden_size // 2]

    def ordered(self, sines: Tensor, cosines: Tensor) -> Tensor:
        """(positions, E)."""
        return torch.cat([sines, cosines], dim=1)

    def returned(self, table: Tensor) -> Tensor:
        """The result."""
        return table

    def __call__(self, num_positions: int, hidden_size: int) -> Tensor:
        positions = self.positions(num_positions)
        cosines = self.cut(self.cosines(positions, hidden_size), hidden_size)
        return self.returned(self.ordered(self.sines(positions, hidden_size), cosines))


def sinusoids_cases() -> Iterator[Case]:
    """Even and odd sizes; positions so near that float32, if it is taken, is seen as float32."""
    for label, num_positions, hidden_size in [
        ("two positions", 2, 4),
        ("as many positions as numbers", 6, 6),
        ("an odd size", 3, 5),
        ("many numbers", 5, 64),
        ("one position", 1, 8),
    ]:
        inputs = {"num_positions": num_positions, "hidden_size": hidden_size}
        yield Case(label, inputs, gradients=False)


def install_sinusoids(module: Any, steps: Any) -> None:
    """Give a module of the library with a fixed table the table of these steps."""
    if isinstance(module, positional_embeddings.SinusoidalPositions):
        module.table = steps(*module.table.shape).float().to(module.table)  # as in `fill`


SINUSOIDS = Exercise(
    template=sinusoids,
    reference=positional_embeddings.sinusoids,
    steps=SinusoidsSteps,
    cases=sinusoids_cases,
    install=install_sinusoids,
    title="sinusoidal positions",
)


@SINUSOIDS.mistake("torch.arange(num_positions")
def positions_from_one(steps: Any) -> None:
    """Positions are counted from 1; the first is 0, whose sines are 0 and cosines 1."""
    positions = steps.positions
    steps.positions = lambda num_positions: positions(num_positions) + 1


@SINUSOIDS.mistake("waves / hidden_size")
def i_not_doubled(steps: Any) -> None:
    """The exponent is i / E; it is 2 i / E. Step through arange(0, E, 2)."""
    steps.exponents = lambda size: torch.arange((size + 1) // 2, dtype=torch.float64) / size


@SINUSOIDS.mistake("waves / hidden_size")
def i_doubled_twice(steps: Any) -> None:
    """The exponent is 4 i / E: i is doubled twice, or 2 i is divided by E / 2. It is 2 i / E."""
    steps.exponents = lambda size: torch.arange(0, size, 2, dtype=torch.float64) / (size / 2)


@SINUSOIDS.mistake("waves / hidden_size")
def waves_minus_one(steps: Any) -> None:
    """The exponent is i / (number of waves - 1), as in fairseq and tensor2tensor; the paper and
    Marian have 2 i / E.
    """
    steps.exponents = lambda size: torch.linspace(0, 1, (size + 1) // 2, dtype=torch.float64)


@SINUSOIDS.mistake("angles = positions / 10_000.0 **")
def multiplied_by_the_power(steps: Any) -> None:
    """Positions are multiplied by 10000^(2 i / E); divide, or negate the exponent."""
    angles = steps.angles
    steps.angles = lambda positions, exponents: angles(positions, -exponents)


@SINUSOIDS.mistake("10_000.0 **")
def base_e(steps: Any) -> None:
    """The base is e: exp(2 i / E) without the factor log(10000) in the exponent."""
    steps.angles = lambda positions, exponents: positions / exponents.exp()


@SINUSOIDS.mistake("10_000.0 **")
def base_1000(steps: Any) -> None:
    """The base is 1000; it is 10000."""
    steps.angles = lambda positions, exponents: positions / 1000.0**exponents


@SINUSOIDS.mistake("angles.cos()")
def cosines_with_waves_of_their_own(steps: Any) -> None:
    """The exponents of the cosines are (2 i + 1) / E: each column has a wave of its own. Sine and
    cosine come in pairs of the same wave, 2 i / E.
    """
    steps.cosines = lambda positions, hidden_size: steps.angles(
        positions, steps.exponents(hidden_size) + 1 / hidden_size
    ).cos()


@SINUSOIDS.mistake("[angles.sin(), angles.cos()")
def sines_twice(steps: Any) -> None:
    """Both halves are sines; the second has cosines."""
    steps.cosines = lambda positions, hidden_size: steps.sines(positions, hidden_size)


@SINUSOIDS.mistake("[:, : hidden_size // 2]")
def one_cosine_too_many(steps: Any) -> None:
    """With an odd E there is a cosine too many, and a row has E + 1 numbers; the last wave has a
    sine only.
    """
    steps.cut = lambda cosines, hidden_size: cosines


@SINUSOIDS.mistake("With an odd E the last wave")
def last_column_of_zeros(steps: Any) -> None:
    """With an odd E there are only E // 2 waves, and the last column stays 0; there should be
    (E + 1) // 2 waves, the last of which has a sine only.
    """

    def padded(sines: Tensor, cosines: Tensor) -> Tensor:
        waves = cosines.shape[1]
        missing = (0, sines.shape[1] - waves)
        return F.pad(torch.cat([sines[:, :waves], cosines], dim=1), missing)

    steps.ordered = padded


@SINUSOIDS.mistake("torch.cat([angles.sin()")
def side_by_side(steps: Any) -> None:
    """Sine and cosine of each wave stand side by side, as in the paper. Marian's checkpoints have
    all sines first, then all cosines.
    """

    def interleaved(sines: Tensor, cosines: Tensor) -> Tensor:
        table = torch.cat([sines, cosines], dim=1)
        table[:, 0::2], table[:, 1::2] = sines, cosines
        return table

    steps.ordered = interleaved


@SINUSOIDS.mistake("torch.cat([angles.sin()")
def cosines_first(steps: Any) -> None:
    """The cosines come first; the sines should."""
    steps.ordered = lambda sines, cosines: torch.cat([cosines, sines], dim=1)


@SINUSOIDS.mistake("dtype=torch.float64)[:, None]")
def table_in_float32(steps: Any) -> None:
    """The table is in float32, PyTorch's default; compute it in float64, since the angles of
    distant positions lose digits in float32, and return that.
    """
    steps.returned = lambda table: table.float()


@SINUSOIDS.mistake("(positions, waves)")
def table_transposed(steps: Any) -> None:
    """Rows and columns are exchanged: a row belongs to a position, a column to a wave."""
    returned = steps.returned
    steps.returned = lambda table: returned(table).T


# ---- T5's buckets of relative positions ----


def relative_position_bucket(
    distance: Tensor, bidirectional: bool, num_buckets: int, max_distance: int
) -> Tensor:
    """The bucket of each distance: near ones have one each, far ones share, on a log scale.

    If bidirectional, each direction has n = num_buckets // 2 buckets: keys at or before the query
    (distance <= 0) have 0 ... n - 1, keys after it (distance > 0) have n ... 2 n - 1. If not,
    n = num_buckets, and all keys after the query have bucket 0, that of the query itself.

    Within a direction let m = n // 2. For keys at or before the query d = -distance; for keys after
    it, if bidirectional, d = distance. If d < m, the bucket is the d-th of its direction, counted
    from 0. If not, it is number

        m + floor((n - m) * log(d / m) / log(max_distance / m)), and at most n - 1,

    so that from max_distance on all share the last bucket. floor rounds down; it is used for d >= m
    alone, of numbers of at least 0, where `.long()` does the same. No distance of the check is so
    near to the border of two buckets that float32 and float64 would give different ones.

    Source: "Exploring the Limits of Transfer Learning" (Raffel et al. 2020), section 2.1; Hugging
    Face's `T5Attention._relative_position_bucket`.

    Args:
        distance: int64 of any shape, position of the key minus position of the query.
        bidirectional: whether keys after the query have buckets of their own.
        num_buckets: of both directions together.
        max_distance: above n // 2.

    Returns:
        int64 of the same shape, 0 <= bucket < num_buckets.
    """
    raise NotImplementedError("write me")


class RelativePositionBucketSteps:
    """The library's `relative_position_bucket` in steps."""

    def signed(self, distance: Tensor) -> Tensor:
        """Above 0 where the key is after the query."""
        return distance

    def of_a_direction(self, num_buckets: int, bidirectional: bool) -> int:
        """How many buckets there are for a direction."""
        return num_buckets // 2 if bidirectional else num_buckets

    def first(self, distance: Tensor, buckets: int, bidirectional: bool) -> Tensor:
        """The first bucket of the direction of each distance."""
        return (distance > 0) * buckets if bidirectional else torch.zeros_like(distance)

    def away(self, distance: Tensor, bidirectional: bool) -> Tensor:
        """How far the key is in its direction, 0 or more."""
        return distance.abs() if bidirectional else (-distance).clamp(min=0)

    def share(self, away: Tensor, num_exact: int, max_distance: int) -> Tensor:
        """0 at num_exact, 1 at max_distance."""
        return torch.log(away.float() / num_exact) / math.log(max_distance / num_exact)

    def whole(self, buckets: Tensor) -> Tensor:
        """Buckets without what follows the point."""
        return buckets.floor()

    def far(self, away: Tensor, num_exact: int, buckets: int, max_distance: int) -> Tensor:
        """The buckets of distances of num_exact and more."""
        share = self.share(away, num_exact, max_distance)
        return num_exact + self.whole((share * (buckets - num_exact)).clamp(min=0)).long()

    def at_most(self, far: Tensor, last: int) -> Tensor:
        """No bucket after the last."""
        return far.clamp(max=last)

    def __call__(
        self, distance: Tensor, bidirectional: bool, num_buckets: int, max_distance: int
    ) -> Tensor:
        distance = self.signed(distance)
        buckets = self.of_a_direction(num_buckets, bidirectional)
        away = self.away(distance, bidirectional)
        num_exact = buckets // 2
        far = self.at_most(self.far(away, num_exact, buckets, max_distance), buckets - 1)
        near = torch.where(away < num_exact, away, far)
        return self.first(distance, buckets, bidirectional) + near


def relative_position_bucket_cases() -> Iterator[Case]:
    """Near and far distances in one direction and in both.

    None is where a logarithm is a whole number but for rounding, as at 16, 32 and 64 of T5's 32
    buckets: there float32 and float64 may fall on different sides.
    """
    both = {"one direction": False, "both directions": True}
    few = {"num_buckets": 8, "max_distance": 20}
    near = torch.arange(-3, 4)
    middle = torch.tensor([5, 7, 9, 11, 15, 18])
    beyond = torch.tensor([20, 21, 50, 1000])
    matrix = torch.arange(5) - torch.arange(4)[:, None]
    for name, bidirectional in both.items():
        for label, distances in [
            ("near", near),
            ("farther", torch.cat([-middle, middle])),
            ("beyond max_distance", torch.cat([-beyond, beyond])),
            ("queries and keys", matrix),
        ]:
            inputs = {"distance": distances, "bidirectional": bidirectional, **few}
            yield Case(f"{label}, {name}", inputs, gradients=False)
        distances = torch.tensor([1, 7, 8, 9, 14, 20, 31, 40, 60, 100, 127, 128, 300])
        inputs = {
            "distance": torch.cat([-distances, distances]),
            "bidirectional": bidirectional,
            "num_buckets": 32,
            "max_distance": 128,
        }
        yield Case(f"T5's sizes, {name}", inputs, gradients=False)


def install_relative_position_bucket(module: Any, steps: Any) -> None:
    """Let a relative position bias of the library find its buckets with these steps."""
    if isinstance(module, positional_embeddings.RelativePositionBias):

        def forward(query_positions: Tensor, num_keys: int) -> Tensor:
            keys = torch.arange(num_keys, device=query_positions.device)
            distance = keys - query_positions[:, None]  # (T, S)
            sizes = module.bidirectional, module.num_buckets, module.max_distance
            return module.table(steps(distance, *sizes)).permute(2, 0, 1)[None]  # (1, H, T, S)

        module.forward = forward  # type: ignore[method-assign]


RELATIVE_POSITION_BUCKET = Exercise(
    template=relative_position_bucket,
    reference=positional_embeddings.relative_position_bucket,
    steps=RelativePositionBucketSteps,
    cases=relative_position_bucket_cases,
    install=install_relative_position_bucket,
    title="T5's buckets of relative positions",
)


@RELATIVE_POSITION_BUCKET.mistake("position of the key minus position of the query")
def sign_reversed(steps: Any) -> None:
    """The sign is taken the other way round: distance is the key's position minus the query's, so
    it is above 0 for keys after the query.
    """
    steps.signed = lambda distance: -distance


@RELATIVE_POSITION_BUCKET.mistake("num_buckets //= 2")
def buckets_not_halved(steps: Any) -> None:
    """With two directions each still gets num_buckets buckets, and some numbers are past the end of
    the table; each gets half.
    """
    steps.of_a_direction = lambda num_buckets, bidirectional: num_buckets


@RELATIVE_POSITION_BUCKET.mistake("(distance > 0) * num_buckets")
def directions_share_buckets(steps: Any) -> None:
    """Keys before and after the query share buckets; if bidirectional, those after it have the
    second half.
    """
    steps.first = lambda distance, buckets, bidirectional: torch.zeros_like(distance)


@RELATIVE_POSITION_BUCKET.mistake("(distance > 0) * num_buckets")
def earlier_keys_in_the_second_half(steps: Any) -> None:
    """The halves are exchanged: if bidirectional, keys after the query have the second half."""
    first = steps.first
    steps.first = lambda distance, buckets, bidirectional: first(-distance, buckets, bidirectional)


@RELATIVE_POSITION_BUCKET.mistake("(distance > 0) * num_buckets")
def query_in_the_second_half(steps: Any) -> None:
    """A distance of 0 is put into the second half (>=); it belongs to the first: distance > 0."""
    steps.first = lambda distance, buckets, bidirectional: (
        (distance >= 0) * buckets if bidirectional else torch.zeros_like(distance)
    )


@RELATIVE_POSITION_BUCKET.mistake("(-distance).clamp(min=0)")
def later_keys_by_absolute_distance(steps: Any) -> None:
    """In one direction, keys after the query get the buckets of those before it (abs); all of them
    share bucket 0.
    """
    steps.away = lambda distance, bidirectional: distance.abs()


@RELATIVE_POSITION_BUCKET.mistake("(-distance).clamp(min=0)")
def negative_buckets(steps: Any) -> None:
    """In one direction, keys after the query get negative buckets, which no table has; raise them
    to 0.
    """
    away = steps.away
    steps.away = lambda distance, bidirectional: (
        away(distance, bidirectional) if bidirectional else -distance
    )


@RELATIVE_POSITION_BUCKET.mistake("torch.log(steps.float() / num_exact)")
def log_of_the_whole_distance(steps: Any) -> None:
    """log(d) / log(max_distance): both are to be divided by m first, so that the logarithm begins
    at 0 where the exact buckets end.
    """
    steps.share = lambda away, num_exact, max_distance: away.float().log() / math.log(max_distance)


@RELATIVE_POSITION_BUCKET.mistake("math.log(max_distance / num_exact)")
def log_of_max_distance(steps: Any) -> None:
    """The logarithm is divided by log(max_distance); divide by log(max_distance / m), so that the
    last bucket begins at max_distance.
    """
    steps.share = lambda away, num_exact, max_distance: (
        torch.log(away.float() / num_exact) / math.log(max_distance)
    )


@RELATIVE_POSITION_BUCKET.mistake("torch.log(steps.float() / num_exact)")
def evenly_without_the_logarithm(steps: Any) -> None:
    """Far distances are divided evenly; divide their logarithms, so that buckets widen with the
    distance.
    """
    steps.share = lambda away, num_exact, max_distance: (
        (away.float() - num_exact) / (max_distance - num_exact)
    )


@RELATIVE_POSITION_BUCKET.mistake("math.log(max_distance / num_exact)")
def max_distance_always_128(steps: Any) -> None:
    """max_distance is always 128, T5's default, whatever the argument says."""
    share = steps.share
    steps.share = lambda away, num_exact, max_distance: share(away, num_exact, 128)


@RELATIVE_POSITION_BUCKET.mistake(".clamp(min=0).long()")
def rounded_to_the_nearest(steps: Any) -> None:
    """The bucket is rounded to the nearest whole number; round down, as .long() does."""
    steps.whole = lambda buckets: buckets.round()


@RELATIVE_POSITION_BUCKET.mistake("num_exact + (share")
def far_ones_begin_at_zero(steps: Any) -> None:
    """m is not added to the buckets of far distances, so they share those of near ones."""
    far = steps.far
    steps.far = lambda away, num_exact, buckets, max_distance: (
        far(away, num_exact, buckets, max_distance) - num_exact
    )


@RELATIVE_POSITION_BUCKET.mistake("(share * (num_buckets - num_exact))")
def far_ones_spread_over_all_buckets(steps: Any) -> None:
    """The logarithm is multiplied by n; multiply by n - m, the number of buckets that are left."""
    steps.far = lambda away, num_exact, buckets, max_distance: (
        num_exact
        + steps.whole(steps.share(away, num_exact, max_distance) * buckets).clamp(min=0).long()
    )


@RELATIVE_POSITION_BUCKET.mistake("steps < num_exact, steps, far")
def a_bucket_for_every_distance(steps: Any) -> None:
    """Every distance has a bucket of its own up to the last; only those below m do, and the others
    share on a log scale.
    """
    steps.far = lambda away, num_exact, buckets, max_distance: away


@RELATIVE_POSITION_BUCKET.mistake("far.clamp(max=num_buckets - 1)")
def past_the_last_bucket(steps: Any) -> None:
    """Distances from max_distance on get buckets past the last; lower them to n - 1."""
    steps.at_most = lambda far, last: far

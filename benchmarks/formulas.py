"""What is computed, what is moved, and what a curve of measured times says: all formulas.

A product of (a, b) and (b, c) matrices has 2 a b c FLOPs; nothing but products is counted. The
backward pass has two products for each one of the forward pass.

Two counts of a batch are of interest. *Necessary* is what its result depends on: real tokens, the
last layer at the query positions, and the head there. *Executed* is what is computed, padding
included.

E hidden size, I intermediate size, H heads, T tokens of a sequence, B batch, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import linear_regression, mean
from typing import Any

import numpy as np

from minitransformer.fast.prepacked_linear import weights_of_a_step
from minitransformer.models.base import LanguageModel, Seq2SeqLM

BACKWARD = 3  # forward and backward together, as a multiple of forward
# How many (H, T, T) arrays are in memory at once where the attention weights are kept, without and
# with a backward pass: of the most memory-hungry, PyTorch's in bfloat16, measured and rounded up.
SQUARES = {False: 6.0, True: 11.0}
FEWEST_POINTS = 3  # of a fit, for a line through two of them fits whatever they are


@dataclass(frozen=True)
class Sizes:
    """The sizes of a BERT-like encoder; the defaults are those of DistilBERT."""

    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 3072

    def layer(self, tokens: int, queries: int, pairs: int) -> int:
        """FLOPs of one layer.

        Args:
            tokens: that give keys and values.
            queries: tokens for which the layer is computed.
            pairs: of a query and a key that meet.
        """
        E, I = self.hidden_size, self.intermediate_size  # noqa: E741
        return 4 * E * E * (tokens + queries) + 4 * E * I * queries + 4 * E * pairs

    def encoder(self, lengths: np.ndarray, queries: np.ndarray | None = None) -> int:
        """FLOPs of all layers.

        Args:
            lengths: (B,) tokens of each sequence.
            queries: (B,) for how many of them the last layer is computed; None for all.
        """
        lengths = lengths.astype(np.int64)
        queries = lengths if queries is None else queries.astype(np.int64)
        tokens = int(lengths.sum())
        whole = self.layer(tokens, tokens, int((lengths**2).sum()))
        last = self.layer(tokens, int(queries.sum()), int((lengths * queries).sum()))
        return (self.num_hidden_layers - 1) * whole + last

    def head(self, positions: int, outputs: int, *, dense: bool = True) -> int:
        """FLOPs of a head: a dense layer, where it has one, and a score for each output."""
        return 2 * self.hidden_size * (self.hidden_size * dense + outputs) * positions


@dataclass(frozen=True)
class Amount:
    """What has to be done at least: products, and the bytes that are read and written.

    A fused kernel does not keep the (T, T) weights and computes Q K^T again in the backward pass:
    `recomputed_flops`, which stand apart from the useful ones.
    """

    flops: int
    recomputed_flops: int
    bytes: int

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            self.flops + other.flops,
            self.recomputed_flops + other.recomputed_flops,
            self.bytes + other.bytes,
        )


def pairs(lengths: Sequence[int], causal: bool) -> int:
    """Queries and keys that may attend, in sequences of these lengths.

    A causal mask leaves T (T + 1) / 2, though a kernel that masks after multiplying computes T^2.
    """
    return sum(t * (t + 1) // 2 if causal else t * t for t in lengths)


def attention(
    sizes: Sizes, lengths: Sequence[int], size: int, *, causal: bool, backward: bool, fused: bool
) -> Amount:
    """The T^2 part, softmax(Q K^T) V, without projections.

    Args:
        sizes: of the layer.
        lengths: T of each sequence.
        size: bytes of a number.
        causal: a token sees none that come after it.
        backward: the backward pass is counted too.
        fused: the (T, T) weights never go to memory.
    """
    products = 4 * sizes.hidden_size * pairs(lengths, causal)
    # Read Q, K, V, write O; backward read Q, K, V, O, dO, write dQ, dK, dV.
    numbers = sum(lengths) * sizes.hidden_size * (4 + 8 * backward)
    if not fused:
        # Scores and weights are written and read once each; backward, the weights are read twice
        # and their gradient written and read, that of the scores written and read twice.
        numbers += sizes.num_attention_heads * pairs(lengths, causal=False) * (4 + 7 * backward)
    return Amount(
        flops=products * (BACKWARD if backward else 1),
        recomputed_flops=products // 2 if fused and backward else 0,
        bytes=numbers * size,
    )


def without_attention(sizes: Sizes, tokens: int, size: int, *, backward: bool) -> Amount:
    """A layer without its T^2 part: projections and feed-forward network.

    Norms, sums and the activation could be done while a product is written: they are not counted.
    """
    E, I = sizes.hidden_size, sizes.intermediate_size  # noqa: E741
    weights = 4 * E * E + 2 * E * I
    activations = tokens * (10 * E + 2 * I)  # in and out of every linear map
    times = BACKWARD if backward else 1
    return Amount(2 * tokens * weights * times, 0, (weights + activations) * times * size)


def equal_length(sizes: Sizes, causal: bool = False) -> int:
    """The T at which the T^2 part has as many FLOPs as the rest of a layer: 2 E + I.

    Under a causal mask half of the pairs are left: twice that (less the one token of T + 1).
    """
    both = 2 * sizes.hidden_size + sizes.intermediate_size
    return 2 * both - 1 if causal else both


def highest_memory(
    sizes: Sizes, rows: int, longest: int, size: int, *, backward: bool, fused: bool
) -> float:
    """Bytes that a layer needs at its highest, roughly, before it is tried.

    Args:
        sizes: of the layer.
        rows, longest: the shape of its input, padding included.
        size: bytes of a number.
        backward: what the backward pass needs is kept.
        fused: no (T, T) weights are kept.
    """
    E, I = sizes.hidden_size, sizes.intermediate_size  # noqa: E741
    numbers = float(rows * longest * (16 * E + 4 * I if backward else 8 * E))
    if not fused:
        numbers += SQUARES[backward] * rows * sizes.num_attention_heads * longest**2
    return numbers * size


def bytes_per_step(model: LanguageModel, size: int, *, tokens: float, source: float = 0) -> float:
    """What has to be read to decode one token of every sequence.

    Every weight of decoder and head once, however many sequences are decoded, but not the
    projections of the source, which are done before; and the keys and values of all tokens.

    Args:
        model: ours.
        size: bytes of a number.
        tokens: that were read or decoded so far, of all sequences together.
        source: tokens of all sources together; the beams of one share it.
    """
    numbers = sum(p.numel() for part in weights_of_a_step(model) for p in part.parameters())
    backbone: Any = model.backbone
    layers: Any = getattr(backbone, "decoder", backbone).layers
    for layer in layers:
        if isinstance(model, Seq2SeqLM):
            projections = [layer.cross_attention.key, layer.cross_attention.value]
            numbers -= sum(p.numel() for part in projections for p in part.parameters())
    inner_size = layers[0].attention.output.in_features  # heads times their size
    return size * (numbers + 2 * len(layers) * inner_size * (tokens + source))


@dataclass(frozen=True)
class Power:
    """The power law that a curve follows best."""

    exponent: float
    factor: float  # the cost at x = 1
    r_squared: float  # the share of the variance (of logarithms) that it explains


def fit_power(xs: Sequence[float], costs: Sequence[float]) -> Power:
    """Least squares in logarithms, in which a power law is a line.

    Raises:
        ValueError: there are fewer than three points, or something is not positive.
    """
    if len(xs) < FEWEST_POINTS:
        raise ValueError(f"an exponent needs at least {FEWEST_POINTS} points; here are {len(xs)}")
    across, up = _logarithms(xs), _logarithms(costs)
    slope, start = linear_regression(across, up)
    left = sum((y - start - slope * x) ** 2 for x, y in zip(across, up, strict=True))
    total = sum((y - mean(up)) ** 2 for y in up)
    # A level curve is a power law too.
    return Power(slope, math.exp(start), 1 - left / total if total else 1.0)


def upper_half(xs: Sequence[object]) -> slice:
    """The upper half of ascending points, and no fewer than an exponent needs.

    Below, overhead that does not grow is a large part of the cost and hides the exponent.
    """
    return slice(max(0, len(xs) - max(FEWEST_POINTS, math.ceil(len(xs) / 2))), None)


def crossing(
    xs: Sequence[float], rising: Sequence[float], other: Sequence[float]
) -> tuple[float, float] | None:
    """Where one curve overtakes another for good: x and cost, between points as power laws.

    Returns:
        None where the rising one is below at the last point, or above at every point.

    Raises:
        ValueError: something is not positive.
    """
    across, up = _logarithms(xs), _logarithms(rising)
    gaps = [y - below for y, below in zip(up, _logarithms(other), strict=True)]
    if not gaps or gaps[-1] < 0:
        return None
    for number, (before, after) in reversed([*enumerate(pairwise(gaps))]):
        if before < 0:
            share = before / (before - after)
            x, y = (line[number] * (1 - share) + line[number + 1] * share for line in (across, up))
            return math.exp(x), math.exp(y)
    return None


def _logarithms(values: Sequence[float]) -> list[float]:
    if any(value <= 0 for value in values):
        raise ValueError(f"a curve in logarithms needs positive numbers; here is {min(values)}")
    return [math.log(value) for value in values]

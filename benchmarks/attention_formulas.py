"""What attention and the rest of an encoder layer cost, by their sizes.

T tokens of a row, N tokens of all rows, h hidden size, f intermediate size, H heads.

A product of (a, b) and (b, c) matrices has 2 a b c FLOPs; nothing but products is counted. The
backward pass has two products for each one of the forward pass. A fused kernel does not keep the
(T, T) weights and computes Q K^T a second time on the way back: `recomputed_flops`, which are work
but no use, and stand apart. Under a causal mask the T (T + 1) / 2 pairs that may attend are
counted, though a kernel that masks after multiplying computes all T^2.

T^2 part: the products Q K^T and P V, 4 T h a token. The rest: four projections and the two maps of
the feed-forward network, 8 h^2 + 4 h f a token. They are equal at T = 2 h + f.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# How many (H, T, T) arrays lie in memory at once, where the weights are kept, without and with a
# backward pass: of the hungriest, PyTorch's in bfloat16, as measured and rounded up.
SQUARES = {False: 6.0, True: 11.0}


@dataclass(frozen=True)
class Sizes:
    """The sizes of a layer."""

    hidden: int
    heads: int
    intermediate: int


@dataclass(frozen=True)
class Amount:
    """What has to be done at least: the work, and the bytes that are read and written."""

    flops: int
    recomputed_flops: int
    bytes: int


def pairs(lengths: Sequence[int], causal: bool) -> int:
    """Queries and keys that may attend, in rows of these lengths."""
    return sum(t * (t + 1) // 2 if causal else t * t for t in lengths)


def attention(
    sizes: Sizes, lengths: Sequence[int], size: int, *, causal: bool, backward: bool, fused: bool
) -> Amount:
    """The T^2 part: from queries, keys and values to what they gather.

    Args:
        sizes: of the layer.
        lengths: T of each row.
        size: bytes of a number.
        causal: a token sees none that come after it.
        backward: the backward pass is counted too.
        fused: the (T, T) weights never go to memory.
    """
    products = 4 * sizes.hidden * pairs(lengths, causal)
    # Read Q, K, V, write O; backward read Q, K, V, O, dO, write dQ, dK, dV.
    numbers = sum(lengths) * sizes.hidden * (4 + 8 * backward)
    if not fused:
        # Scores and weights are written and read once each; backward, the weights are read twice
        # and their gradient written and read, that of the scores written and read twice.
        numbers += sizes.heads * pairs(lengths, causal=False) * (4 + 7 * backward)
    return Amount(
        flops=products * (3 if backward else 1),
        recomputed_flops=products // 2 if fused and backward else 0,
        bytes=numbers * size,
    )


def rest(sizes: Sizes, tokens: int, size: int, *, backward: bool) -> Amount:
    """The layer without its T^2 part: projections and feed-forward network.

    Norms, sums and the activation could be done while a product is written: they are not counted.
    """
    h, f = sizes.hidden, sizes.intermediate
    weights = 4 * h * h + 2 * h * f
    through = tokens * (8 * h + 2 * h + 2 * f)  # in and out of every map
    times = 3 if backward else 1
    return Amount(2 * tokens * weights * times, 0, (weights + through) * times * size)


def layer(
    sizes: Sizes, lengths: Sequence[int], size: int, *, causal: bool, backward: bool, fused: bool
) -> Amount:
    """The whole layer; arguments as in `attention`."""
    squared = attention(sizes, lengths, size, causal=causal, backward=backward, fused=fused)
    linear = rest(sizes, sum(lengths), size, backward=backward)
    return Amount(
        squared.flops + linear.flops, squared.recomputed_flops, squared.bytes + linear.bytes
    )


def equal_length(sizes: Sizes, causal: bool = False) -> int:
    """The T at which the T^2 part has as many FLOPs as all the rest: 2 h + f.

    Under a causal mask half of the pairs are left: twice that (less the one token of T + 1).
    """
    both = 2 * sizes.hidden + sizes.intermediate
    return 2 * both - 1 if causal else both


def highest_memory(
    sizes: Sizes, rows: int, longest: int, size: int, *, backward: bool, fused: bool
) -> float:
    """Bytes that a layer needs at its highest, roughly, before anybody tries.

    Args:
        sizes: of the layer.
        rows: as they lie in memory, padding included.
        longest: T, padding included.
        size: bytes of a number.
        backward: what the backward pass needs is kept.
        fused: no (T, T) weights are kept.
    """
    per_token = 16 * sizes.hidden + 4 * sizes.intermediate if backward else 8 * sizes.hidden
    numbers = float(rows * longest * per_token)
    if not fused:
        numbers += SQUARES[backward] * rows * sizes.heads * longest**2
    return numbers * size

"""Relative positions against a slow definition, written from the paper."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.layers.relative_positions import (
    RelativePositionBias,
    relative_position_bucket,
)


def slow_bucket(distance: int, *, bidirectional: bool, num_buckets: int, max_distance: int) -> int:
    """One distance by comparisons alone, without a logarithm that could be rounded.

    T5, section 2.1: half of the buckets hold one distance each; the others grow in size up to
    `max_distance`, evenly in the logarithm, and beyond it all distances share the last one.
    """
    first = 0
    if bidirectional:
        num_buckets //= 2
        if distance > 0:  # keys that come later
            first = num_buckets
    steps = abs(distance) if bidirectional else max(0, -distance)
    exact = num_buckets // 2
    if steps < exact:
        return first + steps
    wide = num_buckets - exact
    bucket = exact
    # The k-th wide bucket begins where (steps / exact) ^ wide >= (max_distance / exact) ^ k.
    while bucket < num_buckets - 1 and Fraction(steps, exact) ** wide >= Fraction(
        max_distance, exact
    ) ** (bucket - exact + 1):
        bucket += 1
    return first + bucket


@pytest.mark.parametrize("bidirectional", [True, False])
def test_every_distance_of_t5(bidirectional):
    sizes = {"bidirectional": bidirectional, "num_buckets": 32, "max_distance": 128}
    distances = torch.arange(-300, 301)
    expected = [slow_bucket(d, **sizes) for d in range(-300, 301)]
    assert relative_position_bucket(distances, **sizes).tolist() == expected
    # All are in use, near ones alone, far ones in the last.
    assert (
        sorted(set(expected)) == list(range(32)) if not bidirectional else len(set(expected)) == 31
    )
    assert expected[0] == (15 if bidirectional else 31)
    assert expected[-1] == (31 if bidirectional else 0)


@given(
    st.integers(4, 40),
    st.integers(2, 200),
    st.booleans(),
    st.integers(-400, 400),
)
def test_any_distance_with_any_number_of_buckets(num_buckets, more, bidirectional, distance):
    sizes = {
        "bidirectional": bidirectional,
        "num_buckets": num_buckets,
        "max_distance": num_buckets // 2 + more,
    }
    bucket = int(relative_position_bucket(torch.tensor(distance), **sizes))
    expected = slow_bucket(distance, **sizes)
    # A distance on the very border of two buckets may fall to either side of it by rounding.
    share = _share(distance, **sizes)
    if abs(share - round(share)) > 1e-4:
        assert bucket == expected
    assert 0 <= bucket < num_buckets
    assert abs(bucket - expected) <= 1


def _share(distance: int, *, bidirectional: bool, num_buckets: int, max_distance: int) -> float:
    num_buckets //= 2 if bidirectional else 1
    exact = num_buckets // 2
    steps = abs(distance) if bidirectional else max(0, -distance)
    if steps <= exact:
        return 0.5  # no logarithm is asked for
    return math.log(steps / exact) / math.log(max_distance / exact) * (num_buckets - exact)


def test_the_bucket_of_the_paper_by_hand():
    sizes = {"num_buckets": 32, "max_distance": 128}
    # 8 of 16 buckets a direction are exact; 16 is a quarter of the way from 8 to 128.
    both = relative_position_bucket(
        torch.tensor([0, -1, -7, -8, -16, -127, -128, 1, 7, 8, 16, 127]),
        bidirectional=True,
        **sizes,
    )
    assert both.tolist() == [0, 1, 7, 8, 10, 15, 15, 17, 23, 24, 26, 31]
    past = relative_position_bucket(
        torch.tensor([0, 5, -15, -16, -32, -64, -128]), bidirectional=False, **sizes
    )
    # 16 of 32 are exact; a third of the way from 16 to 128 is 32.
    assert past.tolist() == [0, 0, 15, 16, 21, 26, 31]


def test_the_example_of_the_docstring():
    distances = torch.tensor([0, -1, -7, -8, -20, -500])
    buckets = relative_position_bucket(
        distances, bidirectional=False, num_buckets=16, max_distance=128
    )
    assert buckets.tolist() == [0, 1, 7, 8, 10, 15]


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (1, 5), (3, 7), (1, 1)])
def test_the_bias_is_the_number_of_the_bucket_for_the_last_queries(bidirectional, queries, keys):
    module = RelativePositionBias(3, 6, 9, bidirectional)
    bias = module(queries, keys)
    assert bias.shape == (1, 3, queries, keys)
    for t in range(queries):
        for s in range(keys):
            place = keys - queries + t  # the queries are the last of the tokens
            bucket = slow_bucket(
                s - place, bidirectional=bidirectional, num_buckets=6, max_distance=9
            )
            assert torch.equal(bias[0, :, t, s], module.table.weight[bucket])


def test_the_gradient_of_the_table_counts_the_pairs_of_each_bucket():
    module = RelativePositionBias(1, 6, 9, bidirectional=True)
    module(4, 4).sum().backward()
    counts = torch.zeros(6)
    for t in range(4):
        for s in range(4):
            counts[slow_bucket(s - t, bidirectional=True, num_buckets=6, max_distance=9)] += 1
    assert torch.equal(module.table.weight.grad[:, 0], counts)

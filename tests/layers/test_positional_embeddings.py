"""Positions: counted from the mask, looked up, computed, and T5's relative ones.

The buckets of relative positions are compared with a slow definition from the paper.
"""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.layers.positional_embeddings import (
    LearnedPositions,
    OffsetPositions,
    RelativePositionBias,
    SinusoidalPositions,
    position_ids_from_mask,
    relative_position_bucket,
    sinusoids,
)


def test_position_ids_count_tokens_not_padding():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1]]).bool()
    assert position_ids_from_mask(mask).tolist() == [[-1, -1, 0, 1], [0, 1, -1, -1], [0, -1, 1, 2]]


def test_roberta_positions_have_two_more_rows_and_begin_at_two():
    positions = OffsetPositions(512, 3, offset=2, padding_idx=1)
    assert positions.table.weight.shape == (514, 3)
    mask = torch.tensor([[False, True, True]])
    torch.testing.assert_close(
        positions(position_ids_from_mask(mask))[0], positions.table.weight[[1, 2, 3]]
    )
    assert torch.equal(positions.table.weight[1], torch.zeros(3))
    full = positions(torch.arange(512)[None])
    assert torch.equal(full[0, -1], positions.table.weight[513])


def test_bert_positions_begin_at_zero():
    positions = LearnedPositions(5, 3)
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(
        positions(position_ids_from_mask(mask))[0], positions.table.weight[[0, 1, 0]]
    )


def test_bart_positions_begin_at_two_and_all_rows_are_learnt():
    positions = OffsetPositions(5, 3, offset=2)
    assert positions.table.weight.shape == (7, 3)
    mask = torch.tensor([[False, True, True], [True, False, True]])
    vectors = positions(position_ids_from_mask(mask))
    torch.testing.assert_close(
        vectors, positions.table.weight[torch.tensor([[1, 2, 3], [2, 1, 3]])]
    )
    vectors.sum().backward()
    assert positions.table.weight.grad[1].any()  # Hugging Face trains that row as well


@pytest.mark.parametrize(("size", "positions"), [(8, 40), (7, 5), (2, 3), (1, 4), (512, 512)])
def test_sinusoids_term_by_term(size, positions):
    """All sines come first, then all cosines; with an odd size there is one sine more."""
    table = sinusoids(positions, size)
    assert table.shape == (positions, size)
    assert table.dtype == torch.float64
    sines = (size + 1) // 2
    for position in {0, 1, positions // 2, positions - 1}:
        for column in range(size):
            wave = column if column < sines else column - sines
            angle = position / 10_000 ** (2 * wave / size)
            expected = math.sin(angle) if column < sines else math.cos(angle)
            assert table[position, column].item() == pytest.approx(expected, abs=1e-12)


def test_sinusoidal_positions_are_computed_not_stored_and_counted_from_the_mask():
    positions = SinusoidalPositions(6, 4)
    assert not list(positions.parameters())
    assert not positions.state_dict()
    expected = sinusoids(6, 4).float()
    mask = torch.tensor([[False, True, True], [True, True, False], [True, False, True]])
    vectors = positions(position_ids_from_mask(mask))
    torch.testing.assert_close(vectors, expected[torch.tensor([[0, 0, 1], [0, 1, 0], [0, 0, 1]])])
    full = positions(torch.arange(6)[None])
    assert torch.equal(full[0], expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_sinusoids_of_another_dtype_are_those_of_float32_rounded(dtype):
    positions = SinusoidalPositions(6, 4).to(dtype)
    before = positions.table.clone()
    positions.table.zero_()
    positions.fill()
    assert positions.table.dtype == dtype
    assert torch.equal(positions.table, sinusoids(6, 4).float().to(dtype))
    assert torch.equal(before, positions.table)


# --- Relative positions


def slow_bucket(distance: int, *, bidirectional: bool, num_buckets: int, max_distance: int) -> int:
    """The bucket of a distance by comparisons only, without a logarithm that could be rounded.

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
    # All buckets are used; far distances share the last one.
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
        return 0.5  # no logarithm is needed
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
@pytest.mark.parametrize(
    ("positions", "keys"), [([0, 1, 2, 3, 4], 5), ([4], 5), ([4, 5, 6], 7), ([0], 1), ([3, 1], 5)]
)
def test_the_bias_is_the_number_of_the_bucket_of_each_pair(bidirectional, positions, keys):
    module = RelativePositionBias(3, 6, 9, bidirectional)
    bias = module(torch.tensor(positions), keys)
    assert bias.shape == (1, 3, len(positions), keys)
    for t, position in enumerate(positions):
        for s in range(keys):
            bucket = slow_bucket(
                s - position, bidirectional=bidirectional, num_buckets=6, max_distance=9
            )
            assert torch.equal(bias[0, :, t, s], module.table.weight[bucket])


def test_the_gradient_of_the_table_counts_the_pairs_of_each_bucket():
    module = RelativePositionBias(1, 6, 9, bidirectional=True)
    module(torch.arange(4), 4).sum().backward()
    counts = torch.zeros(6)
    for t in range(4):
        for s in range(4):
            counts[slow_bucket(s - t, bidirectional=True, num_buckets=6, max_distance=9)] += 1
    assert torch.equal(module.table.weight.grad[:, 0], counts)

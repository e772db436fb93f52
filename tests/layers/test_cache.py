"""The cache against plain lists of tokens."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.layers.cache import KVCache, PastTokens

HEADS, SIZE = 2, 3


def some_keys(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, HEADS, length, SIZE, generator=generator)


steps = st.lists(
    st.tuples(st.integers(1, 4), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
    min_size=1,
    max_size=8,
)


@given(steps, st.integers(1, 3))
def test_any_updates_and_selections_give_what_joining_gives(steps, num_rows):
    """The reference joins everything anew at every step."""
    past = PastTokens()
    keys, values = some_keys(num_rows, 0), some_keys(num_rows, 0)
    for step, (length, rows) in enumerate(steps):
        new_keys, new_values = some_keys(len(keys), length, step), some_keys(len(keys), length, 99)
        keys, values = torch.cat([keys, new_keys], 2), torch.cat([values, new_values], 2)
        for held in (past.update(new_keys, new_values), past.tokens()):
            assert torch.equal(held[0], keys)
            assert torch.equal(held[1], values)
        assert past.length == keys.shape[2]
        chosen = torch.tensor(rows) % len(keys)
        past.select(chosen)
        keys, values = keys[chosen], values[chosen]
        assert torch.equal(past.tokens()[0], keys)
        assert torch.equal(past.tokens()[1], values)


def test_what_a_call_was_given_is_not_changed_by_later_ones():
    past = PastTokens()
    first = some_keys(1, 3)
    kept = first.clone()
    seen, _ = past.update(first, first)
    past.select(torch.tensor([0, 0]))
    for step in range(5):
        past.update(some_keys(2, 1, step), some_keys(2, 1, step))
    assert torch.equal(first, kept)
    assert torch.equal(seen, kept)


def test_rows_that_were_one_go_separate_ways():
    past = PastTokens()
    past.update(some_keys(1, 3), some_keys(1, 3))
    past.update(some_keys(1, 1), some_keys(1, 1))  # memory to spare
    past.select(torch.tensor([0, 0]))
    new = some_keys(2, 1, seed=5)
    keys, _ = past.update(new, new)
    assert torch.equal(keys[0, :, :4], keys[1, :, :4])
    assert torch.equal(keys[:, :, 4:], new)
    assert not torch.equal(keys[0, :, 4:], keys[1, :, 4:])


def test_memory_grows_by_doubling():
    """64 tokens one by one are moved some log2(64) times, not 64 times."""
    past, places = PastTokens(), []
    for step in range(64):
        keys, values = past.update(some_keys(1, 1, step), some_keys(1, 1, step))
        places.append((keys.data_ptr(), values.data_ptr()))
    moves = sum(before != after for before, after in pairwise(places))
    assert 1 <= moves <= math.log2(64)


def test_half_precision_stays_what_it_is():
    past = PastTokens()
    for length in (2, 1, 1):
        keys, values = past.update(*(some_keys(1, length).bfloat16() for _ in range(2)))
        assert keys.dtype == values.dtype == torch.bfloat16


def test_gradients_are_refused():
    past, keys = PastTokens(), some_keys(1, 2)
    for pair in ((keys.clone().requires_grad_(), keys), (keys, keys.clone().requires_grad_())):
        with pytest.raises(ValueError, match=r"torch.no_grad\(\)"):
            past.update(*pair)
        assert past.length == 0


def test_another_number_of_rows_or_heads_is_refused():
    past = PastTokens()
    past.update(some_keys(2, 3), some_keys(2, 3))
    with pytest.raises(ValueError, match=r"holds 2 rows, but 3 came; .*cache.select\(rows\)"):
        past.update(some_keys(3, 1), some_keys(3, 1))
    with pytest.raises(ValueError, match="holds 2 heads of size 3, but 3 of size 2 came"):
        past.update(torch.ones(2, 3, 1, 2), torch.ones(2, 3, 1, 2))
    assert past.length == 3


def update_layers(cache: KVCache, rows: int, length: int) -> None:
    for layer in cache.layers:
        layer.own.update(some_keys(rows, length), some_keys(rows, length))


@given(
    st.lists(
        st.lists(st.lists(st.booleans(), min_size=2, max_size=2), min_size=1, max_size=3),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_the_mask_of_all_tokens_is_that_of_the_calls_in_turn(calls, whole_ones_unsaid):
    cache, masks = KVCache(2), []
    for columns in calls:
        mask = torch.tensor(columns).T  # (2, T)
        unsaid = whole_ones_unsaid and bool(mask.all())
        present = cache.extend(mask.long(), None if unsaid else mask)
        update_layers(cache, 2, mask.shape[1])
        masks.append(mask)
        expected = torch.cat(masks, dim=1)
        if present is None:
            assert expected.all()
        else:
            assert present.dtype == torch.bool
            assert torch.equal(present, expected)
        assert cache.length == expected.shape[1]


def test_no_mask_is_kept_as_long_as_nothing_is_padding():
    cache = KVCache(1)
    assert cache.extend(torch.ones(2, 3), None) is None
    update_layers(cache, 2, 3)
    present = cache.extend(torch.ones(2, 1), torch.tensor([[True], [False]]))
    assert present.tolist() == [[True] * 4, [True] * 3 + [False]]
    update_layers(cache, 2, 1)
    assert cache.extend(torch.ones(2, 2), None).tolist() == [
        [True] * 6,
        [True] * 3 + [False, True, True],
    ]


def test_selecting_chooses_masks_and_tokens_of_every_layer_and_leaves_the_source():
    cache = KVCache(3)
    cache.extend(torch.ones(2, 3), torch.tensor([[True] * 3, [False, True, True]]))
    update_layers(cache, 2, 3)
    for layer in cache.layers:
        layer.source.update(some_keys(2, 5), some_keys(2, 5))
    cache.select(torch.tensor([1, 1, 0]))
    for layer in cache.layers:
        keys, values = layer.own.tokens()
        assert torch.equal(keys, some_keys(2, 3)[[1, 1, 0]])
        assert torch.equal(values, keys)
        assert torch.equal(layer.source.tokens()[0], some_keys(2, 5))
    present = cache.extend(torch.ones(3, 1), None)
    assert present.tolist() == [[False, True, True, True]] * 2 + [[True] * 4]


def test_selecting_from_an_empty_cache_does_nothing():
    cache = KVCache(1)
    cache.select(torch.tensor([0, 0]))
    assert cache.length == 0
    assert cache.extend(torch.ones(2, 1), None) is None


def test_a_call_that_failed_spoils_the_cache_and_the_next_one_says_so():
    """Its tokens are counted, but there are no keys for them: positions would be wrong."""
    cache = KVCache(2)
    cache.extend(torch.ones(1, 3), None)
    cache.layers[0].own.update(some_keys(1, 3), some_keys(1, 3))  # and then Ctrl-C
    with pytest.raises(ValueError, match="ended in an error; begin with a new cache"):
        cache.extend(torch.ones(1, 1), None)


@pytest.mark.parametrize("mask", [None, torch.tensor([[True], [False], [True]])])
def test_another_number_of_rows_is_refused_before_anything_is_counted(mask):
    cache = KVCache(1)
    cache.extend(torch.ones(2, 3), torch.tensor([[True] * 3, [False, True, True]]))
    update_layers(cache, 2, 3)
    with pytest.raises(ValueError, match="holds 2 rows, but 3 came"):
        cache.extend(torch.ones(3, 1), mask)
    assert cache.length == 3
    assert cache.extend(torch.ones(2, 1), None).shape == (2, 4)

"""The cache against plain concatenation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.layers.kv_cache import KeyValues, KVCache, layer_caches

HEADS, SIZE = 2, 3


def some_keys(sequences: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sequences, HEADS, length, SIZE, generator=generator)


steps = st.lists(
    st.tuples(st.integers(1, 4), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
    min_size=1,
    max_size=8,
)


@given(steps, st.integers(1, 3))
def test_any_updates_and_selections_equal_concatenation(steps, num_sequences):
    """The reference concatenates everything again at every step."""
    cache = KeyValues()
    keys, values = some_keys(num_sequences, 0), some_keys(num_sequences, 0)
    for step, (length, selection) in enumerate(steps):
        new_keys, new_values = some_keys(len(keys), length, step), some_keys(len(keys), length, 99)
        keys, values = torch.cat([keys, new_keys], 2), torch.cat([values, new_values], 2)
        for held in (cache.update(new_keys, new_values), (cache.keys, cache.values)):
            assert torch.equal(held[0], keys)
            assert torch.equal(held[1], values)
        assert cache.length == keys.shape[2]
        chosen = torch.tensor(selection) % len(keys)
        cache.select(chosen)
        keys, values = keys[chosen], values[chosen]
        assert torch.equal(cache.keys, keys)
        assert torch.equal(cache.values, values)


def test_later_calls_do_not_change_earlier_results():
    cache = KeyValues()
    first = some_keys(1, 3)
    before = first.clone()
    seen, _ = cache.update(first, first)
    cache.select(torch.tensor([0, 0]))
    for step in range(5):
        cache.update(some_keys(2, 1, step), some_keys(2, 1, step))
    assert torch.equal(first, before)
    assert torch.equal(seen, before)


def test_copies_of_a_sequence_can_continue_differently():
    cache = KeyValues()
    cache.update(some_keys(1, 3), some_keys(1, 3))
    cache.update(some_keys(1, 1), some_keys(1, 1))
    cache.select(torch.tensor([0, 0]))
    new = some_keys(2, 1, seed=5)
    keys, _ = cache.update(new, new)
    assert torch.equal(keys[0, :, :4], keys[1, :, :4])
    assert torch.equal(keys[:, :, 4:], new)
    assert not torch.equal(keys[0, :, 4:], keys[1, :, 4:])


def test_half_precision_stays_what_it_is():
    cache = KeyValues()
    for length in (2, 1, 1):
        keys, values = cache.update(*(some_keys(1, length).bfloat16() for _ in range(2)))
        assert keys.dtype == values.dtype == torch.bfloat16


def test_gradients_are_refused():
    cache, keys = KeyValues(), some_keys(1, 2)
    for pair in ((keys.clone().requires_grad_(), keys), (keys, keys.clone().requires_grad_())):
        with pytest.raises(ValueError, match=r"torch.no_grad\(\)"):
            cache.update(*pair)
        assert cache.length == 0
    cache.update(keys, keys)
    with pytest.raises(ValueError, match=r"torch.no_grad\(\)"):
        cache.update(keys.clone().requires_grad_(), keys)
    assert cache.length == 2


def test_another_number_of_sequences_or_heads_is_refused():
    cache = KeyValues()
    cache.update(some_keys(2, 3), some_keys(2, 3))
    with pytest.raises(
        ValueError, match=r"holds 2 sequences, but got 3; .*cache.select\(sequences\).*a new cache"
    ):
        cache.update(some_keys(3, 1), some_keys(3, 1))
    with pytest.raises(ValueError, match="holds 2 heads of size 3, but got 3 of size 2"):
        cache.update(torch.ones(2, 3, 1, 2), torch.ones(2, 3, 1, 2))
    assert cache.length == 3


def update_layers(cache: KVCache, sequences: int, length: int) -> None:
    for layer in cache.layers:
        layer.self_attention.update(some_keys(sequences, length), some_keys(sequences, length))


@given(
    st.lists(
        st.lists(st.lists(st.booleans(), min_size=2, max_size=2), min_size=1, max_size=3),
        min_size=1,
        max_size=5,
    ),
)
def test_mask_and_positions_are_those_of_the_calls_in_turn(calls):
    cache, masks = KVCache(2), []
    for columns in calls:
        mask = torch.tensor(columns).T  # (2, T)
        whole, positions = cache.extend(mask)
        update_layers(cache, 2, mask.shape[1])
        before = cache.length - mask.shape[1]
        masks.append(mask)
        expected = torch.cat(masks, dim=1)
        assert whole.dtype == torch.bool
        assert torch.equal(whole, expected)
        assert torch.equal(cache.attention_mask, expected)
        assert positions.tolist() == list(range(before, cache.length))
        assert positions.dtype == torch.int64
        assert cache.length == expected.shape[1]


def test_selecting_chooses_masks_and_tokens_of_every_layer_and_leaves_the_source():
    cache = KVCache(3)
    cache.extend(torch.tensor([[True] * 3, [False, True, True]]))
    update_layers(cache, 2, 3)
    for layer in cache.layers:
        layer.cross_attention.update(some_keys(2, 5), some_keys(2, 5))
    cache.select(torch.tensor([1, 1, 0]))
    for layer in cache.layers:
        assert torch.equal(layer.self_attention.keys, some_keys(2, 3)[[1, 1, 0]])
        assert torch.equal(layer.self_attention.values, layer.self_attention.keys)
        assert torch.equal(layer.cross_attention.keys, some_keys(2, 5))
    whole, _ = cache.extend(torch.ones(3, 1, dtype=torch.bool))
    assert whole.tolist() == [[False, True, True, True]] * 2 + [[True] * 4]


def test_selecting_from_an_empty_cache_does_nothing():
    cache = KVCache(1)
    cache.select(torch.tensor([0, 0]))
    assert cache.length == 0
    whole, positions = cache.extend(torch.ones(2, 1, dtype=torch.bool))
    assert whole.tolist() == [[True], [True]]
    assert positions.tolist() == [0]


def test_a_cache_cannot_be_used_after_a_failed_call():
    """Its tokens are counted, but there are no keys for them: positions would be wrong."""
    cache = KVCache(2)
    cache.extend(torch.ones(1, 3, dtype=torch.bool))
    cache.layers[0].self_attention.update(some_keys(1, 3), some_keys(1, 3))  # and then Ctrl-C
    with pytest.raises(ValueError, match="failed; start with a new cache"):
        cache.extend(torch.ones(1, 1, dtype=torch.bool))


def test_another_number_of_sequences_is_refused_before_anything_is_counted():
    cache = KVCache(1)
    cache.extend(torch.tensor([[True] * 3, [False, True, True]]))
    update_layers(cache, 2, 3)
    with pytest.raises(ValueError, match="holds 2 sequences, but got 3"):
        cache.extend(torch.tensor([[True], [False], [True]]))
    assert cache.length == 3
    whole, positions = cache.extend(torch.ones(2, 1, dtype=torch.bool))
    assert whole.shape == (2, 4)
    assert positions.tolist() == [3]


def test_the_layers_of_another_decoder_are_refused():
    cache = KVCache(3)
    assert layer_caches(cache, 3) == cache.layers
    assert layer_caches(None, 2) == [None, None]
    with pytest.raises(
        ValueError,
        match=r"the cache has 3 layers, the decoder 2; make one with model.new_cache\(\)",
    ):
        layer_caches(cache, 2)

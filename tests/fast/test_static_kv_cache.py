"""Caches that write in place, compared with the plain cache, which concatenates."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minitransformer.fast.static_kv_cache import (
    PreallocatedKeyValues,
    PreallocatedKVCache,
    StaticKVCache,
)
from minitransformer.layers.kv_cache import KeyValues, KVCache
from minitransformer.layers.positional_embeddings import position_ids_from_mask
from tests.tiny import LANGUAGE_MODELS, build, pad, random_ids

SEQUENCES, HEADS, SIZE = 2, 3, 5
ONE = torch.ones(SEQUENCES, 1, dtype=torch.bool)

steps = st.lists(
    st.tuples(st.integers(1, 4), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
    min_size=1,
    max_size=8,
)


def some(length: int, seed: int = 0, sequences: int = SEQUENCES) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sequences, HEADS, length, SIZE, generator=generator)


@given(steps)
def test_any_updates_and_selections_equal_concatenation(steps):
    grown, joined = PreallocatedKeyValues(), KeyValues()
    sequences = SEQUENCES
    for number, (length, rows) in enumerate(steps):
        key, value = some(length, number, sequences), some(length, 99 + number, sequences)
        for found, right in zip(grown.update(key, value), joined.update(key, value), strict=True):
            assert torch.equal(found, right)
        assert grown.length == joined.length
        selected, sequences = torch.tensor(rows) % sequences, len(rows)
        for cache in (grown, joined):
            cache.select(selected)
        assert torch.equal(grown.keys, joined.keys)
        assert torch.equal(grown.values, joined.values)


def test_later_calls_do_not_change_earlier_results():
    past, first = PreallocatedKeyValues(), some(3, sequences=1)
    before = first.clone()
    seen, _ = past.update(first, first)
    past.select(torch.tensor([0, 0]))
    for step in range(5):
        past.update(some(1, step), some(1, step))
    assert torch.equal(first, before)
    assert torch.equal(seen, before)


def test_copies_of_a_sequence_can_continue_differently():
    past = PreallocatedKeyValues()
    past.update(some(3, sequences=1), some(3, sequences=1))
    past.update(some(1, sequences=1), some(1, sequences=1))  # memory to spare
    past.select(torch.tensor([0, 0]))
    new = some(1, seed=5)
    keys, _ = past.update(new, new)
    assert torch.equal(keys[0, :, :4], keys[1, :, :4])
    assert torch.equal(keys[:, :, 4:], new)


def test_memory_grows_by_doubling():
    """For 64 single tokens, memory is copied about log2(64) times, not 64 times."""
    past, addresses = PreallocatedKeyValues(), []
    for step in range(64):
        keys, values = past.update(some(1, step), some(1, step))
        addresses.append((keys.data_ptr(), values.data_ptr()))
    assert 1 <= sum(before != after for before, after in pairwise(addresses)) <= math.log2(64)


def test_beams_write_where_their_selection_put_them():
    past = PreallocatedKeyValues()
    past.update(some(3), some(3))
    past.update(some(1), some(1))  # memory to spare
    past.select(torch.tensor([1, 1]))
    address = past.keys.data_ptr()
    assert past.update(some(1), some(1))[0].data_ptr() == address


def test_a_cache_of_inference_mode_can_be_used_outside_it():
    """Inference tensors cannot be written outside inference mode, so memory is allocated again."""
    grown, joined = PreallocatedKeyValues(), KeyValues()
    modes = [torch.inference_mode] * 2 + [torch.no_grad] * 2 + [torch.inference_mode, torch.no_grad]
    for step, mode in enumerate(modes):
        with mode():
            pairs = zip(
                grown.update(some(1, step), some(1, 99 + step)),
                joined.update(some(1, step), some(1, 99 + step)),
                strict=True,
            )
            assert all(torch.equal(found, right) for found, right in pairs)
        if step == 1:
            assert grown.keys.is_inference()


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_model_continues_outside_inference_mode(name):
    found = []
    for variant in ("sdpa", "optimized"):
        model: Any = build(name, variant)
        with torch.inference_mode():
            arguments = {}
            if hasattr(model, "encode"):
                arguments = {"encoded": model.encode(random_ids(4)[None])}
            cache = model.new_cache()
            for token in random_ids(3):
                model.next_token_logits(token[None, None], cache=cache, **arguments)
        with torch.no_grad():
            cache.select(torch.tensor([0]))
            found.append(model.next_token_logits(random_ids(1)[None], cache=cache, **arguments))
    torch.testing.assert_close(*found, atol=1e-10, rtol=1e-10)


def test_half_precision_stays_what_it_is():
    past = PreallocatedKeyValues()
    for length in (2, 1, 1):
        keys, values = past.update(*(some(length).bfloat16() for _ in range(2)))
        assert keys.dtype == values.dtype == torch.bfloat16


def test_a_growing_cache_raises_the_plain_caches_errors():
    past = PreallocatedKeyValues()
    with pytest.raises(ValueError, match=r"torch.no_grad\(\)"):
        past.update(some(2).requires_grad_(), some(2))
    past.update(some(3), some(3))
    with pytest.raises(ValueError, match=r"torch.no_grad\(\)"):
        past.update(some(1).requires_grad_(), some(1))
    with pytest.raises(ValueError, match="holds 2 sequences, but got 3"):
        past.update(some(1, sequences=3), some(1, sequences=3))
    with pytest.raises(ValueError, match="holds 3 heads of size 5, but got 5 of size 3"):
        past.update(some(1).mT.reshape(2, 5, 1, 3), some(1).mT.reshape(2, 5, 1, 3))
    assert past.length == 3
    empty = PreallocatedKeyValues()
    empty.select(torch.tensor([0, 0]))
    assert empty.length == 0


def filled(mask: list[list[int]] | None = None, source: int = 0, seed: int = 0) -> KVCache:
    """A cache of two layers with four tokens."""
    cache = KVCache(2)
    cache.extend(torch.tensor([[1] * 4] * SEQUENCES if mask is None else mask).bool())
    for number, layer in enumerate(cache.layers):
        layer.self_attention.update(some(4, seed + number), some(4, seed + 9 + number))
        if source:
            key, value = some(source, seed + 20 + number), some(source, seed + 30 + number)
            layer.cross_attention.update(key, value)
            layer.cross_attention.source = key
    return cache


@pytest.mark.parametrize("mask", [None, [[0, 0, 1, 1], [1, 1, 1, 1]]])
def test_a_filled_cache_equals_its_source(mask):
    joined = filled(mask)
    static = StaticKVCache(joined, 7)
    for step in range(3):
        static.advance()
        real, position = static.extend(ONE)
        there, other_position = joined.extend(ONE)
        assert torch.equal(position, other_position)
        for number in range(2):
            key, value = some(1, 50 + step + number), some(1, 70 + step + number)
            keys, values = static.layers[number].self_attention.update(key, value)
            assert keys.shape == (SEQUENCES, HEADS, 7, SIZE)
            expected = joined.layers[number].self_attention.update(key, value)
            for held, other in zip((keys, values), expected, strict=True):
                assert torch.equal(held[:, :, : joined.length], other)
                assert not held[:, :, joined.length :].any()
        assert torch.equal(real[:, : joined.length], there)
        assert not real[:, joined.length :].any()
        assert torch.equal(
            position_ids_from_mask(real)[:, position], position_ids_from_mask(there)[:, position]
        )


def test_a_new_token_may_be_padding():
    static = StaticKVCache(filled(), 6)
    static.advance()
    real, _ = static.extend(torch.tensor([[True], [False]]))
    assert real.int().tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]]


def addresses_of(cache: KVCache) -> list[int]:
    return [
        tensor.data_ptr()
        for layer in cache.layers
        for past in (layer.self_attention, layer.cross_attention)
        for tensor in (past.keys, past.values)
    ]


def test_the_memory_stays_and_a_step_may_be_repeated():
    static = StaticKVCache(filled(source=3), 6)
    static.advance()
    before, answers = addresses_of(static), []
    for _ in range(2):
        answer = *static.extend(ONE), *static.layers[0].self_attention.update(some(1), some(1, 2))
        answers.append([tensor.clone() for tensor in answer])
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))
    static.fill(filled(source=3, seed=100))
    assert addresses_of(static) == before


def test_filling_overwrites_everything():
    """NaN too, which a weight of zero would not remove."""
    static = StaticKVCache(filled(source=3), 6)
    static.advance()
    static.extend(ONE)
    static.layers[1].self_attention.update(some(1) * torch.nan, some(1) * torch.nan)
    other = filled([[0, 1, 1, 1], [1, 1, 1, 1]], source=3, seed=100)
    static.fill(other)
    assert static.attention_mask.int().tolist() == [[0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0]]
    for mine, theirs in zip(static.layers, other.layers, strict=True):
        own, came = mine.self_attention, theirs.self_attention
        for tensor, right in ((own.keys, came.keys), (own.values, came.values)):
            assert torch.equal(tensor[:, :, :4], right)
            assert not tensor[:, :, 4:].any()
        own, came = mine.cross_attention, theirs.cross_attention
        assert torch.equal(own.keys, came.keys) and torch.equal(own.values, came.values)
        assert own.source is came.source and own.length == 3
    static.advance()
    assert static.cache_position.tolist() == [4]


def test_what_is_refused():
    static = StaticKVCache(filled(), 5)
    static.advance()
    with pytest.raises(ValueError, match="holds 2 sequences, but got 3"):
        static.extend(torch.ones(3, 1).bool())
    with pytest.raises(ValueError, match=r"one token of each sequence, \(2, 1\), .*\(2, 2\)"):
        static.extend(torch.ones(2, 2).bool())
    with pytest.raises(ValueError, match="cannot select sequences"):
        static.select(torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="all 5 positions of the cache are written"):
        static.advance()


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_model_gives_the_same_scores_with_each_cache(name, attention):
    model: Any = build(name, attention)
    ids, mask = pad([random_ids(3), random_ids(5), random_ids(4)], 5, left=True)
    with torch.no_grad():
        arguments, first = {}, {"attention_mask": mask}
        if hasattr(model, "encode"):
            arguments, first = {"encoded": model.encode(ids, mask)}, {}
        grown = PreallocatedKVCache(len(model.new_cache().layers))
        caches = [model.new_cache(), model.new_cache(), grown]
        for cache in caches:
            model.next_token_logits(ids, cache=cache, **arguments, **first)
        static = StaticKVCache(caches[1], 9)
        for step in range(3):
            token = torch.full((3, 1), 7 + step)
            static.advance()
            expected = model.next_token_logits(token, cache=caches[0], **arguments)
            for cache in (static, grown):
                scores = model.next_token_logits(token, cache=cache, **arguments)
                torch.testing.assert_close(scores, expected, atol=1e-10, rtol=1e-10)

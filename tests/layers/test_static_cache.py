"""The cache of fixed size against the one that grows."""

from typing import Any

import pytest
import torch
from torch import Tensor

from minitransformer.layers.cache import KVCache, of_new_tokens
from minitransformer.layers.positions import count_positions
from minitransformer.layers.relative_positions import RelativePositionBias
from minitransformer.layers.static_cache import StaticCache
from tests.models.decoders import WRITERS, build, pad, words

ROWS, HEADS, SIZE = 2, 3, 5


def some(length: int, seed: int) -> Tensor:
    return torch.randn(ROWS, HEADS, length, SIZE, generator=torch.Generator().manual_seed(seed))


def filled(present: list[list[int]] | None = None, source: int = 0, seed: int = 0) -> KVCache:
    """A cache of two layers that has seen four tokens."""
    cache, mask = KVCache(2), None if present is None else torch.tensor(present).bool()
    cache.extend(torch.ones(ROWS, 4, dtype=torch.int64), mask)
    for number, layer in enumerate(cache.layers):
        layer.own.update(some(4, seed + number), some(4, seed + 9 + number))
        if source:
            layer.source.update(some(source, seed + 20 + number), some(source, seed + 30 + number))
    return cache


TOKEN = torch.ones(ROWS, 1, dtype=torch.int64)


@pytest.mark.parametrize("present", [None, [[0, 0, 1, 1], [1, 1, 1, 1]]])
def test_it_holds_what_the_other_holds(present):
    grown = filled(present)
    static = StaticCache(grown, 7)
    for step in range(3):
        static.advance()
        real = static.extend(TOKEN, None)
        expected = grown.extend(TOKEN, None)
        for number in range(2):
            key, value = some(1, 50 + step + number), some(1, 70 + step + number)
            keys, values = static.layers[number].own.update(key, value)
            assert keys.shape == (ROWS, HEADS, 7, SIZE)
            for held, other in zip(
                (keys, values), grown.layers[number].own.update(key, value), strict=True
            ):
                assert torch.equal(held[:, :, : grown.length], other)
                assert not held[:, :, grown.length :].any()
        there = torch.ones(ROWS, grown.length).bool() if expected is None else expected
        assert torch.equal(real[:, : grown.length], there)
        assert not real[:, grown.length :].any()
        assert torch.equal(
            of_new_tokens(count_positions(real), 1, static),
            of_new_tokens(count_positions(there), 1, grown),
        )


def test_nothing_moves_and_a_step_may_be_tried():
    static = StaticCache(filled(source=3), 6)
    static.advance()
    places = [
        tensor.data_ptr()
        for layer in static.layers
        for past in (layer.own, layer.source)
        for tensor in past.tokens()
    ]
    first = static.extend(TOKEN, None).clone(), *static.layers[0].own.update(some(1, 1), some(1, 2))
    first = tuple(tensor.clone() for tensor in first)
    again = static.extend(TOKEN, None), *static.layers[0].own.update(some(1, 1), some(1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    static.fill(filled(source=3, seed=100))
    assert places == [
        tensor.data_ptr()
        for layer in static.layers
        for past in (layer.own, layer.source)
        for tensor in past.tokens()
    ]


def test_what_it_held_before_is_forgotten():
    """NaN too, which a weight of zero would not take away."""
    static = StaticCache(filled(source=3), 6)
    static.advance()
    static.extend(TOKEN, None)
    static.layers[1].own.update(some(1, 1) * torch.nan, some(1, 2) * torch.nan)
    other = filled([[0, 1, 1, 1], [1, 1, 1, 1]], source=3, seed=100)
    static.fill(other)
    assert static.present is not None
    assert static.present.int().tolist() == [[0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0]]
    for mine, theirs in zip(static.layers, other.layers, strict=True):
        for tensor, came in zip(mine.own.tokens(), theirs.own.tokens(), strict=True):
            assert torch.equal(tensor[:, :, :4], came)
            assert not tensor[:, :, 4:].any()
        for tensor, came in zip(mine.source.tokens(), theirs.source.tokens(), strict=True):
            assert torch.equal(tensor, came)
        assert mine.source.context is theirs.source.context
    static.advance()
    assert static.slot.tolist() == [4]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("attention", ["eager", "sdpa", "packed"])
def test_a_model_gives_the_same_scores(name, attention):
    model: Any = build(name, attention)
    ids, mask = pad([words(3), words(5), words(4)], 5, left=True)
    with torch.no_grad():
        arguments, first = {}, {"attention_mask": mask}
        if hasattr(model, "encode"):
            arguments, first = {"encoded": model.encode(ids, mask)}, {}
        caches = [model.new_cache(), model.new_cache()]
        for cache in caches:
            model.next_token_logits(ids, cache=cache, **arguments, **first)
        static = StaticCache(caches[1], 9)
        for step in range(3):
            token = torch.full((3, 1), 7 + step)
            static.advance()
            expected = model.next_token_logits(token, cache=caches[0], **arguments)
            scores = model.next_token_logits(token, cache=static, **arguments)
            torch.testing.assert_close(scores, expected, atol=1e-10, rtol=1e-10)


def test_the_bias_of_any_place():
    bias = RelativePositionBias(HEADS, 8, 12, bidirectional=False)
    whole = bias(9, 9)  # (1, H, 9, 9)
    for place in range(9):
        assert torch.equal(bias(1, 9, torch.tensor([place])), whole[:, :, place : place + 1])


def test_what_is_refused():
    static = StaticCache(filled(), 5)
    static.advance()
    with pytest.raises(
        ValueError, match=r"2 rows reads one token of each.*\(2, 1\); \(3, 1\) came"
    ):
        static.extend(torch.ones(3, 1, dtype=torch.int64), None)
    with pytest.raises(ValueError, match=r"\(2, 2\) came"):
        static.extend(torch.ones(2, 2, dtype=torch.int64), None)
    with pytest.raises(ValueError, match="all of them real"):
        static.extend(TOKEN, torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="keep their places"):
        static.select(torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="all 5 places of the cache are written"):
        static.advance()

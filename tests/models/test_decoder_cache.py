"""Cached equals uncached: any chunks, padding anywhere, selected sequences, beams of one source."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minitransformer import KVCache
from minitransformer.models.base import Encoded
from tests.models.test_decoder_invariants import (
    every_decoder,
    every_encoder_decoder,
    every_language_model,
    variants,
)
from tests.tiny import (
    CAUSAL,
    SEQ2SEQ,
    assert_equal,
    backbone_of,
    build,
    every_variant,
    gradients,
    random_sequences,
)


def decode(model: Any, ids: Tensor, source: Encoded | None, mask: Tensor | None, cache: Any):
    """The output of one call of a decoder at every position."""
    backbone = backbone_of(model)
    if source is None:
        output = backbone(ids, mask, cache=cache)
    else:
        output = backbone.decode(ids, source, mask, cache)
    hidden = output.last_hidden_state
    return model.logits(hidden) if hasattr(model, "logits") else hidden


def sources_of(name: str, count: int) -> Encoded | None:
    """Encoded sources, one of them padded on the left; none for a decoder by itself."""
    if name not in SEQ2SEQ:
        return None
    mask = torch.ones(count, 4, dtype=torch.int64)
    mask[-1, 0] = 0
    return backbone_of(build(name)).encode(random_sequences(count, 4, seed=9), mask)


def new_cache(model: Any) -> KVCache:
    if hasattr(model, "new_cache"):
        return model.new_cache()
    config = model.config
    return KVCache(getattr(config, "num_decoder_layers", config.num_hidden_layers))


@st.composite
def chunked_masks(draw: Any) -> tuple[Tensor, list[int]]:
    """(2, T) bool with padding anywhere, and the lengths of the chunks that T is cut into."""
    chunks = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    length = sum(chunks)
    kind = draw(st.sampled_from(["none", "left", "right", "anywhere"]))
    mask = torch.ones(2, length, dtype=torch.bool)
    padding = draw(st.integers(1, length))
    if kind == "left":
        mask[0, :padding] = False
    elif kind == "right":
        mask[0, length - padding :] = False
    elif kind == "anywhere":
        real = draw(st.lists(st.booleans(), min_size=length, max_size=length))
        mask[0] = torch.tensor(real)
    return mask, chunks


@every_decoder
@torch.no_grad()
@settings(max_examples=6)
@given(case=chunked_masks(), variant=variants, seed=st.integers(0, 99))
def test_with_a_cache_any_chunks_give_the_logits_of_the_whole_sequence(name, case, variant, seed):
    mask, chunks = case
    model, source = build(name, variant), sources_of(name, 2)
    ids = random_sequences(2, mask.shape[1], seed)
    # Without a cache an optimized model does not compute padding; with one it does.
    plain = build(name, variant.replace("optimized", "sdpa"))
    whole = decode(plain, ids, source, mask, None)
    cache, found = new_cache(model), []
    for part, real in zip(ids.split(chunks, dim=1), mask.split(chunks, dim=1), strict=True):
        # A chunk without padding may come with its mask or without.
        given_mask = None if seed % 2 and bool(real.all()) else real
        found.append(decode(model, part, source, given_mask, cache))
        assert cache.length == sum(f.shape[1] for f in found)
    assert_equal(torch.cat(found, dim=1), whole)
    # If positions are counted from the mask, the place of padding does not matter.
    if not name.startswith("T5") and mask[0].any():
        one = None if source is None else one_source(source, 0)
        alone = decode(model, ids[:1, mask[0]], one, None, None)
        assert_equal(torch.cat(found, dim=1)[:1, mask[0]], alone)


def one_source(source: Encoded, number: int) -> Encoded:
    return Encoded(
        last_hidden_state=source.last_hidden_state[[number]],
        attention_mask=source.attention_mask[[number]],
    )


@pytest.mark.slow
@every_language_model
@torch.no_grad()
@settings(max_examples=4)
@given(padding=st.integers(0, 3), variant=variants, steps=st.integers(1, 9))
def test_token_by_token_the_cache_gives_what_forward_gives(name, padding, variant, steps):
    """Greedy by hand: each token is put behind a prompt that is padded on the left."""
    model: Any = build(name, variant)
    source = sources_of(name, 2)
    ids = random_sequences(2, 4)
    mask = torch.ones_like(ids)
    mask[0, :padding] = 0
    mask_name = "attention_mask" if source is None else "decoder_attention_mask"
    encoded = () if source is None else (source,)
    cache = model.new_cache()
    logits = model.next_token_logits(ids, *encoded, **{mask_name: mask}, cache=cache)
    for _ in range(steps):
        expected = model.next_token_logits(ids, *encoded, **{mask_name: mask})
        assert_equal(logits, expected)
        best = logits.argmax(dim=-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
        mask = torch.cat([mask, torch.ones_like(best)], dim=1)
        logits = model.next_token_logits(best, *encoded, cache=cache)


@every_decoder
@torch.no_grad()
@settings(max_examples=6)
@given(
    choices=st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=1, max_size=3),
    chunk=st.integers(1, 3),
    padded=st.booleans(),
    variant=variants,
)
def test_selected_sequences_continue_correctly(name, choices, chunk, padded, variant):
    """Beams: first one a source, then three, which are reordered and repeated at each step.

    Against the whole text of each beam, and its source repeated, without a cache.
    """
    model, source = build(name, variant), sources_of(name, 2)
    ids = random_sequences(2, 3)
    mask = torch.ones_like(ids, dtype=torch.bool)
    if padded:
        mask[0, :2] = False
    cache = new_cache(model)
    decode(model, ids, source, mask, cache)
    repeated = None
    if source is not None:
        repeated = Encoded(
            last_hidden_state=source.last_hidden_state.repeat_interleave(3, dim=0),
            attention_mask=source.attention_mask.repeat_interleave(3, dim=0),
        )
    beams = torch.arange(2).repeat_interleave(3)
    for step, chosen in enumerate(choices):
        # Three of each prompt, whichever they were.
        selection = beams if not step else torch.tensor(chosen) + torch.arange(6) // 3 * 3
        cache.select(selection)
        ids, mask = ids[selection], mask[selection]
        new = random_sequences(6, chunk, seed=step)
        logits = decode(model, new, source, None, cache)
        ids = torch.cat([ids, new], dim=1)
        mask = torch.cat([mask, torch.ones_like(new, dtype=torch.bool)], dim=1)
        assert_equal(logits, decode(model, ids, repeated, mask, None)[:, -chunk:])


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
@settings(max_examples=6)
@given(selection=st.lists(st.integers(0, 2), min_size=1, max_size=5), variant=variants)
def test_any_number_of_sequences_may_be_selected_where_there_is_no_source(name, selection, variant):
    model, chosen = build(name, variant), torch.tensor(selection)
    ids, mask = random_sequences(3, 4), torch.ones(3, 4, dtype=torch.bool)
    mask[1, :2] = False
    cache = new_cache(model)
    decode(model, ids, None, mask, cache)
    cache.select(chosen)
    new = random_sequences(len(selection), 2, seed=3)
    logits = decode(model, new, None, None, cache)
    whole = torch.cat([ids[chosen], new], dim=1)
    real = torch.cat([mask[chosen], torch.ones_like(new, dtype=torch.bool)], dim=1)
    assert_equal(logits, decode(model, whole, None, real, None)[:, -2:])


@pytest.mark.slow
@every_encoder_decoder
@every_variant
@pytest.mark.parametrize("beams", [1, 2, 3])
def test_beams_of_one_source_are_what_copies_of_the_source_give(name, variant, beams):
    """With gradients, and without a cache."""
    model = build(name, variant)
    backbone = backbone_of(model)
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    source_ids, ids = random_sequences(2, 4, seed=9), random_sequences(2 * beams, 3)
    real = torch.ones_like(ids)
    real[0, 0] = 0
    shared = decode(model, ids, backbone.encode(source_ids, mask), real, None)
    copies = backbone.encode(
        source_ids.repeat_interleave(beams, dim=0), mask.repeat_interleave(beams, dim=0)
    )
    copied = decode(model, ids, copies, real, None)
    assert_equal(shared, copied)
    assert_equal(gradients(model, shared.sin().sum()), gradients(model, copied.sin().sum()))


@every_language_model
@torch.no_grad()
def test_encoding_and_the_cache_leave_the_model_alone(name):
    """What a decoder keeps is in the cache that it was given: two interleaved texts do not mix."""
    model = build(name)
    source = sources_of(name, 2)
    ids = [random_sequences(2, 6, seed) for seed in (1, 2)]
    caches, found = [new_cache(model), new_cache(model)], [[], []]
    for part in range(3):
        for text, cache, logits in zip(ids, caches, found, strict=True):
            logits.append(decode(model, text[:, 2 * part : 2 * part + 2], source, None, cache))
    for text, logits in zip(ids, found, strict=True):
        assert_equal(torch.cat(logits, dim=1), decode(model, text, source, None, None))

"""Unpadding and padding, and the selection of tokens."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from minitransformer.fast.unpadding import (
    Bucket,
    PaddedBatch,
    QueryPositions,
    UnpaddedBatch,
    UnpaddedMask,
    Unpadding,
    is_contiguous,
    query_positions,
    split_keys,
    split_queries,
    until_last_label,
)
from minitransformer.layers.attention import padding_mask

# (B, 5) bool, any padding anywhere, sequences of nothing else among them.
masks = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=6).map(
    torch.tensor
)


@given(masks)
def test_unpadding_and_padding_give_the_batch_with_zeros_at_padding(mask):
    unpadding = Unpadding(mask)
    padded = torch.arange(1, 5 * len(mask) + 1).view(len(mask), 5)
    unpadded = unpadding.unpad(padded)
    assert unpadded.shape == (1, int(mask.sum()))
    assert torch.equal(unpadding.pad(unpadded), padded * mask)
    assert torch.equal(unpadding.attention_mask, mask)
    # Sequence after sequence, the shortest first.
    sequences = [tokens[real].tolist() for tokens, real in zip(padded, mask, strict=True)]
    assert unpadded[0].tolist() == [t for tokens in sorted(sequences, key=len) for t in tokens]
    ends = torch.tensor(unpadding.lengths).cumsum(0).tolist()
    assert unpadding.cu_seqlens.tolist() == [0, *ends]
    assert unpadding.cu_seqlens.dtype == torch.int32
    assert unpadding.max_seqlen == max(unpadding.lengths)
    assert unpadding.num_tokens == int(mask.sum())


def test_without_padding_nothing_is_copied():
    unpadding, padded = Unpadding(torch.ones(3, 4, dtype=torch.bool)), torch.randn(3, 4, 2)
    unpadded = unpadding.unpad(padded)
    assert unpadded.data_ptr() == padded.data_ptr()
    assert unpadding.pad(unpadded).data_ptr() == padded.data_ptr()
    swapped = Unpadding(torch.ones(3, 4, dtype=torch.bool), torch.tensor([2, 0, 1]))
    assert torch.equal(swapped.unpad(padded)[0, :4], padded[2])
    assert torch.equal(swapped.pad(swapped.unpad(padded)), padded)


def test_only_real_tokens_get_gradients():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    padded = torch.randn(2, 3, 4, requires_grad=True)
    unpadding = Unpadding(mask)
    unpadding.pad(unpadding.unpad(padded) * 2).sum().backward()
    assert torch.equal(padded.grad, 2.0 * mask[..., None].expand(2, 3, 4))


def test_sequences_of_equal_lengths_are_a_bucket():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]]).bool()
    other = torch.tensor([[1, 1], [1, 0], [1, 0], [1, 0]]).bool()
    unpadding = Unpadding(mask)
    own = UnpaddedMask(unpadding, unpadding)
    assert own.buckets == [(1, 0, 0), (1, 1, 1), (2, 2, 2)] and not own.causal
    cross = UnpaddedMask(unpadding, Unpadding(other, unpadding.order))
    assert cross.buckets == [Bucket(1, 0, 1), (1, 1, 1), (1, 2, 2), (1, 2, 1)]
    tensor = torch.arange(2 * 5 * 3).view(1, 2, 5, 3)  # (1, H, N, D)
    parts = split_queries(tensor, own.buckets)
    assert [part.shape for part in parts] == [(1, 2, 0, 3), (1, 2, 1, 3), (2, 2, 2, 3)]
    assert torch.equal(parts[2][1], tensor[0, :, 3:])
    assert [part.shape[2] for part in split_keys(tensor, cross.buckets)] == [1, 1, 2, 1]


def test_positions_of_selected_tokens():
    selected = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 0]]).bool()
    positions, mask = query_positions(selected)
    assert positions.tolist() == [[1, 2], [2, 0], [0, 1]]
    assert mask.tolist() == [[True, True], [True, False], [False, False]]
    nothing = query_positions(torch.zeros(2, 3, dtype=torch.bool))
    assert nothing.positions.shape == (2, 1) and not nothing.mask.any()


@given(masks, st.data())
def test_both_batches_select_the_same_tokens(mask, data):
    assume(bool(mask.any()))
    selected = torch.tensor([[data.draw(st.booleans()) for _ in row] for row in mask])
    hidden = torch.randn(*mask.shape, 3) * mask[..., None]
    for batch in (PaddedBatch(mask), UnpaddedBatch(mask)):
        inside = batch.unpad(hidden)
        assert torch.equal(batch.pad(inside), hidden)
        selection = batch.select(query_positions(selected))
        taken = torch.take_along_dim(inside, selection.indices[..., None], dim=1)
        assert torch.equal(selection.gather(taken), hidden[selected])
        one = batch.select(QueryPositions(torch.full((len(mask), 1), 3), None))
        taken = torch.take_along_dim(inside, one.indices[..., None], dim=1)
        assert torch.equal(one.gather(taken), hidden[:, 3])


def test_padded_batches_have_a_mask_or_none():
    mask = torch.tensor([[True, False], [True, True]])
    assert torch.equal(PaddedBatch(mask).mask, padding_mask(mask))
    assert PaddedBatch(None).mask is None


@pytest.mark.parametrize("per_source", [1, 3])
def test_the_context_has_the_order_of_the_decoder(per_source):
    """The tokens of each source are repeated for each sequence decoded from it."""
    target = torch.rand(2 * per_source, 4) < 0.6
    target[:, 0] = True
    source = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 0, 0, 0]]).bool()
    batch, hidden = UnpaddedBatch(target, causal=True), torch.randn(2, 5, 3)
    assert batch.mask.causal
    context, mask = batch.context(hidden, source)
    assert not mask.causal and mask.queries is batch.unpadding
    begins = mask.keys.cu_seqlens
    for place, sequence in enumerate(batch.unpadding.order.tolist()):
        tokens = hidden[sequence // per_source][source[sequence // per_source]]
        assert torch.equal(context[0, begins[place] : begins[place + 1]], tokens)


@given(masks)
def test_padding_between_tokens(mask):
    def breaks(row):
        positions = row.nonzero().flatten().tolist()
        return bool(positions) and positions != [*range(positions[0], positions[-1] + 1)]

    assert is_contiguous(mask) is not any(map(breaks, mask))


def test_tokens_after_the_last_label_count_as_padding():
    labels = torch.tensor([[-100, 5, -100, 7, -100], [8, -100, -100, -100, -100], [-100] * 5])
    until = until_last_label(labels)
    assert until.int().tolist() == [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0] * 5]

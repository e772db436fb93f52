"""Functions of models/base.py: labels shifted by one position, and the first and last token.

They are compared with loops over plain lists.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.models.base import first_token, last_token, next_token_labels, shift_right

START, PAD = 50, 60
texts = st.lists(
    st.lists(st.one_of(st.just(-100), st.integers(0, 9)), min_size=5, max_size=5),
    min_size=1,
    max_size=4,
)
masks = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5)


# --- What a decoder by itself predicts


def test_next_token_labels_by_hand():
    labels = torch.tensor([[5, 6, 7], [-100, 8, 9], [4, -100, -100]])
    expected = [[6, 7, -100], [8, 9, -100], [-100, -100, -100]]
    assert next_token_labels(labels).tolist() == expected
    assert labels.tolist() == [[5, 6, 7], [-100, 8, 9], [4, -100, -100]]  # unchanged


def test_the_first_token_of_a_sequence_is_predicted_nowhere():
    labels = torch.tensor([[-100, 8, 9]])
    mask = torch.tensor([[False, True, True]])
    assert next_token_labels(labels, mask).tolist() == [[-100, 9, -100]]
    assert next_token_labels(torch.tensor([[7]])).tolist() == [[-100]]


@given(texts, st.lists(st.booleans(), min_size=5, max_size=5))
def test_next_token_labels_are_the_loops(sequences, real):
    mask = torch.tensor([real] * len(sequences))
    found = next_token_labels(torch.tensor(sequences), mask).tolist()
    for sequence, result in zip(sequences, found, strict=True):
        for position in range(5):
            following = sequence[position + 1] if position < 4 else -100
            assert result[position] == (following if real[position] else -100)


# --- What the decoder of an encoder-decoder reads


def test_shift_right_by_hand():
    labels = torch.tensor([[5, 6, 7], [8, 9, -100]])
    shifted, mask = shift_right(labels, START, PAD)
    assert shifted.tolist() == [[START, 5, 6], [START, 8, 9]]
    assert mask.tolist() == [[True] * 3, [True] * 3]
    assert labels.tolist() == [[5, 6, 7], [8, 9, -100]]  # unchanged


def test_labels_that_are_padded_on_the_left_begin_at_the_first_of_them():
    labels = torch.tensor([[-100, -100, 8], [5, 6, 7], [-100, 3, -100]])
    shifted, mask = shift_right(labels, START, PAD)
    assert shifted.tolist() == [[PAD, PAD, START], [START, 5, 6], [PAD, START, 3]]
    assert mask.tolist() == [[False, False, True], [True, True, True], [False, True, True]]


def test_a_position_without_a_label_in_the_middle_is_read_as_padding():
    """As in Hugging Face: the original token is unknown."""
    shifted, mask = shift_right(torch.tensor([[5, -100, 7, 8]]), START, PAD)
    assert shifted.tolist() == [[START, 5, PAD, 7]]
    assert mask.tolist() == [[True] * 4]


def test_a_sequence_without_labels_begins_at_its_first_position():
    shifted, mask = shift_right(torch.tensor([[-100, -100]]), START, PAD)
    assert shifted.tolist() == [[START, PAD]]
    assert mask.tolist() == [[True, True]]


@given(texts, st.one_of(st.none(), st.integers(0, 4)))
def test_shift_right_is_the_loops(sequences, begin):
    labels = torch.tensor(sequences)
    first = None if begin is None else torch.full((len(sequences), 1), begin)
    shifted, mask = shift_right(labels, START, PAD, first)
    assert mask.dtype == torch.bool
    for number, sequence in enumerate(sequences):
        start = begin
        if start is None:
            start = next((position for position in range(5) if sequence[position] != -100), 0)
        for position in range(5):
            if position < start:
                expected = PAD
            elif position == start:
                expected = START
            else:
                expected = PAD if sequence[position - 1] == -100 else sequence[position - 1]
            assert shifted[number, position] == expected
            assert mask[number, position] == (position >= start)


def test_the_start_may_be_the_padding_token():
    """T5's and Marian's is."""
    shifted, mask = shift_right(torch.tensor([[-100, 8, 9]]), PAD, PAD)
    assert shifted.tolist() == [[PAD, PAD, 8]]
    assert mask.tolist() == [[False, True, True]]


# --- The first and the last token


@given(masks, st.booleans())
def test_the_first_and_the_last_token_of_each_sequence(sequences, as_integers):
    """Zeros for a sequence that is only padding."""
    mask = torch.tensor(sequences)
    hidden = 1.0 + torch.arange(mask.numel() * 3).view(*mask.shape, 3)
    given_mask = mask.long() if as_integers else mask
    for find, which in ((first_token, 0), (last_token, -1)):
        found = find(hidden, given_mask)
        assert found.shape == (len(sequences), 3)
        for number, sequence in enumerate(sequences):
            positions = [position for position, real in enumerate(sequence) if real]
            expected = hidden[number, positions[which]] if positions else torch.zeros(3)
            assert torch.equal(found[number], expected)


def test_without_a_mask_they_are_at_the_ends():
    hidden = torch.randn(2, 4, 3)
    assert torch.equal(first_token(hidden, None), hidden[:, 0])
    assert torch.equal(last_token(hidden, None), hidden[:, -1])


@pytest.mark.parametrize("find", [first_token, last_token])
def test_a_fully_masked_sequence_has_a_gradient_of_zeros(find):
    hidden = torch.randn(2, 3, 4, requires_grad=True)
    find(hidden, torch.tensor([[False] * 3, [False, True, False]])).sum().backward()
    assert not hidden.grad[0].any()
    assert torch.equal(hidden.grad[1, 1], torch.ones(4))

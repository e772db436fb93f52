"""Labels one place on, inputs one place behind: against loops over plain lists."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.models.shifting import next_token_labels, shift_right

START, PAD = 50, 60
texts = st.lists(
    st.lists(st.one_of(st.just(-100), st.integers(0, 9)), min_size=5, max_size=5),
    min_size=1,
    max_size=4,
)


def test_next_token_labels_by_hand():
    labels = torch.tensor([[5, 6, 7], [-100, 8, 9], [4, -100, -100]])
    expected = [[6, 7, -100], [8, 9, -100], [-100, -100, -100]]
    assert next_token_labels(labels).tolist() == expected
    assert labels.tolist() == [[5, 6, 7], [-100, 8, 9], [4, -100, -100]]  # as it was


def test_the_first_word_of_a_row_is_guessed_by_nobody():
    labels = torch.tensor([[-100, 8, 9]])
    present = torch.tensor([[False, True, True]])
    assert next_token_labels(labels, present).tolist() == [[-100, 9, -100]]
    assert next_token_labels(torch.tensor([[7]])).tolist() == [[-100]]


@given(texts, st.lists(st.booleans(), min_size=5, max_size=5))
def test_next_token_labels_are_the_loops(rows, there):
    present = torch.tensor([there] * len(rows))
    found = next_token_labels(torch.tensor(rows), present).tolist()
    for row, result in zip(rows, found, strict=True):
        for place in range(5):
            follows = row[place + 1] if place < 4 else -100
            assert result[place] == (follows if there[place] else -100)


def test_shift_right_by_hand():
    labels = torch.tensor([[5, 6, 7], [8, 9, -100]])
    shifted, mask = shift_right(labels, START, PAD)
    assert shifted.tolist() == [[START, 5, 6], [START, 8, 9]]
    assert mask is None
    assert labels.tolist() == [[5, 6, 7], [8, 9, -100]]  # as it was


def test_rows_that_are_padded_on_the_left_begin_at_their_first_label():
    labels = torch.tensor([[-100, -100, 8], [5, 6, 7], [-100, 3, -100]])
    shifted, mask = shift_right(labels, START, PAD)
    assert shifted.tolist() == [[PAD, PAD, START], [START, 5, 6], [PAD, START, 3]]
    assert mask.tolist() == [[False, False, True], [True, True, True], [False, True, True]]


def test_a_place_without_a_label_in_the_middle_is_read_as_padding():
    """As in Hugging Face: what was there is not known."""
    shifted, mask = shift_right(torch.tensor([[5, -100, 7, 8]]), START, PAD)
    assert shifted.tolist() == [[START, 5, PAD, 7]]
    assert mask is None


def test_a_row_without_labels_begins_at_its_first_place():
    shifted, mask = shift_right(torch.tensor([[-100, -100]]), START, PAD)
    assert shifted.tolist() == [[START, PAD]]
    assert mask is None


@given(texts, st.one_of(st.none(), st.integers(0, 4)))
def test_shift_right_is_the_loops(rows, begin):
    labels = torch.tensor(rows)
    given_begins = None if begin is None else torch.full((len(rows), 1), begin)
    shifted, mask = shift_right(labels, START, PAD, given_begins)
    later = False
    for number, row in enumerate(rows):
        first = begin
        if first is None:
            first = next((place for place in range(5) if row[place] != -100), 0)
        later |= first > 0
        for place in range(5):
            if place < first:
                expected = PAD
            elif place == first:
                expected = START
            else:
                expected = PAD if row[place - 1] == -100 else row[place - 1]
            assert shifted[number, place] == expected
            if mask is not None:
                assert mask[number, place] == (place >= first)
    assert (mask is not None) == later


def test_the_start_may_be_the_padding_token():
    """T5's and Marian's is."""
    shifted, mask = shift_right(torch.tensor([[-100, 8, 9]]), PAD, PAD)
    assert shifted.tolist() == [[PAD, PAD, 8]]
    assert mask.tolist() == [[False, True, True]]


@pytest.mark.parametrize("labels", [[[5, 6, 7]], [[-100, 8, 9]]])
def test_while_torch_compile_traces_the_mask_is_always_given(labels, monkeypatch):
    """There the values cannot be looked at, and padding must not be read for all that."""
    expected, mask = shift_right(torch.tensor(labels), START, PAD)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    shifted, traced = shift_right(torch.tensor(labels), START, PAD)
    assert torch.equal(shifted, expected)
    assert torch.equal(traced, torch.ones(1, 3, dtype=torch.bool) if mask is None else mask)

"""The counting baselines, counted again slowly."""

import math
from itertools import pairwise

import numpy as np
import pytest

from train.lm import bigram_loss, unigram_loss

V = 7
TEXT = np.array([0, 3, 1, 3, 1, 2, 3, 3, 1, 0, 5], np.int32)  # 5 only at the end; 4 and 6 never
OTHER = np.array([3, 1, 2, 2, 5, 4, 4, 0], np.int32)


def unigram(token: int) -> float:
    return (TEXT.tolist().count(token) + 1) / (len(TEXT) + V)


def bigram(before: int, after: int) -> float:
    pairs = list(pairwise(TEXT.tolist()))
    following = [second for first, second in pairs if first == before]
    if not following:
        return unigram(after)
    new = len(set(following))
    return (following.count(after) + new * unigram(after)) / (len(following) + new)


def test_the_unigram_baseline():
    expected = -sum(math.log(unigram(token)) for token in OTHER[1:]) / (len(OTHER) - 1)
    assert unigram_loss(TEXT, OTHER, V) == pytest.approx(expected)


def test_the_bigram_baseline():
    pairs = list(pairwise(OTHER))
    expected = -sum(math.log(bigram(*pair)) for pair in pairs) / len(pairs)
    assert bigram_loss(TEXT, OTHER, V) == pytest.approx(expected)


@pytest.mark.parametrize("before", range(V))
def test_the_probabilities_after_a_token_add_up_to_one(before):
    for loss in (unigram_loss, bigram_loss):
        parts = [math.exp(-loss(TEXT, np.array([before, t], np.int32), V)) for t in range(V)]
        assert sum(parts) == pytest.approx(1)
        assert min(parts) > 0


def test_a_text_of_fixed_pairs_is_foreseen_by_the_bigrams_alone():
    text = np.tile(np.arange(50, dtype=np.int32), 40)
    assert bigram_loss(text, text, 50) < 0.15
    assert unigram_loss(text, text, 50) == pytest.approx(math.log(50), rel=1e-3)


def test_a_large_vocabulary_takes_no_table_of_pairs():
    """Its square has more than 32 bits."""
    top = 200_000
    a, b = top - 1, top - 2
    text = np.array([a, b] * 30, np.int32)
    share = 31 / (60 + top)  # of each of the two among single tokens
    expected = -(math.log((30 + share) / 31) + math.log((29 + share) / 30)) / 2
    assert bigram_loss(text, np.array([a, b, a], np.int32), top) == pytest.approx(expected)
    assert unigram_loss(text, text, top) == pytest.approx(-math.log(share))

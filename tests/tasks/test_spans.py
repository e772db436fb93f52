"""The search for the best spans, against one that tries every pair in plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.tasks.spans import (
    Prediction,
    Span,
    Window,
    best_spans,
    join_windows,
    may_be_answer,
)


def between(firsts, lasts, length):
    places = torch.arange(length)
    return (places >= firsts[:, None]) & (places < lasts[:, None])


def every_span(start, end, first, last, longest):
    """All (score, start, end) of a context, best first."""
    spans = [
        (float(start[i]) + float(end[j]), i, j)
        for i in range(first, last)
        for j in range(i, min(i + longest, last))
    ]
    return sorted(spans, reverse=True)


@given(st.integers(0, 10_000), st.integers(3, 12), st.integers(1, 14), st.integers(1, 9))
def test_the_search_finds_what_trying_every_pair_finds(seed, length, longest, top_k):
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, 3, length, generator=generator).double()
    firsts = torch.randint(1, length, (3,), generator=generator)
    lasts = torch.stack(
        [torch.randint(int(f), length, (), generator=generator) + 1 for f in firsts]
    )
    found = best_spans(
        start,
        end,
        allowed=between(firsts, lasts, length),
        cls_places=torch.zeros(3, dtype=torch.int64),
        max_answer_tokens=longest,
        top_k=top_k,
    )
    for row in range(3):
        expected = every_span(start[row], end[row], int(firsts[row]), int(lasts[row]), longest)
        total = math.log(sum(math.exp(score) for score, _, _ in expected))
        assert float(found.log_totals[row]) == pytest.approx(total, abs=1e-4)
        assert float(found.null_scores[row]) == pytest.approx(float(start[row, 0] + end[row, 0]))
        scores = [score for score in found.scores[row].tolist() if score > -math.inf]
        assert len(scores) == min(top_k, len(expected), length * min(longest, length))
        places = zip(found.starts[row].tolist(), found.ends[row].tolist(), strict=True)
        for score, place, (wanted, i, j) in zip(scores, places, expected, strict=False):
            assert score == pytest.approx(wanted, abs=1e-5)
            assert place == (i, j)


def test_the_place_of_cls_need_not_be_the_first():
    start, end = torch.arange(8.0).view(1, 8), torch.zeros(1, 8)
    found = best_spans(
        start,
        end,
        allowed=between(torch.tensor([5]), torch.tensor([7]), 8),
        cls_places=torch.tensor([2]),
        max_answer_tokens=3,
        top_k=1,
    )
    assert float(found.null_scores[0]) == 2.0
    assert (int(found.starts[0, 0]), int(found.ends[0, 0])) == (6, 6)


def test_the_windows_of_a_question_are_joined():
    """The best of each span, the lowest null score, the sum over all windows."""
    first = Window((Span(3.0, 0, 4), Span(1.0, 5, 9)), 2.0, 3.2)
    second = Window((Span(4.0, 5, 9), Span(0.5, 12, 13)), -1.0, 4.1)
    joined = join_windows([first, second], top_k=2)
    assert joined.spans == (Span(4.0, 5, 9), Span(3.0, 0, 4))
    assert joined.null_score == -1.0
    assert joined.null_difference == -5.0
    assert joined.log_total == pytest.approx(math.log(math.exp(3.2) + math.exp(4.1)))


def test_the_probability_counts_no_answer_only_where_it_is_one():
    prediction = Prediction((Span(1.0, 0, 1),), null_score=2.0, log_total=1.5)
    assert prediction.probability(1.0, with_null=False) == pytest.approx(math.exp(1.0 - 1.5))
    total = math.exp(1.5) + math.exp(2.0)
    assert prediction.probability(1.0, with_null=True) == pytest.approx(math.exp(1.0) / total)
    huge = Prediction((Span(900.0, 0, 1),), null_score=902.0, log_total=901.0)
    assert 0 < huge.probability(900.0, with_null=True) < 1


def test_white_space_and_what_is_no_context_begins_no_answer():
    offsets = [(0, 0), (0, 3), (0, 2), (2, 3), (3, 3), (3, 5), (0, 0)]
    allowed = may_be_answer("ab cd", offsets, 2, 6)
    assert allowed == [False, False, True, False, False, True, False]

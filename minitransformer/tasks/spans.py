"""From scores of tokens to the best spans of a text: the search behind question answering.

B windows, T tokens, L longest answer in tokens, K spans asked for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def may_be_answer(
    context: str, offsets: Sequence[Sequence[int]], start: int, end: int
) -> list[bool]:
    """Whether each of the T tokens of a window may begin and end an answer.

    Tokens of the question, special tokens and padding may not, and of the context's neither may
    those that stand for white space alone, which byte-level vocabularies have.

    Args:
        context: the text.
        offsets: (T, 2), for each token of the context its characters [start, end).
        start, end: the tokens [start, end) that are the context's.
    """
    return [
        start <= place < end and bool(context[first:last].strip())
        for place, (first, last) in enumerate(offsets)
    ]


@dataclass(frozen=True)
class WindowSpans:
    """The best spans of each window; see :func:`best_spans`."""

    scores: Tensor  # (B, K), start + end logit, best first; -inf where there are fewer than K
    starts: Tensor  # (B, K), the place of the first token
    ends: Tensor  # (B, K), the place of the last token
    log_totals: Tensor  # (B,), log of the sum of exp(score) over every span that is allowed
    null_scores: Tensor  # (B,), the score of no answer: [CLS] as start and end

    def window(self, row: int, offsets: Sequence[Sequence[int]]) -> "Window":
        """A window's spans as characters; `offsets`: (T, 2), of its tokens."""
        places = zip(
            self.scores[row].tolist(),
            self.starts[row].tolist(),
            self.ends[row].tolist(),
            strict=True,
        )
        spans = [
            Span(score, int(offsets[first][0]), int(offsets[last][1]))
            for score, first, last in places
            if score > -math.inf
        ]
        return Window(tuple(spans), float(self.null_scores[row]), float(self.log_totals[row]))


def best_spans(
    start_logits: Tensor,
    end_logits: Tensor,
    *,
    allowed: Tensor,
    cls_places: Tensor,
    max_answer_tokens: int,
    top_k: int,
) -> WindowSpans:
    """Find the K spans of each window's context with the highest start + end logit.

    Every span of up to L tokens is looked at, not only those between the likeliest starts and ends.

    Args:
        start_logits, end_logits: (B, T).
        allowed: (B, T) bool, True at tokens that may begin and end an answer; see
            :func:`may_be_answer`.
        cls_places: (B,) int64, where [CLS] stands.
        max_answer_tokens: L.
        top_k: K.
    """
    start_logits, end_logits = start_logits.float(), end_logits.float()
    longest = min(max_answer_tokens, start_logits.shape[1])
    rows = torch.arange(len(start_logits))
    nulls = start_logits[rows, cls_places] + end_logits[rows, cls_places]  # (B,)

    starts = start_logits.masked_fill(~allowed, -math.inf)
    ends = end_logits.masked_fill(~allowed, -math.inf)
    # The ends that a start may have are itself and the L - 1 tokens after it.
    ends = torch.nn.functional.pad(ends, (0, longest - 1), value=-math.inf)  # (B, T + L - 1)
    scores = starts[:, :, None] + ends.unfold(1, longest, 1)  # (B, T, L)
    scores = scores.flatten(1)  # (B, T * L)

    best = scores.topk(min(top_k, scores.shape[1]), dim=1)
    first = best.indices // longest
    return WindowSpans(
        scores=best.values,
        starts=first,
        ends=first + best.indices % longest,
        log_totals=scores.logsumexp(dim=1),
        null_scores=nulls,
    )


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a context, and their score."""

    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Window:
    """What one window says: its best spans, its null score and its log total."""

    spans: tuple[Span, ...]
    null_score: float
    log_total: float


@dataclass(frozen=True)
class Prediction:
    """What the windows of one question say together.

    Attributes:
        spans: the best spans, best first, none twice.
        null_score: the score of no answer: the lowest of all windows, since a window without the
            answer says rightly that it has none.
        log_total: log of the sum of exp(score) over every span of every window.
    """

    spans: tuple[Span, ...]
    null_score: float
    log_total: float

    @property
    def null_difference(self) -> float:
        """How much more no answer scores than the best span: SQuAD 2.0's `score_diff`."""
        return self.null_score - self.spans[0].score

    def probability(self, score: float, *, with_null: bool) -> float:
        """The share of a score in the softmax over all spans, and no answer where it is one."""
        total = self.log_total
        if with_null:
            high = max(total, self.null_score)
            total = high + math.log(math.exp(total - high) + math.exp(self.null_score - high))
        return math.exp(score - total)


def join_windows(windows: Sequence[Window], *, top_k: int) -> Prediction:
    """Join what the windows of one question found, and keep the best `top_k` spans."""
    best: dict[tuple[int, int], float] = {}
    for window in windows:
        for span in window.spans:
            place = (span.start, span.end)
            best[place] = max(best.get(place, -math.inf), span.score)
    totals = [window.log_total for window in windows]
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:top_k]
    return Prediction(
        spans=tuple(Span(score, *place) for place, score in ranked),
        null_score=min(window.null_score for window in windows),
        log_total=float(torch.tensor(totals, dtype=torch.float64).logsumexp(0)),
    )

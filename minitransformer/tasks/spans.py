"""From scores of tokens to the best spans of a text: the search behind question answering.

B windows, T tokens, L longest answer in tokens, K spans asked for.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class WindowSpans:
    """The best spans of each window; see :func:`best_spans`."""

    scores: Tensor  # (B, K), start + end logit, best first; -inf where there are fewer than K
    starts: Tensor  # (B, K), the place of the first token
    ends: Tensor  # (B, K), the place of the last token
    log_totals: Tensor  # (B,), log of the sum of exp(score) over every span that is allowed
    null_scores: Tensor  # (B,), the score of no answer: [CLS] as start and end


def best_spans(
    start_logits: Tensor,
    end_logits: Tensor,
    *,
    context_starts: Tensor,
    context_ends: Tensor,
    cls_places: Tensor,
    max_answer_tokens: int,
    top_k: int,
) -> WindowSpans:
    """Find the K spans of each window's context with the highest start + end logit.

    Every span of up to L tokens is looked at, not only those between the likeliest starts and ends.
    Tokens of the question, special tokens and padding begin and end no answer.

    Args:
        start_logits, end_logits: (B, T).
        context_starts, context_ends: (B,) int64, the context's tokens, [start, end).
        cls_places: (B,) int64, where [CLS] stands.
        max_answer_tokens: L.
        top_k: K.
    """
    start_logits, end_logits = start_logits.float(), end_logits.float()
    num_rows, length = start_logits.shape
    longest, rows = min(max_answer_tokens, length), torch.arange(num_rows)
    nulls = start_logits[rows, cls_places] + end_logits[rows, cls_places]  # (B,)

    places = torch.arange(length)  # (T,)
    allowed = (places >= context_starts[:, None]) & (places < context_ends[:, None])  # (B, T)
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


def join_windows(
    windows: Iterable[tuple[Iterable[Span], float, float]], *, top_k: int
) -> Prediction:
    """Join what the windows of one question found.

    Args:
        windows: of each its spans, its null score and its log total.
        top_k: how many spans to keep.
    """
    best: dict[tuple[int, int], float] = {}
    nulls, totals = [], []
    for spans, null_score, log_total in windows:
        for span in spans:
            place = (span.start, span.end)
            best[place] = max(best.get(place, -math.inf), span.score)
        nulls.append(null_score)
        totals.append(log_total)
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:top_k]
    return Prediction(
        spans=tuple(Span(score, *place) for place, score in ranked),
        null_score=min(nulls),
        log_total=float(torch.tensor(totals, dtype=torch.float64).logsumexp(0)),
    )

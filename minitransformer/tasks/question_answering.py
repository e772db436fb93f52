"""Question answering: the span of a context that answers a question, or that there is no answer.

From bottom to top: the search for the best spans of a window, the prediction of all windows of one
question (both serve the evaluation of training too), then the task.

B windows, T tokens, L longest answer in tokens, K spans asked for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minitransformer.models.bert import BertForQuestionAnswering
from minitransformer.tasks.base import Task, as_texts, check_count, max_tokens
from minitransformer.tokenization import BatchEncoding

_MAX_LENGTH = 384  # tokens a window, and the next number the tokens it repeats: as for SQuAD
_STRIDE = 128


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
        start <= position < end and bool(context[first:last].strip())
        for position, (first, last) in enumerate(offsets)
    ]


@dataclass(frozen=True)
class WindowSpans:
    """The best spans of each window; see :func:`best_spans`."""

    scores: Tensor  # (B, K), start + end logit, best first; -inf where there are fewer than K
    starts: Tensor  # (B, K), the position of the first token
    ends: Tensor  # (B, K), the position of the last token
    log_totals: Tensor  # (B,), log of the sum of exp(score) over every span that is allowed
    null_scores: Tensor  # (B,), the score of no answer: [CLS] as start and end

    def window(self, index: int, offsets: Sequence[Sequence[int]]) -> "Window":
        """A window's spans as characters; `offsets`: (T, 2), of its tokens."""
        found = zip(
            self.scores[index].tolist(),
            self.starts[index].tolist(),
            self.ends[index].tolist(),
            strict=True,
        )
        spans = [
            Span(score, int(offsets[first][0]), int(offsets[last][1]))
            for score, first, last in found
            if score > -math.inf
        ]
        return Window(tuple(spans), float(self.null_scores[index]), float(self.log_totals[index]))


def best_spans(
    start_logits: Tensor,
    end_logits: Tensor,
    *,
    allowed: Tensor,
    cls_positions: Tensor,
    max_answer_tokens: int,
    top_k: int,
) -> WindowSpans:
    """Find the K spans of each window's context with the highest start + end logit.

    Every span of up to L tokens is looked at, not only those between the likeliest starts and ends.

    Args:
        start_logits, end_logits: (B, T).
        allowed: (B, T) bool, True at tokens that may begin and end an answer; see
            :func:`may_be_answer`.
        cls_positions: (B,) int64, those of [CLS].
        max_answer_tokens: L.
        top_k: K.
    """
    start_logits, end_logits = start_logits.float(), end_logits.float()
    longest = min(max_answer_tokens, start_logits.shape[1])
    windows = torch.arange(len(start_logits))
    nulls = start_logits[windows, cls_positions] + end_logits[windows, cls_positions]  # (B,)

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
            characters = (span.start, span.end)
            best[characters] = max(best.get(characters, -math.inf), span.score)
    totals = [window.log_total for window in windows]
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:top_k]
    return Prediction(
        spans=tuple(Span(score, *characters) for characters, score in ranked),
        null_score=min(window.null_score for window in windows),
        log_total=float(torch.tensor(totals, dtype=torch.float64).logsumexp(0)),
    )


# ---- the task ----


class QuestionAnswering(Task):
    """Callable that marks the answers to questions in their contexts.

    A context that is too long is read in windows that overlap; the best answer of all of them
    wins. transformers had such a pipeline up to version 5.2; this one looks at every span, and its
    `score` is a probability over all of them, whatever the number of windows.

    Args:
        model: a model for question answering.
        tokenizer: its tokenizer, one with a cls token.
        batch_size: windows in a batch, at most.

    Raises:
        ValueError: the model has no head for question answering, or the tokenizer has more tokens
            than the model has embeddings.
    """

    name = "question-answering"
    model_class = BertForQuestionAnswering
    example = "BertForQuestionAnswering"
    model: BertForQuestionAnswering

    def __call__(
        self,
        questions: str | Sequence[str],
        contexts: str | Sequence[str],
        *,
        top_k: int = 1,
        max_answer_tokens: int = 30,
        may_have_no_answer: bool = False,
        threshold: float = 0.0,
    ) -> Any:
        """Answer every question from its context.

        Args:
            questions: one or several.
            contexts: one for each question, or one for all of them.
            top_k: how many answers for each question.
            max_answer_tokens: no answer is longer.
            may_have_no_answer: for models trained on questions without an answer (SQuAD 2.0):
                where no answer scores more than `threshold` above the best span, the first answer
                is "", at characters 0 to 0; elsewhere it stands, by its score, behind the first.
            threshold: the number that `python -m train.qa` tunes on the dev set.

        Returns:
            For one question with `top_k` 1: a dict with `answer` (text), `score` (a probability),
            `start` and `end` (characters [start, end) of the context). With more: a list of such,
            best first. For several questions: a list of what each alone would give.

        Raises:
            TypeError: a question or context is no text.
            ValueError: a question or context is empty, a question leaves no space for its context,
                or the numbers of questions and contexts do not go together.
        """
        check_count("top_k", top_k)
        check_count("max_answer_tokens", max_answer_tokens)
        if math.isnan(threshold):
            raise ValueError("threshold=nan is no number")
        single = isinstance(questions, str)
        pairs = _pairs(questions, contexts)
        predictions = self._predict(pairs, top_k, max_answer_tokens)
        answers: list[Any] = []
        for (_, context), prediction in zip(pairs, predictions, strict=True):
            ranked = _answers(prediction, context, may_have_no_answer, threshold)[:top_k]
            answers.append(ranked[0] if top_k == 1 else ranked)
        return answers[0] if single else answers

    def _predict(
        self, pairs: list[tuple[str, str]], top_k: int, max_answer_tokens: int
    ) -> list[Prediction]:
        """The predictions of each pair; pairs whose windows have the same stride share batches."""
        predictions: dict[int, Prediction] = {}
        strides = self._strides([question for question, _ in pairs])
        for stride in sorted(set(strides)):
            numbers = [number for number, other in enumerate(strides) if other == stride]
            batch = self._windows([pairs[number] for number in numbers], stride)
            found: list[list[Window]] = [[] for _ in numbers]
            for index, logits in enumerate(self._run(batch, self._logits)):
                owner = batch.overflow_to_sample[index]
                context = pairs[numbers[owner]][1]
                if 1 not in batch.sequence_ids(index):
                    raise ValueError(f"contexts[{numbers[owner]}] has no token: {context!r:.60}")
                window = self._search(batch, index, context, logits, top_k, max_answer_tokens)
                found[owner].append(window)
            for number, windows in zip(numbers, found, strict=True):
                predictions[number] = join_windows(windows, top_k=top_k)
        return [predictions[number] for number in range(len(pairs))]

    def _strides(self, questions: list[str]) -> list[int]:
        """How many tokens the windows of each question share; less where it leaves little space."""
        limit = self._window_length()
        special = len(self.tokenizer("", "")["input_ids"])
        strides = []
        for number, ids in enumerate(
            self.tokenizer(questions, add_special_tokens=False)["input_ids"]
        ):
            space = limit - len(ids) - special
            if space < 1:
                raise ValueError(
                    f"questions[{number}] has {len(ids)} tokens, which leaves no space for its "
                    f"context among the {limit} of a window; shorten it"
                )
            strides.append(min(_STRIDE, space // 2))
        return strides

    def _window_length(self) -> int:
        return min(_MAX_LENGTH, max_tokens(self.model, self.tokenizer))

    def _windows(self, pairs: list[tuple[str, str]], stride: int) -> BatchEncoding:
        """Every context in windows of one length, each behind its question."""
        return self.tokenizer(
            [question for question, _ in pairs],
            [context for _, context in pairs],
            truncation="only_second",
            max_length=self._window_length(),
            stride=stride,
            return_overflowing_tokens=True,
        )

    def _logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """(B, 2, T): the logits of start and end."""
        output = self.model(**inputs)
        return torch.stack([output.start_logits, output.end_logits], dim=1).cpu()

    def _search(
        self,
        batch: BatchEncoding,
        index: int,
        context: str,
        logits: Tensor,
        top_k: int,
        max_answer_tokens: int,
    ) -> Window:
        """The best spans of a window; `logits`: (2, T), T of them its own, then padding."""
        sequence_ids, offsets = batch.sequence_ids(index), batch.offsets(index)
        start, length = sequence_ids.index(1), len(sequence_ids)
        allowed = may_be_answer(context, offsets, start, start + sequence_ids.count(1))
        found = best_spans(
            logits[:1, :length],
            logits[1:, :length],
            allowed=torch.tensor([allowed]),
            cls_positions=torch.tensor(
                [batch["input_ids"][index].index(self.tokenizer.cls_token_id)]
            ),
            max_answer_tokens=max_answer_tokens,
            top_k=top_k,
        )
        return found.window(0, offsets)


def _answers(
    prediction: Prediction, context: str, may_have_no_answer: bool, threshold: float
) -> list[dict[str, Any]]:
    """The spans of a prediction as answers, best first, and no answer where it belongs."""
    answers: list[dict[str, Any]] = [
        {
            "answer": context[span.start : span.end],
            "score": prediction.probability(span.score, with_null=may_have_no_answer),
            "start": span.start,
            "end": span.end,
        }
        for span in prediction.spans
    ]
    if may_have_no_answer:
        share = prediction.probability(prediction.null_score, with_null=True)
        nothing: dict[str, Any] = {"answer": "", "score": share, "start": 0, "end": 0}
        better = sum(answer["score"] > share for answer in answers)
        is_first = prediction.null_difference > threshold
        answers.insert(0 if is_first else max(1, better), nothing)
    return answers


def _pairs(questions: str | Sequence[str], contexts: str | Sequence[str]) -> list[tuple[str, str]]:
    """Each question with its context, none of them empty."""
    asked = as_texts("questions", questions)
    given = as_texts("contexts", contexts)
    if isinstance(contexts, str):
        given *= len(asked)
    if len(asked) != len(given):
        raise ValueError(
            f"there are {len(asked)} questions and {len(given)} contexts; give one context for "
            "each question, or a single text for all of them"
        )
    if not asked:
        raise ValueError("there is no question")
    return list(zip(asked, given, strict=True))

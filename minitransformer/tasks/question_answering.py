"""Extractive question answering: find the span of a context that answers a question, if any.

In this order: the search for the best spans of a window, the prediction from all windows of a
question (the evaluation in training uses both too), and the task.

B windows, T tokens, L maximum length of an answer in tokens, K spans to return.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor

from minitransformer.models.bert import BertForQuestionAnswering
from minitransformer.names import shortened
from minitransformer.tasks.base import (
    Task,
    as_texts,
    check_count,
    max_tokens,
    takes_any_inputs,
    without_white_space,
)
from minitransformer.tokenization import BatchEncoding

# As usual for SQuAD.
_MAX_LENGTH = 384  # tokens of a window
_STRIDE = 128  # tokens that a window shares with the previous one


def may_be_answer(
    context: str, offsets: Sequence[Sequence[int]], start: int, end: int
) -> list[bool]:
    """Whether each of the T tokens of a window may begin or end an answer.

    Only tokens of the context may, except those that are pure white space, which occur in
    byte-level vocabularies.

    Args:
        context: the text.
        offsets: (T, 2), the characters [start, end) of each token; used for the context's only.
        start, end: the tokens [start, end) of the context.
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
    log_totals: Tensor  # (B,), log of the sum of exp(score) over all allowed spans
    null_scores: Tensor  # (B,), the score of "no answer": start + end logit of [CLS]

    def window(self, index: int, context: str, offsets: Sequence[Sequence[int]]) -> "Window":
        """A window's spans in characters, given the (T, 2) offsets of its tokens in the context."""
        found = zip(
            self.scores[index].tolist(),
            self.starts[index].tolist(),
            self.ends[index].tolist(),
            strict=True,
        )
        spans = [
            Span(
                score, *without_white_space(context, int(offsets[first][0]), int(offsets[last][1]))
            )
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

    All spans of up to L tokens are compared, not only those of the likeliest starts and ends.

    Args:
        start_logits, end_logits: (B, T).
        allowed: (B, T) bool, True at tokens that may begin and end an answer; see
            :func:`may_be_answer`.
        cls_positions: (B,) int64, the positions of [CLS].
        max_answer_tokens: L.
        top_k: K.
    """
    start_logits, end_logits = start_logits.float(), end_logits.float()
    longest = min(max_answer_tokens, start_logits.shape[1])
    windows = torch.arange(len(start_logits))
    nulls = start_logits[windows, cls_positions] + end_logits[windows, cls_positions]  # (B,)

    starts = start_logits.masked_fill(~allowed, -math.inf)
    ends = end_logits.masked_fill(~allowed, -math.inf)
    # A span may end at its first token or at one of the L - 1 tokens after it.
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
    """The result of one window; see :class:`Prediction` for the fields."""

    spans: tuple[Span, ...]
    null_score: float
    log_total: float


@dataclass(frozen=True)
class Prediction:
    """The combined result of all windows of one question.

    Attributes:
        spans: the best distinct spans, best first.
        null_score: the score of "no answer": the lowest of all windows, because a window that does
            not contain the answer rightly has a high one.
        log_total: log of the sum of exp(score) over all spans of all windows.
    """

    spans: tuple[Span, ...]
    null_score: float
    log_total: float

    @property
    def null_difference(self) -> float:
        """The null score minus that of the best span: `score_diff` in SQuAD 2.0 code."""
        return self.null_score - self.spans[0].score

    def probability(self, score: float, *, with_null: bool) -> float:
        """The softmax probability of a score over all spans and, if `with_null`, "no answer"."""
        total = self.log_total
        if with_null:
            high = max(total, self.null_score)
            total = high + math.log(math.exp(total - high) + math.exp(self.null_score - high))
        return math.exp(score - total)


def join_windows(windows: Sequence[Window], *, top_k: int) -> Prediction:
    """Combine the results of a question's windows, keeping the best `top_k` spans."""
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
    """Callable that finds the answers to questions in their contexts.

    A long context is read in overlapping windows, and the best answer of all windows is returned.
    transformers had such a pipeline up to version 5.2; this one compares all spans, and its `score`
    is a probability over the spans of all windows.

    Args:
        model: a model for question answering.
        tokenizer: the model's tokenizer, with a cls token.
        batch_size: the maximum number of windows in a batch.

    Raises:
        ValueError: the model has no head for question answering, or the tokenizer has more tokens
            than the model has embeddings.
    """

    name = "question-answering"
    model_class = BertForQuestionAnswering
    example = "BertForQuestionAnswering"
    other_names: ClassVar = {
        "question": "questions",
        "context": "contexts",
        "topk": "top_k",
        "max_answer_len": "max_answer_tokens",
        "handle_impossible_answer": "may_have_no_answer",
    }
    elsewhere: ClassVar = {
        **Task.elsewhere,
        "doc_stride": (
            (None, _STRIDE),
            f"neighbouring windows of a context share {_STRIDE} tokens; leave it out",
        ),
        "max_seq_len": (
            (None, _MAX_LENGTH),
            f"a window has {_MAX_LENGTH} tokens, or as many as the model allows; leave it out",
        ),
        "max_question_len": ((None, 64), "questions are never truncated; leave it out"),
        "align_to_words": ((False, None), "answers begin and end with a token; leave it out"),
    }
    model: BertForQuestionAnswering

    @takes_any_inputs
    def __call__(
        self,
        questions: str | Sequence[str] | Mapping[str, str] | Sequence[Mapping[str, str]],
        contexts: str | Sequence[str] | None = None,
        *,
        top_k: int = 1,
        max_answer_tokens: int = 30,
        may_have_no_answer: bool = False,
        threshold: float = 0.0,
    ) -> Any:
        """Answer every question from its context.

        The names of the arguments in transformers are known too: `question`, `context`,
        `max_answer_len` (which is 15 there) and `handle_impossible_answer`.

        Args:
            questions: one or several; each may be a dict, with `question` and `context`.
            contexts: one for each question, or one for all of them; None for dicts.
            top_k: how many answers to return for each question.
            max_answer_tokens: the maximum length of an answer.
            may_have_no_answer: for models trained on unanswerable questions (SQuAD 2.0). The answer
                "", at characters [0, 0), comes first if the null score exceeds that of the best
                span by more than `threshold`; otherwise it is ranked by its score, but never first.
            threshold: see above; `python -m train.qa` tunes it on the dev set.

        Returns:
            For one question with `top_k` 1: a dict with `answer` (text), `score` (a probability),
            `start` and `end` (characters [start, end) of the context). With a larger `top_k`: a
            list of such dicts, best first. For several questions: a list with the result of each.

        Raises:
            TypeError: a question or context is not a string.
            ValueError: a question or context is empty, a question leaves no room for its context,
                or the numbers of questions and contexts do not match.
        """
        check_count("top_k", top_k)
        check_count("max_answer_tokens", max_answer_tokens)
        if not isinstance(threshold, Real) or math.isnan(threshold):
            raise ValueError(
                f"threshold={shortened(threshold)} must be a number; 0.0 compares the scores "
                "without a margin"
            )
        single = isinstance(questions, str | Mapping)
        pairs = _pairs(*_questions_and_contexts(questions, contexts))
        predictions = self._predict(pairs, top_k, max_answer_tokens)
        answers: list[Any] = []
        for (_, context), prediction in zip(pairs, predictions, strict=True):
            ranked = _answers(prediction, context, may_have_no_answer, threshold)[:top_k]
            answers.append(ranked[0] if top_k == 1 else ranked)
        return answers[0] if single else answers

    def _predict(
        self, pairs: list[tuple[str, str]], top_k: int, max_answer_tokens: int
    ) -> list[Prediction]:
        """The prediction for each pair; pairs with the same stride share batches."""
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
                    raise ValueError(
                        f"contexts[{numbers[owner]}] has no tokens: {shortened(context)}; pass a "
                        "text with at least one word"
                    )
                window = self._search(batch, index, context, logits, top_k, max_answer_tokens)
                found[owner].append(window)
            for number, windows in zip(numbers, found, strict=True):
                predictions[number] = join_windows(windows, top_k=top_k)
        return [predictions[number] for number in range(len(pairs))]

    def _strides(self, questions: list[str]) -> list[int]:
        """How many tokens the windows of each question share; fewer after a long question."""
        limit = self._window_length()
        special = self.tokenizer.backend.num_special_tokens_to_add(True)
        strides = []
        for number, ids in enumerate(
            self.tokenizer(questions, add_special_tokens=False)["input_ids"]
        ):
            space = limit - len(ids) - special
            if space < 1:
                raise ValueError(
                    f"questions[{number}] has {len(ids)} tokens, which leaves no room for its "
                    f"context among the {limit} tokens of a window; shorten it"
                )
            strides.append(min(_STRIDE, space // 2))
        return strides

    def _window_length(self) -> int:
        return min(_MAX_LENGTH, max_tokens(self.model, self.tokenizer))

    def _windows(self, pairs: list[tuple[str, str]], stride: int) -> BatchEncoding:
        """Split each context into windows; the question precedes each window."""
        return self.tokenizer(
            [question for question, _ in pairs],
            [context for _, context in pairs],
            truncation="only_second",
            max_length=self._window_length(),
            stride=stride,
            return_overflowing_tokens=True,
        )

    def _logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """(B, 2, T), the start and end logits."""
        output, mask = self.model(**inputs), inputs["attention_mask"]
        both = output.start_logits, output.end_logits
        return torch.stack([self._finite(logits, mask) for logits in both], dim=1)

    def _search(
        self,
        batch: BatchEncoding,
        index: int,
        context: str,
        logits: Tensor,
        top_k: int,
        max_answer_tokens: int,
    ) -> Window:
        """The best spans of a window, given its logits, (2, T), which may end with padding."""
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
        return found.window(0, context, offsets)


def _answers(
    prediction: Prediction, context: str, may_have_no_answer: bool, threshold: float
) -> list[dict[str, Any]]:
    """The spans of a prediction as answers, best first, with "no answer" at its rank."""
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
        score = prediction.probability(prediction.null_score, with_null=True)
        no_answer: dict[str, Any] = {"answer": "", "score": score, "start": 0, "end": 0}
        num_better = sum(answer["score"] > score for answer in answers)
        is_first = prediction.null_difference > threshold
        answers.insert(0 if is_first else max(1, num_better), no_answer)
    return answers


def _questions_and_contexts(questions: Any, contexts: Any) -> tuple[Any, Any]:
    """Both, also where the questions are dicts that have the contexts too."""
    items = [questions] if isinstance(questions, Mapping) else questions
    if contexts is not None or not isinstance(items, Sequence) or isinstance(items, str):
        return questions, contexts
    for number, item in enumerate(items):
        if not isinstance(item, Mapping) or not {"question", "context"} <= item.keys():
            raise TypeError(
                f"questions[{number}] is {shortened(item)}; pass contexts too, or for each "
                'question a dict, {"question": ..., "context": ...}'
            )
    return [item["question"] for item in items], [item["context"] for item in items]


def _pairs(questions: str | Sequence[str], contexts: str | Sequence[str]) -> list[tuple[str, str]]:
    """Each question with its context, none of them empty."""
    question_list = as_texts("questions", questions)
    context_list = as_texts("contexts", contexts)
    if isinstance(contexts, str):
        context_list *= len(question_list)
    if len(question_list) != len(context_list):
        raise ValueError(
            f"there are {len(question_list)} questions and {len(context_list)} contexts; pass one "
            "context for each question, or a single string for all of them"
        )
    if not question_list:
        raise ValueError("questions is empty; pass at least one")
    return list(zip(question_list, context_list, strict=True))

"""Question answering: the words of a context that answer a question, or that none do.

B windows, T tokens.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minitransformer.batch_encoding import BatchEncoding
from minitransformer.models.question_answering import QuestionAnswering
from minitransformer.tasks.running import Task, as_texts, check_count, longest_row
from minitransformer.tasks.spans import (
    Prediction,
    Window,
    best_spans,
    join_windows,
    may_be_answer,
)

_MAX_LENGTH = 384  # tokens a window, and the next number the tokens it repeats: as for SQuAD
_STRIDE = 128


class AnswerQuestions(Task):
    """Callable that marks the answers to questions in their contexts.

    A context that is too long is read in windows that overlap; the best answer of all of them
    wins. transformers had such a pipeline up to version 5.2; this one looks at every span, and its
    `score` is a probability over all of them, whatever the number of windows.

    Args:
        model: a model for question answering.
        tokenizer: its tokenizer, one with a cls token.
        batch_size: windows that are computed at once.

    Raises:
        ValueError: the model answers no questions, or the tokenizer has more tokens than the model
            has embeddings.
    """

    name = "question-answering"
    model_class = QuestionAnswering
    example = "BertForQuestionAnswering"
    model: QuestionAnswering

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
            ValueError: a question or context is empty, a question leaves no room for its context,
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
        """What the windows of each pair say, computed together where they share as many tokens."""
        predictions: dict[int, Prediction] = {}
        strides = self._strides([question for question, _ in pairs])
        for stride in sorted(set(strides)):
            numbers = [number for number, own in enumerate(strides) if own == stride]
            batch = self._windows([pairs[number] for number in numbers], stride)
            found: list[list[Window]] = [[] for _ in numbers]
            for row, logits in enumerate(self._run(batch, self._logits)):
                owner = batch.overflow_to_sample[row]
                context = pairs[numbers[owner]][1]
                if 1 not in batch.sequence_ids(row):
                    raise ValueError(f"contexts[{numbers[owner]}] has no token: {context!r:.60}")
                window = self._search(batch, row, context, logits, top_k, max_answer_tokens)
                found[owner].append(window)
            for number, windows in zip(numbers, found, strict=True):
                predictions[number] = join_windows(windows, top_k=top_k)
        return [predictions[number] for number in range(len(pairs))]

    def _strides(self, questions: list[str]) -> list[int]:
        """How many tokens the windows of each question share; less where it leaves little room."""
        limit = self._window_length()
        special = len(self.tokenizer("", "")["input_ids"])
        strides = []
        for number, ids in enumerate(
            self.tokenizer(questions, add_special_tokens=False)["input_ids"]
        ):
            room = limit - len(ids) - special
            if room < 1:
                raise ValueError(
                    f"questions[{number}] has {len(ids)} tokens, which leaves no room for its "
                    f"context among the {limit} of a window; shorten it"
                )
            strides.append(min(_STRIDE, room // 2))
        return strides

    def _window_length(self) -> int:
        return min(_MAX_LENGTH, longest_row(self.model, self.tokenizer))

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
        row: int,
        context: str,
        logits: Tensor,
        top_k: int,
        max_answer_tokens: int,
    ) -> Window:
        """The best spans of a window; `logits`: (2, T), T of them its own, then padding."""
        owners, offsets = batch.sequence_ids(row), batch.offsets(row)
        start, length = owners.index(1), len(owners)
        allowed = may_be_answer(context, offsets, start, start + owners.count(1))
        found = best_spans(
            logits[:1, :length],
            logits[1:, :length],
            allowed=torch.tensor([allowed]),
            cls_places=torch.tensor([batch["input_ids"][row].index(self.tokenizer.cls_token_id)]),
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

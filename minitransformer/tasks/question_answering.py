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
from minitransformer.tasks.spans import Prediction, Span, best_spans, join_windows

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
                is "", at characters 0 to 0.
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
        batch = self._windows(pairs)
        of_each: list[list[Any]] = [[] for _ in pairs]
        for row, logits in enumerate(self._run(batch, self._logits)):
            window = self._search(batch, row, logits, top_k, max_answer_tokens)
            of_each[batch.overflow_to_sample[row]].append(window)
        return [join_windows(windows, top_k=top_k) for windows in of_each]

    def _windows(self, pairs: list[tuple[str, str]]) -> BatchEncoding:
        """Every context in windows of one length, each behind its question."""
        limit = min(_MAX_LENGTH, longest_row(self.model, self.tokenizer))
        questions = [question for question, _ in pairs]
        longest = max(map(len, self.tokenizer(questions, add_special_tokens=False)["input_ids"]))
        room = limit - longest - len(self.tokenizer("", "")["input_ids"])
        if room < 1:
            raise ValueError(
                f"a question has {longest} tokens, which leaves no room for its context among the "
                f"{limit} of a window; shorten it"
            )
        return self.tokenizer(
            questions,
            [context for _, context in pairs],
            truncation="only_second",
            max_length=limit,
            stride=min(_STRIDE, room // 2),
            return_overflowing_tokens=True,
        )

    def _logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """(B, 2, T): the logits of start and end."""
        output = self.model(**inputs)
        return torch.stack([output.start_logits, output.end_logits], dim=1).cpu()

    def _search(
        self, batch: BatchEncoding, row: int, logits: Tensor, top_k: int, max_answer_tokens: int
    ) -> tuple[list[Span], float, float]:
        """The spans, the null score and the log total of a window."""
        owners, offsets = batch.sequence_ids(row), batch.offsets(row)
        start = owners.index(1)
        found = best_spans(
            logits[:1],
            logits[1:],
            context_starts=torch.tensor([start]),
            context_ends=torch.tensor([start + owners.count(1)]),
            cls_places=torch.tensor([batch["input_ids"][row].index(self.tokenizer.cls_token_id)]),
            max_answer_tokens=max_answer_tokens,
            top_k=top_k,
        )
        places = zip(
            found.scores[0].tolist(), found.starts[0].tolist(), found.ends[0].tolist(), strict=True
        )
        spans = [
            Span(score, offsets[first][0], offsets[last][1])
            for score, first, last in places
            if score > -math.inf
        ]
        return spans, float(found.null_scores[0]), float(found.log_totals[0])


def _answers(
    prediction: Prediction, context: str, may_have_no_answer: bool, threshold: float
) -> list[dict[str, Any]]:
    """The spans of a prediction as answers, best first, and no answer where it belongs."""
    answers = [
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
        is_first = prediction.null_difference > threshold
        answers.insert(0 if is_first else len(answers), nothing)
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

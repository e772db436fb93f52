"""Exact match and F1 as defined by the official SQuAD v2.0 evaluation.

The score of a question is the best of its scores against each gold answer. The v1.1 evaluation
gives the same numbers, except for a prediction that has no word after normalization, such as "the":
compared with a gold answer that has none either (three in the development set are "."), it gets an
exact match of 1 and an F1 of 0. Here such gold answers are ignored if the question has others;
otherwise both scores are 1.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from numbers import Real

from minitransformer.names import listed, shortened
from train.squad import Example

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation and articles, with single spaces."""
    text = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, gold: str) -> float:
    """1.0 if both are the same after normalization, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(gold))


def f1_score(prediction: str, gold: str) -> float:
    """The harmonic mean of the precision and recall of the words, counted with repetitions.

    1.0 if neither text has a word.
    """
    predicted, true = normalize_answer(prediction).split(), normalize_answer(gold).split()
    if not predicted and not true:
        return 1.0
    common = sum((Counter(predicted) & Counter(true)).values())
    return 2 * common / (len(predicted) + len(true))


def question_scores(example: Example, prediction: str) -> tuple[float, float]:
    """Exact match and F1 of a prediction, each from 0 to 1; the prediction "" means "no answer".

    Gold answers that have no word after normalization count only if there are no others. The gold
    answer of a question without an answer is "".
    """
    golds = [gold for gold in example.gold_texts if normalize_answer(gold)] or [""]
    return (
        max(exact_match(prediction, gold) for gold in golds),
        max(f1_score(prediction, gold) for gold in golds),
    )


@dataclass(frozen=True)
class Score:
    """Means over `count` questions, in percent."""

    exact: float
    f1: float
    count: int


@dataclass(frozen=True)
class Scores:
    """The scores of all questions and of each kind of question; None if a kind does not occur.

    `missing` is the number of questions without a prediction, which score 0.
    """

    total: Score
    has_answer: Score | None
    no_answer: Score | None
    missing: int = 0

    def table(self) -> str:
        """A table with a row for all questions and one for each kind that occurs."""
        rows = {"all": self.total, "has answer": self.has_answer, "no answer": self.no_answer}
        lines = [f"{'questions':<12}{'count':>8}{'exact match':>14}{'F1':>9}"]
        for name, row in rows.items():
            if row is not None:
                lines.append(f"{name:<12}{row.count:>8,}{row.exact:>14.2f}{row.f1:>9.2f}")
        return "\n".join(lines)


def score(
    examples: Sequence[Example],
    predictions: Mapping[str, str],
    *,
    null_scores: Mapping[str, float] | None = None,
    threshold: float = 0.0,
    allow_missing: bool = False,
) -> Scores:
    """Score the predictions for all examples.

    Args:
        examples: the questions.
        predictions: question id to answer, "" for none; ids of other questions are ignored.
        null_scores: question id to how much more likely "no answer" is than the predicted answer:
            the difference of their scores, or a probability. None uses the predictions as they are.
        threshold: a question with a null score above it is predicted to have no answer.
        allow_missing: questions without a prediction score 0 instead of raising an error.

    Raises:
        ValueError: there are no examples, a prediction is missing or is not a text, or a null score
            is missing or is not a finite number.
    """
    _check_examples(examples)
    missing = _check_predictions(examples, predictions, allow_missing)
    predicted = [example for example in examples if example.id in predictions]
    nulls = None if null_scores is None else _checked_nulls(predicted, null_scores)
    results: dict[str, tuple[float, float]] = {}
    for example in predicted:
        if nulls is not None and nulls[example.id] > threshold:
            results[example.id] = _score_of_no_answer(example)
        else:
            results[example.id] = question_scores(example, predictions[example.id])
    pairs = [(example, results.get(example.id, (0.0, 0.0))) for example in examples]
    return Scores(
        total=_mean([result for _, result in pairs]),
        has_answer=_mean_or_none(result for e, result in pairs if not e.is_impossible),
        no_answer=_mean_or_none(result for e, result in pairs if e.is_impossible),
        missing=missing,
    )


@dataclass(frozen=True)
class BestThresholds:
    """The best exact match and F1, in percent, and the thresholds for them."""

    exact: float
    exact_threshold: float
    f1: float
    f1_threshold: float


def best_thresholds(
    examples: Sequence[Example],
    predictions: Mapping[str, str],
    null_scores: Mapping[str, float],
) -> BestThresholds:
    """Find the thresholds for `null_scores` that maximize exact match and F1 of :func:`score`.

    Every threshold that makes a difference is tried: each null score, and one that is lower than
    all of them, with which no question is answered. Of equally good thresholds the lowest is taken.
    The official script differs in three respects: it separates questions with the same null score,
    which no threshold can do; it uses 0 as the threshold with which no question is answered; and it
    counts a prediction such as "the" as wrong for a question without an answer, unlike the score.

    Args:
        examples: the questions of a development set.
        predictions: question id to the best answer, ignoring "no answer".
        null_scores: as in :func:`score`.

    Raises:
        ValueError: as in :func:`score`.
    """
    _check_examples(examples)
    _check_predictions(examples, predictions, allow_missing=False)
    nulls = _checked_nulls(examples, null_scores)
    ordered = sorted(examples, key=lambda example: nulls[example.id])
    answered = {e.id: question_scores(e, predictions[e.id]) for e in examples}
    best = []
    for kind in (0, 1):
        gains = {e.id: answered[e.id][kind] - _score_of_no_answer(e)[kind] for e in examples}
        unanswered = math.fsum(_score_of_no_answer(e)[kind] for e in examples)
        steps = [
            (threshold, math.fsum(gains[example.id] for example in group))
            for threshold, group in groupby(ordered, key=lambda example: nulls[example.id])
        ]
        best.append(_highest(unanswered, steps, below=nulls[ordered[0].id] - 1.0))
    (exact, exact_threshold), (f1, f1_threshold) = best
    scale = 100 / len(examples)
    return BestThresholds(exact * scale, exact_threshold, f1 * scale, f1_threshold)


def _highest(
    start: float, steps: Iterable[tuple[float, float]], *, below: float
) -> tuple[float, float]:
    """The highest sum of scores, and the lowest threshold that reaches it.

    `start` is the sum with the threshold `below`; `steps` are the further thresholds, ascending,
    each with the change of the sum.
    """
    total = best = start
    best_threshold = below
    for threshold, gain in steps:
        total += gain
        if total > best + 1e-9:  # a rounding error is no gain
            best, best_threshold = total, threshold
    return best, best_threshold


def _score_of_no_answer(example: Example) -> tuple[float, float]:
    """Depends on whether there is a gold answer, not on its text, as in the official script."""
    return (1.0, 1.0) if example.is_impossible else (0.0, 0.0)


def _mean(results: Sequence[tuple[float, float]]) -> Score:
    exact, f1 = (100 * math.fsum(column) / len(results) for column in zip(*results, strict=True))
    return Score(exact, f1, len(results))


def _mean_or_none(results: Iterable[tuple[float, float]]) -> Score | None:
    results = list(results)
    return _mean(results) if results else None


def _check_examples(examples: Sequence[Example]) -> None:
    if not examples:
        raise ValueError("there are no examples to score")


def _check_predictions(
    examples: Sequence[Example], predictions: Mapping[str, str], allow_missing: bool
) -> int:
    """Check the predictions, and return the number of examples without one."""
    missing = [example.id for example in examples if example.id not in predictions]
    if missing and not allow_missing:
        raise ValueError(_missing("predictions", missing, len(examples)))
    for example in examples:
        if not isinstance(predictions.get(example.id, ""), str):
            raise ValueError(
                f"the prediction for question {shortened(example.id)} is "
                f'{shortened(predictions[example.id])}, not a text; use "" for no answer'
            )
    return len(missing)


def _checked_nulls(
    examples: Sequence[Example], null_scores: Mapping[str, float]
) -> Mapping[str, float]:
    missing = [example.id for example in examples if example.id not in null_scores]
    if missing:
        raise ValueError(_missing("null scores", missing, len(examples)))
    for example in examples:
        value = null_scores[example.id]
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(
                f"the null score of question {shortened(example.id)} is {shortened(value)}, not a "
                "finite number"
            )
    return null_scores


def _missing(what: str, ids: list[str], total: int) -> str:
    some = listed(map(repr, ids))
    return f"{len(ids)} of {total} questions have no {what}: {some}"

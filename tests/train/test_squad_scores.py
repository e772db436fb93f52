"""Exact match and F1: by hand-made cases, by properties, and thresholds by trying every one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import REAL_DATA
from train.squad import Answer, Example, read_squad
from train.squad_scores import (
    Score,
    best_thresholds,
    exact_match,
    f1_score,
    normalize_answer,
    question_scores,
    score,
)

SQUAD = REAL_DATA / "squad"


def asked(name: str, *golds: str, dropped: tuple[str, ...] = ()) -> Example:
    return Example(name, "?", "context", tuple(Answer(gold, 0) for gold in golds), dropped)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The Cat", "cat"),
        ("a cat, an owl; THE end", "cat owl end"),
        ("cat's", "cats"),
        ("well-known", "wellknown"),
        ("$1,000.50", "100050"),
        ("theatre another Ann", "theatre another ann"),
        ("the-end", "theend"),  # punctuation is removed first
        ("A.", ""),  # and leaves an article
        ("the an a", ""),
        (" \t\n two   words\u00a0here ", "two words here"),
        ("...", ""),
        ("", ""),
        ("“quoted” – 5°", "“quoted” – 5°"),  # noqa: RUF001 (what is not ASCII stays)
        ("ÉTÉ Straße", "été straße"),
        ("l'a b", "la b"),
        ("à la a", "à la"),
        ("rise—a—fall", "rise— —fall"),  # an article leaves a space
    ],
)
def test_normalization(text, normalized):
    assert normalize_answer(text) == normalized
    assert normalize_answer(normalized) == normalized


@pytest.mark.parametrize(
    ("prediction", "gold", "exact", "f1"),
    [
        ("the Eiffel tower.", "Eiffel Tower", 1, 1),
        ("tower Eiffel", "Eiffel Tower", 0, 1),  # a bag of words
        ("Eiffel", "Eiffel Tower", 0, 2 / 3),
        ("the tall Eiffel Tower", "Eiffel Tower", 0, 0.8),
        ("Louvre", "Eiffel Tower", 0, 0),
        ("ha ha ha", "ha ha", 0, 0.8),  # each word as often as it occurs
        ("ha", "ha ha ha", 0, 0.5),
        ("", "", 1, 1),
        ("the", "...", 1, 1),
        ("", "tower", 0, 0),
        ("tower", "", 0, 0),
        ("1774", "1774s", 0, 0),
    ],
)
def test_exact_match_and_f1(prediction, gold, exact, f1):
    assert exact_match(prediction, gold) == exact
    assert f1_score(prediction, gold) == pytest.approx(f1, abs=1e-12)
    assert question_scores(asked("q", gold or "!"), prediction) == (exact, pytest.approx(f1))


@pytest.mark.parametrize(
    ("golds", "prediction", "exact", "f1"),
    [
        (("gas", "a rare gas"), "rare gas", 1, 1),
        (("gas", "rare gas here"), "rare gas", 0, 0.8),  # the best of both, not the last
        (("rare gas here", "gas"), "rare gas", 0, 0.8),
        ((), "", 1, 1),
        ((), "the", 1, 1),
        ((), "gas", 0, 0),
        (("gas", "."), "", 0, 0),  # a gold answer without words counts only if there is no other
        ((".", "the"), "", 1, 1),
        ((".",), "gas", 0, 0),
    ],
)
def test_the_best_of_the_gold_answers_counts(golds, prediction, exact, f1):
    assert question_scores(asked("q", *golds), prediction) == (exact, pytest.approx(f1))


def test_exact_match_and_f1_may_come_from_different_answers():
    # No gold equals the prediction; each measure takes its own best.
    assert question_scores(asked("q", "x", "rare gas"), "gas rare") == (0, 1)


def test_answers_that_were_dropped_from_the_context_are_scored():
    example = asked("q", dropped=("argon",))
    assert question_scores(example, "argon") == (1, 1)
    assert question_scores(example, "") == (0, 0)
    scores = score([example], {"q": "argon"})
    assert scores.has_answer == Score(100, 100, 1) and scores.no_answer is None


TEXTS = st.text("ab the.,A\n", max_size=12)


@given(TEXTS, TEXTS)
def test_f1_is_symmetric_bounded_and_no_less_than_exact_match(first, second):
    f1 = f1_score(first, second)
    assert f1 == f1_score(second, first)
    assert exact_match(first, second) == exact_match(second, first) <= f1 <= 1
    assert exact_match(first, first) == f1_score(first, first) == 1


@given(st.lists(st.lists(TEXTS, max_size=3), min_size=1, max_size=6))
def test_gold_against_itself_scores_100(golds):
    examples = [asked(str(n), *texts) for n, texts in enumerate(golds)]
    words = {e.id: [g for g in e.gold_texts if normalize_answer(g)] for e in examples}
    predictions = {name: texts[-1] if texts else "" for name, texts in words.items()}
    scores = score(examples, predictions)
    for part in (scores.total, scores.has_answer, scores.no_answer):
        assert part is None or (part.exact, part.f1) == (100, 100)
    parts = (scores.has_answer, scores.no_answer)
    assert sum(part.count for part in parts if part is not None) == len(examples)


EXAMPLES = [asked("1", "rare gas"), asked("2", "1774"), asked("3"), asked("4")]
PREDICTIONS = {"1": "gas", "2": "1774", "3": "", "4": "gas", "of another file": "x"}


def test_scores_of_both_kinds_and_the_table():
    scores = score(EXAMPLES, PREDICTIONS)
    assert scores.total == Score(50, pytest.approx(100 * (2 / 3 + 2) / 4), 4)
    assert scores.has_answer == Score(50, pytest.approx(100 * (2 / 3 + 1) / 2), 2)
    assert scores.no_answer == Score(50, 50, 2)
    assert scores.table().splitlines() == [
        "questions      count   exact match       F1",
        "all                4         50.00    66.67",
        "has answer         2         50.00    83.33",
        "no answer          2         50.00    50.00",
    ]
    assert len(score(EXAMPLES[:2], PREDICTIONS).table().splitlines()) == 3


def test_questions_above_the_threshold_are_not_answered():
    nulls = {"1": -1.0, "2": 2.0, "3": 2.5, "4": 3.0}
    scores = score(EXAMPLES, PREDICTIONS, null_scores=nulls, threshold=2.0)
    assert scores.has_answer == score(EXAMPLES[:2], PREDICTIONS).total  # 2.0 is not above 2.0
    assert scores.no_answer == Score(100, 100, 2)
    scores = score(EXAMPLES, PREDICTIONS, null_scores=nulls)  # threshold 0
    assert scores.has_answer == Score(0, pytest.approx(100 / 3), 2)
    # By whether people gave an answer: "" equals the gold answer "." but claims there is none.
    assert score([asked("1", ".")], {"1": "."}, null_scores={"1": 1.0}).total.exact == 0


def test_missing_predictions_are_an_error_or_score_0():
    some = {"2": "1774"}
    with pytest.raises(ValueError, match="3 of 4 questions have no predictions: '1', '3', '4'$"):
        score(EXAMPLES, some)
    more = [*EXAMPLES, asked("5")]
    with pytest.raises(ValueError, match="'1', '3', '4', ...$"):
        score(more, some)
    scores = score(EXAMPLES, some, null_scores={"2": 0.0}, allow_missing=True)
    assert scores.total == Score(25, 25, 4) and scores.missing == 3
    assert scores.no_answer == Score(0, 0, 2)


@pytest.mark.parametrize("use", [score, best_thresholds])
def test_what_cannot_be_scored_is_named(use):
    nulls = {"1": 0.0, "2": 0.0, "3": 0.0, "4": 0.0}
    with pytest.raises(ValueError, match="no examples"):
        use([], {}, null_scores={})
    with pytest.raises(ValueError, match="prediction for question '1' is None, not a text"):
        use(EXAMPLES, PREDICTIONS | {"1": None}, null_scores=nulls)
    with pytest.raises(ValueError, match="1 of 4 questions have no null scores: '4'"):
        use(EXAMPLES, PREDICTIONS, null_scores={"1": 0.0, "2": 0.0, "3": 0.0})
    for value in (float("nan"), float("inf"), "0.5"):
        with pytest.raises(ValueError, match="null score of question '2' is .*, not a finite"):
            use(EXAMPLES, PREDICTIONS, null_scores=nulls | {"2": value})


def test_numbers_of_numpy_are_numbers():
    nulls = {example.id: np.float32(0.5) for example in EXAMPLES}
    assert best_thresholds(EXAMPLES, PREDICTIONS, nulls).exact_threshold == 0.5 - 1


def test_thresholds_by_hand():
    examples = [asked("1", "a x"), asked("2"), asked("3", "y z"), asked("4")]
    predictions = {"1": "x", "2": "x", "3": "z", "4": "x"}
    nulls = {"1": -3.0, "2": -2.0, "3": -1.0, "4": 4.0}
    best = best_thresholds(examples, predictions, nulls)
    # Answering only 1: 1, 2 and 4 are right. Answering 3 as well wins 2/3 in F1, but costs 2.
    assert (best.exact, best.exact_threshold) == (75, -3)
    assert (best.f1, best.f1_threshold) == (75, -3)
    nulls["3"] = -2.5
    best = best_thresholds(examples, predictions, nulls)
    assert (best.exact, best.exact_threshold) == (75, -3)
    assert (best.f1, best.f1_threshold) == (pytest.approx(100 * (3 + 2 / 3) / 4), -2.5)


def test_questions_with_equal_null_scores_share_a_threshold():
    # The official script would let the first be answered and not the second, and promise 100.
    examples = [asked("1", "x"), asked("2")]
    best = best_thresholds(examples, {"1": "x", "2": "x"}, {"1": 0.0, "2": 0.0})
    assert (best.exact, best.exact_threshold) == (50, -1)


def test_questions_without_any_answer_want_no_prediction():
    examples = [asked("1"), asked("2")]
    best = best_thresholds(examples, {"1": "x", "2": "x"}, {"1": -7.5, "2": 3.0})
    assert (best.exact, best.f1) == (100, 100)
    assert best.exact_threshold < -7.5


def brute_force(examples, predictions, nulls, measure: str) -> float:
    """The highest score over every threshold that could make a difference."""
    thresholds = [min(nulls.values()) - 1, *nulls.values()]
    scores = [
        score(examples, predictions, null_scores=nulls, threshold=threshold).total
        for threshold in thresholds
    ]
    return max(getattr(result, measure) for result in scores)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([(), ("x",), ("x y",), ("x", "y z"), (".",)]),
            st.sampled_from(["", "x", "x y", "y z w", "the"]),
            st.sampled_from([-2.5, -1.0, 0.0, 0.25, 3.0]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_thresholds_are_those_of_trying_all(rows):
    examples = [asked(str(n), *golds) for n, (golds, _, _) in enumerate(rows)]
    predictions = {str(n): text for n, (_, text, _) in enumerate(rows)}
    nulls = {str(n): null for n, (_, _, null) in enumerate(rows)}
    best = best_thresholds(examples, predictions, nulls)
    for measure in ("exact", "f1"):
        highest = brute_force(examples, predictions, nulls, measure)
        assert getattr(best, measure) == pytest.approx(highest)
        threshold = getattr(best, f"{measure}_threshold")
        scores = score(examples, predictions, null_scores=nulls, threshold=threshold)
        assert getattr(scores.total, measure) == pytest.approx(highest)
        lower = {name: null for name, null in nulls.items() if null < threshold}
        for value in [*lower.values(), *([min(nulls.values()) - 1] if lower else [])]:
            worse = score(examples, predictions, null_scores=nulls, threshold=value)
            assert getattr(worse.total, measure) < highest - 1e-6  # the lowest of equals is taken


@pytest.mark.slow
@pytest.mark.skipif(not SQUAD.exists(), reason=f"needs {SQUAD}")
def test_the_real_files_score_100_against_themselves():
    examples = read_squad(SQUAD / "dev-v2.0.json").examples
    golds = {e.id: [g for g in e.gold_texts if normalize_answer(g)] for e in examples}
    scores = score(examples, {name: texts[0] if texts else "" for name, texts in golds.items()})
    assert scores.total == Score(100, 100, 11_873)
    assert scores.no_answer == Score(100, 100, 5945)
    silent = score(examples, dict.fromkeys(golds, ""))
    assert silent.has_answer == Score(0, 0, 5928)
    assert silent.total.exact == silent.total.f1 == pytest.approx(50.0716, abs=1e-4)

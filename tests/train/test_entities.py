"""Scores of entities, and a slow, independent count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.tasks.tag_schemes import TagScheme
from tests.tasks.test_tag_schemes import brute_force
from train.entities import Score, score_entities

IOB = TagScheme(["B-x", "I-x"])


tags = st.lists(st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"]), max_size=9)


@given(st.lists(tags.flatmap(lambda gold: st.tuples(
    st.just(gold), st.permutations(gold) | st.just(["O"] * len(gold)))), max_size=4))  # fmt: skip
def test_the_scores_count_the_spans(pairs):
    scores = score_entities([gold for gold, _ in pairs], [guess for _, guess in pairs], IOB)
    right = sum(len(brute_force(gold) & brute_force(guess)) for gold, guess in pairs)
    true = sum(len(brute_force(gold)) for gold, _ in pairs)
    found = sum(len(brute_force(guess)) for _, guess in pairs)
    assert scores.micro == Score(gold=true, predicted=found, correct=right)
    for field in ("gold", "predicted", "correct"):
        total = sum(getattr(score, field) for score in scores.by_type.values())
        assert total == getattr(scores.micro, field)
    precision, recall = scores.micro.precision, scores.micro.recall
    if precision + recall:
        f1 = 2 * precision * recall / (precision + recall)
        assert scores.micro.f1 == pytest.approx(f1)
    else:
        assert scores.micro.f1 == 0


def test_a_worked_example():
    gold = [["B-person", "I-person", "O", "B-location"], ["O", "B-person"], ["B-group"]]
    guess = [["B-person", "I-person", "O", "B-person"], ["I-person", "B-person"], ["B-product"]]
    scores = score_entities(gold, guess, IOB)
    assert scores.micro == Score(gold=4, predicted=5, correct=2)
    assert scores.by_type == {
        "group": Score(gold=1, predicted=0, correct=0),
        "location": Score(gold=1, predicted=0, correct=0),
        "person": Score(gold=2, predicted=4, correct=2),
        "product": Score(gold=0, predicted=1, correct=0),
    }
    person = scores.by_type["person"]
    assert (person.precision, person.recall, person.f1) == (0.5, 1.0, pytest.approx(2 / 3))
    assert scores.table().splitlines() == [
        "          precision  recall     F1  entities",
        "group         0.00%   0.00%  0.00%         1",
        "location      0.00%   0.00%  0.00%         1",
        "person       50.00% 100.00% 66.67%         2",
        "product       0.00%   0.00%  0.00%         0",
        "all          40.00%  50.00% 44.44%         4",
    ]


def test_the_border_counts_and_so_does_the_type():
    right = score_entities([["B-x", "I-x"]], [["I-x", "I-x"]], IOB)
    assert right.micro.f1 == 1  # lenient: an I- begins an entity too
    assert score_entities([["B-x", "I-x"]], [["B-x", "O"]], IOB).micro.correct == 0
    assert score_entities([["B-x", "I-x"]], [["B-y", "I-y"]], IOB).micro.correct == 0
    # The same span in another sentence is another entity.
    assert score_entities([["B-x"], ["O"]], [["O"], ["B-x"]], IOB).micro.correct == 0


def test_the_scheme_says_what_an_entity_is():
    tags = [["S-x", "S-x", "B-x", "E-x"]]
    assert score_entities(tags, tags, TagScheme(tags[0])).micro.gold == 3
    parts = [["ADJ", "NOUN", "NOUN", "O"]]
    scores = score_entities(parts, [["ADJ", "NOUN", "ADJ", "O"]], TagScheme(parts[0]))
    assert scores.micro == Score(gold=2, predicted=3, correct=1)


def test_no_entity_at_all():
    scores = score_entities([["O"]], [["O"]], IOB)
    assert (scores.micro.precision, scores.micro.recall, scores.micro.f1) == (0, 0, 0)
    assert scores.by_type == {}
    assert scores.table().splitlines()[-1] == "all      0.00%   0.00%  0.00%         0"


def test_unequal_numbers_are_named():
    with pytest.raises(ValueError, match="2 gold sentences, but 1 predicted"):
        score_entities([["O"], ["O"]], [["O"]], IOB)
    with pytest.raises(ValueError, match="sentence 1 has 2 gold tags, but 1 predicted"):
        score_entities([["O"], ["O", "O"]], [["O"], ["O"]], IOB)

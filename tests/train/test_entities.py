"""Entities and their scores: every transition by hand, and a slow, independent count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.entities import Entity, Score, find_entities, score_entities

O = "O"  # noqa: E741 (the name of the tag)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        # After O, or at the beginning, every tag but O begins an entity.
        ([], []),
        ([O, O], []),
        (["B-x"], [("x", 0, 1)]),
        (["I-x"], [("x", 0, 1)]),
        ([O, "B-x"], [("x", 1, 2)]),
        ([O, "I-x"], [("x", 1, 2)]),
        # After B-.
        (["B-x", O], [("x", 0, 1)]),
        (["B-x", "I-x"], [("x", 0, 2)]),
        (["B-x", "B-x"], [("x", 0, 1), ("x", 1, 2)]),
        (["B-x", "B-y"], [("x", 0, 1), ("y", 1, 2)]),
        (["B-x", "I-y"], [("x", 0, 1), ("y", 1, 2)]),
        # After I-.
        (["B-x", "I-x", O], [("x", 0, 2)]),
        (["B-x", "I-x", "I-x"], [("x", 0, 3)]),
        (["I-x", "I-x"], [("x", 0, 2)]),
        (["I-x", "B-x"], [("x", 0, 1), ("x", 1, 2)]),
        (["I-x", "B-y"], [("x", 0, 1), ("y", 1, 2)]),
        (["I-x", "I-y", "I-x"], [("x", 0, 1), ("y", 1, 2), ("x", 2, 3)]),
        # O separates entities, and a type may contain a hyphen.
        (["B-x", O, "I-x"], [("x", 0, 1), ("x", 2, 3)]),
        (["B-a-b", "I-a-b", "I-a"], [("a-b", 0, 2), ("a", 2, 3)]),
    ],
)
def test_every_transition(tags, expected):
    assert find_entities(tags) == [Entity(*entity) for entity in expected]


tags = st.lists(st.sampled_from([O, "B-x", "I-x", "B-y", "I-y"]), max_size=9)


def brute_force(tags: list[str]) -> set[tuple[str, int, int]]:
    """Every span that is an entity by definition, of all the spans that there are.

    All its tags are of its type; only the first may be B-; it could not begin earlier without
    another entity's beginning inside, nor end later.
    """
    found = set()
    for start in range(len(tags)):
        for end in range(start + 1, len(tags) + 1):
            inside, before, after = tags[start:end], tags[:start][-1:], tags[end:][:1]
            name = tags[start][2:]
            whole = tags[start] != O and all(tag == f"I-{name}" for tag in inside[1:])
            begins = tags[start] == f"B-{name}" or before not in ([f"B-{name}"], [f"I-{name}"])
            if whole and begins and after != [f"I-{name}"]:
                found.add((name, start, end))
    return found


@given(tags)
def test_entities_are_the_spans_of_the_definition(tags):
    entities = find_entities(tags)
    assert {(e.type, e.start, e.end) for e in entities} == brute_force(tags)
    assert len(entities) == len(brute_force(tags))
    assert entities == sorted(entities, key=lambda entity: entity.start)


@given(st.lists(tags.flatmap(lambda gold: st.tuples(
    st.just(gold), st.permutations(gold) | st.just([O] * len(gold)))), max_size=4))  # fmt: skip
def test_the_scores_count_the_spans(pairs):
    scores = score_entities([gold for gold, _ in pairs], [guess for _, guess in pairs])
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
    gold = [["B-person", "I-person", O, "B-location"], [O, "B-person"], ["B-group"]]
    guess = [["B-person", "I-person", O, "B-person"], ["I-person", "B-person"], ["B-product"]]
    scores = score_entities(gold, guess)
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
    right = score_entities([["B-x", "I-x"]], [["I-x", "I-x"]])
    assert right.micro.f1 == 1  # lenient: an I- begins an entity too
    assert score_entities([["B-x", "I-x"]], [["B-x", O]]).micro.correct == 0
    assert score_entities([["B-x", "I-x"]], [["B-y", "I-y"]]).micro.correct == 0
    # The same span in another sentence is another entity.
    assert score_entities([["B-x"], [O]], [[O], ["B-x"]]).micro.correct == 0


def test_no_entity_at_all():
    scores = score_entities([[O]], [[O]])
    assert (scores.micro.precision, scores.micro.recall, scores.micro.f1) == (0, 0, 0)
    assert scores.by_type == {}
    assert scores.table().splitlines()[-1] == "all      0.00%   0.00%  0.00%         0"


def test_unequal_numbers_are_named():
    with pytest.raises(ValueError, match="2 gold sentences, but 1 predicted"):
        score_entities([[O], [O]], [[O]])
    with pytest.raises(ValueError, match="sentence 1 has 2 gold tags, but 1 predicted"):
        score_entities([[O], [O, O]], [[O], [O]])

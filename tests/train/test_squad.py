"""SQuAD files: every answer is found, repaired or counted, and errors name their position."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import REAL_DATA
from train.squad import Answer, find_answer, read_squad

SQUAD = REAL_DATA / "squad"
CONTEXT = "Oxygen is a gas.  It was found in 1774 by Priestley; in 1771 by Scheele."


def question(name="q1", text="What is it?", answers=(("a gas", 10),), **more):
    answers = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": text, "answers": answers, **more}


def squad(*questions, context=CONTEXT, **article):
    return {"data": [{"paragraphs": [{"context": context, "qas": list(questions)}], **article}]}


@pytest.fixture
def read(tmp_path):
    def write_and_read(content, **options):
        path = tmp_path / "squad.json"
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return read_squad(path, **options)

    return write_and_read


def test_a_file_of_version_1(read):
    file = read(
        squad(
            question(answers=[("a gas", 10), ("gas", 12), ("a gas", 10)]),
            question("q2", "  When?\n", [("1774", 34)]),
            title="Oxygen",
        )
    )
    first, second = file.examples
    assert first.answers == (Answer("a gas", 10), Answer("gas", 12), Answer("a gas", 10))
    assert (first.id, first.context, first.title) == ("q1", CONTEXT, "Oxygen")
    assert second.question == "When?"
    assert CONTEXT[second.answers[0].start : second.answers[0].end] == "1774"
    assert not first.is_impossible and not first.is_unlocated
    assert file.counts.summary() == (
        "1 articles, 1 paragraphs, 2 questions (0 without an answer, 0 whose answers were all "
        "dropped), 4 answers (0 repaired, 0 dropped)"
    )


def test_a_file_of_version_2(read):
    impossible = question(
        "q2",
        answers=[],
        is_impossible=True,
        plausible_answers=[
            {"text": "1771", "answer_start": 56},
            {"text": "1770", "answer_start": 1},
        ],
    )
    content = squad(question(is_impossible=False), impossible, question("q3", answers=[]))
    file = read(content)
    assert [e.is_impossible for e in file.examples] == [False, True, True]
    assert [e.plausible_answers for e in file.examples] == [(), (), ()]
    assert (file.counts.impossible, file.counts.plausible) == (2, 0)
    file = read(content, plausible_answers=True)
    assert [e.plausible_answers for e in file.examples] == [(), (Answer("1771", 56),), ()]
    assert file.examples[1].is_impossible and file.examples[1].gold_texts == ()
    assert (file.counts.plausible, file.counts.answers, file.counts.dropped) == (1, 1, 0)


@pytest.mark.parametrize(
    ("text", "start", "found"),
    [
        ("1774", 34, ("1774", 34)),
        ("1774", 33, ("1774", 34)),
        ("1774", 31, ("1774", 34)),
        ("1774", 37, ("1774", 34)),
        ("1774", 30, None),
        ("1774", 38, None),
        ("Oxygen", 2, ("Oxygen", 0)),
        ("Oxygen", -2, ("Oxygen", 0)),  # as a slice, -2 would count from the end
        ("le.", -3, None),
        ("oxygen", 0, None),  # case unchanged
        ("gas. It", 12, ("gas.  It", 12)),  # two spaces in the context
        ("gas.\nIt", 13, ("gas.  It", 12)),
        (" 1774 ", 33, ("1774", 34)),
        ("1774 ", 34, ("1774", 34)),
        ("\t1774", 34, ("1774", 34)),
        ("     1774", 29, ("1774", 34)),
        ("177", 36, ("177", 34)),  # not the later one
        (".", 15, (".", 15)),
        (" ", 6, None),
        ("", 0, None),
        ("(", 10, None),  # no pattern
    ],
)
def test_an_answer_is_found_near_its_position_in_the_file(text, start, found):
    assert find_answer(CONTEXT, text, start) == (found and Answer(*found))


def test_the_nearest_occurrence_wins_and_of_two_the_earlier():
    assert find_answer("ab ab ab", "ab", 4) == Answer("ab", 3)
    assert find_answer("ab ab ab", "ab", 5) == Answer("ab", 6)
    assert find_answer("a.a", "a", 1) == Answer("a", 0)


@given(st.text("ab .\n", max_size=20), st.text("ab .\n", max_size=4), st.integers(-5, 25))
def test_the_found_span_is_the_answer(context, text, start):
    answer = find_answer(context, text, start)
    stated = start + len(text) - len(text.lstrip())
    if answer is not None:
        assert context[answer.start : answer.end] == answer.text == answer.text.strip() != ""
        assert answer.text.split() == text.split()
        assert abs(answer.start - stated) <= 3
    elif text.strip():
        near = range(max(0, stated - 3), max(0, stated + 4))
        assert not any(context.startswith(text.strip(), place) for place in near)


def test_repaired_and_dropped_answers_are_counted(read):
    answers = [("a gas", 10), ("gas. It", 12), ("1774", 33), (" 1774", 33), ("1774", 0), ("z", 0)]
    file = read(squad(question(answers=answers)))
    (example,) = file.examples
    assert [answer.start for answer in example.answers] == [10, 12, 34, 34]
    assert example.dropped_answers == ("1774", "z")
    assert example.gold_texts == ("a gas", "gas.  It", "1774", "1774", "1774", "z")
    assert (file.counts.answers, file.counts.repaired, file.counts.dropped) == (6, 2, 2)
    assert file.counts.unlocated == 0 and not example.is_unlocated


@pytest.mark.parametrize(
    ("text", "start", "repaired"),
    [
        ("1774", 34, 0),
        ("1774", 35, 1),
        (" 1774", 33, 0),  # as stated, white space and all
        (" 1774", 34, 1),
        ("gas.  It", 12, 0),
        ("gas. It", 12, 1),
    ],
)
def test_what_counts_as_repaired(read, text, start, repaired):
    assert read(squad(question(answers=[(text, start)]))).counts.repaired == repaired


def test_a_question_whose_answers_were_all_dropped_is_not_impossible(read):
    file = read(squad(question(answers=[("argon", 0)], is_impossible=False)))
    (example,) = file.examples
    assert example.is_unlocated and not example.is_impossible
    assert example.gold_texts == ("argon",) and example.answers == ()
    assert (file.counts.unlocated, file.counts.impossible) == (1, 0)


def test_offsets_are_characters(read):
    file = read(squad(question(answers=[("Zürich", 5)]), context="🏔🏔 a Zürich"))
    assert file.examples[0].answers == (Answer("Zürich", 5),)


def without(name):
    changed = question()
    del changed[name]
    return squad(changed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "squad.json is empty"),
        (" \n", "squad.json is empty"),
        ("{", "contains invalid JSON .*one object"),
        ('{"id": 1}\n{"id": 2}\n', "several JSON objects, perhaps one per line; .*one object"),
        ("id,question\n1,why?", "contains invalid JSON"),
        ("[" * 100_000, "contains invalid JSON"),
        ('{"data": ' + "9" * 5000 + "}", "contains invalid JSON"),
        ("[]", "squad.json is a list, not an object; a SQuAD file is one object"),
        ({"rows": []}, "squad.json: the field 'data' is missing"),
        ({"data": {}}, "squad.json: data is an object, not a list"),
        ({"data": []}, "contains no question"),
        (squad(), "contains no question"),
        ({"data": ["text"]}, 'squad.json, article 1 is "text", not an object'),
        ({"data": [{"paragraphs": []}, {}]}, "article 2: the field 'paragraphs' is missing"),
        (squad(question(), context=""), "article 1, paragraph 1: context is empty"),
        (squad(question(), title=3), "article 1: title is 3, not a text"),
        (without("id"), "article 1, paragraph 1, question 1: the field 'id' is missing"),
        (without("question"), "question 1: the field 'question' is missing"),
        (without("answers"), "question 1: the field 'answers' is missing"),
        (squad(question(text=" \t")), "question 1: question is empty"),
        (squad(question(7)), "question 1: id is 7, not a text"),
        (squad(question(), question("q2"), question("q1")),
         "question 3: the id 'q1' is also that of .*question 1; every"),
        (squad(question(answers=[("", 0)])), "question 1, answer 1: text is empty"),
        (squad(question(answers=[("gas", 12), ("gas", "12")])),
         'question 1, answer 2: answer_start is "12", not an integer'),
        (squad(question(answers=[("gas", True)])), "answer_start is true, not an integer"),
        (squad(question(answers=[("gas", 12.0)])), "answer_start is 12.0, not an integer"),
        (squad(question(is_impossible=True)), r"\('q1'\): is_impossible is true, but .* 1 answers"),
        (squad(question(answers=[], is_impossible=False)), "is_impossible is false, but .* 0 ans"),
        (squad(question(is_impossible="no")), 'is_impossible is "no", not true or false'),
        (squad(question(text="\ud800?")), "question contains a lone surrogate"),
    ],
)  # fmt: skip
def test_what_is_no_squad_file_is_named(read, content, message):
    with pytest.raises(ValueError, match=message):
        read(content)


def test_a_malformed_plausible_answer_is_named_when_it_is_read(read):
    content = squad(question(answers=[], plausible_answers=[{"text": "1771"}]))
    assert read(content).counts.plausible == 0
    with pytest.raises(ValueError, match="plausible answer 1: the field 'answer_start' is missing"):
        read(content, plausible_answers=True)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing.json cannot be read: No such file"):
        read_squad(tmp_path / "nothing.json")
    path = tmp_path / "latin.json"
    path.write_bytes(b'{\n"data": "perch\xe9"}')
    with pytest.raises(ValueError, match="latin.json, line 2 is not UTF-8"):
        read_squad(path)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "squad.json"
    path.write_text("\ufeff" + json.dumps(squad(question())), encoding="utf-8")
    assert len(read_squad(path).examples) == 1


@pytest.mark.skipif(not SQUAD.exists(), reason=f"needs {SQUAD}")
@pytest.mark.parametrize(
    ("name", "articles", "paragraphs", "questions", "impossible", "answers"),
    [
        ("dev-v1.1", 48, 2067, 10_570, 0, 34_726),
        ("dev-v2.0", 35, 1204, 11_873, 5945, 20_302),
        ("train-v1.1-subset", 17, 773, 3939, 0, 3939),
    ],
)
def test_the_real_files(name, articles, paragraphs, questions, impossible, answers):
    file = read_squad(SQUAD / f"{name}.json")
    counts = file.counts
    assert (counts.articles, counts.paragraphs, counts.questions) == (
        articles, paragraphs, questions,
    )  # fmt: skip
    assert len(file.examples) == questions
    assert (counts.impossible, counts.answers) == (impossible, answers)
    assert (counts.repaired, counts.dropped, counts.unlocated) == (0, 0, 0)
    for example in file.examples:
        for answer in example.answers:
            assert example.context[answer.start : answer.end] == answer.text

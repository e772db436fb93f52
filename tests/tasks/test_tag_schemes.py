"""Tag schemes: which one it is, every transition, and entities that survive a round trip."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.tasks.tag_schemes import PREFIXES, Entity, TagScheme

IOB = TagScheme(["B-x", "I-x"])


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ("O B-x I-x B-y I-y", "IOB"),
        ("O I-x I-y", "IOB"),
        ("O B-x", "IOB"),
        ("B-x I-x E-x S-x O", "IOBES"),
        ("O B-x I-x S-y", "IOBES"),
        ("O B-x I-x E-x", "IOBES"),
        ("O U-x B-x I-x L-x", "BILOU"),
        ("O B-x L-x", "BILOU"),
        ("O I-x E-x", "IOBES"),
        ("B-x M-x E-x S-x", "BMES"),
        ("O x y", "IO"),
        ("ADJ ADP NOUN X O B I", "IO"),
        # A letter and a hyphen alone are no prefix.
        ("O E-mail S-Bahn phone", "IO"),
        ("O B- I-", "IO"),
        ("T-shirt x-ray", "IO"),
        ("O B-x I-x T-shirt X [CLS]", "IOB"),
        # No scheme has all of these.
        ("O B-x I-x E-x U-x", "IO"),
        ("O B-x I-x M-x", "IO"),
        ("O", "IO"),
        ("", "IO"),
    ],
)
def test_the_scheme_of_labels(labels, name):
    scheme = TagScheme(labels.split())
    assert (scheme.name, scheme.prefixes) == (name, PREFIXES[name])


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        # After O, or at the beginning, every tag but O begins an entity.
        ([], []),
        (["O", "O"], []),
        (["B-x"], [("x", 0, 1)]),
        (["I-x"], [("x", 0, 1)]),
        (["O", "B-x"], [("x", 1, 2)]),
        (["O", "I-x"], [("x", 1, 2)]),
        # After B-.
        (["B-x", "O"], [("x", 0, 1)]),
        (["B-x", "I-x"], [("x", 0, 2)]),
        (["B-x", "B-x"], [("x", 0, 1), ("x", 1, 2)]),
        (["B-x", "B-y"], [("x", 0, 1), ("y", 1, 2)]),
        (["B-x", "I-y"], [("x", 0, 1), ("y", 1, 2)]),
        # After I-.
        (["B-x", "I-x", "O"], [("x", 0, 2)]),
        (["B-x", "I-x", "I-x"], [("x", 0, 3)]),
        (["I-x", "I-x"], [("x", 0, 2)]),
        (["I-x", "B-x"], [("x", 0, 1), ("x", 1, 2)]),
        (["I-x", "B-y"], [("x", 0, 1), ("y", 1, 2)]),
        (["I-x", "I-y", "I-x"], [("x", 0, 1), ("y", 1, 2), ("x", 2, 3)]),
        # O separates entities, and a type may contain a hyphen or be called O.
        (["B-x", "O", "I-x"], [("x", 0, 1), ("x", 2, 3)]),
        (["B-a-b", "I-a-b", "I-a"], [("a-b", 0, 2), ("a", 2, 3)]),
        (["B-O", "I-O", "O", "I-O"], [("O", 0, 2), ("O", 3, 4)]),
        # A label without a prefix continues an entity of its type.
        (["B-x", "x", "X", "X"], [("x", 0, 2), ("X", 2, 4)]),
    ],
)
def test_every_transition_of_iob(tags, expected):
    assert IOB.find_entities(tags) == [Entity(*entity) for entity in expected]


# For each pair of roles (first, inside, last, only) whether the second begins an entity of the same
# type: the table of seqeval's default mode and of conlleval.
BEGINS = {"F": "F O", "I": "F O", "L": "F I L O", "O": "F I L O"}


@pytest.mark.parametrize("prefixes", ["BIES", "BILU", "BMES"])
def test_every_transition_of_schemes_with_ends(prefixes):
    role = dict(zip(prefixes, "FILO", strict=True))
    scheme = TagScheme([f"{prefix}-x" for prefix in prefixes])
    for before, prefix in product(prefixes, prefixes):
        begins = role[prefix] in BEGINS[role[before]].split()
        expected = [Entity("x", 0, 1), Entity("x", 1, 2)] if begins else [Entity("x", 0, 2)]
        assert scheme.find_entities([f"{before}-x", f"{prefix}-x"]) == expected
        two = [Entity("x", 0, 1), Entity("y", 1, 2)]
        assert scheme.find_entities([f"{before}-x", f"{prefix}-y"]) == two
        assert scheme.find_entities(["O", f"{prefix}-x", "O"]) == [Entity("x", 1, 2)]


def tag(entities: list[Entity], length: int, scheme: str) -> list[str]:
    """The tags of entities; IO cannot tell adjacent entities of a type apart."""
    tags = ["O"] * length
    for number, (name, start, end) in enumerate((e.type, e.start, e.end) for e in entities):
        size = end - start
        if scheme == "IO":
            tags[start:end] = [name] * size
            continue
        if scheme == "IOB1":
            before = entities[number - 1] if number else Entity("", -1, -1)
            first = "B" if (before.type, before.end) == (name, start) else "I"
            inside, last, only = "I", "I", first
        else:
            first, inside, last, only = {
                "IOB": "BIIB", "IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES"
            }[scheme]  # fmt: skip
        letters = [only] if size == 1 else [first, *[inside] * (size - 2), last]
        tags[start:end] = [f"{letter}-{name}" for letter in letters]
    return tags


drawn_entities = st.lists(  # O before it, its length, its type
    st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["x", "y-z", "O"])), max_size=6
)


@given(drawn_entities, st.sampled_from(["IOB1", *PREFIXES]))
def test_entities_survive_every_scheme(drawn, scheme):
    entities, end = [], 0
    for gap, length, name in drawn:
        if scheme == "IO":  # which has no type of this name, and joins adjacent entities
            gap, name = gap + 1, name.replace("O", "z")
        entities.append(Entity(name, end + gap, end + gap + length))
        end += gap + length
    known = scheme.replace("1", "")
    every_prefix = [f"{p}-{t}" for p in PREFIXES[known] for t in ("x", "y-z", "O")]
    reader = TagScheme(every_prefix or ["x", "y-z", "z"])
    assert reader.name == known
    assert reader.find_entities(tag(entities, end + 1, scheme)) == entities


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
            whole = tags[start] != "O" and all(tag == f"I-{name}" for tag in inside[1:])
            begins = tags[start] == f"B-{name}" or before not in ([f"B-{name}"], [f"I-{name}"])
            if whole and begins and after != [f"I-{name}"]:
                found.add((name, start, end))
    return found


@given(st.lists(st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"]), max_size=9))
def test_entities_are_the_spans_of_the_definition(tags):
    entities = IOB.find_entities(tags)
    assert {(e.type, e.start, e.end) for e in entities} == brute_force(tags)
    assert len(entities) == len(brute_force(tags))
    assert entities == sorted(entities, key=lambda entity: entity.start)

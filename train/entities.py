"""Entities of tagged sentences, and how many of them a tagger finds, as seqeval counts them.

An entity is right where type, first and last word all agree with the gold. Read leniently, as
seqeval does unless it is told otherwise and conlleval (Tjong Kim Sang and De Meulder 2003) before
it: an I- tag that nothing of its type comes before begins an entity, as B- would.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entity:
    """Words [start, end) of a sentence, and what they name."""

    type: str
    start: int
    end: int


def begins_entity(tag: str, tag_before: str) -> bool:
    """Whether an entity begins at a word, given its tag and that of the word before it."""
    prefix, _, entity_type = tag.partition("-")
    if prefix == "O":
        return False
    return prefix == "B" or entity_type != tag_before.partition("-")[2]


def find_entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, in their order.

    An entity goes from where it begins to before the next `O`, or to where another begins.

    Args:
        tags: `O`, `B-type` or `I-type` for each word.
    """
    pairs = list(zip(tags, ["O", *tags], strict=False))
    begins = [begins_entity(tag, tag_before) for tag, tag_before in pairs]
    stops = [tag == "O" or begin for tag, begin in zip(tags, begins, strict=True)] + [True]
    return [
        Entity(tag.partition("-")[2], start, stops.index(True, start + 1))
        for start, (tag, begin) in enumerate(zip(tags, begins, strict=True))
        if begin
    ]


@dataclass(frozen=True, slots=True)
class Score:
    """How many entities there are, were predicted, and were predicted rightly.

    Attributes:
        gold: how many there are: the support.
        predicted: how many were predicted.
        correct: how many of the predicted ones are right.
    """

    gold: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float:
        """The share of the predicted that are right; 0 where nothing was predicted."""
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """The share of the gold that were found; 0 where there is none."""
        return self.correct / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 0 where both are."""
        return 2 * self.correct / (self.gold + self.predicted) if self.correct else 0.0


@dataclass(frozen=True)
class EntityScores:
    """The scores of a file: of each type, in alphabetical order, and of all entities together.

    Attributes:
        micro: of all entities, whatever their type; seqeval's default average.
        by_type: of every type that is gold or was predicted.
    """

    micro: Score
    by_type: dict[str, Score]

    def table(self) -> str:
        """Precision, recall and F1 in percent, and the number of gold entities."""
        rows = [*self.by_type.items(), ("all", self.micro)]
        width = max(len(name) for name, _ in rows)
        lines = [f"{'':{width}}  precision  recall     F1  entities"]
        for name, score in rows:
            lines.append(
                f"{name:{width}}  {score.precision:9.2%} {score.recall:7.2%} {score.f1:6.2%} "
                f"{score.gold:9,}"
            )
        return "\n".join(lines)


def score_entities(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> EntityScores:
    """Score the predicted tags of some sentences against their gold tags.

    Args:
        gold: for each sentence a tag for each word.
        predicted: as many of both.

    Raises:
        ValueError: the numbers of sentences, or of the words of one, differ.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold sentences, but {len(predicted)} predicted ones")
    true: set[tuple[int, Entity]] = set()
    found: set[tuple[int, Entity]] = set()
    for number, (right, guess) in enumerate(zip(gold, predicted, strict=True)):
        if len(right) != len(guess):
            raise ValueError(
                f"sentence {number} has {len(right)} gold tags, but {len(guess)} predicted ones"
            )
        true |= {(number, entity) for entity in find_entities(right)}
        found |= {(number, entity) for entity in find_entities(guess)}
    types = sorted({entity.type for _, entity in true | found})
    return EntityScores(
        micro=_score(true, found), by_type={name: _score(true, found, name) for name in types}
    )


def _score(
    true: set[tuple[int, Entity]], found: set[tuple[int, Entity]], entity_type: str | None = None
) -> Score:
    def count(entities: set[tuple[int, Entity]]) -> int:
        return sum(entity_type in (None, entity.type) for _, entity in entities)

    return Score(gold=count(true), predicted=count(found), correct=count(true & found))

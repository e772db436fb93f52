"""Precision, recall and F1 of the entities in tagged sentences, as seqeval computes them.

An entity is correct if its type, its first word and its last word are. How tags are read, correct
or not, is said in :mod:`minitransformer.tasks.tag_schemes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from minitransformer.tasks.tag_schemes import Entity, TagScheme


@dataclass(frozen=True, slots=True)
class Score:
    """The numbers of gold entities, of predicted ones, and of correct predictions.

    Attributes:
        gold: the number of entities there are (the support).
        predicted: the number that were predicted.
        correct: the number of predicted entities that are correct.
    """

    gold: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float:
        """The fraction of the predicted entities that are correct; 0 if there are none."""
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """The fraction of the gold entities that were found; 0 if there are none."""
        return self.correct / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 0 if both are 0."""
        return 2 * self.correct / (self.gold + self.predicted) if self.correct else 0.0


@dataclass(frozen=True)
class EntityScores:
    """The scores for all entities together, and for each type, in alphabetical order.

    Attributes:
        micro: for entities of all types; seqeval's default average.
        by_type: for every type that is gold or was predicted.
    """

    micro: Score
    by_type: dict[str, Score]

    def table(self) -> str:
        """A table of precision, recall and F1 in percent, and the number of gold entities."""
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
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: TagScheme
) -> EntityScores:
    """Compare the predicted tags of sentences with their gold tags.

    Args:
        gold: for each sentence, a tag for each word.
        predicted: for the same sentences and words.
        scheme: of the tags.

    Raises:
        ValueError: the numbers of sentences, or of tags in a sentence, differ.
    """
    if len(gold) != len(predicted):
        raise ValueError(
            f"there are {len(gold)} gold sentences, but {len(predicted)} predicted ones"
        )
    true: set[tuple[int, Entity]] = set()
    found: set[tuple[int, Entity]] = set()
    for number, (true_tags, tags) in enumerate(zip(gold, predicted, strict=True)):
        if len(true_tags) != len(tags):
            raise ValueError(
                f"sentence {number} has {len(true_tags)} gold tags, but {len(tags)} predicted"
            )
        true |= {(number, entity) for entity in scheme.find_entities(true_tags)}
        found |= {(number, entity) for entity in scheme.find_entities(tags)}
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

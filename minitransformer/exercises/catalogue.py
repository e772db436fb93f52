"""The exercises in the order of a course."""

from minitransformer.exercises.attention import (
    SCALED_DOT_PRODUCT_ATTENTION,
    SOFTMAX,
)
from minitransformer.exercises.exercise import Exercise
from minitransformer.names import unexpected_name

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for exercise in (
        SOFTMAX,
        SCALED_DOT_PRODUCT_ATTENTION,
    )
}


def find(name: str) -> Exercise:
    """The exercise of that name, with hyphens or as Python writes it.

    Raises:
        ValueError: there is none; the message has the nearest name.
    """
    for exercise in EXERCISES.values():
        if name in (exercise.name, exercise.name.replace("-", "_"), exercise.target):
            return exercise
    raise ValueError(unexpected_name("exercise", name, [*EXERCISES]))

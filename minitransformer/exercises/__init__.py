"""Exercises: parts of a transformer to write, checked against the reference, mistakes named.

A solution runs in a process of its own, which protects from accidents, not from malice.
"""

from minitransformer.exercises.catalogue import EXERCISES, exercises_in, find, start
from minitransformer.exercises.checking import Report, check
from minitransformer.exercises.exercise import Exercise, Mistake
from minitransformer.exercises.runner import Case

__all__ = [
    "EXERCISES",
    "Case",
    "Exercise",
    "Mistake",
    "Report",
    "check",
    "exercises_in",
    "find",
    "start",
]

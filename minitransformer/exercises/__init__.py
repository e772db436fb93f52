"""Exercises: parts of a transformer to write, checked against the reference, mistakes named."""

from minitransformer.exercises.catalogue import EXERCISES, find
from minitransformer.exercises.checking import Report, check
from minitransformer.exercises.exercise import Exercise, Mistake
from minitransformer.exercises.runner import Case

__all__ = ["EXERCISES", "Case", "Exercise", "Mistake", "Report", "check", "find"]

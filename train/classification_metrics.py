"""The metrics of classification and regression, as scikit-learn and scipy define them.

N texts, C classes. True and predicted classes are given as (N, C) bool arrays, with one True in
each row where a text has one class; so a class is scored alike whether or not it excludes others.
"""

from collections.abc import Sequence

import numpy as np

from train.entities import Score


def one_hot(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """(N, C) bool from (N,) class ids."""
    return np.eye(num_classes, dtype=bool)[classes]


def class_scores(true: np.ndarray, predicted: np.ndarray) -> list[Score]:
    """The precision, recall and F1 of each of the C classes."""
    columns = zip(true.sum(0), predicted.sum(0), (true & predicted).sum(0), strict=True)
    return [Score(int(gold), int(found), int(correct)) for gold, found, correct in columns]


def averages(scores: Sequence[Score]) -> dict[str, float]:
    """Precision, recall and F1, averaged over classes (macro) and over decisions (micro).

    The macro average gives every class the same weight. The micro average counts the decisions of
    all classes together; if every text has one class, it is the accuracy.
    """
    total = Score(
        gold=sum(score.gold for score in scores),
        predicted=sum(score.predicted for score in scores),
        correct=sum(score.correct for score in scores),
    )
    return {
        "precision": _mean([score.precision for score in scores]),
        "recall": _mean([score.recall for score in scores]),
        "f1": _mean([score.f1 for score in scores]),
        "precision_micro": total.precision,
        "recall_micro": total.recall,
        "f1_micro": total.f1,
    }


def subset_accuracy(true: np.ndarray, predicted: np.ndarray) -> float:
    """The fraction of texts all of whose C decisions are correct; with one class each, accuracy."""
    return float((true == predicted).all(axis=1).mean())


def confusion_matrix(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(C, C) int: how many texts of class i (row) were predicted to be of class j (column)."""
    return true.T.astype(np.int64) @ predicted.astype(np.int64)


def matthews_correlation(matrix: np.ndarray) -> float:
    """Matthews' correlation of true and predicted classes, from their confusion matrix.

    1 is perfect; 0 is no better than chance, or all predictions are of one class. For more than two
    classes this is the R_K of Gorodkin (2004).
    """
    total, correct = int(matrix.sum()), int(np.trace(matrix))
    true, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    spread = (total**2 - int(true @ true)) * (total**2 - int(predicted @ predicted))
    return float((correct * total - int(true @ predicted)) / spread**0.5) if spread else 0.0


def pearson_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """The linear correlation of two (N,) arrays; 0 if one of them is constant."""
    x, y = x - x.mean(), y - y.mean()
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / spread if spread else 0.0


def spearman_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """The correlation of the ranks of two (N,) arrays."""
    return pearson_correlation(ranks(x), ranks(y))


def ranks(values: np.ndarray) -> np.ndarray:
    """(N,) the rank of each value, from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))

"""What a classifier predicts: one class a text, several labels, or a number.

Each of the three classes below says what the head of the model is, how labels become tensors, what
the logits mean, and how they are scored and drawn.

N texts, C classes.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from minitransformer.names import cut, listed, shortened
from train.classification_metrics import (
    averages,
    class_scores,
    confusion_matrix,
    matthews_correlation,
    one_hot,
    pearson_correlation,
    spearman_correlation,
    subset_accuracy,
)
from train.classification_pictures import draw_confusion, draw_label_scores, draw_numbers
from train.entities import Score
from train.labelled_text import (
    LABEL_NAMES,
    SEPARATORS,
    TEXT_NAMES,
    LabelledText,
    class_name,
    number,
    several_names,
)

Metrics = dict[str, float]
_INTEGER = r"[+-]?[0-9]+"
_TABLE_CLASSES = 50  # that are printed; report.json has all


class Problem(Protocol):
    """What the job needs of each of the three.

    Attributes:
        problem_type: the field of the model's config.
        classes: the names of the C classes, in the order of their ids.
        picture: the name of the file that `draw` writes.
        read_label: converts the label of a text, as the file has it.
    """

    problem_type: ClassVar[str]
    picture: ClassVar[str]
    read_label: ClassVar[Callable[[Any], Any]]
    classes: list[str]

    def summary(self, examples: Sequence[LabelledText]) -> str:
        """What the training texts contain, in a line."""

    def targets(self, examples: Sequence[LabelledText], path: str | Path) -> list[Any]:
        """The label of each text as the model takes it; `path` is for errors."""

    def metrics(self, logits: Tensor, targets: Tensor) -> Metrics:
        """The metrics of (N, C) logits."""

    def details(self, logits: Tensor, targets: Tensor) -> dict[str, Any]:
        """What the report has besides the metrics, such as the scores of each class."""

    def baseline(self, train_targets: list[Any], targets: Tensor) -> Metrics:
        """Metrics of the best constant answer, which the training texts determine."""

    def label(self, target: Any) -> Any:
        """The name or names of one of the targets, or the number."""

    def answers(self, logits: Tensor) -> list[dict[str, Any]]:
        """For each text what is predicted, and the scores of the classes."""

    def draw(self, logits: Tensor, targets: Tensor, picture: Path) -> None:
        """Draw the errors."""


class SingleLabel:
    """Each text is of one class.

    Args:
        classes: their names, in the order of their ids. A label is a name or, if no name is an
            integer, an id.
    """

    problem_type: ClassVar[str] = "single_label_classification"
    picture: ClassVar[str] = "confusion.png"
    read_label: ClassVar[Callable[[Any], Any]] = staticmethod(class_name)

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)

    def summary(self, examples: Sequence[LabelledText]) -> str:
        """The number of texts of each class."""
        counts = Counter(self.targets(examples, "the training file"))
        sizes = [f"{name} ({counts[index]:,})" for index, name in enumerate(self.classes)]
        return f"{len(self.classes)} classes, with their number of texts: {listed(sizes)}"

    def targets(self, examples: Sequence[LabelledText], path: str | Path) -> list[int]:
        """N class ids.

        Raises:
            ValueError: a text has another class. The message names its line.
        """
        ids = _ids(self.classes)
        for example in examples:
            if example.label not in ids:
                raise _unknown_label(example, example.label, self.classes, path)
        return [ids[example.label] for example in examples]

    def metrics(self, logits: Tensor, targets: Tensor) -> Metrics:
        """Accuracy, macro and micro precision, recall and F1, and Matthews' correlation.

        As in scikit-learn, the macro average is over the classes that are true or predicted.
        """
        true, predicted = self._one_hot(logits, targets)
        scores = [s for s in class_scores(true, predicted) if s.gold or s.predicted]
        return {
            "accuracy": subset_accuracy(true, predicted),
            **averages(scores),
            "matthews": matthews_correlation(confusion_matrix(true, predicted)),
        }

    def details(self, logits: Tensor, targets: Tensor) -> dict[str, Any]:
        """The scores of each class, and the confusion matrix: a row for each true class."""
        true, predicted = self._one_hot(logits, targets)
        return {
            "by_class": by_class(self.classes, class_scores(true, predicted)),
            "confusion": confusion_matrix(true, predicted).tolist(),
        }

    def baseline(self, train_targets: list[int], targets: Tensor) -> Metrics:
        """The accuracy of always answering the most frequent class."""
        frequent = Counter(train_targets).most_common(1)[0][0]
        return {"accuracy": float((targets == frequent).float().mean())}

    def label(self, target: int) -> str:
        """The name of the class."""
        return self.classes[target]

    def answers(self, logits: Tensor) -> list[dict[str, Any]]:
        """The likeliest class, and the probability of each."""
        return [
            {"predicted": self.classes[best], "scores": dict(zip(self.classes, row, strict=True))}
            for best, row in zip(
                logits.argmax(1).tolist(), _rounded(logits.softmax(1)), strict=True
            )
        ]

    def draw(self, logits: Tensor, targets: Tensor, picture: Path) -> None:
        """Draw the confusion matrix."""
        matrix = confusion_matrix(*self._one_hot(logits, targets))
        draw_confusion(matrix, self.classes, picture)

    def _one_hot(self, logits: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
        count = len(self.classes)
        return one_hot(targets.numpy(), count), one_hot(logits.argmax(dim=1).numpy(), count)


class MultiLabel:
    """Each text has any number of labels; each is predicted if its probability is 0.5 or more.

    Args:
        classes: the names of the labels, in the order of their ids. A text's labels are given by
            name or, if no name is an integer, by id.
    """

    problem_type: ClassVar[str] = "multi_label_classification"
    picture: ClassVar[str] = "labels.png"
    read_label: ClassVar[Callable[[Any], Any]] = staticmethod(several_names)

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)

    def summary(self, examples: Sequence[LabelledText]) -> str:
        """The number of texts with each label."""
        counts = torch.stack(self.targets(examples, "the training file")).sum(dim=0).tolist()
        sizes = [f"{n} ({int(count):,})" for n, count in zip(self.classes, counts, strict=True)]
        none = sum(not example.label for example in examples)
        return (
            f"{len(self.classes)} labels, with their number of texts: {listed(sizes)}; "
            f"{none:,} texts have none"
        )

    def targets(self, examples: Sequence[LabelledText], path: str | Path) -> list[Tensor]:
        """N times (C,) float32, 1 for each label of the text.

        Raises:
            ValueError: a text has a label that is no class. The message names its line.
        """
        ids = _ids(self.classes)
        rows = torch.zeros(len(examples), len(self.classes))
        for row, example in zip(rows, examples, strict=True):
            for name in example.label:
                if name not in ids:
                    raise _unknown_label(example, name, self.classes, path)
                row[ids[name]] = 1
        return list(rows)

    def metrics(self, logits: Tensor, targets: Tensor) -> Metrics:
        """Macro and micro precision, recall and F1, and the accuracy.

        The accuracy is that of subsets: the fraction of texts whose labels are all correct.
        """
        true, predicted = targets.numpy() > 0.5, logits.numpy() >= 0
        return {
            "accuracy": subset_accuracy(true, predicted),
            **averages(class_scores(true, predicted)),
        }

    def details(self, logits: Tensor, targets: Tensor) -> dict[str, Any]:
        """The scores of each label."""
        return {"by_class": by_class(self.classes, self._scores(logits, targets))}

    def baseline(self, train_targets: list[Tensor], targets: Tensor) -> Metrics:
        """The accuracy of always answering the most frequent set of labels."""
        sets = Counter(tuple(row.tolist()) for row in train_targets)
        frequent = torch.tensor(sets.most_common(1)[0][0])
        return {"accuracy": float((targets == frequent).all(dim=1).float().mean())}

    def label(self, target: Tensor) -> list[str]:
        """The names of the labels."""
        return [name for name, value in zip(self.classes, target, strict=True) if value]

    def answers(self, logits: Tensor) -> list[dict[str, Any]]:
        """The labels whose probability is 0.5 or more, and the probability of each."""
        rows = zip(logits.tolist(), _rounded(logits.sigmoid()), strict=True)
        return [
            {
                "predicted": [n for n, x in zip(self.classes, row, strict=True) if x >= 0],
                "scores": dict(zip(self.classes, scores, strict=True)),
            }
            for row, scores in rows
        ]

    def draw(self, logits: Tensor, targets: Tensor, picture: Path) -> None:
        """Draw the F1 of each label."""
        draw_label_scores(self._scores(logits, targets), self.classes, picture)

    def _scores(self, logits: Tensor, targets: Tensor) -> list[Score]:
        return class_scores(targets.numpy() > 0.5, logits.numpy() >= 0)


class Regression:
    """Each text has a number."""

    problem_type: ClassVar[str] = "regression"
    picture: ClassVar[str] = "numbers.png"
    read_label: ClassVar[Callable[[Any], Any]] = staticmethod(number)

    def __init__(self) -> None:
        self.classes = ["LABEL_0"]  # as transformers calls it

    def summary(self, examples: Sequence[LabelledText]) -> str:
        """The range of the numbers, and their mean."""
        values = [example.label for example in examples]
        mean = sum(values) / len(values)
        return f"numbers from {min(values):g} to {max(values):g}, mean {mean:.3g}"

    def targets(self, examples: Sequence[LabelledText], path: str | Path) -> list[float]:
        """N numbers."""
        return [example.label for example in examples]

    def metrics(self, logits: Tensor, targets: Tensor) -> Metrics:
        """Mean squared and absolute error, and the correlations of Pearson and Spearman."""
        true, predicted = targets.double().numpy(), logits.double().numpy()[:, 0]
        return {
            "mse": float(((true - predicted) ** 2).mean()),
            "mae": float(np.abs(true - predicted).mean()),
            "pearson": pearson_correlation(true, predicted),
            "spearman": spearman_correlation(true, predicted),
        }

    def details(self, logits: Tensor, targets: Tensor) -> dict[str, Any]:
        """Nothing more."""
        return {}

    def baseline(self, train_targets: list[float], targets: Tensor) -> Metrics:
        """The errors of always answering the mean."""
        mean = sum(train_targets) / len(train_targets)
        errors = targets.double() - mean
        return {"mse": float((errors**2).mean()), "mae": float(errors.abs().mean())}

    def label(self, target: float) -> float:
        """The number."""
        return target

    def answers(self, logits: Tensor) -> list[dict[str, Any]]:
        """The number."""
        return [{"predicted": score} for [score] in _rounded(logits)]

    def draw(self, logits: Tensor, targets: Tensor, picture: Path) -> None:
        """Draw the predicted numbers over the true ones."""
        draw_numbers(targets.numpy(), logits.numpy()[:, 0], picture)


# --- The names of classes


def class_names(examples: Sequence[LabelledText], path: str | Path) -> list[str]:
    """The classes of the training texts, sorted as integers if all are integers, else as text.

    The first line is taken for a header if no other line has its label, and that label is the usual
    name of a column or the only one that occurs once.

    Args:
        examples: read from `path`, each with one label or with several.
        path: for the error message.

    Raises:
        ValueError: there is only one class; the labels are in front of the texts, because
            there are more different labels than different texts; a label is in quotes, or several
            in one; or the first line is a header.
    """
    several = isinstance(examples[0].label, tuple)
    if several:
        names = Counter(name for example in examples for name in example.label)
        if not names:
            raise ValueError(f"{path}: no text has a label; training needs at least one")
    else:
        names = Counter(example.label for example in examples)
        _check_classes(examples, names, path)
    if all(re.fullmatch(_INTEGER, name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _check_classes(examples: Sequence[LabelledText], names: Counter[str], path: str | Path) -> None:
    first, texts = examples[0], len({(example.text, example.pair) for example in examples})
    if len(names) < 2:
        raise ValueError(
            f"{path}: every text has the label {shortened(first.label)}; training needs at least "
            "two classes"
        )
    if len(names) > texts:
        raise ValueError(
            f"{path}: the first column looks like the label, because it has {texts:,} different "
            f"values and the last one {len(names):,}; name the columns, by number in a file "
            "without a header: --text-column 2 --label-column 1"
        )
    for example in examples:
        _check_name(example.label, f"{path}, line {example.line_number}")
    only = len(names) > 2 and [*names.values()].count(1) == 1
    usual = {*TEXT_NAMES, *LABEL_NAMES}
    if names[first.label] == 1 and (only or first.label.lower() in usual):
        raise ValueError(
            f"{path}, line {first.line_number}: {shortened(first.text)} with the label "
            f"{shortened(first.label)}, which no other line has, looks like a header; name its "
            f"columns with --text-column and --label-column or, if it is a text, move it below "
            "another one"
        )


def _check_name(name: str, where: str) -> None:
    if name[0] == name[-1] == '"':
        raise ValueError(
            f"{where}: the label {shortened(name)} is in quotes, which would be read as part of "
            "it, and of the texts; save the file without quotes, or name it .csv if it is CSV"
        )
    if re.search(SEPARATORS, name):
        raise ValueError(
            f"{where}: {shortened(name)} looks like several labels; for several labels a text give "
            "--multi-label; if it is one, rename it: no comma, semicolon or vertical bar"
        )


def _ids(classes: Sequence[str]) -> dict[str, int]:
    """The id of each name; an id stands for itself if no name is an integer."""
    ids = {name: index for index, name in enumerate(classes)}
    if not any(re.fullmatch(_INTEGER, name) for name in classes):
        ids |= {str(index): index for index in range(len(classes))}
    return ids


def _unknown_label(
    example: LabelledText, name: str, classes: Sequence[str], path: str | Path
) -> ValueError:
    return ValueError(
        f"{path}, line {example.line_number}: the label {shortened(name)} is not one of the "
        f"classes, which --label-names or the training file define: {listed(classes)}"
    )


# --- Reports


def by_class(names: Sequence[str], scores: Sequence[Score]) -> dict[str, Metrics]:
    """Precision, recall, F1 and the number of texts (the support) of each class."""
    return {
        name: {
            "precision": score.precision,
            "recall": score.recall,
            "f1": score.f1,
            "texts": score.gold,
        }
        for name, score in zip(names, scores, strict=True)
    }


def class_table(scores: dict[str, Metrics]) -> str:
    """A table of :func:`by_class`, in percent."""
    shown = [(cut(name, 40), row) for name, row in scores.items()][:_TABLE_CLASSES]
    width = max(len(name) for name, _ in shown)
    lines = [f"{'':{width}}  precision  recall      F1   texts"]
    for name, row in shown:
        lines.append(
            f"{name:{width}}  {row['precision']:9.2%} {row['recall']:7.2%} {row['f1']:7.2%} "
            f"{row['texts']:7,}"
        )
    if more := len(scores) - len(shown):
        lines.append(f"and {more:,} more, in report.json")
    return "\n".join(lines)


def _rounded(scores: Tensor) -> list[list[float]]:
    return [[round(score, 6) for score in row] for row in scores.tolist()]

"""The metrics of classification and their pictures; the expected numbers are scikit-learn's."""

import numpy as np
import pytest
import torch

from tests.tiny import watch_figures
from train.classification import MultiLabel, Regression, SingleLabel, class_table
from train.classification_metrics import matthews_correlation, one_hot, ranks
from train.classification_pictures import draw_confusion

TRUE = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
PREDICTED = torch.tensor([0, 1, 0, 1, 1, 2, 0, 2, 4, 2])  # class 5 is neither true nor predicted
MARKS = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]]).float()
FOUND = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0], [0, 1, 0]]).float()


def test_one_class_a_text():
    problem = SingleLabel([*"abcdef"])
    logits = torch.nn.functional.one_hot(PREDICTED, 6).float()
    assert problem.metrics(logits, TRUE) == pytest.approx(
        {
            "accuracy": 0.6,
            "precision": 0.4,
            "recall": 0.4333333333,
            "f1": 0.4076190476,
            "precision_micro": 0.6,
            "recall_micro": 0.6,
            "f1_micro": 0.6,
            "matthews": 0.4648348401,
        }
    )
    details = problem.details(logits, TRUE)
    assert details["by_class"]["b"] == pytest.approx(
        {"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "texts": 2}
    )
    assert details["confusion"][2] == [1, 0, 2, 0, 1, 0]  # the texts of class c
    assert (
        class_table(details["by_class"]).splitlines()[2] == "b     66.67% 100.00%  80.00%       2"
    )
    assert problem.baseline([1, 1, 0], TRUE) == pytest.approx({"accuracy": 0.2})


def test_several_labels_a_text():
    problem = MultiLabel([*"abc"])
    logits = FOUND - 0.5
    assert problem.metrics(logits, MARKS) == pytest.approx(
        {
            "accuracy": 0.2,
            "precision": 0.5,
            "recall": 0.5,
            "f1": 0.5,
            "precision_micro": 0.6,
            "recall_micro": 0.6,
            "f1_micro": 0.6,
        }
    )
    assert problem.baseline([MARKS[1], MARKS[2], MARKS[1]], MARKS) == pytest.approx(
        {"accuracy": 0.4}
    )
    assert problem.answers(torch.tensor([[0.0, -0.1, 3.0]]))[0]["predicted"] == ["a", "c"]


def test_numbers():
    targets = torch.tensor([1, 2, 2, 3.5, 5])
    metrics = Regression().metrics(torch.tensor([[2], [1], [4], [4], [9.0]]), targets)
    assert metrics == pytest.approx(
        {"mse": 22.25 / 5, "mae": 8.5 / 5, "pearson": 0.88093546, "spearman": 0.76315789}
    )
    constant = Regression().metrics(torch.ones(5, 1), targets)
    assert constant["pearson"] == constant["spearman"] == 0
    assert ranks(np.array([3, 1, 3, 2])).tolist() == [3.5, 1, 3.5, 2]


def test_matthews_correlation_is_zero_where_all_is_one_class():
    for matrix in ([[3, 0], [2, 0]], [[3, 2], [0, 0]]):
        assert matthews_correlation(np.array(matrix)) == 0
    assert matthews_correlation(np.array([[1, 2], [3, 0]])) == pytest.approx(-(0.5**0.5))
    assert one_hot(np.array([1, 0]), 2).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(("count", "numbers"), [(2, 4), (12, 144), (40, 0)])
def test_a_confusion_matrix_names_every_class(count, numbers, tmp_path, monkeypatch):
    figures = watch_figures(monkeypatch)
    names = [f"class {number}" for number in range(count)]
    draw_confusion(np.ones((count, count), dtype=int), names, tmp_path / "confusion.png")
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert len(axes.texts) == numbers
    assert axes.images[0].get_array()[0, 0] == pytest.approx(1 / count)

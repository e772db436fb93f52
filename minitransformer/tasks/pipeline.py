"""The one entrance to the tasks."""

from pathlib import Path
from typing import Any, Literal, overload

import torch

from minitransformer.names import unexpected_name
from minitransformer.tasks.feature_extraction import FeatureExtraction
from minitransformer.tasks.fill_mask import FillMask
from minitransformer.tasks.question_answering import AnswerQuestions
from minitransformer.tasks.text_classification import TextClassification
from minitransformer.tasks.token_classification import TokenClassifier
from minitransformer.tasks.zero_shot import ZeroShotClassification

TASKS: dict[str, Any] = {
    "feature-extraction": FeatureExtraction,
    "fill-mask": FillMask,
    "question-answering": AnswerQuestions,
    "text-classification": TextClassification,
    "token-classification": TokenClassifier,
    "zero-shot-classification": ZeroShotClassification,
}

Device = str | torch.device


@overload
def pipeline(
    task: Literal["feature-extraction"], path: str | Path, *, device: Device = "cpu"
) -> FeatureExtraction: ...
@overload
def pipeline(
    task: Literal["fill-mask"], path: str | Path, *, device: Device = "cpu"
) -> FillMask: ...
@overload
def pipeline(
    task: Literal["question-answering"], path: str | Path, *, device: Device = "cpu"
) -> AnswerQuestions: ...
@overload
def pipeline(
    task: Literal["text-classification"], path: str | Path, *, device: Device = "cpu"
) -> TextClassification: ...
@overload
def pipeline(
    task: Literal["token-classification"], path: str | Path, *, device: Device = "cpu"
) -> TokenClassifier: ...
@overload
def pipeline(
    task: Literal["zero-shot-classification"], path: str | Path, *, device: Device = "cpu"
) -> ZeroShotClassification: ...
@overload
def pipeline(task: str, path: str | Path, *, device: Device = "cpu") -> Any: ...


def pipeline(task: str, path: str | Path, *, device: Device = "cpu") -> Any:
    """Load the checkpoint and its tokenizer, and give a callable that does the task.

    Example:
        >>> pipeline("fill-mask", "path")("ciao, come <mask>?")

    Args:
        task: "feature-extraction", "fill-mask", "question-answering", "text-classification",
            "token-classification" or "zero-shot-classification"; what the callable takes and gives
            is said by its class.
        path: a directory, or a name on the hub.
        device: to run on.

    Raises:
        ValueError: the task is unknown, or the checkpoint is not made for it.
        CheckpointError: the checkpoint cannot be loaded.
    """
    if task not in TASKS:
        raise ValueError(unexpected_name("task", task, TASKS))
    return TASKS[task].from_pretrained(path, device=device)

"""`pipeline`: load a checkpoint for a task."""

from pathlib import Path
from typing import Any, Literal, overload

import torch

from minitransformer.hf.config import family_of
from minitransformer.models.marian import MarianMTModel
from minitransformer.names import unexpected_name
from minitransformer.tasks.feature_extraction import FeatureExtraction
from minitransformer.tasks.fill_mask import FillMask
from minitransformer.tasks.generation import read_config
from minitransformer.tasks.question_answering import QuestionAnswering
from minitransformer.tasks.text_classification import TextClassification
from minitransformer.tasks.text_generation import TextGeneration
from minitransformer.tasks.text_to_text import Summarization, TextToTextGeneration
from minitransformer.tasks.token_classification import TokenClassification
from minitransformer.tasks.translation import Translation, direction_of
from minitransformer.tasks.zero_shot import ZeroShotClassification

TASKS: dict[str, Any] = {
    "feature-extraction": FeatureExtraction,
    "fill-mask": FillMask,
    "question-answering": QuestionAnswering,
    "summarization": Summarization,
    "text-classification": TextClassification,
    "text-generation": TextGeneration,
    "text2text-generation": TextToTextGeneration,
    "token-classification": TokenClassification,
    "translation": Translation,
    "zero-shot-classification": ZeroShotClassification,
}
# Other names of a task.
ALIASES = {"text2text": "text2text-generation"}

Device = str | torch.device


@overload
def pipeline(
    task: Literal["feature-extraction"],
    path: str | Path,
    *,
    device: Device = "cpu",
    optimize: bool = True,
) -> FeatureExtraction: ...
@overload
def pipeline(
    task: Literal["fill-mask"],
    path: str | Path,
    *,
    device: Device = "cpu",
    optimize: bool = True,
) -> FillMask: ...
@overload
def pipeline(
    task: Literal["question-answering"],
    path: str | Path,
    *,
    device: Device = "cpu",
    optimize: bool = True,
) -> QuestionAnswering: ...
@overload
def pipeline(
    task: Literal["summarization"],
    path: str | Path,
    *,
    device: Device = "cpu",
    optimize: bool = True,
) -> Summarization: ...
@overload
def pipeline(
    task: Literal["text-classification"],
    path: str | Path,
    *,
    device: Device = "cpu",
    optimize: bool = True,
) -> TextClassification: ...
@overload
def pipeline(
    task: Literal["text-generation"],
    path: str | Path,
    *,
    device: Device = "cpu",
    optimize: bool = True,
) -> TextGeneration: ...
@overload
def pipeline(
    task: Literal["text2text-generation", "text2text"],
    path: str | Path,
    *,
    device: Device = "cpu",
    optimize: bool = True,
) -> TextToTextGeneration: ...
@overload
def pipeline(
    task: Literal["token-classification"],
    path: str | Path,
    *,
    device: Device = "cpu",
    optimize: bool = True,
) -> TokenClassification: ...
@overload
def pipeline(
    task: Literal["translation"],
    path: str | Path,
    *,
    device: Device = "cpu",
    optimize: bool = True,
) -> Translation: ...
@overload
def pipeline(
    task: Literal["zero-shot-classification"],
    path: str | Path,
    *,
    device: Device = "cpu",
    optimize: bool = True,
) -> ZeroShotClassification: ...
@overload
def pipeline(
    task: str, path: str | Path, *, device: Device = "cpu", optimize: bool = True
) -> Any: ...


def pipeline(task: str, path: str | Path, *, device: Device = "cpu", optimize: bool = True) -> Any:
    """Load a checkpoint and its tokenizer, and return a callable for the task.

    Example:
        >>> pipeline("fill-mask", "path")("ciao, come <mask>?")

    Args:
        task: "feature-extraction", "fill-mask", "question-answering", "summarization",
            "text-classification", "text-generation", "text2text-generation" (or "text2text"),
            "token-classification", "translation" (or with languages: "translation_en_to_de") or
            "zero-shot-classification". The class of each task documents its arguments and result.
        path: a directory, or a name on the hub.
        device: to run on.
        optimize: whether to apply :func:`minitransformer.optimize`, which computes the same
            numbers faster; False leaves the plain model.

    Raises:
        ValueError: the task is unknown, or the checkpoint's model does not support it.
        CheckpointError: the checkpoint cannot be loaded.
    """
    if (direction := direction_of(task)) is not None:
        source, target = direction
        return Translation.from_pretrained(
            path, device=device, optimize=optimize, src_lang=source, tgt_lang=target
        )
    task = ALIASES.get(task, task)
    if task not in TASKS:
        raise ValueError(unexpected_name("task", task, TASKS))
    return TASKS[task].from_pretrained(path, device=device, optimize=optimize)


def generation_task(path: str | Path) -> str:
    """The task with which the models of a checkpoint's family generate text.

    The class of this very model may not support it; `pipeline` then raises an error.

    Raises:
        CheckpointError: there is no checkpoint, or its family is not supported.
    """
    models = family_of(*read_config(path)).models
    if any(TextGeneration.supports(model) for model in models):
        return TextGeneration.name
    return Translation.name if MarianMTModel in models else TextToTextGeneration.name

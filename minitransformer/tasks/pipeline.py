"""The one entrance to the tasks."""

from pathlib import Path
from typing import Any, Literal, overload

import torch

from minitransformer.hf.config import family_of
from minitransformer.models.generative import CausalLM
from minitransformer.models.marian import MarianMTModel
from minitransformer.names import unexpected_name
from minitransformer.tasks.feature_extraction import FeatureExtraction
from minitransformer.tasks.fill_mask import FillMask
from minitransformer.tasks.question_answering import AnswerQuestions
from minitransformer.tasks.settings import direction_of, read_config
from minitransformer.tasks.text_classification import TextClassification
from minitransformer.tasks.text_generation import TextGeneration
from minitransformer.tasks.text_to_text import Summarization, TextToTextGeneration
from minitransformer.tasks.token_classification import TokenClassifier
from minitransformer.tasks.translation import Translation
from minitransformer.tasks.zero_shot import ZeroShotClassification

TASKS: dict[str, Any] = {
    "feature-extraction": FeatureExtraction,
    "fill-mask": FillMask,
    "question-answering": AnswerQuestions,
    "summarization": Summarization,
    "text-classification": TextClassification,
    "text-generation": TextGeneration,
    "text2text-generation": TextToTextGeneration,
    "token-classification": TokenClassifier,
    "translation": Translation,
    "zero-shot-classification": ZeroShotClassification,
}
# Other words for a task.
ALIASES = {"text2text": "text2text-generation"}

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
    task: Literal["summarization"], path: str | Path, *, device: Device = "cpu"
) -> Summarization: ...
@overload
def pipeline(
    task: Literal["text-classification"], path: str | Path, *, device: Device = "cpu"
) -> TextClassification: ...
@overload
def pipeline(
    task: Literal["text-generation"], path: str | Path, *, device: Device = "cpu"
) -> TextGeneration: ...
@overload
def pipeline(
    task: Literal["text2text-generation", "text2text"], path: str | Path, *, device: Device = "cpu"
) -> TextToTextGeneration: ...
@overload
def pipeline(
    task: Literal["token-classification"], path: str | Path, *, device: Device = "cpu"
) -> TokenClassifier: ...
@overload
def pipeline(
    task: Literal["translation"], path: str | Path, *, device: Device = "cpu"
) -> Translation: ...
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
        task: "feature-extraction", "fill-mask", "question-answering", "summarization",
            "text-classification", "text-generation", "text2text-generation" (or "text2text"),
            "token-classification", "translation" (with its languages: "translation_en_to_de") or
            "zero-shot-classification"; what the callable takes and gives is said by its class.
        path: a directory, or a name on the hub.
        device: to run on.

    Raises:
        ValueError: the task is unknown, or the checkpoint is not made for it.
        CheckpointError: the checkpoint cannot be loaded.
    """
    if (direction := direction_of(task)) is not None:
        source, target = direction
        return Translation.from_pretrained(path, device=device, src_lang=source, tgt_lang=target)
    task = ALIASES.get(task, task)
    if task not in TASKS:
        raise ValueError(unexpected_name("task", task, TASKS))
    return TASKS[task].from_pretrained(path, device=device)


def writing_task(path: str | Path) -> str:
    """The task in which models of a checkpoint's family write.

    Whether this one does, its class decides; `pipeline` says so where it does not.

    Raises:
        CheckpointError: there is no checkpoint, or it is of no family that is built here.
    """
    models = family_of(*read_config(path)).models
    if any(issubclass(model, CausalLM) for model in models):
        return TextGeneration.name
    return Translation.name if MarianMTModel in models else TextToTextGeneration.name

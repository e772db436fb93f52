"""`pipeline`: load a checkpoint for a task."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, overload

import torch

from minitransformer.elsewhere import LOADING, Arguments, without
from minitransformer.fast import optimize as optimize_model
from minitransformer.hf.config import architecture, class_name, family_of
from minitransformer.hub import BUNDLED, resolve_checkpoint
from minitransformer.models.base import Model
from minitransformer.models.config import Config
from minitransformer.models.marian import MarianMTModel
from minitransformer.names import shortened, unexpected_name
from minitransformer.tasks.base import Task, load_tokenizer
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
from minitransformer.tokenization import Tokenizer

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
ALIASES = {
    "ner": "token-classification",
    "sentiment-analysis": "text-classification",
    "text2text": "text2text-generation",
}
# The checkpoints that are used where none is given: the one that comes with the package, or the one
# that transformers takes (4.57 for the tasks that version 5 no longer has; for text-generation too,
# since 5 takes one of another family).
DEFAULT_MODELS = {
    "feature-extraction": "distilbert/distilbert-base-cased",
    "fill-mask": BUNDLED,
    "question-answering": "distilbert/distilbert-base-cased-distilled-squad",
    "summarization": "sshleifer/distilbart-cnn-12-6",
    "text-classification": "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
    "text-generation": "openai-community/gpt2",
    "text2text-generation": "google-t5/t5-base",
    "token-classification": "dbmdz/bert-large-cased-finetuned-conll03-english",
    "translation": "google-t5/t5-base",
    "zero-shot-classification": "facebook/bart-large-mnli",
}
# Where no task is given, it is the first of these that the model supports.
_BY_ARCHITECTURE = (
    *(FillMask, QuestionAnswering, TokenClassification, TextClassification, TextGeneration),
    *(TextToTextGeneration, FeatureExtraction),
)
# The files that a task reads; of one revision, all of them are resolved together.
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.spm")

# What an error suggests beside the arguments of a task.
_OPTIONS = ("batch_size", "config", "device", "dtype", "model", "optimize", "revision", "tokenizer")

# Arguments that transformers alone has.
_IN_HAND = "load the model by its class, and pass it with its tokenizer"
_ELSEWHERE: Arguments = {
    **LOADING,
    "attn_implementation": ((None,), _IN_HAND),
    "framework": (("pt", None), "all models are PyTorch's; leave it out"),
    "model_kwargs": ((None, {}), _IN_HAND),
    "use_fast": ((True, False, None), ""),
}

ModelOrPath = Model | str | Path
TokenizerOrPath = Tokenizer | str | Path
Device = str | int | torch.device


# They tell an editor the class of each task, and with it the arguments and results of its calls.
@overload
def pipeline(
    task: Literal["feature-extraction"], model: ModelOrPath | None = None, **settings: Any
) -> FeatureExtraction: ...
@overload
def pipeline(
    task: Literal["fill-mask"], model: ModelOrPath | None = None, **settings: Any
) -> FillMask: ...
@overload
def pipeline(
    task: Literal["question-answering"], model: ModelOrPath | None = None, **settings: Any
) -> QuestionAnswering: ...
@overload
def pipeline(
    task: Literal["summarization"], model: ModelOrPath | None = None, **settings: Any
) -> Summarization: ...
@overload
def pipeline(
    task: Literal["text-classification", "sentiment-analysis"],
    model: ModelOrPath | None = None,
    **settings: Any,
) -> TextClassification: ...
@overload
def pipeline(
    task: Literal["text-generation"], model: ModelOrPath | None = None, **settings: Any
) -> TextGeneration: ...
@overload
def pipeline(
    task: Literal["text2text-generation", "text2text"],
    model: ModelOrPath | None = None,
    **settings: Any,
) -> TextToTextGeneration: ...
@overload
def pipeline(
    task: Literal["token-classification", "ner"], model: ModelOrPath | None = None, **settings: Any
) -> TokenClassification: ...
@overload
def pipeline(
    task: Literal["translation"], model: ModelOrPath | None = None, **settings: Any
) -> Translation: ...
@overload
def pipeline(
    task: Literal["zero-shot-classification"], model: ModelOrPath | None = None, **settings: Any
) -> ZeroShotClassification: ...
@overload
def pipeline(
    task: str | None = None,
    model: ModelOrPath | None = None,
    tokenizer: TokenizerOrPath | None = None,
    **settings: Any,
) -> Any: ...


def pipeline(
    task: str | None = None,
    model: ModelOrPath | None = None,
    tokenizer: TokenizerOrPath | None = None,
    *,
    config: Config | str | Path | None = None,
    device: Device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    optimize: bool | None = None,
    revision: str | None = None,
    **settings: Any,
) -> Any:
    """Load a checkpoint and its tokenizer, and return a callable for the task.

    Example:
        >>> pipeline("fill-mask")("ciao, come <mask>?")

    Args:
        task: "feature-extraction", "fill-mask", "question-answering", "summarization",
            "text-classification" (or "sentiment-analysis"), "text-generation",
            "text2text-generation" (or "text2text"), "token-classification" (or "ner"),
            "translation" (or with languages: "translation_en_to_de") or
            "zero-shot-classification". The class of each task documents its arguments and result.
            By default the task of the model's class.
        model: a directory, a name on the hub, or a model. Without one, fill-mask takes the small
            checkpoint that comes with the package, and every other task the one that transformers
            takes; a warning names it.
        tokenizer: by default that of the checkpoint; a loaded model needs one.
        config: only the config that the model has; it changes nothing.
        device: to run on: "cuda", "cuda:1", 1 (which is the same), "cpu" or -1. The default is the
            processor; a loaded model stays where it is.
        dtype: of the model, such as `torch.bfloat16` or its name; "auto" is that of the file. By
            default float32; a loaded model has its own.
        batch_size: the maximum number of sequences in a batch.
        optimize: whether to apply :func:`minitransformer.optimize`, which computes the same numbers
            faster. By default a checkpoint is optimized, and a loaded model stays as it is.
        revision: the branch, tag or commit of the model on the hub.
        settings: arguments of every call of the task, such as `top_k=None`; a call may give others.
            `torch_dtype` and `device_map` are other names of `dtype` and `device`; further
            arguments of transformers may be given where their value changes nothing.

    Raises:
        ValueError: the task is unknown or not supported by the model, there is no such device, or
            an argument cannot be followed.
        TypeError: a setting is not an argument of the task, or has a value that only transformers
            follows.
        CheckpointError: the checkpoint cannot be loaded.
    """
    settings = dict(settings)
    dtype = _one_of("dtype", dtype, "torch_dtype", settings)
    device = _one_of("device", device, "device_map", settings)
    place = None if device is None else find_device(device)
    settings = without(settings, _ELSEWHERE)
    named = None if task is None else _named_task(task)
    if model is None:
        model = _default_model(task)
    elif revision is not None and isinstance(model, str):
        model = resolve_checkpoint(model, _FILES, revision)
    task_class, languages = named or (_task_of(model), {})
    defaults = task_class.known_arguments(settings, _OPTIONS)
    of_class: dict[str, Any] = dict(languages)
    if batch_size is not None:
        of_class["batch_size"] = batch_size
    if isinstance(model, str | Path):
        ready = task_class.from_pretrained(
            model,
            tokenizer=tokenizer,
            device=place or "cpu",
            dtype=dtype or torch.float32,
            optimize=optimize is not False,
            **of_class,
        )
    else:
        ready = _of_model(task_class, model, tokenizer, place, dtype, bool(optimize), of_class)
    _check_config(config, ready, model)
    ready.defaults = defaults
    return ready


def _named_task(task: str) -> tuple[Any, dict[str, str]]:
    """The class of a task, and the languages in its name."""
    if not isinstance(task, str):
        raise TypeError(f"the task is {shortened(task)}; it must be a str, such as 'fill-mask'")
    if (direction := direction_of(task)) is not None:
        source, target = direction
        return Translation, {"src_lang": source, "tgt_lang": target}
    name = ALIASES.get(task, task)
    if name not in TASKS:
        raise ValueError(unexpected_name("task", name, [*TASKS, *ALIASES]))
    return TASKS[name], {}


def _default_model(task: str | None) -> str:
    """The checkpoint of a task for which none is given, with a warning that names it."""
    if task is None:
        raise ValueError("pipeline needs a task, such as 'fill-mask', or a model, or both")
    if task == "translation":
        raise ValueError(
            "pipeline('translation') needs a model, or the languages: "
            "pipeline('translation_en_to_de')"
        )
    name = Translation.name if direction_of(task) else ALIASES.get(task, task)
    model = DEFAULT_MODELS[name]
    kind = ", a small one that knows some Italian" if model == BUNDLED else ""
    warnings.warn(f"no model was given for {task}: {model} is used{kind}", stacklevel=3)
    return model


def _task_of(model: ModelOrPath) -> Any:
    """The task of a model's class, or of the class that a config.json names."""
    if isinstance(model, str | Path):
        content, source = read_config(model)
        models = {known.__name__: known for known in family_of(content, source).models}
        name = architecture(content)
        model_class = models.get(name or "")
        where = f"{source} has the architecture {shortened(name)}"
    else:
        _check_model(model)
        model_class = type(model)
        where = f"this is a {class_name(model)}"
    if model_class is not None:
        if issubclass(model_class, MarianMTModel):
            return Translation
        for task in _BY_ARCHITECTURE:
            if task.supports(model_class):
                return task
    raise ValueError(f"{where}, which tells no task; pass one of: {', '.join(TASKS)}")


def _check_model(model: object) -> None:
    if not isinstance(model, Model):
        raise TypeError(
            f"model is a {type(model).__module__}.{type(model).__name__}; it must be a path, a "
            "name on the hub or a model of minitransformer"
        )


def _of_model(
    task_class: Any,
    model: Model,
    tokenizer: TokenizerOrPath | None,
    device: torch.device | None,
    dtype: torch.dtype | str | None,
    optimize: bool,
    of_class: Mapping[str, Any],
) -> Any:
    """A task of a loaded model, which is changed only as the arguments say."""
    _check_model(model)
    if tokenizer is None:
        raise ValueError(
            "a loaded model needs its tokenizer: pipeline(task, model=model, tokenizer=tokenizer)"
        )
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = load_tokenizer(tokenizer, model)
    if dtype not in (None, "auto"):
        raise ValueError("dtype is for loading; convert the loaded model: model.to(dtype)")
    task = task_class(model, tokenizer, **of_class)
    if device is not None:
        model.to(device)
    if optimize:
        optimize_model(task.model)
    return task


def find_device(device: Device) -> torch.device:
    """The device that is meant: -1 is the CPU, other numbers are CUDA devices, "auto" finds one.

    Raises:
        ValueError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text: Any = device
    if type(device) is int:
        text = "cpu" if device == -1 else f"cuda:{device}"
    try:
        found = torch.device(text)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"device={shortened(device)} must be 'cpu', 'cuda', 'cuda:0' or a number: 0 is the "
            "first CUDA device, -1 the CPU"
        ) from error
    count = torch.cuda.device_count() if found.type == "cuda" else 1
    if found.type == "cuda" and (found.index or 0) >= count:
        found_here = (
            f"the number of CUDA devices here is {count}" if count else "no CUDA device here"
        )
        raise ValueError(
            f"device={shortened(device)}: {found_here}; pass device='cpu', or leave it out"
        )
    return found


def _one_of(name: str, value: Any, other: str, settings: dict[str, Any]) -> Any:
    """An argument that may have another name in transformers, which is taken from the settings."""
    given = settings.pop(other, None)
    if given is not None and value is not None:
        raise ValueError(f"{name} and {other} say the same; pass only {name}")
    return value if given is None else given


def _check_config(config: Any, task: Task, model: ModelOrPath) -> None:
    """Refuse a config that is not the model's, which would be ignored otherwise."""
    if config is None or config in (task.model.config, model):
        return
    raise ValueError(
        "config is not that of the model; to change a field, load the model by its class, as in "
        f"{class_name(task.model)}.from_pretrained(path, name=value), and pass it as model"
    )


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

"""generation_config.json to GenerationConfig and back."""

import warnings
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from minitransformer.files import CheckpointError, checkpoint_file, read_json, write_json
from minitransformer.models.generation_config import NOT_BUILT, GenerationConfig
from minitransformer.names import nearest

FILE = "generation_config.json"

FIELDS = tuple(field.name for field in fields(GenerationConfig))

# Fields that change how fast something is computed or what is told of it, not what is written.
WITHOUT_EFFECT = {
    "_commit_hash",
    "_from_model_config",
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "continuous_batching_config",
    "disable_compile",
    "is_assistant",
    "max_cache_len",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "prefill_chunk_size",
    "return_dict_in_generate",
    "speculation_type",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
}

# What a config.json may carry for generation; it is read here, and of no effect on the model.
# `force_bos_token_to_be_generated` is the oldest form of `forced_bos_token_id`.
IN_MODEL_CONFIG = {
    *FIELDS,
    *NOT_BUILT,
    *WITHOUT_EFFECT,
    "force_bos_token_to_be_generated",
    "task_specific_params",
}

# What a config.json says of single tasks, beside what it says of the model. Nothing of it is looked
# at until a task is asked for (minitransformer/tasks/settings.py).
OF_TASKS = ("prefix", "task_specific_params")


def read_generation_config(directory: Path, config_content: dict[str, Any]) -> GenerationConfig:
    """The generation config of a checkpoint.

    Where there is no generation_config.json, it is made of the fields that old config.json files
    carry, as in transformers.

    Args:
        directory: of the checkpoint.
        config_content: of its config.json.

    Raises:
        CheckpointError: a file is broken, or a field is misspelled, has a value without a meaning,
            or one that is not built here.
    """
    if not (directory / FILE).exists():
        path = directory / "config.json"
        content = {name: v for name, v in config_content.items() if name in IN_MODEL_CONFIG}
        if content.pop("force_bos_token_to_be_generated", False):
            content["forced_bos_token_id"] = content.get("bos_token_id")
        content.pop("task_specific_params", None)
    else:
        path = checkpoint_file(directory, FILE)
        content = read_json(path)
    # null is transformers' word for a field that is not set.
    given = {name: value for name, value in content.items() if value is not None}
    check_names(given, path)
    try:
        return GenerationConfig(**{n: value for n, value in given.items() if n in FIELDS})
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def write_generation_config(config: GenerationConfig, directory: Path) -> None:
    """Write generation_config.json, which transformers reads as the same.

    As transformers does, only what differs from the defaults is written.
    """
    values = {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if getattr(config, field.name) != field.default
    }
    write_json(directory / FILE, values)


def task_parameters(config_content: dict[str, Any], task: str) -> dict[str, Any]:
    """What a config.json says of one task: T5's prefixes, for example.

    Args:
        config_content: of a config.json.
        task: such as "summarization" or "translation_en_to_de".

    Returns:
        Names to values, empty where nothing is said.
    """
    every = config_content.get("task_specific_params") or {}
    found = every.get(task) if isinstance(every, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def check_names(given: dict[str, Any], path: Path) -> None:
    """Check names that a file gives: refuse a misspelled one, and one whose effect is not built.

    Raises:
        CheckpointError: there is such a one.
    """
    known = [*FIELDS, *NOT_BUILT]
    for name, value in given.items():
        if name in NOT_BUILT:
            _check_neutral(name, value, NOT_BUILT[name], path)
        elif name not in FIELDS and name not in WITHOUT_EFFECT:
            right = nearest(name, known, cutoff=0.8)
            if right is not None and right not in given:
                raise CheckpointError(f"{path}: unknown field {name!r}: did you mean {right!r}?")
            warnings.warn(f"{path}: the field {name!r} is unknown and ignored", stacklevel=5)


def _check_neutral(name: str, value: Any, neutral: Iterable[Any], path: Path) -> None:
    if value not in neutral:
        raise CheckpointError(
            f"{path}: {name}={value!r} would change what is written and is not built here; "
            "take the field out of the file to do without"
        )

"""How a checkpoint wants to be asked for a task that writes.

config.json may hold `task_specific_params`: for each task, what is put before every text, such as
T5's "summarize: ", and fields of the generation config, such as the number of beams.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minitransformer.files import CheckpointError, checkpoint_file, read_json
from minitransformer.hf.generation_config import FIELDS, check_names, task_parameters
from minitransformer.hub import resolve_checkpoint
from minitransformer.models.generation_config import GenerationConfig
from minitransformer.models.generative import CausalLM, Seq2SeqLM
from minitransformer.tokenizer_loading import optional_json

_FILE = "config.json"
_DIRECTION = re.compile(r"translation_(\w+?)_to_(\w+)")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of one task, or of one direction of translation."""

    config: GenerationConfig  # what holds where a call does not say otherwise
    prefix: str = ""  # what is put before every text


def read_config(path: str | Path) -> tuple[dict[str, Any], Path]:
    """The content of a checkpoint's config.json, and where that is.

    Raises:
        CheckpointError: there is none.
    """
    source = checkpoint_file(resolve_checkpoint(path, (_FILE,)), _FILE)
    return read_json(source), source


def read_settings(path: str | Path, task: str, config: GenerationConfig) -> Settings:
    """What a checkpoint says of a task.

    What is said of the task goes before what is said of all.

    Args:
        path: of the checkpoint, or its name on the hub.
        task: such as "summarization".
        config: the checkpoint's generation config.

    Raises:
        CheckpointError: config.json cannot be read, or a field has no meaning.
    """
    content, source = read_config(path)
    return _settings(content, source, task, config)


def read_directions(path: str | Path, config: GenerationConfig) -> dict[tuple[str, str], Settings]:
    """The directions of translation that config.json names: ("en", "de") to its settings.

    Args:
        path, config: as in :func:`read_settings`.

    Raises:
        CheckpointError: as there.
    """
    content, source = read_config(path)
    tasks = content.get("task_specific_params")
    return {
        direction: _settings(content, source, task, config)
        for task in (tasks if isinstance(tasks, dict) else ())
        if (direction := direction_of(task)) is not None
    }


def stored_languages(path: str | Path) -> tuple[str | None, str | None]:
    """From which language a translator translates, and into which, where its tokenizer says so."""
    directory = resolve_checkpoint(path, (_FILE, "tokenizer_config.json"))
    content = optional_json(directory, "tokenizer_config.json")
    source, target = content.get("source_lang"), content.get("target_lang")
    return (
        source if isinstance(source, str) else None,
        target if isinstance(target, str) else None,
    )


def direction_of(task: str) -> tuple[str, str] | None:
    """("en", "de") of "translation_en_to_de"; None of any other task."""
    found = _DIRECTION.fullmatch(task)
    return None if found is None else (found[1], found[2])


def checked_prefix(prefix: object) -> str:
    """What is put before every text.

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a str, not {type(prefix).__name__}: {prefix!r}")
    return prefix


@contextmanager
def asking(model: CausalLM | Seq2SeqLM, config: GenerationConfig) -> Iterator[None]:
    """Inside the block, `config` is what the checkpoint says; a caller's fields go before it."""
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before


def _settings(
    content: dict[str, Any], source: Path, task: str, config: GenerationConfig
) -> Settings:
    parameters = {
        name: value for name, value in task_parameters(content, task).items() if value is not None
    }
    prefix = parameters.pop("prefix", content.get("prefix") or "")
    if not isinstance(prefix, str):
        raise CheckpointError(f"{source}: the prefix of {task} is no text: {prefix!r:.200}")
    check_names(parameters, source)
    try:
        known = {name: value for name, value in parameters.items() if name in FIELDS}
        return Settings(config=replace(config, **known), prefix=prefix)
    except ValueError as error:
        raise CheckpointError(f"{source}: task_specific_params, {task}: {error}") from error

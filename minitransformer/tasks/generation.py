"""What the tasks that generate text share: their settings in a checkpoint, and the batches.

B sequences of a batch, T their tokens, N new tokens, A answers to each text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minitransformer.files import CheckpointError, checkpoint_file, read_json
from minitransformer.generation import generate
from minitransformer.generation import stream as stream_text
from minitransformer.generation.stopping import has_token
from minitransformer.generation_config import (
    FIELDS,
    GenerationConfig,
    check_field_names,
    check_file_fields,
    resolve,
    task_parameters,
)
from minitransformer.hub import resolve_checkpoint
from minitransformer.models.base import LanguageModel, Model, Seq2SeqLM
from minitransformer.tasks.base import Task, batches_by_length, padding_id
from minitransformer.tokenization import Tokenizer

CONFIG = "config.json"

# The new tokens of each answer to each text.
Answers = list[list[list[int]]]


# ---- the settings of a task ----


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a checkpoint says of one task, or of one direction of translation.

    config.json may hold `task_specific_params`: for each task, what is put before every text, such
    as T5's "summarize: ", and fields of the generation config, such as the number of beams.
    """

    config: GenerationConfig  # the defaults of a call
    prefix: str = ""  # what is put before every text


def read_config(path: str | Path) -> tuple[dict[str, Any], Path]:
    """The content of a checkpoint's config.json, and where that is.

    Raises:
        CheckpointError: there is none.
    """
    source = checkpoint_file(resolve_checkpoint(path, (CONFIG,)), CONFIG)
    return read_json(source), source


def task_settings(
    content: dict[str, Any], source: Path, task: str, config: GenerationConfig
) -> Settings:
    """What a config.json says of a task; that goes before what it says of all tasks.

    Args:
        content, source: of the config.json, as :func:`read_config` gives them.
        task: such as "summarization" or "translation_en_to_de".
        config: the checkpoint's generation config.

    Raises:
        CheckpointError: a field is unknown or has no meaning.
    """
    parameters = {
        name: value for name, value in task_parameters(content, task).items() if value is not None
    }
    prefix = parameters.pop("prefix", content.get("prefix") or "")
    if not isinstance(prefix, str):
        raise CheckpointError(f"{source}: the prefix of {task} is no text: {prefix!r:.200}")
    check_file_fields(parameters, source)
    try:
        known = {name: value for name, value in parameters.items() if name in FIELDS}
        return Settings(config=replace(config, **known), prefix=prefix)
    except ValueError as error:
        raise CheckpointError(f"{source}: task_specific_params, {task}: {error}") from error


def checked_prefix(prefix: object) -> str:
    """What is put before every text.

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a str, not {type(prefix).__name__}: {prefix!r}")
    return prefix


# ---- the tasks ----


class GenerationTask(Task):
    """Base of the tasks whose model generates text.

    Args:
        model: of a class that supports the task.
        tokenizer: its tokenizer.
        batch_size: texts in a batch, at most; with beams, each is as many sequences.

    Attributes:
        settings: what the checkpoint says of the task. A task that is made of a model and a
            tokenizer has the model's generation config, and no prefix.

    Raises:
        ValueError: the model is of another class, or the tokenizer has more tokens than the model
            has embeddings.
    """

    result: ClassVar[str]  # what a text is called in the answers
    model: LanguageModel
    settings: Settings

    def __init__(self, model: Model, tokenizer: Tokenizer, *, batch_size: int = 8) -> None:
        super().__init__(model, tokenizer, batch_size=batch_size)
        self.settings = Settings(config=self.model.generation_config)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str | torch.device = "cpu", optimize: bool = True
    ) -> Self:
        """Load model, tokenizer and the settings of the task from one checkpoint."""
        task = super().from_pretrained(path, device=device, optimize=optimize)
        task.settings = task_settings(*read_config(path), cls.name, task.model.generation_config)
        return task

    def _generate(
        self,
        inputs: Sequence[Sequence[int]],
        config: GenerationConfig,
        seed: int | None,
        fields: dict[str, Any],
    ) -> Answers:
        """What the model generates for each sequence of ids, in their order.

        Args:
            inputs: prompts or sources.
            config: what the checkpoint says.
            seed: of the first batch; the batches after it take the numbers after it.
            fields: what the caller says.
        """
        resolved = resolve(config, None, fields)
        equal = not isinstance(self.model, Seq2SeqLM) and _counts_the_prompt(resolved)
        answers: dict[int, list[list[int]]] = {}
        batches = batches_by_length([len(ids) for ids in inputs], self.batch_size, equal=equal)
        for number, batch in enumerate(batches):
            output = generate(
                self.model,
                *self._padded([inputs[index] for index in batch]),
                defaults=config,
                seed=None if seed is None else seed + number,
                tokenizer=self.tokenizer,
                **fields,
            )
            new = output.new_tokens.unflatten(0, (len(batch), -1)).tolist()  # (B, A, N)
            lengths = output.num_new_tokens.unflatten(0, (len(batch), -1)).tolist()  # (B, A)
            for index, several, counts in zip(batch, new, lengths, strict=True):
                ended = [ids[:count] for ids, count in zip(several, counts, strict=True)]
                # A model may have embeddings without a token, as T5 has 28; they have no text.
                answers[index] = [[i for i in ids if has_token(self.tokenizer, i)] for ids in ended]
        return [answers[index] for index in range(len(inputs))]

    def _stream(
        self,
        ids: Sequence[int],
        config: GenerationConfig,
        seed: int | None,
        fields: dict[str, Any],
    ) -> Iterator[str]:
        """The text that the model generates for one sequence of ids, piece by piece."""
        check_field_names(fields)
        return stream_text(self.model, self.tokenizer, ids, defaults=config, seed=seed, **fields)

    def _padded(self, inputs: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask, (B, T) each, on the model's device, padded on the right."""
        device, pad = next(self.model.parameters()).device, padding_id(self.tokenizer)
        ids = pad_sequence([torch.tensor(one) for one in inputs], True, padding_value=pad)
        mask = pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in inputs], True)
        return ids.to(device), mask.to(device)


def _counts_the_prompt(config: GenerationConfig) -> bool:
    """Whether the number of new tokens depends on that of the prompt.

    Prompts that are computed together count as long as the longest of them. Those of unequal
    length are then computed apart.
    """
    return config.max_new_tokens is None or (
        config.min_new_tokens is None and config.min_length > 0
    )

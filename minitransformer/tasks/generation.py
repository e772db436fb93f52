"""The base of the tasks that generate text: their settings in a checkpoint, and batching.

B sequences of a batch, T their tokens, N new tokens, A answers to each text.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minitransformer.elsewhere import GENERATION
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
from minitransformer.names import shortened
from minitransformer.tasks.base import (
    AnyCall,
    Task,
    batches_by_length,
    evaluation_mode,
    own_arguments,
    padding_id,
)
from minitransformer.tokenization import Tokenizer

CONFIG = "config.json"

# The new tokens of each answer to each text.
Answers = list[list[list[int]]]


# ---- the settings of a task ----


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A checkpoint's settings for one task, or for one direction of translation.

    config.json may contain `task_specific_params`: for each task, a prefix for every text, such as
    T5's "summarize: ", and fields of the generation config, such as the number of beams.
    """

    config: GenerationConfig  # the defaults of a call
    prefix: str = ""  # prepended to every text


def read_config(path: str | Path) -> tuple[dict[str, Any], Path]:
    """The content of a checkpoint's config.json, and its path.

    Raises:
        CheckpointError: there is none.
    """
    source = checkpoint_file(resolve_checkpoint(path, (CONFIG,)), CONFIG)
    return read_json(source), source


def task_settings(model: LanguageModel, task: str) -> Settings:
    """The settings of a task: its own parameters in config.json override the general ones.

    Args:
        model: loaded from the checkpoint.
        task: such as "summarization" or "translation_en_to_de".

    Raises:
        CheckpointError: a field is unknown or invalid.
    """
    content = model.task_specific_params
    source = Path(model.name_or_path or ".") / CONFIG  # named in errors
    parameters = {
        name: value for name, value in task_parameters(content, task).items() if value is not None
    }
    prefix = parameters.pop("prefix", content.get("prefix") or "")
    if not isinstance(prefix, str):
        raise CheckpointError(
            f"{source}: the prefix of {task} must be a string, not {shortened(prefix)}"
        )
    check_file_fields(parameters, source)
    try:
        known = {name: value for name, value in parameters.items() if name in FIELDS}
        return Settings(config=replace(model.generation_config, **known), prefix=prefix)
    except ValueError as error:
        raise CheckpointError(f"{source}: task_specific_params, {task}: {error}") from error


def checked_prefix(prefix: object) -> str:
    """Check that the prefix is a string, and return it.

    Raises:
        TypeError: it is not a string.
    """
    if not isinstance(prefix, str):
        kind = type(prefix).__name__
        raise TypeError(f"prefix must be a str, not {kind}: {shortened(prefix)}")
    return prefix


# ---- the tasks ----

# What errors say of arguments of transformers.
_FIELDS = "pass its fields to the call itself, such as max_new_tokens=20"
_TOKENS = "for tokens, call minitransformer.generate(model, ...)"


def uses_defaults(stream: AnyCall) -> AnyCall:
    """Decorate the `stream` of a task: the arguments given to `pipeline` are its defaults."""

    @functools.wraps(stream)
    def with_defaults(self: "GenerationTask", text: str, **given: Any) -> Iterator[str]:
        of_calls = ("return_full_text", "truncation")
        defaults = {name: v for name, v in self.defaults.items() if name not in of_calls}
        return cast(Iterator[str], stream(self, text, **defaults | self.known_arguments(given)))

    return cast(AnyCall, with_defaults)


class GenerationTask(Task):
    """Base of the tasks whose model generates text.

    Args:
        model: of a class that supports the task.
        tokenizer: the model's tokenizer.
        batch_size: the maximum number of texts in a batch; with beams, a text is several sequences.

    Attributes:
        settings: the model's settings for the task.

    Raises:
        ValueError: the model is of another class, or the tokenizer has more tokens than the model
            has embeddings.
    """

    other_names: ClassVar = {
        **Task.other_names,
        "text_inputs": "texts",
        "stop_sequence": "stop_strings",
    }
    elsewhere: ClassVar = {
        **Task.elsewhere,
        **GENERATION,
        "generation_config": ((None,), _FIELDS),
        "generate_kwargs": ((None,), _FIELDS),
        "clean_up_tokenization_spaces": ((False, None), "edit the text that is returned"),
        "handle_long_generation": ((None,), "shorten the prompt, or lower max_new_tokens"),
        "return_tensors": ((False, None), _TOKENS),
        "return_text": ((True, None), _TOKENS),
    }
    result: ClassVar[str]  # key of the generated text in the answers
    model: LanguageModel
    settings: Settings

    def __init__(self, model: Model, tokenizer: Tokenizer, *, batch_size: int = 8) -> None:
        super().__init__(model, tokenizer, batch_size=batch_size)
        self.settings = task_settings(self.model, self.name)

    @classmethod
    def _check_names(cls, names: Iterable[str], others: Sequence[str]) -> None:
        check_field_names(set(names).difference(own_arguments(cls)))

    def _generate(
        self,
        inputs: Sequence[Sequence[int]],
        config: GenerationConfig,
        seed: int | None,
        fields: dict[str, Any],
    ) -> Answers:
        """Generate from each sequence of ids, in batches, and return the answers in their order.

        Args:
            inputs: prompts or sources.
            config: the defaults, from the checkpoint.
            seed: of the first batch; later batches use seed + 1, seed + 2, and so on.
            fields: set by the caller.
        """
        resolved = resolve(config, None, fields)
        equal = not isinstance(self.model, Seq2SeqLM) and _depends_on_prompt_length(resolved)
        answers: dict[int, list[list[int]]] = {}
        batches = batches_by_length([len(ids) for ids in inputs], self.batch_size, equal=equal)
        for batch in batches:
            with evaluation_mode(self.model):
                output = generate(
                    self.model,
                    *self._padded([inputs[index] for index in batch]),
                    defaults=config,
                    seed=seed,
                    tokenizer=self.tokenizer,
                    **fields,
                )
            seed = None if seed is None else seed + 1
            new = output.new_tokens.unflatten(0, (len(batch), -1)).tolist()  # (B, A, N)
            lengths = output.num_new_tokens.unflatten(0, (len(batch), -1)).tolist()  # (B, A)
            for index, several, counts in zip(batch, new, lengths, strict=True):
                ended = [ids[:count] for ids, count in zip(several, counts, strict=True)]
                # Ids beyond the tokenizer's have no text; T5 has 28 such embeddings.
                answers[index] = [[i for i in ids if has_token(self.tokenizer, i)] for ids in ended]
        return [answers[index] for index in range(len(inputs))]

    def _stream(
        self,
        ids: Sequence[int],
        config: GenerationConfig,
        seed: int | None,
        fields: dict[str, Any],
    ) -> Iterator[str]:
        """Generate from one sequence of ids, and yield the text piece by piece."""
        check_field_names(fields)
        with evaluation_mode(self.model):
            pieces = stream_text(
                self.model, self.tokenizer, ids, defaults=config, seed=seed, **fields
            )
        return self._in_evaluation_mode(pieces)

    def _in_evaluation_mode(self, pieces: Iterator[str]) -> Iterator[str]:
        """The same pieces; between them the model is in the mode that the caller set."""
        while True:
            with evaluation_mode(self.model):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def _padded(self, inputs: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and attention mask, (B, T) each, on the model's device, padded on the right."""
        device, pad = next(self.model.parameters()).device, padding_id(self.tokenizer)
        ids = pad_sequence([torch.tensor(one) for one in inputs], True, padding_value=pad)
        mask = pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in inputs], True)
        return ids.to(device), mask.to(device)


def _depends_on_prompt_length(config: GenerationConfig) -> bool:
    """Whether the number of new tokens depends on the length of the prompt.

    In a batch, all prompts count as long as the longest one. If the length matters, only prompts of
    equal length may share a batch.
    """
    return config.max_new_tokens is None or (
        config.min_new_tokens is None and config.min_length > 0
    )

"""What the tasks that write texts share.

B rows that are computed at once, T their tokens, N new tokens, A answers to each text.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minitransformer.generation import generate
from minitransformer.generation import stream as stream_text
from minitransformer.generation.settings import settle
from minitransformer.generation.stopping import has_text
from minitransformer.models.base import Model
from minitransformer.models.generation_config import GenerationConfig, check_field_names
from minitransformer.models.generative import CausalLM, Seq2SeqLM
from minitransformer.tasks.running import Task, padding_id, rows_by_length
from minitransformer.tasks.settings import Settings, asking, read_settings
from minitransformer.tokenization import Tokenizer

# The new tokens of each answer to each text.
Answers = list[list[list[int]]]


class WritingTask(Task):
    """Base of the tasks whose model writes.

    Args:
        model: of a class that fits the task.
        tokenizer: its tokenizer.
        batch_size: texts that are computed at once; with beams, each takes as many rows.

    Attributes:
        settings: what the checkpoint says of the task. A task that is made of a model and a
            tokenizer has the model's generation config, and no prefix.

    Raises:
        ValueError: the model is of another class, or the tokenizer has more tokens than the model
            has embeddings.
    """

    result: ClassVar[str]  # what a text is called in the answers
    model: CausalLM | Seq2SeqLM
    settings: Settings

    def __init__(self, model: Model, tokenizer: Tokenizer, *, batch_size: int = 8) -> None:
        super().__init__(model, tokenizer, batch_size=batch_size)
        self.settings = Settings(config=self.model.generation_config)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Load model, tokenizer and the settings of the task from one checkpoint."""
        task = super().from_pretrained(path, device=device)
        task.settings = read_settings(path, cls.name, task.model.generation_config)
        return task

    def _write(
        self,
        rows: Sequence[Sequence[int]],
        config: GenerationConfig,
        seed: int | None,
        fields: dict[str, Any],
    ) -> Answers:
        """What the model writes for each row of ids, in the order of the rows.

        Args:
            rows: prompts or sources.
            config: what the checkpoint says.
            seed: of the first batch; the batches after it take the numbers after it.
            fields: what the caller says.
        """
        settled = settle(config, None, fields)
        equal = isinstance(self.model, CausalLM) and _counts_the_prompt(settled)
        answers: dict[int, list[list[int]]] = {}
        batches = rows_by_length([len(row) for row in rows], self.batch_size, equal=equal)
        for number, batch in enumerate(batches):
            with asking(self.model, config):
                output = generate(
                    self.model,
                    *self._padded([rows[row] for row in batch]),
                    seed=None if seed is None else seed + number,
                    tokenizer=self.tokenizer,
                    **fields,
                )
            new = output.new_tokens.unflatten(0, (len(batch), -1)).tolist()  # (B, A, N)
            lengths = output.num_new_tokens.unflatten(0, (len(batch), -1)).tolist()  # (B, A)
            for row, several, counts in zip(batch, new, lengths, strict=True):
                ended = [ids[:count] for ids, count in zip(several, counts, strict=True)]
                # A model may have more words than its tokenizer, as T5 has 28; they have no text.
                answers[row] = [[i for i in ids if has_text(self.tokenizer, i)] for ids in ended]
        return [answers[row] for row in range(len(rows))]

    def _stream(
        self,
        row: Sequence[int],
        config: GenerationConfig,
        seed: int | None,
        fields: dict[str, Any],
    ) -> Iterator[str]:
        """The text that the model writes for a row of ids, as it comes."""
        check_field_names(fields)
        with asking(self.model, config):
            return stream_text(self.model, self.tokenizer, row, seed=seed, **fields)

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask, (B, T) each, on the model's device, padded on the right."""
        device, pad = next(self.model.parameters()).device, padding_id(self.tokenizer)
        ids = pad_sequence([torch.tensor(row) for row in rows], True, padding_value=pad)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.int64) for row in rows], True)
        return ids.to(device), mask.to(device)


def _counts_the_prompt(config: GenerationConfig) -> bool:
    """Whether the number of new tokens depends on that of the prompt.

    Then prompts of unequal length, which count as long as the longest of them where they are
    computed together, are computed apart.
    """
    return config.max_new_tokens is None or (
        config.min_new_tokens is None and config.min_length > 0
    )

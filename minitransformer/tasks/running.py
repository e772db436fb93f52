"""What the tasks share: a model with its tokenizer, and texts run through them in batches.

B batch, T tokens.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor

from minitransformer.batch_encoding import BatchEncoding
from minitransformer.hf.config import FAMILIES
from minitransformer.hf.loading import from_pretrained
from minitransformer.models.base import Model
from minitransformer.tokenization import Tokenizer

Result = TypeVar("Result")

_NAMED_AT_MOST = 3  # truncated texts that a warning names


class Task:
    """Base of the tasks that give each text what a model makes of it.

    Args:
        model: of a class that fits the task.
        tokenizer: its tokenizer.
        batch_size: rows that are computed at once.

    Raises:
        ValueError: the model is of another class, or the tokenizer has more tokens than the model
            has embeddings.
    """

    name: ClassVar[str]  # as `pipeline` knows it
    model_class: ClassVar[type[Model]]
    example: ClassVar[str]  # a class that fits

    model: Model
    tokenizer: Tokenizer

    def __init__(self, model: Model, tokenizer: Tokenizer, *, batch_size: int = 32) -> None:
        if not isinstance(model, self.model_class):
            raise ValueError(_wrong_model(type(self), model))
        check_vocabularies(model, tokenizer)
        check_count("batch_size", batch_size)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Load model and tokenizer from one checkpoint."""
        model = from_pretrained(path, device=device)
        return cls(model, load_tokenizer(path, model))

    def _encode(
        self,
        texts: list[str],
        text_pairs: list[str] | None = None,
        *,
        truncation: str = "longest_first",
        rows_per_text: int = 1,
    ) -> BatchEncoding:
        """The ids of texts or pairs, cut to what the model can take; a warning says which were.

        To be called by `__call__` itself, so that the warning points at the line of the user.

        Args:
            texts, text_pairs: one for each row.
            truncation: which text of a pair is cut, as :class:`Tokenizer` takes it.
            rows_per_text: rows in turn that one of the user's texts has become.
        """
        whole = self.tokenizer(texts, text_pairs)
        limit = longest_row(self.model, self.tokenizer)
        too_long: dict[int, int] = {}  # number of the text: tokens of its longest row
        for row, encoding in enumerate(whole.encodings):
            number = row // rows_per_text
            if len(encoding) > max(limit, too_long.get(number, 0)):
                too_long[number] = len(encoding)
        if not too_long:
            return whole
        warnings.warn(
            _truncation_message(too_long, len(texts) // rows_per_text, limit), stacklevel=3
        )
        return self.tokenizer(texts, text_pairs, truncation=truncation, max_length=limit)

    @torch.no_grad()  # not inference_mode: its tensors could not be used in training
    def _run(
        self, batch: BatchEncoding, compute: Callable[[dict[str, Tensor]], Iterable[Result]]
    ) -> list[Result]:
        """What `compute` makes of each row, in the order of the rows.

        Rows of like length are computed together, so that little is padded. The longest come first:
        where their memory suffices, it suffices to the end.

        Args:
            batch: the rows, of any lengths.
            compute: takes what the model takes, (B, T) each, on its device, padded on the right;
                gives B results.
        """
        device = next(self.model.parameters()).device
        lengths = [len(encoding) for encoding in batch.encodings]
        results: dict[int, Result] = {}
        for rows in rows_by_length(lengths, self.batch_size):
            inputs = batch.padded_rows(rows, padding_id(self.tokenizer))
            moved = {name: tensor.to(device) for name, tensor in inputs.items()}
            results.update(zip(rows, compute(moved), strict=True))
        return [results[row] for row in range(len(lengths))]


def load_tokenizer(path: str | Path, model: Model) -> Tokenizer:
    """The tokenizer of a checkpoint, which returns what the checkpoint's model takes.

    BERT's tokenizer is saved with many a DistilBERT, which has no token types, and with models that
    have one type for both texts.
    """
    tokenizer = Tokenizer.from_pretrained(path)
    if getattr(model.config, "type_vocab_size", 0) < 2:
        tokenizer.token_types = False
    return tokenizer


def check_vocabularies(model: Model, tokenizer: Tokenizer) -> None:
    """Check that the model has an embedding for every token.

    Raises:
        ValueError: it has not.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model only "
            f"vocab_size={model.config.vocab_size} embeddings: they do not belong together"
        )


def longest_row(model: Model, tokenizer: Tokenizer) -> int:
    """How many tokens a row may have: what the model can take, or less if the tokenizer says so.

    `sys.maxsize` where neither sets a limit, as T5's may.
    """
    fits: int | None = model.config.max_sequence_length  # type: ignore[attr-defined]
    return min(fits or sys.maxsize, tokenizer.model_max_length or sys.maxsize)


def padding_id(tokenizer: Tokenizer) -> int:
    """What stands at padding; nothing reads it, so it may be any token where there is none."""
    roles = tokenizer.special_tokens
    return tokenizer.padding_id if "pad_token" in roles or "eos_token" in roles else 0


def rows_by_length(
    lengths: Sequence[int], batch_size: int, *, equal: bool = False
) -> Iterator[list[int]]:
    """Numbers of rows that are computed together: those of like length, the longest first.

    Args:
        lengths: of the rows, in tokens.
        batch_size: rows in a batch, at most.
        equal: whether all rows of a batch must have the same length.
    """
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    batch: list[int] = []
    for row in by_length:
        if len(batch) == batch_size or (equal and batch and lengths[row] != lengths[batch[0]]):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def check_count(name: str, value: int) -> None:
    """Check that an argument is an integer of at least 1.

    Raises:
        ValueError: it is not.
    """
    if type(value) is not int or value < 1:
        raise ValueError(f"{name}={value!r} must be an integer of at least 1")


def as_texts(name: str, texts: str | Sequence[str], *, may_be_empty: bool = False) -> list[str]:
    """One text or several as a list, in which every text says something unless it `may_be_empty`.

    Raises:
        TypeError: it is neither, or one of them is no text.
        ValueError: one is empty, or nothing but white space.
    """
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, Sequence):
        raise TypeError(f"{name} must be a str or a list of str, not {type(texts).__name__}")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"{name}[{number}] must be a str, not {kind}: {text!r}")
        if not may_be_empty and not text.strip():
            raise ValueError(f"{name}[{number}] is empty: {text!r}")
    return list(texts)


def _wrong_model(task: type[Task], model: Model) -> str:
    """What is wrong, which tasks are the model's, and which class of its family would do."""
    from minitransformer.tasks.pipeline import TASKS  # which imports this file

    message = f"{task.name} needs a model such as {task.example}; this is a {type(model).__name__}"
    if own := [name for name, other in TASKS.items() if isinstance(model, other.model_class)]:
        message += f", which is for {', '.join(own)}"
    for family in FAMILIES.values():
        fitting = [known for known in family.models if issubclass(known, task.model_class)]
        if type(model) in family.models and fitting:
            name = fitting[0].__name__
            message += f"; {name}.from_pretrained(path) loads it as one, and says what is untrained"
    return message


def _truncation_message(too_long: Mapping[int, int], total: int, limit: int) -> str:
    named = [f"texts[{number}] has {tokens}" for number, tokens in too_long.items()]
    more = len(named) - _NAMED_AT_MOST
    return (
        f"{len(named)} of {total} texts had to be truncated to {limit} tokens: "
        f"{', '.join(named[:_NAMED_AT_MOST])}{f', and {more} more' * (more > 0)}"
    )

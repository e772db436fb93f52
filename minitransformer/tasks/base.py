"""What the tasks share: a model with its tokenizer, and texts run through them in batches.

B sequences of a batch, T tokens.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor

from minitransformer.fast import optimize as optimize_model
from minitransformer.hf.checkpoint import from_pretrained
from minitransformer.hf.config import class_name, family_of_model
from minitransformer.models.base import Model
from minitransformer.tokenization import BatchEncoding, Tokenizer

Result = TypeVar("Result")

_NAMED_AT_MOST = 3  # truncated texts that a warning names


class Task:
    """Base of the tasks: a callable that gives for each text what a model makes of it.

    Args:
        model: of a class that supports the task; it is put into evaluation mode.
        tokenizer: its tokenizer.
        batch_size: sequences in a batch, at most.

    Raises:
        ValueError: the model is of another class, or the tokenizer has more tokens than the model
            has embeddings.
    """

    name: ClassVar[str]  # as `pipeline` knows it
    model_class: ClassVar[type[Model]]
    example: ClassVar[str]  # a class that supports the task

    model: Model
    tokenizer: Tokenizer

    def __init__(self, model: Model, tokenizer: Tokenizer, *, batch_size: int = 32) -> None:
        if not self.supports(type(model)):
            raise ValueError(_wrong_model(type(self), model))
        check_vocabularies(model, tokenizer)
        check_count("batch_size", batch_size)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    @classmethod
    def supports(cls, model_class: type) -> bool:
        """Whether models of this class do the task."""
        return issubclass(model_class, cls.model_class)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str | torch.device = "cpu", optimize: bool = True
    ) -> Self:
        """Load model and tokenizer from one checkpoint.

        Args:
            path: a directory, or a name on the hub.
            device: to run on.
            optimize: whether the model is put through :func:`minitransformer.optimize`, which
                computes the same numbers faster; False leaves the plain model.
        """
        model = from_pretrained(path, device=device)
        task = cls(model, load_tokenizer(path, model))
        if optimize:
            optimize_model(task.model)
        return task

    def _encode(
        self,
        texts: list[str],
        text_pairs: list[str] | None = None,
        *,
        truncation: str = "longest_first",
        sequences_per_text: int = 1,
    ) -> BatchEncoding:
        """The ids of texts or pairs, truncated to what the model can take; a warning names them.

        To be called by `__call__` itself, so that the warning points at the line of the user.

        Args:
            texts, text_pairs: one for each sequence.
            truncation: which text of a pair is truncated, as :class:`Tokenizer` takes it.
            sequences_per_text: sequences in turn that one of the user's texts has become.
        """
        whole = self.tokenizer(texts, text_pairs)
        limit = max_tokens(self.model, self.tokenizer)
        too_long: dict[int, int] = {}  # number of the text: tokens of its longest sequence
        for index, encoding in enumerate(whole.encodings):
            number = index // sequences_per_text
            if len(encoding) > max(limit, too_long.get(number, 0)):
                too_long[number] = len(encoding)
        if not too_long:
            return whole
        warnings.warn(
            _truncation_message(too_long, len(texts) // sequences_per_text, limit), stacklevel=3
        )
        return self.tokenizer(texts, text_pairs, truncation=truncation, max_length=limit)

    @torch.no_grad()  # not inference_mode: its tensors could not be used in training
    def _run(
        self, batch: BatchEncoding, compute: Callable[[dict[str, Tensor]], Iterable[Result]]
    ) -> list[Result]:
        """What `compute` makes of each sequence, in their order.

        Sequences of similar length are computed together, so that little is padded. The longest
        come first: if their memory suffices, it suffices to the end.

        Args:
            batch: the sequences, of any lengths.
            compute: takes what the model takes, (B, T) each, on its device, padded on the right;
                gives B results.

        Raises:
            ValueError: the model is in training mode.
        """
        check_evaluation_mode(self.model)
        device = next(self.model.parameters()).device
        lengths = [len(encoding) for encoding in batch.encodings]
        results: dict[int, Result] = {}
        for indices in batches_by_length(lengths, self.batch_size):
            inputs = batch.padded_rows(indices, padding_id(self.tokenizer))
            moved = {name: tensor.to(device) for name, tensor in inputs.items()}
            results.update(zip(indices, compute(moved), strict=True))
        return [results[index] for index in range(len(lengths))]


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


def check_evaluation_mode(model: Model) -> None:
    """Check that no part of the model is in training mode.

    Raises:
        ValueError: one is.
    """
    if any(module.training for module in model.modules()):
        raise ValueError(
            "the model, or a part of it, is in training mode, in which dropout would change the "
            "answer; call model.eval() first"
        )


def max_tokens(model: Model, tokenizer: Tokenizer) -> int:
    """How many tokens fit into a sequence: what the model takes, or less if the tokenizer says so.

    `sys.maxsize` where neither sets a limit, as T5's may.
    """
    fits: int | None = model.config.max_sequence_length
    return min(fits or sys.maxsize, tokenizer.model_max_length or sys.maxsize)


def padding_id(tokenizer: Tokenizer) -> int:
    """What stands at padding; it is masked, so any token serves where there is no padding token."""
    roles = tokenizer.special_tokens
    return tokenizer.padding_id if "pad_token" in roles or "eos_token" in roles else 0


def batches_by_length(
    lengths: Sequence[int], batch_size: int, *, equal: bool = False
) -> Iterator[list[int]]:
    """Batches of sequences of similar length, the longest first, as lists of their indices.

    Args:
        lengths: of the sequences, in tokens.
        batch_size: sequences in a batch, at most.
        equal: whether all sequences of a batch must have the same length.
    """
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    batch: list[int] = []
    for index in by_length:
        if len(batch) == batch_size or (equal and batch and lengths[index] != lengths[batch[0]]):
            yield batch
            batch = []
        batch.append(index)
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
    """One text or several as a list, none of them blank unless they `may_be_empty`.

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
    """What is wrong, which tasks the model does, and which class of its family does this one."""
    from minitransformer.tasks.pipeline import TASKS  # which imports this file

    message = f"{task.name} needs a model such as {task.example}; this is a {class_name(model)}"
    if own := [name for name, other in TASKS.items() if other.supports(type(model))]:
        message += f", which is for {', '.join(own)}"
    try:
        family = family_of_model(model)
    except TypeError:  # it is no model of this package
        return message
    if fitting := [known for known in family.models if task.supports(known)]:
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

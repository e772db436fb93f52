"""The base of all tasks: a model with its tokenizer, and running texts through them in batches.

B sequences of a batch, T tokens.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor

from minitransformer.fast import optimize as optimize_model
from minitransformer.hf.checkpoint import from_pretrained
from minitransformer.hf.config import class_name, family_of_model
from minitransformer.models.base import Model
from minitransformer.models.validation import not_finite
from minitransformer.names import shortened
from minitransformer.tokenization import BatchEncoding, Tokenizer

Result = TypeVar("Result")

_MAX_LISTED = 3  # how many truncated texts a warning lists


class Task:
    """Base of the tasks: a callable that runs a model on each text.

    Args:
        model: of a class that supports the task. Calls run it in evaluation mode, and leave every
            part of it in the mode that it was in; while a model in training mode is being called,
            no other thread may use it.
        tokenizer: the model's tokenizer.
        batch_size: the maximum number of sequences in a batch.

    Raises:
        ValueError: the model is of another class, or the tokenizer has more tokens than the model
            has embeddings.
    """

    name: ClassVar[str]  # the name for `pipeline`
    model_class: ClassVar[type[Model]]
    example: ClassVar[str]  # a class that supports the task

    model: Model
    tokenizer: Tokenizer

    def __init__(self, model: Model, tokenizer: Tokenizer, *, batch_size: int = 32) -> None:
        if not self.supports(type(model)):
            raise ValueError(_wrong_model(type(self), model))
        check_vocabularies(model, tokenizer)
        check_count("batch_size", batch_size)
        self.model = model
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
            optimize: whether to apply :func:`minitransformer.optimize`, which computes the same
                numbers faster; False leaves the plain model.
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
        """Encode texts or pairs, truncated to the model's maximum length with a warning.

        Must be called directly by a public method, so that the warning points to the user's line.

        Args:
            texts, text_pairs: one for each sequence.
            truncation: which text of a pair is truncated; see :class:`Tokenizer`.
            sequences_per_text: how many consecutive sequences belong to one of the user's texts.

        Warns:
            UserWarning: texts were truncated.
        """
        encoded = self.tokenizer(texts, text_pairs)
        limit = max_tokens(self.model, self.tokenizer)
        too_long: dict[int, int] = {}  # index of a text: number of tokens of its longest sequence
        for index, encoding in enumerate(encoded.encodings):
            number = index // sequences_per_text
            if len(encoding) > max(limit, too_long.get(number, 0)):
                too_long[number] = len(encoding)
        if not too_long:
            return encoded
        warnings.warn(
            _truncation_message(too_long, len(texts) // sequences_per_text, limit), stacklevel=3
        )
        return self.tokenizer(texts, text_pairs, truncation=truncation, max_length=limit)

    @torch.no_grad()  # tensors of inference_mode could not be used in training
    def _run(
        self, batch: BatchEncoding, compute: Callable[[dict[str, Tensor]], Iterable[Result]]
    ) -> list[Result]:
        """Apply `compute` to all sequences in batches, and return its results in their order.

        Sequences of similar length share a batch, so that there is little padding. The longest come
        first: if there is enough memory for them, there is enough for all.

        Args:
            batch: the sequences, of any lengths.
            compute: takes the model's inputs, (B, T) each, on its device and padded on the right;
                returns B results.
        """
        device = next(self.model.parameters()).device
        lengths = [len(encoding) for encoding in batch.encodings]
        results: dict[int, Result] = {}
        with evaluation_mode(self.model):
            for indices in batches_by_length(lengths, self.batch_size):
                inputs = batch.padded_batch(indices, padding_id(self.tokenizer))
                moved = {name: tensor.to(device) for name, tensor in inputs.items()}
                results.update(zip(indices, compute(moved), strict=True))
        return [results[index] for index in range(len(lengths))]

    def _finite(self, outputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Outputs of the model as float32 on the CPU, of which NaN would make a wrong answer.

        Args:
            outputs: of any shape; (B, T, ...) with an `attention_mask`.
            attention_mask: (B, T); outputs at padding, which nothing reads, are not checked.

        Raises:
            ValueError: they contain NaN or infinity.
        """
        read = outputs if attention_mask is None else outputs[attention_mask.bool()]
        if not bool(read.isfinite().all()):
            raise not_finite(f"{self.name}: the outputs", self.model)
        return outputs.float().cpu()


def load_tokenizer(path: str | Path, model: Model) -> Tokenizer:
    """Load the tokenizer of a checkpoint, set to return only inputs that the model takes.

    Many DistilBERT checkpoints contain BERT's tokenizer, though DistilBERT has no token types; so
    do models with a single token type.
    """
    tokenizer = Tokenizer.from_pretrained(path)
    if getattr(model.config, "type_vocab_size", 0) < 2:
        tokenizer.token_types = False
    return tokenizer


def check_vocabularies(model: Model, tokenizer: Tokenizer) -> None:
    """Check that the model has an embedding for every token of the tokenizer.

    Raises:
        ValueError: it does not.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model has only "
            f"vocab_size={model.config.vocab_size} embeddings: they do not belong together; load "
            "both from the same checkpoint"
        )


@contextmanager
def evaluation_mode(model: Model) -> Iterator[None]:
    """Keep every part of a model in evaluation mode, and then return each to the mode it was in.

    A model in evaluation mode is not touched, so threads may share it.
    """
    in_training = [module for module in model.modules() if module.training]
    try:
        for module in in_training:
            module.training = False
        yield
    finally:
        for module in in_training:
            module.training = True


def max_tokens(model: Model, tokenizer: Tokenizer) -> int:
    """The maximum number of tokens of a sequence: the lower limit of the model and the tokenizer.

    `sys.maxsize` if neither sets a limit, as for T5.
    """
    limit: int | None = model.config.max_sequence_length
    return min(limit or sys.maxsize, tokenizer.model_max_length or sys.maxsize)


def padding_id(tokenizer: Tokenizer) -> int:
    """The id to pad with. It is masked, so any id will do if there is no padding token."""
    roles = tokenizer.special_tokens
    return tokenizer.padding_id if "pad_token" in roles or "eos_token" in roles else 0


def batches_by_length(
    lengths: Sequence[int], batch_size: int, *, equal: bool = False
) -> Iterator[list[int]]:
    """Yield batches of sequences of similar length, longest first, as lists of indices.

    Args:
        lengths: of the sequences, in tokens.
        batch_size: the maximum number of sequences in a batch.
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
        raise ValueError(f"{name}={shortened(value)} must be an integer of at least 1")


def as_texts(name: str, texts: str | Sequence[str], *, may_be_empty: bool = False) -> list[str]:
    """Convert one text or several to a list; blank texts are allowed only if `may_be_empty`.

    Raises:
        TypeError: `texts` is neither, or one of them is not a string.
        ValueError: a text is empty or only white space.
    """
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, Sequence):
        raise TypeError(f"{name} must be a str or a list of str, not {type(texts).__name__}")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"{name}[{number}] must be a str, not {kind}: {shortened(text)}")
        if not may_be_empty and not text.strip():
            raise ValueError(f"{name}[{number}] is empty: {shortened(text)}")
    return list(texts)


def without_white_space(text: str, start: int, end: int) -> tuple[int, int]:
    """The characters [start, end) of a text without the white space at both ends.

    The tokens of many byte-level vocabularies include the space before a word. Of white space
    alone, nothing is left: start = end.
    """
    covered = text[start:end]
    start = end - len(covered.lstrip())
    return start, start + len(covered.strip())


def _wrong_model(task: type[Task], model: Model) -> str:
    """The error message for a model that does not support a task.

    It lists the tasks that the model supports, and the class of its family for this one.
    """
    from minitransformer.tasks.pipeline import TASKS  # pipeline imports this module

    message = f"{task.name} needs a model such as {task.example}; this is a {class_name(model)}"
    if own := [name for name, other in TASKS.items() if other.supports(type(model))]:
        message += f", which is for {', '.join(own)}"
    try:
        family = family_of_model(model)
    except TypeError:  # not a model of this package
        return message
    if fitting := [known for known in family.models if task.supports(known)]:
        name = fitting[0].__name__
        message += f"; {name}.from_pretrained(path) loads it and warns of untrained weights"
    return message


def _truncation_message(too_long: Mapping[int, int], total: int, limit: int) -> str:
    named = [f"texts[{number}] has {tokens}" for number, tokens in too_long.items()]
    more = len(named) - _MAX_LISTED
    return (
        f"{len(named)} of {total} texts had to be truncated to {limit} tokens: "
        f"{', '.join(named[:_MAX_LISTED])}{f', and {more} more' * (more > 0)}"
    )

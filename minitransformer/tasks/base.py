"""The base of all tasks: a model with its tokenizer, and running texts through them in batches.

Every `__call__` of a task is decorated by :func:`takes_any_inputs`, which adds what they have in
common: defaults for a whole pipeline, inputs that are read one by one, and errors for arguments
that do not exist.

B sequences of a batch, T tokens.
"""

import copy
import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

import torch
from torch import Tensor

from minitransformer.elsewhere import Arguments, without
from minitransformer.fast import optimize as optimize_model
from minitransformer.hf.checkpoint import from_pretrained
from minitransformer.hf.config import class_name, family_of_model
from minitransformer.models.base import Model
from minitransformer.models.validation import not_finite
from minitransformer.names import shortened, unexpected_name
from minitransformer.tokenization import BatchEncoding, Tokenizer

Result = TypeVar("Result")
AnyCall = TypeVar("AnyCall", bound=Callable[..., Any])

_ONE_BY_ONE = "pass what it contains to the call itself, such as truncation=True"
_MAX_LISTED = 3  # how many truncated texts a warning lists


def takes_any_inputs(call: AnyCall) -> AnyCall:
    """Decorate the `__call__` of a task with what all of them take.

    - The arguments given to `pipeline` are the defaults of every call.
    - The inputs may also be a NumPy array or a column of a table, which is taken for a list, or
      anything else that can be iterated over: a generator, a data set. Of these, `batch_size` are
      read at a time, and the result is an iterator over theirs, in the order of the inputs.
    - `batch_size` holds for this call. `padding` and `num_workers` are taken and change nothing:
      here texts of like length share a batch, and there are no workers.

    Raises:
        TypeError: an argument is unknown, or the inputs are a table. Where inputs are read one by
            one, an error has a note that says from where its numbers count.
    """

    @functools.wraps(call)
    def checked(self: "Task", *inputs: Any, batch_size: int | None = None, **given: Any) -> Any:
        task = copy.copy(self)  # what is set here holds for this call
        task.given = task.known_arguments(given)
        if batch_size is not None:
            check_count("batch_size", batch_size)
            task.batch_size = batch_size
        arguments = task._arguments(num_inputs=len(inputs))
        if not inputs:
            return call(task, **arguments)
        first, *others = inputs
        if hasattr(first, "tolist"):
            first = first.tolist()
        if hasattr(first, "columns"):
            raise TypeError("the inputs are a table; pass the column with the texts: table['text']")
        if _is_read_one_by_one(first):
            return task._each(call, first, others, arguments)
        return call(task, first, *others, **arguments)

    return cast(AnyCall, checked)


def _is_read_one_by_one(inputs: object) -> bool:
    """Whether inputs are neither one nor a list: a generator, or a data set."""
    if isinstance(inputs, str | Mapping | Sequence):
        return False
    return isinstance(inputs, Iterable) or _is_map_style(inputs)


def _is_map_style(inputs: object) -> bool:
    return hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")


class Task:
    """Base of the tasks: a callable that runs a model on each text.

    Args:
        model: of a class that supports the task. Calls run it in evaluation mode, and leave every
            part of it in the mode that it was in; while a model in training mode is being called,
            no other thread may use it.
        tokenizer: the model's tokenizer.
        batch_size: the maximum number of sequences in a batch.

    Attributes:
        defaults: the arguments of every call that does not give them itself.
        given: in a call, the arguments that it gives itself by their names.

    Raises:
        ValueError: the model is of another class, or the tokenizer has more tokens than the model
            has embeddings.
    """

    name: ClassVar[str]  # the name for `pipeline`
    model_class: ClassVar[type[Model]]
    example: ClassVar[str]  # a class that supports the task
    # Names that an argument of a call has in transformers, and its name here.
    other_names: ClassVar[Mapping[str, str]] = {"inputs": "texts"}
    # Arguments that a call has in transformers alone.
    elsewhere: ClassVar[Arguments] = {
        "tokenize_kwargs": ((None,), _ONE_BY_ONE),
        "tokenizer_kwargs": ((None,), _ONE_BY_ONE),
    }
    # Whether the result of one text is a list even where those of a list of texts are not.
    one_is_a_list: ClassVar[bool] = False

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
        self.defaults: dict[str, Any] = {}
        self.given: dict[str, Any] = {}

    def __call__(self, *inputs: Any, **arguments: Any) -> Any:
        """Do the task; see the class."""
        raise NotImplementedError

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.name

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def save_pretrained(self, path: str | Path) -> None:
        """Save model and tokenizer to one directory, of which `pipeline` makes this task again."""
        self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)

    @classmethod
    def known_arguments(
        cls, given: Mapping[str, Any], others: Sequence[str] = ("batch_size",)
    ) -> dict[str, Any]:
        """The arguments of a call by the names that they have here.

        Args:
            given: by the names here or in transformers.
            others: names that an error suggests beside those of the arguments.

        Raises:
            TypeError: a name is unknown, an argument is given by both of its names, or by a value
                that only transformers follows.
        """
        known: dict[str, Any] = {}
        for name, value in given.items():
            own = cls.other_names.get(name, name)
            if own in known:
                raise TypeError(f"{own} and {name} are one argument; pass only one of them")
            known[own] = value
        for name in _WITHOUT_EFFECT:
            known.pop(name, None)
        known = without(known, cls.elsewhere)
        cls._check_names(known, others)
        return known

    @classmethod
    def _check_names(cls, names: Iterable[str], others: Sequence[str]) -> None:
        """Check that all names are arguments of a call; `others` are suggested too."""
        own = [*own_arguments(cls)]
        for name in names:
            if name not in own:
                raise TypeError(unexpected_name(f"argument of {cls.name}", name, [*own, *others]))

    def _arguments(self, num_inputs: int) -> dict[str, Any]:
        """The arguments of a call: those that it gives, else the defaults.

        Args:
            num_inputs: how many others it gives without a name, in the order of the signature.
        """
        unnamed = [*own_arguments(type(self))][:num_inputs]
        defaults = {name: value for name, value in self.defaults.items() if name not in unnamed}
        return defaults | self.given

    def _each(
        self,
        call: Callable[..., Any],
        inputs: Any,
        others: Sequence[Any],
        arguments: Mapping[str, Any],
    ) -> Iterator[Any]:
        """Yield the result of each of the inputs, which are read in parts of a batch."""
        # Not every map-style data set can be iterated over: some never raise IndexError.
        numbers = range(len(inputs)) if _is_map_style(inputs) else None
        rest = iter(inputs) if numbers is None else (inputs[number] for number in numbers)
        num_read = 0
        while part := list(islice(rest, self.batch_size)):
            try:
                answers = call(self, part, *others, **arguments)
            except (TypeError, ValueError) as error:
                error.add_note(f"Number 0 is input {num_read} of those that are read one by one.")
                raise
            for answer in answers:
                is_single = self.one_is_a_list and not isinstance(answer, list)
                yield [answer] if is_single else answer
            num_read += len(part)

    @classmethod
    def supports(cls, model_class: type) -> bool:
        """Whether models of this class do the task."""
        return issubclass(model_class, cls.model_class)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        tokenizer: str | Path | Tokenizer | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str = torch.float32,
        optimize: bool = True,
        **settings: Any,
    ) -> Self:
        """Load model and tokenizer from one checkpoint.

        Args:
            path: a directory, or a name on the hub.
            tokenizer: another tokenizer, or where it lies.
            device: to run on.
            dtype: of the model.
            optimize: whether to apply :func:`minitransformer.optimize`, which computes the same
                numbers faster; False leaves the plain model.
            settings: of the class, such as `batch_size`.
        """
        model = from_pretrained(path, device=device, dtype=dtype)
        if not isinstance(tokenizer, Tokenizer):
            tokenizer = load_tokenizer(path if tokenizer is None else tokenizer, model)
        task = cls(model, tokenizer, **settings)
        if optimize:
            optimize_model(task.model)
        return task

    def _encode(
        self,
        texts: list[str],
        text_pairs: list[str] | None = None,
        *,
        truncation: bool | str | None = None,
        of_pairs: str = "longest_first",
        max_length: int | None = None,
        sequences_per_text: int = 1,
    ) -> BatchEncoding:
        """Encode texts or pairs, truncated to the maximum length.

        Must be called directly by a decorated method, so that a warning points to the user's line.

        Args:
            texts, text_pairs: one for each sequence.
            truncation: None warns of it, True does not, and False makes it an error. A string is
                True and `of_pairs`.
            of_pairs: which text of a pair is truncated; see :class:`Tokenizer`.
            max_length: in tokens; by default, and at most, that of the model.
            sequences_per_text: how many consecutive sequences belong to one of the user's texts.

        Warns:
            UserWarning: texts were truncated.

        Raises:
            ValueError: a text is too long, and `truncation` is False.
        """
        if max_length is not None:
            check_count("max_length", max_length)
        encoded = self.tokenizer(texts, text_pairs)
        limit = min(max_tokens(self.model, self.tokenizer), max_length or sys.maxsize)
        too_long: dict[int, int] = {}  # index of a text: number of tokens of its longest sequence
        for index, encoding in enumerate(encoded.encodings):
            number = index // sequences_per_text
            if len(encoding) > max(limit, too_long.get(number, 0)):
                too_long[number] = len(encoding)
        if not too_long:
            return encoded
        if truncation is False:
            number, tokens = next(iter(too_long.items()))
            raise ValueError(
                f"texts[{number}] has {tokens} tokens, but the maximum is {limit}; shorten it, or "
                "pass truncation=True"
            )
        if truncation is None:
            message = _truncation_message(too_long, len(texts) // sequences_per_text, limit)
            warnings.warn(message, stacklevel=4)  # the line of the user
        if isinstance(truncation, str):
            of_pairs = truncation
        return self.tokenizer(texts, text_pairs, truncation=of_pairs, max_length=limit)

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


# Arguments of a call in transformers that change no answer; see :func:`takes_any_inputs`.
_WITHOUT_EFFECT = ("padding", "num_workers")


def own_arguments(task: type[Task]) -> Iterator[str]:
    """The names of the arguments of a task's calls."""
    for name, parameter in inspect.signature(task.__call__).parameters.items():
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            yield name


def load_tokenizer(path: str | Path, model: Model) -> Tokenizer:
    """Load the tokenizer of a checkpoint, set to return only inputs that the model takes.

    Many DistilBERT checkpoints contain BERT's tokenizer, though DistilBERT has no token types; so
    do models with a single token type.

    Raises:
        CheckpointError: there is no tokenizer, or its files cannot be used.
        TypeError: `path` is neither a path nor a name.
    """
    if not isinstance(path, str | Path):
        raise TypeError(
            f"tokenizer is a {type(path).__module__}.{type(path).__name__}; it must be a path, a "
            "name on the hub or a Tokenizer of minitransformer"
        )
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
            "both from the same checkpoint, or, after tokenizer.add_tokens(...), call "
            f"model.resize_token_embeddings({tokenizer.vocab_size})"
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

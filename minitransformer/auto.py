"""Hugging Face's names for what is here: the Auto classes, and the class names of tokenizers.

An Auto class stands for the class of a task in the family that a checkpoint's config.json names:
:func:`minitransformer.from_pretrained` with a task of one's own choice. A tokenizer's class is in
its files, so its name here only checks them; the result is a :class:`Tokenizer`.
"""

import random
from pathlib import Path
from typing import Any, ClassVar

import torch

from minitransformer.files import CheckpointError, optional_json
from minitransformer.hf.checkpoint import class_for, model_class_for
from minitransformer.hf.config import family_of_config
from minitransformer.hub import resolve_checkpoint
from minitransformer.models.base import Model, Seq2SeqLM, SequenceClassifier
from minitransformer.models.bert import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForTokenClassification,
)
from minitransformer.models.config import Config
from minitransformer.models.gpt2 import GPT2LMHeadModel
from minitransformer.tokenization import Tokenizer
from minitransformer.tokenization.loading import AS_STORED, CLASSES, MODEL_TYPES
from minitransformer.tokenization.special_tokens import SPECIAL_TOKENS


class AutoModel:
    """The model without a head, of any family."""

    task: ClassVar[type[Model]] = Model  # the first class of a family has no head

    def __new__(cls, *_arguments: Any, **_named: Any) -> Any:
        """Refused: an Auto class has no instances."""
        raise TypeError(
            f"{cls.__name__}(...) does not say which model; call {cls.__name__}.from_pretrained("
            f"path) or {cls.__name__}.from_config(config)"
        )

    @classmethod
    def from_pretrained(cls, path: str | Path, **arguments: Any) -> Any:
        """Load a checkpoint as the class for this task in its family.

        Args:
            path: a directory, or a name on the hub.
            arguments: as in :meth:`Model.from_pretrained`.

        Raises:
            CheckpointError: there is no checkpoint, or its family has no such class.
        """
        model_class = model_class_for(path, cls.task, arguments.get("revision"))
        return model_class.from_pretrained(path, **arguments)

    @classmethod
    def from_config(
        cls, config: Config, *, attention: str = "sdpa", attn_implementation: str | None = None
    ) -> Any:
        """A model with initial weights, of the config's family.

        Args:
            config: of any family.
            attention, attn_implementation: "sdpa" or "eager"; the second is Hugging Face's name.

        Raises:
            TypeError: it is no config of a family, or the family has no class for the task.
        """
        model_class = class_for(family_of_config(type(config)), cls.task)
        if model_class is None:
            raise TypeError(f"a {type(config).__name__} has no class for {cls.__name__}")
        return model_class(config, attention=attn_implementation or attention)


class AutoModelForMaskedLM(AutoModel):
    """A model that predicts masked tokens."""

    task = BertForMaskedLM


class AutoModelForSequenceClassification(AutoModel):
    """A model that classifies texts."""

    task = SequenceClassifier


class AutoModelForTokenClassification(AutoModel):
    """A model that classifies tokens."""

    task = BertForTokenClassification


class AutoModelForQuestionAnswering(AutoModel):
    """A model that finds answers in a text."""

    task = BertForQuestionAnswering


class AutoModelForCausalLM(AutoModel):
    """A decoder that continues texts."""

    task = GPT2LMHeadModel


class AutoModelForSeq2SeqLM(AutoModel):
    """An encoder-decoder that generates texts."""

    task = Seq2SeqLM


class AutoConfig:
    """The config of a checkpoint, of any family."""

    @staticmethod
    def from_pretrained(path: str | Path, **arguments: Any) -> Any:
        """Read config.json; arguments as in :meth:`Config.from_pretrained`."""
        return Config.from_pretrained(path, **arguments)


class NamedTokenizer:
    """A tokenizer's class name, such as `RobertaTokenizerFast`; calling it gives a `Tokenizer`.

    Args:
        vocab_file, merges_file: the files of a vocabulary, in one directory.
        tokenizer_file: a tokenizer.json.
        tokenizer_object: a `tokenizers.Tokenizer`.
        settings: as in :meth:`Tokenizer.from_pretrained`, such as `unk_token="[UNK]"`.
    """

    def __new__(  # type: ignore[misc]  # the names stand for Tokenizer
        cls,
        vocab_file: str | Path | None = None,
        merges_file: str | Path | None = None,
        *,
        tokenizer_file: str | Path | None = None,
        tokenizer_object: Any = None,
        **settings: Any,
    ) -> Tokenizer:
        """Load files, or wrap an object of the library."""
        if tokenizer_object is not None:
            roles = {role: settings.pop(role) for role in SPECIAL_TOKENS if role in settings}
            return Tokenizer(tokenizer_object, roles, **settings)
        path = tokenizer_file or vocab_file
        if path is None:
            raise TypeError(
                f"{cls.__name__}(...) needs a vocabulary: {cls.__name__}.from_pretrained(directory)"
                f", or {cls.__name__}(tokenizer_file='tokenizer.json')"
            )
        if merges_file is not None and Path(merges_file).parent != Path(path).parent:
            raise ValueError(
                f"vocab_file={str(path)!r} and merges_file={str(merges_file)!r} must lie in one "
                "directory"
            )
        return Tokenizer.from_pretrained(path, **settings)

    @classmethod
    def from_pretrained(cls, path: str | Path, **settings: Any) -> Tokenizer:
        """Load a tokenizer; settings as in :meth:`Tokenizer.from_pretrained`.

        Raises:
            CheckpointError: its files say that it is of another class.
        """
        known, own = None, CLASSES.get(cls.__name__.removesuffix("Fast"))
        if own is not None:
            patterns = ("tokenizer_config.json", "config.json")
            directory = resolve_checkpoint(path, patterns, settings.get("revision"))
            known = _class_in(directory if directory.is_dir() else directory.parent)
        if known is not None and CLASSES[known] is not own:
            raise CheckpointError(
                f"{directory}: its tokenizer is a {known}, not a {cls.__name__}; load it with "
                f"{known}.from_pretrained(...), or with AutoTokenizer, which reads the class"
            )
        return Tokenizer.from_pretrained(path, **settings)


class AutoTokenizer(NamedTokenizer):
    """The tokenizer of a checkpoint, whichever its class is."""


def _class_in(directory: Path) -> str | None:
    """The class that a tokenizer's files name; None if they name none, or a generic one."""
    model = optional_json(directory, "config.json")
    for content in (optional_json(directory, "tokenizer_config.json"), model):
        if (named := content.get("tokenizer_class")) is not None:
            named = str(named).removesuffix("Fast")
            return named if named in CLASSES else None  # Tokenizer says what is not supported
    known = MODEL_TYPES.get(str(model.get("model_type")))
    return None if known is None else known.name


# Each class name, with and without "Fast"; both are fast.
TOKENIZERS = {
    name: type(name, (NamedTokenizer,), {"__doc__": "A name of :class:`Tokenizer`."})
    for name in (*CLASSES, *(f"{known}Fast" for known in CLASSES), *AS_STORED)
}


def set_seed(seed: int) -> None:
    """Seed the random generators of Python, numpy and PyTorch, on all devices."""
    import numpy

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)

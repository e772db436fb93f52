"""What every config has in common: names and values are checked when it is made."""

import math
import re
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from minitransformer.elsewhere import LOADING, without
from minitransformer.layers.feed_forward import get_activation
from minitransformer.names import nearest, shortened, unexpected_name

LARGEST = 2**31 - 1  # of a size; PyTorch cannot multiply much larger ones
MAX_LABELS = 1_000_000
NUMBER = "0|[1-9][0-9]{0,5}"  # of a class, as JSON writes a key


def named_classes(
    values: Mapping[str, Any], before: Mapping[int, str] | None = None
) -> dict[str, Any]:
    """The fields of a config with `id2label` in place of `num_labels` and `label2id`.

    Args:
        values: fields of a config; the three of them, where given, must agree.
        before: the names so far, which stay if only `num_labels` is given and is their number.

    Raises:
        ValueError: they contradict each other, or one is not what its name says.
    """
    count, numbers = values.get("num_labels"), values.get("label2id")
    rest = {n: value for n, value in values.items() if n not in ("num_labels", "label2id")}
    if count is not None and (type(count) is not int or not 0 < count <= MAX_LABELS):
        raise ValueError(f"num_labels={shortened(count)} must be an integer from 1 to {MAX_LABELS}")
    are_numbers = isinstance(numbers, dict) and {*map(type, numbers.values())} == {int}
    if numbers is not None and not are_numbers:
        raise ValueError(f"label2id={shortened(numbers)} must map names to class numbers")
    names = rest.get("id2label")
    if isinstance(names, dict) and all(re.fullmatch(NUMBER, str(key)) for key in names):
        names = rest["id2label"] = {int(key): name for key, name in names.items()}  # as in JSON
    if names is None and numbers is not None:
        names = {number: name for name, number in sorted(numbers.items(), key=lambda item: item[1])}
    if names is None and count is not None:
        names = dict(before) if before and len(before) == count else unnamed_classes(count)
    if not isinstance(names, dict):
        return rest  # no names, or no dict, which the config's own check refuses
    if count not in (None, len(names)):
        raise ValueError(
            f"num_labels={count}, but there are {len(names)} names of classes, "
            f"{shortened(names)}; give id2label alone"
        )
    if numbers is not None and numbers != {name: number for number, name in names.items()}:
        raise ValueError(
            f"label2id={shortened(numbers)} contradicts id2label={shortened(names)}; leave it out"
        )
    return {**rest, "id2label": names}


def unnamed_classes(count: int) -> dict[int, str]:
    """The names of classes that have none."""
    return {number: f"LABEL_{number}" for number in range(count)}


class ConfigType(type):
    """What making a config does before its dataclass does: names are checked and understood.

    A dataclass has an argument for each field and no other, so without this an unknown name would
    be an error without the right one, and `num_labels` could not stand for `id2label`.
    """

    known_elsewhere: dict[str, str]

    def __call__(cls, *arguments: Any, **values: Any) -> Any:
        """Make a config from fields, and from Hugging Face's other words for them.

        Raises:
            TypeError: a name is unknown.
            ValueError: `num_labels`, `label2id` and `id2label` contradict each other.
        """
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        values = without(values, LOADING)
        if "id2label" in known:
            values = named_classes(values)
        for name in values:
            if name not in known:
                theirs = [n for n in values if n != name and n in cls.known_elsewhere]
                renamed = [f"{n} is {cls.known_elsewhere[n]} here" for n in theirs]
                raise TypeError("; ".join([cls.unknown_field(name), *renamed]))
        return super().__call__(*arguments, **values)

    def __setattr__(cls, name: str, value: Any) -> None:
        """Set an attribute of the class.

        The dataclass of every family sets a `__setattr__` that refuses all changes of a config. It
        is replaced by one that says what to type.
        """
        super().__setattr__(name, _refuse_change if name == "__setattr__" else value)

    def unknown_field(cls, name: str) -> str:
        """The message for a name that is no field."""
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        near = nearest(name, [*known, *cls.known_elsewhere])
        guess = cls.known_elsewhere.get(near or name)
        return unexpected_name(f"{cls.__name__} field", name, known, guess)


def _refuse_change(config: Any, name: str, value: Any) -> None:
    raise FrozenInstanceError(
        f"cannot assign {name}={shortened(value)}, since configs do not change; give it to "
        f"{type(config).__name__}(...), to from_pretrained(path, ...), or, for a changed copy, to "
        "dataclasses.replace(config, ...)"
    )


@dataclass(frozen=True, kw_only=True)
class Config(metaclass=ConfigType):
    """Base of the configs: frozen and keyword-only; a misspelled field is an error.

    Fields have one name in all families, where possible the one that Hugging Face's BERT has;
    `known_elsewhere` knows the others. In `__post_init__` a family says with the checks
    below what must hold of them. Every family has these few:
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    pad_token_id: int | None  # None: there is no token for padding, as in GPT-2
    # Whether the LM head's matrix is the token embedding ("tied"); models without one ignore it.
    tie_word_embeddings: bool = True

    # Names that users bring from elsewhere, and the field that they mean.
    known_elsewhere: ClassVar[dict[str, str]] = {}

    if not TYPE_CHECKING:  # a type checker knows the fields

        def __getattr__(self, name: str) -> Any:  # called for unknown names alone
            raise AttributeError(type(self).unknown_field(name))

    @property
    def max_sequence_length(self) -> int | None:
        """How many tokens fit into one sequence; None where any number does."""
        return None

    # As with a model, these import hf/ only when they are called.

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, revision: str | None = None, **changes: object
    ) -> Self:
        """The config of a checkpoint.

        Args:
            path: a directory, or a name on the hub, of whose files only config.json is downloaded.
            revision: the branch, tag or commit of the repository on the hub.
            changes: fields that get other values than in the file.

        Raises:
            CheckpointError: there is no config.json, or it is invalid or of another family.
            TypeError, ValueError: a change is no field, or its value is invalid.
        """
        from minitransformer.hf.checkpoint import load_config

        return load_config(cls, path, revision=revision, changes=changes)

    def save_pretrained(self, path: str | Path) -> None:
        """Write config.json, in Hugging Face's form, into the directory `path`, atomically."""
        from minitransformer.hf.checkpoint import save_config

        save_config(self, path)

    @property
    def model_type(self) -> str:
        """The family's name in config.json, such as "bert"."""
        return self.to_dict()["model_type"]

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json, by Hugging Face's names."""
        from minitransformer.hf.config import fields_to_hf

        return fields_to_hf(self)

    def _require_integers(self, *names: str, minimum: int) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name}={shortened(value)} must be an integer")
            if not minimum <= value <= LARGEST:
                raise ValueError(
                    f"{name}={shortened(value)} must lie between {minimum} and {LARGEST}"
                )

    def _require_tokens(self, *names: str, optional: bool = False) -> None:
        for name in names:
            if optional and getattr(self, name) is None:
                continue
            self._require_integers(name, minimum=0)
            if getattr(self, name) >= self.vocab_size:
                fix = f"; give the id of yours, or {name}=None" * optional
                raise ValueError(
                    f"{name}={getattr(self, name)} lies outside vocab_size={self.vocab_size}{fix}"
                )

    def _require_booleans(self, *names: str) -> None:
        for name in names:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={shortened(getattr(self, name))} must be True or False")

    def _require_whole_heads(self, *names: str) -> None:
        for name in names:
            if self.hidden_size % getattr(self, name):
                raise ValueError(
                    f"hidden_size={self.hidden_size} is not a multiple of "
                    f"{name}={getattr(self, name)}"
                )

    def _require_probabilities(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not is_number(value) or not 0.0 <= value < 1.0:
                raise ValueError(f"{name}={shortened(value)} must be a number in [0, 1)")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not is_number(value) or not 0.0 < value < math.inf:
                raise ValueError(f"{name}={shortened(value)} must be a positive, finite number")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(Config):
    """The fields of a family that has classification heads.

    `id2label` names the classes by their numbers, 0, 1, 2, ...; how many there are is `num_labels`,
    which may also be given, alone or beside it. So may `label2id`.
    `problem_type` says what the head of a sequence classifier is for: None stands for regression
    where there is one class, else for one class a text.
    """

    id2label: dict[int, str] = field(
        default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"}, hash=False
    )
    problem_type: str | None = None

    known_elsewhere: ClassVar[dict[str, str]] = {"num_labels": "num_labels", "label2id": "label2id"}

    @property
    def num_labels(self) -> int:
        """How many classes a classification head has."""
        return len(self.id2label)

    @property
    def label2id(self) -> dict[str, int]:
        """The number of each class by its name."""
        return {name: number for number, name in self.id2label.items()}

    def _require_labels(self) -> None:
        labels = self.id2label
        numbers = [*labels] if isinstance(labels, dict) else []
        # True and 1.0 are as good as 1 to Python, but not to JSON.
        if not numbers or numbers != [*range(len(numbers))] or {*map(type, numbers)} != {int}:
            raise ValueError(
                f"id2label={shortened(labels)} must map 0, 1, 2, ..., in this order, to names"
            )
        names = list(labels.values())
        if not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"id2label={shortened(labels)} must give every class a name")
        if len(set(names)) < len(names):
            raise ValueError(f"id2label={shortened(labels)} gives two classes one name")
        object.__setattr__(self, "id2label", dict(labels))  # the caller's may change later
        if self.problem_type not in (None, *PROBLEM_TYPES):
            raise ValueError(unexpected_name("problem_type", str(self.problem_type), PROBLEM_TYPES))
        if self.problem_type == "single_label_classification" and len(names) == 1:
            raise ValueError(
                "problem_type='single_label_classification' with one class, "
                f"id2label={shortened(labels)}, leaves nothing to choose; name two classes, or set "
                "problem_type='regression'"
            )


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ClassifierConfig):
    """The fields that all encoders share; the defaults are those of bert-base-uncased."""

    vocab_size: int = 30_522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512  # rows of the position table
    initializer_range: float = 0.02
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        self._require_integers(
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            minimum=1,
        )
        self._require_tokens("pad_token_id")
        self._require_probabilities("hidden_dropout_prob", "attention_probs_dropout_prob")
        self._require_positive("initializer_range")
        self._require_booleans("tie_word_embeddings")
        get_activation(self.hidden_act)
        self._require_whole_heads("num_attention_heads")
        self._require_labels()

    @property
    def max_sequence_length(self) -> int:
        """How many tokens fit into one sequence."""
        return self.max_position_embeddings

    @property
    def head_dropout(self) -> float:
        """The dropout of classification heads."""
        return self.hidden_dropout_prob


PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


def is_number(value: object) -> bool:
    """Whether it is a finite number, and not larger than `LARGEST`."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= LARGEST  # which NaN is not, nor an integer that is no float
    )

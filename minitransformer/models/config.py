"""What every config has in common: names and values are checked when it is made."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from minitransformer.layers.feed_forward import get_activation
from minitransformer.names import nearest, shortened, unexpected_name

LARGEST = 2**31 - 1  # of a size; PyTorch cannot multiply much larger ones


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of the configs: frozen and keyword-only; a misspelled field is an error.

    Fields have one name in all families, where possible the one that Hugging Face's BERT has;
    `known_elsewhere` knows the others. In `__post_init__` a family says with the checks
    below what must hold of them. These few every family has:
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    pad_token_id: int | None  # None: there is no token for padding, as in GPT-2
    # Whether the matrix of the LM head is the token embedding ("tied"), or one of its own. Models
    # without an LM head ignore it.
    tie_word_embeddings: bool = True

    # Names that users bring from elsewhere, and the field that they mean.
    known_elsewhere: ClassVar[dict[str, str]] = {}

    def __new__(cls, *_arguments: Any, **values: Any) -> Self:
        # The generated __init__ would refuse an unknown name too, but without the right one.
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                near = nearest(name, [*known, *cls.known_elsewhere])
                guess = cls.known_elsewhere.get(near or name)
                raise TypeError(unexpected_name(f"{cls.__name__} field", name, known, guess))
        return super().__new__(cls)

    @property
    def max_sequence_length(self) -> int | None:
        """How many tokens fit into one sequence; None where any number does."""
        return None

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

    `id2label` names the classes by their numbers, 0, 1, 2, ...; how many there are is `num_labels`.
    `problem_type` says what the head of a sequence classifier is for: None stands for regression
    where there is one class, else for one class a text.
    """

    id2label: dict[int, str] = field(
        default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"}, hash=False
    )
    problem_type: str | None = None

    known_elsewhere: ClassVar[dict[str, str]] = {"num_labels": "id2label", "label2id": "id2label"}

    @property
    def num_labels(self) -> int:
        """How many classes a classification head has."""
        return len(self.id2label)

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

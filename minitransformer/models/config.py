"""What every config has in common: names and values are checked when it is made."""

import math
from dataclasses import dataclass, fields
from typing import Any, Self

from minitransformer.names import unexpected_name

_LARGEST = 2**31 - 1  # of a size; PyTorch cannot multiply much larger ones


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of the configs: frozen, keyword-only, without room for a misspelled field.

    A family gives its fields Hugging Face's names and, in `__post_init__`, says with the checks
    below what must hold of them. These few every family has:
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    initializer_range: float
    pad_token_id: int

    def __new__(cls, *_arguments: Any, **values: Any) -> Self:
        # The generated __init__ would refuse an unknown name too, but without the right one.
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise TypeError(unexpected_name(f"{cls.__name__} field", name, known))
        return super().__new__(cls)

    def _require_integers(self, *names: str, minimum: int) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name}={value!r} must be an integer")
            if not minimum <= value <= _LARGEST:
                raise ValueError(f"{name}={value!r} must lie between {minimum} and {_LARGEST}")

    def _require_probabilities(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not _is_number(value) or not 0.0 <= value < 1.0:
                raise ValueError(f"{name}={value!r} must be a number from 0 up to, not with, 1")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not _is_number(value) or not 0.0 < value < math.inf:
                raise ValueError(f"{name}={value!r} must be a positive, finite number")


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= _LARGEST  # which NaN is not, nor an integer that is no float
    )

"""What a tokenizer accepts as texts and arguments, and what it takes away from a decoded text."""

from collections.abc import Sequence
from typing import Any

from minitransformer.names import unexpected_name

# One after the other, over the whole text.
_CLEAN_UP = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")),
    *((" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)


def checked(argument: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """`value`, if it is one of `choices`; 0 does not pass for False."""
    if any(value is choice or (value == choice and isinstance(value, str)) for choice in choices):
        return value
    if isinstance(value, str):
        names = [choice for choice in choices if isinstance(choice, str)]
        raise ValueError(unexpected_name(argument, value, names))
    raise ValueError(f"{argument}={value!r}; the choices are: {choices}")


def samples_of(
    argument: str,
    texts: str | Sequence[str] | None,
    text_pairs: str | Sequence[str] | None = None,
) -> list[tuple[str, ...]]:
    """B tuples of one or two texts, proved to be texts."""
    first = _texts(argument, texts)
    if text_pairs is None:
        return [(text,) for text in first]
    second = _texts("text_pairs", text_pairs)
    if len(first) != len(second) or isinstance(texts, str) != isinstance(text_pairs, str):
        raise ValueError(
            f"{len(first)} texts ({type(texts).__name__}) and {len(second)} text_pairs "
            f"({type(text_pairs).__name__}): both must be one str, or lists of the same length"
        )
    return list(zip(first, second, strict=True))


def _texts(argument: str, value: Any) -> list[str]:
    if isinstance(value, str):
        value = [value]
    elif not isinstance(value, Sequence):
        raise TypeError(f"{argument} must be a str or a list of str, not {type(value).__name__}")
    for row, text in enumerate(value):
        if not isinstance(text, str):
            raise TypeError(f"{argument}[{row}] must be a str, not {type(text).__name__}: {text!r}")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(f"{argument}[{row}] holds half of a surrogate pair: not valid Unicode")
    return list(value)


def cleaned_up(text: str) -> str:
    """`text` without the spaces before punctuation and English contractions."""
    for spaced, joined in _CLEAN_UP:
        text = text.replace(spaced, joined)
    return text

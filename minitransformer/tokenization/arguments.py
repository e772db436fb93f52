"""The arguments of a tokenizer's calls, checked and in one form each."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from minitransformer.elsewhere import TOKENIZING, Arguments, without
from minitransformer.names import shortened, unexpected_name

PADDINGS = ("longest", "max_length")
TRUNCATIONS = ("longest_first", "only_first", "only_second")

Sample = tuple[str | list[str], ...]  # a text or a pair, each a str or a list of words


def check_names(
    method: Callable[..., Any], others: Mapping[str, Any], table: Arguments = TOKENIZING
) -> None:
    """Refuse keywords that are not parameters of `method`, but those that change nothing here.

    Raises:
        TypeError: the message says what to type instead.
    """
    for name in without(others, table):
        *known, _ = inspect.signature(method).parameters  # the last is **others
        raise TypeError(unexpected_name("argument", name, known))


def checked(argument: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """`value`, if it is one of `choices`; 0 does not count as False."""
    if any(value is choice or (value == choice and isinstance(value, str)) for choice in choices):
        return value
    if isinstance(value, str):
        names = [choice for choice in choices if isinstance(choice, str)]
        raise ValueError(unexpected_name(argument, value, names))
    raise ValueError(f"{argument}={shortened(value)} must be one of {choices}")


def padding_strategy(value: Any) -> Any:
    """False, "longest" or "max_length"."""
    value = "longest" if value is True else value
    value = False if value in (None, "do_not_pad") else value
    return checked("padding", value, (False, *PADDINGS))


def truncation_strategy(value: Any) -> Any:
    """False, or the name of a strategy."""
    value = "longest_first" if value is True else value
    value = False if value in (None, "do_not_truncate") else value
    return checked("truncation", value, (False, *TRUNCATIONS))


def next_multiple(length: int, multiple: int | None, padding: Any) -> int:
    """`length`, or the next multiple."""
    if multiple is None:
        return length
    if not isinstance(multiple, int) or multiple < 1:
        raise ValueError(f"pad_to_multiple_of={shortened(multiple)} must be a positive integer")
    if not padding:
        raise ValueError(f"pad_to_multiple_of={multiple} has no effect: add padding=True")
    return -(-length // multiple) * multiple


def as_samples(argument: str, texts: Any, text_pair: Any, words: bool) -> tuple[list[Sample], bool]:
    """Tuples of one text, or of two, and whether a single one was given.

    A text is a str, or with `words` a list of str.

    Raises:
        TypeError: something else than texts.
        ValueError: two texts were not given for each pair, or a text is not valid Unicode.
    """
    texts = _as_list(argument, texts)
    single = isinstance(texts, str) or (words and bool(texts) and isinstance(texts[0], str))
    if not single and text_pair is None and any(isinstance(text, tuple) for text in texts):
        if not all(isinstance(text, tuple) and len(text) == 2 for text in texts):
            raise TypeError(f"{argument} must have two texts in each tuple, or no tuples")
        texts, text_pair = map(list, zip(*texts, strict=True))
    first = _as_texts(argument, [texts] if single else texts, words)
    if text_pair is None or (single and len(text_pair) == 0):
        return [(text,) for text in first], single
    pairs = _as_list("text_pair", text_pair)
    one_pair = isinstance(pairs, str) or (words and bool(pairs) and isinstance(pairs[0], str))
    second = _as_texts("text_pair", [pairs] if one_pair else pairs, words)
    if len(first) != len(second) or single != one_pair:
        raise ValueError(
            f"{len(first)} texts ({type(texts).__name__}) and {len(second)} in text_pair "
            f"({type(text_pair).__name__}): pass two texts, or two lists of the same length"
        )
    return list(zip(first, second, strict=True)), single


def _as_list(argument: str, value: Any) -> Any:
    """A str, or a list of what an array, a pandas Series or another sequence contains."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return list(value)
    hint = f": pass list({argument})" if isinstance(value, Iterable) else ""
    raise TypeError(f"{argument} must be a str or a list of str, not {type(value).__name__}{hint}")


def _as_texts(argument: str, texts: list[Any], words: bool) -> list[Any]:
    """The texts after a check that each is a valid str, or with `words` a list of them."""
    for i, text in enumerate(texts):
        name = f"{argument}[{i}]"
        if words:
            if isinstance(text, str) or not isinstance(text, Sequence):
                raise TypeError(
                    f"with is_split_into_words=True {name} must be a list of words, not "
                    f"{type(text).__name__}: {shortened(text)}"
                )
            _as_texts(name, list(text), words=False)
            continue
        if not isinstance(text, str):
            hint = "; for texts that are lists of words, pass is_split_into_words=True"
            raise TypeError(
                f"{name} must be a str, not {type(text).__name__}: {shortened(text)}"
                f"{hint if isinstance(text, Sequence) else ''}"
            )
        check_unicode(name, text)
    return [list(text) for text in texts] if words else texts


def check_unicode(name: str, text: str) -> None:
    """Refuse a text with a lone surrogate, which has no bytes."""
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError(f"{name} contains a lone surrogate: it is not valid Unicode")


def as_ids(ids: Any) -> Any:
    """An id, or a list of ids, or a list of such lists, from arrays and tensors too."""
    if hasattr(ids, "tolist"):
        return ids.tolist()
    if isinstance(ids, Iterable) and not isinstance(ids, str):
        return [as_ids(item) for item in ids]
    return ids

"""What error messages say of the values they were given, and of unknown names.

A value may be a book, or a list of a million ids: :func:`shortened` and :func:`listed` keep a
message readable. :func:`unexpected_name` suggests the name that was probably meant.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import accumulate

_LIMIT = 200  # characters of a value in a message
_LAST = 20  # of them, from the end of a value that is too long
_CHOICES_LIMIT = 600  # characters of the names to choose from


def cut(text: str, limit: int = _LIMIT) -> str:
    """`text` in at most `limit` characters: the beginning and the end of a longer one."""
    return text if len(text) <= limit else f"{text[: limit - _LAST - 3]}...{text[-_LAST:]}"


def shortened(value: object, limit: int = _LIMIT) -> str:
    """`repr(value)` in at most `limit` characters, see :func:`cut`.

    >>> shortened("paddng")
    "'paddng'"
    >>> shortened("a" * 1000, limit=50)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaa...aaaaaaaaaaaaaaaaaaa'"
    """
    try:
        return cut(repr(value), limit)
    except (ValueError, RecursionError):  # an integer of too many digits, or too deep a list
        return f"<{type(value).__name__} that is too large to show>"


def listed(names: Iterable[str], limit: int = _LIMIT) -> str:
    """The names, joined by commas, in about `limit` characters; the others are counted.

    >>> listed(map(str, range(1000)), limit=10)
    '0, 1, 2, 3 and 996 more'
    """
    names = [cut(name, limit) for name in names]
    lengths = accumulate(len(name) + 2 for name in names)
    shown = max(1, sum(length <= limit + 2 for length in lengths))
    more = len(names) - shown
    return ", ".join(names[:shown]) + f" and {more:,} more" * (more > 0)


def nearest(name: str, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of `choices` that is most similar to `name`, or None if none is close."""
    by_lower = {choice.lower(): choice for choice in choices}
    matches = get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[matches[0]] if matches else None


def unexpected_name(kind: str, name: str, choices: Iterable[str], guess: str | None = None) -> str:
    """The message for a `name` that is not one of `choices`; `kind` is what it should name.

    `guess` is the name that was meant, if that is known; by default it is the nearest choice.

    >>> unexpected_name("argument", "paddng", ["padding", "stride"])
    "unknown argument 'paddng'; did you mean 'padding'? The choices are: padding, stride"
    """
    choices = list(choices)
    guess = guess or nearest(name, choices)
    hint = f"did you mean {shortened(guess)}? The" if guess else "the"
    known = listed(choices, _CHOICES_LIMIT)
    return f"unknown {kind} {shortened(name)}; {hint} choices are: {known}"

"""Error messages for unknown names, which suggest the name that was probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches


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
    hint = f"did you mean {guess!r}? The" if guess else "the"
    return f"unknown {kind} {name!r}; {hint} choices are: {', '.join(choices)}"

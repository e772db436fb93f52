"""Wrong names in error messages: say what was meant, not only what was wrong."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of `choices` that looks most like `name`, or None where none comes near."""
    by_lower = {choice.lower(): choice for choice in choices}
    matches = get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[matches[0]] if matches else None


def unexpected_name(kind: str, name: str, choices: Iterable[str], guess: str | None = None) -> str:
    """The message for a `name` that is none of `choices`; `kind` says what it should have been.

    `guess` is what was meant, where that is known; else it is the nearest of the choices.

    >>> unexpected_name("argument", "paddng", ["padding", "stride"])
    "unknown argument 'paddng'; did you mean 'padding'? The choices are: padding, stride"
    """
    choices = list(choices)
    guess = guess or nearest(name, choices)
    hint = f"did you mean {guess!r}? The" if guess else "the"
    return f"unknown {kind} {name!r}; {hint} choices are: {', '.join(choices)}"

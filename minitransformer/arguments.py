"""The argument parser of every command: whole names only, and a hint for a misspelled one."""

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from minitransformer.names import unexpected_name


def positive(text: str) -> int:
    """An integer of at least 1, as argparse's `type`."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer of at least 1")
    return int(text)


def device(text: str) -> str:
    """A device that is there, as argparse's `type`."""
    if text.split(":")[0] not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text!r} is unknown; choose cpu or cuda")
    if text != "cpu" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(f"{text!r}: PyTorch sees no CUDA device here; use cpu")
    return text


class Parser(argparse.ArgumentParser):
    """argparse, where `--learing-rate` is an error that says `--learning-rate`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            **settings,
        )

    # argparse declares four overloads, of which this is the one that is used.
    def parse_args(  # type: ignore[override]
        self, arguments: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Parse, or exit with status 2 and one line that says what is wrong."""
        parsed, unknown = self.parse_known_args(arguments, namespace)
        for word in unknown:
            if word.startswith("-"):
                self.error(unexpected_name("option", word.split("=")[0], self._options()))
            self.error(f"unexpected {word!r}; quote a text that has spaces")
        return parsed

    def _options(self) -> list[str]:
        """The options of this parser and of its verbs."""
        verbs = [a for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        parsers = [self, *(parser for verb in verbs for parser in verb.choices.values())]
        return sorted({o for p in parsers for o in p._option_string_actions if o[:2] == "--"})

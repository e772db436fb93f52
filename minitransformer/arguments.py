"""The argument parser of every command: no abbreviations, and a hint for a misspelled option."""

import argparse
from collections.abc import Iterable
from typing import Any, NoReturn

import torch

from minitransformer.names import cut, shortened, unexpected_name


def positive(text: str) -> int:
    """Parse an integer of at least 1; for argparse's `type`."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{shortened(text)} must be an integer of at least 1")
    return int(text)


def device(text: str) -> str:
    """Check that PyTorch has this device; for argparse's `type`."""
    if text.split(":")[0] not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{shortened(text)} is unknown; choose cpu or cuda")
    if text != "cpu" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(
            f"{shortened(text)}: PyTorch finds no CUDA device here; choose cpu"
        )
    return text


class Parser(argparse.ArgumentParser):
    """argparse's parser, except that the error for `--learing-rate` suggests `--learning-rate`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            **settings,
        )

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Parse the arguments, or exit with status 2 and one line that says what is wrong."""
        parsed, unknown = self.parse_known_args(None if args is None else list(args), namespace)
        for word in unknown:
            if word.startswith("-"):
                self.error(unexpected_name("option", word.split("=")[0], self._options()))
            self.error(f"unexpected argument {shortened(word)}; quote a text that contains spaces")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and the message, which may echo an argument of any length."""
        super().error(cut(message, limit=800))

    def _options(self) -> list[str]:
        """The long options of this parser and of its verbs, sorted."""
        verbs = [a for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        parsers = [self, *(parser for verb in verbs for parser in verb.choices.values())]
        return sorted({o for p in parsers for o in p._option_string_actions if o[:2] == "--"})

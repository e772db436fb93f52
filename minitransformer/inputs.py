"""The texts that a command is asked about: its arguments, the lines of a file, standard input.

They are read and answered a batch at a time, so a file of any length can be read, and what was
answered before an interruption is there.
"""

import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from minitransformer.names import listed, shortened

STANDARD_INPUT = "-"
_CONVERT = "convert it: iconv -f ENCODING -t UTF-8"


@dataclass(frozen=True)
class Source:
    """Texts, and where they come from.

    Attributes:
        texts: yields them; reading may raise a ValueError that names the line.
        name: of the file that has a text on each line; None if the texts are arguments.
        total: their number; None if it is not known.
    """

    texts: Iterator[str]
    name: str | None = None
    total: int | None = None

    def place(self, index: int, kind: str = "texts") -> str:
        """How messages name the text with this index."""
        return f"{kind}[{index}]" if self.name is None else f"{self.name}, line {index + 1}"


def read_source(
    texts: Sequence[str], file: str | Path | None = None, field: str | None = None
) -> Source:
    """The texts of a command.

    Args:
        texts: its arguments; a single "-" means standard input, and so do none if it is a pipe.
        file: has one text on each line; "-" is standard input.
        field: the lines are JSON objects, and this field of each is the text.

    Raises:
        ValueError: there are no texts, or two sources of them.
        OSError: the file cannot be opened.
    """
    piped = list(texts) == [STANDARD_INPUT] or str(file) == STANDARD_INPUT
    if texts and file is not None:
        raise ValueError("there are texts and --file; give one of them")
    if file is None and not texts and sys.stdin is not None and not sys.stdin.isatty():
        piped = True
    if piped:
        name = "standard input"
        return Source(_read_lines(sys.stdin.buffer, name, field), name)
    if file is not None:
        path = Path(file)
        if field is None and path.suffix in (".jsonl", ".ndjson"):
            raise ValueError(f"{path} has JSON lines; name the field with the text: --field NAME")
        opened = path.open("rb")
        total = None
        if path.is_file():  # and not a pipe, which can be read only once
            total = sum(1 for _ in opened)
            opened.seek(0)
        return Source(_read_lines(opened, str(path), field), str(path), total)
    if field is not None:
        raise ValueError(f"--field {field} names a field of the lines of --file")
    if not texts:
        raise ValueError(
            "there is no text; add it after the path, name a file of texts by --file, or pipe it in"
        )
    return Source(iter(texts), total=len(texts))


def read_whole(file: str) -> str:
    """The content of a file; "-" is standard input.

    Raises:
        ValueError: it is not UTF-8.
        OSError: it cannot be read.
    """
    piped = file == STANDARD_INPUT
    content = sys.stdin.buffer.read() if piped else Path(file).read_bytes()
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        name = "standard input" if piped else file
        raise ValueError(f"{name} is not UTF-8 ({error}); {_CONVERT}") from error


def answer_in_batches(
    source: Source, size: int, answer: Callable[[list[str], int], Sequence[Any]]
) -> Iterator[tuple[str, Any]]:
    """Yield every text and its result, as soon as its batch is done, with a bar on stderr.

    The bar is shown if results go to a file or a pipe and stderr is a terminal.

    Args:
        source: of the texts.
        size: the number of texts in a batch.
        answer: called with a batch and the index of its first text; returns a result for each.

    Raises:
        ValueError: there is no text, or `answer` raised it for a text, which is named by its line.
    """
    index = 0
    hidden = sys.stdout.isatty() or not sys.stderr.isatty()
    with tqdm(total=source.total, unit="text", file=sys.stderr, disable=hidden) as bar:
        while batch := list(islice(source.texts, size)):
            with _named_by_line(source, index):
                results = answer(batch, index)
            yield from zip(batch, results, strict=True)
            index += len(batch)
            bar.update(len(batch))
    if not index:
        raise ValueError(f"{source.name} is empty; it must have one text on each line")


@contextmanager
def _named_by_line(source: Source, first: int) -> Iterator[None]:
    """Name texts by their lines in errors and warnings; `first` is the index of a batch's first."""

    def renamed(message: object) -> str:
        return re.sub(
            r"\b(texts|questions)\[(\d+)\]",
            lambda found: source.place(first + int(found[2]), found[1]),
            str(message),
        )

    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        except ValueError as error:
            raise ValueError(renamed(error)) from error
        finally:
            for warning in caught:
                tqdm.write(f"warning: {renamed(warning.message)}", file=sys.stderr)


def _read_lines(file: BinaryIO, name: str, field: str | None) -> Iterator[str]:
    """The text of each line of a file in UTF-8, which is closed at the end.

    Raises:
        ValueError: a line is blank, not UTF-8, or has no such field.
    """
    blank = None  # the first of the blank lines before this one; at the end they do no harm
    with file:
        for number, line in enumerate(file, start=1):
            place = f"{name}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{place} is not UTF-8 ({error}); {_CONVERT}") from error
            if not text.strip():
                blank = blank or place
                continue
            if blank is not None:
                raise ValueError(f"{blank} is blank, but every line is a text; remove it")
            yield text if field is None else _field_of(text, field, place)


def _field_of(line: str, field: str, place: str) -> str:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON: {error}; without --field it is a text") from error
    if not isinstance(content, dict):
        raise ValueError(f"{place} is {shortened(content)}; it must be an object with {field!r}")
    if not isinstance(text := content.get(field), str):
        found = f"{shortened(text)}" if field in content else f"only {listed(content)}"
        raise ValueError(f"{place}: the field {shortened(field)} must be a text; found {found}")
    return text

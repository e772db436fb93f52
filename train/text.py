"""Read text files line by line, and convert them to sequences of token ids.

The corpus is stored as ids, in one flat array with four bytes per token. Of the text itself, only
the lines that are being tokenized are in memory.
"""

import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from minitransformer.files import not_utf8
from minitransformer.names import cut, listed
from minitransformer.tokenization import Tokenizer

_LINES_AT_ONCE = 1000


# Prints the texts of a table as plain text.
_CONVERT = {
    ".csv": "import csv, sys; [print(row['text']) for row in csv.DictReader(sys.stdin)]",
    ".jsonl": "import json, sys; [print(json.loads(line)['text']) for line in sys.stdin]",
}


def text_files(paths: Sequence[Path]) -> list[Path]:
    """The files of `--text`: those named, and of a directory all whose names end in `.txt`.

    Those of a directory and of its subdirectories are sorted by name.

    Raises:
        ValueError: a directory has no such file, or a file is not plain text by its name.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*.txt") if file.is_file())
            if not found:
                raise ValueError(f"there is no .txt file in the directory {path}; name the files")
            files += found
        elif program := _CONVERT.get(path.suffix.lower()):
            raise ValueError(
                f"{path} is a table, and a plain text is needed; if its column is called text: "
                f'python -c "{program}" < {path} > {path.with_suffix(".txt")}'
            )
        else:
            files.append(path)
    return files


def read_lines(files: Sequence[str | Path], *, verbatim: bool = False) -> Iterator[str]:
    """The lines of the files that are not blank, without the white space around them.

    With `verbatim`, all lines unchanged, including line breaks.

    Raises:
        ValueError: a file is missing or is not UTF-8, or all of them are blank.
    """
    empty = True
    for path in files:
        try:
            with open(path, encoding="utf-8-sig") as file:
                for line in file:
                    if text := line.strip():
                        empty = False
                    if text or verbatim:
                        yield line if verbatim else text
        except UnicodeDecodeError as error:
            raise not_utf8(path) from error
        except OSError as error:
            raise ValueError(f"{cut(str(path))} cannot be read: {error.strerror}") from error
    if empty:
        raise ValueError(f"there is no text in {listed(map(str, files))}")


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file without their line breaks, each with its number, from 1.

    A byte order mark is removed. Only `\\n` and `\\r\\n` end a line; other separators, such as
    U+2028, may occur in texts.

    Raises:
        ValueError: the file cannot be read, or is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield number, text.removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ValueError(f"{cut(str(path))} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error


@dataclass(frozen=True)
class TokenSequences:
    """Sequences of token ids, of any length.

    Attributes:
        ids: (all tokens,) int32, one sequence after another.
        starts_word: (all tokens,) bool, True where a token begins a word.
        bounds: (sequences + 1,) int64; sequence i is `ids[bounds[i] : bounds[i + 1]]`.
    """

    ids: np.ndarray
    starts_word: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(sequences,) int64: the number of tokens of each."""
        return np.diff(self.bounds)

    def checksum(self) -> int:
        """A checksum of the sequences."""
        return zlib.crc32(self.ids.tobytes(), zlib.crc32(self.bounds.tobytes()))


class _SequenceBuilder:
    """Collects lines in sequences. A sequence begins with `first_id`, a line ends in `last_id`."""

    def __init__(self, first_id: int, last_id: int, max_length: int, pack: bool) -> None:
        self.first_id, self.last_id = first_id, last_id
        self.max_length, self.pack = max_length, pack
        self.ids, self.starts, self.bounds = array("i"), bytearray(), array("q", [0])
        self.pending_ids: list[int] = []  # of the sequence that is not full yet
        self.pending_starts: list[bool] = []

    def add_line(self, ids: list[int], starts: list[bool]) -> None:
        self.pending_ids += [*ids, self.last_id]
        self.pending_starts += [*starts, True]
        size = self.max_length - 1  # the first token of a sequence is always `first_id`
        done = 0
        while len(self.pending_ids) - done >= size:
            self._close_sequence(
                self.pending_ids[done : done + size], self.pending_starts[done : done + size]
            )
            done += size
        del self.pending_ids[:done], self.pending_starts[:done]
        if not self.pack:
            self.flush()

    def flush(self) -> None:
        if self.pending_ids not in ([], [self.last_id]):
            self._close_sequence(self.pending_ids, self.pending_starts)
        self.pending_ids, self.pending_starts = [], []

    def _close_sequence(self, ids: list[int], starts: list[bool]) -> None:
        self.ids.extend([self.first_id, *ids])
        # The rest of a word that was split counts as a word of the next sequence.
        self.starts.extend([True, True, *starts[1:]])
        self.bounds.append(len(self.ids))

    def sequences(self) -> TokenSequences:
        self.flush()
        return TokenSequences(
            np.frombuffer(self.ids, dtype=np.int32) if self.ids else np.empty(0, np.int32),
            np.frombuffer(self.starts, dtype=bool) if self.starts else np.empty(0, bool),
            np.array(self.bounds),
        )


def tokenize_sequences(
    lines: Iterable[str],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    pack: bool,
    held_out_every: int | None = None,
) -> tuple[TokenSequences, TokenSequences]:
    """Tokenize lines, form sequences of at most `max_length` tokens, and hold some lines out.

    Args:
        lines: without line breaks.
        tokenizer: with cls and sep tokens (`<s>` and `</s>`, or `[CLS]` and `[SEP]`).
        max_length: tokens per sequence, including the special tokens.
        pack: True fills every sequence with one line after another, separated by sep tokens; False
            begins a new sequence with each line. In both cases a line that is too long continues in
            the next sequence, so no text is lost.
        held_out_every: one of this many lines is held out; None holds out no line.

    Returns:
        The sequences to train on, and those held out.
    """
    if max_length < 3:
        raise ValueError(f"max_length={max_length} leaves no room for text; it must be at least 3")
    if held_out_every is not None and held_out_every < 2:
        raise ValueError(
            f"held_out_every={held_out_every} would hold out all lines; at least 2 is needed"
        )
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    trained_on = _SequenceBuilder(first, last, max_length, pack)
    held_out = _SequenceBuilder(first, last, max_length, pack)
    lines = iter(lines)
    count = 0
    while chunk := list(islice(lines, _LINES_AT_ONCE)):
        batch = tokenizer(chunk, add_special_tokens=False)
        for index, ids in enumerate(batch["input_ids"]):
            words = batch.word_ids(index)
            starts = [word != before for word, before in zip(words, [None, *words], strict=False)]
            count += 1
            held = held_out_every is not None and count % held_out_every == 0
            (held_out if held else trained_on).add_line(ids, starts)
    return trained_on.sequences(), held_out.sequences()

"""Text files to rows of token ids, read line by line.

The corpus is held once, as ids: four bytes a token, in one flat array. The text itself is never
in memory beyond the lines that are being tokenized.
"""

import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from minitransformer.files import not_utf8
from minitransformer.tokenization import Tokenizer

_LINES_AT_ONCE = 1000


def read_lines(files: Sequence[str | Path], *, whole: bool = False) -> Iterator[str]:
    """The lines of the files that are not blank, without the white space around them.

    With `whole`, all lines as they stand, line breaks included.

    Raises:
        ValueError: a file is missing or is not UTF-8, or none of them has any text.
    """
    empty = True
    for path in files:
        try:
            with open(path, encoding="utf-8-sig") as file:
                for line in file:
                    if text := line.strip():
                        empty = False
                    if text or whole:
                        yield line if whole else text
        except UnicodeDecodeError as error:
            raise not_utf8(path) from error
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if empty:
        raise ValueError(f"there is no text in {', '.join(map(str, files))}")


@dataclass(frozen=True)
class Rows:
    """Rows of token ids of any length.

    Attributes:
        ids: (all tokens,) int32, row after row.
        starts_word: (all tokens,) bool, True where a token begins a word.
        bounds: (rows + 1,) int64; row i is `ids[bounds[i] : bounds[i + 1]]`.
    """

    ids: np.ndarray
    starts_word: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) int64."""
        return np.diff(self.bounds)

    def checksum(self) -> int:
        """A number that other text, or other rows of it, would hardly have."""
        return zlib.crc32(self.ids.tobytes(), zlib.crc32(self.bounds.tobytes()))


class _RowBuilder:
    """Collects lines of ids into rows, each framed by the tokenizer's two special tokens."""

    def __init__(self, first_id: int, last_id: int, max_length: int, pack: bool) -> None:
        self.first_id, self.last_id = first_id, last_id
        self.max_length, self.pack = max_length, pack
        self.ids, self.starts, self.bounds = array("i"), bytearray(), array("q", [0])
        self.pending_ids: list[int] = []  # of a row that is not full yet
        self.pending_starts: list[bool] = []

    def add_line(self, ids: list[int], starts: list[bool]) -> None:
        self.pending_ids += [*ids, self.last_id]
        self.pending_starts += [*starts, True]
        room = self.max_length - 1  # the first token of a row is always `first_id`
        done = 0
        while len(self.pending_ids) - done >= room:
            self._close_row(
                self.pending_ids[done : done + room], self.pending_starts[done : done + room]
            )
            done += room
        del self.pending_ids[:done], self.pending_starts[:done]
        if not self.pack:
            self.flush()

    def flush(self) -> None:
        if self.pending_ids not in ([], [self.last_id]):
            self._close_row(self.pending_ids, self.pending_starts)
        self.pending_ids, self.pending_starts = [], []

    def _close_row(self, ids: list[int], starts: list[bool]) -> None:
        self.ids.extend([self.first_id, *ids])
        # What is cut in the middle of a word begins anew in the next row.
        self.starts.extend([True, True, *starts[1:]])
        self.bounds.append(len(self.ids))

    def rows(self) -> Rows:
        self.flush()
        return Rows(
            np.frombuffer(self.ids, dtype=np.int32) if self.ids else np.empty(0, np.int32),
            np.frombuffer(self.starts, dtype=bool) if self.starts else np.empty(0, bool),
            np.array(self.bounds),
        )


def tokenize_rows(
    lines: Iterable[str],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    pack: bool,
    held_out_every: int | None = None,
) -> tuple[Rows, Rows]:
    """Tokenize lines into rows of at most `max_length` tokens, and hold some lines out.

    Args:
        lines: without line breaks.
        tokenizer: with cls and sep tokens (`<s>` and `</s>`, or `[CLS]` and `[SEP]`).
        max_length: tokens a row, the special ones counted.
        pack: True fills every row with one line after another, with a sep token between them;
            False begins a row with each line. In both, a line that is too long goes on in the
            next row, so nothing is lost.
        held_out_every: every so many lines, one goes to the second result.

    Returns:
        The rows to train on, and the rows held out.
    """
    if max_length < 3:
        raise ValueError(f"max_length={max_length} leaves no room between the special tokens")
    if held_out_every is not None and held_out_every < 2:
        raise ValueError(f"held_out_every={held_out_every} would hold out every line")
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    kept = _RowBuilder(first, last, max_length, pack)
    held_out = _RowBuilder(first, last, max_length, pack)
    lines = iter(lines)
    count = 0
    while chunk := list(islice(lines, _LINES_AT_ONCE)):
        batch = tokenizer(chunk, add_special_tokens=False)
        for row, ids in enumerate(batch["input_ids"]):
            words = batch.word_ids(row)
            starts = [word != before for word, before in zip(words, [None, *words], strict=False)]
            count += 1
            held = held_out_every is not None and count % held_out_every == 0
            (held_out if held else kept).add_line(ids, starts)
    return kept.rows(), held_out.rows()

"""Pairs of a source text and a target text, in a file with a pair per line:

    la zia di Laura legge un libro.<TAB>Laura's aunt reads a book.
    ciao, come va?<TAB>hello, how is it going?

The file is UTF-8, has no header, and has a tab between source and target. White space around texts
is removed, and blank lines are skipped. CSV and JSON lines, whose columns have names, are read too.

Letters: B batch, S source tokens, T target tokens.
"""

import shlex
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from minitransformer.models.losses import IGNORED_LABEL
from minitransformer.names import shortened
from minitransformer.tokenization import BatchEncoding
from train.batching import BatchOrder, pad_sequences
from train.tables import has_named_columns, read_table
from train.text import numbered_lines

_FORMAT = "a line must be a source, a tab and a target"
_OPTIONS = ("--source-column", "--target-column")
# The usual names of columns; the first decides where several are there.
_USUAL = (
    ("source", "src", "input", "text", "article", "document", "dialogue", "question"),
    ("target", "tgt", "trg", "output", "summary", "highlights", "answer"),
)
# Those, and languages: a first line of them is a header.
_COLUMN_NAMES = {*_USUAL[0], *_USUAL[1], "english", "italian", "en", "de", "fr", "it", "es"}


@dataclass(frozen=True, slots=True)
class TextPair:
    """A text, the text to generate from it, and their line in the file, counted from 1."""

    source: str
    target: str
    line_number: int


def read_pairs(
    path: str | Path, source_column: str | None = None, target_column: str | None = None
) -> list[TextPair]:
    """Read a file of pairs.

    Args:
        path: of the file.
        source_column, target_column: the columns of a table, see :mod:`train.tables`: their names,
            or, of a file without a header, their numbers. Without them CSV and JSON lines have
            columns with usual names, such as "source", and every other file is as described above.

    Raises:
        ValueError: the file is missing, is not UTF-8 or contains no pair, or a line does not have
            two fields, has an empty one, or is the first and contains names of columns; a column
            does not exist, is named twice, or is not text. The message names the line.
    """
    if source_column or target_column or has_named_columns(path):
        return _pairs_of_table(path, source_column, target_column)
    pairs = [
        _text_pair(line, line_number, f"{path}, line {line_number}")
        for line_number, line in numbered_lines(path)
        if line.strip(" ")
    ]
    if not pairs:
        raise ValueError(f"{path} contains no pair of texts; {_FORMAT}")
    first = pairs[0]
    if {first.source.lower(), first.target.lower()} <= _COLUMN_NAMES:
        raise ValueError(
            f"{path}, line {first.line_number}: {shortened(first.source)} and "
            f"{shortened(first.target)} look like a header; if they are one, add --source-column "
            f"{shlex.quote(first.source)} --target-column {shlex.quote(first.target)}; if they are "
            "a pair, move it below another one"
        )
    return pairs


def _pairs_of_table(
    path: str | Path, source_column: str | None, target_column: str | None
) -> list[TextPair]:
    given = source_column, target_column
    numbered = all(name is not None and name.isdigit() for name in given)
    table = read_table(path, header=not numbered)
    names, columns = [], []
    for option, name, usual in zip(_OPTIONS, given, _USUAL, strict=True):
        names.append(table.find(option, name, usual))
        columns.append(table.column(names[-1], option))
    if names[0] == names[1]:
        raise ValueError(
            f"{path}: {' and '.join(_OPTIONS)} are both {shortened(names[0])}; choose two columns"
        )
    for option, name, values in zip(_OPTIONS, names, columns, strict=True):
        for value, number in zip(values, table.line_numbers, strict=True):
            where = f"{path}, line {number}"
            if not isinstance(value, str):
                raise ValueError(
                    f"{where}: {shortened(name)} is {shortened(value)}, not a text; choose another "
                    f'column with {option}, such as "{name}.en" for a field of an object'
                )
            if not value.strip():
                raise ValueError(f"{where}: {shortened(name)} is empty; fill it or delete the line")
    return [
        TextPair(source.strip(), target.strip(), number)
        for source, target, number in zip(*columns, table.line_numbers, strict=True)
    ]


class PairBatches:
    """Batches of pairs of similar length; they depend only on the seed, the epoch and the index.

    Args:
        sources: the tokenized sources, without padding.
        targets: the tokenized targets, each with its end token.
        pad_token_id: the tokenizer's.
        batch_size: pairs per batch.
        seed: for the order.

    Raises:
        ValueError: there are no pairs.
    """

    def __init__(
        self,
        sources: BatchEncoding,
        targets: BatchEncoding,
        *,
        pad_token_id: int,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        assert len(sources.encodings) == len(targets.encodings)
        self.sources = sources
        self.targets = [np.array(encoding.ids) for encoding in targets.encodings]
        self.pad_token_id = pad_token_id
        lengths = np.array([len(encoding) for encoding in sources.encodings])
        lengths += [len(target) for target in self.targets]
        self.order = BatchOrder(lengths, batch_size=batch_size, seed=seed)

    @property
    def num_batches(self) -> int:
        """Number of batches per epoch."""
        return self.order.num_batches

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, (B, S), and `labels`, (B, T), -100 at padding."""
        indices = self.order.example_indices(epoch, index)
        inputs = self.sources.padded_batch(indices.tolist(), self.pad_token_id)  # (B, S) each
        labels = pad_sequences([self.targets[index] for index in indices], IGNORED_LABEL)
        return {**inputs, "labels": labels}

    def checksum(self) -> int:
        """A checksum of the pairs."""
        total = 0
        for source, target in zip(self.sources["input_ids"], self.targets, strict=True):
            total = zlib.crc32(np.array(source).tobytes() + target.tobytes(), total)
        return total


def _text_pair(line: str, line_number: int, where: str) -> TextPair:
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) == 1:
        raise ValueError(f"{where}: there is no tab in {shortened(line)}; {_FORMAT}")
    if len(fields) > 2:
        raise ValueError(
            f"{where}: there are {len(fields)} fields in {shortened(line)}; {_FORMAT}. To keep two "
            "columns: --source-column 2 --target-column 3, or their names if there is a header"
        )
    for name, field in zip(("source", "target"), fields, strict=True):
        if not field:
            raise ValueError(f"{where}: the {name} is empty; {_FORMAT}")
    return TextPair(fields[0], fields[1], line_number)

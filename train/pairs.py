"""Pairs of texts, to learn one from the other: a source, a tab and its target on every line.

    la zia di Laura legge un libro.<TAB>Laura's aunt reads a book.
    ciao, come va?<TAB>hello, how is it going?

UTF-8, without a header. White space around the texts is left out, and blank lines are passed over.

B batch, S source tokens, T target tokens.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from minitransformer.models.losses import IGNORED_LABEL
from minitransformer.tokenization import BatchEncoding
from train.batching import BatchOrder, pad_sequences
from train.text import numbered_lines

_FORM = "a line is a source, a tab and a target"
_HEADERS = {("source", "target"), ("src", "tgt"), ("input", "output")}


@dataclass(frozen=True, slots=True)
class TextPair:
    """A text, what is to be generated from it, and the row of the file, counted from 1."""

    source: str
    target: str
    row: int


def read_pairs(path: str | Path) -> list[TextPair]:
    """Read a file of pairs.

    Raises:
        ValueError: the file is missing, is not UTF-8 or holds no pair, or a line has another number
            of fields than two, an empty field, or is a header. The message names the row.
    """
    pairs = [
        _text_pair(line, row, f"{path}, row {row}")
        for row, line in numbered_lines(path)
        if line.strip(" ")
    ]
    if not pairs:
        raise ValueError(f"{path} holds no pair of texts; {_FORM}")
    first = pairs[0]
    if (first.source.lower(), first.target.lower()) in _HEADERS:
        raise ValueError(
            f"{path}, row {first.row}: {first.source!r} and {first.target!r} are a header, not a "
            "pair; delete the line"
        )
    return pairs


class PairBatches:
    """Pairs of like length; each batch is a function of seed, epoch and number.

    Args:
        sources: the tokenized sources, without padding.
        targets: the tokenized targets, each with the token that ends it.
        pad_token_id: of the tokenizer.
        batch_size: pairs a batch.
        seed: of the order.

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
        """Batches in an epoch."""
        return self.order.num_batches

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, (B, S), and `labels`, (B, T), -100 at padding."""
        numbers = self.order.examples(epoch, index)
        inputs = self.sources.padded_rows(numbers.tolist(), self.pad_token_id)  # (B, S) each
        labels = pad_sequences([self.targets[number] for number in numbers], IGNORED_LABEL)
        return {**inputs, "labels": labels}

    def checksum(self) -> int:
        """A number that other pairs would hardly have."""
        total = 0
        for source, target in zip(self.sources["input_ids"], self.targets, strict=True):
            total = zlib.crc32(np.array(source).tobytes() + target.tobytes(), total)
        return total


def _text_pair(line: str, row: int, where: str) -> TextPair:
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) == 1:
        raise ValueError(f"{where}: there is no tab in {line!r:.60}; {_FORM}")
    if len(fields) > 2:
        raise ValueError(
            f"{where}: there are {len(fields)} fields in {line!r:.60}; {_FORM}. For two columns of "
            "several: cut -f2,3"
        )
    for name, field in zip(("source", "target"), fields, strict=True):
        if not field:
            raise ValueError(f"{where}: the {name} is empty; {_FORM}")
    return TextPair(fields[0], fields[1], row)

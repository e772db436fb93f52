"""Plain text to one long sequence of token ids, and that to batches.

Unlike :mod:`train.text`, nothing of the text is left out: a model that is to generate text must see
line breaks and blank lines too.

B batch, T tokens, N tokens of the text.
"""

import json
import re
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from minitransformer.models.losses import IGNORED_LABEL
from minitransformer.tokenization import Tokenizer
from minitransformer.tokenization.loading import GPT2, ROBERTA_ORDER, byte_level
from train.batching import BatchOrder
from train.loop import Batch
from train.text import read_lines

_CHUNK = 20_000  # characters that are tokenized at once, more or less
_CHUNKS_AT_ONCE = 8
_LAST_SPACE = re.compile(r"[ \n](?=\S)")
_BYTES = 256  # tokens that every byte-level vocabulary has


def read_documents(files: Sequence[str | Path]) -> list[str]:
    r"""The whole text of each file; Windows line ends become `\n`.

    Raises:
        ValueError: a file is missing, empty, or not UTF-8.
    """
    return ["".join(read_lines([path], whole=True)) for path in files]


def hold_out_tail(documents: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """Cut off the last `share` of all characters, from the beginning of a line on.

    In the first line of a document, the cut is made within the line.

    The cut depends on the text alone, so that models with different tokenizers are measured on the
    same characters.

    Returns:
        What stays, and the tail; either is a list of documents and parts of them.

    Raises:
        ValueError: the share is not between 0 and 1, or one side would have no text.
    """
    if not 0 < share < 1:
        raise ValueError(f"held_out={share} is a share of the text, between 0 and 1")
    rest, tail = list(documents), list[str]()
    missing = round(share * sum(map(len, documents)))  # characters that the tail still lacks
    while missing > 0 and rest:
        document = rest.pop()
        cut = max(0, len(document) - missing)
        cut = document.rfind("\n", 0, cut) + 1 or cut
        missing -= len(document)
        tail.insert(0, document[cut:])
        if cut:
            rest.append(document[:cut])
    if not "".join(rest).strip() or not "".join(tail).strip():
        raise ValueError(
            f"held_out={share} of {sum(map(len, documents))} characters leaves nothing to train "
            "on, or nothing to measure on; give more text, or a --dev file"
        )
    return rest, tail


def train_tokenizer(documents: Sequence[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer like GPT-2's: `<|endoftext|>` is its only special token.

    It puts nothing before or after a text, so that a model can go on from the end of a prompt.

    Args:
        documents: to learn from.
        vocab_size: tokens; it has fewer where the text has no more pairs that occur twice.

    Raises:
        ValueError: the vocabulary would not hold the 256 bytes.
    """
    if vocab_size <= _BYTES:
        raise ValueError(
            f"vocab_size={vocab_size} is too small: the {_BYTES} bytes and <|endoftext|> alone are "
            f"{_BYTES + 1} tokens"
        )
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "text.txt"
        file.write_text("\n".join(documents), encoding="utf-8")
        trained = Tokenizer.train(file, vocab_size=vocab_size - 1 + len(ROBERTA_ORDER))
    # What was learnt is a table of tokens; RoBERTa's special ones stand at its head.
    learnt = json.loads(trained.backend.to_str())["model"]
    tokens = sorted(learnt["vocab"], key=learnt["vocab"].get)[len(ROBERTA_ORDER) :]
    vocab = {token: number for number, token in enumerate([*tokens, GPT2["eos_token"]])}
    return Tokenizer(byte_level(vocab, [(left, right) for left, right in learnt["merges"]]), GPT2)


def chunks(text: str, size: int = _CHUNK) -> Iterator[str]:
    """Cut a text into chunks of little more than `size` characters, where no token is changed.

    GPT-2 splits white space before a visible character in two: its last character, which goes with
    a word if it is a space, and all that stands before it. So a chunk may begin with the last one.
    """
    start = 0
    while found := _LAST_SPACE.search(text, start + size):
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


def tokenize(documents: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """(N,) int32: one document after the other, each behind the token that ends a text.

    Raises:
        MissingTokenError: there is no such token.
    """
    ids = array("i")
    with tqdm(total=sum(map(len, documents)), desc="tokenizing", unit="char") as bar:
        for document in documents:
            ids.append(tokenizer.eos_token_id)
            parts = chunks(document)
            while texts := list(islice(parts, _CHUNKS_AT_ONCE)):
                for part in tokenizer(texts, add_special_tokens=False)["input_ids"]:
                    ids.extend(part)
                bar.update(sum(map(len, texts)))
    return np.frombuffer(ids, dtype=np.int32)


class TextBatches:
    """Batches of sequences of T tokens that are cut from one long text.

    A sequence begins with the last token of the one before, because its first token is not
    predicted: so each token of the text is predicted once an epoch, but the very first. Where the
    order is drawn, so is the first cut: then no token is always at the beginning of its sequence,
    where little is known of what came before. The text is a ring for this, its end joined to its
    beginning, which is the token that ends a text.

    Args:
        ids: (N,), of :func:`tokenize`.
        max_length: T; the last sequence may be shorter.
        batch_size: sequences a batch.
        seed: of the cut and the order.
        shuffle: False goes through the text from its beginning to its end, in every epoch.

    Raises:
        ValueError: a sequence would predict nothing.
    """

    def __init__(
        self,
        ids: np.ndarray,
        *,
        max_length: int,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        if max_length < 2:
            raise ValueError(
                f"max_length={max_length}: the first token of a sequence is not predicted"
            )
        self.ids = ids
        self.seed = seed
        self.shuffle = shuffle
        self._starts = np.arange(0, len(ids) - 1, max_length - 1)  # (sequences,)
        self._lengths = np.minimum(max_length, len(ids) - self._starts)  # (sequences,)
        self._order = BatchOrder(self._lengths, batch_size=batch_size, seed=seed, shuffle=shuffle)

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return self._order.num_batches

    def batch(self, epoch: int, index: int) -> Batch:
        """`input_ids`, `attention_mask` and `labels`, (B, T) each."""
        numbers = self._order.examples(epoch, index)
        starts, lengths = self._first_cut(epoch) + self._starts[numbers], self._lengths[numbers]
        positions = starts[:, None] + np.arange(lengths.max())  # (B, T)
        input_ids = torch.from_numpy(self.ids.take(positions, mode="wrap").astype(np.int64))
        attention_mask = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])  # (B, T)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": input_ids.masked_fill(~attention_mask, IGNORED_LABEL),
        }

    def checksum(self) -> int:
        """A number that another text would hardly have."""
        return zlib.crc32(self.ids.tobytes())

    def _first_cut(self, epoch: int) -> int:
        if not self.shuffle:
            return 0
        return int(np.random.default_rng([self.seed, epoch, 1]).integers(len(self.ids)))

"""Convert plain text to one long sequence of token ids, and that to batches.

Unlike in :mod:`train.text`, no character is left out, because a model that generates text must also
learn line breaks and blank lines.

Letters: B batch, T tokens, N tokens of the text.
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
from minitransformer.tokenization.pipelines import GPT2, ROBERTA_ORDER, byte_level
from train.batching import BatchOrder
from train.loop import Batch
from train.text import read_lines

_CHUNK = 20_000  # approximate number of characters that are tokenized at once
_CHUNKS_AT_ONCE = 8
_LAST_SPACE = re.compile(r"[ \n](?=\S)")
_BYTES = 256  # number of tokens for single bytes in a byte-level vocabulary


def read_documents(files: Sequence[str | Path]) -> list[str]:
    r"""The whole text of each file; Windows line breaks become `\n`.

    Raises:
        ValueError: a file is missing, empty, or not UTF-8.
    """
    return ["".join(read_lines([path], verbatim=True)) for path in files]


def hold_out_tail(documents: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """Split off the last `share` of all characters, at the beginning of a line.

    In the first line of a document the text is split within the line. The split depends only on
    the text, so that models with different tokenizers are evaluated on the same characters.

    Returns:
        The text to train on and the held-out text, as lists of documents and parts of them.

    Raises:
        ValueError: the share is not between 0 and 1, or one of the two would have no text.
    """
    if not 0 < share < 1:
        raise ValueError(f"held_out={share} must be a fraction of the text, between 0 and 1")
    rest, tail = list(documents), list[str]()
    missing = round(share * sum(map(len, documents)))  # characters that still have to be held out
    while missing > 0 and rest:
        document = rest.pop()
        split = max(0, len(document) - missing)
        split = document.rfind("\n", 0, split) + 1 or split
        missing -= len(document)
        tail.insert(0, document[split:])
        if split:
            rest.append(document[:split])
    if not "".join(rest).strip() or not "".join(tail).strip():
        raise ValueError(
            f"held_out={share} of {sum(map(len, documents))} characters leaves no text to train "
            "on, or none to evaluate on; give more text, or a --dev file"
        )
    return rest, tail


def train_tokenizer(documents: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer like GPT-2's; its only special token is `<|endoftext|>`.

    It adds no tokens before or after a text, so that a model can continue a prompt.

    Args:
        documents: the text to train on.
        vocab_size: the number of tokens; fewer if the text has not enough pairs that occur twice.

    Raises:
        ValueError: the vocabulary has no room for the 256 bytes.
    """
    if vocab_size <= _BYTES:
        raise ValueError(
            f"vocab_size={vocab_size} is too small: the {_BYTES} bytes and <|endoftext|> need "
            f"{_BYTES + 1} tokens"
        )
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "text.txt"
        file.write_text("\n".join(documents), encoding="utf-8")
        trained = Tokenizer.train(file, vocab_size=vocab_size - 1 + len(ROBERTA_ORDER))
    # RoBERTa's special tokens, which have the first ids, are replaced by GPT-2's.
    model = json.loads(trained.backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)[len(ROBERTA_ORDER) :]
    vocab = {token: index for index, token in enumerate([*tokens, GPT2["eos_token"]])}
    backend = byte_level(vocab, [(left, right) for left, right in model["merges"]])
    return Tokenizer(backend, GPT2)


def chunks(text: str, size: int = _CHUNK) -> Iterator[str]:
    """Split a text into chunks of little more than `size` characters, without changing a token.

    GPT-2's pre-tokenizer splits white space before its last character, which is joined to the next
    word if it is a space. So a chunk may begin with that character.
    """
    start = 0
    while found := _LAST_SPACE.search(text, start + size):
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


def tokenize(documents: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """Tokenize documents: (N,) int32, with the eos token before each document.

    Raises:
        MissingTokenError: the tokenizer has no eos token.
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
    """Batches of sequences of T tokens, which are consecutive parts of one long text.

    A sequence begins with the last token of the one before, because the first token of a sequence
    is not predicted. So every token of the text but the first is predicted once per epoch.

    With `shuffle` the first sequence of an epoch begins at a random token, and the text continues
    at its end with its beginning, which is an eos token. So no token is at the beginning of a
    sequence, where it has little context, in every epoch.

    Args:
        ids: (N,), from :func:`tokenize`.
        max_length: T; the last sequence may be shorter.
        batch_size: sequences per batch.
        seed: for the first token and the order.
        shuffle: False goes through the text from its beginning to its end in every epoch.

    Raises:
        ValueError: `max_length` is 1, so no token would be predicted.
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
                f"max_length={max_length} must be at least 2: the first token is not predicted"
            )
        self.ids = ids
        self.seed = seed
        self.shuffle = shuffle
        self._starts = np.arange(0, len(ids) - 1, max_length - 1)  # (sequences,)
        self._lengths = np.minimum(max_length, len(ids) - self._starts)  # (sequences,)
        self._order = BatchOrder(self._lengths, batch_size=batch_size, seed=seed, shuffle=shuffle)

    @property
    def num_batches(self) -> int:
        """Number of batches per epoch."""
        return self._order.num_batches

    def batch(self, epoch: int, index: int) -> Batch:
        """`input_ids`, `attention_mask` and `labels`, (B, T) each."""
        indices = self._order.example_indices(epoch, index)
        starts, lengths = self._first_token(epoch) + self._starts[indices], self._lengths[indices]
        positions = starts[:, None] + np.arange(lengths.max())  # (B, T)
        input_ids = torch.from_numpy(self.ids.take(positions, mode="wrap").astype(np.int64))
        attention_mask = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])  # (B, T)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": input_ids.masked_fill(~attention_mask, IGNORED_LABEL),
        }

    def checksum(self) -> int:
        """A checksum of the text."""
        return zlib.crc32(self.ids.tobytes())

    def _first_token(self, epoch: int) -> int:
        if not self.shuffle:
            return 0
        return int(np.random.default_rng([self.seed, epoch, 1]).integers(len(self.ids)))

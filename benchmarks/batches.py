"""Sequences of tokens, of real text or made up with lengths that are stated, and their batches.

B batch, T tokens of the longest sequence in it.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minitransformer.tokenization import Tokenizer
from train.batching import pad_sequences
from train.masking import mask_tokens
from train.squad import read_squad
from train.squad_features import make_features
from train.text import read_lines, tokenize_sequences

FIRST_WORD = 5  # below are the special tokens, in the order of a tokenizer that is trained here
CLS, PAD, SEP, MASK = 0, 1, 2, 4
RANDOM, SORTED = "random", "sorted"  # the order of the sequences of which batches are made
FULL, LINES, SQUAD, RAGGED = "full", "lines", "squad", "ragged"  # kinds of sequences

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Sequences:
    """Sequences of tokens, each as long as it is.

    Attributes:
        source: what they are, for people.
        ids: of each sequence, special tokens included.
        spans: (sequences, 2) first and last token of an answer, for question answering.
        pad_token_id: what a shorter sequence of a batch is padded with.
    """

    source: str
    ids: Sequence[np.ndarray]
    spans: np.ndarray | None = None
    pad_token_id: int = PAD

    @property
    def lengths(self) -> np.ndarray:
        """(sequences,) tokens of each."""
        return np.array([len(ids) for ids in self.ids])

    def batch(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """Some sequences, padded on the right to the longest of them.

        Returns:
            `input_ids` and `attention_mask`, (B, T) int64; with answers `start_positions` and
            `end_positions`, (B,) int64.
        """
        chosen = [self.ids[number] for number in numbers]
        batch = {
            "input_ids": pad_sequences(chosen, self.pad_token_id),
            "attention_mask": pad_sequences([np.ones(len(ids), np.int64) for ids in chosen], 0),
        }
        if self.spans is not None:
            start, end = torch.from_numpy(self.spans[numbers]).long().unbind(dim=1)
            batch |= {"start_positions": start, "end_positions": end}
        return batch

    def batches(self, order: str, size: int, count: int) -> list[Batch]:
        """So many batches, drawn at random or out of those that sorting by length makes.

        Raises:
            ValueError: there are fewer sequences than one batch needs.
        """
        if len(self.ids) < size:
            raise ValueError(
                f"{len(self.ids)} sequences are too few for a batch of {size}; give more text"
            )
        choose = random_batches if order == RANDOM else sorted_batches
        return [self.batch(numbers) for numbers in choose(self.lengths, size, count)]


def text_sequences(
    files: Sequence[Path], vocab_size: int, length: int
) -> tuple[Sequences, Sequences]:
    """The lines of text files, one a sequence, and the same text in sequences of full length.

    A byte-level BPE is trained on the text itself.

    Raises:
        ValueError: a file is no text, or there is less text than one full sequence.
    """
    tokenizer = Tokenizer.train(files, vocab_size=vocab_size, show_progress=False)
    made = []
    for pack, what in ((False, "one line per sequence"), (True, "sequences of full length")):
        found, _ = tokenize_sequences(read_lines(files), tokenizer, max_length=length, pack=pack)
        ids = [found.ids[a:b] for a, b in zip(found.bounds[:-1], found.bounds[1:], strict=True)]
        if pack:
            ids = [sequence for sequence in ids if len(sequence) == length]
        source = f"{what}, of {len(files)} files, BPE of {tokenizer.vocab_size:,}"
        made.append(Sequences(source, ids))
    lines, full = made
    if not full.ids:
        raise ValueError(f"--text has less text than one sequence of {length} tokens; give more")
    return lines, full


def squad_sequences(file: Path, vocab_size: int, length: int) -> Sequences:
    """The windows of the questions of a SQuAD file, as fine-tuning has them.

    Of 384 tokens two windows share 128, and a question has 64 at most; with another length, as many
    in proportion. A WordPiece vocabulary is trained on the contexts and questions.
    """
    examples = read_squad(file).examples
    texts = {" ".join(e.context.split()) for e in examples} | {e.question for e in examples}
    tokenizer = _word_pieces(sorted(texts), vocab_size)
    features = make_features(
        examples,
        tokenizer,
        max_length=length,
        stride=length // 3,
        max_question_length=length // 6,
        show_progress=False,
    )
    windows = np.flatnonzero(features.trainable)
    return Sequences(
        f"{len(windows):,} windows of {file.name}, WordPiece of {tokenizer.vocab_size:,}",
        [features.input_ids[features.tokens(int(window))] for window in windows],
        np.stack([features.start_positions, features.end_positions], axis=1)[windows],
        tokenizer.pad_token_id,
    )


def mixed_sequences(
    texts: Sequence[Path], squad: Path | None, vocab_size: int, length: int
) -> Sequences:
    """The lines of text files up to a tab, and the contexts of a SQuAD file, in random order.

    A WordPiece vocabulary is trained on them; sequences longer than `length` are truncated.
    """
    sentences = [line.split("\t")[0].strip() for line in read_lines(texts)] if texts else []
    contexts: list[str] = []
    if squad is not None:
        contexts = sorted({" ".join(e.context.split()) for e in read_squad(squad).examples})
    lines = [line for line in sentences + contexts if line]
    tokenizer = _word_pieces(lines, vocab_size)
    encoded = tokenizer(lines, truncation=True, max_length=length)["input_ids"]
    order = np.random.default_rng(0).permutation(len(lines))
    return Sequences(
        f"{len(sentences):,} sentences and {len(contexts):,} paragraphs, "
        f"WordPiece of {tokenizer.vocab_size:,}",
        [np.array(encoded[number]) for number in order],
        pad_token_id=tokenizer.pad_token_id,
    )


def made_up(kind: str, vocab_size: int, length: int) -> Sequences:
    """Random ids, with lengths that are distributed like those of real text of this kind.

    Lines are like those of Italian books, RAGGED are sentences and paragraphs, and windows of SQuAD
    get answers; any other kind has full length.
    """
    random = np.random.default_rng(0)
    if kind == LINES:
        lengths = np.exp(random.normal(3.15, 0.9, 4096))
        what = "log-normal around 23 tokens (sigma 0.9)"
    elif kind == SQUAD:
        middle, sigma = 160 * length / 384, 60 * length / 384
        lengths = random.normal(middle, sigma, 1024)
        what = f"normal around {middle:.0f} tokens (sigma {sigma:.0f})"
    elif kind == RAGGED:
        both = random.normal(24, 11, 512), random.normal(150, 60, 512)
        lengths = random.permutation(np.concatenate(both))
        what = "half normal around 24 tokens (sigma 11), half around 150 (sigma 60)"
    else:
        lengths, what = np.full(64, length), f"{length} tokens"
    made = []
    for number in np.clip(lengths, 4, length).astype(int):
        ids = random.integers(FIRST_WORD, vocab_size, number)
        ids[0], ids[-1] = CLS, SEP
        made.append(ids)
    spans = None
    if kind == SQUAD:
        ends = np.array([len(ids) - 1 for ids in made])
        spans = np.sort(random.integers(1, ends[:, None], (len(made), 2)), axis=1)
    return Sequences(f"made up, lengths {what}", made, spans)


def random_batches(lengths: np.ndarray, size: int, count: int) -> list[np.ndarray]:
    """The numbers of the sequences of batches that are drawn without regard to length."""
    order = np.random.default_rng(0).permutation(len(lengths))
    batches = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    return [batches[number % len(batches)] for number in range(count)]


def sorted_batches(lengths: np.ndarray, size: int, count: int) -> list[np.ndarray]:
    """Some of the batches into which all sequences are cut when they are sorted by length.

    From the shortest to the longest, all batches are split into `count` parts; of each that batch
    is taken whose number of tokens is closest to the part's mean. So the chosen ones have together
    nearly the tokens of an epoch's.
    """
    order = np.argsort(lengths, kind="stable")
    batches = order[: len(order) // size * size].reshape(-1, size)
    tokens = lengths[batches].sum(axis=1)
    chosen = []
    for part in np.array_split(np.arange(len(batches)), min(count, len(batches))):
        chosen.append(batches[part[np.abs(tokens[part] - tokens[part].mean()).argmin()]])
    np.random.default_rng(0).shuffle(chosen)
    return [chosen[number % len(chosen)] for number in range(count)]


def lengths_of(batch: Batch) -> np.ndarray:
    """(B,) real tokens of each sequence."""
    if "attention_mask" not in batch:
        return np.full(*batch["input_ids"].shape)
    return batch["attention_mask"].sum(dim=1).cpu().numpy()


def without_useless_mask(batch: Batch) -> Batch:
    """The batch without its mask, if nothing is padded."""
    useful = not bool(batch["attention_mask"].all())
    return {name: tensor for name, tensor in batch.items() if useful or name != "attention_mask"}


def pad_to(length: int, batch: Batch) -> Batch:
    """The batch padded to a fixed length."""
    extra = length - batch["input_ids"].shape[1]
    names = ("input_ids", "attention_mask")
    return batch | {n: torch.nn.functional.pad(batch[n], (0, extra)) for n in names}


def masked_batch(batch: Batch, vocab_size: int) -> Batch:
    """The batch with masked tokens and `labels`, (B, T): 15% of the tokens, as usual."""
    ids, labels = mask_tokens(
        batch["input_ids"].numpy(),
        None,
        random=np.random.default_rng(0),
        probability=0.15,
        mask_token_id=MASK,
        ordinary_ids=np.arange(FIRST_WORD, vocab_size),
    )
    return batch | {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


def _word_pieces(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A lower-case WordPiece vocabulary of some texts."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "text"
        file.write_text("\n".join(texts), encoding="utf-8")
        return Tokenizer.train(
            file, vocab_size, algorithm="wordpiece", lowercase=True, show_progress=False
        )

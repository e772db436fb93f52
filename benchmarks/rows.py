"""Rows of tokens for the benchmarks: of real text, or made up with lengths that are stated.

B rows, T tokens of the longest of them.
"""

import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minitransformer.tokenization import Tokenizer
from train.batching import pad_sequences
from train.squad import read_squad
from train.squad_features import make_features
from train.text import read_lines, tokenize_sequences

FIRST_WORD = 5  # below are the special tokens, in the order of a tokenizer that is trained here
CLS, PAD, SEP, MASK = 0, 1, 2, 4

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Rows:
    """Rows of tokens, as long as they are.

    Attributes:
        source: what they are, for people.
        ids: of each row, special tokens included.
        spans: (rows, 2) the first and the last token of an answer, for question answering.
        pad_token_id: what fills a row up.
    """

    source: str
    ids: Sequence[np.ndarray]
    spans: np.ndarray | None = None
    pad_token_id: int = PAD

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) tokens of each."""
        return np.array([len(row) for row in self.ids])

    def checksum(self) -> int:
        """A number that other rows, or other answers in them, would hardly have."""
        total = self.pad_token_id
        for row in self.ids:
            total = zlib.crc32(np.asarray(row).tobytes(), total)
        return total if self.spans is None else zlib.crc32(self.spans.tobytes(), total)

    def padded(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """Some rows filled up on the right, to the longest of them.

        Returns:
            `input_ids` and `attention_mask`, (B, T) int64; with answers `start_positions` and
            `end_positions`, (B,) int64.
        """
        rows = [self.ids[number] for number in numbers]
        batch = {
            "input_ids": pad_sequences(rows, self.pad_token_id),
            "attention_mask": pad_sequences([np.ones(len(row), np.int64) for row in rows], 0),
        }
        if self.spans is not None:
            start, end = torch.from_numpy(self.spans[numbers]).long().unbind(dim=1)
            batch |= {"start_positions": start, "end_positions": end}
        return batch


def text_rows(files: Sequence[Path], vocab_size: int, length: int) -> tuple[Rows, Rows]:
    """The lines of text files, one a row, and the same text in full rows.

    A byte-level BPE is trained on the text itself.

    Raises:
        ValueError: a file is missing or is no text, or there is less text than one full row.
    """
    check_files("--text", files)
    tokenizer = Tokenizer.train(files, vocab_size=vocab_size, show_progress=False)
    made = []
    for pack in (False, True):
        rows, _ = tokenize_sequences(read_lines(files), tokenizer, max_length=length, pack=pack)
        ids = [rows.ids[a:b] for a, b in zip(rows.bounds[:-1], rows.bounds[1:], strict=True)]
        what = "full rows" if pack else "one line a row"
        if pack:
            ids = [row for row in ids if len(row) == length]
        made.append(Rows(f"{what}, of {len(files)} files, BPE of {tokenizer.vocab_size:,}", ids))
    lines, full = made
    if not len(full.ids):
        raise ValueError(f"--text has less text than one row of {length} tokens; give more of it")
    return lines, full


def made_up_rows(vocab_size: int, length: int, seed: int = 0) -> tuple[Rows, Rows]:
    """Random ids: rows whose lengths are distributed like those of lines of books, and full ones.

    The logarithm of a length has a mean of 3.15 and a standard deviation of 0.9, as that of
    Italian lines: half of the rows have up to 23 tokens, one of a hundred more than 190.
    """
    random = np.random.default_rng(seed)
    lengths = np.clip(np.exp(random.normal(3.15, 0.9, 4096)), 4, length).astype(int)
    source = "made up, lengths log-normal around 23 tokens (sigma 0.9)"
    lines = Rows(source, [_random_row(random, n, vocab_size) for n in lengths])
    full = [_random_row(random, length, vocab_size) for _ in range(64)]
    return lines, Rows("made up, full rows", full)


def squad_rows(file: Path, vocab_size: int, length: int) -> Rows:
    """The windows of the questions of a SQuAD file, as fine-tuning has them.

    Of 384 tokens two windows share 128, and a question has 64 at most; with another length, as many
    in proportion.

    A WordPiece vocabulary is trained on the contexts and questions.

    Raises:
        ValueError: the file is missing or is none of SQuAD's.
    """
    check_files("--squad", [file])
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
    spans = np.stack([features.start_positions, features.end_positions], axis=1)[windows]
    return Rows(
        f"{len(windows):,} windows of {file.name}, WordPiece of {tokenizer.vocab_size:,}",
        [features.input_ids[features.tokens(int(window))] for window in windows],
        spans,
        tokenizer.pad_token_id,
    )


def made_up_windows(vocab_size: int, length: int, seed: int = 0) -> Rows:
    """Random ids with answers; of 384 tokens at most, lengths are those of SQuAD: 160, sigma 60."""
    random = np.random.default_rng(seed)
    mean, sigma = 160 * length / 384, 60 * length / 384
    lengths = np.clip(random.normal(mean, sigma, 1024), 4, length).astype(int)
    spans = np.sort(random.integers(1, lengths[:, None] - 1, (len(lengths), 2)), axis=1)
    source = f"made up, lengths normal around {mean:.0f} tokens (sigma {sigma:.0f})"
    return Rows(source, [_random_row(random, n, vocab_size) for n in lengths], spans)


def mixed_rows(
    texts: Sequence[Path], squad: Path | None, vocab_size: int, length: int, seed: int
) -> Rows:
    """The lines of text files up to a tab, and the contexts of a SQuAD file, in random order.

    A WordPiece vocabulary is trained on them; longer rows than `length` are cut.

    Raises:
        ValueError: a file is missing, or is not of this form.
    """
    check_files("--text", texts)
    sentences = [line.split("\t")[0].strip() for line in read_lines(texts)] if texts else []
    contexts: list[str] = []
    if squad is not None:
        check_files("--squad", [squad])
        contexts = sorted({" ".join(e.context.split()) for e in read_squad(squad).examples})
    lines = [line for line in sentences + contexts if line]
    tokenizer = _word_pieces(lines, vocab_size)
    encoded = tokenizer(lines, truncation=True, max_length=length)["input_ids"]
    order = np.random.default_rng(seed).permutation(len(lines))
    return Rows(
        f"{len(sentences):,} sentences and {len(contexts):,} paragraphs, "
        f"WordPiece of {tokenizer.vocab_size:,}",
        [np.array(encoded[number]) for number in order],
        pad_token_id=tokenizer.pad_token_id,
    )


def made_up_mixture(vocab_size: int, length: int, seed: int = 0) -> Rows:
    """Random ids: half as long as sentences, half as paragraphs, in random order."""
    random = np.random.default_rng(seed)
    lengths = np.concatenate([random.normal(24, 11, 512), random.normal(150, 60, 512)])
    lengths = random.permutation(np.clip(lengths, 4, length).astype(int))
    source = "made up, half normal around 24 tokens (sigma 11), half around 150 (sigma 60)"
    return Rows(source, [_random_row(random, n, vocab_size) for n in lengths])


def rows_of_length(length: int, vocab_size: int, count: int, seed: int = 0) -> Rows:
    """Random ids, rows of one length."""
    random = np.random.default_rng(seed)
    rows = [_random_row(random, length, vocab_size) for _ in range(count)]
    return Rows(f"made up, {length} tokens", rows)


def check_files(option: str, files: Sequence[Path]) -> None:
    """Say which file is not there.

    Raises:
        ValueError: one is not.
    """
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"{option} {file}: there is no such file; leave out {option} for made-up rows"
            )


def random_batches(lengths: np.ndarray, size: int, count: int, seed: int) -> list[np.ndarray]:
    """The numbers of the rows of batches that are drawn without regard to length.

    Raises:
        ValueError: there are fewer rows than one batch needs.
    """
    _check_enough(lengths, size)
    order = np.random.default_rng(seed).permutation(len(lengths))
    batches = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    return [batches[number % len(batches)] for number in range(count)]


def sorted_batches(lengths: np.ndarray, size: int, count: int, seed: int) -> list[np.ndarray]:
    """Some of the batches into which all rows are cut when they are sorted by length.

    From the shortest to the longest, all batches are split into `count` parts; of each that batch
    is taken which has most nearly as many tokens as the part's mean. So the chosen ones have
    together nearly the tokens of an epoch's.

    Raises:
        ValueError: there are fewer rows than one batch needs.
    """
    _check_enough(lengths, size)
    order = np.argsort(lengths, kind="stable")
    whole = len(order) // size * size
    batches = order[:whole].reshape(-1, size)
    tokens = lengths[batches].sum(axis=1)
    chosen = []
    for part in np.array_split(np.arange(len(batches)), min(count, len(batches))):
        chosen.append(batches[part[np.abs(tokens[part] - tokens[part].mean()).argmin()]])
    np.random.default_rng(seed).shuffle(chosen)
    return [chosen[number % len(chosen)] for number in range(count)]


def masked_batch(batch: Batch, vocab_size: int, seed: int) -> Batch:
    """A batch as transformers' own collator masks it: 15% of the tokens become labels."""
    collator = their_collator(vocab_size, seed)
    rows = [
        {"input_ids": ids[present].tolist()}
        for ids, present in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
    ]
    return dict(collator(rows))


def their_collator(vocab_size: int, seed: int) -> Any:
    """transformers' DataCollatorForLanguageModeling; of the tokenizer it uses the ids alone."""
    import transformers
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel

    special = {"<s>": CLS, "<pad>": PAD, "</s>": SEP, "<unk>": 3, "<mask>": MASK}
    words = special | {f"word {number}": number for number in range(FIRST_WORD, vocab_size)}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Backend(WordLevel(words, unk_token="<unk>")),
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    return transformers.DataCollatorForLanguageModeling(tokenizer, seed=seed)


def _word_pieces(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A lower-case WordPiece vocabulary of some texts."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "text"
        file.write_text("\n".join(texts), encoding="utf-8")
        return Tokenizer.train(
            file, vocab_size, algorithm="wordpiece", lowercase=True, show_progress=False
        )


def _random_row(random: np.random.Generator, length: int, vocab_size: int) -> np.ndarray:
    ids = random.integers(FIRST_WORD, vocab_size, length)
    ids[0], ids[-1] = CLS, SEP
    return ids


def _check_enough(lengths: np.ndarray, size: int) -> None:
    if len(lengths) < size:
        raise ValueError(f"{len(lengths)} rows are too few for a batch of {size}; give more text")

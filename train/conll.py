"""Sentences with a tag for each word, in the files of CoNLL's shared tasks and their successors.

    The<TAB>O
    Empire<TAB>B-location
    State<TAB>I-location
    Building<TAB>I-location

    Next<TAB>O

UTF-8, one word a line: the word first, its tag last, a tab between them and between any columns of
other things. Where a line has no tab, spaces part the columns, as in CoNLL-2003 (Tjong Kim Sang and
De Meulder 2003). A blank line, or one of white space alone, ends a sentence; lines that begin with
`-DOCSTART-` are passed over. A tag is `O`, `B-type` or `I-type`: IOB2, where every entity begins
with B-, or IOB1, where B- only parts two neighbours of one type.

T tokens, W words.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from minitransformer.models.losses import IGNORED_LABEL
from minitransformer.tokenization import BatchEncoding
from train.entities import begins_entity
from train.text import numbered_lines

_FORM = "a line is a word, a tab (or spaces) and its tag"

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Sentence:
    """W words and their tags.

    Attributes:
        words: not empty.
        tags: one for each word.
        row: of the first word in its file, counted from 1; the others follow line by line.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    row: int = field(default=1, compare=False)

    @property
    def text(self) -> str:
        """The words with a space between them: what a tokenizer is given."""
        return " ".join(self.words)


def read_conll(path: str | Path) -> list[Sentence]:
    """Read a file of tagged sentences.

    Raises:
        ValueError: the file is missing, is not UTF-8 or holds no word, or a line has a single
            column, an empty word or a tag of another scheme. The message names the row.
    """
    sentences = []
    words: list[tuple[str, str]] = []
    row = 0
    for row, line in numbered_lines(path):
        if line.strip() and not line.startswith("-DOCSTART-"):
            words.append(_word_and_tag(line, f"{path}, row {row}"))
        elif words:
            sentences.append(_sentence(words, row))
            words = []
    if words:
        sentences.append(_sentence(words, row + 1))
    if not sentences:
        raise ValueError(f"{path} holds no word; {_FORM}")
    return sentences


def tag_names(sentences: Sequence[Sentence]) -> list[str]:
    """The classes of a tagger: O, then B- and I- of every type, the types by alphabet.

    A type that the sentences tag with one of the two gets the other as well.
    """
    types = {tag.partition("-")[2] for sentence in sentences for tag in sentence.tags} - {""}
    return ["O", *(f"{prefix}-{name}" for name in sorted(types) for prefix in "BI")]


def tag_numbers(
    sentences: Sequence[Sentence], classes: Sequence[str], path: str | Path
) -> list[list[int]]:
    """For each sentence the numbers of its W tags.

    Args:
        sentences: read from `path`.
        classes: the tags in their order, as :func:`tag_names` gives them.
        path: for the error message.

    Raises:
        ValueError: a tag is not among them. The message names its row.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    for sentence in sentences:
        for row, tag in enumerate(sentence.tags, start=sentence.row):
            if tag not in numbers:
                raise ValueError(
                    f"{path}, row {row}: the tag {tag!r} is not among those of the training "
                    f"file: {', '.join(classes)}"
                )
    return [[numbers[tag] for tag in sentence.tags] for sentence in sentences]


def count_missing_beginnings(sentences: Sequence[Sentence]) -> int:
    """How many entities begin with an I- tag: all but a few in IOB1, none in a clean IOB2 file."""
    return sum(
        tag.startswith("I-") and begins_entity(tag, before)
        for sentence in sentences
        for tag, before in zip(sentence.tags, ("O", *sentence.tags), strict=False)
    )


@dataclass(frozen=True, slots=True)
class Alignment:
    """Which token stands for each word: the first that covers a character of it.

    Attributes:
        first_tokens: for each of the W words the position of its token; None for a word without.
        num_tokens: T, of the sequence.
        truncated: how many words were cut off with the end of the text.
        dropped: how many the tokenizer makes nothing of, such as a lone control character.
    """

    first_tokens: tuple[int | None, ...]
    num_tokens: int
    truncated: int
    dropped: int

    def token_labels(self, word_labels: Sequence[int]) -> list[int]:
        """T labels: at first tokens those of the W words, -100 at all others."""
        labels = [IGNORED_LABEL] * self.num_tokens
        for token, label in zip(self.first_tokens, word_labels, strict=True):
            if token is not None:
                labels[token] = label
        return labels

    def word_values(self, token_values: Sequence[Value], *, missing: Value) -> list[Value]:
        """W values: of each word's first token, and `missing` for a word without.

        Args:
            token_values: T or more, such as the predicted classes of a padded sequence.
            missing: the class O, where these are classes.
        """
        return [missing if token is None else token_values[token] for token in self.first_tokens]


def align_words(batch: BatchEncoding, number: int, words: Sequence[str]) -> Alignment:
    """Find the tokens of the words of a sentence, by the characters that they cover.

    Words are given to the tokenizer as one text, `" ".join(words)`, so that a tagger learns on
    what it will be used on. Characters, not the tokenizer's own words, say what belongs together:
    it takes "can't" for three words where the file has one.

    Args:
        batch: of such texts.
        number: of the sentence.
        words: of the sentence.
    """
    encoding = batch.encodings[number]
    first_tokens = _first_tokens(encoding.offsets, words)
    cut_off = {
        word
        for window in encoding.overflowing
        for word in _first_tokens(window.offsets, words)
        if word not in first_tokens
    }
    return Alignment(
        first_tokens=tuple(first_tokens.get(word) for word in range(len(words))),
        num_tokens=len(encoding),
        truncated=len(cut_off),
        dropped=len(words) - len(first_tokens) - len(cut_off),
    )


def _first_tokens(offsets: Sequence[tuple[int, int]], words: Sequence[str]) -> dict[int, int]:
    """For each word that has a token the position of the first one."""
    ends = list(accumulate(len(word) + 1 for word in words))  # the space after the word included
    first: dict[int, int] = {}
    for token, word in enumerate(_word_numbers(offsets, words, ends)):
        if word is not None:
            first.setdefault(word, token)
    return first


def _word_numbers(
    offsets: Sequence[tuple[int, int]], words: Sequence[str], ends: Sequence[int]
) -> Iterator[int | None]:
    """For each token the first word that it shares a character with.

    Special tokens, and tokens of white space alone, share none.
    """
    for start, end in offsets:
        word = bisect_right(ends, start + 1)
        covers = word < len(words) and ends[word] - len(words[word]) - 1 < end
        yield word if covers and start < end else None


def _sentence(words: Sequence[tuple[str, str]], row_after: int) -> Sentence:
    texts, tags = zip(*words, strict=True)
    return Sentence(texts, tags, row_after - len(words))


def _word_and_tag(line: str, where: str) -> tuple[str, str]:
    columns = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
    if len(columns) == 1:
        raise ValueError(f"{where}: {line!r:.60} is a single column; {_FORM}")
    word, tag = columns[0].strip(" "), columns[-1].strip(" ")
    if not word:
        raise ValueError(f"{where}: the word before the tag {tag!r} is empty; {_FORM}")
    if not re.fullmatch(r"O|[BI]-.+", tag):
        raise ValueError(
            f"{where}: the tag {tag!r} of {word!r} is none of O, B-type and I-type; convert other "
            "schemes to IOB2"
        )
    return word, tag

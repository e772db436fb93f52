"""Sentences with a tag for each word, in the files of CoNLL's shared tasks, or in JSON lines.

    The<TAB>O
    Empire<TAB>B-location
    State<TAB>I-location
    Building<TAB>I-location

    Next<TAB>O

The file is UTF-8, with one word per line. The word is in the first column and its tag in the last;
columns are separated by a tab or, on a line without tabs, by spaces, as in CoNLL-2003 (Tjong Kim
Sang and De Meulder 2003). A blank line ends a sentence, and lines that begin with `-DOCSTART-` are
skipped. In JSON lines a sentence has two lists:

    {"tokens": ["The", "Empire"], "tags": ["O", "B-location"]}

The tags are those of any scheme that :mod:`minitransformer.tasks.tag_schemes` knows.

Letters: T tokens, W words.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from minitransformer.models.losses import IGNORED_LABEL
from minitransformer.names import listed, shortened
from minitransformer.tasks.tag_schemes import OUTSIDE, PREFIXES, TagScheme
from minitransformer.tokenization import BatchEncoding
from train.tables import Table, read_table
from train.text import numbered_lines

_PREFIXED = {name: letters for name, letters in PREFIXES.items() if letters}
_FORMAT = "a line must be a word, a tab (or spaces) and its tag"

# The usual names in JSON lines; the first that a file has is taken.
_TOKENS = ("tokens", "words")
_TAGS = ("tags", "ner_tags", "labels", "pos_tags", "chunk_tags")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Sentence:
    """W words and their tags.

    Attributes:
        words: the words, at least one.
        tags: a tag for each word.
        line_number: the line of the first word in the file, counted from 1.
        word_per_line: whether the other words are on the lines after it, or on the same line.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    line_number: int = field(default=1, compare=False)
    word_per_line: bool = field(default=True, compare=False)

    @property
    def text(self) -> str:
        """The words, joined by spaces; this is what the tokenizer gets."""
        return " ".join(self.words)

    def numbered_tags(self) -> Iterator[tuple[int, str]]:
        """Each tag with its line."""
        for index, tag in enumerate(self.tags):
            yield self.line_number + index * self.word_per_line, tag


def read_sentences(path: str | Path, tag_names: Sequence[str] = ()) -> list[Sentence]:
    """Read a file of tagged sentences: JSON lines if its name says so, else CoNLL's columns.

    Args:
        path: of the file.
        tag_names: of the tags 0, 1, ..., if the file has numbers; empty if it has names.

    Raises:
        ValueError: as :func:`read_conll`; or a sentence of a JSON file has no two lists of the
            same length, of strings, or a tag is a number without a name. The message names the
            line.
    """
    is_json = Path(path).suffix.lower() in (".json", ".jsonl", ".ndjson")
    sentences = _read_json(path) if is_json else read_conll(path)
    if not tag_names:
        return sentences
    names = dict(zip(map(str, range(len(tag_names))), tag_names, strict=True))
    names |= {name: name for name in tag_names}
    for sentence in sentences:
        for line, tag in sentence.numbered_tags():
            if tag not in names:
                raise ValueError(
                    f"{path}, line {line}: the tag {shortened(tag)} is none of --tag-names, and "
                    f"no number below {len(tag_names)}"
                )
    return [replace(s, tags=tuple(names[tag] for tag in s.tags)) for s in sentences]


def read_conll(path: str | Path) -> list[Sentence]:
    """Read a file of tagged sentences.

    Raises:
        ValueError: the file is missing, is not UTF-8 or contains no word, or a line has a single
            column or an empty word or tag. The message names the line.
    """
    sentences = []
    words: list[tuple[str, str]] = []
    line_number = 0
    for line_number, line in numbered_lines(path):
        if line.strip() and not line.startswith("-DOCSTART-"):
            words.append(_word_and_tag(line, f"{path}, line {line_number}"))
        elif words:
            sentences.append(_sentence(words, line_number))
            words = []
    if words:
        sentences.append(_sentence(words, line_number + 1))
    if not sentences:
        raise ValueError(f"{path} contains no word; {_FORMAT}")
    return sentences


def tag_scheme(sentences: Sequence[Sentence], path: str | Path) -> TagScheme:
    """The scheme of all tags of a file.

    Args:
        sentences: read from `path`.
        path: for the error message.

    Raises:
        ValueError: a tag does not belong to it. The message names its line.
    """
    scheme = TagScheme(tag for sentence in sentences for tag in sentence.tags)
    for sentence in sentences:
        for line_number, tag in sentence.numbered_tags():
            prefix, _ = scheme.split(tag)
            fits = prefix if scheme.prefixes else not re.match("[BIMELSU]-", tag)
            if tag != OUTSIDE and not fits:
                known = (f"{'-, '.join(letters)}- ({name})" for name, letters in _PREFIXED.items())
                raise ValueError(
                    f"{path}, line {line_number}: the tag {shortened(tag)} does not fit the "
                    f"others of the file; use O and the prefixes of one scheme: "
                    f"{'; '.join(known)}; or no prefixes at all"
                )
    return scheme


def tag_names(sentences: Sequence[Sentence], scheme: TagScheme, path: str | Path) -> list[str]:
    """The classes of a tagger: O, then the tags of every type, in alphabetical order of the types.

    A type gets all prefixes of the scheme, even if only one of them occurs in the sentences.

    Args:
        sentences: read from `path`.
        scheme: of the tags.
        path: for the error message.

    Raises:
        ValueError: there are as many tags as in plain text.
    """
    tags = {tag for sentence in sentences for tag in sentence.tags} - {OUTSIDE}
    types = sorted({scheme.split(tag)[1] for tag in tags})
    words = sum(len(sentence.words) for sentence in sentences)
    if not scheme.prefixes and len(types) > max(10, words / 2):
        raise ValueError(
            f"{path}: {len(types):,} different tags for {words:,} words; this looks like plain "
            f"text, not like tagged sentences; {_FORMAT}"
        )
    if not scheme.prefixes:
        return [OUTSIDE, *types]
    return [OUTSIDE, *(f"{prefix}-{name}" for name in types for prefix in scheme.prefixes)]


def tag_ids(
    sentences: Sequence[Sentence], classes: Sequence[str], path: str | Path
) -> list[list[int]]:
    """For each sentence the ids of its W tags: their indices in `classes`.

    Args:
        sentences: read from `path`.
        classes: as :func:`tag_names` returns them.
        path: for the error message.

    Raises:
        ValueError: a tag is not one of them. The message names its line.
    """
    ids = {name: index for index, name in enumerate(classes)}
    for sentence in sentences:
        for line_number, tag in sentence.numbered_tags():
            if tag not in ids:
                raise ValueError(
                    f"{path}, line {line_number}: the tag {shortened(tag)} is not one of those "
                    f"in the training file: {listed(classes)}"
                )
    return [[ids[tag] for tag in sentence.tags] for sentence in sentences]


def count_missing_beginnings(sentences: Sequence[Sentence], scheme: TagScheme) -> int:
    """The number of entities that begin with another prefix than B-, S- or U-.

    These are most entities in IOB1; there are none in correct IOB2, IOBES, BILOU or BMES.
    """
    return sum(
        scheme.split(sentence.tags[entity.start])[0] in ("I", "M", "E", "L")
        for sentence in sentences
        for entity in scheme.find_entities(sentence.tags)
    )


@dataclass(frozen=True, slots=True)
class Alignment:
    """The first token of each word: the first one that covers a character of it.

    Attributes:
        first_tokens: for each of the W words the position of its first token, or None.
        num_tokens: T, the length of the sequence.
        truncated: the number of words that were truncated with the end of the text.
        dropped: the number of words without a token, such as a single control character.
    """

    first_tokens: tuple[int | None, ...]
    num_tokens: int
    truncated: int
    dropped: int

    def token_labels(self, word_labels: Sequence[int]) -> list[int]:
        """T labels: those of the W words at their first tokens, -100 at all others."""
        labels = [IGNORED_LABEL] * self.num_tokens
        for token, label in zip(self.first_tokens, word_labels, strict=True):
            if token is not None:
                labels[token] = label
        return labels

    def word_values(self, token_values: Sequence[Value], *, missing: Value) -> list[Value]:
        """W values: the one at the first token of each word, or `missing`.

        Args:
            token_values: T values or more, such as the predicted classes of a padded sequence.
            missing: for words without a token; for classes, the class O.
        """
        return [missing if token is None else token_values[token] for token in self.first_tokens]


def align_words(batch: BatchEncoding, index: int, words: Sequence[str]) -> Alignment:
    """Find the tokens of the words of a sentence, by the characters that they cover.

    The tokenizer gets the words as one text, `" ".join(words)`, so that a tagger is trained on the
    kind of text that it will be used on. The alignment is by characters, since the tokenizer may
    split words differently: for BERT's, "can't" is three words.

    Args:
        batch: the encoding of such texts.
        index: of the sentence in the batch.
        words: of the sentence.
    """
    encoding = batch.encodings[index]
    first_tokens = _first_tokens(encoding.offsets, words)
    truncated = {
        word
        for window in encoding.overflowing
        for word in _first_tokens(window.offsets, words)
        if word not in first_tokens
    }
    return Alignment(
        first_tokens=tuple(first_tokens.get(word) for word in range(len(words))),
        num_tokens=len(encoding),
        truncated=len(truncated),
        dropped=len(words) - len(first_tokens) - len(truncated),
    )


def _first_tokens(offsets: Sequence[tuple[int, int]], words: Sequence[str]) -> dict[int, int]:
    """The position of the first token of each word that has one."""
    ends = list(accumulate(len(word) + 1 for word in words))  # including the space after the word
    first: dict[int, int] = {}
    for token, word in enumerate(_word_indices(offsets, words, ends)):
        if word is not None:
            first.setdefault(word, token)
    return first


def _word_indices(
    offsets: Sequence[tuple[int, int]], words: Sequence[str], ends: Sequence[int]
) -> Iterator[int | None]:
    """For each token the index of the first word that it shares a character with.

    It is None for special tokens and for tokens of only white space.
    """
    for start, end in offsets:
        word = bisect_right(ends, start + 1)
        covers = word < len(words) and ends[word] - len(words[word]) - 1 < end
        yield word if covers and start < end else None


def _read_json(path: str | Path) -> list[Sentence]:
    table = read_table(path)
    columns = [_field(table, names) for names in (_TOKENS, _TAGS)]
    lists = [table.column(name) for name in columns]
    sentences = []
    for words, tags, line in zip(*lists, table.line_numbers, strict=True):
        where = f"{path}, line {line}"
        if not (isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags) > 0):
            raise ValueError(
                f"{where}: {columns[0]!r} and {columns[1]!r} must be lists of the same length, at "
                f"least 1; they are {shortened(words)} and {shortened(tags)}"
            )
        for word in words:
            if not isinstance(word, str) or not word.strip():
                raise ValueError(f"{where}: {shortened(word)} is no word; delete it and its tag")
        words = tuple(" ".join(word.split()) for word in words)
        sentences.append(Sentence(words, tuple(map(str, tags)), line, word_per_line=False))
    return sentences


def _field(table: Table, usual: Sequence[str]) -> str:
    for name in usual:
        if name in table.columns:
            return name
    raise ValueError(
        f"{table.path} has no field {' or '.join(usual)}; rename one of its fields "
        f"{listed(table.columns)}"
    )


def _sentence(words: Sequence[tuple[str, str]], line_after: int) -> Sentence:
    texts, tags = zip(*words, strict=True)
    return Sentence(texts, tags, line_after - len(words))


def _word_and_tag(line: str, where: str) -> tuple[str, str]:
    columns = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
    if len(columns) == 1:
        raise ValueError(f"{where}: {shortened(line)} has only one column; {_FORMAT}")
    word, tag = columns[0].strip(" "), columns[-1].strip(" ")
    if not word:
        raise ValueError(f"{where}: the word before the tag {shortened(tag)} is empty; {_FORMAT}")
    if not tag:
        raise ValueError(f"{where}: the tag of {shortened(word)} is empty; {_FORMAT}")
    return word, tag

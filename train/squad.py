"""Read SQuAD files: v1.1 (Rajpurkar et al. 2016) and v2.0 (Rajpurkar, Jia and Liang 2018).

Both are a JSON object, whose offsets count characters, not bytes:

    {"data": [{"title": "Oxygen", "paragraphs": [{"context": "Oxygen is a gas.", "qas": [
        {"id": "1", "question": "What is oxygen?", "is_impossible": false,
         "answers": [{"text": "a gas", "answer_start": 10}]}]}]}]}

`title` may be missing, and so may `is_impossible` and `plausible_answers`, which are new in v2.0.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minitransformer.files import not_utf8
from minitransformer.names import cut, shortened

LARGEST_SHIFT = 3  # in characters; further away, it may be another occurrence of the same words

_KINDS = {str: "a text", int: "an integer", bool: "true or false", list: "a list"}
_ITEMS = {  # what the items of a list are called in messages
    "data": "article",
    "paragraphs": "paragraph",
    "qas": "question",
    "answers": "answer",
    "plausible_answers": "plausible answer",
}
_FORMAT = 'a SQuAD file is one object: {"data": [{"paragraphs": [{"context": ..., "qas": ...}]}]}'


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and its position in the context: `context[start:end] == text`.

    There is no white space around `text`.
    """

    text: str
    start: int

    @property
    def end(self) -> int:
        """The last character + 1."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class Example:
    """A question, its context (a paragraph), and every answer that the annotators gave.

    Attributes:
        id: unique in its file.
        question: without white space around it.
        context: as in the file.
        answers: those found in the context, in the order of the file.
        dropped_answers: the texts of those that are not at the position in the file or close to it.
        plausible_answers: for a question without an answer: what could be mistaken for one.
        title: of the article.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] = ()
    dropped_answers: tuple[str, ...] = ()
    plausible_answers: tuple[Answer, ...] = ()
    title: str = ""

    @property
    def gold_texts(self) -> tuple[str, ...]:
        """The texts that a prediction is compared with; empty for a question without an answer.

        Dropped answers are included, because the official scorer ignores offsets.
        """
        return (*(answer.text for answer in self.answers), *self.dropped_answers)

    @property
    def is_impossible(self) -> bool:
        """Whether the question has no answer in the context, according to the annotators."""
        return not self.gold_texts

    @property
    def is_unlocated(self) -> bool:
        """Whether the question has answers, but none was found in the context.

        Such a question is scored, but not used for training: "no answer" would be a wrong label,
        and the position for a right one is not known.
        """
        return bool(self.dropped_answers) and not self.answers


@dataclass
class Counts:
    """What was found in a file.

    Attributes:
        articles, paragraphs, questions: their numbers.
        impossible: questions without an answer.
        answers: all answers, including repaired and dropped ones.
        repaired: answers found up to 3 characters from the position in the file, or with different
            white space.
        dropped: answers that were not found.
        unlocated: questions whose answers were all dropped.
        plausible: plausible answers that were found.
    """

    articles: int = 0
    paragraphs: int = 0
    questions: int = 0
    impossible: int = 0
    answers: int = 0
    repaired: int = 0
    dropped: int = 0
    unlocated: int = 0
    plausible: int = 0

    def summary(self) -> str:
        """One line with all numbers."""
        return (
            f"{self.articles:,} articles, {self.paragraphs:,} paragraphs, "
            f"{self.questions:,} questions ({self.impossible:,} without an answer, "
            f"{self.unlocated:,} whose answers were all dropped), {self.answers:,} answers "
            f"({self.repaired:,} repaired, {self.dropped:,} dropped)"
            + f", {self.plausible:,} plausible answers"
            * (self.plausible > 0)
        )


@dataclass(frozen=True)
class SquadFile:
    """The questions of a file, in order, and counts."""

    examples: tuple[Example, ...]
    counts: Counts


def read_squad(path: str | Path, *, plausible_answers: bool = False) -> SquadFile:
    """Read a SQuAD v1.1 or v2.0 file.

    Args:
        path: of the JSON file.
        plausible_answers: keep the plausible answers; they are never gold answers.

    Raises:
        ValueError: the file is missing, is not JSON in this format (the message says in which
            article, paragraph and question, counted from 1), repeats the id of a question,
            contradicts itself, or has no question.
    """
    articles = _Node(_read_json(Path(path)), str(path)).items("data")
    reader = _Reader(plausible_answers)
    examples = tuple(reader.examples(articles))
    if not examples:
        raise ValueError(f"{path} contains no question; {_FORMAT}")
    return SquadFile(examples, reader.counts)


def find_answer(context: str, text: str, start: int) -> Answer | None:
    """Find the answer `text` in `context` at `start`, or at most three characters away.

    The nearest occurrence is taken, and of two equally near ones the first. White space may differ:
    that around `text` is ignored, and between its words the context's is used. Returns None if
    there is no such occurrence.
    """
    words = text.split()
    if not words:
        return None
    start += _leading_space(text)
    pattern = re.compile(r"\s+".join(map(re.escape, words)))
    positions = range(start - LARGEST_SHIFT, start + LARGEST_SHIFT + 1)
    for position in sorted(positions, key=lambda position: abs(position - start)):
        if position >= 0 and (match := pattern.match(context, position)):
            return Answer(match.group(), position)
    return None


def _leading_space(text: str) -> int:
    return len(text) - len(text.lstrip())


@dataclass
class _Reader:
    """Reads the questions of a file, counts, and remembers where each id occurred."""

    keep_plausible: bool
    counts: Counts = field(default_factory=Counts)
    seen_ids: dict[str, str] = field(default_factory=dict)  # id to where it occurred

    def examples(self, articles: list["_Node"]) -> Iterator[Example]:
        for article in articles:
            self.counts.articles += 1
            title = article.text("title") if "title" in article.content else ""
            for paragraph in article.items("paragraphs"):
                self.counts.paragraphs += 1
                context = paragraph.text("context")
                for question in paragraph.items("qas"):
                    yield self.example(question, context, title)

    def example(self, node: "_Node", context: str, title: str) -> Example:
        name, question = node.text("id"), node.text("question").strip()
        if name in self.seen_ids:
            raise ValueError(
                f"{node.where}: the id {shortened(name)} is also that of {self.seen_ids[name]}; "
                "every question needs its own"
            )
        self.seen_ids[name] = node.where
        answers, dropped = self.answers(node, context)
        plausible = self.plausible_answers(node, context) if self.keep_plausible else ()
        example = Example(name, question, context, answers, dropped, plausible, title)
        self.counts.questions += 1
        self.counts.impossible += example.is_impossible
        self.counts.unlocated += example.is_unlocated
        _check_flag(node, example)
        return example

    def answers(self, node: "_Node", context: str) -> tuple[tuple[Answer, ...], tuple[str, ...]]:
        """The answers found in the context, and the texts of the others."""
        found, dropped = [], []
        for item in node.items("answers"):
            self.counts.answers += 1
            text, start = item.text("text"), item.integer("answer_start")
            answer = find_answer(context, text, start)
            if answer is None:
                self.counts.dropped += 1
                dropped.append(text)
            else:
                stated = Answer(text.strip(), start + _leading_space(text))
                self.counts.repaired += answer != stated
                found.append(answer)
        return tuple(found), tuple(dropped)

    def plausible_answers(self, node: "_Node", context: str) -> tuple[Answer, ...]:
        """Those found in the context; the field is missing in v1.1, and in parts of v2.0."""
        items = node.items("plausible_answers") if "plausible_answers" in node.content else []
        stated = [(item.text("text"), item.integer("answer_start")) for item in items]
        answers = [find_answer(context, text, start) for text, start in stated]
        found = tuple(answer for answer in answers if answer is not None)
        self.counts.plausible += len(found)
        return found


def _check_flag(node: "_Node", example: Example) -> None:
    """Check that `is_impossible`, if given, agrees with the answers."""
    if "is_impossible" not in node.content:
        return
    stated = node.value("is_impossible", bool)
    if stated != example.is_impossible:
        raise ValueError(
            f"{node.where} ({shortened(example.id)}): is_impossible is {str(stated).lower()}, but "
            f"there are {len(example.gold_texts)} answers; correct one of the two"
        )


@dataclass(frozen=True, slots=True)
class _Node:
    """A JSON object in the file and its position, for error messages."""

    content: Any
    where: str

    def value(self, name: str, kind: type) -> Any:
        if not isinstance(self.content, dict):
            raise ValueError(f"{self.where} is {_shown(self.content)}, not an object; {_FORMAT}")
        if name not in self.content:
            raise ValueError(f"{self.where}: the field {shortened(name)} is missing; {_FORMAT}")
        value = self.content[name]
        if type(value) is not kind:  # isinstance would accept true as an integer
            raise ValueError(f"{self.where}: {name} is {_shown(value)}, not {_KINDS[kind]}")
        return value

    def text(self, name: str) -> str:
        text: str = self.value(name, str)
        if name != "title" and not text.strip():
            raise ValueError(f"{self.where}: {name} is empty")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(
                f"{self.where}: {name} contains a lone surrogate: {shortened(ascii(text))}"
            )
        return text

    def integer(self, name: str) -> int:
        return int(self.value(name, int))

    def items(self, name: str) -> list["_Node"]:
        items = enumerate(self.value(name, list), start=1)
        return [_Node(item, f"{self.where}, {_ITEMS[name]} {number}") for number, item in items]


def _shown(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return cut(json.dumps(value))


def _read_json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    if not text.strip():
        raise ValueError(f"{path} is empty; {_FORMAT}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # wrong JSON, absurd numbers or nesting
        several = str(error).startswith("Extra data") and text.lstrip().startswith("{")
        problem = (
            "several JSON objects, perhaps one per line" if several else f"invalid JSON ({error})"
        )
        raise ValueError(f"{path} contains {problem}; {_FORMAT}") from error

"""Reading SQuAD files: v1.1 (Rajpurkar et al. 2016) and v2.0 (Rajpurkar, Jia and Liang 2018).

Both are one JSON object, whose offsets count characters (not bytes):

    {"data": [{"title": "Oxygen", "paragraphs": [{"context": "Oxygen is a gas.", "qas": [
        {"id": "1", "question": "What is oxygen?", "is_impossible": false,
         "answers": [{"text": "a gas", "answer_start": 10}]}]}]}]}

`title`, and `is_impossible` and `plausible_answers` of v2.0, may be absent.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minitransformer.files import not_utf8

LARGEST_SHIFT = 3  # characters; an answer further away than this may be another occurrence

_KINDS = {str: "a text", int: "an integer", bool: "true or false", list: "a list"}
_ITEMS = {  # what the items of a list are called in messages
    "data": "article",
    "paragraphs": "paragraph",
    "qas": "question",
    "answers": "answer",
    "plausible_answers": "plausible answer",
}
_FORM = 'a SQuAD file is one object: {"data": [{"paragraphs": [{"context": ..., "qas": ...}]}]}'


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it stands in its context: `context[start:end] == text`.

    There is never white space around `text`.
    """

    text: str
    start: int

    @property
    def end(self) -> int:
        """The last character + 1."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class Example:
    """A question, the paragraph to look in, and every answer that people gave.

    Attributes:
        id: unique in its file.
        question: without the white space around it.
        context: as in the file.
        answers: those found in the context, in the order of the file.
        dropped_answers: the texts of those that are not where the file says, and not near it.
        plausible_answers: of a question without an answer, what could be mistaken for one.
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
        """What a prediction is scored against; empty for a question without an answer.

        The dropped ones count here: the official scorer compares texts and looks at no offset.
        """
        return (*(answer.text for answer in self.answers), *self.dropped_answers)

    @property
    def is_impossible(self) -> bool:
        """The context does not answer the question: people said so, by giving no answer."""
        return not self.gold_texts

    @property
    def is_unlocated(self) -> bool:
        """The question has answers, but none was found in the context.

        It is scored like every other question. Nothing can be learned from it: "no answer" would
        be a wrong label, and there is no place for a right one.
        """
        return bool(self.dropped_answers) and not self.answers


@dataclass
class Counts:
    """What was found in a file.

    Attributes:
        articles, paragraphs, questions: how many there are.
        impossible: questions without an answer.
        answers: of all questions together; repaired and dropped ones are among them.
        repaired: answers that stand up to 3 characters from where the file says, or there with
            other white space.
        dropped: answers that do not.
        unlocated: questions that have answers, all of them dropped.
        plausible: plausible answers that were read; repaired and dropped ones are not counted.
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
        """One line with every number."""
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
    """The questions of a file, in its order, and what was counted."""

    examples: tuple[Example, ...]
    counts: Counts


def read_squad(path: str | Path, *, plausible_answers: bool = False) -> SquadFile:
    """Read a SQuAD v1.1 or v2.0 file.

    Args:
        path: of the JSON file.
        plausible_answers: keep those of the questions without an answer. They are never gold.

    Raises:
        ValueError: the file is missing, is not JSON of this form (the message names article,
            paragraph, question and field, counted from 1), repeats a question's id, contradicts
            itself, or has no question.
    """
    articles = _Node(_read_json(Path(path)), str(path)).items("data")
    reader = _Reader(plausible_answers)
    examples = tuple(reader.examples(articles))
    if not examples:
        raise ValueError(f"{path} holds no question")
    return SquadFile(examples, reader.counts)


def find_answer(context: str, text: str, start: int) -> Answer | None:
    """The answer `text` in `context` at `start`, or at most three characters from there.

    The nearest place wins, and of two as near the earlier one. Only white space may differ: that
    around `text` is left out, and between its words the context's is taken. None where there is
    no such place.
    """
    words = text.split()
    if not words:
        return None
    start += _leading_space(text)
    pattern = re.compile(r"\s+".join(map(re.escape, words)))
    places = range(start - LARGEST_SHIFT, start + LARGEST_SHIFT + 1)
    for place in sorted(places, key=lambda place: abs(place - start)):
        if place >= 0 and (match := pattern.match(context, place)):
            return Answer(match.group(), place)
    return None


def _leading_space(text: str) -> int:
    return len(text) - len(text.lstrip())


@dataclass
class _Reader:
    """Walks a file, counts, and remembers where it saw each question's id."""

    keep_plausible: bool
    counts: Counts = field(default_factory=Counts)
    places: dict[str, str] = field(default_factory=dict)

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
        if name in self.places:
            raise ValueError(f"{node.where}: the id {name!r} is taken by {self.places[name]}")
        self.places[name] = node.where
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
        """Those found in the context; the key is absent in v1.1, and here and there in v2.0."""
        items = node.items("plausible_answers") if "plausible_answers" in node.content else []
        places = [(item.text("text"), item.integer("answer_start")) for item in items]
        answers = [find_answer(context, text, start) for text, start in places]
        found = tuple(answer for answer in answers if answer is not None)
        self.counts.plausible += len(found)
        return found


def _check_flag(node: "_Node", example: Example) -> None:
    """`is_impossible`, where it is there, must say what the answers say."""
    if "is_impossible" not in node.content:
        return
    stated = node.value("is_impossible", bool)
    if stated != example.is_impossible:
        raise ValueError(
            f"{node.where} ({example.id!r}): is_impossible is {str(stated).lower()}, but there are "
            f"{len(example.gold_texts)} answers; correct the one or the other"
        )


@dataclass(frozen=True, slots=True)
class _Node:
    """A JSON object of the file and where it stands, so that an error can say it."""

    content: Any
    where: str

    def value(self, name: str, kind: type) -> Any:
        if not isinstance(self.content, dict):
            raise ValueError(f"{self.where} is {_shown(self.content)}, not an object; {_FORM}")
        if name not in self.content:
            raise ValueError(f"{self.where}: the field {name!r} is missing; {_FORM}")
        value = self.content[name]
        if type(value) is not kind:  # isinstance would take true for an integer
            raise ValueError(f"{self.where}: {name} is {_shown(value)}, not {_KINDS[kind]}")
        return value

    def text(self, name: str) -> str:
        text: str = self.value(name, str)
        if name != "title" and not text.strip():
            raise ValueError(f"{self.where}: {name} is empty")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(f"{self.where}: {name} holds half of a surrogate pair: {text!a:.80}")
        return text

    def integer(self, name: str) -> int:
        return int(self.value(name, int))

    def items(self, name: str) -> list["_Node"]:
        items = enumerate(self.value(name, list), start=1)
        return [_Node(item, f"{self.where}, {_ITEMS[name]} {number}") for number, item in items]


def _shown(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return f"{json.dumps(value):.60}"


def _read_json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    if not text.strip():
        raise ValueError(f"{path} is empty")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # wrong JSON, absurd numbers or nesting
        several = str(error).startswith("Extra data") and text.lstrip().startswith("{")
        problem = "several JSON objects, perhaps one a line" if several else f"no JSON ({error})"
        raise ValueError(f"{path} holds {problem}; {_FORM}") from error

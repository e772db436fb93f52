"""Texts, or pairs of texts, with their labels, as they stand in a file.

In a table with a header (CSV, TSV or JSON lines, see :mod:`train.tables`) columns are found by
their usual names, or chosen by an option:

    sentence,label
    "one long string of cliches",negative

A file without a header has a text, a tab and a label on every line:

    one long string of cliches<TAB>0

White space around texts and labels is removed, and blank lines are skipped. What a label means,
a class, several or a number, is said in :mod:`train.classification`.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from minitransformer.names import shortened
from train.tables import Table, has_named_columns, read_table
from train.text import numbered_lines

# The usual names of columns; where several occur, the first one of all is meant.
TEXT_NAMES: tuple[str, ...] = (
    *("text", "texts", "sentence", "review", "content", "comment", "comment_text", "tweet"),
    *("document", "utterance", "question", "message"),
)
LABEL_NAMES: tuple[str, ...] = (
    *("label", "labels", "class", "category", "topic", "intent", "rating", "score", "stars"),
    *("sentiment", "emotion", "emotions", "target", "gold_label", "similarity"),
)
PAIR_NAMES = {
    "sentence1": "sentence2",
    "premise": "hypothesis",
    "question1": "question2",
    "text1": "text2",
    "text_a": "text_b",
}

_FORMAT = "a line must be a text, a tab and a label"
SEPARATORS = "[,;|]"
_TICKS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that options choose; None or empty where the usual names are looked for.

    Attributes:
        text: of the text.
        pair: of the second text of each row.
        label: of the label.
        labels: for several labels a text: a column of 0 and 1 for each label, named like it.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    labels: tuple[str, ...] = ()

    def given(self, *, labelled: bool) -> list[str]:
        """All that are chosen, of texts alone or with their labels."""
        labels = (self.label, *self.labels) if labelled else ()
        return [name for name in (self.text, self.pair, *labels) if name]


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, its label or labels, and its line in the file, counted from 1.

    Attributes:
        text: not empty.
        label: what the reading function returned: a name, several, or a number.
        line_number: of the text.
        pair: the second text, if the file has pairs.
    """

    text: str
    label: Any
    line_number: int
    pair: str | None = None


def read_labelled_text(
    path: str | Path,
    columns: Columns | None = None,
    read_label: Callable[[Any], Any] | None = None,
) -> list[LabelledText]:
    """Read a file of labelled texts.

    Args:
        path: of the file.
        columns: those that options choose.
        read_label: converts the value of a label: :func:`class_name` (the default),
            :func:`several_names` or :func:`number`.

    Raises:
        ValueError: the file is missing, is not UTF-8 or contains no text, a column is missing or
            could be several, or a text or a label is empty or of another form. The message names
            the line.
    """
    columns = columns or Columns()
    table = _table(path, columns, labelled=True)
    texts, pairs = _texts(table, columns)
    read: Callable[[Any], Any]
    column: str | None = None
    if columns.labels:
        cells = {name: table.column(name, "--label-columns") for name in columns.labels}
        values: list[Any] = [
            {name: cells[name][row] for name in columns.labels} for row in range(len(texts))
        ]
        read = ticked_names
    else:
        column = table.find("--label-column", columns.label, LABEL_NAMES)
        values = table.column(column, "--label-column")
        read = read_label or class_name
    examples = []
    for text, pair, value, line in zip(texts, pairs, values, table.line_numbers, strict=True):
        try:
            label = read(value)
        except ValueError as error:
            where = f"{path}, line {line}" + f", column {shortened(column)}" * (column is not None)
            raise ValueError(f"{where}: {error}") from error
        examples.append(LabelledText(text, label, line, pair))
    return examples


def read_texts(path: str | Path, columns: Columns) -> list[LabelledText]:
    """Read texts without labels: a table as above, or a file with a text on every line.

    Raises:
        ValueError: as :func:`read_labelled_text`.
    """
    table = _table(path, columns, labelled=False)
    texts, pairs = _texts(table, columns)
    rows = zip(texts, pairs, table.line_numbers, strict=True)
    return [LabelledText(text, None, line, pair) for text, pair, line in rows]


# --- Labels


def class_name(value: object) -> str:
    """The name of one class.

    Raises:
        ValueError: it is empty, or a list or a broken number of a JSON file.
    """
    if isinstance(value, list | dict | float):
        raise ValueError(
            f"{shortened(value)} is not the name of a class; for several labels a text give "
            "--multi-label, for numbers --regression"
        )
    name = str(value).strip()
    if not name:
        raise ValueError("the label is empty; fill it in, or delete the line")
    return name


def several_names(value: object) -> tuple[str, ...]:
    """The names of any number of labels, separated by commas, or in a JSON list; sorted.

    Raises:
        ValueError: it is a list as Python prints it.
    """
    if isinstance(value, str) and value.strip()[:1] == "[":
        raise ValueError(
            f"{shortened(value)} is a list as Python prints it; write the labels separated by "
            "commas, or save the file as JSON lines"
        )
    parts = value if isinstance(value, list) else re.split(SEPARATORS, str(value))
    return tuple(sorted({str(part).strip() for part in parts} - {""}))


def ticked_names(row: dict[str, object]) -> tuple[str, ...]:
    """The names of the columns that hold 1 (or true), in a row of 0 and 1.

    Raises:
        ValueError: a column holds something else.
    """
    values = {name: str(value).strip().lower() for name, value in row.items()}
    for name, value in values.items():
        if value not in _TICKS:
            raise ValueError(
                f"column {shortened(name)} holds {shortened(value)}; it must be 0 or 1"
            )
    return tuple(name for name, value in values.items() if _TICKS[value])


def number(value: object) -> float:
    """A finite number, for regression.

    Raises:
        ValueError: it is none.
    """
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result):
        raise ValueError(
            f"{shortened(value)} is not a number, with a point before its decimals, which "
            "--regression needs"
        )
    return result


# --- Tables and texts


def _table(path: str | Path, columns: Columns, *, labelled: bool) -> Table:
    """The file as a table, whether or not it has a header."""
    given = columns.given(labelled=labelled)
    if given and all(name.isascii() and name.isdigit() for name in given):
        return read_table(path, header=False)
    if has_named_columns(path) or given or _has_usual_header(path, labelled):
        return read_table(path)
    names = ["text", "label"] if labelled else ["text"]
    rows, line_numbers = [], []
    for line_number, line in numbered_lines(path):
        if line.strip(" "):
            rows.append(dict(zip(names, _fields(line, path, line_number, len(names)), strict=True)))
            line_numbers.append(line_number)
    if not rows:
        raise ValueError(f"{path} contains no text; {_FORMAT if labelled else 'one a line'}")
    return Table(path, names, rows, line_numbers)


def _has_usual_header(path: str | Path, labelled: bool) -> bool:
    """Whether the first line of a TSV file consists of names of columns, texts and label."""
    first = next((line for _, line in islice(numbered_lines(path), 1)), "")
    names = {name.strip().lower() for name in first.split("\t")}
    texts = names & {*TEXT_NAMES, *PAIR_NAMES}
    return bool(texts) and (bool(names & {*LABEL_NAMES}) or not labelled)


def _fields(line: str, path: str | Path, line_number: int, count: int) -> list[str]:
    fields = line.split("\t")
    where = f"{path}, line {line_number}"
    if len(fields) < count:
        raise ValueError(
            f"{where}: there is no tab in {shortened(line)}; {_FORMAT}. A CSV file needs a name "
            "that ends in .csv"
        )
    if len(fields) > count:
        raise ValueError(
            f"{where}: there are {len(fields)} columns in {shortened(line)}; choose "
            "--text-column and --label-column, by number (1, 2, ...) in a file without a header"
        )
    return fields


def _texts(table: Table, columns: Columns) -> tuple[list[str], Sequence[str | None]]:
    """The texts and, of pairs, the second texts, else None for each row."""
    first, second = columns.text, columns.pair
    if first is None and second is None:
        lower = {name.lower(): name for name in table.columns}
        both = [(lower[a], lower[b]) for a, b in PAIR_NAMES.items() if {a, b} <= lower.keys()]
        if len(both) == 1:
            first, second = both[0]
    names = (*TEXT_NAMES, *PAIR_NAMES)
    first = table.find("--text-column", first, names)
    texts = _strings(table, first, "--text-column")
    if second is None:
        return texts, [None] * len(texts)
    return texts, _strings(table, second, "--text-pair-column")


def _strings(table: Table, column: str, option: str) -> list[str]:
    values = table.column(column, option)
    for value, line in zip(values, table.line_numbers, strict=True):
        if not isinstance(value, str) or not value.strip():
            problem = "is empty" if isinstance(value, str) else f"is {shortened(value)}, no string"
            raise ValueError(
                f"{table.path}, line {line}, column {shortened(column)}: the text {problem}; "
                f"delete the line, or choose another column with {option}"
            )
    return [value.strip() for value in values]

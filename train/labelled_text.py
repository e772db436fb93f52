"""Texts with a label each: one text a line, a tab, and the name of its class.

    one long string of cliches<TAB>0
    a stirring , funny and finally transporting film<TAB>1

UTF-8, without a header. What follows the last tab of a line is the label, any name without a tab:
`0`, `positive`, `very good`. White space around text and label is left out, and blank lines are
passed over. SST-2 (Socher et al. 2013) is often handed on in this form.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minitransformer.files import not_utf8

_FORM = "a line is a text, a tab and a label"


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, the name of its class, and the row of the file, counted from 1."""

    text: str
    label: str
    row: int


def read_labelled_text(path: str | Path) -> list[LabelledText]:
    """Read a file of labelled texts.

    Raises:
        ValueError: the file is missing, is not UTF-8 or holds no text, or a line has no tab, an
            empty text or an empty label, or is a header. The message names the row.
    """
    examples = [
        _labelled_text(line, row, f"{path}, row {row}")
        for row, line in numbered_lines(path)
        if line.strip(" ")
    ]
    if not examples:
        raise ValueError(f"{path} holds no text; {_FORM}")
    first = examples[0]
    if first.label.lower() == "label":
        raise ValueError(
            f"{path}, row {first.row}: {first.text!r} with the label {first.label!r} is a header, "
            "not a text; delete the line"
        )
    return examples


def class_names(examples: Sequence[LabelledText]) -> list[str]:
    """The classes of the training texts: by number if all are integers, else by alphabet.

    Raises:
        ValueError: there is only one; nothing can be learned from it.
    """
    names = {example.label for example in examples}
    if len(names) < 2:
        raise ValueError(
            f"every text has the label {examples[0].label!r}; training needs two classes or more"
        )
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def class_numbers(
    examples: Sequence[LabelledText], classes: Sequence[str], path: str | Path
) -> list[int]:
    """The number of each text's class.

    Args:
        examples: read from `path`.
        classes: the names of the classes in their order, as :func:`class_names` gives them.
        path: for the error message.

    Raises:
        ValueError: a text is of another class. The message names its row.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    for example in examples:
        if example.label not in numbers:
            raise ValueError(
                f"{path}, row {example.row}: the label {example.label!r} is not among those of "
                f"the training file: {', '.join(classes)}"
            )
    return [numbers[example.label] for example in examples]


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file without their ends, each with its row, counted from 1.

    A byte order mark is left out, and a line may end as Windows ends it. No other character ends
    a line: U+2028 and its like stand inside texts.

    Raises:
        ValueError: the file cannot be read, or a row is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            for row, line in enumerate(file, start=1):
                text = line.decode("utf-8-sig" if row == 1 else "utf-8")
                yield row, text.removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error


def _labelled_text(line: str, row: int, where: str) -> LabelledText:
    text, tab, label = line.rpartition("\t")
    if not tab:
        raise ValueError(f"{where}: there is no tab in {line!r:.60}; {_FORM}")
    text, label = text.strip(), label.strip()
    if not text:
        raise ValueError(f"{where}: the text before the tab is empty; {_FORM}")
    if not label:
        raise ValueError(f"{where}: the label after the tab is empty; {_FORM}")
    return LabelledText(text, label, row)

"""Tables whose columns have names: CSV and TSV with a header, and JSON lines.

The end of the file's name decides which: `.csv`; `.jsonl`, `.ndjson` or `.json`; else TSV. The
values of CSV and TSV are strings, those of JSON what the file says.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitransformer.names import cut, listed, nearest, shortened
from train.text import numbered_lines

_JSON = (".jsonl", ".ndjson", ".json")
_MISSING = object()


def has_named_columns(path: str | Path) -> bool:
    """Whether the name of a file says that its columns have names: CSV and JSON do, TSV may."""
    return Path(path).suffix.lower() in (".csv", *_JSON)


@dataclass(frozen=True)
class Table:
    """A table in memory.

    Attributes:
        path: of the file.
        columns: the names in the header, or in any of the JSON objects.
        rows: name to value, in the order of the file.
        line_numbers: the line on which each row begins, counted from 1.
    """

    path: str | Path
    columns: list[str]
    rows: list[dict[str, Any]]
    line_numbers: list[int]

    def find(self, option: str, given: str | None, usual: Sequence[str]) -> str:
        """The name of the column that an option names, or that has a usual name.

        Args:
            option: of the command, such as "--text-column".
            given: its value, or None.
            usual: names in lower case; if several are columns, the first of `usual` must be one.

        Raises:
            ValueError: no column has a usual name, or several have; the message says which.
        """
        if given is not None:
            return given
        found = {name.lower(): name for name in self.columns if name.lower() in usual}
        if usual[0] in found or len(found) == 1:
            return found.get(usual[0]) or next(iter(found.values()))
        problem = "several columns could be meant" if found else "no column has a usual name"
        raise ValueError(
            f"{self.path}: {problem}; choose one of {listed(self.columns)} with {option} NAME. If "
            f"the file has no header, give the number of the column, as in {option} 1"
        )

    def column(self, name: str, option: str | None = None) -> list[Any]:
        """The values of a column, one for each row.

        Args:
            name: of the column; "translation.en" is the field `en` of the JSON object
                `translation`.
            option: of the command that chooses the column, for the message; None if no option
                does, and the column is known to exist.

        Raises:
            ValueError: there is no such column, or a row has no value there.
        """
        values = [_lookup(row, name) for row in self.rows]
        if name not in self.columns and all(value is _MISSING for value in values):
            guess = nearest(name, self.columns)
            hint = f"did you mean {shortened(guess)}? Its" if guess else "its"
            raise ValueError(
                f"{self.path} has no column {shortened(name)}; {hint} columns are "
                f"{listed(self.columns)}; choose one with {option}"
            )
        for value, number in zip(values, self.line_numbers, strict=True):
            if value is _MISSING or value is None:
                raise ValueError(
                    f"{self.path}, line {number}: there is no {shortened(name)}; add it or delete "
                    "the line" + f", or choose another column with {option}" * bool(option)
                )
        return values


def read_table(path: str | Path, *, header: bool = True) -> Table:
    """Read a table; blank lines are skipped.

    A CSV file may be separated by commas or, as some spreadsheets do, by semicolons. In a TSV file
    quotes enclose fields if every field that begins with a quote is quoted as in CSV; in others,
    such as GLUE's, they are part of the texts.

    Args:
        path: of the file.
        header: False for a CSV or TSV file without one; its columns are called "1", "2" and so on.

    Raises:
        ValueError: the file cannot be read, is not UTF-8, or has no row; a row has another number
            of fields than the header; or a line is not a JSON object.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _JSON:
        numbered = list(_json_rows(path))
        columns = list(dict.fromkeys(name for _, row in numbered for name in row))
    else:
        lines = _csv_lines(path) if suffix == ".csv" else _tsv_lines(path)
        columns, numbered = _with_columns(path, lines, header)
    if not numbered:
        raise ValueError(f"{path} has no row" + " below its header" * bool(columns))
    return Table(path, columns, [row for _, row in numbered], [number for number, _ in numbered])


def _with_columns(
    path: str | Path, lines: list[tuple[int, list[str]]], header: bool
) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    number, first = lines[0] if lines else (1, [])
    columns = [name.strip() for name in first]
    if not header:
        columns = [str(position) for position in range(1, len(first) + 1)]
    if len(set(columns)) < len(columns):
        raise ValueError(f"{path}, line {number}: the header has a name twice: {listed(columns)}")
    rows = []
    for number, fields in lines[header:]:
        if len(fields) != len(columns):
            raise ValueError(
                f"{path}, line {number}: there are {len(fields)} fields in "
                f"{shortened(fields)}, but {len(columns)} columns, {listed(columns)}; put a text "
                "that contains the separator in quotes (CSV), or delete the separator (TSV)"
            )
        rows.append((number, dict(zip(columns, fields, strict=True))))
    return columns, rows


def _tsv_lines(path: str | Path) -> list[tuple[int, list[str]]]:
    lines = [(number, line) for number, line in numbered_lines(path) if line.strip()]
    plain = [(number, line.split("\t")) for number, line in lines]
    if not any(field.startswith('"') for _, fields in plain for field in fields):
        return plain
    try:
        quoted = _csv_lines(path, "\t")
    except ValueError:
        return plain
    return quoted if len({len(fields) for _, fields in quoted}) == 1 else plain


def _csv_lines(path: str | Path, separator: str | None = None) -> list[tuple[int, list[str]]]:
    lines = [line for _, line in numbered_lines(path)]
    if separator is None:
        header = next(filter(str.strip, lines), "")
        separator = ";" if header.count(";") > header.count(",") else ","
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator, strict=True)
    rows, begin = [], 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                rows.append((begin, fields))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {begin} is not CSV: {error}; a quote within quotes is written twice"
        ) from error
    return rows


def _json_rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = [(number, line) for number, line in numbered_lines(path) if line.strip()]
    if lines and lines[0][1].lstrip().startswith("["):
        yield from _json_array(path, "\n".join(line for _, line in lines))
        return
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}, line {number} is not a JSON object: {cut(str(error))}; write one "
                'object per line, {"name": "value", ...}'
            ) from error
        yield number, _as_object(path, f"line {number}", row)


def _json_array(path: str | Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of one JSON array; a row counts as a line."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {cut(str(error))}") from error
    for number, row in enumerate(rows, start=1):
        yield number, _as_object(path, f"object {number}", row)


def _as_object(path: str | Path, where: str, row: object) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(
            f'{path}, {where}: {shortened(row)} is not a JSON object, {{"name": "value", ...}}'
        )
    return row


def _lookup(row: dict[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value

"""The docstrings and comments of a program: they say nothing of what is no longer there.

What a sentence (or the part of one after a semicolon) says of a parameter that was removed, whose
name it has in backticks, or of a definition that the program lacks, whose name it has in a role
such as :func:, goes with it. So do the entries of removed parameters, and errors without checks.
"""

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from minitransformer.source.syntax import WIDTH, docstring, document, set_source, walk
from minitransformer.source.trees import defined_names
from minitransformer.source.types import parameters_of

_SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Example):$")
_ROLE = re.compile(r":(?:func|class|meth|mod|data):`~?([\w.]+)`")
_QUOTED = re.compile(r"(?<![:`])`(\w+)`")
_ENTRY = re.compile(r"    (\w+(?:, \w+)*): (.*)$")


@dataclass
class Prose:
    """Rewrites docstrings and comments.

    Args:
        body: the definitions.
        aliases: names of classes that were merged away, and what stands for them.
        roots: the names of definitions that a reader calls.
        with_checks: whether errors are described.
    """

    body: list[ast.stmt]
    aliases: Mapping[str, str]
    roots: Collection[str]
    with_checks: bool

    def rewrite(self) -> None:
        """Rewrite all docstrings and comments, in place."""
        self.members = {
            name: {getattr(n, "name", "") for n in getattr(node, "body", [])}
            for node in self.body
            for name in defined_names(node)
        }
        self._complete(self.body)
        for node in self.body:
            self._is_root = bool(set(defined_names(node)) & {*self.roots})
            if isinstance(node, ast.FunctionDef):
                self._function(node, 1)
            elif isinstance(node, ast.ClassDef):
                methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
                present = {p.arg for m in methods for p in parameters_of(m)}
                removed = set().union(*map(_removed, methods)) - present
                self._docstring(node, removed, 1)
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef):
                        self._function(inner, 2)
                    else:
                        self._comments(inner, removed, 1)
            else:
                self._comments(node, set(), 0)

    def _complete(self, body: list[ast.stmt]) -> None:
        """Let roots say themselves what arguments are, where they refer to another method."""
        entries: dict[str, dict[str, list[str]]] = {}
        for node in body:
            for inner in getattr(node, "body", []):
                if isinstance(inner, ast.FunctionDef) and (text := document(inner)) is not None:
                    name = f"{node.name}.{inner.name}"  # type: ignore[attr-defined]
                    entries[name] = _entries_of(inspect.cleandoc(text))
        for node in body:
            if set(defined_names(node)) & {*self.roots}:
                for inner in [node, *getattr(node, "body", [])]:
                    literal = docstring(inner)
                    if literal is not None:
                        self._expand(literal, entries)
                self._take_over(node)

    def _take_over(self, node: ast.stmt) -> None:
        """Let a class say what a base says to which its methods refer."""
        methods = [n for n in getattr(node, "body", []) if isinstance(n, ast.FunctionDef)]
        said = [
            line
            for method in methods
            for parameter in parameters_of(method)
            for line in _entries_of(inspect.cleandoc(document(method) or "")).get(parameter.arg, ())
        ]
        literal = docstring(node)
        for base, text in getattr(node, "merged", {}).items():
            if literal is not None and any(f":class:`{base}`" in line for line in said):
                paragraphs = inspect.cleandoc(text).split("\n\n")[1:]
                literal.value = "\n\n".join([inspect.cleandoc(str(literal.value)), *paragraphs])
                set_source(literal, "")

    def _expand(self, literal: ast.Constant, known: Mapping[str, Mapping[str, list[str]]]) -> None:
        lines: list[str] = []
        for line in inspect.cleandoc(str(literal.value)).split("\n"):
            match = re.match(r"    ([\w, ]+): as in :meth:`([\w.]+)`\.$", line)
            target = self._renamed(f":meth:`{match[2]}`")[7:-1] if match else ""
            if match is None or target not in known:
                lines.append(line)
                continue
            for name in match[1].split(", "):
                lines += known[target].get(name, [])
        text = "\n".join(lines)
        if text != inspect.cleandoc(str(literal.value)):
            literal.value = text
            set_source(literal, "")

    def _function(self, node: ast.FunctionDef, depth: int) -> None:
        removed = _removed(node)
        self._docstring(node, removed, depth)
        for inner in walk(node):
            if isinstance(inner, ast.stmt):
                self._comments(inner, removed, depth)

    def _docstring(self, node: ast.AST, removed: Collection[str], depth: int) -> None:
        literal = docstring(node)
        if literal is None:
            return
        before = inspect.cleandoc(str(literal.value))
        after = self.text(before, removed, WIDTH - 4 * depth)
        if after != before:
            assert isinstance(node, ast.FunctionDef | ast.ClassDef)
            literal.value = after
            set_source(literal, "")

    def _comments(self, node: ast.stmt, removed: Collection[str], depth: int) -> None:
        origin = getattr(node, "origin", None)
        if origin is None or not origin.comments:
            return
        text = " ".join(comment.removeprefix("#").strip() for comment in origin.comments)
        kept = self._sentences(text, removed)
        if kept != text:
            lines = textwrap.wrap(kept, WIDTH - 4 * depth - 2, break_on_hyphens=False)
            node.origin = replace(origin, comments=tuple(f"# {line}" for line in lines))  # type: ignore[attr-defined]

    def text(self, text: str, removed: Collection[str], width: int) -> str:
        """A docstring without what is no longer true."""
        blocks: list[str] = []
        for block in re.split(r"\n\n+(?!    )", self._renamed(text)):
            title, *lines = block.split("\n")
            if not self._is_root and title in ("Args:", "Returns:", "Attributes:"):
                continue  # comments say it; what a reader calls has them
            if not _SECTION.match(title):
                blocks.append(self._paragraph(block, removed, width))
            elif (title == "Raises:" and not self.with_checks) or title == "Example:":
                continue
            else:
                kept = self._entries(lines, removed, width)
                if kept == ["    config: the sizes."]:  # the annotation says it
                    kept = []
                blocks.append("\n".join([title, *kept]) if kept else "")
        return "\n\n".join(block for block in blocks if block)

    def _renamed(self, text: str) -> str:
        def rename(match: re.Match[str]) -> str:
            first, _, rest = match[1].partition(".")
            return match[0].replace(
                match[1], self.aliases.get(first, first) + ("." + rest) * bool(rest)
            )

        return _ROLE.sub(rename, text)

    def _paragraph(self, block: str, removed: Collection[str], width: int) -> str:
        if re.search(r"^(?:- |\s|>>>)", block, re.MULTILINE):
            return block  # a list, or an example
        text = " ".join(block.split("\n"))
        kept = self._sentences(text, removed)
        return block if kept == text else _wrapped(kept, width)

    def _entries(self, lines: list[str], removed: Collection[str], width: int) -> list[str]:
        """The entries of a section that are still true."""
        entries: list[list[str]] = []
        for line in lines:
            if re.match(r"    \S", line) and (_ENTRY.match(line) or not entries):
                entries.append([line])
            elif entries:
                entries[-1].append(line)
        kept: list[str] = []
        for entry in entries:
            text = " ".join(line.strip() for line in entry)
            match = _ENTRY.match(entry[0])
            if match is None:
                said = self._sentences(text, removed)
            else:
                names = [name for name in match[1].split(", ") if name not in removed]
                rest = self._sentences(text.partition(": ")[2], removed)
                said = f"{', '.join(names)}: {rest}" if names and rest else ""
            if said == text:
                kept += entry
            elif said:
                kept += _wrapped(said, width, "    ", "        ").split("\n")
        return kept

    def _sentences(self, text: str, removed: Collection[str]) -> str:
        parts = re.split(r"(?<=[.;]) (?=\S)", text)
        kept = [part for part in parts if not self._is_gone(part, removed)]
        if len(kept) == len(parts):
            return text
        if kept and kept[-1].endswith(";"):
            kept[-1] = kept[-1][:-1] + "." * parts[-1].endswith(".")
        for place, (one, other) in enumerate(itertools.pairwise(kept)):
            if one.endswith(";") and other[0].isupper() and f"{one} {other}" not in text:
                kept[place] = one[:-1] + "."
        return " ".join(part[0].upper() + part[1:] if not place and text[0].isupper() else part
                        for place, part in enumerate(kept))  # fmt: skip

    def _is_gone(self, text: str, removed: Collection[str]) -> bool:
        if any(name in removed for name in _QUOTED.findall(text)):
            return True
        for target in _ROLE.findall(text):
            first, _, rest = target.partition(".")
            if first not in self.members or (rest and rest not in self.members[first]):
                return True
        return False


def _entries_of(text: str) -> dict[str, list[str]]:
    """The lines of each argument in a docstring."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.partition("Args:\n")[2].split("\n"):
        if (match := _ENTRY.match(line)) is not None:
            current = []
            for name in match[1].split(", "):
                found[name] = current
        if not line.strip():
            break
        current.append(line)
    return found


def _removed(function: ast.FunctionDef) -> set[str]:
    known = getattr(function, "known", [])
    return set(known) - {p.arg for p in parameters_of(function)}


def _wrapped(text: str, width: int, first: str = "", rest: str = "") -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    )


def legend(text: str, docstrings: list[str]) -> str:
    """The meanings of the letters in the shapes of a text, from the docstrings of modules.

    Args:
        text: of the file.
        docstrings: of the modules that it was made from, the most important first.
    """
    shapes = re.findall(r"\(((?:\.\.\., )?[A-Z0-9](?:[A-Z0-9*., ]*))\)", text)
    used = set(re.findall(r"\b[A-Z]\b", " ".join(shapes)))
    meanings: dict[str, str] = {}
    for text_of_module in docstrings:
        for paragraph in text_of_module.split("\n\n"):
            flat = " ".join(paragraph.split())
            if re.match(r"[A-Z] [a-z]", flat):
                for letter, meaning in re.findall(r"\b([A-Z]) ([a-z][^,.;]*)", flat):
                    meanings.setdefault(letter, meaning)
    found = [f"{letter} {meanings[letter]}" for letter in meanings if letter in used]
    return ", ".join(found) + "." if found else ""

"""Questions about trees, and small changes of them, that need no types."""

import ast
import copy
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from minitransformer.source.syntax import docstring, walk

_NEUTRAL = (0, 1)  # numbers that may replace a parameter: they change nothing


def is_constant(node: ast.AST | None) -> bool:
    """Whether it is a literal: None, True, a number or a text."""
    return isinstance(node, ast.Constant) and node.value is not ...


def is_none(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def is_replaceable(node: ast.expr) -> bool:
    """Whether it may stand in the place of a parameter without hiding what it means."""
    if is_identity(node):
        return True
    if not isinstance(node, ast.Constant):
        return False
    is_number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
    return not is_number or node.value in _NEUTRAL


def is_pure(node: ast.expr) -> bool:
    """Whether it can be left out where its value is not used."""
    return not any(
        isinstance(n, ast.Call | ast.Await | ast.Yield | ast.NamedExpr) and not _is_harmless(n)
        for n in walk(node)
    )


def _is_harmless(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func)
    return name in (
        "values_are_readable",
        "zip",
        "layer_caches",
        "nn.Dropout",
        "nn.Identity",
        "tuple",
        "len",
        "getattr",
    )


def is_identity(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name, arguments = ast.unparse(node.func), node.args
    if name == "nn.Identity":
        return True
    is_zero = len(arguments) == 1 and is_constant(arguments[0]) and arguments[0].value == 0  # type: ignore[attr-defined]
    return name == "nn.Dropout" and is_zero


def name_is_config(node: ast.ClassDef) -> bool:
    """Whether a class is a config, of which only the fields that are read stay."""
    return node.name.endswith("Config")


def explains(text: str) -> bool:
    """Whether a docstring says more than what goes in and what comes out."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return len(paragraphs[0].split("\n")) > 1 or any(
        not re.match(r"\s*(Args|Returns|Raises):", paragraph) for paragraph in paragraphs[1:]
    )


def defined_names(node: ast.stmt) -> list[str]:
    """The names that a statement of a file defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    if isinstance(node, ast.Assign):
        return [t.id for t in node.targets if isinstance(t, ast.Name)]
    return []


def loaded(function: ast.AST, *, appends: bool = True) -> set[str]:
    """The local names that are read; `appends`: whether adding to a list counts as reading it."""
    ignored: set[int] = set()
    if not appends:
        for node in walk(function):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                called = node.value.func
                if isinstance(called, ast.Attribute) and called.attr == "append":
                    ignored.add(id(called.value))
    return {
        node.id
        for node in walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in ignored
    }


def names_in_strings(node: ast.AST, *, attributes: bool = False) -> set[str]:
    """The names, or attributes, inside formatted strings, where nothing is replaced."""
    found = set()
    for inner in walk(node):
        if isinstance(inner, ast.JoinedStr):
            for n in walk(inner):
                if attributes and isinstance(n, ast.Attribute):
                    found.add(n.attr)
                elif not attributes and isinstance(n, ast.Name):
                    found.add(n.id)
    return found


def used_attributes(node: ast.AST) -> set[str]:
    """The attributes that are read, and texts that may be names of some."""
    return used_texts(node) | {
        n.attr for n in walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)
    }


def used_texts(node: ast.AST) -> set[str]:
    """The texts in a tree that are no docstrings."""
    documents = {id(docstring(n)) for n in walk(node) if docstring(n) is not None}
    return {
        n.value
        for n in walk(node)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in documents
    }


def attributes_set(methods: Iterable[ast.FunctionDef]) -> list[str]:
    found = {
        node.attr: None
        for method in methods
        for node in walk(method)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node)
    }
    return list(found)


def without_none(annotation: ast.expr | None) -> ast.expr | None:
    """`T` of `T | None`; None for another annotation."""
    is_union = isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr)
    return annotation.left if is_union and is_none(annotation.right) else None  # type: ignore[union-attr]


def returned_values(function: ast.FunctionDef) -> list[ast.expr | None]:
    return [n.value for n in walk(function) if isinstance(n, ast.Return)]


def without_docstring(function: ast.FunctionDef) -> list[ast.stmt]:
    return function.body[docstring(function) is not None :]


def statement_of(node: ast.AST, function: ast.FunctionDef) -> ast.stmt | None:
    """The innermost statement that a node is part of."""
    found: Any = None
    for statement in walk(function):
        is_part = isinstance(statement, ast.stmt) and statement is not function
        if is_part and any(inner is node for inner in walk(statement)):
            found = statement
    return found


def negated(test: ast.expr) -> ast.expr:
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is | ast.IsNot):
        opposite = ast.IsNot() if isinstance(test.ops[0], ast.Is) else ast.Is()
        return ast.Compare(test.left, [opposite], test.comparators)
    return ast.UnaryOp(ast.Not(), test)


def filtered(body: Iterable[ast.stmt], drop: Callable[[ast.stmt], bool]) -> list[ast.stmt]:
    """The statements that are not dropped, at every depth; an `if` or `for` left empty goes too."""
    kept: list[ast.stmt] = []
    for node in body:
        if drop(node):
            continue
        is_compound = isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Try)
        if is_compound:
            for name in ("body", "orelse", "finalbody"):
                inner = getattr(node, name, None)
                if inner:
                    setattr(node, name, filtered(inner, drop))
            if not node.body and not getattr(node, "orelse", []):  # type: ignore[attr-defined]
                continue
            if isinstance(node, ast.If) and not node.body:
                node.test, node.body, node.orelse = negated(node.test), node.orelse, []
        kept.append(node)
    return kept


def without_raises(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements without conditions whose only effect is an error."""
    kept: list[ast.stmt] = []
    for node in body:
        for name in ("body", "orelse"):
            inner = getattr(node, name, None)
            if isinstance(inner, list) and not isinstance(node, ast.FunctionDef | ast.ClassDef):
                setattr(node, name, without_raises(inner))
        if isinstance(node, ast.If):
            raises = bool(node.body) and isinstance(node.body[-1], ast.Raise)
            if raises or not node.body:
                kept += node.orelse
                continue
        if isinstance(node, ast.For) and not node.body:
            continue
        kept.append(node)
    return kept


def remove_assignments(function: ast.FunctionDef, names: Collection[str]) -> None:
    """Remove what gives values to names that nobody reads, if nothing else happens there."""
    if not names:
        return

    def drop(node: ast.stmt) -> bool:
        if isinstance(node, ast.Assign) and is_pure(node.value):
            node.targets = [
                t for t in node.targets if not (isinstance(t, ast.Name) and t.id in names)
            ] or node.targets
            return all(isinstance(t, ast.Name) and t.id in names for t in node.targets)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            return node.target.id in names and (node.value is None or is_pure(node.value))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            return (
                isinstance(called, ast.Attribute)
                and called.attr == "append"
                and isinstance(called.value, ast.Name)
                and called.value.id in names
            )
        return False

    function.body = filtered(function.body, drop) or [ast.Pass()]


def without_attribute(body: Iterable[ast.stmt], name: str) -> list[ast.stmt]:
    def drop(node: ast.stmt) -> bool:
        if isinstance(node, ast.Assign):
            return len(node.targets) == 1 and is_self(node.targets[0], name)
        return isinstance(node, ast.AnnAssign) and is_self(node.target, name)

    return filtered(body, drop) or [ast.Pass()]


def remove_definition(body: list[ast.stmt], function: ast.FunctionDef) -> None:
    if function in body:
        body.remove(function)
    for node in body:
        if isinstance(node, ast.ClassDef) and function in node.body:
            node.body.remove(function)


class ReplaceNodes(ast.NodeTransformer):
    def __init__(self, replaced: Mapping[int, ast.expr]) -> None:
        self.replaced = replaced

    def visit(self, node: ast.AST) -> Any:
        if id(node) in self.replaced:
            return self.replaced[id(node)]
        return self.generic_visit(node)


def is_self(node: ast.expr, name: str | None = None) -> bool:
    """Whether it is `self.name`; without a name, any attribute of `self`."""
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and name in (None, node.attr)
    )


class Substitute(ast.NodeTransformer):
    """Puts expressions in the place of names that are read."""

    def __init__(self, values: Mapping[str, ast.expr]) -> None:
        self.values = values

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and node.id in self.values:
            value = copy.deepcopy(self.values[node.id])
            value.inserted = True  # type: ignore[attr-defined]
            return value
        return node


def names_in(node: ast.AST) -> set[str]:
    """The names that occur in a tree."""
    return {n.id for n in walk(node) if isinstance(n, ast.Name)}


def free_names(node: ast.AST) -> set[str]:
    """The names that occur in a definition and are not its own: not bound inside it."""
    if isinstance(node, ast.ClassDef):
        inner = [*node.bases, *node.decorator_list, *node.body, *(k.value for k in node.keywords)]
        return set().union(*map(free_names, inner))
    if not isinstance(node, ast.FunctionDef):
        return names_in(node)
    bound = {n.id for n in walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names_in(node) - bound

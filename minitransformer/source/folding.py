"""Passes that put constants in the place of what stands for them, and decide conditions."""

import ast
import copy
import inspect
from collections.abc import Collection, Iterator
from typing import Any

import torch

from minitransformer.source.program import Program
from minitransformer.source.syntax import constant, walk
from minitransformer.source.trees import (
    Substitute,
    attributes_set,
    defined_names,
    is_constant,
    is_identity,
    is_none,
    is_pure,
    is_self,
    names_in_strings,
    negated,
    remove_assignments,
    returned_values,
    without_attribute,
)
from minitransformer.source.types import Scope, Types, never_none, parameters_of


def fold(program: Program) -> None:
    """Decide what is constant."""
    types = program.types
    for scope in types.scopes():
        folder = _Folder(types, scope)
        scope.function.body = folder.block(scope.function.body) or [ast.Pass()]


def propagate_constants(program: Program) -> None:
    """Put a constant, or another name, in the place of a local name that stands for it."""
    types = program.types
    for scope in types.scopes():
        function = scope.function
        parameters = {p.arg for p in parameters_of(function)}
        hidden = names_in_strings(function)
        assigned = types.assigned(function)
        for name, values in assigned.items():
            if len(values) != 1 or name in parameters | hidden or values[0][0] != "value":
                continue
            value = values[0][1]
            is_copy = isinstance(value, ast.Name) and (
                value.id in types.functions or _stays(value.id, name, function)
            )
            if is_constant(value) or is_copy:
                Substitute({name: value}).visit(function)
                remove_assignments(function, {name})


def _stays(name: str, copy_of_it: str, function: ast.FunctionDef) -> bool:
    """Whether a local name keeps its value from where another name gets it on."""
    known = name in {p.arg for p in parameters_of(function)}
    is_copied = False
    for statement in function.body:
        stored = {n.id for n in walk(statement) if isinstance(n, ast.Name) and _is_stored(n)}
        if copy_of_it in stored:
            is_copied = isinstance(statement, ast.Assign)
        elif name in stored and is_copied:
            return False
        known = known or (name in stored and isinstance(statement, ast.Assign))
    return known and is_copied


def _is_stored(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def propagate_attributes(program: Program) -> None:
    """Put a constant in the place of an attribute that is never anything else."""
    types = program.types
    foreign: dict[str, set[str]] = {}  # loads of attributes of others than self
    for scope in [*types.scopes()]:
        for node in walk(scope.function):
            if isinstance(node, ast.Attribute) and not is_self(node):
                owners = types.instances(node.value, scope)
                foreign.setdefault(node.attr, set()).update(owners)
    for name, node in types.classes.items():
        methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
        for attribute in attributes_set(methods):
            values = [v for m in methods for v in types.set_on_self(m).get(attribute, ())]
            if len(values) != 1 or name in foreign.get(attribute, ()):
                continue
            value = values[0]
            is_function = isinstance(value, ast.Attribute) and ast.unparse(value)[:2] == "F."
            if not (is_constant(value) or program.is_global(value) or is_function):
                continue
            family = [n for n in types.classes.values() if name in types.bases(n.name)]
            hidden = set().union(*(names_in_strings(n, attributes=True) for n in family))
            if attribute in hidden:
                continue
            for other in family:
                _ReplaceAttribute(attribute, value).visit(other)
            for method in methods:
                method.body = without_attribute(method.body, attribute)


def remove_identities(program: Program) -> None:
    """Remove modules that give what they get: `nn.Identity()` and dropout of 0."""
    types = program.types
    for node in types.classes.values():
        methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
        for attribute in attributes_set(methods):
            values = [v for m in methods for v in types.set_on_self(m).get(attribute, ())]
            if values and is_identity(values[-1]) and len(values) <= 2:
                for method in methods:
                    _RemoveCall(attribute).visit(method)
                    method.body = without_attribute(method.body, attribute)


def narrow_isinstance(program: Program) -> None:
    """Drop classes that the program makes no instances of from `isinstance`."""
    made = {
        inner.id
        for node in program.body
        for inner in _outside_isinstance(node)
        if isinstance(inner, ast.Name)
    }
    classes = {n.name for n in program.body if isinstance(n, ast.ClassDef)} - made - program.roots
    for node in program.body:
        _NarrowIsinstance(classes).visit(node)


def narrow_loops(program: Program) -> None:
    """`for x, y in zip(xs, [None] * n)` becomes `for x in xs`."""
    types = program.types
    for scope in types.scopes():
        for node in walk(scope.function):
            if not isinstance(node, ast.For) or not isinstance(node.target, ast.Tuple):
                continue
            values = node.iter
            if isinstance(values, ast.Name):
                found = types.assigned(scope.function).get(values.id, [])
                values = found[0][1] if len(found) == 1 and found[0][0] == "value" else values
            if not (isinstance(values, ast.Call) and getattr(values.func, "id", "") == "zip"):
                continue
            if len(values.args) == 2 and _are_nones(values.args[1], types):
                given, absent = node.target.elts
                assert isinstance(absent, ast.Name)
                node.target, node.iter = given, copy.deepcopy(values.args[0])
                Substitute({absent.id: constant(None)}).visit(node)


class _Folder:
    """Decides what is constant in a function."""

    def __init__(self, types: Types, scope: Scope) -> None:
        self.types = types
        self.scope = scope

    def block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        result: list[ast.stmt] = []
        for node in body:
            result += self.statement(node)
            if result and isinstance(result[-1], ast.Return | ast.Raise):
                break
        return result

    def statement(self, node: ast.stmt) -> list[ast.stmt]:
        for name in ("body", "orelse", "finalbody"):
            inner = getattr(node, name, None)
            if isinstance(inner, list):
                setattr(node, name, self.block(inner))
        _FoldExpressions(self).visit_header(node)
        if isinstance(node, ast.If):
            if is_constant(node.test):
                return node.body if node.test.value else node.orelse  # type: ignore[attr-defined]
            if not node.body and not node.orelse:
                return []
            if not node.body:
                node.test, node.body, node.orelse = negated(node.test), node.orelse, []
        if isinstance(node, ast.For) and not node.body:
            return []
        return [node]


class _FoldExpressions(ast.NodeTransformer):
    def __init__(self, folder: _Folder) -> None:
        self.folder = folder

    def visit_header(self, node: ast.stmt) -> None:
        for name, value in ast.iter_fields(node):
            if name in ("body", "orelse", "finalbody", "handlers", "decorator_list"):
                continue
            if isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
            elif isinstance(value, list):
                setattr(node, name, [self.visit(v) if isinstance(v, ast.AST) else v for v in value])

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        if len(node.ops) != 1:
            return node
        left, right, operator = node.left, node.comparators[0], node.ops[0]
        if isinstance(operator, ast.Is | ast.IsNot) and is_none(right):
            none: bool | None = None
            if isinstance(left, ast.Constant):
                none = left.value is None
            elif never_none(left, self.folder.scope, self.folder.types):
                none = False
            if none is not None:
                return constant(none == isinstance(operator, ast.Is))
        if isinstance(left, ast.Constant) and isinstance(right, ast.Constant):
            if isinstance(operator, ast.Eq | ast.NotEq):
                return constant((left.value == right.value) == isinstance(operator, ast.Eq))
            if isinstance(operator, ast.Gt) and left.value is not None:
                return constant(left.value > right.value)  # type: ignore[operator]
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        if (
            isinstance(node.op, ast.BitOr)
            and isinstance(node.left, ast.Dict)
            and not node.left.keys
        ):
            return node.right
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Constant):
            return constant(not node.operand.value)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        stops_at = isinstance(node.op, ast.Or)
        values: list[ast.expr] = []
        for value in node.values:
            if isinstance(value, ast.Constant):
                if bool(value.value) == stops_at:
                    values.append(value)
                    break
                if value is node.values[-1] and not values:
                    values.append(value)
                continue
            values.append(value)
        if not values:
            return node.values[-1]
        if len(values) == 1:
            return values[0]
        last = values[-1]
        if isinstance(last, ast.Constant) and not stops_at and all(map(is_pure, values)):
            return last
        node.values = values
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        called = node.func
        strips = isinstance(called, ast.Attribute) and called.attr == "removeprefix"
        if strips and getattr(node.args[0], "value", None) == "":
            return called.value  # type: ignore[attr-defined]
        defaults = _defaults(ast.unparse(node.func))
        if defaults is None:
            return node

        def is_default(value: ast.expr, name: str | None) -> bool:
            if not getattr(value, "inserted", False) or not isinstance(value, ast.Constant):
                return False
            return value.value is None or (name in defaults and defaults[name] == value.value)

        node.keywords = [k for k in node.keywords if not is_default(k.value, k.arg)]
        names = list(defaults)
        while node.args and not node.keywords:
            place = len(node.args) - 1
            if not is_default(node.args[-1], names[place] if place < len(names) else None):
                break
            node.args.pop()
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and isinstance(node.slice, ast.Constant):
            for definition in self.folder.types.body:
                if node.value.id in defined_names(definition):
                    table = getattr(definition, "value", None)
                    if isinstance(table, ast.Dict):
                        for key, value in zip(table.keys, table.values, strict=True):
                            if isinstance(key, ast.Constant) and key.value == node.slice.value:
                                return copy.deepcopy(value)
        return node


def _defaults(name: str) -> dict[str, Any] | None:
    """The parameters of a function of PyTorch and their defaults; None for other functions."""
    first, _, rest = name.partition(".")
    module: Any = {"nn": torch.nn, "F": torch.nn.functional, "torch": torch}.get(first)
    if module is None:
        return None
    try:
        found = inspect.signature(getattr(module, rest))
    except (AttributeError, ValueError, TypeError):
        return {}
    return {p.name: p.default for p in found.parameters.values()}


class _ReplaceAttribute(ast.NodeTransformer):
    def __init__(self, name: str, value: ast.expr) -> None:
        self.name, self.value = name, value

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        if is_self(node, self.name) and isinstance(node.ctx, ast.Load):
            return copy.deepcopy(self.value)
        return node


class _RemoveCall(ast.NodeTransformer):
    """`self.name(x)` becomes `x`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if is_self(node.func, self.name) and len(node.args) == 1:
            return node.args[0]
        return node


def _are_nones(node: ast.expr, types: Types) -> bool:
    """Whether it is a list of nothing but None."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in types.functions:
        returned = returned_values(types.functions[node.func.id])  # type: ignore[attr-defined]
        return all(isinstance(v, ast.BinOp) and _are_nones(v, types) for v in returned)
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
        return False
    return isinstance(node.left, ast.List) and all(map(is_none, node.left.elts))


def _outside_isinstance(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that can make an instance: not those of annotations and of `isinstance`."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
        yield from _outside_isinstance(node.args[0])
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _outside_isinstance(child)


class _NarrowIsinstance(ast.NodeTransformer):
    def __init__(self, absent: Collection[str]) -> None:
        self.absent = absent

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if getattr(node.func, "id", "") != "isinstance":
            return node
        kept = [c for c in _union(node.args[1]) if getattr(c, "id", "") not in self.absent]
        if not kept:
            return constant(False)
        joined = kept[0]
        for other in kept[1:]:
            joined = ast.BinOp(joined, ast.BitOr(), other)
        node.args[1] = joined
        return node


def _union(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_union(node.left), *_union(node.right)]
    return [node]

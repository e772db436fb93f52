"""Passes that remove what nobody uses."""

import ast
from collections.abc import Iterator

from minitransformer.source.program import CHECKING, Program
from minitransformer.source.syntax import constant, is_changed, walk
from minitransformer.source.trees import (
    defined_names,
    filtered,
    is_constant,
    is_none,
    is_pure,
    loaded,
    name_is_config,
    names_in,
    names_in_strings,
    remove_assignments,
    used_texts,
    without_attribute,
)
from minitransformer.source.types import Scope, Types, is_dataclass, parameters_of


def remove_unused(program: Program) -> None:
    """Remove local names that nobody reads, and calls without an effect."""
    types = program.types
    empty = {
        id(scope.function)
        for scope in types.scopes()
        if _is_empty(scope.function) and id(scope.function) not in program.protected
    }
    for scope in types.scopes():
        function = scope.function

        def is_useless(node: ast.stmt, scope: Scope = scope) -> bool:
            if not isinstance(node, ast.Expr):
                return False
            if isinstance(node.value, ast.Call):
                callees = types.callees(node.value, scope)
                return bool(callees) and all(id(c.function) in empty for c in callees)
            is_text = isinstance(node.value, ast.Constant)
            return not is_text and is_pure(node.value)

        function.body = filtered(function.body, is_useless) or [ast.Pass()]
        function.body = filtered(function.body, _assigns_itself) or [ast.Pass()]
        _split_tuples(function)
        unread = set(types.assigned(function)) - loaded(function, appends=False)
        unread -= names_in_strings(function) | {p.arg for p in parameters_of(function)}
        remove_assignments(function, unread)
        _join_return(function)
        _join_branches(function)
    _remove_unread_attributes(program)


def _remove_unread_attributes(program: Program) -> None:
    types = program.types
    read = set()
    for scope, nodes in [(s, s.function) for s in types.scopes()]:
        read |= used_by(program, nodes, scope, types)
    for node in program.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            read |= used_by(program, node, None, types)
    for node in program.body:
        if isinstance(node, ast.ClassDef):
            for method in [n for n in node.body if isinstance(n, ast.FunctionDef)]:
                for name, values in program.types.set_on_self(method).items():
                    is_kept = bool({name, f"{node.name}.{name}", f"text:{name}"} & read)
                    is_kept |= name == "config" and node.name in program.roots
                    if not is_kept and all(_is_no_part(program, v) for v in values):
                        method.body = without_attribute(method.body, name)


def _is_no_part(program: Program, node: ast.expr) -> bool:
    """Whether a value is no module, parameter or buffer, which an attribute would register."""
    if isinstance(node, ast.Call):
        maker = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        made = program.types.classes.get(getattr(maker, "id", ""))
        return made is not None and not any("Module" in ast.dump(b) for b in made.bases)
    return isinstance(node, ast.Name | ast.Constant | ast.Dict)


def prune(program: Program) -> None:
    """Remove definitions, methods and fields that nothing reaches from the roots."""
    types = program.types
    by_name = {name: node for node in program.body for name in defined_names(node)}
    live = set(program.roots) & by_name.keys()
    seen: set[int] = set()
    attributes: set[str] = set()
    before = -1
    while before != (before := len(live) + len(attributes) + len(seen)):
        for name in sorted(live):
            for part in reached(program, by_name[name], attributes):
                if id(part) in seen:
                    continue
                seen.add(id(part))
                live |= names_in(part) & by_name.keys()
                scope = Scope(part, name) if isinstance(part, ast.FunctionDef) else None
                attributes |= used_by(program, part, scope, types)
    program.body = [n for n in program.body if any(name in live for name in defined_names(n))]
    for node in program.body:
        if isinstance(node, ast.ClassDef):
            kept = {id(part) for part in reached(program, node, attributes)}
            node.body = [n for n in node.body if id(n) in kept or isinstance(n, ast.Expr)]
            if not node.body:
                node.body = [ast.Pass()]


def used_by(program: Program, part: ast.AST, scope: Scope | None, types: Types) -> set[str]:
    """What a part reads: attributes of anything, and "Class.attribute" where the class is known."""
    found = set()
    if scope is not None and scope.owner not in types.classes:
        scope = Scope(scope.function, None)
    for node in walk(part):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owners = types.instances(node.value, scope)
            if not owners:
                found.add(node.attr)
            for owner in owners:
                related = [*types.bases(owner), *types.derived(owner)]
                found |= {f"{c}.{node.attr}" for c in related}
    return found | {f"text:{text}" for text in used_texts(part)}


def reached(program: Program, node: ast.stmt, attributes: set[str]) -> Iterator[ast.AST]:
    """The parts of a definition that are reached if attributes of these names are."""
    if not isinstance(node, ast.ClassDef):
        yield node
        return
    yield from [*node.bases, *node.decorator_list, *(k.value for k in node.keywords)]
    python = {"__init__", "forward", "__call__"}
    if program.with_checks:
        python |= {*CHECKING}
    in_init = {
        t.attr
        for n in node.body
        if isinstance(n, ast.FunctionDef) and n.name == "__init__"
        for t in walk(n)
        if isinstance(t, ast.Attribute) and isinstance(t.ctx, ast.Store)
    }
    is_output = is_dataclass(node) and not name_is_config(node)
    for inner in node.body:
        target = inner.targets[0] if isinstance(inner, ast.Assign) else None
        target = inner.target if isinstance(inner, ast.AnnAssign) else target
        name = getattr(inner, "name", None) or getattr(target, "id", "")
        is_read = name in attributes or f"{node.name}.{name}" in attributes
        if not isinstance(inner, ast.FunctionDef):
            is_read |= f"text:{name}" in attributes
        if isinstance(inner, ast.FunctionDef):
            wanted = name in python or (is_read and (program.with_checks or not is_output))
        elif not isinstance(inner, ast.AnnAssign):
            wanted = is_read
        elif "ClassVar" in names_in(inner.annotation):
            wanted = is_read and inner.value is not None
        elif is_dataclass(node):
            wanted = program.with_checks or is_output or is_read
        else:
            wanted = is_read and name not in in_init and bool(inner.origin.tail)  # type: ignore[attr-defined]
        if wanted:
            yield inner


def _is_empty(function: ast.FunctionDef) -> bool:
    """Whether a function does nothing, and returns nothing."""

    def does_nothing(node: ast.stmt) -> bool:
        if isinstance(node, ast.If):
            return is_pure(node.test) and all(map(does_nothing, [*node.body, *node.orelse]))
        is_return = isinstance(node, ast.Return) and node.value is None
        return (
            is_return
            or isinstance(node, ast.Pass)
            or (isinstance(node, ast.Expr) and is_constant(node.value))
        )

    return all(map(does_nothing, function.body))


def _assigns_itself(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and all(
        ast.unparse(target) == ast.unparse(node.value) for target in node.targets
    )


def _split_tuples(function: ast.FunctionDef) -> None:
    """`a, b = [], []` as two statements if one of the names is not read."""
    read = loaded(function, appends=False)
    for node in walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            targets, values = node.targets[0].elts, node.value
            if isinstance(values, ast.Tuple) and len(values.elts) == len(targets):
                kept = [
                    (t, v)
                    for t, v in zip(targets, values.elts, strict=True)
                    if not isinstance(t, ast.Name) or t.id in read or not is_pure(v)
                ]
                if len(kept) == len(targets):
                    continue
                if len(kept) == 1:
                    node.targets, node.value = [kept[0][0]], kept[0][1]
                elif kept:
                    node.targets = [ast.Tuple([t for t, _ in kept], ast.Store())]
                    node.value = ast.Tuple([v for _, v in kept], ast.Load())
                else:
                    node.targets, node.value = [targets[0]], constant(None)


def _join_branches(function: ast.FunctionDef) -> None:
    """`if c: return a` and `return b` as one, where the second was another statement before."""
    if len(function.body) < 2:
        return
    before, last = function.body[-2:]
    if not isinstance(before, ast.If) or not isinstance(last, ast.Return) or before.orelse:
        return
    inner = before.body[0]
    changed = is_changed(last) or getattr(last, "origin", None) is None
    gives_none = isinstance(inner, ast.Return) and is_none(inner.value)
    if len(before.body) == 1 and gives_none and changed and last.value is not None:
        last.value = ast.IfExp(before.test, constant(None), last.value)
        function.body.remove(before)


def _join_return(function: ast.FunctionDef) -> None:
    """`x = value; return x` as `return value`, where the `return` was another one before."""
    body = function.body
    if len(body) < 2:
        return
    before, last = body[-2:]
    if not (isinstance(before, ast.Assign) and isinstance(last, ast.Return)):
        return
    target = before.targets[0]
    if not (isinstance(target, ast.Name) and isinstance(last.value, ast.Name)):
        return
    one, other = getattr(before, "origin", None), getattr(last, "origin", None)
    apart = one is None or other is None or other.first_line != one.last_line + 1
    if target.id != last.value.id or not (is_changed(last) or apart):
        return
    last.value = before.value
    if other is None or not other.tail:
        last.origin = one  # type: ignore[attr-defined]
    body.remove(before)

"""What a file is to do without, and what is constant in it: decided before the passes."""

import ast
from collections.abc import Collection, Mapping
from dataclasses import replace

from minitransformer.source.program import CHECKING, Program
from minitransformer.source.signatures import fix_parameter
from minitransformer.source.syntax import constant, walk
from minitransformer.source.trees import Substitute, filtered, names_in, without_raises
from minitransformer.source.types import parameters_of
from minitransformer.source.unused import prune


def prepare(
    program: Program,
    fixed: Mapping[tuple[str, str], object],
    *,
    checking: Collection[str],
    initial_weights: bool,
    absent_fields: Collection[str],
) -> None:
    """Leave out what a file is to do without, and put in what is constant in it.

    Args:
        program: the definitions.
        fixed: constants for parameters and local names, by the function ("Class.method") and the
            name.
        checking: the names of functions that only check.
        initial_weights: whether what draws initial weights stays.
        absent_fields: fields of outputs that are left out.
    """
    _drop_annotations(program)
    for node in program.body:  # the attention implementation is known, so it needs no check
        if isinstance(node, ast.FunctionDef) and node.name == "get_attention":
            node.body = without_raises(node.body)
    _prune(program)
    if not program.with_checks:
        _remove_checks(program, checking)
    if not initial_weights:
        _remove_calls(program, "nn.init.")
    for node in program.body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Output"):
            _remove_fields(node, absent_fields, program.body)
    _prune(program)
    _protect(program)
    for scope in program.types.scopes():
        known = [p.arg for p in parameters_of(scope.function)]
        name = ".".join(filter(None, [scope.owner, scope.function.name]))
        for (where, parameter), value in fixed.items():
            if where == name and parameter in known:
                sites = program.types.sites.get(id(scope.function), [])
                fix_parameter(scope.function, parameter, constant(value), sites)
            elif where == name:  # a local name
                known.append(parameter)
                Substitute({parameter: constant(value)}).visit(scope.function)
        scope.function.known = known  # type: ignore[attr-defined]
    program.forget()


def _prune(program: Program) -> None:
    prune(program)
    program.forget()


def _protect(program: Program) -> None:
    """Let the parameters stay of what a reader calls."""
    types = program.types
    for name in program.roots:
        if name in types.functions:
            program.protected.add(id(types.functions[name]))
        for method in ("__init__", "forward"):
            if name in types.classes and (found := types.method(name, method)):
                program.protected.add(id(found))


def _drop_annotations(program: Program) -> None:
    """Leave out the types of constants, for which there may be no other use."""
    for place, node in enumerate(program.body):
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            plain = ast.copy_location(ast.Assign([node.target], node.value), node)
            origin = node.origin  # type: ignore[attr-defined]
            lines = origin.lines
            annotation = f": {ast.unparse(node.annotation)} ="
            first = lines[0].replace(annotation, " =", 1)
            plain.origin = replace(origin, lines=(first, *lines[1:]), dump=ast.dump(plain))  # type: ignore[attr-defined]
            program.body[place] = plain


def _remove_calls(program: Program, prefix: str) -> None:
    """Remove the statements that call functions of a module, for their effect alone."""
    for node in program.body:
        for inner in walk(node):
            if isinstance(inner, ast.FunctionDef):
                inner.body = filtered(
                    inner.body,
                    lambda n: isinstance(n, ast.Expr) and ast.unparse(n).startswith(prefix),
                ) or [ast.Pass()]


def _remove_checks(program: Program, validation: Collection[str]) -> None:
    for node in program.body:
        for inner in walk(node):
            if isinstance(inner, ast.FunctionDef | ast.ClassDef):
                inner.decorator_list = [
                    d for d in inner.decorator_list if not names_in(d) & set(validation)
                ]
            if isinstance(inner, ast.ClassDef):
                inner.keywords = []
                inner.body = [n for n in inner.body if getattr(n, "name", "") not in CHECKING]

        def only_checks(statement: ast.stmt) -> bool:
            if isinstance(statement, ast.Assert):
                return True
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                function = statement.value.func
                return isinstance(function, ast.Name) and function.id in validation
            return False

        for inner in walk(node):
            if isinstance(inner, ast.FunctionDef):
                inner.body = without_raises(filtered(inner.body, only_checks))


def _remove_fields(node: ast.ClassDef, names: Collection[str], body: list[ast.stmt]) -> None:
    """Remove fields of a dataclass, and what calls give them."""
    node.body = [n for n in node.body if getattr(getattr(n, "target", None), "id", "") not in names]
    for definition in body:
        for call in walk(definition):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == node.name:
                call.keywords = [k for k in call.keywords if k.arg not in names]

"""Passes that change what functions and classes take, and what they give back."""

import ast
import re
from collections.abc import Iterable
from dataclasses import replace

from minitransformer.source.program import Program
from minitransformer.source.syntax import constant, walk
from minitransformer.source.trees import (
    ReplaceNodes,
    Substitute,
    is_none,
    is_pure,
    is_replaceable,
    is_self,
    loaded,
    name_is_config,
    names_in,
    names_in_strings,
    returned_values,
    statement_of,
    without_none,
)
from minitransformer.source.types import (
    Site,
    Types,
    argument,
    default_of,
    is_dataclass,
    never_none,
    parameters_of,
    place_of,
)

_MANY = 2  # parameters that are fields of the config, from which on a class takes the config


def specialise_parameters(program: Program) -> None:
    """Replace parameters that every call gives the same constant, and remove unused ones."""
    types = program.types
    for scope in types.scopes():
        group = group_of(scope.function, types)
        if not any(program.is_open(function) for function in group):
            for parameter in parameters_of(scope.function):
                _specialise(program, parameter.arg, group, types)
        elif scope.function.name == "forward" and not program.with_checks:
            for parameter in parameters_of(scope.function):  # what is refused elsewhere
                if parameter.arg not in {"self", *loaded(scope.function)}:
                    remove_parameter(scope.function, parameter.arg)


def _specialise(program: Program, name: str, group: list[ast.FunctionDef], types: Types) -> None:
    if name == "self" or not all(name in [p.arg for p in parameters_of(f)] for f in group):
        return
    if any(name in names_in_strings(f) for f in group):
        return
    values: list[ast.expr | str | None] = []
    for function in group:
        for site in types.sites[id(function)]:
            given = argument(site, function, name)
            values.append(default_of(function, name) if given is None else given)
    is_read = any(name in loaded(function) for function in group)
    is_assigned = any(name in types.assigned(function) for function in group)
    if not is_read and not is_assigned:
        if all(isinstance(v, ast.expr) and is_pure(v) for v in values):
            _remove(program, name, group, types, None)
        return
    first = values[0]
    if is_assigned or not isinstance(first, ast.expr):
        return
    same = all(isinstance(v, ast.expr) and ast.dump(v) == ast.dump(first) for v in values)
    if same and (is_replaceable(first) or program.is_global(first)):
        _remove(program, name, group, types, first)


def _remove(
    program: Program, name: str, group: list[ast.FunctionDef], types: Types, value: ast.expr | None
) -> None:
    cleaned: set[int] = set()
    for function in group:
        for site in types.sites[id(function)]:
            if id(site.call) not in cleaned:
                cleaned.add(id(site.call))
                remove_argument(site, function, name)
    for function in group:
        if value is not None:
            Substitute({name: value}).visit(function)
        remove_parameter(function, name)


def narrow_annotations(program: Program) -> None:
    """Make parameters required that every call gives, and drop None where none is given."""
    types = program.types
    for scope in types.scopes():
        group = group_of(scope.function, types)
        if any(program.is_open(function) for function in group):
            continue
        for parameter in parameters_of(scope.function):
            _narrow_annotation(program, parameter, scope.function, types)


def _narrow_annotation(
    program: Program, parameter: ast.arg, function: ast.FunctionDef, types: Types
) -> None:
    narrow = without_none(parameter.annotation)
    given = [(argument(s, function, parameter.arg), s) for s in types.sites[id(function)]]
    always = all(isinstance(value, ast.expr) for value, _ in given)
    if not always:
        return
    if default_of(function, parameter.arg) is not None:
        _make_required(function, parameter.arg)
    values = [(value, site.scope) for value, site in given if isinstance(value, ast.expr)]
    if narrow is not None and all(never_none(value, scope, types) for value, scope in values):
        parameter.annotation = narrow


def narrow_returns(program: Program) -> bool:
    """Drop what is always None from the tuples that functions return."""
    types = program.types
    for scope in types.scopes():
        function = scope.function
        returned = returned_values(function)
        if not returned or not all(isinstance(v, ast.Tuple) for v in returned):
            continue
        size = len(returned[0].elts)  # type: ignore[union-attr]
        for place in range(size):
            always = all(len(v.elts) == size and is_none(v.elts[place]) for v in returned)  # type: ignore[union-attr]
            if always and _drop_element(program, function, place, size, types):
                return True
    return False


def _drop_element(
    program: Program, function: ast.FunctionDef, place: int, size: int, types: Types
) -> bool:
    """Drop one element of what a function returns, and of what its callers unpack."""
    chain = [function]
    unpacked: dict[int, tuple[ast.Assign, ast.FunctionDef]] = {}
    for current in chain:
        if id(current) in types.escaped or id(current) in program.protected:
            return False
        for site in types.sites.get(id(current), []):
            if site.scope is None:
                return False
            parent = statement_of(site.call, site.scope.function)
            if isinstance(parent, ast.Return) and parent.value is site.call:
                if site.scope.function not in chain:
                    chain.append(site.scope.function)
            elif isinstance(parent, ast.Assign) and parent.value is site.call:
                target = parent.targets[0]
                if not isinstance(target, ast.Tuple) or len(target.elts) != size:
                    return False
                unpacked[id(parent)] = parent, site.scope.function
            else:
                return False
            for callee in types.callees(site.call, site.scope):
                if callee.function not in chain:
                    chain.append(callee.function)
    for current in chain:
        for value in returned_values(current):
            if isinstance(value, ast.Tuple):
                if len(value.elts) != size or not is_none(value.elts[place]):
                    return False
            elif not isinstance(value, ast.Call):
                return False
    for current in chain:
        for node in walk(current):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
                node.value = _without_element(node.value, place)
        if current.returns is not None:
            current.returns = _without_annotation(current.returns, place)
    for statement, caller in unpacked.values():
        target = statement.targets[0]
        assert isinstance(target, ast.Tuple)
        dropped = target.elts[place]
        statement.targets = [_without_element(target, place)]
        _drop_shape(statement, place, size)
        _insert_before(caller, statement, ast.Assign([dropped], constant(None), lineno=0))
    return True


def narrow_dataclasses(program: Program) -> None:
    """Drop fields that are never anything but their default, None."""
    types = program.types
    for name, node in types.classes.items():
        if not is_dataclass(node) or name.endswith("Config"):
            continue
        calls = [
            (call, scope)
            for scope in types.scopes()
            for call in walk(scope.function)
            if isinstance(call, ast.Call) and name in types.constructed(call.func, scope)
        ]
        for field in [n for n in node.body if isinstance(n, ast.AnnAssign)]:
            field_name = getattr(field.target, "id", "")
            if field.value is None or not is_none(field.value) or not calls:
                continue
            given = [k for call, _ in calls for k in call.keywords if k.arg == field_name]
            if all(is_none(keyword.value) for keyword in given):
                for call, _ in calls:
                    call.keywords = [k for k in call.keywords if k.arg != field_name]
                _ReplaceField(name, field_name, types).replace()
                node.body.remove(field)


def use_config(program: Program) -> bool:
    """Hand on the config where most parameters of a class are fields of it."""
    types = program.types
    for scope in types.scopes():
        function = scope.function
        if function.name == "__init__" and "config" in [p.arg for p in parameters_of(function)]:
            _ReadConfig().visit_body(function)
    config = next(n.name for n in types.classes.values() if name_is_config(n))
    changed: set[int] = set()  # functions whose calls are no longer known
    for scope in types.scopes():
        function = scope.function
        if function.name != "__init__" or program.is_open(function):
            continue
        group = group_of(function, types)
        sites = [site for member in group for site in types.sites[id(member)]]
        touched = {id(f) for f in group} | {id(s.scope.function) for s in sites if s.scope}
        if changed & touched:
            continue
        found = {
            p.arg: _config_value(program, p.arg, group, types) for p in parameters_of(function)
        }
        values = {name: value for name, value in found.items() if value is not None}
        has_config = any(p.arg == "config" for p in parameters_of(function))
        fields = [v for v in values.values() if isinstance(v, ast.Attribute)]
        if not values or (len(fields) < _MANY and not has_config):
            continue
        for name, value in values.items():
            _remove(program, name, group, types, value)
        if not has_config:
            for member in group:
                annotation = ast.Name(config, ast.Load())
                member.args.args.insert(1, ast.arg("config", annotation))
            for call in {id(site.call): site.call for site in sites}.values():
                call.args.insert(0, ast.Name("config", ast.Load()))
        changed |= touched
    return bool(changed)


def _config_value(
    program: Program, name: str, group: list[ast.FunctionDef], types: Types
) -> ast.expr | None:
    """What every call gives a parameter, if it is a field of the config, or a part made of it."""
    if name in ("self", "config") or any(name in types.assigned(f) for f in group):
        return None
    sites = {id(s.call): (s, f) for f in group for s in types.sites[id(f)]}
    given = [argument(site, function, name) for site, function in sites.values()]
    first = given[0]
    if not isinstance(first, ast.expr) or not names_in(first) or not is_from_config(first):
        if not (isinstance(first, ast.Call) and len(sites) == 1 and len(group) == 1):
            return None
        reads = [n for n in walk(group[0]) if isinstance(n, ast.Name) and n.id == name]
        scope = next(iter(sites.values()))[0].scope
        made = types.constructed(first.func, scope)
        if is_function_call(first, types):
            made = names_in(first.func)
        rest = names_in(first) - made - {"config"}
        return first if len(reads) == 1 and made and not rest else None
    same = all(isinstance(v, ast.expr) and ast.dump(v) == ast.dump(first) for v in given)
    hidden = any(name in names_in_strings(f) for f in group)
    return first if same and not hidden else None


def drop_local_annotations(program: Program) -> None:
    """Leave out the types of attributes, and of local names whose value shows them."""
    for scope in program.types.scopes():
        _DropAnnotations().visit(scope.function)


def is_function_call(node: ast.expr, types: Types) -> bool:
    """Whether it calls a function of the program."""
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") in types.functions


class _ReplaceField:
    """Reads of a field that is always None become None."""

    def __init__(self, owner: str, name: str, types: Types) -> None:
        self.owner, self.name, self.types = owner, name, types

    def replace(self) -> None:
        for scope in list(self.types.scopes()):
            found = [
                node
                for node in walk(scope.function)
                if isinstance(node, ast.Attribute)
                and node.attr == self.name
                and isinstance(node.ctx, ast.Load)
                and self.owner in self.types.instances(node.value, scope)
            ]
            ReplaceNodes({id(node): constant(None) for node in found}).visit(scope.function)


def _without_element(node: ast.Tuple, place: int) -> ast.expr:
    rest = [element for i, element in enumerate(node.elts) if i != place]
    return rest[0] if len(rest) == 1 else ast.Tuple(rest, node.ctx)


def _without_annotation(annotation: ast.expr, place: int) -> ast.expr:
    """`tuple[A, B]` without one of its elements."""
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple):
        inner = _without_element(annotation.slice, place)
        if not isinstance(inner, ast.Tuple):
            return inner
        return ast.Subscript(annotation.value, inner, ast.Load())
    return annotation


def _drop_shape(statement: ast.stmt, place: int, size: int) -> None:
    """Drop one of several shapes from the comment after a statement."""
    origin = getattr(statement, "origin", None)
    if origin is None or not origin.tail:
        return
    shapes = re.findall(r"\([^()]*\)", origin.tail)
    if len(shapes) == size and origin.tail == f"# {', '.join(shapes)}":
        rest = [shape for i, shape in enumerate(shapes) if i != place]
        statement.origin = replace(origin, tail=f"# {', '.join(rest)}")  # type: ignore[attr-defined]


def _insert_before(function: ast.FunctionDef, statement: ast.stmt, new: ast.stmt) -> None:
    for node in walk(function):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and statement in block:
                block.insert(block.index(statement), new)
                return


def is_from_config(node: ast.expr) -> bool:
    """Whether it is `config.field`."""
    return isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "config"


class _ReadConfig(ast.NodeTransformer):
    """In a constructor, `self.config.field` becomes `config.field`."""

    def visit_body(self, function: ast.FunctionDef) -> None:
        function.body = [
            node
            for node in map(self.visit, function.body)
            if not (isinstance(node, ast.Assign) and ast.unparse(node) == "config = config")
        ]

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        if is_self(node, "config") and isinstance(node.ctx, ast.Load):
            return ast.Name("config", ast.Load())
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        return node


class _DropAnnotations(ast.NodeTransformer):
    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is None or (
            isinstance(node.value, ast.List | ast.Dict) and isinstance(node.target, ast.Name)
        ):
            return node
        plain = ast.Assign([node.target], node.value, lineno=0)
        plain.origin = getattr(node, "origin", None)  # type: ignore[attr-defined]
        return plain


def fix_parameter(
    function: ast.FunctionDef, name: str, value: ast.expr, sites: Iterable[Site]
) -> None:
    """Give a parameter a constant, whatever calls say."""
    for site in sites:
        remove_argument(site, function, name)
    Substitute({name: value}).visit(function)
    remove_parameter(function, name)


def remove_argument(site: Site, function: ast.FunctionDef, name: str) -> None:
    place = place_of(site, function, name)
    if isinstance(place, int):
        del site.call.args[place]
    elif isinstance(place, ast.keyword):
        site.call.keywords.remove(place)


def remove_parameter(function: ast.FunctionDef, name: str) -> None:
    """Remove a parameter, and its default, from a signature."""
    arguments = function.args
    names = [p.arg for p in arguments.args]
    if name in names:
        place = names.index(name) - len(names) + len(arguments.defaults)
        if place >= 0:
            del arguments.defaults[place]
        del arguments.args[names.index(name)]
        return
    place = [p.arg for p in arguments.kwonlyargs].index(name)
    del arguments.kwonlyargs[place], arguments.kw_defaults[place]


def _make_required(function: ast.FunctionDef, name: str) -> None:
    """Remove a parameter's default, unless parameters before it have one."""
    arguments = function.args
    names = [p.arg for p in arguments.args]
    if name in names:
        if names.index(name) == len(names) - len(arguments.defaults):
            del arguments.defaults[0]
        return
    arguments.kw_defaults[[p.arg for p in arguments.kwonlyargs].index(name)] = None


def group_of(function: ast.FunctionDef, types: Types) -> list[ast.FunctionDef]:
    """The functions that share a call, so that their parameters change together."""
    group = [function]
    for member in group:
        for site in types.sites.get(id(member), []):
            for callee in types.callees(site.call, site.scope):
                if callee.function not in group:
                    group.append(callee.function)
    return group

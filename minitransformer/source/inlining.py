"""Passes that put the body of a function, or what an object holds, in the place of its use."""

import ast
import copy
from dataclasses import replace

from minitransformer.source.program import Program
from minitransformer.source.syntax import document, walk
from minitransformer.source.trees import (
    ReplaceNodes,
    Substitute,
    explains,
    filtered,
    is_self,
    name_is_config,
    names_in,
    names_in_strings,
    remove_definition,
    statement_of,
    without_docstring,
)
from minitransformer.source.types import (
    Scope,
    Site,
    Types,
    argument,
    default_of,
    is_dataclass,
    parameters_of,
)

_TINY = 40  # characters of an expression that may stand in the place of a call
_SHORT = 60  # characters of a call that may stand in the place of others


def unwrap_dataclasses(program: Program) -> bool:
    """Return the value itself where a dataclass has one field left."""
    types = program.types
    for name, node in types.classes.items():
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
        if not is_dataclass(node) or len(fields) != 1 or methods or name_is_config(node):
            continue
        field = fields[0]
        assert isinstance(field.target, ast.Name)
        replaced: dict[int, ast.expr] = {}
        for scope in types.scopes():
            for inner in walk(scope.function):
                if isinstance(inner, ast.Call) and getattr(inner.func, "id", "") == name:
                    given = [*inner.args, *(k.value for k in inner.keywords)]
                    replaced[id(inner)] = given[0]
                elif isinstance(inner, ast.Attribute) and inner.attr == field.target.id:
                    if types.instances(inner.value, scope) == {name}:
                        replaced[id(inner)] = inner.value
                elif isinstance(inner, ast.Name) and inner.id == name:
                    replaced.setdefault(id(inner), field.annotation)
        for other in program.body:
            ReplaceNodes(replaced).visit(other)
        program.body.remove(node)
        return True
    return False


def unpack_dataclasses(program: Program) -> None:
    """Use the values themselves where an output is made and read in one function."""
    types = program.types
    for scope in types.scopes():
        for name, values in types.assigned(scope.function).items():
            call = values[0][1]
            if len(values) != 1 or not isinstance(call, ast.Call):
                continue
            made = types.classes.get(getattr(call.func, "id", ""))
            if made is None or not is_dataclass(made) or name_is_config(made) or call.args:
                continue
            given = {k.arg: k.value for k in call.keywords}
            simple = all(isinstance(v, ast.Name | ast.Constant) for v in given.values())
            reads = [n for n in walk(scope.function) if isinstance(n, ast.Attribute)]
            reads = [n for n in reads if getattr(n.value, "id", "") == name and n.attr in given]
            loads = [n for n in walk(scope.function) if getattr(n, "id", "") == name]
            if not simple or len(loads) != len(reads) + 1:
                continue
            replaced = {id(n): copy.deepcopy(given[n.attr]) for n in reads}
            ReplaceNodes(replaced).visit(scope.function)
            scope.function.body = filtered(
                scope.function.body,
                lambda n, call=call: isinstance(n, ast.Assign) and n.value is call,  # type: ignore[misc]
            )


def unwrap_classes(program: Program) -> bool:
    """Use the one attribute of an object in the place of the object."""
    types = program.types
    for name, node in types.classes.items():
        init = types.method(name, "__init__")
        others = [n for n in node.body if isinstance(n, ast.FunctionDef) and n is not init]
        if node.bases or others or init is None or len(parameters_of(init)) != 1:
            continue
        if len(without_docstring(init)) != 1 or name in program.roots:
            continue
        ((attribute, values),) = types.set_on_self(init).items() or ((None, []),)
        replaced: dict[int, ast.expr] = {}
        for scope in types.scopes():
            for inner in walk(scope.function):
                if isinstance(inner, ast.Call) and getattr(inner.func, "id", "") == name:
                    replaced[id(inner)] = values[0]
                elif isinstance(inner, ast.Attribute) and inner.attr == attribute:
                    is_held = types.instances(inner.value, scope) == {name}
                    replaced |= {id(inner): inner.value} if is_held else {}
        made = values[0].func if isinstance(values[0], ast.Call) else None
        if not isinstance(made, ast.Name):
            continue
        for other in program.body:
            ReplaceNodes(replaced).visit(other)
            for inner in walk(other):
                if isinstance(inner, ast.Name) and inner.id == name:
                    inner.id = made.id
        program.body.remove(node)
        return True
    return False


def forward_calls(program: Program) -> bool:
    """Call the method that another one does nothing but call."""
    types = program.types
    for scope in types.scopes():
        function, sites = scope.function, types.sites.get(id(scope.function), [])
        body = without_docstring(function)
        value = body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None
        if not (isinstance(value, ast.Call) and is_self(value.func)) or not sites:
            continue
        names = [p.arg for p in parameters_of(function)[1:]]
        given = [ast.unparse(a) for a in value.args]
        if given != names or value.keywords or program.is_open(function):
            continue
        if _are_known(sites, types):
            for site in sites:
                assert isinstance(site.call.func, ast.Attribute)
                site.call.func.attr = value.func.attr  # type: ignore[attr-defined]
            remove_definition(program.body, function)
            return True
    return False


def inline_factories(program: Program) -> bool:
    """Put what a function looks up, or makes, in the place of its calls."""
    types = program.types
    changed: set[int] = set()  # functions whose calls are no longer known
    for scope in types.scopes():
        function, sites = scope.function, types.sites.get(id(scope.function), [])
        body = without_docstring(function)
        value = body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None
        if value is None or program.is_open(function):
            continue
        if not _is_plain(value, scope, len(sites), program) or not _are_known(sites, types):
            continue
        touched = {id(function), *(id(site.scope.function) for site in sites if site.scope)}
        if not changed & touched and all(_inline(site, function, value) for site in sites):
            remove_definition(program.body, function)
            changed |= touched
    for scope in types.scopes():
        _Splat().visit(scope.function)
    return bool(changed)


def _is_plain(value: ast.expr, scope: Scope, num_calls: int, program: Program) -> bool:
    """Whether what a function returns says as much as a call of it, in every place of one."""
    if isinstance(value, ast.Dict) or program.is_global(value):
        return True
    if isinstance(value, ast.Subscript) and program.is_global(value.value):
        return True  # a lookup
    if scope.owner is not None:
        return False
    text, length = document(scope.function), len(ast.unparse(value))
    if isinstance(value, ast.Call) and program.types.constructed(value.func, scope):
        return num_calls == 1 or length < _SHORT
    if isinstance(value, ast.Call) and ast.unparse(value.func).startswith("F."):
        return num_calls == 1
    is_described = text is None or not explains(text)
    return is_described and (num_calls == 1 or (length < _TINY and text is not None))


def _are_known(sites: list[Site], types: Types) -> bool:
    """Whether calls run one function, each in a function."""
    return all(
        site.scope is not None and len(types.callees(site.call, site.scope)) == 1 for site in sites
    )


def inline_methods(program: Program) -> bool:
    """Put the body of a method in the place of its only call, if there is little to say of it.

    These are mostly methods that families replace: what is left is one family.
    """
    types = program.types
    changed: set[int] = set()
    for scope in types.scopes():
        function, sites = scope.function, types.sites.get(id(scope.function), [])
        text = document(function)
        if len(sites) != 1 or program.is_open(function) or not _are_known(sites, types):
            continue
        if (text is not None and explains(text)) or function.decorator_list:
            continue
        assert sites[0].scope is not None
        touched = {id(function), id(sites[0].scope.function)}
        if not changed & touched and _put_in_place(program, sites[0], scope):
            remove_definition(program.body, function)
            changed |= touched
    return bool(changed)


def _put_in_place(program: Program, site: Site, scope: Scope) -> bool:
    """Put the body of a method in the place of its call; False if that cannot be done."""
    assert site.scope is not None
    if scope.owner is None:
        return _splice(site, scope.function, program.types)
    if is_self(site.call.func, scope.function.name) and site.scope.owner == scope.owner:
        return _splice(site, scope.function, program.types)
    body = without_docstring(scope.function)
    if getattr(site.call.func, "attr", "") != scope.function.name:  # a module is called
        return False
    if len(body) == 1 and isinstance(body[0], ast.Return) and body[0].value is not None:
        is_short = len(ast.unparse(body[0].value)) < _SHORT
        return is_short and _inline(site, scope.function, body[0].value)
    return False


def arguments_of(site: Site, function: ast.FunctionDef) -> dict[str, ast.expr] | None:
    """What a call gives each parameter; None if the code does not show it."""
    values: dict[str, ast.expr] = {}
    for parameter in parameters_of(function)[site.skipped :]:
        given = argument(site, function, parameter.arg)
        given = default_of(function, parameter.arg) if given is None else given
        if not isinstance(given, ast.expr):
            return None
        values[parameter.arg] = given
    if site.skipped and isinstance(site.call.func, ast.Attribute):
        values["self"] = site.call.func.value
    return values


def _inline(site: Site, function: ast.FunctionDef, value: ast.expr) -> bool:
    """Put what a function returns in the place of a call of it."""
    values = arguments_of(site, function)
    if values is None or site.scope is None or names_in_strings(value):
        return False
    reads = [n.id for n in walk(value) if isinstance(n, ast.Name)]
    for name, given in values.items():
        simple = isinstance(given, ast.Name | ast.Constant | ast.Attribute)
        if reads.count(name) > 1 and not simple:
            return False
    result = Substitute(values).visit(copy.deepcopy(value))
    ReplaceNodes({id(site.call): result}).visit(site.scope.function)
    return True


def _splice(site: Site, function: ast.FunctionDef, types: Types) -> bool:
    """Put the body of a method in the place of a call of it by `self`."""
    assert site.scope is not None
    caller = site.scope.function
    values, body = arguments_of(site, function), without_docstring(function)
    if names_in_strings(function):
        return False
    statement = statement_of(site.call, caller)
    returns = [n for n in walk(function) if isinstance(n, ast.Return)]
    last = body[-1] if body else None
    if values is None or statement is None or last is None:
        return False
    in_place = isinstance(statement, ast.Return) and statement.value is site.call
    if not in_place and (len(returns) > 1 or (returns and last is not returns[0])):
        return False
    local = set(types.assigned(function))
    target_names = set()
    if isinstance(statement, ast.Assign) and isinstance(last, ast.Return):
        target_names = names_in(statement.targets[0])
    changed = {
        name: value
        for name, value in values.items()
        if not (isinstance(value, ast.Name) and value.id == name)
    }
    reads = [n.id for n in walk(function) if isinstance(n, ast.Name)]
    for name, value in changed.items():
        simple = isinstance(value, ast.Name | ast.Constant) or ast.unparse(value) == "self.config"
        if name in local:
            ends = isinstance(statement, ast.Return) and statement.value is site.call
            if not (ends and isinstance(value, ast.Name) and value.id not in local):
                return False  # else the caller's name is not read afterwards, and may be changed
        elif not (simple or reads.count(name) <= 1):
            return False
    known = set(types.assigned(caller)) | {p.arg for p in parameters_of(caller)}
    if (local - values.keys()) & (known - target_names) - {"config"}:
        return False
    is_expression = len(body) == 1 and isinstance(last, ast.Return) and last.value is not None
    is_call = isinstance(statement, ast.Expr) and statement.value is site.call and not returns
    is_assigned = (
        isinstance(statement, ast.Assign) and statement.value is site.call and bool(returns)
    )
    if not (is_expression or is_call or is_assigned or (in_place and returns)):
        return False
    substitute = Substitute(changed)
    for node in walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in changed:
            node.id = changed[node.id].id  # type: ignore[attr-defined]
    if is_expression:
        assert isinstance(last, ast.Return) and last.value is not None
        result = substitute.visit(last.value)
        ReplaceNodes({id(site.call): result}).visit(caller)
        _add_comments(statement, last)
        return True
    new = [substitute.visit(node) for node in body]
    if isinstance(statement, ast.Assign):
        assert isinstance(last, ast.Return) and last.value is not None
        statement.value = last.value
        _add_comments(statement, last)
        new[-1] = statement
    for node in walk(caller):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and statement in block:
                place = block.index(statement)
                block[place : place + 1] = new
                return True
    return False


def _add_comments(statement: ast.stmt, other: ast.stmt) -> None:
    """Put the comments above another statement above this one, too."""
    origin, more = getattr(statement, "origin", None), getattr(other, "origin", None)
    if origin is not None and more is not None:
        statement.origin = replace(  # type: ignore[attr-defined]
            origin,
            comments=(*more.comments, *origin.comments),
            tail=origin.tail or more.tail,
        )


class _Splat(ast.NodeTransformer):
    """`f(**{"a": b})` becomes `f(a=b)`."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        keywords = []
        for keyword in node.keywords:
            if keyword.arg is None and isinstance(keyword.value, ast.Dict):
                for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                    assert isinstance(key, ast.Constant)
                    keywords.append(ast.keyword(str(key.value), value))
            else:
                keywords.append(keyword)
        node.keywords = keywords
        return node

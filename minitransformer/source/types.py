"""Which function a call runs: the classes of values, as far as the code shows them.

Flow-insensitive: a name may hold whatever is assigned to it anywhere in its function, an attribute
whatever any method assigns to it. A list stands for its elements. What the code does not show has
no class.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minitransformer.source.syntax import walk
from minitransformer.source.trees import defined_names, is_self, without_none


class Scope(NamedTuple):
    """A function, and the class whose method it is."""

    function: ast.FunctionDef
    owner: str | None


@dataclass
class Site:
    """A call of a function of the program.

    Attributes:
        call: the call.
        scope: where it stands.
        skipped: how many parameters the call does not give, 1 for `self`.
    """

    call: ast.Call
    scope: Scope | None
    skipped: int


@dataclass
class Callee:
    """What a call may run."""

    function: ast.FunctionDef
    skipped: int


def is_dataclass(node: ast.ClassDef) -> bool:
    """Whether a class is a dataclass."""
    return any("dataclass" in ast.dump(decorator) for decorator in node.decorator_list)


def parameters_of(function: ast.FunctionDef) -> list[ast.arg]:
    """All named parameters of a function."""
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def default_of(function: ast.FunctionDef, name: str) -> ast.expr | None:
    """The default of a parameter; None if there is none."""
    arguments = function.args
    positional = [p.arg for p in [*arguments.posonlyargs, *arguments.args]]
    if name in positional:
        place = positional.index(name) - len(positional) + len(arguments.defaults)
        return arguments.defaults[place] if place >= 0 else None
    keyword = [p.arg for p in arguments.kwonlyargs]
    return arguments.kw_defaults[keyword.index(name)] if name in keyword else None


@dataclass
class Types:
    """The classes of values in a program."""

    body: list[ast.stmt]
    classes: dict[str, ast.ClassDef] = field(init=False)
    functions: dict[str, ast.FunctionDef] = field(init=False)
    sites: dict[int, list[Site]] = field(init=False)
    escaped: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self.classes = {n.name: n for n in self.body if isinstance(n, ast.ClassDef)}
        self.functions = {n.name: n for n in self.body if isinstance(n, ast.FunctionDef)}
        self._methods: dict[str, dict[str, ast.FunctionDef]] = {
            name: {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
            for name, node in self.classes.items()
        }
        self._bases: dict[str, list[str]] = {}
        self._derived: dict[str, list[str]] = {}
        self._scope_of = {id(scope.function): scope for scope in self.scopes()}
        self._known: dict[tuple[int, int], set[str]] = {}
        self._assigned: dict[int, dict[str, list[tuple[str, Any]]]] = {}
        self._on_self: dict[int, dict[str, list[ast.expr]]] = {}
        self._declared: dict[int, dict[str, set[str]]] = {}
        self._returns: dict[int, list[ast.expr]] = {}
        self._nodes = [(scope, list(self._code(scope))) for scope in [*self.scopes(), None]]
        self._inside = {id(scope.function): nodes for scope, nodes in self._nodes if scope}
        self.sites, self.escaped = {}, set()
        # Parameters get their classes from calls, and calls their callees from classes: repeat.
        before = -1
        while before != (before := sum(map(len, self.sites.values()))) or before == 0:
            self._known.clear()
            self._find_sites()
            if not self.sites:
                break

    def scopes(self) -> Iterator[Scope]:
        """Every function of the program."""
        for node in self.body:
            if isinstance(node, ast.FunctionDef):
                yield Scope(node, None)
            elif isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef):
                        yield Scope(inner, node.name)

    def bases(self, name: str) -> list[str]:
        """A class and its bases in the program."""
        if name not in self._bases:
            found = self._bases[name] = [name]
            for base in self.classes[name].bases:
                if isinstance(base, ast.Name) and base.id in self.classes:
                    found += self.bases(base.id)
        return self._bases[name]

    def derived(self, name: str) -> list[str]:
        """A class and the classes derived from it."""
        if name not in self._derived:
            self._derived[name] = [c for c in self.classes if name in self.bases(c)]
        return self._derived[name]

    def method(self, class_name: str, name: str) -> ast.FunctionDef | None:
        """A method of a class, its own or inherited."""
        for base in self.bases(class_name):
            if name in self._methods[base]:
                return self._methods[base][name]
        return None

    def methods(self, class_name: str, name: str) -> list[ast.FunctionDef]:
        """A method as called on `self`: that of the class, and those of classes derived from it."""
        found = [self.method(derived, name) for derived in self.derived(class_name)]
        return list({id(f): f for f in found if f is not None}.values())

    # ---- classes of values ----

    def instances(self, node: ast.expr, scope: Scope | None) -> set[str]:
        """The classes of the program that a value may be an instance of."""
        key = id(node), id(scope.function) if scope else 0
        if key not in self._known:
            self._known[key] = set()  # for a value that depends on itself
            self._known[key] = self._instances(node, scope)
        return self._known[key]

    def _instances(self, node: ast.expr, scope: Scope | None) -> set[str]:
        if isinstance(node, ast.Name) and scope is not None:
            if node.id == "self" and scope.owner:
                return {scope.owner}
            return self._of_name(node.id, scope)
        if isinstance(node, ast.Attribute):
            found = set()
            for owner in self.instances(node.value, scope):
                found |= self._of_attribute(owner, node.attr)
            return found
        if isinstance(node, ast.IfExp):
            return self.instances(node.body, scope) | self.instances(node.orelse, scope)
        if isinstance(node, ast.Subscript):
            return self.instances(node.value, scope)
        if isinstance(node, ast.GeneratorExp | ast.ListComp):
            return self.instances(node.elt, scope)
        if isinstance(node, ast.List | ast.Tuple):
            return set().union(*(self.instances(element, scope) for element in node.elts))
        if isinstance(node, ast.BinOp):
            return self.instances(node.left, scope) | self.instances(node.right, scope)
        if isinstance(node, ast.Call):
            made = self.constructed(node.func, scope)
            if made:
                return made
            if isinstance(node.func, ast.Attribute) and node.func.attr == "ModuleList":
                return self.instances(node.args[0], scope)
            found = set()
            for callee in self.callees(node, scope):
                found |= self._returned(callee.function)
            return found
        return set()

    def constructed(self, node: ast.expr, scope: Scope | None) -> set[str]:
        """The classes that a value may be, as in `network = FeedForward; network(...)`."""
        if isinstance(node, ast.IfExp):
            return self.constructed(node.body, scope) | self.constructed(node.orelse, scope)
        if isinstance(node, ast.Name):
            if node.id in self.classes:
                return {node.id}
            if scope is not None:
                found: set[str] = set()
                for kind, value in self.assigned(scope.function).get(node.id, []):
                    if kind == "value" and isinstance(value, ast.IfExp | ast.Name):
                        found |= self.constructed(value, scope)
                return found
        return set()

    def _returned(self, function: ast.FunctionDef) -> set[str]:
        scope = self._scope_of[id(function)]
        found = self._annotated(function.returns)
        if id(function) not in self._returns:
            self._returns[id(function)] = [
                node.value
                for node in self._inside[id(function)]
                if isinstance(node, ast.Return) and node.value is not None
            ]
        for value in self._returns[id(function)]:
            found |= self.instances(value, scope)
        return found

    def _annotated(self, annotation: ast.expr | None) -> set[str]:
        if annotation is None:
            return set()
        return {n.id for n in walk(annotation) if isinstance(n, ast.Name) and n.id in self.classes}

    def assigned(self, function: ast.FunctionDef) -> dict[str, list[tuple[str, Any]]]:
        """What is assigned to the local names of a function."""
        if id(function) in self._assigned:
            return self._assigned[id(function)]
        found: dict[str, list[tuple[str, Any]]] = {}
        annotated = self._declared.setdefault(id(function), {})

        def bind(target: ast.expr, kind: str, value: Any) -> None:
            if isinstance(target, ast.Name):
                found.setdefault(target.id, []).append((kind, value))
            elif isinstance(target, ast.Tuple):
                is_zip = isinstance(value, ast.Call) and getattr(value.func, "id", "") == "zip"
                for place, element in enumerate(target.elts):
                    if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts):
                        bind(element, kind, value.elts[place])
                    elif is_zip and place < len(value.args):
                        bind(element, kind, value.args[place])
                    else:
                        bind(element, kind if kind == "element" else "part", value)

        for node in self._inside[id(function)]:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    bind(target, "value", node.value)
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                bind(node.target, "value", node.value)
                if isinstance(node.target, ast.Name):
                    annotated.setdefault(node.target.id, set()).update(
                        self._annotated(node.annotation)
                    )
            elif isinstance(node, ast.AugAssign):
                bind(node.target, "part", node.value)
            elif isinstance(node, ast.For | ast.comprehension):
                values = node.iter
                if isinstance(values, ast.Name) and len(found.get(values.id, ())) == 1:
                    values = found[values.id][0][1]  # a name for what the loop is over
                bind(node.target, "element", values)
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                bind(node.optional_vars, "part", node.context_expr)
            elif isinstance(node, ast.NamedExpr):
                bind(node.target, "value", node.value)
        self._assigned[id(function)] = found
        return found

    def _of_name(self, name: str, scope: Scope) -> set[str]:
        values = self.assigned(scope.function).get(name, [])
        found = set(self._declared[id(scope.function)].get(name, ()))
        for _, value in values:
            found |= self.instances(value, scope)
        for parameter in parameters_of(scope.function):
            if parameter.arg == name:
                found |= self._annotated(parameter.annotation)
                for site in self.sites.get(id(scope.function), []):
                    given = argument(site, scope.function, name)
                    if isinstance(given, ast.expr):
                        found |= self.instances(given, site.scope)
        return found

    def _of_attribute(self, owner: str, name: str) -> set[str]:
        found: set[str] = set()
        for class_name in self.bases(owner):
            for node in self.classes[class_name].body:
                if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == name:
                    found |= self._annotated(node.annotation)
                if isinstance(node, ast.FunctionDef):
                    if node.name == name:  # a property
                        found |= self._returned(node)
                    for value in self.set_on_self(node).get(name, ()):
                        found |= self.instances(value, Scope(node, class_name))
        return found

    def set_on_self(self, function: ast.FunctionDef) -> dict[str, list[ast.expr]]:
        """The values that a method assigns to attributes of `self`."""
        if id(function) not in self._on_self:
            found = self._on_self[id(function)] = {}
            for node in self._inside[id(function)]:
                if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                    for target, value in _pairs(node):
                        if is_self(target):
                            found.setdefault(target.attr, []).append(value)  # type: ignore[attr-defined]
        return self._on_self[id(function)]

    # ---- calls ----

    def callees(self, call: ast.Call, scope: Scope | None) -> list[Callee]:
        """The functions of the program that a call may run."""
        function = call.func
        made = self.constructed(function, scope)
        if made:
            found = [(self.method(name, "__init__"), 1) for name in sorted(made)]
        elif isinstance(function, ast.Name) and function.id in self.functions:
            found = [(self.functions[function.id], 0)]
        elif isinstance(function, ast.Attribute):
            is_own = isinstance(function.value, ast.Name) and function.value.id == "self"
            owners = sorted(self.instances(function.value, scope))
            if is_own:  # of a class derived from this one, too
                found = [(m, 1) for owner in owners for m in self.methods(owner, function.attr)]
            else:
                found = [(self.method(owner, function.attr), 1) for owner in owners]
            found = [(method, skipped) for method, skipped in found if method is not None]
            if not found:  # a module that is kept in an attribute
                found = self._forwards(function, scope)
        else:
            found = self._forwards(function, scope)
        unique = {id(f): Callee(f, skipped) for f, skipped in found if f is not None}
        return list(unique.values())

    def _forwards(
        self, node: ast.expr, scope: Scope | None
    ) -> list[tuple[ast.FunctionDef | None, int]]:
        return [
            (self.method(name, wanted), 1)
            for name in sorted(self.instances(node, scope))
            for wanted in ("forward", "__call__")
        ]

    def _find_sites(self) -> None:
        sites: dict[int, list[Site]] = {}
        called: set[int] = set()
        loads: list[tuple[ast.expr, Scope | None]] = []
        for scope, nodes in self._nodes:
            for node in nodes:
                if isinstance(node, ast.Call):
                    called.add(id(node.func))
                    for callee in self.callees(node, scope):
                        site = Site(node, scope, callee.skipped)
                        sites.setdefault(id(callee.function), []).append(site)
                elif isinstance(node, ast.Name | ast.Attribute):
                    loads.append((node, scope))
        self.sites = sites
        self.escaped = set()
        for node, scope in loads:
            if id(node) in called:
                continue
            if isinstance(node, ast.Name) and node.id in self.functions:
                self.escaped.add(id(self.functions[node.id]))
            elif isinstance(node, ast.Attribute):
                for owner in self.instances(node.value, scope):
                    self.escaped |= {id(m) for m in self.methods(owner, node.attr)}

    def _code(self, scope: Scope | None) -> Iterator[ast.AST]:
        """The nodes of a function; without one, those of constants and class bodies."""
        if scope is not None:
            yield from walk(scope.function)
            return
        for node in self.body:
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if not isinstance(inner, ast.FunctionDef):
                        yield from walk(inner)
                for decorator in node.decorator_list:
                    yield from walk(decorator)
            elif not isinstance(node, ast.FunctionDef):
                yield from walk(node)


def _pairs(node: ast.Assign | ast.AnnAssign) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The targets of an assignment, and the value of each."""
    assert node.value is not None
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if isinstance(target, ast.Tuple):
            if isinstance(node.value, ast.Tuple):
                yield from zip(target.elts, node.value.elts, strict=False)
        else:
            yield target, node.value


UNKNOWN = "unknown"


def argument(site: Site, function: ast.FunctionDef, name: str) -> ast.expr | str | None:
    """What a call gives for a parameter: an expression, None for its default, or `UNKNOWN`."""
    place = place_of(site, function, name)
    if isinstance(place, int):
        return site.call.args[place]
    if isinstance(place, ast.keyword):
        return place.value
    return place


def place_of(site: Site, function: ast.FunctionDef, name: str) -> int | ast.keyword | str | None:
    """Where a call gives a parameter: the place of the argument, the keyword, None or `UNKNOWN`."""
    for keyword in site.call.keywords:
        if keyword.arg == name:
            return keyword
    positional = [p.arg for p in [*function.args.posonlyargs, *function.args.args]][site.skipped :]
    if name in positional:
        index = positional.index(name)
        for place, given in enumerate(site.call.args):
            if isinstance(given, ast.Starred):
                return UNKNOWN
            if place == index:
                return place
    return UNKNOWN if any(keyword.arg is None for keyword in site.call.keywords) else None


def never_none(node: ast.expr, scope: Scope | None, types: Types, depth: int = 0) -> bool:
    """Whether a value is never None, as far as the code shows."""
    if depth > 8:
        return False
    if isinstance(node, ast.Constant):
        return node.value is not None
    if isinstance(
        node,
        ast.BinOp | ast.Compare | ast.UnaryOp | ast.JoinedStr | ast.Tuple | ast.List | ast.Dict,
    ):
        return True
    if isinstance(node, ast.Subscript):
        return not (isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str))
    if isinstance(node, ast.IfExp):
        return never_none(node.body, scope, types, depth + 1) and never_none(
            node.orelse, scope, types, depth + 1
        )
    if isinstance(node, ast.Call):
        if types.constructed(node.func, scope):
            return True
        callees = types.callees(node, scope)
        if callees:
            return all(
                c.function.returns is not None and without_none(c.function.returns) is None
                for c in callees
            )
        return isinstance(node.func, ast.Attribute) and node.func.attr != "get"
    if isinstance(node, ast.Attribute):
        if is_self(node) and scope is not None and scope.owner in types.classes:
            methods = [n for n in types.classes[scope.owner].body if isinstance(n, ast.FunctionDef)]
            given = [(v, m) for m in methods for v in types.set_on_self(m).get(node.attr, ())]
            scopes = {id(m): Scope(m, scope.owner) for m in methods}
            if given and all(never_none(v, scopes[id(m)], types, depth + 1) for v, m in given):
                return True
        owners = types.instances(node.value, scope)
        annotations = [_field(types.classes[o], node.attr) for o in owners]
        return bool(annotations) and all(
            a is not None and without_none(a) is None for a in annotations
        )
    if isinstance(node, ast.Name) and scope is not None:
        if any(node.id in defined_names(n) for n in types.body):
            return True
        for parameter in parameters_of(scope.function):
            said = parameter.annotation and ast.unparse(parameter.annotation)
            if parameter.arg == node.id and said and "None" not in said:
                return "Any" not in said
        values = types.assigned(scope.function).get(node.id, [])
        for parameter in parameters_of(scope.function):
            if parameter.arg == node.id:
                if not values:
                    annotation = parameter.annotation
                    return annotation is not None and without_none(annotation) is None
                return _assigned_before(node, scope, types, depth)
        return bool(values) and all(
            kind == "part" or (kind == "value" and never_none(value, scope, types, depth + 1))
            for kind, value in values
        )
    return False


def _assigned_before(node: ast.Name, scope: Scope, types: Types, depth: int) -> bool:
    """Whether a parameter was given another value, never None, before it is read here."""
    result = False
    for statement in scope.function.body:
        if any(inner is node for inner in walk(statement)):
            return result
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name) and target.id == node.id:
                    result = never_none(statement.value, scope, types, depth + 1)
    return False


def _field(node: ast.ClassDef, name: str) -> ast.expr | None:
    for inner in node.body:
        if isinstance(inner, ast.AnnAssign) and getattr(inner.target, "id", "") == name:
            return inner.annotation
    return None

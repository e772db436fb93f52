"""What a program becomes once some of its arguments are known.

A parameter that every call gives the same constant is replaced by it; conditions that are then
constant decide; what nobody uses any longer is removed. One pass makes the next one possible, so
they are repeated until nothing changes.
"""

import ast
import copy
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from minitransformer.source.link import Substitute, names_in
from minitransformer.source.syntax import constant, docstring, is_changed, walk
from minitransformer.source.types import (
    Scope,
    Site,
    Types,
    argument,
    default_of,
    is_dataclass,
    is_self,
    parameters_of,
    place_of,
)

# Methods of the classes here that only check.
CHECKING = ("__post_init__", "__getattr__", "__setattr__")
_TINY = 40  # characters of an expression that may stand in the place of a call
_SHORT = 60  # characters of a call that may stand in the place of others
_MANY = 2  # parameters that are fields of the config, from which on a class takes the config
_NEUTRAL = (0, 1)  # numbers that may replace a parameter: they change nothing


class Program:
    """Definitions that are made simpler in place.

    Args:
        body: the definitions.
        roots: the names of those that a reader calls.
        fixed: constants for parameters of roots, by the function ("Class.method") and the name.
        validation: the names of functions that only check, if checks are to be left out.
        initial_weights: whether what draws initial weights stays.
        absent_fields: fields of outputs that are left out.
    """

    def __init__(
        self,
        body: list[ast.stmt],
        roots: Collection[str],
        fixed: Mapping[tuple[str, str], object],
        *,
        validation: Collection[str] | None = None,
        initial_weights: bool = True,
        absent_fields: Collection[str] = (),
    ) -> None:
        self.body = body
        self.roots = set(roots)
        self.with_checks = validation is None
        self.drop_annotations()
        for node in self.body:  # the attention implementation is known, so it needs no check
            if isinstance(node, ast.FunctionDef) and node.name == "get_attention":
                node.body = _without_raises(node.body)
        self.protected: set[int] = set()
        self._types: Types | None = None
        self.prune()
        if validation is not None:
            self._remove_checks(validation)
        if not initial_weights:
            self._remove_calls("nn.init.")
        for node in self.body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Output"):
                _remove_fields(node, absent_fields, self.body)
        self.prune()
        types = Types(self.body)
        for name in roots:
            if name in types.functions:
                self.protected.add(id(types.functions[name]))
            for method in ("__init__", "forward"):
                if name in types.classes and (found := types.method(name, method)):
                    self.protected.add(id(found))
        for scope in types.scopes():
            scope.function.known = [p.arg for p in parameters_of(scope.function)]  # type: ignore[attr-defined]
            for (where, parameter), value in fixed.items():
                if where == ".".join(filter(None, [scope.owner, scope.function.name])):
                    sites = types.sites.get(id(scope.function), [])
                    if parameter in scope.function.known:  # type: ignore[attr-defined]
                        _fix(scope.function, parameter, constant(value), sites)
                    else:  # a local name
                        scope.function.known.append(parameter)  # type: ignore[attr-defined]
                        Substitute({parameter: constant(value)}).visit(scope.function)

    def simplify(self) -> None:
        """Repeat all passes until nothing changes."""
        passes: list[Callable[[], bool | None]] = [
            self.fold,
            self.remove_unused,
            self.propagate_constants,
            self.propagate_attributes,
            self.remove_identities,
            self.specialise_parameters,
            self.narrow_annotations,
            self.narrow_returns,
            self.narrow_dataclasses,
            self.narrow_isinstance,
            self.narrow_loops,
            self.inline_factories,
        ]
        if not self.with_checks:  # whose messages name what this would take away
            passes += [
                self.drop_local_annotations,
                self.unwrap_dataclasses,
                self.unpack_dataclasses,
                self.unwrap_classes,
                self.forward_calls,
                self.inline_methods,
                self.use_config,
            ]
        passes.append(self.prune)
        before = after = self._content()
        while True:
            for simplify in passes:
                while simplify():  # one change at a time
                    self._types = None
                if after != (after := self._content()):
                    self._types = None
            if before == (before := after):
                return

    def _content(self) -> list[object]:
        """What the program is, to see whether a pass changed it."""
        return [
            part
            for definition in self.body
            for node in walk(definition)
            for part in (
                node.__class__,
                node.__dict__.get("id"),
                node.__dict__.get("attr"),
                node.__dict__.get("arg"),
                node.__dict__.get("value") if node.__class__ is ast.Constant else None,
            )
        ]

    @property
    def types(self) -> Types:
        """The classes of values, found anew after a pass that changed something."""
        if self._types is None:
            self._types = Types(self.body)
        return self._types

    # ---- constants ----

    def fold(self) -> None:
        """Decide what is constant."""
        types = self.types
        for scope in types.scopes():
            folder = _Folder(types, scope)
            scope.function.body = folder.block(scope.function.body) or [ast.Pass()]

    def propagate_constants(self) -> None:
        """Put a constant, or another name, in the place of a local name that stands for it."""
        types = self.types
        for scope in types.scopes():
            function = scope.function
            parameters = {p.arg for p in parameters_of(function)}
            hidden = names_in_strings(function)
            assigned = types.assigned(function)
            for name, values in assigned.items():
                if len(values) != 1 or name in parameters | hidden or values[0][0] != "value":
                    continue
                value = values[0][1]
                is_copy = (
                    isinstance(value, ast.Name)
                    and not assigned.get(value.id)
                    and (value.id in parameters or value.id in types.functions)
                )
                if is_constant(value) or is_copy:
                    Substitute({name: value}).visit(function)
                    _remove_assignments(function, {name})

    def propagate_attributes(self) -> None:
        """Put a constant in the place of an attribute that is never anything else."""
        types = self.types
        foreign: dict[str, set[str]] = {}  # loads of attributes of others than self
        for scope in [*types.scopes()]:
            for node in walk(scope.function):
                if isinstance(node, ast.Attribute) and not is_self(node):
                    owners = types.instances(node.value, scope)
                    foreign.setdefault(node.attr, set()).update(owners)
        for name, node in types.classes.items():
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            for attribute in _attributes_set(methods):
                values = [v for m in methods for v in types.set_on_self(m).get(attribute, ())]
                if len(values) != 1 or name in foreign.get(attribute, ()):
                    continue
                value = values[0]
                is_function = isinstance(value, ast.Attribute) and ast.unparse(value)[:2] == "F."
                if not (is_constant(value) or self._is_global(value) or is_function):
                    continue
                family = [n for n in types.classes.values() if name in types.bases(n.name)]
                hidden = set().union(*(names_in_strings(n, attributes=True) for n in family))
                if attribute in hidden:
                    continue
                for other in family:
                    _ReplaceAttribute(attribute, value).visit(other)
                for method in methods:
                    method.body = _without_attribute(method.body, attribute)

    def remove_identities(self) -> None:
        """Remove modules that give what they get: `nn.Identity()` and dropout of 0."""
        types = self.types
        for node in types.classes.values():
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            for attribute in _attributes_set(methods):
                values = [v for m in methods for v in types.set_on_self(m).get(attribute, ())]
                if values and _is_identity(values[-1]) and len(values) <= 2:
                    for method in methods:
                        _RemoveCall(attribute).visit(method)
                        method.body = _without_attribute(method.body, attribute)

    # ---- calls ----

    def specialise_parameters(self) -> None:
        """Replace parameters that every call gives the same constant, and remove unused ones."""
        types = self.types
        for scope in types.scopes():
            group = _group(scope.function, types)
            if not any(self._is_open(function, types) for function in group):
                for parameter in parameters_of(scope.function):
                    self._specialise(parameter.arg, group, types)

    def _is_open(self, function: ast.FunctionDef, types: Types) -> bool:
        """Whether a function may be called from where the program does not show."""
        return (
            id(function) in self.protected
            or id(function) in types.escaped
            or id(function) not in types.sites
        )

    def _specialise(self, name: str, group: list[ast.FunctionDef], types: Types) -> None:
        if name == "self" or not all(name in [p.arg for p in parameters_of(f)] for f in group):
            return
        if any(name in names_in_strings(f) for f in group):
            return
        values: list[ast.expr | str | None] = []
        for function in group:
            for site in types.sites[id(function)]:
                given = argument(site, function, name)
                values.append(default_of(function, name) if given is None else given)
        is_read = any(name in _loaded(function) for function in group)
        is_assigned = any(name in types.assigned(function) for function in group)
        if not is_read and not is_assigned:
            if all(isinstance(v, ast.expr) and is_pure(v) for v in values):
                self._remove(name, group, types, None)
            return
        first = values[0]
        if is_assigned or not isinstance(first, ast.expr):
            return
        same = all(isinstance(v, ast.expr) and ast.dump(v) == ast.dump(first) for v in values)
        if same and (is_replaceable(first) or self._is_global(first)):
            self._remove(name, group, types, first)

    def _is_global(self, node: ast.expr) -> bool:
        """Whether it is the name of a constant, or of a function that is handed on."""
        known = {
            name for n in self.body if not isinstance(n, ast.ClassDef) for name in defined_names(n)
        }
        return isinstance(node, ast.Name) and node.id in known

    def _remove(
        self, name: str, group: list[ast.FunctionDef], types: Types, value: ast.expr | None
    ) -> None:
        cleaned: set[int] = set()
        for function in group:
            for site in types.sites[id(function)]:
                if id(site.call) not in cleaned:
                    cleaned.add(id(site.call))
                    _remove_argument(site, function, name)
        for function in group:
            if value is not None:
                Substitute({name: value}).visit(function)
            remove_parameter(function, name)

    def narrow_annotations(self) -> None:
        """Make parameters required that every call gives, and drop None where none is given."""
        types = self.types
        for scope in types.scopes():
            group = _group(scope.function, types)
            if any(self._is_open(function, types) for function in group):
                continue
            for parameter in parameters_of(scope.function):
                self._narrow_annotation(parameter, scope.function, types)

    def _narrow_annotation(
        self, parameter: ast.arg, function: ast.FunctionDef, types: Types
    ) -> None:
        narrow = _without_none(parameter.annotation)
        given = [(argument(s, function, parameter.arg), s) for s in types.sites[id(function)]]
        always = all(isinstance(value, ast.expr) for value, _ in given)
        if not always:
            return
        if default_of(function, parameter.arg) is not None:
            _make_required(function, parameter.arg)
        if narrow is not None:
            if all(never_none(v, s.scope, types) for v, s in given if isinstance(v, ast.expr)):
                parameter.annotation = narrow

    def narrow_returns(self) -> bool:
        """Drop what is always None from the tuples that functions return."""
        types = self.types
        for scope in types.scopes():
            function = scope.function
            returned = _returned_values(function)
            if not returned or not all(isinstance(v, ast.Tuple) for v in returned):
                continue
            size = len(returned[0].elts)  # type: ignore[union-attr]
            for place in range(size):
                if all(len(v.elts) == size and _is_none(v.elts[place]) for v in returned):  # type: ignore[union-attr]
                    if self._drop_element(function, place, size, types):
                        return True
        return False

    def _drop_element(self, function: ast.FunctionDef, place: int, size: int, types: Types) -> bool:
        """Drop one element of what a function returns, and of what its callers unpack."""
        chain = [function]
        unpacked: dict[int, tuple[ast.Assign, ast.FunctionDef]] = {}
        for current in chain:
            if id(current) in types.escaped or id(current) in self.protected:
                return False
            for site in types.sites.get(id(current), []):
                if site.scope is None:
                    return False
                parent = _statement_of(site.call, site.scope.function)
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
            for value in _returned_values(current):
                if isinstance(value, ast.Tuple):
                    if len(value.elts) != size or not _is_none(value.elts[place]):
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

    def narrow_dataclasses(self) -> None:
        """Drop fields that are never anything but their default, None."""
        types = self.types
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
                if field.value is None or not _is_none(field.value) or not calls:
                    continue
                given = [k for call, _ in calls for k in call.keywords if k.arg == field_name]
                if all(_is_none(keyword.value) for keyword in given):
                    for call, _ in calls:
                        call.keywords = [k for k in call.keywords if k.arg != field_name]
                    _ReplaceField(name, field_name, types).replace()
                    node.body.remove(field)

    def narrow_loops(self) -> None:
        """`for x, y in zip(xs, [None] * n)` becomes `for x in xs`."""
        types = self.types
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

    def drop_local_annotations(self) -> None:
        """Leave out the types of attributes, and of local names whose value shows them."""
        for scope in self.types.scopes():
            _DropAnnotations().visit(scope.function)

    def narrow_isinstance(self) -> None:
        """Drop classes that the program makes no instances of from `isinstance`."""
        made = {
            inner.id
            for node in self.body
            for inner in _outside_isinstance(node)
            if isinstance(inner, ast.Name)
        }
        classes = {n.name for n in self.body if isinstance(n, ast.ClassDef)} - made - self.roots
        for node in self.body:
            _NarrowIsinstance(classes).visit(node)

    def unwrap_dataclasses(self) -> bool:
        """Return the value itself where a dataclass has one field left."""
        types = self.types
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
            for other in self.body:
                _ReplaceNodes(replaced).visit(other)
            self.body.remove(node)
            return True
        return False

    def unpack_dataclasses(self) -> None:
        """Use the values themselves where an output is made and read in one function."""
        types = self.types
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
                _ReplaceNodes(replaced).visit(scope.function)
                scope.function.body = _filtered(
                    scope.function.body,
                    lambda n, call=call: isinstance(n, ast.Assign) and n.value is call,  # type: ignore[misc]
                )

    def inline_factories(self) -> bool:
        """Put what a function looks up, or makes, in the place of its calls."""
        types = self.types
        for scope in types.scopes():
            function = scope.function
            sites = types.sites.get(id(function), [])
            statements = _without_docstring(function)
            if len(statements) != 1 or not isinstance(statements[0], ast.Return):
                continue
            value = statements[0].value
            if value is None or self._is_open(function, types):
                continue
            is_lookup = self._is_global(value) or (
                isinstance(value, ast.Subscript) and self._is_global(value.value)
            )
            makes = isinstance(value, ast.Dict | ast.Call) and len(sites) == 1
            if isinstance(value, ast.Call):
                made = types.constructed(value.func, scope)
                makes = makes and scope.owner is None and bool(made)
            text = docstring(function)
            wraps = isinstance(value, ast.Call) and ast.unparse(value.func).startswith("F.")
            is_short = scope.owner is None and (text is None or not explains(text.value))
            if isinstance(value, ast.Dict):
                makes = bool(sites)
            elif isinstance(value, ast.Call) and scope.owner is None:
                short = len(ast.unparse(value)) < _SHORT
                makes = makes or (short and bool(types.constructed(value.func, scope)))
            is_tiny = is_short and len(ast.unparse(value)) < _TINY and text is not None
            if is_lookup or makes or is_tiny or ((wraps or is_short) and len(sites) == 1):
                if all(_has_one_callee(site, types) for site in sites):
                    if all(_inline(site, function, value) for site in sites):
                        _remove_definition(self.body, function)
                        return True
        for scope in types.scopes():
            _Splat().visit(scope.function)
        return False

    def inline_methods(self) -> bool:
        """Put the body of a method in the place of its only call, if there is little to say of it.

        These are mostly methods that families replace: what is left is one family.
        """
        types = self.types
        for scope in types.scopes():
            function, sites = scope.function, types.sites.get(id(scope.function), [])
            text = docstring(function)
            if len(sites) != 1 or self._is_open(function, types):
                continue
            if (text is not None and explains(text.value)) or function.decorator_list:
                continue
            site = sites[0]
            if site.scope is None or not _has_one_callee(site, types):
                continue
            if self._put_in_place(site, scope):
                _remove_definition(self.body, function)
                return True
        return False

    def _put_in_place(self, site: Site, scope: Scope) -> bool:
        """Put the body of a method in the place of its call; False if that cannot be done."""
        assert site.scope is not None
        if scope.owner is None:
            return _splice(site, scope.function, self.types)
        if is_self(site.call.func, scope.function.name) and site.scope.owner == scope.owner:
            return _splice(site, scope.function, self.types)
        body = _without_docstring(scope.function)
        if getattr(site.call.func, "attr", "") != scope.function.name:  # a module is called
            return False
        if len(body) == 1 and isinstance(body[0], ast.Return) and body[0].value is not None:
            is_short = len(ast.unparse(body[0].value)) < _SHORT
            return is_short and _inline(site, scope.function, body[0].value)
        return False

    def forward_calls(self) -> bool:
        """Call the method that another one does nothing but call."""
        types = self.types
        for scope in types.scopes():
            function, sites = scope.function, types.sites.get(id(scope.function), [])
            body = _without_docstring(function)
            value = body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None
            if not (isinstance(value, ast.Call) and is_self(value.func)) or not sites:
                continue
            names = [p.arg for p in parameters_of(function)[1:]]
            given = [ast.unparse(a) for a in value.args]
            if given != names or value.keywords or self._is_open(function, types):
                continue
            if all(_has_one_callee(s, types) for s in sites):
                for site in sites:
                    assert isinstance(site.call.func, ast.Attribute)
                    site.call.func.attr = value.func.attr  # type: ignore[attr-defined]
                _remove_definition(self.body, function)
                return True
        return False

    def unwrap_classes(self) -> bool:
        """Use the one attribute of an object in the place of the object."""
        types = self.types
        for name, node in types.classes.items():
            init = types.method(name, "__init__")
            others = [n for n in node.body if isinstance(n, ast.FunctionDef) and n is not init]
            if node.bases or others or init is None or len(parameters_of(init)) != 1:
                continue
            if len(_without_docstring(init)) != 1 or name in self.roots:
                continue
            ((attribute, values),) = types.set_on_self(init).items() or ((None, []),)
            replaced: dict[int, ast.expr] = {}
            for scope in types.scopes():
                for inner in walk(scope.function):
                    if isinstance(inner, ast.Call) and getattr(inner.func, "id", "") == name:
                        replaced[id(inner)] = values[0]
                    elif isinstance(inner, ast.Attribute) and inner.attr == attribute:
                        if types.instances(inner.value, scope) == {name}:
                            replaced[id(inner)] = inner.value
            made = values[0].func if isinstance(values[0], ast.Call) else None
            if not isinstance(made, ast.Name):
                continue
            for other in self.body:
                _ReplaceNodes(replaced).visit(other)
                for inner in walk(other):
                    if isinstance(inner, ast.Name) and inner.id == name:
                        inner.id = made.id
            self.body.remove(node)
            return True
        return False

    def use_config(self) -> bool:
        """Hand on the config where most parameters of a class are fields of it."""
        types = self.types
        for scope in types.scopes():
            function = scope.function
            if function.name == "__init__" and "config" in [p.arg for p in parameters_of(function)]:
                _ReadConfig().visit_body(function)
        config = next(n.name for n in types.classes.values() if name_is_config(n))
        for scope in types.scopes():
            function = scope.function
            if function.name != "__init__" or self._is_open(function, types):
                continue
            group = _group(function, types)
            found = {
                p.arg: self._config_value(p.arg, group, types) for p in parameters_of(function)
            }
            values = {name: value for name, value in found.items() if value is not None}
            has_config = any(p.arg == "config" for p in parameters_of(function))
            fields = [v for v in values.values() if isinstance(v, ast.Attribute)]
            if not values or (len(fields) < _MANY and not has_config):
                continue
            for name, value in values.items():
                self._remove(name, group, types, value)
            if not has_config:
                for member in group:
                    annotation = ast.Name(config, ast.Load())
                    member.args.args.insert(1, ast.arg("config", annotation))
                calls = {id(s.call): s.call for f in group for s in types.sites[id(f)]}
                for call in calls.values():
                    call.args.insert(0, ast.Name("config", ast.Load()))
            return True
        return False

    def _config_value(
        self, name: str, group: list[ast.FunctionDef], types: Types
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

    # ---- what is not used ----

    def remove_unused(self) -> None:
        """Remove local names that nobody reads, and calls without an effect."""
        types = self.types
        empty = {
            id(scope.function)
            for scope in types.scopes()
            if _is_empty(scope.function) and id(scope.function) not in self.protected
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

            function.body = _filtered(function.body, is_useless) or [ast.Pass()]
            function.body = _filtered(function.body, _assigns_itself) or [ast.Pass()]
            _split_tuples(function)
            unread = set(types.assigned(function)) - _loaded(function, appends=False)
            unread -= names_in_strings(function) | {p.arg for p in parameters_of(function)}
            _remove_assignments(function, unread)
            _join_return(function)
            _join_branches(function)
        self._remove_unread_attributes()

    def _remove_unread_attributes(self) -> None:
        types = self.types
        read = set()
        for scope, nodes in [(s, s.function) for s in types.scopes()]:
            read |= self._used(nodes, scope, types)
        for node in self.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                read |= self._used(node, None, types)
        for node in self.body:
            if isinstance(node, ast.ClassDef):
                for method in [n for n in node.body if isinstance(n, ast.FunctionDef)]:
                    for name, values in self.types.set_on_self(method).items():
                        is_kept = bool({name, f"{node.name}.{name}", f"text:{name}"} & read)
                        is_kept |= name == "config" and node.name in self.roots
                        if not is_kept and all(map(self._is_no_part, values)):
                            method.body = _without_attribute(method.body, name)

    def _is_no_part(self, node: ast.expr) -> bool:
        """Whether a value is no module, parameter or buffer, which an attribute would register."""
        if isinstance(node, ast.Call):
            maker = node.func.value if isinstance(node.func, ast.Attribute) else node.func
            made = self.types.classes.get(getattr(maker, "id", ""))
            return made is not None and not any("Module" in ast.dump(b) for b in made.bases)
        return isinstance(node, ast.Name | ast.Constant | ast.Dict)

    def prune(self) -> None:
        """Remove definitions, methods and fields that nothing reaches from the roots."""
        types = self.types
        by_name = {name: node for node in self.body for name in defined_names(node)}
        live = set(self.roots) & by_name.keys()
        seen: set[int] = set()
        attributes: set[str] = set()
        before = -1
        while before != (before := len(live) + len(attributes) + len(seen)):
            for name in sorted(live):
                for part in self._reached(by_name[name], attributes):
                    if id(part) in seen:
                        continue
                    seen.add(id(part))
                    live |= names_in(part) & by_name.keys()
                    scope = Scope(part, name) if isinstance(part, ast.FunctionDef) else None
                    attributes |= self._used(part, scope, types)
        self.body = [n for n in self.body if any(name in live for name in defined_names(n))]
        for node in self.body:
            if isinstance(node, ast.ClassDef):
                kept = {id(part) for part in self._reached(node, attributes)}
                node.body = [n for n in node.body if id(n) in kept or isinstance(n, ast.Expr)]
                if not node.body:
                    node.body = [ast.Pass()]

    def _used(self, part: ast.AST, scope: Scope | None, types: Types) -> set[str]:
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

    def _reached(self, node: ast.stmt, attributes: set[str]) -> Iterator[ast.AST]:
        """The parts of a definition that are reached if attributes of these names are."""
        if not isinstance(node, ast.ClassDef):
            yield node
            return
        yield from [*node.bases, *node.decorator_list, *(k.value for k in node.keywords)]
        python = {"__init__", "forward", "__call__"}
        if self.with_checks:
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
                wanted = name in python or (is_read and (self.with_checks or not is_output))
            elif not isinstance(inner, ast.AnnAssign):
                wanted = is_read
            elif "ClassVar" in names_in(inner.annotation):
                wanted = is_read and inner.value is not None
            elif is_dataclass(node):
                wanted = self.with_checks or is_output or is_read
            else:
                wanted = is_read and name not in in_init and bool(inner.origin.tail)  # type: ignore[attr-defined]
            if wanted:
                yield inner

    # ---- checks ----

    def drop_annotations(self) -> None:
        """Leave out the types of constants, for which there may be no other use."""
        for place, node in enumerate(self.body):
            if isinstance(node, ast.AnnAssign) and node.value is not None:
                plain = ast.copy_location(ast.Assign([node.target], node.value), node)
                origin = node.origin  # type: ignore[attr-defined]
                lines = origin.lines
                annotation = f": {ast.unparse(node.annotation)} ="
                first = lines[0].replace(annotation, " =", 1)
                plain.origin = replace(origin, lines=(first, *lines[1:]), dump=ast.dump(plain))  # type: ignore[attr-defined]
                self.body[place] = plain

    def _remove_calls(self, prefix: str) -> None:
        """Remove the statements that call functions of a module, for their effect alone."""
        for node in self.body:
            for inner in walk(node):
                if isinstance(inner, ast.FunctionDef):
                    inner.body = _filtered(
                        inner.body,
                        lambda n: isinstance(n, ast.Expr) and ast.unparse(n).startswith(prefix),
                    ) or [ast.Pass()]

    def _remove_checks(self, validation: Collection[str]) -> None:
        for node in self.body:
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
                    inner.body = _without_raises(_filtered(inner.body, only_checks))


# ---- what trees are ----


def is_constant(node: ast.AST | None) -> bool:
    """Whether it is a literal: None, True, a number or a text."""
    return isinstance(node, ast.Constant) and node.value is not ...


def is_replaceable(node: ast.expr) -> bool:
    """Whether it may stand in the place of a parameter without hiding what it means."""
    if _is_identity(node):
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


def _is_none(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_identity(node: ast.expr) -> bool:
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


def _loaded(function: ast.AST, *, appends: bool = True) -> set[str]:
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


def defined_names(node: ast.stmt) -> list[str]:
    """The names that a statement of a file defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    if isinstance(node, ast.Assign):
        return [t.id for t in node.targets if isinstance(t, ast.Name)]
    return []


def _attributes_set(methods: Iterable[ast.FunctionDef]) -> list[str]:
    found = {
        node.attr: None
        for method in methods
        for node in walk(method)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node)
    }
    return list(found)


def _group(function: ast.FunctionDef, types: Types) -> list[ast.FunctionDef]:
    """The functions that share a call, so that their parameters change together."""
    group = [function]
    for member in group:
        for site in types.sites.get(id(member), []):
            for callee in types.callees(site.call, site.scope):
                if callee.function not in group:
                    group.append(callee.function)
    return group


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
                c.function.returns is not None and _without_none(c.function.returns) is None
                for c in callees
            )
        return isinstance(node.func, ast.Attribute) and node.func.attr != "get"
    if isinstance(node, ast.Attribute):
        owners = types.instances(node.value, scope)
        annotations = [_field(types.classes[o], node.attr) for o in owners]
        return bool(annotations) and all(
            a is not None and _without_none(a) is None for a in annotations
        )
    if isinstance(node, ast.Name) and scope is not None:
        if any(node.id in defined_names(n) for n in types.body):
            return True
        for parameter in parameters_of(scope.function):
            if parameter.arg == node.id and parameter.annotation is not None:
                if "None" not in ast.unparse(parameter.annotation):
                    return "Any" not in ast.unparse(parameter.annotation)
        values = types.assigned(scope.function).get(node.id, [])
        for parameter in parameters_of(scope.function):
            if parameter.arg == node.id:
                if not values:
                    annotation = parameter.annotation
                    return annotation is not None and _without_none(annotation) is None
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


def _without_none(annotation: ast.expr | None) -> ast.expr | None:
    """`T` of `T | None`; None for another annotation."""
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        if _is_none(annotation.right):
            return annotation.left
    return None


def _returned_values(function: ast.FunctionDef) -> list[ast.expr | None]:
    return [n.value for n in walk(function) if isinstance(n, ast.Return)]


# ---- changes of trees ----


def _fix(function: ast.FunctionDef, name: str, value: ast.expr, sites: Iterable[Site]) -> None:
    """Give a parameter a constant, whatever calls say."""
    for site in sites:
        _remove_argument(site, function, name)
    Substitute({name: value}).visit(function)
    remove_parameter(function, name)


def _remove_fields(node: ast.ClassDef, names: Collection[str], body: list[ast.stmt]) -> None:
    """Remove fields of a dataclass, and what calls give them."""
    node.body = [n for n in node.body if getattr(getattr(n, "target", None), "id", "") not in names]
    for definition in body:
        for call in walk(definition):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == node.name:
                call.keywords = [k for k in call.keywords if k.arg not in names]


def _remove_argument(site: Site, function: ast.FunctionDef, name: str) -> None:
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


def is_function_call(node: ast.expr, types: Types) -> bool:
    """Whether it calls a function of the program."""
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") in types.functions


def _make_required(function: ast.FunctionDef, name: str) -> None:
    """Remove a parameter's default, unless parameters before it have one."""
    arguments = function.args
    names = [p.arg for p in arguments.args]
    if name in names:
        if names.index(name) == len(names) - len(arguments.defaults):
            del arguments.defaults[0]
        return
    arguments.kw_defaults[[p.arg for p in arguments.kwonlyargs].index(name)] = None


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
                node.test, node.body, node.orelse = _negated(node.test), node.orelse, []
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
        if isinstance(operator, ast.Is | ast.IsNot) and _is_none(right):
            is_none: bool | None = None
            if isinstance(left, ast.Constant):
                is_none = left.value is None
            elif never_none(left, self.folder.scope, self.folder.types):
                is_none = False
            if is_none is not None:
                return constant(is_none == isinstance(operator, ast.Is))
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
        if is_constant(values[-1]) and bool(values[-1].value) == stops_at and stops_at is False:  # type: ignore[attr-defined]
            if all(is_pure(v) for v in values):
                return values[-1]
        node.values = values
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr == "removeprefix":
            if isinstance(node.args[0], ast.Constant) and not node.args[0].value:
                return called.value
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


def _negated(test: ast.expr) -> ast.expr:
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is | ast.IsNot):
        opposite = ast.IsNot() if isinstance(test.ops[0], ast.Is) else ast.Is()
        return ast.Compare(test.left, [opposite], test.comparators)
    return ast.UnaryOp(ast.Not(), test)


def _filtered(body: Iterable[ast.stmt], drop: Callable[[ast.stmt], bool]) -> list[ast.stmt]:
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
                    setattr(node, name, _filtered(inner, drop))
            if not node.body and not getattr(node, "orelse", []):  # type: ignore[attr-defined]
                continue
            if isinstance(node, ast.If) and not node.body:
                node.test, node.body, node.orelse = _negated(node.test), node.orelse, []
        kept.append(node)
    return kept


def _without_raises(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements without conditions whose only effect is an error."""
    kept: list[ast.stmt] = []
    for node in body:
        for name in ("body", "orelse"):
            inner = getattr(node, name, None)
            if isinstance(inner, list) and not isinstance(node, ast.FunctionDef | ast.ClassDef):
                setattr(node, name, _without_raises(inner))
        if isinstance(node, ast.If):
            raises = bool(node.body) and isinstance(node.body[-1], ast.Raise)
            if raises or not node.body:
                kept += node.orelse
                continue
        if isinstance(node, ast.For) and not node.body:
            continue
        kept.append(node)
    return kept


def _remove_assignments(function: ast.FunctionDef, names: Collection[str]) -> None:
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

    function.body = _filtered(function.body, drop) or [ast.Pass()]


def _assigns_itself(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and all(
        ast.unparse(target) == ast.unparse(node.value) for target in node.targets
    )


def _split_tuples(function: ast.FunctionDef) -> None:
    """`a, b = [], []` as two statements if one of the names is not read."""
    loaded = _loaded(function, appends=False)
    for node in walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            targets, values = node.targets[0].elts, node.value
            if isinstance(values, ast.Tuple) and len(values.elts) == len(targets):
                kept = [
                    (t, v)
                    for t, v in zip(targets, values.elts, strict=True)
                    if not isinstance(t, ast.Name) or t.id in loaded or not is_pure(v)
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
    if len(before.body) == 1 and isinstance(inner, ast.Return) and changed:
        if inner.value is not None and last.value is not None and _is_none(inner.value):
            last.value = ast.IfExp(before.test, inner.value, last.value)
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


def _without_attribute(body: Iterable[ast.stmt], name: str) -> list[ast.stmt]:
    def drop(node: ast.stmt) -> bool:
        if isinstance(node, ast.Assign):
            return len(node.targets) == 1 and is_self(node.targets[0], name)
        return isinstance(node, ast.AnnAssign) and is_self(node.target, name)

    return _filtered(body, drop) or [ast.Pass()]


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
            _ReplaceNodes({id(node): constant(None) for node in found}).visit(scope.function)


class _ReplaceNodes(ast.NodeTransformer):
    def __init__(self, replaced: Mapping[int, ast.expr]) -> None:
        self.replaced = replaced

    def visit(self, node: ast.AST) -> Any:
        if id(node) in self.replaced:
            return self.replaced[id(node)]
        return self.generic_visit(node)


def _are_nones(node: ast.expr, types: Types) -> bool:
    """Whether it is a list of nothing but None."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in types.functions:
        returned = _returned_values(types.functions[node.func.id])  # type: ignore[attr-defined]
        return all(isinstance(v, ast.BinOp) and _are_nones(v, types) for v in returned)
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
        return False
    return isinstance(node.left, ast.List) and all(map(_is_none, node.left.elts))


class _DropAnnotations(ast.NodeTransformer):
    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is None or (
            isinstance(node.value, ast.List | ast.Dict) and isinstance(node.target, ast.Name)
        ):
            return node
        plain = ast.Assign([node.target], node.value, lineno=0)
        plain.origin = getattr(node, "origin", None)  # type: ignore[attr-defined]
        return plain


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


def _without_docstring(function: ast.FunctionDef) -> list[ast.stmt]:
    return function.body[docstring(function) is not None :]


def _has_one_callee(site: Site, types: Types) -> bool:
    return site.scope is not None and len(types.callees(site.call, site.scope)) == 1


def _arguments(site: Site, function: ast.FunctionDef) -> dict[str, ast.expr] | None:
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
    values = _arguments(site, function)
    if values is None or site.scope is None or names_in_strings(value):
        return False
    reads = [n.id for n in walk(value) if isinstance(n, ast.Name)]
    for name, given in values.items():
        simple = isinstance(given, ast.Name | ast.Constant | ast.Attribute)
        if reads.count(name) > 1 and not simple:
            return False
    result = Substitute(values).visit(copy.deepcopy(value))
    _ReplaceNodes({id(site.call): result}).visit(site.scope.function)
    return True


def _splice(site: Site, function: ast.FunctionDef, types: Types) -> bool:
    """Put the body of a method in the place of a call of it by `self`."""
    assert site.scope is not None
    caller = site.scope.function
    values, body = _arguments(site, function), _without_docstring(function)
    if names_in_strings(function):
        return False
    statement = _statement_of(site.call, caller)
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
        _ReplaceNodes({id(site.call): result}).visit(caller)
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


class _Splat(ast.NodeTransformer):
    """`f(**{"a": b})` becomes `f(a=b)`."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        keywords = []
        for keyword in node.keywords:
            if keyword.arg is None and isinstance(keyword.value, ast.Dict):
                for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                    assert isinstance(key, ast.Constant)
                    keywords.append(ast.keyword(key.value, value))
            else:
                keywords.append(keyword)
        node.keywords = keywords
        return node


def _remove_definition(body: list[ast.stmt], function: ast.FunctionDef) -> None:
    if function in body:
        body.remove(function)
    for node in body:
        if isinstance(node, ast.ClassDef) and function in node.body:
            node.body.remove(function)


def _statement_of(node: ast.AST, function: ast.FunctionDef) -> ast.stmt | None:
    """The innermost statement that a node is part of."""
    found = None
    for statement in walk(function):
        if isinstance(statement, ast.stmt) and statement is not function:
            if any(inner is node for inner in walk(statement)):
                found = statement
    return found


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

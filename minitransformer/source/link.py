"""From one class to all definitions that it may need, each class with its bases merged into it.

A class of a family is spread over its bases: RoBERTa's over BERT's, and BERT's over `TaskModel` and
`Model`. Here it becomes one class, with the most derived version of each method, in the order of
the class that has the `forward`. A base stays a base only where it is used by itself as well, as
`MultiHeadAttention` beside `CrossAttention`.
"""

import ast
import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from minitransformer.source.syntax import parse, walk
from minitransformer.source.trees import Substitute, names_in

# What a model says of itself, which nothing that runs reads.
_CONVENIENCES = "minitransformer.models.methods"
# Methods that Python calls, so that no name of them occurs.
_CALLED_BY_PYTHON = {
    "__init__",
    "__call__",
    "__getattr__",
    "__setattr__",
    "__post_init__",
    "forward",
}


class Key(NamedTuple):
    """A definition: its module and its name there."""

    module: str
    name: str


@dataclass
class Module:
    """What a file of the project defines and imports."""

    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imported: dict[str, Key] = field(default_factory=dict)  # from files of the project
    external: dict[str, ast.stmt] = field(default_factory=dict)  # the import of one name


@cache
def module(name: str) -> Module:
    """The file of a module."""
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin)
    result = Module()
    for node in parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            result.definitions[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            result.definitions[node.targets[0].id] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            result.definitions[node.target.id] = node
        elif isinstance(node, ast.ImportFrom) and is_ours(node.module or ""):
            for alias in node.names:
                result.imported[alias.asname or alias.name] = Key(node.module or "", alias.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                single = copy.copy(node)
                single.names = [alias]
                result.external[alias.asname or alias.name] = single
    return result


def is_ours(name: str) -> bool:
    """Whether a module belongs to the project."""
    return name.split(".")[0] in ("minitransformer", "train")


def resolve(where: str, name: str) -> Key | ast.stmt | None:
    """What a global name of a module means: a definition, an import from elsewhere, or nothing."""
    while True:
        found = module(where)
        if name in found.definitions:
            return Key(where, name)
        if name not in found.imported:
            return found.external.get(name)
        where, name = found.imported[name]


class Member(NamedTuple):
    """Something in the body of a class."""

    owner: type
    node: ast.stmt


def attributes_in(node: ast.AST) -> set[str]:
    """The names of attributes that occur in a tree, also as the text of a literal."""
    names = {n.attr for n in walk(node) if isinstance(n, ast.Attribute)}
    texts = {n.value for n in walk(node) if isinstance(n, ast.Constant)}
    return names | {text for text in texts if isinstance(text, str)}


def bases_of(class_: type) -> list[type]:
    """The class and its bases, those that belong to the project, the most derived first."""
    return [b for b in class_.__mro__ if is_ours(b.__module__) and b.__module__ != _CONVENIENCES]


def members_of(class_: type) -> dict[str, Member]:
    """The members of one class alone, by their names."""
    node = module(class_.__module__).definitions[class_.__name__]
    assert isinstance(node, ast.ClassDef)
    found = {}
    for inner in _statements(node.body):
        if isinstance(inner, ast.FunctionDef):
            found[inner.name] = Member(class_, inner)
        elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            found[inner.target.id] = Member(class_, inner)
        elif isinstance(inner, ast.Assign) and isinstance(inner.targets[0], ast.Name):
            found[inner.targets[0].id] = Member(class_, inner)
    return found


def _statements(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """The statements of a class body, those hidden from type checkers included."""
    for node in body:
        if isinstance(node, ast.If) and names_in(node.test) == {"TYPE_CHECKING"}:
            yield from node.body
        else:
            yield node


def merged_members(bases: list[type]) -> dict[str, Member]:
    """The members of a class and its bases, in reading order.

    First come those of the class that has the `forward`; what a class derived from it replaces
    stands in the same place.
    """
    tables = [members_of(base) for base in bases]
    main = next((i for i, table in enumerate(tables) if "forward" in table), len(tables) - 1)
    merged = dict(tables[main])
    if not any("forward" in table for table in tables):  # fields: those of the base first
        merged = {}
        for table in reversed(tables):
            merged.update(table)
        return merged
    for table in reversed(tables[:main]):
        merged.update(table)
    for table in tables[main + 1 :]:
        for name, member in table.items():
            if name not in merged or _declares_only(merged[name].node):
                merged[name] = member
    first = {"__init__": merged.pop("__init__")} if "__init__" in merged else {}
    return {**first, **merged}


def is_field(node: ast.stmt) -> bool:
    """Whether a member is a field of a dataclass, or the type of an attribute."""
    return isinstance(node, ast.AnnAssign) and "ClassVar" not in names_in(node.annotation)


def _declares_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and node.value is None


class Linker:
    """Collects the definitions that some definitions need.

    Args:
        roots: the definitions to begin with.
        with_checks: whether methods that Python calls by themselves, such as `__getattr__`, count.
    """

    def __init__(self, roots: Iterable[Key]) -> None:
        self.linked: dict[Key, Any] = {}
        self.imports: dict[str, ast.stmt] = {}
        self.attributes: set[str] = set(_CALLED_BY_PYTHON)
        self._pending = list(roots)
        self._scanned: set[int] = set()
        self._close()

    def add(self, node: ast.stmt, names: Mapping[str, Key | ast.stmt | None]) -> None:
        """Link what a further definition needs.

        Args:
            node: the definition.
            names: what its global names mean.
        """
        self.attributes |= attributes_in(node)
        for name in names_in(node) & names.keys():
            found = names[name]
            if isinstance(found, Key):
                self._pending.append(found)
            elif found is not None:
                self.imports[name] = found
        self._close()

    def classes(self) -> dict[Key, type]:
        """The classes among what is linked."""
        return {
            key: getattr(import_module(key.module), key.name)
            for key, node in self.linked.items()
            if isinstance(node, ast.ClassDef)
        }

    def _close(self) -> None:
        """Link until nothing new is needed."""
        before = (-1, -1)
        while before != (len(self._scanned), len(self.attributes)):
            before = len(self._scanned), len(self.attributes)
            while self._pending:
                self._link(self._pending.pop())
            for class_ in self.classes().values():
                for name, member in merged_members(bases_of(class_)).items():
                    if name in self.attributes or is_field(member.node):
                        self._scan_member(member)

    def _scan_member(self, member: Member) -> None:
        node = member.node
        is_constant = isinstance(node, ast.AnnAssign) and not is_field(node) and node.value
        where = member.owner.__module__
        if is_constant:
            assert isinstance(node, ast.AnnAssign) and node.value is not None
            self._scan(node.value, where)
            for name in names_in(node.annotation):  # its type may name a base
                found = resolve(where, name)
                if found is not None and not isinstance(found, Key):
                    self.imports[name] = found
        else:
            self._scan(node, where)
        for inner in walk(node):
            if isinstance(inner, ast.Call) and _is_super(inner.func):
                name = inner.func.attr  # type: ignore[attr-defined]
                for class_ in self.classes().values():
                    bases = bases_of(class_)
                    if member.owner in bases:
                        for base in bases[bases.index(member.owner) + 1 :]:
                            if name in (table := members_of(base)):
                                self._scan_member(table[name])
                                break

    def _link(self, key: Key) -> None:
        if key in self.linked:
            return
        node = self.linked[key] = module(key.module).definitions[key.name]
        if isinstance(node, ast.ClassDef):
            for decorator in [*node.decorator_list, *(k.value for k in node.keywords)]:
                self._scan(decorator, key.module)
        else:
            self._scan(node, key.module)

    def _scan(self, node: ast.AST, where: str) -> None:
        if id(node) in self._scanned:
            return
        self._scanned.add(id(node))
        self.attributes |= attributes_in(node)
        for name in names_in(node):
            found = resolve(where, name)
            if isinstance(found, Key):
                self._pending.append(found)
            elif found is not None:
                self.imports[name] = found


def _is_super(node: ast.expr) -> bool:
    """Whether it is `super().something`."""
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "super"
    )


def merge(linker: Linker, constructed: set[type]) -> tuple[list[ast.stmt], dict[str, str]]:
    """The linked definitions, each class with its bases merged into it.

    Args:
        linker: what is linked.
        constructed: classes that the file makes instances of, beside those that its code names.

    Returns:
        The definitions, and the names of merged bases with the classes that stand for them.
    """
    classes = linker.classes()
    made = constructed | _constructed(linker, classes)
    aliases = _aliases(classes.values(), made)
    definitions: dict[str, ast.stmt] = {}
    for key, node in linker.linked.items():
        if key in classes:
            if key.name in aliases:
                continue
            node = _merged_class(classes[key], made, linker.attributes)
        else:
            node = copy.deepcopy(node)
        rename(node, aliases)
        assert key.name not in definitions, f"two definitions are called {key.name}"
        definitions[key.name] = node
    for class_ in classes.values():  # their docstrings name bases as well
        for base in bases_of(class_)[1:]:
            if base not in made and class_.__name__ not in aliases:
                aliases.setdefault(base.__name__, class_.__name__)
    return list(definitions.values()), aliases


def _constructed(linker: Linker, classes: Mapping[Key, type]) -> set[type]:
    """The classes that linked code makes instances of, or hands on to be made."""
    found: set[type] = set()
    by_name = {key.name: class_ for key, class_ in classes.items()}
    for key, node in linker.linked.items():
        trees: list[ast.AST] = [node]
        if key in classes:
            members = merged_members(bases_of(classes[key]))
            trees = [m.node for name, m in members.items() if name in linker.attributes]
        for tree in trees:
            for inner in walk(tree):
                if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
                    found.add(by_name.get(inner.func.id, object))
                elif isinstance(inner, ast.IfExp):
                    found |= {by_name.get(name, object) for name in names_in(inner)}
            if isinstance(tree, ast.Assign | ast.AnnAssign) and isinstance(tree.value, ast.Name):
                found.add(by_name.get(tree.value.id, object))
    return found - {object}


def _aliases(classes: Iterable[type], made: set[type]) -> dict[str, str]:
    """The names of bases that are merged away, and the class that stands for each."""
    aliases = {}
    for class_ in classes:
        if class_ in made:
            continue
        derived = [c for c in made if issubclass(c, class_) and c in classes]
        if len(derived) == 1:
            aliases[class_.__name__] = derived[0].__name__
    return aliases


def rename(node: ast.AST, names: Mapping[str, str]) -> None:
    """Give other names to what a tree refers to."""
    for inner in walk(node):
        if isinstance(inner, ast.Name):
            inner.id = names.get(inner.id, inner.id)


def _merged_class(class_: type, made: set[type], attributes: set[str]) -> ast.ClassDef:
    """A class with the members of its bases, up to one that is used by itself."""
    bases = bases_of(class_)
    kept = next((base for base in bases[1:] if base in made), None)
    if kept is not None:
        bases = bases[: bases.index(kept)]
    node = copy.deepcopy(module(class_.__module__).definitions[class_.__name__])
    assert isinstance(node, ast.ClassDef)
    outside = [base for base in class_.__mro__ if not is_ours(base.__module__)][:-1]
    if kept is not None:
        node.bases = [ast.Name(kept.__name__, ast.Load())]
    elif "Module" in {base.__name__ for base in outside}:
        node.bases = [ast.Attribute(ast.Name("nn", ast.Load()), "Module", ast.Load())]
    else:
        node.bases = [
            ast.Name(base.__name__, ast.Load()) for base in outside if base.__name__ != "Protocol"
        ]
    node.body = [n for n in node.body[:1] if isinstance(n, ast.Expr)]
    constants = {}
    for name, member in merged_members(bases).items():
        inner = copy.deepcopy(member.node)
        if isinstance(inner, ast.FunctionDef):
            if name not in attributes:
                continue
            inner.body = _without_super(inner, member.owner, bases)
        value = getattr(inner, "value", None)
        if isinstance(value, ast.Name | ast.Constant) and not node.decorator_list:
            constants[name] = value
        node.body.append(inner)
    if node.decorator_list:
        node.body.sort(key=lambda inner: isinstance(inner, ast.FunctionDef))  # fields first
    _Constants(constants).visit(node)
    node.merged = {base.__name__: base.__doc__ or "" for base in bases[1:]}  # type: ignore[attr-defined]
    return node


class _Constants(ast.NodeTransformer):
    """Puts the values of a class's constants in the place of `self.name`."""

    def __init__(self, values: Mapping[str, ast.expr]) -> None:
        self.values = values

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        if (
            isinstance(node.value, ast.Name)
            and node.value.id == "self"
            and node.attr in self.values
        ) and isinstance(node.ctx, ast.Load):
            return copy.deepcopy(self.values[node.attr])
        return node


def _without_super(method: ast.FunctionDef, owner: type, bases: list[type]) -> list[ast.stmt]:
    """The body of a method, with what it calls by `super()` in the place of the call."""
    body: list[ast.stmt] = []
    for node in method.body:
        call = node.value if isinstance(node, ast.Expr) else None
        parent = None
        if isinstance(call, ast.Call) and _is_super(call.func):
            name = call.func.attr  # type: ignore[attr-defined]
            later = bases[bases.index(owner) + 1 :] if owner in bases else []
            parent = next((members_of(b)[name] for b in later if name in members_of(b)), None)
        if parent is None:
            body.append(node)
            continue
        assert isinstance(call, ast.Call) and isinstance(parent.node, ast.FunctionDef)
        inherited = copy.deepcopy(parent.node)
        inherited.body = _without_super(inherited, parent.owner, bases)
        if any(isinstance(argument, ast.Starred) for argument in call.args):
            method.args = inherited.args  # everything is passed on
        else:
            _bind(inherited, call)
        body += [n for n in inherited.body if not _is_docstring(n)]
    return body


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _bind(function: ast.FunctionDef, call: ast.Call) -> None:
    """Put the arguments of a call in the place of the parameters of a method."""
    names = [parameter.arg for parameter in function.args.args[1:]]
    given: dict[str, ast.expr] = dict(zip(names, call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    changed = {
        name: value
        for name, value in given.items()
        if not (isinstance(value, ast.Name) and value.id == name)
    }
    if changed:
        Substitute(changed).visit(function)

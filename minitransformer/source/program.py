"""The definitions of a file, which passes make simpler in place."""

import ast
from collections.abc import Collection

from minitransformer.source.syntax import walk
from minitransformer.source.trees import defined_names
from minitransformer.source.types import Types

# Methods of the classes here that only check.
CHECKING = ("__post_init__", "__getattr__", "__setattr__")


class Program:
    """Definitions that are made simpler in place.

    Args:
        body: the definitions.
        roots: the names of those that a reader calls.
        with_checks: whether checks stay.

    Attributes:
        protected: ids of functions that a reader calls, whose parameters stay.
    """

    def __init__(self, body: list[ast.stmt], roots: Collection[str], *, with_checks: bool) -> None:
        self.body = body
        self.roots = set(roots)
        self.with_checks = with_checks
        self.protected: set[int] = set()
        self._types: Types | None = None

    @property
    def types(self) -> Types:
        """The classes of values, found anew after a pass that changed something."""
        if self._types is None:
            self._types = Types(self.body)
        return self._types

    def forget(self) -> None:
        """Find the classes of values anew: the program has changed."""
        self._types = None

    def content(self) -> list[object]:
        """What the program is, to see whether a pass changed it."""
        return [_content(node) for definition in self.body for node in walk(definition)]

    def is_open(self, function: ast.FunctionDef) -> bool:
        """Whether a function may be called from where the program does not show."""
        return (
            id(function) in self.protected
            or id(function) in self.types.escaped
            or id(function) not in self.types.sites
        )

    def is_global(self, node: ast.expr) -> bool:
        """Whether it is the name of a constant, or of a function that is handed on."""
        known = {
            name for n in self.body if not isinstance(n, ast.ClassDef) for name in defined_names(n)
        }
        return isinstance(node, ast.Name) and node.id in known


def _content(node: ast.AST) -> object:
    """What a node is by itself."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Constant):
        return type(node.value), node.value
    own = node.__dict__.get("attr") or node.__dict__.get("arg")
    return (node.__class__, own) if own else node.__class__

"""What an exercise consists of: a template, the reference in steps, inputs, known mistakes.

The reference is taken apart into steps, methods that can be replaced one by one. A mistake is a
short function that replaces some of them; its docstring is what a student is told. Two mistakes
at once are two such functions, one after the other.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from minitransformer.exercises.runner import Case

_ROOT = Path(__file__).parents[2]  # the directory that holds minitransformer/ and train/
_IMPORTS = "It may import torch, numpy, Python's own modules, and your own files in this directory."


@dataclass(frozen=True)
class Line:
    """A line of the reference to read."""

    file: str  # from the directory that holds the package
    line: int  # counted from 1
    text: str


@dataclass(frozen=True)
class Mistake:
    """A wrong version of an exercise.

    Args:
        put_into: replaces steps of the object that it is given; its docstring says what is wrong.
        read: a piece of the source of `reference` where it is right.
        reference: the function or class to read; or a file, "train/masking.py", which is not
            imported, because a file train.py of a student would hide it.
    """

    put_into: Callable[[Any], None]
    read: str
    reference: Any

    @property
    def name(self) -> str:
        """Its short name, such as "no scale"."""
        return self.put_into.__name__.replace("_", " ")

    @property
    def reason(self) -> str:
        """What is wrong and what would be right, on one line."""
        return " ".join((inspect.getdoc(self.put_into) or "").split())

    def lines(self) -> list[str]:
        """The reason, and the line to read, for a reader."""
        return [self.reason, f"  {self.line.file}:{self.line.line}: {self.line.text}"]

    def as_dict(self) -> dict[str, Any]:
        """The same for a program."""
        return {"name": self.name, "reason": self.reason, "read": asdict(self.line)}

    @cached_property
    def line(self) -> Line:
        """The line of the reference where it is right."""
        if isinstance(self.reference, str):
            path, first = _ROOT / self.reference, 1
            lines = path.read_text(encoding="utf-8").splitlines()
        else:
            lines, first = inspect.getsourcelines(self.reference)
            path = Path(inspect.getsourcefile(inspect.unwrap(self.reference)) or "")
        [offset] = [i for i, line in enumerate(lines) if self.read in line][:1]
        return Line(
            path.relative_to(_ROOT).as_posix(), max(first, 1) + offset, lines[offset].strip()
        )


@dataclass(eq=False)
class Exercise:
    """A function or class to write.

    Args:
        template: the function or class without its body; its name and docstring are the exercise's.
        reference: the library's function or class, to which mistakes point.
        steps: a class with the same results as the reference in replaceable steps: for a function,
            its objects are called with the inputs; for a class, it is built and called like it.
        cases: the inputs, the smallest first.
        title: a few words for the list.
        install: for a function, lets a module of the library, if it uses the function, use steps in
            its place, so that a whole model can have the mistake. Modules of a class that is an
            exercise need none: they become an object of `steps`, which is a subclass of theirs.
    """

    template: Callable[..., Any]
    reference: Any
    steps: Callable[..., Any]
    cases: Callable[[], Iterable[Case]]
    title: str
    install: Callable[[Any, Any], None] | None = None
    mistakes: list[Mistake] = field(default_factory=list)

    @property
    def target(self) -> str:
        """The name of the function or class to write."""
        return self.template.__name__

    @property
    def name(self) -> str:
        """The name in commands, such as "causal-mask"."""
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", self.target)
        return words.replace("_", "-").lower()

    @property
    def file_name(self) -> str:
        """The name of the file that a student starts from."""
        return f"{self.name.replace('-', '_')}.py"

    @property
    def is_class(self) -> bool:
        """Whether a class is to be written, and not a function."""
        return isinstance(self.template, type)

    def put_into_model(self, model: nn.Module, mistakes: Iterable[Mistake] = ()) -> None:
        """Let every module that does what the exercise asks for make these mistakes.

        Args:
            model: is changed; without mistakes it computes the same as before.
            mistakes: of this exercise.
        """
        for module in [*model.modules()]:
            steps: Any = module
            if not self.is_class:
                steps = self.steps()
            elif type(module) is self.reference:
                module.__class__ = self.steps  # type: ignore[assignment]
            else:
                continue
            for mistake in mistakes:
                mistake.put_into(steps)
            if self.install is not None:
                self.install(module, steps)

    def mistake(
        self, read: str, of: Any = None
    ) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
        """Add a decorated function to the catalogue.

        Args:
            read: a piece of the line of the reference where it is right.
            of: the function or class with that line; by default the reference of the exercise.
        """

        def add(put_into: Callable[[Any], None]) -> Callable[[Any], None]:
            self.mistakes.append(Mistake(put_into, read, self.reference if of is None else of))
            return put_into

        return add

    def template_text(self) -> str:
        """The file that a student starts from."""
        source = inspect.getsource(self.template)
        used = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
        from_torch = [name for name in ("Tensor", "nn") if name in used]
        imports = ["import torch"]
        if "Any" in used:
            imports.insert(0, "from typing import Any\n")
        if from_torch:
            imports.append(f"from torch import {', '.join(from_torch)}")
        check = f"Check it: minitransformer exercise check {self.file_name}"
        head = f'"""{self.title[0].upper()}{self.title[1:]}.\n\n{check}\n\n{_IMPORTS}\n"""'
        return "\n".join([head, "", *imports, "", "", source])

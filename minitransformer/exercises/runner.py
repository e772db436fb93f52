"""Calls a solution on the cases of an exercise, and writes what it gave.

The same code calls the reference and its wrong versions. A student's file is run by this file in a
process of its own, as `python runner.py FILE NAME DIRECTORY`, in which the package cannot be
imported: so this file imports nothing of it. What goes in and out is JSON, with tensors in
safetensors files beside it.
"""

import ast
import contextlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

# What a solution may import beside files in its own directory: the maths, and all of Python but
# what starts processes and opens connections.
ALLOWED_IMPORTS = {"torch", "numpy", "einops", "safetensors", "typing_extensions"} | (
    sys.stdlib_module_names
    - {"asyncio", "ctypes", "ftplib", "http", "multiprocessing", "smtplib", "socket", "ssl"}
    - {"subprocess", "telnetlib", "urllib", "webbrowser"}
)
_LARGEST_FILE = 2**26  # bytes that a solution may write or print
# What stands in the place of the package's own answer in any environment.
FORBIDDEN_IMPORTS = ("minitransformer", "transformers")


@dataclass(frozen=True)
class Case:
    """One call of a solution.

    Args:
        label: what is special about the input, in words: "padding on the left".
        inputs: the arguments by name, given by position: tensors, numbers, texts, lists, dicts.
        init: for a class, the arguments of its constructor by name, given by position.
        state: for a class, the values of its parameters by name.
        path: for a class, the directory of the checkpoint that `from_pretrained` reads, in place of
            `init` and `state`.
        gradients: whether the gradients of inputs and parameters are compared too.
        keeps_inputs: whether the call must leave its arguments as they are.
        tolerance: the largest |yours - reference| / (1 + |reference|) that counts as rounding; None
            stands for that of the dtype.
    """

    label: str
    inputs: dict[str, Any]
    init: dict[str, Any] | None = None
    state: dict[str, Tensor] | None = None
    path: str | None = None
    gradients: bool = True
    keeps_inputs: bool = False
    tolerance: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a solution gave in a case: a value and gradients by name, or an error."""

    value: Any = None
    gradients: dict[str, Tensor] = field(default_factory=dict)
    error: str | None = None  # "ValueError: ... (line 7)"


def evaluate(
    target: Callable[..., Any], case: Case, change: Callable[[Any], None] | None = None
) -> Outcome:
    """Call a function, or build an object of a class and call that.

    Args:
        target: the function or class.
        case: what it is called with.
        change: applied to the function or the object before the call.
    """
    try:
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay what they were
            torch.default_generator.manual_seed(0)
            return _evaluate(target, case, change)
    except Refused:
        raise
    except (Exception, SystemExit) as error:
        return Outcome(error=describe(error, _FILE))


def _evaluate(
    target: Callable[..., Any], case: Case, change: Callable[[Any], None] | None
) -> Outcome:
    called = build(target, case)
    if change is not None:
        change(called)
    leaves: dict[str, Tensor] = {}
    inputs = _copied(case.inputs, leaves if case.gradients else None)
    if case.gradients and isinstance(called, nn.Module) and case.state is not None:
        leaves |= dict(called.named_parameters(remove_duplicate=False))
    with contextlib.nullcontext() if case.gradients else torch.no_grad():
        value = called(*inputs.values())
    for name, before in case.inputs.items() if case.keeps_inputs else ():
        pairs = zip(tensors_in(before), tensors_in(inputs[name]), strict=True)
        if not all(torch.equal(*pair) for pair in pairs):
            raise ValueError(f"it changes its argument {name} in place")
    value = getattr(value, "logits", value)
    if not case.gradients:
        return Outcome(detached(value))
    return Outcome(detached(value), _gradients(value, leaves))


def build(target: Callable[..., Any], case: Case) -> Any:
    """What a case calls: the function, or an object of the class in evaluation mode."""
    built: Any = target
    if case.path is not None:
        built = target.from_pretrained(case.path)  # type: ignore[attr-defined]
    elif case.init is not None:
        built = target(*_copied(case.init).values())
        if case.state is not None:
            built = _with_weights(built, case.state)
    return built.eval() if isinstance(built, nn.Module) else built


def _with_weights(module: Any, state: dict[str, Tensor]) -> Any:
    """The module with these parameters, in their dtype.

    Raises:
        ValueError: its parameters have other names or shapes.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"{type(module).__name__} is no torch.nn.Module")
    named = module.named_parameters(remove_duplicate=False)
    ours = {name: tuple(parameter.shape) for name, parameter in named}
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in theirs:
        if name not in ours:
            there = ", ".join(ours) or "none"
            raise ValueError(f"the parameter {name} is missing; there are {there}")
    for name, shape in ours.items():
        if name not in theirs:
            raise ValueError(f"unexpected parameter {name}; expected are {', '.join(theirs)}")
        if shape != theirs[name]:
            raise ValueError(f"the parameter {name} has shape {shape}, not {theirs[name]}")
    module.to(next(iter(state.values())).dtype).load_state_dict(state, strict=False)
    return module


def _copied(values: Any, leaves: dict[str, Tensor] | None = None, name: str = "") -> Any:
    """A copy of nested values whose float tensors, if leaves are collected, have a gradient."""
    if isinstance(values, Tensor):
        copy = values.detach().clone()
        if leaves is None or not copy.is_floating_point():
            return copy
        leaves[name] = copy.requires_grad_()
        return copy.clone()  # which may be changed in place, as a leaf may not
    if isinstance(values, dict):
        return {
            key: _copied(value, leaves, f"{name}[{key!r}]" if name else str(key))
            for key, value in values.items()
        }
    if isinstance(values, list | tuple):
        return type(values)(
            _copied(value, leaves, f"{name}[{i}]") for i, value in enumerate(values)
        )
    return values


def _gradients(value: Any, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of the leaves for a fixed gradient of the value; zeros where there is none."""
    outputs = [t for t in tensors_in(value) if t.requires_grad]
    if not outputs:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    ahead = [
        torch.arange(1, t.numel() + 1, dtype=torch.float64).cos().to(t.dtype).view(t.shape)
        for t in outputs
    ]
    found = torch.autograd.grad(outputs, [*leaves.values()], ahead, allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient.detach()
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)


def detached(value: Any) -> Any:
    """The same nested value without a graph."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: detached(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [detached(part) for part in value]
    return value


def describe(error: BaseException, file: str) -> str:
    """One line: the error, and the line of the student's file that it came from."""
    if isinstance(error, SystemExit):
        text = "SystemExit: your code ends the process; it should return its result"
    else:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:500]
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f"{text} (line {lines[-1]})" if lines else text


_FILE = ""  # the student's file, once it is known


# ---- nested values in files ----


def write(directory: Path, name: str, value: Any) -> None:
    """Write nested values as NAME.json, their tensors as NAME.safetensors."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encoded(value, tensors))
    if tensors:
        save_file(tensors, directory / f"{name}.safetensors")
    part = directory / f"{name}.part"
    part.write_text(text, encoding="utf-8")
    part.rename(directory / f"{name}.json")  # there is a complete file or none


def read(directory: Path, name: str) -> Any:
    """Read what :func:`write` wrote."""
    path = directory / f"{name}.safetensors"
    tensors = load_file(path) if path.exists() else {}
    return _decoded(json.loads((directory / f"{name}.json").read_text(encoding="utf-8")), tensors)


def _encoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_key(key), _encoded(part, tensors)] for key, part in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_encoded(part, tensors) for part in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return {"other": type(value).__name__}


def _key(key: Any) -> Any:
    """A key of a dict as JSON can hold it."""
    if key is None or isinstance(key, bool | int | float | str):
        return key
    return [_key(part) for part in key] if isinstance(key, tuple) else repr(key)


def _decoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "dict" in value:
        return {
            tuple(key) if isinstance(key, list) else key: _decoded(part, tensors)
            for key, part in value["dict"]
        }
    if "list" in value:
        return [_decoded(part, tensors) for part in value["list"]]
    return f"<{value['other']}>"


# ---- before and in the student's process ----


class Refused(Exception):
    """Why a file is not run, in one sentence."""


def check_imports(path: Path, seen: set[Path] | None = None) -> None:
    """Check what a file, and the files beside it that it imports, import.

    Raises:
        Refused: it is something that a solution should not import, or the file is not Python.
        OSError: the file cannot be read.
    """
    seen = set() if seen is None else seen
    seen.add(path)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise Refused(f"line {error.lineno} of {path.name} is not Python: {error.msg}") from error
    except ValueError as error:  # not UTF-8, or a zero byte
        raise Refused(f"{path.name} is not Python in UTF-8: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            module = node.module or node.names[0].name
            raise Refused(f"line {node.lineno} of {path.name} should be: import {module}")
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            first = name.partition(".")[0]
            beside = path.parent / f"{first}.py"
            if first in FORBIDDEN_IMPORTS:
                reason = "which has the answer; write it yourself"
            elif first in ALLOWED_IMPORTS:
                continue
            elif beside.exists():
                if beside not in seen:
                    check_imports(beside, seen)
                continue
            else:
                reason = (
                    "which a solution does not need; it may import torch, numpy, Python's own "
                    "modules without network and processes, and your own files beside it"
                )
            raise Refused(f"line {node.lineno} of {path.name} imports {name}, {reason}")


class _Refuser:
    """Refuses imports that :func:`check_imports` cannot see."""

    def find_spec(self, name: str, *_: Any) -> None:
        """Refuse the name, or leave it to others."""
        if name.partition(".")[0] in FORBIDDEN_IMPORTS:
            raise Refused(f"it imports {name}, which has the answer; write it yourself")


def load(path: Path, name: str) -> Any:
    """The function or class `name` of a file.

    Raises:
        Refused: the file cannot be read, or has no such name.
    """
    try:
        sys.meta_path.insert(0, _Refuser())
        sys.path.append(str(path.parent))  # last, so that a file random.py hides nothing
        spec = importlib.util.spec_from_file_location("solution", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["solution"] = module  # where dataclasses look it up
        spec.loader.exec_module(module)
    except Refused:
        raise
    except SystemExit as error:
        raise Refused(f"{path.name} ends the process when it is imported") from error
    except BaseException as error:
        raise Refused(f"{path.name} cannot be imported: {describe(error, _FILE)}") from error
    if not callable(getattr(module, name, None)):
        raise Refused(f"{path.name} has no function or class {name}")
    return getattr(module, name)


def main(path: Path, name: str, directory: Path) -> None:
    """Run the cases in `directory`, and write an outcome for each, as soon as it is known."""
    global _FILE
    _FILE = str(path)
    torch.set_num_threads(1)
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    cases = read(directory, "cases")
    try:
        target = load(path, name)
    except Refused as error:
        return write(directory, "refused", str(error))
    for number, values in enumerate(cases):
        try:
            outcome = evaluate(target, Case(**values))
        except Refused as error:
            return write(directory, "refused", str(error))
        write(directory, str(number), vars(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))

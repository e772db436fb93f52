"""Transformers from scratch in plain PyTorch, with the same numbers as Hugging Face's."""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Each name and its module, from the file that type checkers and editors read. A module is imported
# when one of its names is first used, so that `minitransformer --help` does not wait for PyTorch.
_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_IMPORT = re.compile(r"from (\S+) import \(?\s*(\w+) as")
_MODULES = {name: module for module, name in _IMPORT.findall(_STUB)}

__all__ = sorted(_MODULES)


def __dir__() -> list[str]:
    """The names that can be completed."""
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    """A name of the package, one of its modules, the class name of a tokenizer, or the error.

    An ImportError can say what to type: `from minitransformer import name` shows it, where the
    message of an AttributeError is lost.
    """
    if name in _MODULES:
        found = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return found
    if not name.startswith("_"):
        if find_spec(f"{__name__}.{name}") is not None:
            return import_module(f"{__name__}.{name}")
        from minitransformer.auto import TOKENIZERS
        from minitransformer.elsewhere import advice

        if name in TOKENIZERS:
            return TOKENIZERS[name]
        said = advice(name, [*__all__, *TOKENIZERS])
        if said is not None:
            raise ImportError(f"{__name__} has no {name}: {said}", name=__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

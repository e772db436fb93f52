"""Freezing: parts of a model that are not trained."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from minitransformer.hf.config import reference_class
from minitransformer.models.base import Model
from minitransformer.names import listed, shortened

_LAYERS = re.compile(r"(?:([a-z]+)\.)?(\d+)(?:-(\d+))?")


@contextmanager
def frozen(model: Model, names: str | None) -> Iterator[None]:
    """Freeze parts of a model within the context.

    Args:
        model: a model, with or without a task head.
        names: parts, separated by commas; None freezes nothing. A part is

            - `embeddings`: all embeddings of tokens, positions and token types, and their norms. A
              head that is tied to the token embedding is frozen with it.
            - a layer, `3`, or a range with both ends, `0-5`; with an encoder and a decoder
              `encoder.0-5` and `decoder.0`
            - the name of a module: `encoder`, `pooler`, `backbone`, `layers.0.attention`, ...

    Raises:
        ValueError: a part is unknown, in which case the message lists what can be named, or nothing
            would be left to train.
    """
    to_freeze = frozen_parameters(model, names) if names is not None else {}
    trainable = [p for name, p in to_freeze.items() if p.requires_grad]
    if not any(p.requires_grad and name not in to_freeze for name, p in model.named_parameters()):
        raise ValueError(f"freeze={shortened(names)} leaves nothing to train; freeze fewer parts")
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def frozen_parameters(model: Model, names: str) -> dict[str, nn.Parameter]:
    """The parameters of the named parts, by name; see :func:`frozen`."""
    found: dict[str, nn.Parameter] = {}
    for part in names.split(","):
        prefixes = _prefixes(model, part.strip())
        found |= {
            name: parameter
            for name, parameter in model.named_parameters()
            if any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)
        }
    return found


def _prefixes(model: Model, part: str) -> list[str]:
    """The full names of the modules, or parameters, that a part names."""
    stacks = _stacks(model)
    if part == "embeddings":
        names = [name for name, _ in model.named_modules()]
        return [name for name in names if "embedding" in name.rpartition(".")[2]]
    if match := _LAYERS.fullmatch(part):
        stack, first, last = match[1] or "", int(match[2]), int(match[3] or match[2])
        if stack in stacks:
            name = stacks[stack]
            if first <= last < _depth(model, name):
                return [f"{name}.{number}" for number in range(first, last + 1)]
    known = {name for name, _ in model.named_modules() if name}
    known |= {name for name, _ in model.named_parameters()}
    for name in (part, f"backbone.{part}"):
        if name in known:
            return [name]
    raise ValueError(
        f"freeze names {shortened(part)}, which {reference_class(model).__name__} does not have; "
        f"it has {listed(_choices(model, stacks), 600)}, and all other names of modules, such as "
        f"{next(iter(stacks.values())).removeprefix('backbone.')}.0.attention"
    )


def _stacks(model: Model) -> dict[str, str]:
    """The stacks of layers: "" or "encoder" and "decoder", and the name of the module."""
    names = [name for name, _ in model.named_modules() if name.rpartition(".")[2] == "layers"]
    if len(names) == 1:
        return {"": names[0]}
    return {name.removesuffix(".layers").removeprefix("backbone."): name for name in names}


def _depth(model: Model, stack: str) -> int:
    """The number of layers in a stack."""
    return len(list(model.get_submodule(stack).children()))


def _choices(model: Model, stacks: dict[str, str]) -> list[str]:
    """What is worth naming, for an error message."""
    layers = []
    for stack, name in stacks.items():
        last = _depth(model, name) - 1
        layers.append(f"{stack}{'.' * bool(stack)}0{f'-{last}' * (last > 0)}")
    backbone = getattr(model, "backbone", model)
    children = [name for part in (backbone, model) for name, _ in part.named_children()]
    return list(dict.fromkeys(["embeddings", *layers, *children]))

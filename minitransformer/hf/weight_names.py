"""Hugging Face's names of tensors to ours, and back, by the tables of the families."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from minitransformer.files import CheckpointError
from minitransformer.hf.config import reference_class
from minitransformer.hf.family import Family, WeightMap
from minitransformer.models.base import Model, TaskModel
from minitransformer.models.config import Config

# What our names of the backbone's tensors begin with, in a model with a head.
BACKBONE = "backbone."
# The number of a layer within a name, without leading zeros; no model has a million layers.
_LAYER = re.compile(r"(?<=\.)(?:0|[1-9][0-9]{0,5})(?=\.)")
# TensorFlow's names of a norm's weight and bias, which the first BERT checkpoints still carry.
_OLD_ENDING = re.compile(r"LayerNorm\.(gamma|beta)$")
_NEW_ENDING = {"gamma": "LayerNorm.weight", "beta": "LayerNorm.bias"}


@dataclass
class Translation:
    """What a checkpoint's names stand for in a model.

    Attributes:
        targets: stored name to our name; the second name of a tied tensor has the first's.
        unused: stored names of heads that this model does not have.
        new: parts of the model, such as "lm_head", of which nothing is stored.
        zeros: our names of tensors that are zero unless they are stored.
    """

    targets: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    zeros: list[str] = field(default_factory=list)


def number_of_layers(names: Iterable[str], family: Family, config: Config, stack: str) -> int:
    """How many layers of a stack a checkpoint stores.

    Only layers that are there count, so the number is never more than that of the tensors.

    Args:
        names: of the stored tensors.
        family, config: theirs.
        stack: where our names of the stack's layers begin, one of `family.stacks`.
    """
    weights = family.weight_map(config)
    found = set()
    for name in names:
        try:
            ours, number = _look_up(_inner(name, family), weights)
        except LookupError:
            continue
        if ours is not None and ours.startswith(stack):
            found.add(number)
    return len(found)


def translate(
    names: Iterable[str], family: Family, model: Model, *, keep_head: bool = True
) -> Translation:
    """Find the target in `model` of every stored tensor.

    Args:
        names: of the stored tensors.
        family: their family.
        model: to be filled.
        keep_head: False where the head that is stored is another than the model's, though its
            tensors may have the same names.

    Raises:
        CheckpointError: a name is unknown, or a tensor that only training gives is nowhere stored.
    """
    known_class = reference_class(model)
    wanted = set(model.state_dict())
    optional = wanted & family.optional
    heads = set(family.models[known_class].values())
    pooler = f"{_our_prefix(model)}pooler."
    result = Translation()
    unexpected = []
    for name in names:
        try:
            target = _target(name, family, model, wanted)
        except LookupError:
            unexpected.append(name)
            continue
        if target is None and _is_head(name, family):
            result.unused.append(name)
        elif target is None:
            continue
        elif target in heads and not keep_head:
            result.unused.append(name)
        elif target in wanted:
            result.targets[name] = target
        elif target.startswith(pooler):
            result.unused.append(name)
        else:
            unexpected.append(name)

    if not model.has_lm_head:
        _leave_out_decoder(result, family)
    missing = wanted - set(result.targets.values())
    result.zeros = sorted(missing & optional)
    missing -= optional
    for part in [*_parts(heads), pooler[:-1]]:
        whole = {name for name in wanted if name.startswith(f"{part}.")}
        if whole and whole <= missing:  # all of a head is absent, not some of it
            result.new.append(part)
            missing -= whole
    if unexpected or missing:
        raise CheckpointError(
            f"the tensors are not those of a {known_class.__name__}: "
            f"missing {sorted(missing)[:5]}, unexpected {sorted(unexpected)[:5]}"
        )
    return result


def stored_names(family: Family, model: Model) -> dict[str, str]:
    """Our name to Hugging Face's, for every tensor that `model` has.

    Raises:
        TypeError: the model has tensors of its own, which Hugging Face's class would not read.
    """
    known_class = reference_class(model)
    ours_before, theirs_before = _our_prefix(model), ""
    if ours_before and family.backbone_name:
        theirs_before = f"{family.backbone_name}."
    head = family.models[known_class]
    names = {ours: theirs for theirs, ours in head.items() if ours is not None}
    for theirs, ours in family.weight_map(model.config).items():
        if ours is not None:
            for layer in range(_layers_of(ours, family, model.config)):
                names[ours_before + ours.format(layer)] = theirs_before + theirs.format(layer)
    wanted = list(model.state_dict())
    own = [name for name in wanted if name not in names]
    if own:
        raise TypeError(
            f"{type(model).__name__} has tensors that a {known_class.__name__} of Hugging Face "
            f"does not have: {own[:5]}"
        )
    return {name: names[name] for name in wanted}


def is_transposed(stored_name: str, family: Family) -> bool:
    """Whether a matrix is stored as (in, out)."""
    return _LAYER.sub("{}", _inner(stored_name, family), count=1) in family.transposed


def _target(name: str, family: Family, model: Model, wanted: Collection[str]) -> str | None:
    """Our name of a stored tensor; None drops it; LookupError says that the name is unknown."""
    modern = _modern(name)
    head = family.models[reference_class(model)]
    if modern in head and (head[modern] in wanted or modern not in family.tied):
        return head[modern]
    if modern in family.tied:
        tied = family.tied[modern]
        if tied.startswith(BACKBONE):
            return _our_prefix(model) + tied.removeprefix(BACKBONE)
        return tied if tied in head.values() else None
    if _is_head(name, family):
        return None
    inner = _inner(name, family)
    if inner in family.aliases:
        return _our_prefix(model) + family.aliases[inner]
    target, number = _look_up(inner, family.weight_map(model.config))
    return target and _our_prefix(model) + target.format(number)


def _inner(name: str, family: Family) -> str:
    """A stored name as the backbone alone would have it."""
    return _modern(name).removeprefix(f"{family.backbone_name}.")


def _look_up(inner: str, weights: WeightMap) -> tuple[str | None, str]:
    """Our name, with `{}` for the number of a layer, and the number, "" where there is none."""
    if inner in weights:
        return weights[inner], ""
    number = _LAYER.search(inner)
    return weights[_LAYER.sub("{}", inner, count=1)], number[0] if number else ""


def _layers_of(ours: str, family: Family, config: Config) -> int:
    """How many tensors of a model one of our names stands for."""
    if "{}" not in ours:
        return 1
    stack = next(stack for stack in family.stacks if ours.startswith(stack))
    return getattr(config, family.stacks[stack])


def _is_head(name: str, family: Family) -> bool:
    """Whether a stored tensor is one of a head of this family.

    Heads that are not built here begin like those that are: `cls.seq_relationship`, `classifier`.
    """
    heads = [*family.models.values(), family.tied]
    parts = {theirs.split(".")[0] for head in heads for theirs in head}
    return name in parts or name.startswith(tuple(f"{part}." for part in parts))


def _leave_out_decoder(result: Translation, family: Family) -> None:
    """A model without an LM head has no use for a decoder, tied or not.

    Unless it is the only copy of the token embedding that was stored.
    """
    targets = list(result.targets.values())
    for name in [name for name in result.targets if _modern(name) in family.tied]:
        if targets.count(result.targets[name]) > 1:
            del result.targets[name]
            result.unused.append(name)


def _modern(name: str) -> str:
    return _OLD_ENDING.sub(lambda match: _NEW_ENDING[match[1]], name)


def _our_prefix(model: Model) -> str:
    """What our names of the backbone's tensors begin with in this model."""
    return BACKBONE if isinstance(model, TaskModel) else ""


def _parts(names: Iterable[str | None]) -> list[str]:
    """The modules, such as "lm_head", that names of tensors begin with."""
    return sorted({name.split(".")[0] for name in names if name is not None})

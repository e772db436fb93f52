"""Translation between Hugging Face's names of tensors and ours, by the tables of the families."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from minitransformer.files import CheckpointError
from minitransformer.hf.config import reference_class
from minitransformer.hf.family import Family, WeightMap
from minitransformer.models.base import Model, TaskModel
from minitransformer.models.config import Config
from minitransformer.names import shortened

# Our prefix of the backbone's tensors in a model with a head.
BACKBONE = "backbone."

# The end of a message about a missing head.
NEEDS_A_HEAD = (
    "; tie_word_embeddings=False needs a stored LM head, True takes the token embedding instead"
)
# A layer number within a name, without leading zeros; no model has a million layers.
_LAYER = re.compile(r"(?<=\.)(?:0|[1-9][0-9]{0,5})(?=\.)")
# TensorFlow's names of a layer norm's weight and bias, used by the first BERT checkpoints.
_OLD_ENDING = re.compile(r"LayerNorm\.(gamma|beta)$")
_NEW_ENDING = {"gamma": "LayerNorm.weight", "beta": "LayerNorm.bias"}


@dataclass
class Translation:
    """How the tensors of a checkpoint correspond to those of a model.

    Attributes:
        targets: stored name to our name; several stored names of a tied tensor have one target.
        unused: stored names that belong to heads which this model does not have.
        new: parts of the model, such as "lm_head", that the checkpoint does not have.
    """

    targets: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


def layer_numbers(
    names: Iterable[str], family: Family, config: Config, stack: str
) -> dict[str, int]:
    """The stored tensors of a stack's layers, each with the number of its layer.

    Args:
        names: of the stored tensors.
        family, config: of the checkpoint.
        stack: our prefix of the stack's layers, one of `family.stacks`.
    """
    weights = family.weight_map(config)
    found = {}
    for name in names:
        try:
            ours, number = _look_up(_without_prefix(name, family), weights)
        except LookupError:
            continue
        if ours is not None and ours.startswith(stack):
            found[name] = int(number)
    return found


def translate(
    names: Iterable[str], family: Family, model: Model, *, keep_head: bool = True
) -> Translation:
    """Find the tensor of `model` that each stored tensor belongs to.

    Args:
        names: of the stored tensors.
        family: of the checkpoint.
        model: to be loaded.
        keep_head: False if the stored head is not the model's, even though its tensors may have the
            same names.

    Raises:
        CheckpointError: a stored name is unknown, or some tensors of a part of the model are
            missing.
    """
    known_class = reference_class(model)
    expected = set(model.state_dict())
    heads = set(family.models[known_class].values())
    pooler = f"{_our_prefix(model)}pooler."
    result = Translation()
    unexpected = []
    for name in names:
        try:
            target = _target(name, family, model, expected)
        except LookupError:
            unexpected.append(name)
            continue
        if target is None and _is_head(name, family):
            result.unused.append(name)
        elif target is None:
            continue
        elif target in heads and not keep_head:
            result.unused.append(name)
        elif target in expected:
            result.targets[name] = target
        elif target.startswith(pooler):
            result.unused.append(name)
        else:
            unexpected.append(name)

    tied = model.config.tie_word_embeddings
    if not model.has_lm_head:
        _leave_out_lm_head(result, family, tied=tied)
    elif not tied:
        _leave_out_first_names(result, family)
    missing = expected - set(result.targets.values()) - family.optional  # those are zeros
    for part in [*_parts(heads), pooler[:-1]]:
        tensors = {name for name in expected if name.startswith(f"{part}.")}
        if tensors and tensors <= missing:  # the whole part is missing, not some of its tensors
            result.new.append(part)
            missing -= tensors
    if unexpected or missing:
        matrix = {family.models[known_class].get(name) for name in family.tied}
        raise CheckpointError(
            f"the tensors are not those of a {known_class.__name__}: "
            f"missing {shortened(sorted(missing), 400)}, "
            f"unexpected {shortened(sorted(unexpected), 400)}"
            + NEEDS_A_HEAD
            * bool(matrix & missing)
        )
    return result


def stored_names(family: Family, model: Model) -> dict[str, str]:
    """Our name to Hugging Face's, for every tensor of `model`.

    Raises:
        TypeError: the model has tensors that Hugging Face's class does not have.
    """
    known_class = reference_class(model)
    our_prefix, their_prefix = _our_prefix(model), ""
    if our_prefix and family.backbone_name:
        their_prefix = f"{family.backbone_name}."
    head = family.models[known_class]
    names = {ours: theirs for theirs, ours in head.items() if ours is not None}
    for theirs, ours in family.weight_map(model.config).items():
        if ours is not None:
            for layer in range(_layers_of(ours, family, model.config)):
                names[our_prefix + ours.format(layer)] = their_prefix + theirs.format(layer)
    tensors = list(model.state_dict())
    unknown = [name for name in tensors if name not in names]
    if unknown:
        raise TypeError(
            f"{type(model).__name__} has tensors that Hugging Face's {known_class.__name__} does "
            f"not have: {unknown[:5]}"
        )
    return {name: names[name] for name in tensors}


def stored_copies(family: Family, model: Model) -> dict[str, str]:
    """Further names under which transformers 5 expects tensors of `model`, to our names of these.

    There are some only where `tie_word_embeddings=False`: transformers 5 then ties nothing, not
    even the token embeddings of encoder and decoder.
    """
    if model.config.tie_word_embeddings:
        return {}
    expected = set(model.state_dict())
    prefix = f"{family.backbone_name}." if _our_prefix(model) else ""
    return {
        prefix + name if name in family.aliases else name: target
        for name in sorted(family.untied_copies)
        if (target := _target(name, family, model, expected)) in expected
    }


def is_transposed(stored_name: str, family: Family) -> bool:
    """Whether a matrix is stored as (in, out)."""
    return _LAYER.sub("{}", _without_prefix(stored_name, family), count=1) in family.transposed


def _target(name: str, family: Family, model: Model, expected: Collection[str]) -> str | None:
    """Our name of a stored tensor, or None to drop it.

    Raises:
        LookupError: the name is unknown.
    """
    modern = _modern(name)
    head = family.models[reference_class(model)]
    if modern in head and (head[modern] in expected or modern not in family.tied):
        return head[modern]
    if modern in family.tied:
        tied = family.tied[modern]
        if tied.startswith(BACKBONE):
            return _our_prefix(model) + tied.removeprefix(BACKBONE)
        return tied if tied in head.values() else None
    if _is_head(name, family):
        return None
    bare = _without_prefix(name, family)
    if bare in family.aliases:
        return _our_prefix(model) + family.aliases[bare]
    target, number = _look_up(bare, family.weight_map(model.config))
    return target and _our_prefix(model) + target.format(number)


def _without_prefix(name: str, family: Family) -> str:
    """A stored name of a backbone's tensor, without Hugging Face's prefix."""
    return _modern(name).removeprefix(f"{family.backbone_name}.")


def _look_up(name: str, weights: WeightMap) -> tuple[str | None, str]:
    """Our name, with `{}` for the layer number, and the number, or "" if there is none.

    Raises:
        LookupError: the name is unknown.
    """
    if name in weights:
        return weights[name], ""
    number = _LAYER.search(name)
    return weights[_LAYER.sub("{}", name, count=1)], number[0] if number else ""


def _layers_of(ours: str, family: Family, config: Config) -> int:
    """How many layers have a tensor of this name; 1 for a tensor outside the layers."""
    if "{}" not in ours:
        return 1
    stack = next(stack for stack in family.stacks if ours.startswith(stack))
    return getattr(config, family.stacks[stack])


def _is_head(name: str, family: Family) -> bool:
    """Whether a stored tensor belongs to a head of this family.

    Unsupported heads begin with the same names as supported ones, such as `cls.seq_relationship`.
    """
    heads = [*family.models.values(), family.tied]
    parts = {theirs.split(".")[0] for head in heads for theirs in head}
    return name in parts or name.startswith(tuple(f"{part}." for part in parts))


def _leave_out_lm_head(result: Translation, family: Family, *, tied: bool) -> None:
    """Drop a stored LM head's matrix, unless it is tied and the only copy of its tensor."""
    targets = list(result.targets.values())
    for name in [name for name in result.targets if _modern(name) in family.tied]:
        if targets.count(result.targets[name]) > 1 or not tied:
            del result.targets[name]
            result.unused.append(name)


def _leave_out_first_names(result: Translation, family: Family) -> None:
    """Of two biases of an untied LM head, keep the second, which transformers 5 adds alone."""
    for second in family.untied_copies & family.tied.keys() & result.targets.keys():
        target = result.targets[second]
        for name in [name for name, known in result.targets.items() if known == target]:
            if name != second:
                del result.targets[name]


def _modern(name: str) -> str:
    """The name with TensorFlow's endings replaced."""
    return _OLD_ENDING.sub(lambda match: _NEW_ENDING[match[1]], name)


def _our_prefix(model: Model) -> str:
    """Our prefix of the backbone's tensors in this model."""
    return BACKBONE if isinstance(model, TaskModel) else ""


def _parts(names: Iterable[str | None]) -> list[str]:
    """The modules, such as "lm_head", that tensors of these names belong to."""
    return sorted({name.split(".")[0] for name in names if name is not None})

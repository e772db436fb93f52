"""Checkpoints in: config.json and safetensors to a model, every tensor accounted for."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from minitransformer.files import CheckpointError, checkpoint_file, read_json
from minitransformer.hf.config import config_from_hf, family_of, family_of_model, stored_num_labels
from minitransformer.hf.family import Family
from minitransformer.hf.generation_config import FIELDS, OF_TASKS, read_generation_config
from minitransformer.hf.generation_config import FILE as GENERATION
from minitransformer.hf.names import Translation, is_transposed, number_of_layers, translate
from minitransformer.hf.tensors import StoredTensor, list_tensors, read_tensors
from minitransformer.hub import resolve_checkpoint
from minitransformer.layers.positions import SinusoidalPositions
from minitransformer.models.base import Model
from minitransformer.models.classification import SequenceClassification, TokenClassification
from minitransformer.models.config import Config
from minitransformer.models.writing_model import GenerativeModel
from minitransformer.names import unexpected_name

CONFIG = "config.json"
_PATTERNS = (CONFIG, GENERATION, "*.safetensors", "*.safetensors.index.json")
_FLOATING = ("F64", "F32", "F16", "BF16")  # safetensors' words for what a weight may be

SomeModel = TypeVar("SomeModel", bound=Model)


def from_pretrained(
    path: str | Path,
    *,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Model:
    """Load a checkpoint as the class that its config.json names in `architectures`.

    Args:
        path: a directory with config.json and safetensors, or a name on the hub; without network
            the hub's cache on this machine is used.
        attention: the kernel, "sdpa", "packed" (the same without padding) or "eager" (the formula).
        dtype: of the model, whatever the file's is.
        device: to load onto.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: there is no checkpoint, or it is unsafe, damaged, or of a class that is
            not built here. Nothing of the size that a file claims is allocated before its header
            and config agree.
    """
    directory = resolve_checkpoint(path, _PATTERNS)
    content = _read_config(directory)
    family = family_of(content, directory / CONFIG)
    models = {model.__name__: model for model in family.models}
    name = _architecture(content)
    if name is None:
        raise CheckpointError(
            f"{directory / CONFIG} names no architecture; say which class it is: "
            + " or ".join(f"{model}.from_pretrained(...)" for model in models)
        )
    if name not in models:
        raise CheckpointError(
            f"{directory / CONFIG}: {unexpected_name('architecture', name, models)}; to load it as "
            "one of these: that class's from_pretrained"
        )
    return _load(models[name], directory, content, family, attention, dtype, device)


def model_class_for(path: str | Path, task: type[SomeModel]) -> type[SomeModel]:
    """The class that does a task in the family of a checkpoint, whatever class its config names.

    Args:
        path: a directory, or a name on the hub.
        task: a base class, such as `models.question_answering.QuestionAnswering`.

    Raises:
        CheckpointError: there is no checkpoint, or its family has no such class.
    """
    directory = resolve_checkpoint(path, _PATTERNS)
    family = family_of(_read_config(directory), directory / CONFIG)
    for model_class in family.models:
        if issubclass(model_class, task):
            return model_class
    raise CheckpointError(
        f"{directory / CONFIG}: the family {family.model_type!r} has no class for {task.__name__}"
    )


def load_model(
    model_class: type[SomeModel],
    path: str | Path,
    *,
    attention: str,
    dtype: torch.dtype,
    device: str | torch.device,
    changes: Mapping[str, Any],
) -> SomeModel:
    """Load a checkpoint as `model_class`; see :meth:`Model.from_pretrained`."""
    directory = resolve_checkpoint(path, _PATTERNS)
    content = _read_config(directory)
    family = family_of(content, directory / CONFIG)
    if model_class not in family.models:
        raise CheckpointError(
            f"{directory / CONFIG}: model_type is {family.model_type!r}, but a "
            f"{model_class.__name__} needs {family_of_model(model_class).model_type!r}"
        )
    return _load(model_class, directory, content, family, attention, dtype, device, changes)


def _load(
    model_class: type[SomeModel],
    directory: Path,
    content: dict[str, Any],
    family: Family,
    attention: str,
    dtype: torch.dtype,
    device: str | torch.device,
    changes: Mapping[str, Any] | None = None,
) -> SomeModel:
    """Compare the header with the config, and only then take memory and read."""
    if dtype == torch.float16 and model_class.overflows_in_float16:
        raise ValueError(
            f"a {model_class.__name__} overflows in float16; load it with dtype=torch.bfloat16"
        )
    stored = list_tensors(directory, model_class.__name__)
    content = family.adjust(content, stored)
    config = config_from_hf(content, family, directory / CONFIG, changes or {})
    _check_layers(stored, family, config, directory)
    with torch.device("meta"):  # shapes without memory
        model = model_class(config, attention=attention)
    if _has_no_pooler(stored, model, content):
        model.pooler = None  # type: ignore[assignment]
    same_classes = stored_num_labels(content, family, directory / CONFIG) == getattr(
        config, "num_labels", None
    )
    keep_head = _has_the_head_of(model, same_classes, content, family)
    try:
        found = translate(stored, family, model, keep_head=keep_head)
    except CheckpointError as error:
        raise CheckpointError(f"{directory}: {error}") from error
    _check_shapes(stored, found, model, directory, family)
    named = _architecture(content) == model_class.__name__
    if _architecture(content) is None and isinstance(
        model, SequenceClassification | TokenClassification
    ):
        warnings.warn(
            f"{directory / CONFIG} names no architecture: whatever classifier is stored is taken "
            f"for that of a {model_class.__name__}",
            stacklevel=4,
        )
    _report(found, model, directory, must_be_whole=named and keep_head)

    if isinstance(model, GenerativeModel):
        said = read_generation_config(directory, content)
        changed = {name: v for name, v in (changes or {}).items() if name in FIELDS}
        model.generation_config = replace(said, **changed)
        model.said_of_tasks = {name: content[name] for name in OF_TASKS if name in content}
    model = model.to(dtype).to_empty(device=device)
    for part in found.new:
        model.draw(model.get_submodule(part))
    parameters = model.state_dict()
    for name in found.zeros:
        parameters[name].zero_()
    for module in model.modules():
        if isinstance(module, SinusoidalPositions):
            module.fill()
    _copy(stored, found, parameters, directory, family)
    return model.eval()


def _check_layers(
    stored: dict[str, StoredTensor], family: Family, config: Config, directory: Path
) -> None:
    """A config that asks for more layers than there are would take memory for nothing."""
    for stack, field in family.stacks.items():
        layers, wanted = number_of_layers(stored, family, stack), getattr(config, field)
        if layers != wanted:
            raise CheckpointError(
                f"{directory}: the config asks for {field}={wanted}, "
                f"but the tensors are those of {layers} layers"
            )


def _read_config(directory: Path) -> dict[str, Any]:
    return read_json(checkpoint_file(directory, CONFIG))


def _architecture(content: dict[str, Any]) -> str | None:
    """The class that config.json names, if it names one."""
    architectures = content.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else None


def _has_no_pooler(stored: dict[str, StoredTensor], model: Model, content: dict[str, Any]) -> bool:
    """Whether a backbone was saved without the pooler that it has by default."""
    whole = model.backbone_name is None and _architecture(content) == type(model).__name__
    return whole and not any("pooler." in name for name in stored)


def _has_the_head_of(
    model: Model, same_classes: bool, content: dict[str, Any], family: Family
) -> bool:
    """Whether the head that is stored does what the model's does.

    The heads of classifiers, of sequences, tokens or choices, go by the same names, and their shape
    is that of the classes, so the names of tensors alone do not tell.
    """
    if not isinstance(model, SequenceClassification | TokenClassification):
        return True
    if not same_classes:
        return False
    named = _architecture(content)
    heads = {known.__name__: head.keys() for known, head in family.models.items()}
    own = type(model).__name__
    if named in (None, own):
        return True
    return named in heads and not heads[named] & heads[own]


def _check_shapes(
    stored: dict[str, StoredTensor],
    found: Translation,
    model: Model,
    directory: Path,
    family: Family,
) -> None:
    wanted = model.state_dict()
    for name, target in found.targets.items():
        shape = tuple(wanted[target].shape)
        if is_transposed(name, family):
            shape = shape[::-1]
        if stored[name].shape != shape:
            raise CheckpointError(
                f"{directory}: {name} has shape {stored[name].shape}, the config asks for {shape}"
            )
        if stored[name].dtype not in _FLOATING:
            raise CheckpointError(
                f"{directory}: {name} has dtype {stored[name].dtype}; one of {_FLOATING} is needed"
            )


def _report(found: Translation, model: Model, directory: Path, *, must_be_whole: bool) -> None:
    """Say what is drawn anew or left out; a model that is named by its checkpoint must be whole."""
    if found.new and must_be_whole:
        raise CheckpointError(f"{directory}: nothing is stored of {', '.join(found.new)}")
    if found.new:
        warnings.warn(
            f"{directory} has no fitting {', '.join(found.new)}: drawn anew, to be trained",
            stacklevel=5,
        )
    if found.unused:
        warnings.warn(
            f"{directory}: a {type(model).__name__} has no use for {', '.join(found.unused)}",
            stacklevel=5,
        )


def _copy(
    stored: dict[str, StoredTensor],
    found: Translation,
    parameters: dict[str, Tensor],
    directory: Path,
    family: Family,
) -> None:
    """Read every tensor into its place; one that comes under two names must be the same twice."""
    filled: set[str] = set()
    for tensor, values in read_tensors([stored[name] for name in found.targets]):
        target = found.targets[tensor.name]
        values = values.T if is_transposed(tensor.name, family) else values
        values = values.to(parameters[target])  # its dtype and device
        if target in filled and not torch.equal(values, parameters[target]):
            raise CheckpointError(
                f"{directory}: {tensor.name} differs from the tensor that it is tied to; "
                "untied weights are not supported"
            )
        parameters[target].copy_(values)
        filled.add(target)

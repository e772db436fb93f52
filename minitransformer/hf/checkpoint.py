"""Loading and saving checkpoints: config.json and safetensors to a model and back.

A checkpoint is a directory with config.json, model.safetensors (or shards and their index) and, for
a language model, generation_config.json. Names, shapes and dtypes are first read from the headers
of the safetensors files; no tensor is read and no memory allocated before they match the config.
Every tensor must have a target, or a reason to be left out.

A tensor that is stored as the model needs it is not copied: the parameter lies in the file, which
is mapped into memory, privately. A page of it is read when it is first used, and copied when it is
first written to, so training changes nothing on the disk.
"""

import json
import math
import mmap
import shlex
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minitransformer.elsewhere import LOADING, without
from minitransformer.files import (
    CheckpointError,
    atomic_directory,
    checkpoint_file,
    read_json,
    write_json,
)
from minitransformer.generation_config import (
    FIELDS,
    TASK_FIELDS,
    read_generation_config,
    write_generation_config,
)
from minitransformer.generation_config import FILE as GENERATION
from minitransformer.hf.config import (
    architecture,
    changed_function,
    config_from_fields,
    config_to_hf,
    family_of,
    family_of_model,
    fields_to_hf,
    reference_class,
    reference_config,
    stated_fields,
)
from minitransformer.hf.family import Family
from minitransformer.hf.weight_names import (
    NEEDS_A_HEAD,
    Translation,
    is_transposed,
    layer_numbers,
    stored_copies,
    stored_names,
    translate,
)
from minitransformer.hub import resolve_checkpoint
from minitransformer.layers.positional_embeddings import SinusoidalPositions
from minitransformer.models.base import LanguageModel, Model, SequenceClassifier, TaskModel
from minitransformer.models.bert import BertForTokenClassification
from minitransformer.models.config import (
    ClassifierConfig,
    Config,
    named_classes,
    unnamed_classes,
)
from minitransformer.names import cut, listed, shortened, unexpected_name

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PATTERNS = (CONFIG, GENERATION, "*.safetensors", "*.safetensors.index.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Of the accepted dtypes, safetensors' names and PyTorch's.
_FLOATING = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

SomeModel = TypeVar("SomeModel", bound=Model)
SomeConfig = TypeVar("SomeConfig", bound=Config)


class Options(NamedTuple):
    """How a checkpoint is to be loaded; see :meth:`Model.from_pretrained`."""

    attention: str
    dtype: torch.dtype | str
    device: str | torch.device
    revision: str | None
    config_class: type[Config] | None  # of a whole config that was given
    changes: dict[str, Any]


def options_of(
    attention: str, dtype: torch.dtype | str, device: str | torch.device, given: Mapping[str, Any]
) -> Options:
    """The arguments of a `from_pretrained`, where those of Hugging Face's may be among the changes.

    Raises:
        TypeError: one of them asks for what is not done here; the message says what to type.
    """
    changes = dict(given)
    dtype = changes.pop("torch_dtype", None) or dtype
    attention = changes.pop("attn_implementation", None) or attention
    revision = changes.pop("revision", None)
    place: Any = changes.get("device_map")
    place = place.get("") if isinstance(place, dict) and len(place) == 1 else place
    if isinstance(place, int | torch.device) or str(place).startswith(("cpu", "cuda", "mps")):
        device = f"cuda:{place}" if isinstance(place, int) else place
        del changes["device_map"]
    config = changes.pop("config", None)
    if isinstance(config, Config):
        changes = {**vars(config), **changes}
    config_class = None if config is None else type(config)
    return Options(attention, dtype, device, revision, config_class, without(changes, LOADING))


def from_pretrained(
    path: str | Path,
    *,
    attention: str = "sdpa",
    dtype: torch.dtype | str = torch.float32,
    device: str | torch.device = "cpu",
    **changes: object,
) -> Model:
    """Load a checkpoint as the class that its config.json names in `architectures`.

    Args:
        path: a directory with config.json and safetensors, or a name on the hub; without a network
            connection, the hub's cache on this machine is used.
        attention: the implementation, "sdpa" (PyTorch's) or "eager" (the formula).
        dtype: of the model, whatever the dtype in the file; "auto" is that of the file.
        device: to load onto.
        changes: fields of the config that get other values; see :meth:`Model.from_pretrained`.

    Returns:
        The model in evaluation mode. On the CPU and in the dtype of the file, its parameters lie in
        the file, mapped into memory: they are read when they are first used. Training them does not
        change the file, and saving to the same directory, or deleting it, does not change them. A
        program that writes into the file in place, instead of replacing it, does: it changes
        weights, or ends the process if it makes the file shorter. `copy.deepcopy(model)` does not
        depend on the file.

    Raises:
        CheckpointError: there is no checkpoint, or it is unsafe, damaged, or of a class that is
            not supported. A file cannot cause a large allocation: memory is allocated only after
            its header was found to match the config.
        TypeError, ValueError: a field of `changes` is unknown, or its value is invalid.
    """
    options = options_of(attention, dtype, device, changes)
    directory = resolve_checkpoint(path, _PATTERNS, options.revision)
    content = _read_config(directory)
    family = family_of(content, directory / CONFIG)
    models = {model.__name__: model for model in family.models}
    name = architecture(content)
    if name is None:
        raise CheckpointError(
            f"{directory / CONFIG} names no architecture; load it by its class: "
            + " or ".join(f"{model}.from_pretrained(...)" for model in models)
        )
    if name not in models:
        raise CheckpointError(
            f"{directory / CONFIG}: {unexpected_name('architecture', name, models)}; to load it as "
            "one of these classes, call that class's from_pretrained"
        )
    return _load(models[name], path, directory, content, family, options)


def model_class_for(
    path: str | Path, task: type[SomeModel], revision: str | None = None
) -> type[SomeModel]:
    """The class for a task in a checkpoint's family, whatever class its config.json names.

    Args:
        path: a directory, or a name on the hub.
        task: the base class of the models for the task, such as `BertForQuestionAnswering` (from
            which RoBERTa's and DistilBERT's are derived), `SequenceClassifier` or `Seq2SeqLM`.
        revision: the branch, tag or commit of the repository on the hub.

    Raises:
        CheckpointError: there is no checkpoint, or its family has no such class.
    """
    directory = resolve_checkpoint(path, _PATTERNS, revision)
    family = family_of(_read_config(directory), directory / CONFIG)
    model_class = class_for(family, task)
    if model_class is None:
        raise CheckpointError(
            f"{directory / CONFIG}: the family {family.model_type!r} has no class for "
            f"{task.__name__}; its classes are "
            + listed((known.__name__ for known in family.models), 600)
        )
    return model_class


def class_for(family: Family, task: type[SomeModel]) -> type[SomeModel] | None:
    """The class for a task in a family; None if there is none."""
    return next((known for known in family.models if issubclass(known, task)), None)


def load_config(
    config_class: type[SomeConfig],
    path: str | Path,
    *,
    revision: str | None,
    changes: Mapping[str, Any],
) -> SomeConfig:
    """The config of a checkpoint; see :meth:`Config.from_pretrained`.

    Args:
        config_class: a base of the config; `Config` itself takes every family's.
        path, revision, changes: as there.
    """
    directory = resolve_checkpoint(path, (CONFIG,), revision)
    content = _read_config(directory)
    family = family_of(content, directory / CONFIG)
    expected = reference_config(config_class)
    if expected not in (None, family.config_class):
        raise CheckpointError(
            f"{directory / CONFIG} is of the family {family.model_type!r}, whose config is a "
            f"{family.config_class.__name__}; call its from_pretrained, or AutoConfig's"
        )
    has_weights = (directory / WEIGHTS).exists() or (directory / INDEX).exists()
    stored = list_tensors(directory, family.model_type) if has_weights else {}
    stated = stated_fields(family.adjust(content, stored), family, directory / CONFIG)
    changes = _named(without(changes, LOADING), stated)
    config = config_from_fields(stated, family, directory / CONFIG, changes)
    assert isinstance(config, config_class)
    return config


def save_config(config: Config, path: str | Path) -> None:
    """Write config.json into the directory `path`, atomically.

    Raises:
        NotADirectoryError: `path` is a file.
    """
    with atomic_directory(path) as directory:
        write_json(directory / CONFIG, fields_to_hf(config))


def load_model(
    model_class: type[SomeModel],
    path: str | Path,
    options: Options,
) -> SomeModel:
    """Load a checkpoint as `model_class`; see :meth:`Model.from_pretrained`.

    Raises:
        TypeError: neither the class nor one of its base classes is that of a checkpoint.
        CheckpointError: the checkpoint is missing, unsafe, damaged, or of another family.
    """
    known_class = reference_class(model_class)
    directory = resolve_checkpoint(path, _PATTERNS, options.revision)
    content = _read_config(directory)
    family = family_of(content, directory / CONFIG, known_class)
    if known_class not in family.models:
        raise CheckpointError(
            f"{directory / CONFIG} is of the family {family.model_type!r}, but a "
            f"{known_class.__name__} needs {family_of_model(known_class).model_type!r}; load it "
            f"as {listed((known.__name__ for known in family.models), 600)}, or by an Auto class"
        )
    return _load(model_class, path, directory, content, family, options)


def save_pretrained(model: Model, path: str | Path) -> None:
    """Write the model so that Hugging Face loads it without a warning.

    See :meth:`Model.save_pretrained`. Tied weights are written once, under Hugging Face's name;
    where `tie_word_embeddings=False`, also under the names that transformers 5 expects then.

    Raises:
        NotADirectoryError: `path` is a file.
        TypeError: Hugging Face has no such class, or its class lacks some of the model's tensors.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install safetensors") from error

    family = family_of_model(model)
    names, state = stored_names(family, model), model.state_dict()
    tensors = {}
    for name, values in state.items():
        stored = names[name]
        tensors[stored] = (values.T if is_transposed(stored, family) else values).contiguous()
    for stored, name in stored_copies(family, model).items():
        tensors[stored] = state[name].clone()  # safetensors refuses two names of one tensor
    with atomic_directory(path, last=CONFIG) as directory:
        task_fields = model.task_specific_params if isinstance(model, LanguageModel) else {}
        write_json(directory / CONFIG, {**config_to_hf(model), **task_fields})
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
        if isinstance(model, LanguageModel):
            write_generation_config(model.generation_config, directory)


# --- Loading


def _load(
    model_class: type[SomeModel],
    path: str | Path,
    directory: Path,
    content: dict[str, Any],
    family: Family,
    options: Options,
) -> SomeModel:
    """Compare the headers with the config, and only then allocate memory and read the tensors."""
    known_name = reference_class(model_class).__name__
    if options.config_class not in (None, family.config_class):
        raise TypeError(
            f"config is a {options.config_class.__name__}; a {known_name} needs a "
            f"{family.config_class.__name__}"
        )
    stored = list_tensors(directory, known_name)
    dtype = _dtype(options.dtype, stored)
    if dtype == torch.float16 and model_class.overflows_in_float16:
        raise ValueError(
            f"dtype=torch.float16: a {known_name} overflows in it; use dtype=torch.bfloat16"
        )
    content = family.adjust(content, stored)
    keep_head = _has_the_head_of(model_class, content, family)
    classes = _stored_classes(stored, model_class, family) if keep_head else None
    stated = stated_fields(content, family, directory / CONFIG)
    if classes is not None and "id2label" not in stated:
        stated["id2label"] = unnamed_classes(classes)
    changes = _named(options.changes, stated)
    config = config_from_fields(stated, family, directory / CONFIG, changes)
    stored = _stored_layers(stored, family, config, directory, changes)
    with torch.device("meta"), _Uninitialized():  # shapes without memory
        model = model_class(config, attention=options.attention)
    if _has_no_pooler(stored, model, content):
        model.register_module("pooler", None)
    if classes is not None and "id2label" in changes:
        keep_head = len(changes["id2label"]) == classes
    try:
        found = translate(stored, family, model, keep_head=keep_head)
    except CheckpointError as error:
        raise CheckpointError(f"{directory}: {error}") from error
    _check_shapes(stored, found, model, directory, family)
    named = architecture(content)
    if named is None and classes is not None:
        warnings.warn(
            f"{directory / CONFIG} names no architecture: the stored classifier is assumed to be "
            f"that of a {known_name}",
            stacklevel=4,
        )
    _report(found, model, directory, must_be_complete=named == known_name and keep_head)
    if changed := changed_function(stated, changes, model):
        warnings.warn(
            f"{directory}: with {', '.join(changed)}, the stored weights compute another function; "
            "train the model, or leave the field as it is in the checkpoint",
            stacklevel=4,
        )

    if isinstance(model, LanguageModel):
        generation_config = read_generation_config(directory, content)
        tokens = {name: v for name, v in changes.items() if name in FIELDS}
        model.generation_config = replace(generation_config, **tokens)
        model.task_specific_params = {n: content[n] for n in TASK_FIELDS if n in content}
    model.name_or_path = str(path)
    loaded = _read(stored, found, directory, family, dtype, torch.device(options.device))
    for name, values in loaded.items():
        _set(model, name, values)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:  # the file does not hold it: a new part, or an optional bias
            own_dtype = dtype if tensor.is_floating_point() else tensor.dtype
            _set(model, name, torch.zeros_like(tensor, dtype=own_dtype, device=options.device))
    for part in found.new:
        model.init_weights(model.get_submodule(part))
    for module in model.modules():
        if isinstance(module, SinusoidalPositions):
            module.fill()
    return model.eval()


def _set(model: Model, name: str, values: Tensor) -> None:
    """Make `values` the parameter or buffer of this name."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    is_parameter = isinstance(getattr(module, attribute), nn.Parameter)
    setattr(module, attribute, nn.Parameter(values) if is_parameter else values)


class _Uninitialized(TorchFunctionMode):
    """Leaves new tensors as they are: their values are read from the file, or drawn afterwards.

    On the device "meta" there is nothing to draw either, but drawing imports `torch._dynamo`, which
    takes seconds.
    """

    def __torch_function__(
        self, function: Any, _types: Any, args: Any = (), named: Any = None
    ) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else named["tensor"]
        return function(*args, **(named or {}))


def _dtype(dtype: torch.dtype | str, stored: "dict[str, StoredTensor]") -> torch.dtype:
    """The dtype to load in, given by its name or as "auto", that of the first stored tensor."""
    if dtype == "auto":
        dtype = next((_FLOATING[t.dtype] for t in stored.values() if t.dtype in _FLOATING), dtype)
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(
            f"dtype={shortened(dtype)} must be torch.float32, torch.bfloat16, another dtype of "
            "floats or its name, or 'auto', that of the file"
        )
    return found


def _named(changes: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of a config's fields, with `id2label` in place of `num_labels`."""
    return named_classes(changes, stated.get("id2label"))


def _stored_layers(
    stored: "dict[str, StoredTensor]",
    family: Family,
    config: Config,
    directory: Path,
    changes: Mapping[str, Any],
) -> "dict[str, StoredTensor]":
    """The tensors without those of layers that the caller leaves out.

    The numbers of layers are checked before a model of the config's size is built.

    Raises:
        CheckpointError: the config has more layers than are stored, or config.json has fewer.
    """
    for stack, field in family.stacks.items():
        numbers = layer_numbers(stored, family, config, stack)
        layers, expected = len(set(numbers.values())), getattr(config, field)
        if expected < layers and field in changes:
            warnings.warn(
                f"{directory}: {field}={expected} takes the first {expected} of {layers} layers",
                stacklevel=5,
            )
            stored = {n: t for n, t in stored.items() if numbers.get(n, -1) < expected}
        elif expected != layers:
            name = field if field in changes else family.config_names.get(field, field)
            raise CheckpointError(
                f"{directory}: {name}={expected}, but the checkpoint has the tensors of {layers} "
                f"layers; set it to {layers}, or save the whole checkpoint again"
            )
    return stored


def _read_config(directory: Path) -> dict[str, Any]:
    return read_json(checkpoint_file(directory, CONFIG))


def _has_no_pooler(
    stored: "dict[str, StoredTensor]", model: Model, content: dict[str, Any]
) -> bool:
    """Whether a backbone was saved without its pooler, which is optional."""
    if isinstance(model, TaskModel) or getattr(model, "pooler", None) is None:
        return False
    named = architecture(content) == reference_class(model).__name__
    return named and not any("pooler." in name for name in stored)


def _is_classifier(model_class: type[Model]) -> bool:
    return issubclass(model_class, SequenceClassifier | BertForTokenClassification)


def _has_the_head_of(model_class: type[Model], content: dict[str, Any], family: Family) -> bool:
    """Whether a stored head is for the same task as the model's.

    The heads for classifying sequences, tokens or choices have the same names, and their shapes
    depend only on the number of classes, so their tensors alone cannot tell.
    """
    if not _is_classifier(model_class):
        return True
    named, own = architecture(content), reference_class(model_class).__name__
    heads = {known.__name__: head.keys() for known, head in family.models.items()}
    return named in (None, own) or (named in heads and not heads[named] & heads[own])


def _stored_classes(
    stored: "dict[str, StoredTensor]", model_class: type[Model], family: Family
) -> int | None:
    """How many classes the stored head of a classifier has; None if there is no such head."""
    if not _is_classifier(model_class):
        return None
    output = stored.get(list(family.models[reference_class(model_class)])[-1])
    return output.shape[0] if output is not None and output.shape else None  # a row for each class


def _check_shapes(
    stored: "dict[str, StoredTensor]",
    found: Translation,
    model: Model,
    directory: Path,
    family: Family,
) -> None:
    expected = model.state_dict()
    for name, target in found.targets.items():
        shape = tuple(expected[target].shape)
        if is_transposed(name, family):
            shape = shape[::-1]
        if stored[name].shape != shape:
            sizes = set(shape) - set(stored[name].shape)
            fields = [f"{f}={v}" for f, v in _sizes(model.config, family).items() if v in sizes]
            raise CheckpointError(
                f"{directory}: {cut(name)} has shape {stored[name].shape}, "
                f"but the config needs {shape}"
                + f", by {' or '.join(fields)}; set it to the stored size"
                * bool(fields)
            )
        if stored[name].dtype not in _FLOATING:
            raise CheckpointError(
                f"{directory}: {cut(name)} has dtype {stored[name].dtype}; "
                f"it must be one of {listed(_FLOATING)}"
            )


def _sizes(config: Config, family: Family) -> dict[str, int]:
    """The sizes that a config states, by the names of config.json."""
    sizes = {family.config_names.get(name, name): value for name, value in vars(config).items()}
    if isinstance(config, ClassifierConfig):
        sizes["num_labels"] = config.num_labels
    return {name: value for name, value in sizes.items() if type(value) is int}


def _report(found: Translation, model: Model, directory: Path, *, must_be_complete: bool) -> None:
    """Warn of newly initialized parts and unused tensors.

    Raises:
        CheckpointError: a part is missing, though config.json names this very class.
    """
    if found.new and must_be_complete:
        is_untied = "lm_head" in found.new and not model.config.tie_word_embeddings
        raise CheckpointError(
            f"{directory}: there are no weights for {', '.join(found.new)}"
            + NEEDS_A_HEAD * is_untied
        )
    if found.new:
        warnings.warn(
            f"{directory} has no matching {', '.join(found.new)}: newly initialized, to be trained",
            stacklevel=5,
        )
    if found.unused:
        warnings.warn(
            f"{directory}: a {reference_class(model).__name__} has no use for "
            f"{listed(found.unused, 600)}",
            stacklevel=5,
        )


def _read(
    stored: "dict[str, StoredTensor]",
    found: Translation,
    directory: Path,
    family: Family,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Tensor]:
    """The values of every target; copies of a tied tensor must be equal."""
    loaded: dict[str, Tensor] = {}
    for tensor, mapped in map_files([stored[name] for name in found.targets]):
        target = found.targets[tensor.name]
        values = read(tensor, mapped, dtype, device, transpose=is_transposed(tensor.name, family))
        if target in loaded and not torch.equal(values, loaded[target]):
            copies = {name for name, known in found.targets.items() if known == target}
            fix = "encoder and decoder have one token embedding here, so only one can be stored"
            if copies & family.tied.keys():
                fix = (
                    "if the LM head has its own weights, pass tie_word_embeddings=False to "
                    "from_pretrained of the model's class; if not, store the tensor once"
                )
            raise CheckpointError(
                f"{directory}: {cut(tensor.name)} differs from the tensor that it is tied to; {fix}"
            )
        loaded.setdefault(target, values)
    return loaded


# --- Reading tensors


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Name, file, shape and dtype of a tensor that has not been read yet, and where it begins."""

    name: str
    path: Path
    shape: tuple[int, ...]
    dtype: str  # safetensors' name, such as "F32"
    offset: int  # bytes from the beginning of the file


def list_tensors(directory: Path, architecture: str) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint by their stored names.

    Args:
        directory: of the checkpoint.
        architecture: the class to be loaded, for the advice on converting a pickle.

    Raises:
        CheckpointError: there are no weights, or only pickled ones; a shard is outside the
            directory; a header is invalid; the index and the shards disagree.
    """
    if (directory / WEIGHTS).exists():
        return {t.name: t for t in _read_header(checkpoint_file(directory, WEIGHTS))}
    if (directory / INDEX).exists():
        return _list_shards(directory)
    pickles = [path.name for pattern in _PICKLES for path in sorted(directory.glob(pattern))]
    if not pickles:
        raise CheckpointError(
            f"{directory} has no {WEIGHTS} and no {INDEX}; add the weights. Pickled ones are not "
            "downloaded from the hub; if you trust them, load and save the checkpoint with "
            f"transformers.{architecture}"
        )
    program = (
        f"import transformers; transformers.{architecture}.from_pretrained({str(directory)!r})"
        f".save_pretrained({str(directory)!r})"
    )
    raise CheckpointError(
        f"{directory} has no {WEIGHTS} and no {INDEX}, only {listed(pickles)}. Pickled weights "
        "are refused, because reading them can run code; if you trust them, convert them: "
        f"python -c {shlex.quote(program)}"
    )


def _list_shards(directory: Path) -> dict[str, StoredTensor]:
    index = checkpoint_file(directory, INDEX)
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(s, str) for s in shard_of.values()):
        raise CheckpointError(f"{index}: weight_map must map tensor names to file names")
    for shard in sorted(set(shard_of.values())):
        if not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names {shortened(shard)}, which is not a .safetensors file"
            )
    paths = {shard: checkpoint_file(directory, shard) for shard in sorted(set(shard_of.values()))}
    tensors = {}
    for shard, path in paths.items():
        for tensor in _read_header(path):
            right = shard_of.get(tensor.name)
            if right != shard:
                where = "does not list" if right is None else f"says is in {right}"
                raise CheckpointError(
                    f"{path} has {shortened(tensor.name)}, which {index} {where}; they are not "
                    "from the same save: download or save the whole checkpoint again"
                )
            tensors[tensor.name] = tensor
    absent = sorted(set(shard_of) - set(tensors))
    if absent:
        raise CheckpointError(f"{index} lists tensors that no shard has: {listed(absent)}")
    return tensors


def _read_header(path: Path) -> list[StoredTensor]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install safetensors") from error
    try:
        with safe_open(path, framework="pt"), open(path, "rb") as file:  # checks the header
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file: {error}") from error
    header.pop("__metadata__", None)
    return [
        StoredTensor(
            name=name,
            path=path,
            shape=tuple(stored["shape"]),
            dtype=stored["dtype"],
            offset=8 + size + stored["data_offsets"][0],
        )
        for name, stored in header.items()
    ]


def map_files(tensors: list[StoredTensor]) -> Iterator[tuple[StoredTensor, mmap.mmap]]:
    """Yield each tensor, in the order of the files, with its file.

    A file is mapped as long as a tensor lies in it: privately, so that writing to such a tensor
    copies the page that is written to and leaves the file as it is.
    """
    for path in sorted({tensor.path for tensor in tensors}):
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
            if tensor.path == path:
                yield tensor, mapped


def read(
    tensor: StoredTensor,
    mapped: mmap.mmap,
    dtype: torch.dtype,
    device: torch.device,
    *,
    transpose: bool,
) -> Tensor:
    """A tensor as the model needs it: in its mapped file if nothing is to be changed, else a copy.

    Args:
        tensor, mapped: the tensor and its file.
        dtype, device: of the result.
        transpose: whether to transpose a matrix.
    """
    stored_dtype = getattr(torch, _FLOATING[tensor.dtype])
    count = math.prod(tensor.shape)
    values = torch.frombuffer(mapped, dtype=stored_dtype, count=count, offset=tensor.offset)
    values = values.view(tensor.shape)
    aligned = tensor.offset % stored_dtype.itemsize == 0  # in the first safetensors files, not all
    if stored_dtype == dtype and device.type == "cpu" and aligned and not transpose:
        return values
    copy = torch.empty(values.T.shape if transpose else values.shape, dtype=dtype, device=device)
    copy.copy_(values.T if transpose else values)
    if hasattr(mmap, "MADV_DONTNEED"):  # or the pages of the file would count beside the copy
        begin = tensor.offset - tensor.offset % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, begin, tensor.offset + values.nbytes - begin)
    return copy

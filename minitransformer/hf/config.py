"""config.json to config and back, and the family and class of a checkpoint or a model."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from minitransformer.files import CheckpointError
from minitransformer.generation_config import IN_MODEL_CONFIG
from minitransformer.hf.bart import BART
from minitransformer.hf.bert import BERT
from minitransformer.hf.distilbert import DISTILBERT
from minitransformer.hf.family import Family
from minitransformer.hf.gpt2 import GPT2
from minitransformer.hf.marian import MARIAN
from minitransformer.hf.roberta import ROBERTA
from minitransformer.hf.t5 import T5
from minitransformer.models.base import Model
from minitransformer.models.config import Config
from minitransformer.names import nearest, unexpected_name

FAMILIES = {
    family.model_type: family for family in (BERT, ROBERTA, DISTILBERT, GPT2, BART, MARIAN, T5)
}
_FAMILY_OF_CLASS = {model: family for family in FAMILIES.values() for model in family.models}

# Fields that would change the result, with the only value that is supported.
ONLY_VALUES: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "tie_weights_": True,
    "pruned_heads": {},
}

# The fields of config.json that define the classes.
LABELS = {"id2label", "label2id", "num_labels", "_num_labels"}
_MAX_LABELS = 1_000_000
_NUMBER = "0|[1-9][0-9]{0,5}"

# Fields that do not change the result of these models.
WITHOUT_EFFECT = {
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cls_token_id",
    "directionality",
    "dtype",
    "eos_token_id",
    "eos_token_ids",
    "finetuning_task",
    "gradient_checkpointing",
    "language",
    "mask_token_id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "name",
    "output_past",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "prefix",  # used by minitransformer/tasks
    "return_dict",
    "sep_token_id",
    "sinusoidal_pos_embds",  # how the table was initialized
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
}


def family_of(content: dict[str, Any], path: Path) -> Family:
    """The family that config.json names.

    Raises:
        CheckpointError: it names none, or one that is not supported.
    """
    model_type = content.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(f"{path}: {unexpected_name('model_type', str(model_type), FAMILIES)}")
    return FAMILIES[model_type]


def reference_class(model: Model | type[Model]) -> type[Model]:
    """The class under which a model is stored: the first of its MRO in a family's table.

    For a plain model this is its own class. For an optimized one, one changed by `fully_shard`, or
    an instance of a user's subclass, it is the plain class from which its class is derived.

    Raises:
        TypeError: no class of the MRO is in a table.
    """
    model_class = model if isinstance(model, type) else type(model)
    for base in model_class.__mro__:
        if base in _FAMILY_OF_CLASS:
            return base
    known = ", ".join(known.__name__ for known in _FAMILY_OF_CLASS)
    raise TypeError(
        f"{model_class.__name__} cannot be stored in Hugging Face's format; these classes and "
        f"their subclasses can: {known}"
    )


def class_name(model: object) -> str:
    """The name of a model's class; for an optimized model, that of the plain class."""
    for base in type(model).__mro__:
        if base in _FAMILY_OF_CLASS:
            return base.__name__
    return type(model).__name__


def family_of_model(model: Model | type[Model]) -> Family:
    """The family that a model, or its class, belongs to.

    Raises:
        TypeError: it belongs to none; see :func:`reference_class`.
    """
    return _FAMILY_OF_CLASS[reference_class(model)]


def config_from_hf(
    content: dict[str, Any], family: Family, path: Path, changes: Mapping[str, Any]
) -> Config:
    """Make a config from the content of a config.json.

    Args:
        content, family, path: of the file.
        changes: fields and values that override the file's.

    Raises:
        CheckpointError: a field is misspelled, or its value is invalid or not supported.
        TypeError, ValueError: a change is not a field, or its value is invalid.
    """
    ours = {theirs: name for name, theirs in family.config_names.items()}
    known = {field.name for field in fields(family.config_class)}
    only_values = {**ONLY_VALUES, **family.only_values}
    labels = _labels(content, path) if "id2label" in known else {}  # unused by Marian
    values = {**family.hf_defaults, **labels}
    for name, value in content.items():
        if name in LABELS:
            continue
        if name in ours or (name in known and name not in family.config_names):
            values[ours.get(name, name)] = value
        elif name in only_values:
            if value != only_values[name]:
                raise CheckpointError(
                    f"{path}: {name}={value!r} is not supported, only {only_values[name]!r} is"
                )
        elif name not in WITHOUT_EFFECT | family.without_effect | IN_MODEL_CONFIG:
            right = family.config_names.get(name) or nearest(name, [*known, *ours], cutoff=0.8)
            if right is not None and right not in content:
                raise CheckpointError(f"{path}: unknown field {name!r}: did you mean {right!r}?")
            warnings.warn(f"{path}: the field {name!r} is unknown and ignored", stacklevel=4)
    try:
        config = family.config_class(**{n: v for n, v in values.items() if n not in changes})
    except ValueError as error:
        hint = "; or pass id2label={0: ..., 1: ...} to from_pretrained" * ("id2label" in str(error))
        raise CheckpointError(f"{path}: {error}{hint}") from error
    return replace(config, **changes)


def stored_num_labels(content: dict[str, Any], family: Family, path: Path) -> int:
    """How many classes a stored head has; the default number if config.json does not say."""
    default: Any = family.config_class
    names = _labels(content, path).get("id2label")
    return getattr(default(), "num_labels", 0) if names is None else len(names)


def config_to_hf(model: Model) -> dict[str, Any]:
    """The content of config.json from which Hugging Face makes the same config."""
    family = family_of_model(model)
    values = asdict(model.config)
    if "id2label" in values:
        values["label2id"] = {label: number for number, label in values["id2label"].items()}
    return {
        **{name: v for name, v in family.only_values.items() if name == "is_encoder_decoder"},
        "architectures": [reference_class(model).__name__],
        "model_type": family.model_type,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        **{family.config_names.get(name, name): value for name, value in values.items()},
    }


def _labels(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """`id2label` with integer keys, which JSON stores as strings; {} if no field defines them.

    Old checkpoints store only the number of classes.
    """
    names = content.get("id2label")
    inverse = content.get("label2id")
    if names is None and isinstance(inverse, dict):
        names = {str(number): name for name, number in inverse.items()}
    if names is None:
        count = content.get("num_labels", content.get("_num_labels"))
        if count is None:
            return {}
        if type(count) is not int or not 0 < count <= _MAX_LABELS:
            raise CheckpointError(f"{path}: num_labels={count!r} must be from 1 to {_MAX_LABELS}")
        return {"id2label": {number: f"LABEL_{number}" for number in range(count)}}
    if not isinstance(names, dict) or not all(re.fullmatch(_NUMBER, key) for key in names):
        raise CheckpointError(f"{path}: id2label={names!r:.200} must map class numbers to names")
    return {"id2label": dict(sorted((int(key), name) for key, name in names.items()))}

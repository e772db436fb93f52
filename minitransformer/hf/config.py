"""config.json to config and back, and the family and class of a checkpoint or a model."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from minitransformer.files import CheckpointError
from minitransformer.generation_config import IN_MODEL_CONFIG
from minitransformer.hf.bart import BART
from minitransformer.hf.bert import BERT
from minitransformer.hf.distilbert import DISTILBERT
from minitransformer.hf.family import Family
from minitransformer.hf.gpt2 import GPT2
from minitransformer.hf.marian import MARIAN, MARIAN_POSITIONS
from minitransformer.hf.roberta import ROBERTA
from minitransformer.hf.t5 import T5
from minitransformer.models.bart import BartForSequenceClassification
from minitransformer.models.base import Model, Seq2SeqLM
from minitransformer.models.config import MAX_LABELS, NUMBER, Config, unnamed_classes
from minitransformer.models.roberta import RobertaConfig
from minitransformer.names import listed, nearest, shortened, unexpected_name

FAMILIES = {
    family.model_type: family for family in (BERT, ROBERTA, DISTILBERT, GPT2, BART, MARIAN, T5)
}
_FAMILY_OF_CLASS = {model: family for family in FAMILIES.values() for model in family.models}
_FAMILY_OF_NAME = {model.__name__: family for model, family in _FAMILY_OF_CLASS.items()}

# Fields that would change the result, with the only value that is supported.
ONLY_VALUES: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "tie_weights_": True,
    "pruned_heads": {},
    "quantization_config": None,
    "per_layer_config": None,
}

# The fields of config.json that define the classes.
LABELS = {"id2label", "label2id", "num_labels"}

# Names that transformers accepts in every family, whatever the name in its own files is.
_STANDARD_NAMES = {
    "hidden_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
}

# Fields that do not change the result of these models.
WITHOUT_EFFECT = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "_num_labels",  # written beside id2label, never read
    "architectures",
    "attn_implementation",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cls_token_id",
    "cross_attention_hidden_size",  # of an encoder and a decoder from two checkpoints
    "directionality",
    "dtype",
    "eos_token_id",
    "eos_token_ids",
    "finetuning_task",
    "gradient_checkpointing",
    "keys_to_ignore_at_inference",
    "language",
    "mask_token_id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "name",
    "name_or_path",
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
    "tf_legacy_loss",
    "tie_encoder_decoder",  # a file that lacks one of two tied tensors is refused for that
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
    "xla_device",
}

# Fields without which loaded weights compute the same in evaluation mode: what only training or the
# names of the classes depend on, and sizes, which shapes show. So are dropouts, and most token ids.
_KEEP_THE_FUNCTION = {
    "decoder_intermediate_size",
    "hidden_size",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_decoder_layers",
    "num_hidden_layers",
    "problem_type",
    "relative_attention_num_buckets",
    "tie_word_embeddings",  # the stored head shows it
    "type_vocab_size",
    "vocab_size",
}


def family_of(
    content: dict[str, Any], path: Path, model_class: type[Model] | None = None
) -> Family:
    """The family of a checkpoint.

    Args:
        content, path: of config.json. Before transformers 2.4 it had no `model_type`.
        model_class: that is to be loaded; its family is that of a file which names none.

    Raises:
        CheckpointError: neither is there, or the family is not supported.
    """
    model_type = content.get("model_type")
    if model_type is None:
        family = _FAMILY_OF_NAME.get(architecture(content) or "")
        if family is None and model_class is not None:
            family = family_of_model(model_class)
        if family is None:
            raise CheckpointError(
                f"{path} has no model_type, as in files of transformers before 2.4; load it by its "
                f"class, such as BertModel.from_pretrained(...). The classes are: "
                f"{listed(_FAMILY_OF_NAME, 1000)}"
            )
        return family
    if model_type == "bart" and MARIAN_POSITIONS.items() <= content.items():
        return MARIAN  # the first translators were BARTs with other fields
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(f"{path}: {unexpected_name('model_type', str(model_type), FAMILIES)}")
    return FAMILIES[model_type]


def architecture(content: dict[str, Any]) -> str | None:
    """The class that config.json names, or None."""
    architectures = content.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else None


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


def family_of_config(config_class: type[Config]) -> Family:
    """The family of a config class.

    Raises:
        TypeError: it belongs to none.
    """
    for family in FAMILIES.values():
        if family.config_class is config_class:
            return family
    known = ", ".join(family.config_class.__name__ for family in FAMILIES.values())
    raise TypeError(f"{config_class.__name__} is no config of a family; these are: {known}")


def reference_config(config_class: type[Config]) -> type[Config] | None:
    """The class itself if it is the config of a family, or None if it is a base of several."""
    return config_class if any(f.config_class is config_class for f in FAMILIES.values()) else None


def stated_fields(content: dict[str, Any], family: Family, path: Path) -> dict[str, Any]:
    """The fields of a config.json by our names, and Hugging Face's defaults that are not ours.

    Raises:
        CheckpointError: a field is misspelled, or its value is not supported.
    """
    ours = {theirs: name for name, theirs in family.config_names.items()}
    known = {field.name for field in fields(family.config_class)}
    only_values = {**ONLY_VALUES, **family.only_values}
    labels = _labels(content, path) if "id2label" in known else {}  # unused by Marian
    values = {**family.hf_defaults, **labels}
    for name, value in content.items():
        own_name = family.config_names.get(name)
        if name in LABELS:
            continue
        if name in _STANDARD_NAMES and own_name is not None:
            if own_name not in content:
                values[name] = value
            elif value != content[own_name] and name != "num_hidden_layers":
                # Old versions wrote num_hidden_layers without reading it; the tensors show it.
                raise CheckpointError(
                    f"{path}: {own_name}={shortened(content[own_name])} and {name}="
                    f"{shortened(value)} are two names of one field; remove the wrong one"
                )
        elif name in ours or (name in known and own_name is None):
            if name == "pad_token_id" and value is None:
                continue  # transformers 2.5 wrote null in most families, and used the default
            if name == "eos_token_id" and isinstance(value, list) and value:
                value = value[0]  # generation reads all of them from the file
            values[ours.get(name, name)] = value
        elif name in only_values:
            if value != only_values[name]:
                raise CheckpointError(
                    f"{path}: {name}={shortened(value)} is not supported, only "
                    f"{only_values[name]!r} is"
                )
        elif name not in WITHOUT_EFFECT | family.without_effect | IN_MODEL_CONFIG:
            right = own_name or nearest(name, [*known, *ours], cutoff=0.8)
            if right is not None and right not in content:
                raise CheckpointError(
                    f"{path}: unknown field {shortened(name)}: did you mean {right!r}?"
                )
            warnings.warn(
                f"{path}: the field {shortened(name)} is unknown and ignored", stacklevel=4
            )
    return values


def config_from_fields(
    stated: Mapping[str, Any], family: Family, path: Path, changes: Mapping[str, Any]
) -> Config:
    """The config of a checkpoint.

    A token id that the file leaves out is None where the family's default lies outside the
    vocabulary.

    Args:
        stated: the fields of config.json; see :func:`stated_fields`.
        family, path: of the file.
        changes: fields and values that override the file's.

    Raises:
        CheckpointError: the value of a field in the file is invalid.
        TypeError, ValueError: a change is not a field, or its value is invalid.
    """
    values = {**stated, **changes}
    vocab_size = values.get("vocab_size")
    for name, default in _optional_tokens(family).items():
        if name not in values and isinstance(vocab_size, int) and default >= vocab_size:
            values[name] = None
    try:
        return family.config_class(**values)
    except ValueError as error:
        if any(f"{name}=" in str(error) for name in changes):
            raise
        named = [
            f" ({ours} is called {theirs} there)"
            for ours, theirs in family.config_names.items()
            if str(error).startswith(f"{ours}=")
        ]
        raise CheckpointError(
            f"{path}: {error}{''.join(named)}; correct the file, or pass another value to "
            "from_pretrained of the model's class"
        ) from error


def changed_function(
    stated: Mapping[str, Any], changes: Mapping[str, Any], model: Model
) -> list[str]:
    """The changes, as "field=value instead of value", with which weights compute something else.

    Args:
        stated: the fields of config.json.
        changes: fields and values that override the file's.
        model: the one that gets the weights.
    """
    defaults = {field.name: field.default for field in fields(model.config)}
    before: dict[str, Any] = {**defaults, **stated}
    tokens = {name for name in _input_tokens(model) if before[name] is not None}
    return [
        f"{name}={shortened(value)} instead of {shortened(before[name])}"
        for name, value in changes.items()
        if value != before[name]
        and name not in _KEEP_THE_FUNCTION
        and not name.endswith(("dropout", "dropout_prob"))
        and (name in tokens or not name.endswith("_token_id"))
    ]


def _input_tokens(model: Model) -> set[str]:
    """The fields of token ids on which a model's logits depend."""
    if isinstance(model.config, RobertaConfig):
        return {"pad_token_id"}  # positions begin after it
    if isinstance(model, Seq2SeqLM):  # which makes the decoder's inputs from labels
        return {"decoder_start_token_id", "pad_token_id"}
    if isinstance(model, BartForSequenceClassification):
        return {"decoder_start_token_id", "eos_token_id"}
    return set()


def _optional_tokens(family: Family) -> dict[str, int]:
    """The defaults of the token ids that may also be None."""
    return {
        field.name: field.default
        for field in fields(family.config_class)
        if field.name.endswith("_token_id")
        and "None" in str(field.type)
        and isinstance(field.default, int)
    }


def config_to_hf(model: Model) -> dict[str, Any]:
    """The content of config.json from which Hugging Face makes the same model."""
    return {
        "architectures": [reference_class(model).__name__],
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        **fields_to_hf(model.config),
    }


def fields_to_hf(config: Config) -> dict[str, Any]:
    """The content of config.json from which Hugging Face makes the same config."""
    family = family_of_config(type(config))
    values = asdict(config)
    if "id2label" in values:
        values["label2id"] = {label: number for number, label in values["id2label"].items()}
    return {
        **{name: v for name, v in family.only_values.items() if name == "is_encoder_decoder"},
        "model_type": family.model_type,
        **{family.config_names.get(name, name): value for name, value in values.items()},
    }


def _labels(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """`id2label` with integer keys, which JSON stores as strings; {} if no field defines them.

    Old checkpoints store only the number of classes. Where there are more or fewer names than that,
    they do not count, as in transformers.
    """
    field, names = "id2label", content.get("id2label")
    inverse, count = content.get("label2id"), content.get("num_labels")
    if not isinstance(inverse, dict | None):
        raise CheckpointError(
            f"{path}: label2id={shortened(inverse)} must map names to class numbers"
        )
    if names is None and inverse is not None:
        field, names = "label2id", {str(number): name for name, number in inverse.items()}
    if count is not None and (type(count) is not int or not 0 < count <= MAX_LABELS):
        raise CheckpointError(
            f"{path}: num_labels={shortened(count)} must be an integer from 1 to {MAX_LABELS}"
        )
    if names is None:
        return {} if count is None else {"id2label": unnamed_classes(count)}
    if not isinstance(names, dict) or not all(re.fullmatch(NUMBER, key) for key in names):
        to = "class numbers to names" if field == "id2label" else "names to class numbers"
        raise CheckpointError(f"{path}: {field}={shortened(content[field])} must map {to}")
    if count not in (None, len(names)):
        warnings.warn(
            f"{path}: num_labels={count}, but {field} has {len(names)} names, so the classes are "
            "called LABEL_0, LABEL_1, ...; correct the file, or pass id2label={0: ..., 1: ...}",
            stacklevel=5,
        )
        return {"id2label": unnamed_classes(count)}
    numbered = dict(sorted((int(key), name) for key, name in names.items()))
    for number, name in numbered.items():
        other = (inverse or {}).get(name, number) if isinstance(name, str) else number
        if field == "id2label" and other != number:
            raise CheckpointError(
                f"{path}: {shortened(name)} is class {number} in id2label and "
                f"{shortened(other)} in label2id; correct one of them"
            )
    return {"id2label": numbered}

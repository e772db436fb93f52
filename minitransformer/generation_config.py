"""The generation config: the supported fields of Hugging Face's GenerationConfig.

From top to bottom: the fields and their valid values, resolving the config of one call from the
checkpoint's fields and the caller's, and reading and writing generation_config.json.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from minitransformer.files import CheckpointError, checkpoint_file, read_json, write_json
from minitransformer.models.config import LARGEST, is_number
from minitransformer.names import nearest, shortened, unexpected_name

FILE = "generation_config.json"

# Fields of Hugging Face that would change the generated text but are not supported, each with the
# values that turn it off; None always does.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (),
    "assistant_ensemble_weight": (),
    "constraints": (),
    "diversity_penalty": (0.0,),
    "dola_layers": (),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "force_words_ids": (),
    "forced_decoder_ids": (),
    "guidance_scale": (1.0,),
    "low_memory": (False,),
    "max_time": (),
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "prompt_lookup_num_tokens": (),
    "remove_invalid_values": (False,),
    "sequence_bias": (),
    "token_healing": (False,),
    "top_h": (),
    "use_mtp": (False,),
    "watermarking_config": (),
}

# Fields that change how fast text is generated or what is returned with it, but not the text.
WITHOUT_EFFECT = {
    "_commit_hash",
    "_from_model_config",
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "continuous_batching_config",
    "disable_compile",
    "is_assistant",
    "max_cache_len",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "prefill_chunk_size",
    "return_dict_in_generate",
    "speculation_type",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
}

# Fields of config.json that concern single tasks. Only minitransformer/tasks uses them.
TASK_FIELDS = ("prefix", "task_specific_params")

# Fields that have an effect only together with another one.
_REQUIRES = {
    "temperature": "do_sample=True",
    "top_k": "do_sample=True",
    "top_p": "do_sample=True",
    "min_p": "do_sample=True",
    "typical_p": "do_sample=True",
    "early_stopping": "num_beams of at least 2",
    "length_penalty": "num_beams of at least 2",
}
# Two ways to set the same limit: either one from the caller overrides both of the checkpoint.
_ALTERNATIVES = {
    "max_new_tokens": "max_length",
    "max_length": "max_new_tokens",
    "min_new_tokens": "min_length",
    "min_length": "min_new_tokens",
}


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How a language model generates text: length, search strategy, forbidden and forced tokens.

    Names, meanings and defaults are those of transformers' GenerationConfig, with one difference:
    the number of new tokens has no default. Lists are converted to tuples. `None` turns a field
    off.

    Raises:
        TypeError: a field is unknown or not supported.
        ValueError: a value is invalid, or two fields contradict each other.
    """

    # Length
    max_new_tokens: int | None = None
    max_length: int | None = None  # includes the prompt or, for an encoder-decoder, the start token
    min_new_tokens: int | None = None
    min_length: int = 0  # includes the same tokens as max_length
    stop_strings: tuple[str, ...] | None = None  # a sequence ends when its text contains one
    # Search strategy
    do_sample: bool = False
    num_beams: int = 1
    num_return_sequences: int = 1
    early_stopping: bool | str = False  # True: at num_beams hypotheses; "never": no early guess
    length_penalty: float = 1.0  # scores are divided by length ** this; above 0 favours length
    # Sampling, if do_sample is True
    temperature: float = 1.0
    top_k: int = 50  # 0: no limit
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    # Logits processors
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    suppress_tokens: tuple[int, ...] | None = None
    begin_suppress_tokens: tuple[int, ...] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | tuple[int, ...] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None  # start, factor
    renormalize_logits: bool = False
    # Special tokens
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    decoder_start_token_id: int | None = None

    # Names of other libraries, and the field that they correspond to.
    known_elsewhere: ClassVar[dict[str, str]] = {
        "beam_size": "num_beams",
        "max_tokens": "max_new_tokens",
        "n": "num_return_sequences",
        "sample": "do_sample",
        "stop": "stop_strings",
    }

    def __new__(cls, *_arguments: Any, **values: Any) -> Self:
        # The generated __init__ would reject an unknown name too, but without a suggestion.
        check_field_names(values)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self._make_tuples()
        for name, rule in _RULES.items():
            value = getattr(self, name)
            is_off = value is None and _DEFAULTS[name] is None
            if not is_off and not rule.is_valid(value):
                raise ValueError(f"{name}={shortened(value)} must be {rule.requirement}")
        self._check_together()

    @classmethod
    def from_model_config(cls, config: Any) -> Self:
        """A generation config with the special tokens of a model's config."""
        names = {field.name for field in fields(cls)} & {field.name for field in fields(config)}
        return cls(**{name: getattr(config, name) for name in names})

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The end tokens as a tuple, which is empty if there are none."""
        return as_tuple(self.eos_token_id)

    def _make_tuples(self) -> None:
        """Convert lists, which JSON has, to tuples, and empty ones to None.

        A list inside a frozen config could still be changed.
        """
        if isinstance(self.stop_strings, str):
            object.__setattr__(self, "stop_strings", (self.stop_strings,))
        for name in FIELDS:
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                values = tuple(tuple(v) if isinstance(v, list) else v for v in value)
                object.__setattr__(self, name, values or None)

    def _check_together(self) -> None:
        number = self.num_return_sequences
        if number > 1 and self.num_beams == 1 and not self.do_sample:
            raise ValueError(
                f"num_return_sequences={number}, but greedy search finds only one sequence; set "
                f"num_beams to at least {number}, or do_sample=True"
            )
        if number > self.num_beams > 1:
            raise ValueError(
                f"num_return_sequences={number} is more than num_beams={self.num_beams}; set "
                f"num_beams to at least {number}"
            )
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            forced = as_tuple(getattr(self, name))
            if forced and set(forced) <= set(self.suppress_tokens or ()):
                raise ValueError(
                    f"{name}={shortened(forced)} is also in suppress_tokens; a token cannot be "
                    "both forced and forbidden, so remove it from one of them"
                )


def _refuse_change(config: GenerationConfig, name: str, value: Any) -> None:
    raise FrozenInstanceError(
        f"cannot assign {name}={shortened(value)}, since configs do not change; give it to "
        "generate(...), or to the model: model.generation_config = "
        "dataclasses.replace(model.generation_config, ...)"
    )


# What the dataclass sets says only that it cannot be done.
GenerationConfig.__setattr__ = _refuse_change  # type: ignore[assignment, method-assign]

_DEFAULTS = {field.name: field.default for field in fields(GenerationConfig)}
FIELDS = tuple(_DEFAULTS)

# Fields of config.json that concern generation, not the model: they are read here.
# `force_bos_token_to_be_generated` is an old form of `forced_bos_token_id`.
IN_MODEL_CONFIG = {
    *FIELDS,
    *UNSUPPORTED,
    *WITHOUT_EFFECT,
    "force_bos_token_to_be_generated",
    "task_specific_params",
}


def check_field_names(names: Iterable[str]) -> None:
    """Check that all names are fields of :class:`GenerationConfig`.

    Raises:
        TypeError: one is not; the message suggests the most similar field, or says that the name
            is not supported.
    """
    for name in names:
        if name in UNSUPPORTED:
            raise TypeError(f"{name} is not supported; the fields are: {', '.join(FIELDS)}")
        if name not in FIELDS:
            guess = GenerationConfig.known_elsewhere.get(name)
            raise TypeError(unexpected_name("GenerationConfig field", name, FIELDS, guess))


def as_tuple(tokens: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """One token id, several or None, as a tuple."""
    if tokens is None:
        return ()
    return tokens if isinstance(tokens, tuple) else (tokens,)


# ---- the valid values of each field ----


class _Rule(NamedTuple):
    is_valid: Callable[[Any], bool]
    requirement: str  # completes "... must be"


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _are_tokens(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(map(_is_token, value))


def _are_token_lists(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(map(_are_tokens, value))


def _are_strings(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(t, str) and t for t in value)


def _is_decay(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    start, factor = value
    return type(start) is int and abs(start) <= LARGEST and is_number(factor) and factor > 0


def _integer(smallest: int) -> _Rule:
    return _Rule(
        lambda v: type(v) is int and smallest <= v <= LARGEST,
        f"an integer from {smallest} to {LARGEST}",
    )


def _number(smallest: float, largest: float) -> _Rule:
    return _Rule(
        lambda v: is_number(v) and smallest <= v <= largest,
        f"a number from {smallest:g} to {largest:g}",
    )


_COUNT = _integer(0)
_COUNT_FROM_1 = _integer(1)
_BOOLEAN = _Rule(lambda v: isinstance(v, bool), "True or False")
_PROBABILITY = _number(0, 1)
# Logits that are multiplied or divided by these numbers, and by a temperature of at least 1e-10,
# remain within the range of float32.
_PENALTY = _number(1e-5, 1e5)
# A score that is divided or multiplied by (2**31 - 1) ** 32 remains within the range of float64.
_EXPONENT = _number(-32, 32)
_TOKEN = _Rule(_is_token, "a token id")
_TOKENS = _Rule(lambda v: _are_tokens(as_tuple(v)), "a token id or a list of token ids")

# A field whose default is None may also be None.
_RULES = {
    "max_new_tokens": _COUNT_FROM_1,
    "max_length": _COUNT_FROM_1,
    "min_new_tokens": _COUNT,
    "min_length": _COUNT,
    "stop_strings": _Rule(_are_strings, "a non-empty string or a list of them"),
    "do_sample": _BOOLEAN,
    "num_beams": _COUNT_FROM_1,
    "num_return_sequences": _COUNT_FROM_1,
    "early_stopping": _Rule(
        lambda v: isinstance(v, bool) or v == "never", "True, False or 'never'"
    ),
    "length_penalty": _EXPONENT,
    "temperature": _Rule(
        lambda v: is_number(v) and v >= 1e-10,
        f"a number from 1e-10 to {LARGEST}; to always take the likeliest token, use "
        "do_sample=False",
    ),
    "top_k": _COUNT,
    "top_p": _PROBABILITY,
    "min_p": _PROBABILITY,
    "typical_p": _Rule(lambda v: is_number(v) and 0 < v <= 1, "a number above 0 and at most 1"),
    "repetition_penalty": _PENALTY,
    "encoder_repetition_penalty": _PENALTY,
    "no_repeat_ngram_size": _COUNT,
    "encoder_no_repeat_ngram_size": _COUNT,
    "bad_words_ids": _Rule(_are_token_lists, "a list of lists of token ids"),
    "suppress_tokens": _TOKENS,
    "begin_suppress_tokens": _TOKENS,
    "forced_bos_token_id": _TOKEN,
    "forced_eos_token_id": _TOKENS,
    "exponential_decay_length_penalty": _Rule(
        _is_decay, "a pair of a number of new tokens and a positive factor, such as (20, 1.05)"
    ),
    "renormalize_logits": _BOOLEAN,
    "pad_token_id": _TOKEN,
    "bos_token_id": _TOKEN,
    "eos_token_id": _TOKENS,
    "decoder_start_token_id": _TOKEN,
}
_TOKEN_FIELDS = tuple(name for name, rule in _RULES.items() if rule in (_TOKEN, _TOKENS))


# ---- the config of one call ----


def resolve(
    checkpoint: GenerationConfig, given: GenerationConfig | None, changes: Mapping[str, Any]
) -> GenerationConfig:
    """Combine the checkpoint's fields and the caller's into the config of one call.

    Args:
        checkpoint: the model's own config, or the one of a task.
        given: replaces it, except where one of its fields is None.
        changes: fields and values that override both.

    Raises:
        TypeError: a change is not a field, or a config is not a GenerationConfig.
        ValueError: a value is invalid, two fields contradict each other, or the caller sets a field
            that would have no effect. (In a checkpoint such a field is accepted, as in
            transformers.)
    """
    for name, part in (("defaults", checkpoint), ("config", given)):
        if not isinstance(part, GenerationConfig | None):
            raise TypeError(f"{name} is a {type(part).__name__}; it must be a GenerationConfig")
    config, requested = checkpoint, dict(changes)
    if given is not None:
        config = _completed(given, checkpoint)
        requested = _set_fields(given, checkpoint) | requested
    config = replace(config, **changes)  # checks the values
    for name, other in _ALTERNATIVES.items():
        if requested.get(name) and requested.get(other):
            raise ValueError(
                f"{name}={requested[name]} and {other}={requested[other]} set the same limit; pass "
                "only one of them"
            )
        if requested.get(name):
            default: dict[str, Any] = {other: _DEFAULTS[other]}
            config = replace(config, **default)
    for name in _REQUIRES:
        if name in requested:
            _check_effect(config, name, requested[name])
    return config


def _completed(given: GenerationConfig, checkpoint: GenerationConfig) -> GenerationConfig:
    """`given`, with the checkpoint's values where it has None."""
    unset = [name for name in FIELDS if getattr(given, name) is None]
    return replace(given, **{name: getattr(checkpoint, name) for name in unset})


def _set_fields(given: GenerationConfig, checkpoint: GenerationConfig) -> dict[str, Any]:
    """The fields of `given` whose values are neither the default nor the checkpoint's."""
    return {
        name: value
        for name, value in vars(given).items()
        if value not in (_DEFAULTS[name], getattr(checkpoint, name))
    }


def _check_effect(config: GenerationConfig, name: str, value: Any) -> None:
    """Reject a field that has no effect on this call's search, unless it has its default value."""
    requirement = _REQUIRES[name]
    effective = config.do_sample if requirement == "do_sample=True" else config.num_beams > 1
    if not effective and value != _DEFAULTS[name]:
        raise ValueError(
            f"{name}={shortened(value)} has no effect without {requirement}; add it, or leave "
            f"{name} out"
        )


def resolve_lengths(
    config: GenerationConfig, changes: Mapping[str, Any], prompt_length: int
) -> GenerationConfig:
    """Express all length limits as numbers of new tokens.

    Args:
        config: of the call.
        changes: the fields that the caller set.
        prompt_length: how many tokens a sequence has before its first new one, padding included.

    Returns:
        The config with `max_new_tokens` and `min_new_tokens`, without `max_length` and
        `min_length`.

    Raises:
        ValueError: the maximum is not set, leaves no room for a new token, or is below a minimum
            that the caller set.
    """
    most, least = config.max_new_tokens, config.min_new_tokens
    if most is None:
        most = _max_new_tokens(config.max_length, prompt_length)
    least = max(0, config.min_length - prompt_length) if least is None else least
    if least > most:
        _refuse_minimum(least, most, changes)
    return replace(config, max_new_tokens=most, max_length=None, min_new_tokens=least, min_length=0)


def _refuse_minimum(least: int, most: int, changes: Mapping[str, Any]) -> None:
    """Raise an error for the caller's minimum; warn of a checkpoint's, which is not reached."""
    message = (
        f"min_new_tokens or min_length requires at least {least} new tokens, but "
        f"max_new_tokens or max_length allows at most {most}"
    )
    if "min_new_tokens" in changes or "min_length" in changes:
        raise ValueError(f"{message}; lower the minimum or raise the maximum")
    warnings.warn(f"{message}; {most} will be generated", stacklevel=5)


def _max_new_tokens(max_length: int | None, prompt_length: int) -> int:
    if max_length is None:
        raise ValueError(
            "the number of tokens to generate is not set; pass max_new_tokens=..., or "
            "max_length=..., which includes the prompt (the checkpoint sets neither)"
        )
    if max_length <= prompt_length:
        raise ValueError(
            f"max_length={max_length} leaves no room for a new token after a prompt of "
            f"{prompt_length} tokens; pass max_new_tokens instead"
        )
    return max_length - prompt_length


def check_tokens(config: GenerationConfig, vocab_size: int) -> None:
    """Check that all token ids of the config are in the model's vocabulary.

    Raises:
        ValueError: one is not; the message names the field.
    """
    tokens = {name: as_tuple(getattr(config, name)) for name in _TOKEN_FIELDS}
    tokens["bad_words_ids"] = sum(config.bad_words_ids or (), ())
    for name, ids in tokens.items():
        if ids and max(ids) >= vocab_size:
            raise ValueError(
                f"{name} contains {max(ids)}, but vocab_size={vocab_size} allows ids up to "
                f"{vocab_size - 1}"
            )


def padding_token(config: GenerationConfig, num_sequences: int) -> int:
    """The token that pads a sequence after its end: `pad_token_id`, or else the first end token.

    Sequences that only their length can end need no padding, so the result is then an arbitrary 0.

    Raises:
        ValueError: there is neither, but a stop string may end one sequence before another.
    """
    if config.pad_token_id is not None:
        return config.pad_token_id
    if config.eos_token_ids:
        return config.eos_token_ids[0]
    if config.stop_strings and num_sequences > 1:
        raise ValueError(
            "pad_token_id=None, but sequences that a stop string ends early need padding; pass "
            "pad_token_id=..."
        )
    return 0


# ---- generation_config.json ----


def read_generation_config(directory: Path, config_content: dict[str, Any]) -> GenerationConfig:
    """Read the generation config of a checkpoint.

    If there is no generation_config.json, the fields are taken from config.json, where old
    checkpoints have them; transformers does the same.

    Args:
        directory: of the checkpoint.
        config_content: the content of its config.json.

    Raises:
        CheckpointError: the file is broken, or a field is misspelled, invalid or not supported.
    """
    if not (directory / FILE).exists():
        path = directory / "config.json"
        content = {name: v for name, v in config_content.items() if name in IN_MODEL_CONFIG}
        if content.pop("force_bos_token_to_be_generated", False):
            content["forced_bos_token_id"] = content.get("bos_token_id")
        content.pop("task_specific_params", None)
    else:
        path = checkpoint_file(directory, FILE)
        content = read_json(path)
    # transformers writes null for a field that is not set.
    given = {name: value for name, value in content.items() if value is not None}
    check_file_fields(given, path)
    try:
        return GenerationConfig(**{n: value for n, value in given.items() if n in FIELDS})
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def write_generation_config(config: GenerationConfig, directory: Path) -> None:
    """Write generation_config.json in transformers' format.

    Like transformers, it contains only the fields that differ from the defaults.
    """
    values = {name: getattr(config, name) for name in FIELDS}
    changed = {name: value for name, value in values.items() if value != _DEFAULTS[name]}
    write_json(directory / FILE, changed)


def task_parameters(config_content: dict[str, Any], task: str) -> dict[str, Any]:
    """The parameters of one task in a config.json, for example T5's prefix for a summary.

    Args:
        config_content: the content of the config.json.
        task: such as "summarization" or "translation_en_to_de".

    Returns:
        Names to values; empty if there are none.
    """
    all_tasks = config_content.get("task_specific_params") or {}
    found = all_tasks.get(task) if isinstance(all_tasks, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def check_file_fields(given: dict[str, Any], path: Path) -> None:
    """Check that all generation fields of a file are known and supported.

    Raises:
        CheckpointError: a field is misspelled, or is not supported and would change the text.
    """
    for name, value in given.items():
        if name in UNSUPPORTED:
            if value not in UNSUPPORTED[name]:
                raise CheckpointError(
                    f"{path}: {name}={shortened(value)} would change the generated text but is not "
                    "supported; remove the field from the file to generate without it"
                )
        elif name not in FIELDS and name not in WITHOUT_EFFECT:
            right = nearest(name, [*FIELDS, *UNSUPPORTED], cutoff=0.8)
            if right is not None and right not in given:
                raise CheckpointError(
                    f"{path}: unknown field {shortened(name)}: did you mean {right!r}?"
                )
            warnings.warn(
                f"{path}: the field {shortened(name)} is unknown and ignored", stacklevel=5
            )

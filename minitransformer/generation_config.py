"""How text is generated: the fields of Hugging Face's GenerationConfig that are built here.

From top to bottom: the fields and what each may hold, the config of one call made of the
checkpoint's and the caller's, and generation_config.json in and out.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from minitransformer.files import CheckpointError, checkpoint_file, read_json, write_json
from minitransformer.models.config import LARGEST, is_number
from minitransformer.names import nearest, unexpected_name

FILE = "generation_config.json"

# Fields of Hugging Face that are not built here and would change what is generated, each with the
# values that leave it off; None always does.
NOT_BUILT: dict[str, tuple[Any, ...]] = {
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

# Fields of a file that change how fast something is computed or what is reported of it, not what
# is generated.
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

# What a config.json holds for single tasks, beside what it holds for the model. None of it is
# looked at until a task asks for it (minitransformer/tasks).
TASK_FIELDS = ("prefix", "task_specific_params")

# Fields that have an effect only beside another one.
_NEEDS = {
    "temperature": "do_sample=True",
    "top_k": "do_sample=True",
    "top_p": "do_sample=True",
    "min_p": "do_sample=True",
    "typical_p": "do_sample=True",
    "early_stopping": "num_beams of at least 2",
    "length_penalty": "num_beams of at least 2",
}
# Two ways to say the same: a caller's field replaces the checkpoint's other one.
_INSTEAD = {
    "max_new_tokens": "max_length",
    "max_length": "max_new_tokens",
    "min_new_tokens": "min_length",
    "min_length": "min_new_tokens",
}


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How a language model generates: how long, by which search, what is forbidden or forced.

    Names, meanings and defaults are those of transformers, with one difference: the number of new
    tokens has no default. Lists become tuples. `None` leaves a field off.

    Raises:
        TypeError: a field is unknown, or not built here.
        ValueError: a value has no meaning, or two contradict each other.
    """

    # How long
    max_new_tokens: int | None = None
    max_length: int | None = None  # the prompt counted in; of an encoder-decoder, the start token
    min_new_tokens: int | None = None
    min_length: int = 0  # counted as max_length is
    stop_strings: tuple[str, ...] | None = None  # one of these in its text ends a sequence
    # Which search
    do_sample: bool = False
    num_beams: int = 1
    num_return_sequences: int = 1
    early_stopping: bool | str = False  # True: at the first num_beams ends; "never": only when sure
    length_penalty: float = 1.0  # scores are divided by length ** this: above 0 favours length
    # What may be drawn, where do_sample is set
    temperature: float = 1.0
    top_k: int = 50  # 0: all
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    # What changes the scores
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
    # Tokens with a role
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    decoder_start_token_id: int | None = None

    # Names that users bring from elsewhere, and the field that they mean.
    known_elsewhere: ClassVar[dict[str, str]] = {
        "beam_size": "num_beams",
        "max_tokens": "max_new_tokens",
        "n": "num_return_sequences",
        "sample": "do_sample",
        "stop": "stop_strings",
    }

    def __new__(cls, *_arguments: Any, **values: Any) -> Self:
        # The generated __init__ would refuse an unknown name too, but without the right one.
        check_field_names(values)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self._make_tuples()
        for name, rule in _RULES.items():
            value = getattr(self, name)
            is_off = value is None and _DEFAULTS[name] is None
            if not is_off and not rule.holds(value):
                raise ValueError(f"{name}={value!r:.200} must be {rule.text}")
        self._check_together()

    @classmethod
    def from_model_config(cls, config: Any) -> Self:
        """The fields that a model's config has too: its tokens with a role."""
        names = {field.name for field in fields(cls)} & {field.name for field in fields(config)}
        return cls(**{name: getattr(config, name) for name in names})

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a sequence; empty where there is none."""
        return as_tuple(self.eos_token_id)

    def _make_tuples(self) -> None:
        """Lists, as JSON has them, become tuples, and empty ones None.

        What is frozen must not change inside.
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
                f"num_return_sequences={number}, but greedy search finds one; set num_beams to at "
                f"least {number}, or do_sample=True"
            )
        if number > self.num_beams > 1:
            raise ValueError(
                f"num_return_sequences={number} is more than num_beams={self.num_beams} can give"
            )
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            forced = as_tuple(getattr(self, name))
            if forced and set(forced) <= set(self.suppress_tokens or ()):
                raise ValueError(f"{name}={forced} is forced and, in suppress_tokens, forbidden")


_DEFAULTS = {field.name: field.default for field in fields(GenerationConfig)}
FIELDS = tuple(_DEFAULTS)

# What a config.json may hold for generation: it is read here, and has no effect on the model.
# `force_bos_token_to_be_generated` is the oldest form of `forced_bos_token_id`.
IN_MODEL_CONFIG = {
    *FIELDS,
    *NOT_BUILT,
    *WITHOUT_EFFECT,
    "force_bos_token_to_be_generated",
    "task_specific_params",
}


def check_field_names(names: Iterable[str]) -> None:
    """Refuse names that are no fields of :class:`GenerationConfig`.

    Raises:
        TypeError: one is not; the message gives the nearest that is, or says that it is not built.
    """
    for name in names:
        if name in NOT_BUILT:
            raise TypeError(f"{name} is not built here; the fields are: {', '.join(FIELDS)}")
        if name not in FIELDS:
            guess = GenerationConfig.known_elsewhere.get(name)
            raise TypeError(unexpected_name("GenerationConfig field", name, FIELDS, guess))


def as_tuple(tokens: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """One id, several or none, as a tuple."""
    if tokens is None:
        return ()
    return tokens if isinstance(tokens, tuple) else (tokens,)


# ---- what each field may hold ----


class _Rule(NamedTuple):
    holds: Callable[[Any], bool]
    text: str  # what the value must be


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _are_tokens(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(map(_is_token, value))


def _are_words(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(map(_are_tokens, value))


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(t, str) and t for t in value)


def _is_decay(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return type(value[0]) is int and is_number(value[1]) and value[1] > 0


_COUNT = _Rule(lambda v: type(v) is int and 0 <= v <= LARGEST, "an integer of at least 0")
_COUNT_FROM_1 = _Rule(lambda v: type(v) is int and 1 <= v <= LARGEST, "an integer of at least 1")
_BOOLEAN = _Rule(lambda v: isinstance(v, bool), "True or False")
_POSITIVE = _Rule(lambda v: is_number(v) and v > 0, "a positive, finite number")
_SHARE = _Rule(lambda v: is_number(v) and 0 <= v <= 1, "a number from 0 to 1")
_TOKEN = _Rule(_is_token, "a token's id")
_TOKENS = _Rule(lambda v: _are_tokens(as_tuple(v)), "a token's id, or several of them")

# A field whose default is None may be None too.
_RULES = {
    "max_new_tokens": _COUNT_FROM_1,
    "max_length": _COUNT_FROM_1,
    "min_new_tokens": _COUNT,
    "min_length": _COUNT,
    "stop_strings": _Rule(_are_texts, "a text, or a list of texts"),
    "do_sample": _BOOLEAN,
    "num_beams": _COUNT_FROM_1,
    "num_return_sequences": _COUNT_FROM_1,
    "early_stopping": _Rule(
        lambda v: isinstance(v, bool) or v == "never", "True, False or 'never'"
    ),
    "length_penalty": _Rule(is_number, "a finite number"),
    "temperature": _Rule(
        _POSITIVE.holds, f"{_POSITIVE.text}; for the likeliest token each time: do_sample=False"
    ),
    "top_k": _COUNT,
    "top_p": _SHARE,
    "min_p": _SHARE,
    "typical_p": _Rule(lambda v: is_number(v) and 0 < v <= 1, "a number above 0, and at most 1"),
    "repetition_penalty": _POSITIVE,
    "encoder_repetition_penalty": _POSITIVE,
    "no_repeat_ngram_size": _COUNT,
    "encoder_no_repeat_ngram_size": _COUNT,
    "bad_words_ids": _Rule(_are_words, "a list of lists of ids"),
    "suppress_tokens": _TOKENS,
    "begin_suppress_tokens": _TOKENS,
    "forced_bos_token_id": _TOKEN,
    "forced_eos_token_id": _TOKENS,
    "exponential_decay_length_penalty": _Rule(
        _is_decay, "a number of new tokens and a positive factor, such as (20, 1.05)"
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
    """The config of one call.

    Args:
        checkpoint: the model's own, or what takes its place for a task.
        given: replaces it; where a field of this one is None, the checkpoint's value stays.
        changes: fields and values that override both.

    Raises:
        TypeError: a change is of no field, or a config is no GenerationConfig.
        ValueError: a value has no meaning, two contradict each other, or the caller sets what
            would have no effect. (In a checkpoint that is accepted, as transformers does.)
    """
    for name, part in (("defaults", checkpoint), ("config", given)):
        if not isinstance(part, GenerationConfig | None):
            raise TypeError(f"{name} is a {type(part).__name__}; a GenerationConfig is needed")
    config, asked = checkpoint, dict(changes)
    if given is not None:
        config, asked = _completed(given, checkpoint), _set_fields(given, checkpoint) | asked
    for name, other in _INSTEAD.items():
        if asked.get(name) and asked.get(other):
            raise ValueError(
                f"{name}={asked[name]} and {other}={asked[other]} say the same in two ways; "
                f"give one of them"
            )
    replaced = {other: _DEFAULTS[other] for name, other in _INSTEAD.items() if asked.get(name)}
    config = replace(config, **{**replaced, **changes})
    for name in _NEEDS:
        if name in asked:
            _check_effect(config, name, asked[name])
    return config


def _completed(given: GenerationConfig, checkpoint: GenerationConfig) -> GenerationConfig:
    """`given`, with the checkpoint's values where it has None."""
    unset = [name for name in FIELDS if getattr(given, name) is None]
    return replace(given, **{name: getattr(checkpoint, name) for name in unset})


def _set_fields(given: GenerationConfig, checkpoint: GenerationConfig) -> dict[str, Any]:
    """The fields of `given` that its author set: neither the default nor the checkpoint's value."""
    return {
        name: value
        for name, value in vars(given).items()
        if value not in (_DEFAULTS[name], getattr(checkpoint, name))
    }


def _check_effect(config: GenerationConfig, name: str, value: Any) -> None:
    """Refuse a caller's field that the search of this call would not look at."""
    needed = _NEEDS[name]
    effective = config.do_sample if needed == "do_sample=True" else config.num_beams > 1
    if not effective and value != _DEFAULTS[name]:
        raise ValueError(
            f"{name}={value!r} has no effect without {needed}; add that, or leave it out"
        )


def count_new_tokens(
    config: GenerationConfig, changes: Mapping[str, Any], prompt_length: int
) -> GenerationConfig:
    """Turn every length into a number of new tokens.

    Args:
        config: of the call.
        changes: the fields that its caller set.
        prompt_length: tokens of a sequence before the first new one, padding included.

    Raises:
        ValueError: there is no number of tokens to generate, or not one fits.
    """
    most, least = config.max_new_tokens, config.min_new_tokens
    if most is None:
        most = _most_new_tokens(config.max_length, prompt_length)
    if least is None:
        least = max(0, config.min_length - prompt_length)
    if least > most:
        message = f"at least {least} new tokens are asked for, but at most {most}"
        if "min_new_tokens" in changes or "min_length" in changes:
            raise ValueError(message)
        warnings.warn(f"{message}; {most} are generated", stacklevel=4)
    return replace(config, max_new_tokens=most, max_length=None, min_new_tokens=least, min_length=0)


def _most_new_tokens(max_length: int | None, prompt_length: int) -> int:
    if max_length is None:
        raise ValueError(
            "how many tokens are to be generated? Pass max_new_tokens=..., or max_length=... with "
            "the prompt counted in; the checkpoint's generation config has neither"
        )
    if max_length <= prompt_length:
        raise ValueError(
            f"max_length={max_length} leaves no space for a new token after {prompt_length} "
            "tokens of the prompt; pass max_new_tokens instead"
        )
    return max_length - prompt_length


def check_tokens(config: GenerationConfig, vocab_size: int) -> None:
    """Check that every token that the config names is one of the model's.

    Raises:
        ValueError: one is not; the message names the field.
    """
    tokens = {name: as_tuple(getattr(config, name)) for name in _TOKEN_FIELDS}
    tokens["bad_words_ids"] = sum(config.bad_words_ids or (), ())
    for name, ids in tokens.items():
        if ids and max(ids) >= vocab_size:
            raise ValueError(f"{name} holds {max(ids)}, outside vocab_size={vocab_size}")


def padding_token(config: GenerationConfig, num_sequences: int) -> int:
    """What follows in a sequence that has ended: `pad_token_id`, or else its end token.

    Where nothing but its length ends a sequence, none needs padding, and 0 is as good as any.

    Raises:
        ValueError: there is neither, and some sequences may end before others.
    """
    if config.pad_token_id is not None:
        return config.pad_token_id
    if config.eos_token_ids:
        return config.eos_token_ids[0]
    if config.stop_strings and num_sequences > 1:
        raise ValueError(
            "pad_token_id=None: sequences that stop_strings end must be filled up with some "
            "token; pass pad_token_id"
        )
    return 0


# ---- generation_config.json ----


def read_generation_config(directory: Path, config_content: dict[str, Any]) -> GenerationConfig:
    """The generation config of a checkpoint.

    Where there is no generation_config.json, it is made of the fields that old config.json files
    carry, as in transformers.

    Args:
        directory: of the checkpoint.
        config_content: of its config.json.

    Raises:
        CheckpointError: a file is broken, or a field is misspelled, has a value without a meaning,
            or one that is not built here.
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
    # null is transformers' word for a field that is not set.
    given = {name: value for name, value in content.items() if value is not None}
    check_names(given, path)
    try:
        return GenerationConfig(**{n: value for n, value in given.items() if n in FIELDS})
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def write_generation_config(config: GenerationConfig, directory: Path) -> None:
    """Write generation_config.json, which transformers reads as the same.

    As transformers does, only what differs from the defaults is written.
    """
    values = {name: getattr(config, name) for name in FIELDS}
    changed = {name: value for name, value in values.items() if value != _DEFAULTS[name]}
    write_json(directory / FILE, changed)


def task_parameters(config_content: dict[str, Any], task: str) -> dict[str, Any]:
    """What a config.json holds for one task: T5's prefixes, for example.

    Args:
        config_content: of a config.json.
        task: such as "summarization" or "translation_en_to_de".

    Returns:
        Names to values, empty where there are none.
    """
    every = config_content.get("task_specific_params") or {}
    found = every.get(task) if isinstance(every, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def check_names(given: dict[str, Any], path: Path) -> None:
    """Check the fields of a file: refuse a misspelled one, and one whose effect is not built.

    Raises:
        CheckpointError: there is such a one.
    """
    for name, value in given.items():
        if name in NOT_BUILT:
            if value not in NOT_BUILT[name]:
                raise CheckpointError(
                    f"{path}: {name}={value!r} would change what is generated and is not built "
                    "here; take the field out of the file to do without"
                )
        elif name not in FIELDS and name not in WITHOUT_EFFECT:
            right = nearest(name, [*FIELDS, *NOT_BUILT], cutoff=0.8)
            if right is not None and right not in given:
                raise CheckpointError(f"{path}: unknown field {name!r}: did you mean {right!r}?")
            warnings.warn(f"{path}: the field {name!r} is unknown and ignored", stacklevel=5)

"""What is asked of one call: the checkpoint's config, the caller's, and the caller's changes."""

import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from minitransformer.models.generation_config import (
    GenerationConfig,
    as_tuple,
    check_field_names,
)

# Fields that do something only beside another one.
_NEEDS = {
    "temperature": "do_sample=True",
    "top_k": "do_sample=True",
    "top_p": "do_sample=True",
    "min_p": "do_sample=True",
    "typical_p": "do_sample=True",
    "early_stopping": "num_beams of at least 2",
    "length_penalty": "num_beams of at least 2",
}
# Two ways to say the same: what the caller says takes the place of the other in the checkpoint.
_INSTEAD = {
    "max_new_tokens": "max_length",
    "max_length": "max_new_tokens",
    "min_new_tokens": "min_length",
    "min_length": "min_new_tokens",
}
_DEFAULTS = {field.name: field.default for field in fields(GenerationConfig)}


def settle(
    checkpoint: GenerationConfig, given: GenerationConfig | None, changes: Mapping[str, Any]
) -> GenerationConfig:
    """The config of one call.

    Args:
        checkpoint: the model's own.
        given: takes its place; where it leaves a field None, the checkpoint's value stays.
        changes: fields and values that go before either.

    Raises:
        TypeError: a change is of no field, or `given` is no GenerationConfig.
        ValueError: a value has no meaning, two contradict each other, or the caller asks for what
            would have no effect. (Of a checkpoint that is taken as it is, as by transformers.)
    """
    check_field_names(changes)
    if given is not None and not isinstance(given, GenerationConfig):
        raise TypeError(f"config is a {type(given).__name__}; a GenerationConfig is needed")
    asked = {
        name: value
        for name, value in (vars(given) if given is not None else {}).items()
        if value != getattr(checkpoint, name) and value != _DEFAULTS[name]
    }
    asked |= changes
    for name, other in _INSTEAD.items():
        if asked.get(name) and asked.get(other):
            raise ValueError(
                f"{name}={asked[name]} and {other}={asked[other]} say the same in two ways; "
                f"give one of them"
            )
    config = checkpoint if given is None else _completed(given, checkpoint)
    replaced = {other: _DEFAULTS[other] for name, other in _INSTEAD.items() if asked.get(name)}
    config = replace(config, **{**replaced, **changes})
    _check_effect(config, asked)
    return config


def count_new_tokens(
    config: GenerationConfig, changes: Mapping[str, Any], prompt_length: int
) -> GenerationConfig:
    """Turn every length into a number of new tokens.

    Args:
        config: of the call.
        changes: what its caller asked for.
        prompt_length: places in a row before the first new token, padding included.

    Raises:
        ValueError: nobody said how many tokens are wanted, or not one fits.
    """
    most = config.max_new_tokens
    if most is None and config.max_length is None:
        raise ValueError(
            "how many tokens are to be written? Pass max_new_tokens=..., or max_length=... with "
            "the prompt counted in; the checkpoint's generation config says neither"
        )
    if most is None:
        assert config.max_length is not None
        most = config.max_length - prompt_length
        if most < 1:
            raise ValueError(
                f"max_length={config.max_length} leaves no room for a new token after "
                f"{prompt_length} tokens of the prompt; pass max_new_tokens instead"
            )
    fewest = config.min_new_tokens
    if fewest is None:
        fewest = max(0, config.min_length - prompt_length)
    if fewest > most:
        words = f"at least {fewest} new tokens are asked for, but at most {most}"
        if "min_new_tokens" in changes or "min_length" in changes:
            raise ValueError(words)
        warnings.warn(f"{words}; {most} are written", stacklevel=4)
    return replace(
        config, max_new_tokens=most, max_length=None, min_new_tokens=fewest, min_length=0
    )


def check_tokens(config: GenerationConfig, vocab_size: int) -> None:
    """Check that every token that the config names is one of the model's.

    Raises:
        ValueError: one is not; the message names the field.
    """
    for name in (field for field in _DEFAULTS if "token" in field or field == "bad_words_ids"):
        if name in ("max_new_tokens", "min_new_tokens"):
            continue
        value = getattr(config, name)
        several = sum(value or (), ()) if name == "bad_words_ids" else as_tuple(value)
        for token in several:
            if token >= vocab_size:
                raise ValueError(f"{name} holds {token}, outside vocab_size={vocab_size}")


def padding_token(config: GenerationConfig, num_rows: int) -> int | None:
    """What follows in a row that is finished: `pad_token_id`, or what ends a row.

    Raises:
        ValueError: there is neither, and some rows may end before others.
    """
    if config.pad_token_id is not None:
        return config.pad_token_id
    if config.eos_token_ids:
        return config.eos_token_ids[0]
    if config.stop_strings and num_rows > 1:
        raise ValueError(
            "pad_token_id=None: rows that stop_strings end must be filled up with some token; "
            "pass pad_token_id"
        )
    return None


def _completed(given: GenerationConfig, checkpoint: GenerationConfig) -> GenerationConfig:
    left_open = {name for name, value in vars(given).items() if value is None}
    return replace(given, **{name: getattr(checkpoint, name) for name in left_open})


def _check_effect(config: GenerationConfig, asked: Mapping[str, Any]) -> None:
    for name, needed in _NEEDS.items():
        there = config.do_sample if needed.startswith("do_sample") else config.num_beams > 1
        if name in asked and asked[name] != _DEFAULTS[name] and not there:
            raise ValueError(
                f"{name}={asked[name]!r} has no effect without {needed}; add that, or leave it out"
            )

"""The special and added tokens that the files of a tokenizer name, beside its vocabulary.

An *added token* is cut out of a text before the vocabulary's rules apply. Four places list them:

- `added_tokens_decoder` in tokenizer_config.json: id to token; if it exists, the next two files are
  not read, as in transformers;
- added_tokens.json, written by old versions: token to id;
- special_tokens_map.json, written by old versions: the token of each role, which replaces the one
  in tokenizer_config.json;
- tokenizer.json itself, which the `tokenizers` library reads.

A special token may have a *role*, such as `mask_token`; `extra_special_tokens`, or
`additional_special_tokens`, lists those without one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitransformer.files import CheckpointError, optional_json
from minitransformer.names import shortened
from minitransformer.tokenization.pipelines import ROBERTA, library

if TYPE_CHECKING:
    import tokenizers

CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = tuple(ROBERTA)  # the seven roles
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class NamedTokens:
    """What the files say, apart from tokenizer.json.

    Attributes:
        roles: role to token; None if a file says that there is no such token.
        added: every token that is named, in the order in which those without an id get the next
            one; a str for a special token of which only the text is given.
        ids: the ids that the files give to some of them.
        replace_stored: whether the flags of a token replace those that tokenizer.json gives it.
    """

    roles: dict[str, str | None]
    added: dict[str, "str | tokenizers.AddedToken"]
    ids: dict[str, int]
    replace_stored: bool


def read_named_tokens(
    directory: Path, config: Mapping[str, Any], given: Mapping[str, Any]
) -> NamedTokens:
    """Read the files.

    Args:
        directory: of the files.
        config: the content of tokenizer_config.json, with what is `given`.
        given: the arguments of from_pretrained, which replace the special tokens in every file.

    Raises:
        CheckpointError: an entry is not a token, or an id is not an integer.
    """
    added: dict[str, Any] = {}
    ids: dict[str, int] = {}
    named = dict(config)
    decoder = config.get("added_tokens_decoder")
    old: dict[str, Any] = {}
    if decoder is None:
        named |= {**optional_json(directory, "special_tokens_map.json"), **given}
        old = optional_json(directory, "added_tokens.json")
    elif not isinstance(decoder, dict):
        raise CheckpointError(
            f"{directory / CONFIG} has added_tokens_decoder={shortened(decoder)}; it must be an "
            "object, id to token"
        )
    special = {
        role: _token(directory, role, named[role]) for role in SPECIAL_TOKENS if role in named
    }
    extra = [_token(directory, field, token) for field, token in _extra_tokens(directory, named)]
    texts = {_text(token) for token in [*special.values(), *extra]}

    listed = {_id(directory / CONFIG, key): token for key, token in (decoder or {}).items()}
    for token_id, value in sorted(listed.items()):
        token = _token(directory, f"added_tokens_decoder[{token_id}]", value, special=False)
        added[token.content], ids[token.content] = token, token_id
    old_ids = {text: _id(directory / "added_tokens.json", value) for text, value in old.items()}
    for text, token_id in sorted(old_ids.items(), key=lambda item: item[1]):
        is_special = text in texts
        added[text] = library().AddedToken(text, normalized=not is_special, special=is_special)
        ids[text] = token_id
    for token in [*special.values(), *extra]:
        if token is not None:
            added.setdefault(_text(token), token)
    roles = {role: _text(token) for role, token in special.items()}
    return NamedTokens(roles, added, ids, replace_stored=decoder is not None)


def add_named_tokens(
    backend: "tokenizers.Tokenizer", tokens: NamedTokens, source: str, defaults: Mapping[str, str]
) -> None:
    """Add the tokens to a backend, as transformers does; those without an id get the next one.

    Args:
        backend: the vocabulary.
        tokens: what the files name.
        source: the directory, for error messages.
        defaults: the tokens of the roles that no file names.

    Raises:
        CheckpointError: a token has another id than the files say.
    """
    tk = library()
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    new = [text for text in tokens.added if backend.token_to_id(text) is None]
    missing = {role: t for role, t in defaults.items() if backend.token_to_id(t) is None}
    unclear = [text for text in new if text not in tokens.ids]
    if unclear and (unnamed := missing.keys() - tokens.roles.keys()):
        role = min(unnamed)
        raise CheckpointError(
            f"{source}: the vocabulary has neither {shortened(unclear[0])} nor {missing[role]!r}, "
            f"the usual {role}, so the id of the first is not clear; give it one in "
            f"added_tokens_decoder of {CONFIG}, or set {role}"
        )
    added = []
    for text, token in tokens.added.items():
        if text in known and (isinstance(token, str) or not tokens.replace_stored):
            continue
        if isinstance(token, str):
            # `<mask>` includes the space before it, as in the published checkpoints.
            token = tk.AddedToken(text, lstrip=text == "<mask>", normalized=False, special=True)
        token.special = token.special or text in tokens.roles.values()
        added.append(token)
    backend.add_tokens(added)
    for text, token_id in tokens.ids.items():
        if (found := backend.token_to_id(text)) != token_id:
            raise CheckpointError(
                f"{source}: the added token {shortened(text)} has the id {token_id} in {CONFIG} or "
                f"added_tokens.json, but its place in the vocabulary is {found}; give it that id"
            )


def _extra_tokens(directory: Path, named: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The special tokens without one of the seven roles, each with the field that names it."""
    found = [
        (field, value)
        for field, value in named.items()
        if field.endswith("_token")
        and field not in SPECIAL_TOKENS
        and isinstance(value, str | dict)
    ]
    for field in ("model_specific_special_tokens", *_EXTRA):
        tokens = named.get(field) or []
        values = list(tokens.values()) if isinstance(tokens, dict) else tokens
        if not isinstance(values, list) or None in values:
            raise _not_a_token(directory / CONFIG, field, tokens)
        found += [(field, token) for token in values]
        if tokens and isinstance(tokens, list):  # the first list counts, as in transformers
            break
    return found


def _token(directory: Path, field: str, value: Any, special: bool = True) -> Any:
    """A token as a str, or as an AddedToken if its flags are given; None for none."""
    if special and (value is None or (isinstance(value, str) and value)):
        return value
    text = value.get("content") if isinstance(value, dict) else None
    flags = {flag: value[flag] for flag in _FLAGS if flag in value} if text else {}
    if not text or not isinstance(text, str) or {*map(type, flags.values())} - {bool}:
        raise _not_a_token(directory / CONFIG, field, value)
    special = flags.pop("special", special)
    return library().AddedToken(text, special=special, **{"normalized": not special, **flags})


def _text(token: Any) -> Any:
    return token if token is None or isinstance(token, str) else token.content


def _id(path: Path, value: Any) -> int:
    """The id of an added token: an integer, or its digits where it is a key."""
    if type(value) is int or (isinstance(value, str) and value.isdecimal() and len(value) < 20):
        return int(value)
    raise CheckpointError(
        f"{path}: {shortened(value)} is not the id of an added token; it must be an integer"
    )


def _not_a_token(path: Path, field: str, value: Any) -> CheckpointError:
    return CheckpointError(
        f"{path} has {field}={shortened(value)}; a token is a string that is not empty, or an "
        "object with its 'content' and flags, which are true or false"
    )

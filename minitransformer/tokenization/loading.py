"""A tokenizer from the files of a checkpoint: which one it is, its vocabulary and its settings.

`tokenizer_class` in tokenizer_config.json or config.json, else `model_type` in config.json, says
which tokenizer of transformers it is. For those in `CLASSES` the pipeline is known: the vocabulary
comes from tokenizer.json or from text files, and the settings in tokenizer_config.json are
followed; where it says nothing, those in tokenizer.json are. The classes in `AS_STORED` use
tokenizer.json as it is, and a setting that contradicts it is refused. So is every other class.
"""

import base64
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitransformer.elsewhere import LOADING, without
from minitransformer.files import CheckpointError, checkpoint_file, optional_json, read_json
from minitransformer.names import listed, nearest, shortened, unexpected_name
from minitransformer.tokenization import pipelines
from minitransformer.tokenization.pipelines import library, library_errors
from minitransformer.tokenization.sentencepiece import MARIAN_FILES, load_marian
from minitransformer.tokenization.special_tokens import (
    CONFIG,
    SPECIAL_TOKENS,
    NamedTokens,
    add_named_tokens,
    read_named_tokens,
)

if TYPE_CHECKING:
    import tokenizers

TOKENIZER = "tokenizer.json"
FILES = (
    *(TOKENIZER, CONFIG, "special_tokens_map.json", "added_tokens.json", "config.json"),
    *("vocab.txt", "vocab.json", "merges.txt", *MARIAN_FILES),
)
_BOOLEANS = (
    *("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces"),
    *("do_lower_case", "strip_accents", "tokenize_chinese_chars", "trim_offsets"),
)
_INPUT_NAMES = frozenset({"input_ids", "token_type_ids", "attention_mask"})
_PIPELINE = ("normalizer", "pre_tokenizer")
_MOST_SENTINELS = 100_000
_NO_LIMIT = 10**20  # Hugging Face writes 1e30 for "no limit"


@dataclass(frozen=True, kw_only=True)
class TokenizerClass:
    """A tokenizer of transformers whose pipeline is built here.

    Attributes:
        name: of the class, without "Fast".
        special_tokens: the tokens of the roles that no file names.
        model: the `tokenizers` model.
        files: its vocabulary, where there is no tokenizer.json.
        components: the types of its components in a tokenizer.json; a file with others is refused.
        settings: fields of tokenizer_config.json, to the component in tokenizer.json and the key
            in it that they set.
    """

    name: str
    special_tokens: Mapping[str, str]
    model: str
    files: tuple[str, ...] = ()
    components: Mapping[str, str | None] = field(default_factory=dict)
    settings: Mapping[str, tuple[str, str]] = field(default_factory=dict)


BERT = TokenizerClass(
    name="BertTokenizer",
    special_tokens=pipelines.BERT,
    model="WordPiece",
    files=("vocab.txt",),
    components={"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"},
    settings={
        "do_lower_case": ("normalizer", "lowercase"),
        "strip_accents": ("normalizer", "strip_accents"),
        "tokenize_chinese_chars": ("normalizer", "handle_chinese_chars"),
    },
)
ROBERTA = TokenizerClass(
    name="RobertaTokenizer",
    special_tokens=pipelines.ROBERTA,
    model="BPE",
    files=("vocab.json", "merges.txt"),
    components={"normalizer": None, "pre_tokenizer": "ByteLevel"},
    settings={"add_prefix_space": ("pre_tokenizer", "add_prefix_space")},
)
GPT2 = replace(ROBERTA, name="GPT2Tokenizer", special_tokens=pipelines.GPT2)
T5 = TokenizerClass(name="T5Tokenizer", special_tokens=pipelines.T5, model="Unigram")
XLM_ROBERTA = TokenizerClass(
    name="XLMRobertaTokenizer", special_tokens=pipelines.ROBERTA, model="Unigram"
)
MARIAN = TokenizerClass(
    name="MarianTokenizer",
    special_tokens=pipelines.T5,
    model="WordLevel",
    files=("vocab.json", *MARIAN_FILES),
)

CLASSES = {known.name: known for known in (BERT, ROBERTA, GPT2, T5, XLM_ROBERTA, MARIAN)} | {
    "BartTokenizer": ROBERTA,
    "DistilBertTokenizer": BERT,
    "ElectraTokenizer": BERT,
}
AS_STORED = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")
MODEL_TYPES = {
    "bart": ROBERTA,
    "bert": BERT,
    "distilbert": BERT,
    "electra": BERT,
    "gpt2": GPT2,
    "marian": MARIAN,
    "roberta": ROBERTA,
    "t5": T5,
    "xlm-roberta": XLM_ROBERTA,
}

# Fields of tokenizer_config.json that would change ids or texts, with the supported values.
ONLY_VALUES: dict[str, tuple[Any, ...]] = {
    "clean_text": (True, None),
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": (False, None),
    "do_basic_tokenize": (True, None),
    "never_split": (None, []),
    "pad_token_type_id": (0, None),
    "separate_vocabs": (False, None),
    "sp_model_kwargs": (None, {}),
    "split_special_tokens": (False, None),
    "subword_tokenizer_type": (None, "wordpiece"),
    "word_tokenizer_type": (None, "basic"),
    "wordpieces_prefix": ("##", None),
}
# Fields that are followed, besides the seven roles and other fields that end in "_token".
FOLLOWED = {
    *("add_bos_token", "add_eos_token", "add_prefix_space", "added_tokens_decoder"),
    *("additional_special_tokens", "clean_up_tokenization_spaces", "do_lower_case", "extra_ids"),
    *("extra_special_tokens", "max_len", "model_input_names", "model_max_length"),
    *("model_specific_special_tokens", "padding_side"),
    *("strip_accents", "tokenize_chinese_chars", "tokenizer_class", "trim_offsets"),
    "truncation_side",
}
# Fields that change neither ids nor texts in these tokenizers.
WITHOUT_EFFECT = {
    *("_commit_hash", "auto_map", "backend", "chat_control_tokens", "chat_template", "device"),
    *("errors", "files_loaded", "from_slow", "full_tokenizer_file", "init_inputs", "is_local"),
    *("keep_accents", "language_codes", "legacy", "local_files_only", "max_length", "merges_file"),
    *("name_or_path", "pad_to_multiple_of", "processor_class"),
    *("remove_space", "response_schema", "response_template", "revision", "source_lang"),
    *("spaces_between_special_tokens", "special_tokens_map_file", "stride", "target_lang"),
    *("tokenizer_file", "truncation_strategy", "use_fast", "verbose", "vocab_file"),
}


def known_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a tokenizer, without those that change nothing in any from_pretrained.

    Raises:
        TypeError: an unknown setting.
    """
    known = {*FOLLOWED, *SPECIAL_TOKENS, "use_fast"} - {"tokenizer_class", "added_tokens_decoder"}
    unknown = {name: value for name, value in settings.items() if name not in known}
    for name in without(unknown, LOADING):
        raise TypeError(unexpected_name("setting", name, sorted(known)))
    return {name: value for name, value in settings.items() if name in known}


def load(path: Path, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The arguments of a :class:`Tokenizer`, from a directory or the path of a file in it.

    Args:
        path: the directory, a tokenizer.json, or a vocabulary of another name.
        settings: fields that replace those of tokenizer_config.json.

    Raises:
        CheckpointError: no tokenizer is found, its class or a setting is not supported, or a file
            is broken or contradicts another one.
    """
    if path.name in FILES and path.name != TOKENIZER and path.is_file():
        path = path.parent  # of vocab.txt and the files beside it
    directory, name = (path, TOKENIZER) if path.is_dir() else (path.parent, path.name)
    config = optional_json(directory, CONFIG)
    given = dict(settings or {})
    if "max_len" in given:  # the name in the first versions
        given.setdefault("model_max_length", given.pop("max_len"))
    _check_fields(str(directory / CONFIG), config)
    _check_fields("from_pretrained", given)
    config |= given
    # null is "not set", but `strip_accents: null` means the same as `do_lower_case`.
    unset = [name for name in _BOOLEANS if config.get(name) is None and name != "strip_accents"]
    config = {name: value for name, value in config.items() if name not in unset}
    known_class = _tokenizer_class(directory, name, config)
    named = read_named_tokens(directory, config, given)
    stored: dict[str, Any] = {}  # parts of tokenizer.json
    if known_class is MARIAN and path.is_dir():
        backend: Any = load_marian(directory, config, named)
        roles = pipelines.T5 | named.roles
    else:
        if (directory / name).exists():
            known_class = None if known_class is MARIAN else known_class
            backend, stored = _read_tokenizer_json(directory, name, known_class, config, given)
        else:
            known_class, backend = _read_vocabulary(directory, name, known_class, config, named)
        with library_errors(str(directory)):
            roles = _add_special_tokens(backend, known_class, directory, config, named)
            _add_post_processor(backend, known_class, config, roles, stored.get("post_processor"))
        _check_settings(backend, config, given, roles, directory / CONFIG)
    padding, truncation = (stored.get(key) or {} for key in ("padding", "truncation"))
    pad_token = padding.get("pad_token")
    if pad_token is not None and backend.token_to_id(pad_token) is not None:
        roles.setdefault("pad_token", pad_token)
    return {
        "backend": backend,
        "special_tokens": {role: token for role, token in roles.items() if token is not None},
        "model_max_length": _model_max_length(directory / CONFIG, config),
        "padding_side": config.get("padding_side") or _side(padding),
        "truncation_side": config.get("truncation_side") or _side(truncation),
        "token_types": _uses_token_types(directory, config, backend),
        "clean_up_tokenization_spaces": config.get("clean_up_tokenization_spaces", False),
        "source": str(path),
    }


def _model_max_length(path: Path, config: Mapping[str, Any]) -> int | None:
    """The limit in tokens, or None if there is none."""
    length = config.get("model_max_length", config.get("max_len"))
    if length is None:
        return None
    if isinstance(length, bool) or not isinstance(length, int | float) or not length >= 1:
        raise CheckpointError(
            f"{path} has model_max_length={shortened(length)}; it must be a number of at least 1"
        )
    return int(length) if length < _NO_LIMIT else None


def _side(part: Mapping[str, Any]) -> str:
    """The side that tokenizer.json names in its padding or truncation."""
    return (part.get("direction") or "right").lower()


# ---- which tokenizer it is ----


def _check_fields(path: str, config: Mapping[str, Any]) -> None:
    """Refuse values that are not supported and misspelled fields; warn of unknown ones."""
    for name in _BOOLEANS:
        if not isinstance(config.get(name), bool | None):
            raise CheckpointError(
                f"{path} has {name}={shortened(config[name])}; it must be true or false"
            )
    count = config.get("extra_ids")
    if count is not None and (type(count) is not int or not 0 <= count <= _MOST_SENTINELS):
        raise CheckpointError(
            f"{path} has extra_ids={shortened(count)}; it must be from 0 to {_MOST_SENTINELS}"
        )
    names = config.get("model_input_names")
    if names is not None and not (isinstance(names, list) and _INPUT_NAMES.issuperset(names)):
        raise CheckpointError(
            f"{path} has model_input_names={shortened(names)}; it must be a list of "
            f"{', '.join(sorted(_INPUT_NAMES))}"
        )
    for name, values in ONLY_VALUES.items():
        if name in config and not any(config[name] == value for value in values):
            raise CheckpointError(
                f"{path} has {name}={shortened(config[name])}, which is not supported; set it to "
                f"{json.dumps(values[0])}"
            )
    fields = {*FOLLOWED, *ONLY_VALUES, *WITHOUT_EFFECT, *SPECIAL_TOKENS}
    unknown = [name for name in config if name not in fields and not name.endswith("_token")]
    for name in unknown:
        right = nearest(name, fields, cutoff=0.9)
        if right is not None and right not in config:
            raise CheckpointError(f"{path}: unknown field {name!r}: did you mean {right!r}?")
    if unknown:
        warnings.warn(f"{path}: unknown fields are ignored: {listed(unknown)}", stacklevel=4)


def _tokenizer_class(
    directory: Path, name: str, config: Mapping[str, Any]
) -> TokenizerClass | None:
    """The class that the files name, or None if tokenizer.json is to be used as it is.

    Raises:
        CheckpointError: it is not supported.
    """
    model = optional_json(directory, "config.json")
    for content, file in ((config, CONFIG), (model, "config.json")):
        if (named := content.get("tokenizer_class")) is None:
            continue
        bare = str(named).removesuffix("Fast")
        if bare in CLASSES:
            return CLASSES[bare]
        if named in AS_STORED:
            return None
        raise CheckpointError(
            f"{directory / file}: tokenizer_class={shortened(named)} is not supported, only "
            f"{', '.join([*CLASSES, *AS_STORED])}; if a tokenizer.json beside it contains "
            "everything, as transformers saves it, set tokenizer_class to 'PreTrainedTokenizerFast'"
        )
    model_type = model.get("model_type")
    if not isinstance(model_type, str | None):
        raise CheckpointError(
            f"{directory / 'config.json'} has model_type={shortened(model_type)}; it must be a name"
        )
    if model_type == "bart" and _has_spm(directory) and not _has_files(directory, ROBERTA):
        model_type = "marian"  # the first of its checkpoints called themselves BART
    if model_type == "marian" and (directory / name).exists():
        return None  # a conversion of its two models; transformers saves none
    if model_type in MODEL_TYPES:
        return MODEL_TYPES[model_type]
    if (directory / name).exists():
        return None
    if model_type is not None and not _has_spm(directory):
        raise CheckpointError(
            f"{directory / 'config.json'}: no tokenizer for model_type={shortened(model_type)} "
            f"without a tokenizer.json, only for {', '.join(MODEL_TYPES)}; if it is one of these, "
            f"set tokenizer_class in {CONFIG}: {', '.join(CLASSES)}"
        )
    return MARIAN if _has_spm(directory) else None


def _has_spm(directory: Path) -> bool:
    return any((directory / model).exists() for model in MARIAN_FILES)


# ---- its vocabulary ----


def _read_tokenizer_json(
    directory: Path,
    name: str,
    known_class: TokenizerClass | None,
    config: Mapping[str, Any],
    given: Mapping[str, Any],
) -> tuple["tokenizers.Tokenizer", dict[str, Any]]:
    """The backend, and the padding, truncation and post-processor in the file.

    Without a class only the settings that from_pretrained was `given` replace those in the file.
    """
    path = checkpoint_file(directory, name)
    content = read_json(path)
    # A stored padding length of 1e10 would abort the process at the first text.
    stored = {key: content.pop(key, None) for key in ("padding", "truncation")}
    _check_parts(path, content | stored)
    with library_errors(str(path)):
        _check_charsmap(content.get("normalizer"))
        if dropout := content["model"].get("dropout"):
            raise ValueError(
                f"dropout={shortened(dropout)} in its model gives a text other ids in every call; "
                "set it to null"
            )
        if known_class is not None:
            _check_components(content, known_class)
        family = known_class or _family(content)
        for setting, (component, key) in family.settings.items() if family else ():
            if setting in (config if known_class else given):
                content[component][key] = config[setting]
        text = json.dumps(content | {"padding": None, "truncation": None})
        backend = library().Tokenizer.from_str(text)
    return backend, {**stored, "post_processor": content.get("post_processor") or {}}


def _check_parts(path: Path, content: Mapping[str, Any]) -> None:
    """Check the types of what is read of a tokenizer.json here, not by the library."""
    parts = ("normalizer", "pre_tokenizer", "post_processor", "padding", "truncation")
    for name in ("model", *parts):
        part = content.get(name)
        if not isinstance(part, dict) and (part is not None or name == "model"):
            raise CheckpointError(f"{path} has {name}={shortened(part)}; it must be an object")
    for name in ("padding", "truncation"):
        side = (content.get(name) or {}).get("direction")
        if side not in (None, "Left", "Right"):
            raise CheckpointError(
                f"{path}: direction={shortened(side)} of {name} must be 'Left' or 'Right'"
            )
    pad_token = (content.get("padding") or {}).get("pad_token")
    if not isinstance(pad_token, str | None):
        raise CheckpointError(
            f"{path}: pad_token={shortened(pad_token)} of padding must be a string"
        )


def _check_components(content: Mapping[str, Any], known_class: TokenizerClass) -> None:
    """Refuse a tokenizer.json that is not of the class that another file names."""
    for component, expected in {"model": known_class.model, **known_class.components}.items():
        found = (content.get(component) or {}).get("type")
        if found != expected and not (component == "model" and found is None):
            raise ValueError(
                f"its {component} is {shortened(found)}, but by tokenizer_class or model_type it "
                f"is a {known_class.name}, whose {component} is {expected}; to use the file as it "
                f"is, set tokenizer_class to 'PreTrainedTokenizerFast' in {CONFIG}"
            )


def _family(content: Mapping[str, Any]) -> TokenizerClass | None:
    """BERT or RoBERTa, if the pipeline in a tokenizer.json has components of its types."""
    found = {name: (part or {}).get("type") for name, part in content.items() if name in _PIPELINE}
    return next(
        (known for known in (BERT, ROBERTA) if {**found, **known.components} == found), None
    )


def _check_charsmap(normalizer: Any) -> None:
    """Refuse a table of characters whose header declares more bytes than there are.

    The library allocates memory before it reads the table, so a length of 8 GB ends the process.
    """
    if not isinstance(normalizer, dict):
        return
    for part in normalizer.get("normalizers") or ():
        _check_charsmap(part)
    if charsmap := normalizer.get("precompiled_charsmap"):
        table = base64.b64decode(charsmap)
        if int.from_bytes(table[:4], "little") > len(table) - 4:
            raise ValueError("the precompiled_charsmap is shorter than its header declares")


def _read_vocabulary(
    directory: Path,
    name: str,
    known_class: TokenizerClass | None,
    config: Mapping[str, Any],
    named: NamedTokens,
) -> tuple[TokenizerClass, "tokenizers.Tokenizer"]:
    """Read vocab.txt, or vocab.json with merges.txt; the class is inferred if no file names one."""
    if known_class is None:
        complete = [known for known in (BERT, GPT2) if _has_files(directory, known)]
        known_class = complete[0] if complete else None
        if known_class is GPT2:
            vocab = read_json(checkpoint_file(directory, "vocab.json"))
            known_class = ROBERTA if "<s>" in vocab and "</s>" in vocab else GPT2
    elif not _has_files(directory, known_class):
        if known_class.files:
            others = [other.name for other in (BERT, GPT2) if _has_files(directory, other)]
            hint = f"; or set tokenizer_class to {others[0]!r} in {CONFIG}" if others else ""
            raise CheckpointError(
                f"{directory} has neither {name} nor {' and '.join(known_class.files)}; by "
                f"tokenizer_class or model_type it is a {known_class.name}, which needs one of "
                f"them{hint}"
            )
        known_class = None
    if known_class is None:
        raise CheckpointError(
            f"{directory} has no {name}, no vocab.txt, and no vocab.json with merges.txt. Convert "
            "a SentencePiece model with transformers: "
            "AutoTokenizer.from_pretrained(directory).save_pretrained(directory)"
        )
    if known_class is BERT:
        return known_class, _read_wordpiece(directory, config, named.roles.get("unk_token"))
    return known_class, _read_byte_level(directory, config)


def _has_files(directory: Path, known_class: TokenizerClass) -> bool:
    files = known_class.files
    return bool(files) and all((directory / file).exists() for file in files)


def _read_wordpiece(
    directory: Path, config: Mapping[str, Any], unk_token: str | None
) -> "tokenizers.Tokenizer":
    """Read vocab.txt, one token per line; it is uncased if no token has an upper-case letter."""
    path = checkpoint_file(directory, "vocab.txt")
    # Not `splitlines`, because some vocabularies have the line separator U+2028 as a token.
    with library_errors(str(path)):
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    bracketed = [token.startswith("[") and token.endswith("]") for token in tokens]
    cased = any(t != t.lower() for t, special in zip(tokens, bracketed, strict=True) if not special)
    with library_errors(str(path)):
        return pipelines.wordpiece(
            {token: index for index, token in enumerate(tokens)},
            lowercase=config.get("do_lower_case", not cased),
            strip_accents=config.get("strip_accents"),
            tokenize_chinese_chars=config.get("tokenize_chinese_chars", True),
            unk_token=unk_token or pipelines.BERT["unk_token"],
        )


def _read_byte_level(directory: Path, config: Mapping[str, Any]) -> "tokenizers.Tokenizer":
    """Read vocab.json (token to id) and merges.txt (one pair per line, in the order of merging)."""
    vocab = read_json(checkpoint_file(directory, "vocab.json"))
    path = checkpoint_file(directory, "merges.txt")
    with library_errors(str(path)):
        merges = []
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            pair = line.split()
            if len(pair) == 2 and not (number == 1 and line.startswith("#version")):
                merges.append((pair[0], pair[1]))
            elif pair and number > 1:
                raise ValueError(f"line {number} has {len(pair)} tokens; it must have two")
        if any(right.endswith("</w>") for _, right in merges):
            raise ValueError(
                "its words end in '</w>': it is BPE of characters, not of bytes, which is not "
                "supported without a tokenizer.json"
            )
    with library_errors(f"{directory / 'vocab.json'} with {path.name}"):
        return pipelines.byte_level(vocab, merges, bool(config.get("add_prefix_space", False)))


# ---- special tokens and settings ----


def _add_special_tokens(
    backend: "tokenizers.Tokenizer",
    known_class: TokenizerClass | None,
    directory: Path,
    config: Mapping[str, Any],
    named: NamedTokens,
) -> dict[str, str | None]:
    """Add the tokens that the files name; return the token of each role."""
    defaults = {} if known_class is None else known_class.special_tokens
    if known_class is T5:  # its sentinels
        for number in range(config.get("extra_ids") or 0):
            named.added.setdefault(f"<extra_id_{number}>", f"<extra_id_{number}>")
    add_named_tokens(backend, named, str(directory), defaults)
    if known_class is None:
        return {**_inferred(backend), **named.roles}
    unnamed = {role: token for role, token in defaults.items() if role not in named.roles}
    present = {r: token for r, token in unnamed.items() if backend.token_to_id(token) is not None}
    pipelines.add_special_tokens(backend, present.values())
    return {**present, **named.roles}


def _add_post_processor(
    backend: "tokenizers.Tokenizer",
    known_class: TokenizerClass | None,
    config: Mapping[str, Any],
    roles: Mapping[str, str | None],
    stored: Mapping[str, Any] | None,
) -> None:
    """Give the backend the post-processor of its class.

    `stored` is that of tokenizer.json, {} if it has none, and None without such a file.
    """
    if known_class is None:
        return
    tokens = {**known_class.special_tokens, **{r: t for r, t in roles.items() if t is not None}}
    if known_class is BERT:
        pipelines.process_as_bert(backend, tokens)
    elif known_class is ROBERTA:
        trims = config.get("trim_offsets", (stored or {}).get("trim_offsets", True))
        pipelines.process_as_roberta(backend, tokens, bool(trims))
    elif known_class is T5:
        pipelines.process_as_t5(backend, tokens)
    elif known_class is XLM_ROBERTA:
        pipelines.process_as_xlm_roberta(backend, tokens)
    elif stored is None:  # GPT-2; in a tokenizer.json its post-processor counts
        bos, eos = (config.get(f"add_{end}_token", False) for end in ("bos", "eos"))
        if bos or eos:
            pipelines.process_with_bos(backend, tokens, bos=bos, eos=eos)


def _inferred(backend: "tokenizers.Tokenizer") -> dict[str, str | None]:
    """The roles of the first family whose bos, eos and cls tokens are special in the backend."""
    added = backend.get_added_tokens_decoder().values()
    present = {token.content for token in added if token.special}
    for family in (pipelines.ROBERTA, pipelines.BERT, pipelines.GPT2, pipelines.T5):
        needed = {family.get(role) for role in ("bos_token", "eos_token", "cls_token")} - {None}
        if needed <= present:
            return {role: token for role, token in family.items() if token in present}
    return {}


def _check_settings(
    backend: "tokenizers.Tokenizer",
    config: Mapping[str, Any],
    given: Mapping[str, Any],
    roles: dict[str, str | None],
    path: Path,
) -> None:
    """Compare the settings in tokenizer_config.json, or `given`, with what the tokenizer does.

    They were applied if the class has them. Otherwise transformers ignores them, and some of its
    versions do not, so a contradiction is refused.
    """

    def normalized(text: str) -> str:
        return text if backend.normalizer is None else backend.normalizer.normalize_str(text)

    def first_word(text: str) -> str:
        words = backend.pre_tokenizer.pre_tokenize_str(text) if backend.pre_tokenizer else []
        return words[0][0] if words else text

    def is_at(position: int, role: str) -> bool:
        tokens = backend.encode("a").tokens
        return bool(tokens) and tokens[position] == roles.get(role)

    done = {
        "do_lower_case": lambda: normalized("A") == "a",
        "strip_accents": lambda: normalized("\u00e9") == "e",
        "tokenize_chinese_chars": lambda: normalized("\u65e5") == " \u65e5 ",
        "add_prefix_space": lambda: first_word("a")[0] in "\u0120\u2581",  # byte-level, Metaspace
        "add_bos_token": lambda: is_at(0, "bos_token"),
        "add_eos_token": lambda: is_at(-1, "eos_token"),
    }
    wrong = [
        name
        for name, does in done.items()
        if config.get(name) is not None and does() != config[name]
    ]
    if wrong:
        fields = " and ".join(f"{name}={config[name]}" for name in wrong)
        if given.keys() & set(wrong):
            raise CheckpointError(
                f"from_pretrained was given {fields}, but the tokenizer in {path.parent} does the "
                "opposite and has no such setting; leave it out"
            )
        raise CheckpointError(
            f"{path} has {fields}, but the tokenizer in {path.parent} does the opposite, and "
            "transformers would ignore it; reverse it there, or save the tokenizer again with what "
            "is meant"
        )


def _uses_token_types(
    directory: Path, config: Mapping[str, Any], backend: "tokenizers.Tokenizer"
) -> bool:
    """Whether calls return `token_type_ids`, which BERT takes but DistilBERT does not."""
    if (names := config.get("model_input_names")) is not None:
        return "token_type_ids" in names
    family = str(config.get("tokenizer_class", "")).lower()
    family += str(optional_json(directory, "config.json").get("model_type", ""))
    return type(backend.model).__name__ == "WordPiece" and "distilbert" not in family

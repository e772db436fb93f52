"""Vocabularies from files, and the tokenization pipeline around a vocabulary.

A vocabulary is a list of tokens. The *pipeline* is everything else in a tokenizer: a normalizer, a
pre-tokenizer that splits the text into words, the special tokens, a post-processor that adds them,
and a decoder. Three pipelines are built here, equal to those of the Hugging Face module in
parentheses:

========== ============================================= =====================================
algorithm  pipeline                                      one text, two texts
========== ============================================= =====================================
bpe        RoBERTa, byte-level (`tokenization_roberta`)  `<s> A </s>`, `<s> A </s></s> B </s>`
wordpiece  BERT (`tokenization_bert`)                    `[CLS] A [SEP]`, `[CLS] A [SEP] B [SEP]`
unigram    XLM-RoBERTa (`tokenization_xlm_roberta`)      as for RoBERTa
========== ============================================= =====================================

They are used for vocabularies from vocab.txt, from vocab.json with merges.txt, and from training; a
tokenizer.json file contains its own pipeline. A *backend* is a `tokenizers.Tokenizer`.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from minitransformer.files import CheckpointError, checkpoint_file, read_json
from minitransformer.names import shortened

if TYPE_CHECKING:
    import tokenizers

# The special tokens of each family. The keys, called roles, are fields of tokenizer_config.json.
ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
BERT = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
GPT2 = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_FAMILIES = (ROBERTA, BERT, GPT2, T5)  # in the order in which a vocabulary is matched

SPECIAL_TOKENS = tuple(ROBERTA)  # the seven roles

# The special tokens of a trained vocabulary, in the order of their ids, which start at 0.
ROBERTA_ORDER = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BERT_ORDER = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def library() -> ModuleType:
    """Import the `tokenizers` library when it is first needed."""
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("tokenizers is not installed: pip install tokenizers") from error
    return tokenizers


# ---- pipelines ----


def byte_level(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], add_prefix_space: bool = False
) -> "tokenizers.Tokenizer":
    """A byte-level BPE backend: RoBERTa's if `<s>` and `</s>` are in `vocab`, else GPT-2's.

    The alphabet is the 256 bytes, so every text can be encoded. GPT-2 adds no special tokens to a
    text, and its offsets include the space before a word; RoBERTa's do not.
    """
    tk = library()
    backend = tk.Tokenizer(tk.models.BPE(vocab=dict(vocab), merges=list(merges)))
    backend.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = tk.decoders.ByteLevel()
    if "<s>" in vocab and "</s>" in vocab:
        _add_special(backend, ROBERTA_ORDER)
        backend.post_processor = tk.processors.RobertaProcessing(
            ("</s>", vocab["</s>"]),
            ("<s>", vocab["<s>"]),
            trim_offsets=True,
            add_prefix_space=add_prefix_space,
        )
    else:
        _add_special(backend, ["<|endoftext|>"])
        backend.post_processor = tk.processors.ByteLevel(trim_offsets=False)
    return backend


def wordpiece(
    vocab: Mapping[str, int],
    lowercase: bool,
    strip_accents: bool | None = None,
    tokenize_chinese_chars: bool = True,
    special_tokens: Mapping[str, str] = BERT,
) -> "tokenizers.Tokenizer":
    """BERT's WordPiece backend.

    Args:
        vocab: token to id.
        lowercase: whether texts are converted to lower case.
        strip_accents: whether accents are removed; None means the same as `lowercase`.
        tokenize_chinese_chars: whether every Chinese character is a separate word.
        special_tokens: the token of each role.

    Raises:
        ValueError: the unk, cls or sep token is not in `vocab`.
    """
    tk = library()
    unk, cls, sep = (special_tokens[role] for role in ("unk_token", "cls_token", "sep_token"))
    for token in (unk, cls, sep):
        if token not in vocab:
            raise ValueError(
                f"the WordPiece vocabulary has no {token!r}, which is required; add it to the file"
            )
    backend = tk.Tokenizer(tk.models.WordPiece(dict(vocab), unk_token=unk))
    backend.normalizer = tk.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=tokenize_chinese_chars,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    backend.pre_tokenizer = tk.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tk.decoders.WordPiece(prefix="##")
    _add_special(backend, special_tokens.values())
    backend.post_processor = tk.processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
    )
    return backend


def unigram(pieces: Sequence[tuple[str, float]]) -> "tokenizers.Tokenizer":
    """XLM-RoBERTa's Unigram backend; `pieces` are tokens with their log probabilities.

    Consecutive white space is treated as one space. XLM-RoBERTa's normalizer is a table in its
    SentencePiece model; this one is NFKC with SentencePiece's rules for control characters.
    """
    tk = library()
    backend = bare_unigram(tk.models.Unigram(list(pieces), ROBERTA_ORDER.index("<unk>")))
    backend.decoder = tk.decoders.Metaspace()
    _add_special(backend, ROBERTA_ORDER)
    backend.post_processor = tk.processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, ROBERTA_ORDER.index(token)) for token in ("<s>", "</s>")],
    )
    return backend


def bare_unigram(model: Any) -> "tokenizers.Tokenizer":
    """A backend with XLM-RoBERTa's normalizer and pre-tokenizer, without special tokens."""
    tk = library()
    backend = tk.Tokenizer(model)
    backend.normalizer = tk.normalizers.Sequence([tk.normalizers.Nmt(), tk.normalizers.NFKC()])
    backend.pre_tokenizer = tk.pre_tokenizers.Sequence(
        [tk.pre_tokenizers.WhitespaceSplit(), tk.pre_tokenizers.Metaspace()]
    )
    return backend


def _add_special(backend: "tokenizers.Tokenizer", tokens: Iterable[str]) -> None:
    """Mark those `tokens` that are in the vocabulary as special; no id is added or changed."""
    tk = library()
    for token in dict.fromkeys(tokens):
        if backend.token_to_id(token) is not None:
            # `<mask>` includes the space before it, so "va <mask>" has no token for the space.
            added = tk.AddedToken(token, lstrip=token == "<mask>", normalized=False, special=True)
            backend.add_special_tokens([added])


# ---- files ----


@contextmanager
def library_errors(source: str) -> Iterator[None]:
    """Turn every error of the library into a CheckpointError that names `source`.

    A panic in its Rust code is raised as a `PanicException`, which is not an `Exception` and is not
    exported by any module, so it is recognized by its name. KeyboardInterrupt, SystemExit and
    ImportError are not caught.
    """
    try:
        yield
    except ImportError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{source} cannot be used: {error}") from error


def optional_json(directory: Path, name: str) -> dict[str, Any]:
    """The JSON object in the file `name`, or an empty one if there is no such file."""
    if not (directory / name).exists():
        return {}
    return read_json(checkpoint_file(directory, name))


def load_backend(directory: Path, name: str, config: dict[str, Any]) -> "tokenizers.Tokenizer":
    """Load the file `name` (tokenizer.json), else vocab.txt, else vocab.json with merges.txt.

    `config` is the content of tokenizer_config.json.

    Raises:
        CheckpointError: none of these files exists, or one is broken.
    """
    if (directory / name).exists():
        path = checkpoint_file(directory, name)
        content = read_json(path)
        # A stored padding length of 1e10 would abort the process at the first text.
        content["padding"] = content["truncation"] = None
        with library_errors(str(path)):
            _check_charsmap(content.get("normalizer"))
            return library().Tokenizer.from_str(json.dumps(content))
    if (directory / "vocab.txt").exists():
        return _load_wordpiece(checkpoint_file(directory, "vocab.txt"), config)
    if (directory / "vocab.json").exists() and (directory / "merges.txt").exists():
        return _load_byte_level(directory, config)
    raise CheckpointError(
        f"{directory} has no {name}, no vocab.txt, and no vocab.json with merges.txt. Convert a "
        "SentencePiece model with transformers: "
        "AutoTokenizer.from_pretrained(directory).save_pretrained(directory)"
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


def _load_wordpiece(path: Path, config: dict[str, Any]) -> "tokenizers.Tokenizer":
    """Read vocab.txt, one token per line; it is uncased if no token has an upper-case letter."""
    # Not `splitlines`, because some vocabularies have the line separator U+2028 as a token.
    with library_errors(str(path)):
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    bracketed = [token.startswith("[") and token.endswith("]") for token in tokens]
    cased = any(t != t.lower() for t, special in zip(tokens, bracketed, strict=True) if not special)
    named = {role: _content(config[role]) for role in BERT if role in config}
    with library_errors(str(path)):
        return wordpiece(
            {token: index for index, token in enumerate(tokens)},
            lowercase=config.get("do_lower_case", not cased),
            strip_accents=config.get("strip_accents"),
            tokenize_chinese_chars=config.get("tokenize_chinese_chars", True),
            special_tokens=BERT | {role: token for role, token in named.items() if token},
        )


def _load_byte_level(directory: Path, config: dict[str, Any]) -> "tokenizers.Tokenizer":
    """Read vocab.json (token to id) and merges.txt (one pair per line, in the order of merging)."""
    vocab = read_json(checkpoint_file(directory, "vocab.json"))
    path = checkpoint_file(directory, "merges.txt")
    with library_errors(str(path)):
        lines = path.read_text(encoding="utf-8").split("\n")
        lines = lines[lines[0].startswith("#version") :]  # the first line may be a comment
        merges = [(left, right) for left, right in (line.split() for line in lines if line)]
        return byte_level(vocab, merges, bool(config.get("add_prefix_space", False)))


def special_tokens(
    directory: Path, config: dict[str, Any], backend: "tokenizers.Tokenizer"
) -> dict[str, str]:
    """Role to token, from tokenizer_config.json, else from special_tokens_map.json, else inferred.

    The inferred tokens are those of the first family whose bos, eos and cls tokens the backend has.
    """
    present = {
        token.content for token in backend.get_added_tokens_decoder().values() if token.special
    }
    inferred: dict[str, str] = {}
    for family in _FAMILIES:
        needed = {family.get(role) for role in ("bos_token", "eos_token", "cls_token")} - {None}
        if needed <= present:
            inferred = {role: token for role, token in family.items() if token in present}
            break
    named = inferred | named_special_tokens(directory, config)
    return {role: token for role, token in named.items() if token is not None}


def named_special_tokens(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Role to token, as the files say; None if a file says that there is no such token."""
    legacy = optional_json(directory, "special_tokens_map.json")
    return {
        role: _content(source[role])
        for source in (legacy, config)
        for role in SPECIAL_TOKENS
        if role in source
    }


def _content(token: Any) -> Any:
    """The text of a special token, which is stored as a string or as an object with flags."""
    return token.get("content") if isinstance(token, dict) else token


def uses_token_types(
    directory: Path, config: dict[str, Any], backend: "tokenizers.Tokenizer"
) -> bool:
    """Whether calls return `token_type_ids`, which BERT takes but DistilBERT does not."""
    if isinstance(names := config.get("model_input_names"), list):
        return "token_type_ids" in names
    family = str(config.get("tokenizer_class", "")).lower()
    family += str(optional_json(directory, "config.json").get("model_type", ""))
    return type(backend.model).__name__ == "WordPiece" and "distilbert" not in family


def cleans_up(directory: Path, config: dict[str, Any]) -> bool:
    """Whether tokenizer_config.json sets `clean_up_tokenization_spaces`.

    The default is False, as in transformers since version 5.0.

    Raises:
        CheckpointError: the value is neither true nor false.
    """
    value = config.get("clean_up_tokenization_spaces")
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(
            f"{directory / 'tokenizer_config.json'} has "
            f"clean_up_tokenization_spaces={shortened(value)}; "
            "it must be true or false"
        )
    return bool(value)

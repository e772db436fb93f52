"""The pipelines around a vocabulary, for vocabularies that are trained or read from text files.

A vocabulary is a list of tokens. The *pipeline* is everything else in a tokenizer: a normalizer, a
pre-tokenizer that splits the text into words, the special tokens, a post-processor that adds them,
and a decoder. Those built here equal those of the Hugging Face module in parentheses:

========== ============================================= =====================================
algorithm  pipeline                                      one text, two texts
========== ============================================= =====================================
bpe        RoBERTa, byte-level (`tokenization_roberta`)  `<s> A </s>`, `<s> A </s></s> B </s>`
bpe        GPT-2, byte-level (`tokenization_gpt2`)       `A`, `A B`
wordpiece  BERT (`tokenization_bert`)                    `[CLS] A [SEP]`, `[CLS] A [SEP] B [SEP]`
unigram    XLM-RoBERTa (`tokenization_xlm_roberta`)      as for RoBERTa
========== ============================================= =====================================

First the vocabulary gets a normalizer, a pre-tokenizer and a decoder, then its special tokens, then
the post-processor that needs their ids. A *backend* is a `tokenizers.Tokenizer`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from minitransformer.files import CheckpointError

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


@contextmanager
def library_errors(source: str) -> Iterator[None]:
    """Turn every error of the library into a CheckpointError that names `source`.

    A panic in its Rust code is raised as a `PanicException`, which is not an `Exception` and is not
    exported by any module, so it is recognized by its name. KeyboardInterrupt, SystemExit,
    ImportError and a CheckpointError pass.
    """
    try:
        yield
    except (ImportError, CheckpointError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{source} cannot be used: {error}") from error


# ---- vocabularies with normalizer, pre-tokenizer and decoder ----


def byte_level(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], add_prefix_space: bool = False
) -> "tokenizers.Tokenizer":
    """A byte-level BPE backend, whose alphabet is the 256 bytes: every text can be encoded.

    Without a further post-processor it is GPT-2's: no special tokens are added to a text, and the
    offsets of a word include the space before it.
    """
    tk = library()
    backend = tk.Tokenizer(tk.models.BPE(vocab=dict(vocab), merges=list(merges)))
    backend.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = tk.decoders.ByteLevel()
    backend.post_processor = tk.processors.ByteLevel(trim_offsets=False)
    return backend


def wordpiece(
    vocab: Mapping[str, int],
    lowercase: bool,
    strip_accents: bool | None = None,
    tokenize_chinese_chars: bool = True,
    unk_token: str = BERT["unk_token"],
) -> "tokenizers.Tokenizer":
    """A WordPiece backend with BERT's normalizer.

    Args:
        vocab: token to id.
        lowercase: whether texts are converted to lower case.
        strip_accents: whether accents are removed; None means the same as `lowercase`.
        tokenize_chinese_chars: whether every Chinese character is a separate word.
        unk_token: the token of words that cannot be split.

    Raises:
        ValueError: `unk_token` is not in `vocab`.
    """
    tk = library()
    if unk_token not in vocab:
        raise ValueError(_missing(unk_token, "unk_token"))
    backend = tk.Tokenizer(tk.models.WordPiece(dict(vocab), unk_token=unk_token))
    backend.normalizer = tk.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=tokenize_chinese_chars,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    backend.pre_tokenizer = tk.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tk.decoders.WordPiece(prefix="##")
    return backend


def unigram(pieces: Sequence[tuple[str, float]]) -> "tokenizers.Tokenizer":
    """A Unigram backend with XLM-RoBERTa's special tokens first.

    Consecutive white space is treated as one space. XLM-RoBERTa's normalizer is a table in its
    SentencePiece model; this one is NFKC with SentencePiece's rules for control characters.

    Args:
        pieces: tokens with their log probabilities, in the order of their ids.
    """
    tk = library()
    backend = bare_unigram(tk.models.Unigram(list(pieces), ROBERTA_ORDER.index("<unk>")))
    backend.decoder = tk.decoders.Metaspace()
    return backend


def bare_unigram(model: Any) -> "tokenizers.Tokenizer":
    """A backend with XLM-RoBERTa's normalizer and pre-tokenizer, without a decoder."""
    tk = library()
    backend = tk.Tokenizer(model)
    backend.normalizer = tk.normalizers.Sequence([tk.normalizers.Nmt(), tk.normalizers.NFKC()])
    backend.pre_tokenizer = tk.pre_tokenizers.Sequence(
        [tk.pre_tokenizers.WhitespaceSplit(), tk.pre_tokenizers.Metaspace()]
    )
    return backend


# ---- special tokens ----


def add_special_tokens(backend: "tokenizers.Tokenizer", tokens: Iterable[str]) -> None:
    """Mark those `tokens` that are in the vocabulary as special; no id is added or changed.

    Those that are special already, as in a tokenizer.json, stay as they are.
    """
    tk = library()
    special = {t.content for t in backend.get_added_tokens_decoder().values() if t.special}
    for token in dict.fromkeys(tokens):
        if token not in special and backend.token_to_id(token) is not None:
            # `<mask>` includes the space before it, so "va <mask>" has no token for the space.
            added = tk.AddedToken(token, lstrip=token == "<mask>", normalized=False, special=True)
            backend.add_special_tokens([added])


# ---- post-processors ----


def process_as_bert(backend: "tokenizers.Tokenizer", special_tokens: Mapping[str, str]) -> None:
    """`[CLS] A [SEP]`, and `[CLS] A [SEP] B [SEP]` with token type 1 for `B [SEP]`.

    Raises:
        ValueError: the vocabulary lacks one of the two tokens.
    """
    (cls, cls_id), (sep, sep_id) = (
        _token(backend, special_tokens, role) for role in ("cls_token", "sep_token")
    )
    backend.post_processor = library().processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, cls_id), (sep, sep_id)],
    )


def process_as_roberta(
    backend: "tokenizers.Tokenizer",
    special_tokens: Mapping[str, str] = ROBERTA,
    trim_offsets: bool = True,
) -> None:
    """`<s> A </s>`, and `<s> A </s></s> B </s>`.

    Args:
        backend: byte-level.
        special_tokens: the tokens of the roles cls and sep.
        trim_offsets: whether the offsets of a word leave out the space before it.

    Raises:
        ValueError: the vocabulary lacks one of the two tokens.
    """
    cls, sep = (_token(backend, special_tokens, role) for role in ("cls_token", "sep_token"))
    backend.post_processor = library().processors.RobertaProcessing(
        sep, cls, trim_offsets=trim_offsets, add_prefix_space=backend.pre_tokenizer.add_prefix_space
    )


def process_as_xlm_roberta(
    backend: "tokenizers.Tokenizer", special_tokens: Mapping[str, str] = ROBERTA
) -> None:
    """As for RoBERTa, but for a vocabulary that is not byte-level."""
    cls, sep = (_token(backend, special_tokens, role) for role in ("cls_token", "sep_token"))
    (start, _), (end, _) = cls, sep
    backend.post_processor = library().processors.TemplateProcessing(
        single=[start, "$A", end],
        pair=[start, "$A", end, end, "$B", end],
        special_tokens=[cls, sep],
    )


def process_as_t5(backend: "tokenizers.Tokenizer", special_tokens: Mapping[str, str]) -> None:
    """`A </s>`, and `A </s> B </s>`.

    Raises:
        ValueError: the vocabulary lacks the end token.
    """
    eos, eos_id = _token(backend, special_tokens, "eos_token")
    backend.post_processor = library().processors.TemplateProcessing(
        single=["$A", eos], pair=["$A", eos, "$B", eos], special_tokens=[(eos, eos_id)]
    )


def process_with_bos(
    backend: "tokenizers.Tokenizer", special_tokens: Mapping[str, str], eos: bool, bos: bool
) -> None:
    """`bos A eos`, and `bos A eos bos B eos`, each token only if it is asked for.

    Raises:
        ValueError: the vocabulary lacks one of the tokens.
    """
    start = [_token(backend, special_tokens, "bos_token")] * bos
    end = [_token(backend, special_tokens, "eos_token")] * eos
    first, last = [token for token, _ in start], [token for token, _ in end]
    backend.post_processor = library().processors.TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *last, *first, "$B", *last],
        special_tokens=list(dict(start + end).items()),
    )


def _token(
    backend: "tokenizers.Tokenizer", special_tokens: Mapping[str, str], role: str
) -> tuple[str, int]:
    """The token of a role, and its id."""
    token = special_tokens[role]
    token_id = backend.token_to_id(token)
    if token_id is None:
        raise ValueError(_missing(token, role))
    return token, token_id


def _missing(token: str, role: str) -> str:
    return f"the vocabulary has no {token!r}, its {role}, which is required; add it to the file"

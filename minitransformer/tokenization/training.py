"""Train a vocabulary on texts, so that the same texts always give the same vocabulary.

A bare `tokenizers.Tokenizer` is trained; its vocabulary then gets the same pipeline as a vocabulary
that is loaded from files (see :mod:`minitransformer.tokenization.pipelines`).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitransformer.files import not_utf8
from minitransformer.names import shortened, unexpected_name
from minitransformer.tokenization.arguments import check_unicode
from minitransformer.tokenization.pipelines import (
    BERT,
    BERT_ORDER,
    ROBERTA_ORDER,
    add_special_tokens,
    bare_unigram,
    byte_level,
    library,
    process_as_bert,
    process_as_roberta,
    process_as_xlm_roberta,
    unigram,
    wordpiece,
)

if TYPE_CHECKING:
    import tokenizers

_NO_LISTS = (str, bytes, Mapping)  # iterables whose items are no texts
ALGORITHMS = ("bpe", "wordpiece", "unigram")
_LARGEST = 10_000_000  # vocabulary; the largest have about a quarter of a million tokens
_UNIGRAM_STEP = 1e-4  # between the scores of characters that the trainer adds
Corpus = Callable[["tokenizers.Tokenizer", Any], None]  # trains a backend with a trainer


def train(
    files: str | Path | Sequence[str | Path] | None,
    texts: Iterable[str | Sequence[str]] | None,
    vocab_size: int,
    algorithm: str,
    min_frequency: int,
    lowercase: bool,
    show_progress: bool,
) -> "tokenizers.Tokenizer":
    """Train a vocabulary; see `Tokenizer.train`.

    The same texts give the same vocabulary in every process. The library itself is deterministic
    only for BPE; :func:`_train_wordpiece` and :func:`_train_unigram` describe what is done for the
    other algorithms.

    Raises:
        ValueError: an unknown algorithm, a `vocab_size` that is too small for the special tokens
            and the alphabet.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(unexpected_name("algorithm", str(algorithm), ALGORITHMS))
    if lowercase and algorithm != "wordpiece":
        raise ValueError(f"lowercase=True needs algorithm='wordpiece', not {shortened(algorithm)}")
    for name, value in (("vocab_size", vocab_size), ("min_frequency", min_frequency)):
        if type(value) is not int or not 0 <= value <= _LARGEST:
            raise ValueError(f"{name}={shortened(value)} must be an integer from 0 to {_LARGEST:,}")
    options = {"vocab_size": vocab_size, "show_progress": show_progress}
    smallest = len(BERT_ORDER) + (256 if algorithm == "bpe" else 1)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size={vocab_size} is too small for {algorithm}; it needs at least {smallest}"
        )
    corpus = _corpus(files, texts)
    if algorithm == "bpe":
        backend = _train_byte_level(corpus, min_frequency=min_frequency, **options)
    elif algorithm == "wordpiece":
        backend = _train_wordpiece(corpus, lowercase, min_frequency=min_frequency, **options)
    else:
        backend = _train_unigram(corpus, **options)
    # The WordPiece trainer keeps every character, even if `vocab_size` is smaller.
    if (size := backend.get_vocab_size()) > vocab_size:
        raise ValueError(
            f"vocab_size={vocab_size} is too small: the special tokens and the characters of these "
            f"texts alone need {size} tokens"
        )
    return backend


def _corpus(
    files: str | Path | Sequence[str | Path] | None,
    texts: Iterable[str | Sequence[str]] | None,
) -> Corpus:
    """What a vocabulary is trained on: the lines of UTF-8 `files`, or `texts`.

    Raises:
        TypeError: `texts` contains something else than texts.
        ValueError: both or neither are given, they contain no text, or a file is not UTF-8.
    """
    if (files is None) == (texts is None):
        raise ValueError(
            "train needs either files or texts: Tokenizer.train('corpus.txt'), or "
            "Tokenizer.train(texts=['one text', 'another'])"
        )
    if files is not None:
        paths = _checked_files(files)
        return lambda backend, trainer: backend.train(paths, trainer)
    in_memory = _checked_texts(texts)
    return lambda backend, trainer: backend.train_from_iterator(in_memory, trainer)


def _checked_files(files: Any) -> list[str]:
    """The paths, after checking that each is UTF-8 text; the library's errors name no file."""
    is_one = isinstance(files, str) or not isinstance(files, Iterable)
    paths = [files] if is_one else list(files)
    if not paths:
        raise ValueError("files is empty: name at least one text file to train on")
    for given in paths:
        if not isinstance(given, str | Path) or not _is_file(given):
            raise ValueError(
                f"{shortened(str(given))[1:-1]} is not a file; give text files to train on, or "
                "texts in memory: Tokenizer.train(texts=texts)"
            )
    for path in map(Path, paths):
        try:
            with path.open(encoding="utf-8") as stream:
                has_text = any(line.strip() for line in stream)
                while stream.read(2**20):  # `any` stops early, but the rest must be UTF-8 too
                    pass
        except UnicodeDecodeError as error:
            raise not_utf8(path) from error
        if not has_text:
            raise ValueError(f"{path} contains no text; leave it out")
    return [str(path) for path in paths]


def _is_file(path: str | Path) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a text that is too long, or has a NUL, is no path
        return False


def _checked_texts(texts: Any) -> list[str]:
    """The texts of an iterable, whose items may be lists of texts."""
    if isinstance(texts, _NO_LISTS) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be an iterable of texts, not {shortened(texts)}")
    checked: list[str] = []
    for item in texts:
        is_list = isinstance(item, Iterable) and not isinstance(item, _NO_LISTS)
        for text in item if is_list else [item]:
            if not isinstance(text, str):
                hint = "; pass texts=(item['text'] for item in ...)" * isinstance(text, Mapping)
                raise TypeError(
                    f"text {len(checked)} must be a str, not {type(text).__name__}: "
                    f"{shortened(text)}{hint}"
                )
            check_unicode(f"text {len(checked)}", text)
            checked.append(str(text))
    if not any(text.strip() for text in checked):
        raise ValueError("texts contain no text to train on")
    return checked


def _train_byte_level(corpus: Corpus, **options: Any) -> "tokenizers.Tokenizer":
    """Train with all 256 bytes as the initial alphabet, so that every text can be encoded."""
    tk = library()
    backend = tk.Tokenizer(tk.models.BPE())
    backend.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tk.pre_tokenizers.ByteLevel.alphabet()
    trainer = tk.trainers.BpeTrainer(
        special_tokens=ROBERTA_ORDER, initial_alphabet=alphabet, **options
    )
    corpus(backend, trainer)
    model = _model(backend)
    backend = byte_level(model["vocab"], [(left, right) for left, right in model["merges"]])
    add_special_tokens(backend, ROBERTA_ORDER)
    process_as_roberta(backend)
    return backend


def _train_wordpiece(corpus: Corpus, lowercase: bool, **options: Any) -> "tokenizers.Tokenizer":
    """Train in two passes over the texts, of which the first only finds the alphabet.

    The trainer assigns ids to the tokens `##c` in the order of a randomly seeded hash table, and
    breaks ties between merges by these ids. Passed as special tokens, in sorted order, they get the
    same ids in every process.
    """
    tk = library()

    def vocabulary(initial_tokens: list[str], **changed: Any) -> dict[str, int]:
        backend = tk.Tokenizer(tk.models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = tk.normalizers.BertNormalizer(lowercase=lowercase)
        backend.pre_tokenizer = tk.pre_tokenizers.BertPreTokenizer()
        trainer = tk.trainers.WordPieceTrainer(special_tokens=initial_tokens, **(options | changed))
        corpus(backend, trainer)
        return dict(_model(backend)["vocab"])

    alphabet = vocabulary(BERT_ORDER, vocab_size=1, show_progress=False)
    ordered = BERT_ORDER + sorted(alphabet.keys() - set(BERT_ORDER))
    backend = wordpiece(vocabulary(ordered), lowercase)
    add_special_tokens(backend, BERT_ORDER)
    process_as_bert(backend, BERT)
    return backend


def _train_unigram(corpus: Corpus, vocab_size: int, **options: Any) -> "tokenizers.Tokenizer":
    """Train, then remove what depends on the trainer's randomly seeded hash tables.

    Two things do: (1) the last digits of the scores, which are summed in the order of a table, and
    (2) the order of the characters that were not selected as tokens, but are needed. The trainer
    gives them the scores m, m + step, m + 2 step, ..., where m is the smallest score. So scores are
    rounded to fewer digits, and these characters get their scores in alphabetical order.
    """
    tk = library()
    backend = bare_unigram(tk.models.Unigram())
    trainer = tk.trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=ROBERTA_ORDER,
        unk_token="<unk>",
        **options,
    )
    try:
        corpus(backend, trainer)
    except Exception as error:
        raise ValueError(
            f"the Unigram trainer failed ({error}); if the error is about the vocabulary, make "
            f"vocab_size={vocab_size} larger: it must include all characters of the texts"
        ) from error
    scores = {
        token: score for token, score in _model(backend)["vocab"] if token not in ROBERTA_ORDER
    }
    smallest = min(scores.values())

    def was_added(token: str) -> bool:
        steps = (scores[token] - smallest) / _UNIGRAM_STEP
        return len(token) == 1 and abs(steps - round(steps)) < 1e-5

    for rank, token in enumerate(sorted(filter(was_added, scores))):
        scores[token] = smallest + rank * _UNIGRAM_STEP
    rounded = [(token, round(score, 6)) for token, score in scores.items()]
    rounded.sort(key=lambda piece: (-piece[1], piece[0]))
    backend = unigram([(token, 0.0) for token in ROBERTA_ORDER] + rounded)
    add_special_tokens(backend, ROBERTA_ORDER)
    process_as_xlm_roberta(backend)
    return backend


def _model(backend: "tokenizers.Tokenizer") -> dict[str, Any]:
    """The vocabulary and merges of a backend, which are accessible only in its JSON."""
    return dict(json.loads(backend.to_str())["model"])

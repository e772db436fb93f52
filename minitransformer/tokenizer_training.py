"""Training a vocabulary on text files, so that the same files always give the same one.

Training runs on a bare backend (a `tokenizers.Tokenizer`); the vocabulary that comes out is then
put into the same arrangement that a vocabulary from files gets.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitransformer import tokenizer_loading as arrangements
from minitransformer.files import not_utf8
from minitransformer.names import unexpected_name

if TYPE_CHECKING:
    import tokenizers

ALGORITHMS = ("bpe", "wordpiece", "unigram")
_UNIGRAM_STEP = 1e-4  # between the scores of the characters that the trainer adds at the end


def train(
    files: str | Path | Sequence[str | Path],
    vocab_size: int,
    algorithm: str,
    min_frequency: int,
    lowercase: bool,
    show_progress: bool,
) -> "tokenizers.Tokenizer":
    """Train a vocabulary on the lines of UTF-8 `files`; see `Tokenizer.train`.

    The same files give the same vocabulary, in every process. The library promises that for BPE
    alone, so the other two get help: :func:`_train_wordpiece`, :func:`_train_unigram`.

    Raises:
        ValueError: an unknown algorithm, a `vocab_size` that is too small for the special tokens
            and the alphabet, or a file that is missing, empty, or not UTF-8.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(unexpected_name("algorithm", str(algorithm), ALGORITHMS))
    if lowercase and algorithm != "wordpiece":
        raise ValueError(f"lowercase=True is for algorithm='wordpiece'; {algorithm!r} keeps case")
    paths = _checked_files(files)
    options = {"vocab_size": vocab_size, "show_progress": show_progress}
    smallest = len(arrangements.BERT_ORDER) + (256 if algorithm == "bpe" else 1)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size={vocab_size} is too small for {algorithm}: {smallest} or more"
        )
    if algorithm == "bpe":
        backend = _train_byte_level(paths, min_frequency=min_frequency, **options)
    elif algorithm == "wordpiece":
        backend = _train_wordpiece(paths, lowercase, min_frequency=min_frequency, **options)
    else:
        backend = _train_unigram(paths, **options)
    # The WordPiece trainer keeps every character, however small the vocabulary should be.
    if (size := backend.get_vocab_size()) > vocab_size:
        raise ValueError(
            f"vocab_size={vocab_size} is too small: the special tokens and the characters of these "
            f"files alone are {size} tokens"
        )
    return backend


def _checked_files(files: str | Path | Sequence[str | Path]) -> list[str]:
    """The paths, each read through once, because the library's own errors name no file."""
    paths = [files] if isinstance(files, (str, Path)) else list(files)
    if not paths:
        raise ValueError("files is empty: name at least one text file to train on")
    for path in map(Path, paths):
        if not path.is_file():
            raise ValueError(f"{path} is not a file; a tokenizer is trained on text files")
        try:
            with path.open(encoding="utf-8") as stream:
                has_text = any(line.strip() for line in stream)
                while stream.read(2**20):  # `any` stopped early; the rest must be UTF-8 as well
                    pass
        except UnicodeDecodeError as error:
            raise not_utf8(path) from error
        if not has_text:
            raise ValueError(f"{path} is empty; every file must hold some text")
    return [str(path) for path in paths]


@contextmanager
def _too_small(vocab_size: int) -> Iterator[None]:
    """Say what the Unigram trainer's error about its vocabulary means."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"the Unigram trainer failed ({error}); where it names the vocabulary, "
            f"vocab_size={vocab_size} does not hold the characters of these files: make it larger"
        ) from error


def _train_byte_level(paths: list[str], **options: Any) -> "tokenizers.Tokenizer":
    """Train from the full alphabet of 256 bytes on, so that no text is ever unknown."""
    tk = arrangements.library()
    scratch = tk.Tokenizer(tk.models.BPE())
    scratch.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tk.pre_tokenizers.ByteLevel.alphabet()
    trainer = tk.trainers.BpeTrainer(
        special_tokens=arrangements.ROBERTA_ORDER, initial_alphabet=alphabet, **options
    )
    scratch.train(paths, trainer)
    model = _model(scratch)
    return arrangements.byte_level(
        model["vocab"], [(left, right) for left, right in model["merges"]]
    )


def _train_wordpiece(paths: list[str], lowercase: bool, **options: Any) -> "tokenizers.Tokenizer":
    """Two passes over the files; the first finds the alphabet, which takes no merges.

    The trainer numbers the pieces `##c` in the order of a randomly seeded hash table, and breaks
    ties between merges by those numbers. Named in advance, in sorted order, they are always the
    same.
    """
    tk = arrangements.library()

    def vocabulary(first: list[str], **changed: Any) -> dict[str, int]:
        scratch = tk.Tokenizer(tk.models.WordPiece(unk_token="[UNK]"))
        scratch.normalizer = tk.normalizers.BertNormalizer(lowercase=lowercase)
        scratch.pre_tokenizer = tk.pre_tokenizers.BertPreTokenizer()
        trainer = tk.trainers.WordPieceTrainer(special_tokens=first, **(options | changed))
        scratch.train(paths, trainer)
        return dict(_model(scratch)["vocab"])

    alphabet = vocabulary(arrangements.BERT_ORDER, vocab_size=1, show_progress=False)
    ordered = arrangements.BERT_ORDER + sorted(alphabet.keys() - set(arrangements.BERT_ORDER))
    return arrangements.wordpiece(vocabulary(ordered), lowercase)


def _train_unigram(paths: list[str], vocab_size: int, **options: Any) -> "tokenizers.Tokenizer":
    """Train, then undo what the trainer's randomly seeded hash tables decided.

    They decide (1) the last digits of the scores, which are sums in the order of the table, and
    (2) in which order the characters that earned no place of their own get the scores m, m + step,
    m + 2 step, ... from the smallest score m up. So scores are rounded, far above that noise, and
    those characters get their scores in alphabetical order.
    """
    tk = arrangements.library()
    scratch = arrangements.bare_unigram(tk.models.Unigram())
    trainer = tk.trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=arrangements.ROBERTA_ORDER,
        unk_token="<unk>",
        **options,
    )
    with _too_small(vocab_size):
        scratch.train(paths, trainer)
    scores = {
        token: score
        for token, score in _model(scratch)["vocab"]
        if token not in arrangements.ROBERTA_ORDER
    }
    smallest = min(scores.values())

    def on_a_step(token: str) -> bool:
        steps = (scores[token] - smallest) / _UNIGRAM_STEP
        return len(token) == 1 and abs(steps - round(steps)) < 1e-5

    for rank, token in enumerate(sorted(filter(on_a_step, scores))):
        scores[token] = smallest + rank * _UNIGRAM_STEP
    rounded = [(token, round(score, 6)) for token, score in scores.items()]
    rounded.sort(key=lambda piece: (-piece[1], piece[0]))
    return arrangements.unigram([(token, 0.0) for token in arrangements.ROBERTA_ORDER] + rounded)


def _model(backend: "tokenizers.Tokenizer") -> dict[str, Any]:
    """The vocabulary and merges of a backend, which only its JSON shows."""
    return dict(json.loads(backend.to_str())["model"])

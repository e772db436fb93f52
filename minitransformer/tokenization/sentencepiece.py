"""Marian's tokenizer: SentencePiece splits a text into pieces, and vocab.json contains their ids.

A Marian checkpoint has two SentencePiece models, source.spm for the texts to translate and
target.spm for their translations, and one vocabulary for both. The ids inside the models are not
used: a piece that is not in vocab.json becomes `<unk>`, and a piece that only the other language's
model knows may have an id all the same. `</s>` is added at the end of a text, and nothing at its
beginning; for a model with several target languages the text itself begins with a language code, as
in `>>fra<< Good morning.`

A :class:`Tokenizer` uses :class:`SentencePieceBackend` instead of a `tokenizers.Tokenizer`. It
contains one, which does everything after the split into pieces: ids, truncation, windows, padding.
The ids are those of transformers' MarianTokenizer.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from minitransformer.files import CheckpointError, checkpoint_file, read_json, write_json
from minitransformer.names import shortened
from minitransformer.tokenization import pipelines
from minitransformer.tokenization.special_tokens import SPECIAL_TOKENS, NamedTokens

if TYPE_CHECKING:
    import sentencepiece
    import tokenizers

MARIAN_FILES = ("source.spm", "target.spm")  # the two models
_SPACE = "\u2581"  # represents a space in a piece
_LARGEST_MODEL = 64 * 2**20  # bytes; the models of real checkpoints are about 1 MB
# The files that list added tokens.
_ADDED = "added_tokens.json, special_tokens_map.json or tokenizer_config.json"
_SAVED_AGAIN = ("source_lang", "target_lang")  # fields that do not change ids, and are saved again


def library() -> ModuleType:
    """Import the `sentencepiece` library when it is first needed."""
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            "a tokenizer with source.spm and target.spm needs the sentencepiece library: "
            "pip install 'sentencepiece>=0.2.3'"
        ) from error
    if not hasattr(sentencepiece.SentencePieceProcessor, "encode_as_offset_mapping"):
        raise ImportError(
            f"sentencepiece {sentencepiece.__version__} does not return the offsets of pieces; "
            "install a newer version: pip install 'sentencepiece>=0.2.3'"
        )
    return sentencepiece


class PieceEncoding:
    """The library's `Encoding` of a sequence of T tokens, with offsets and word ids of the text.

    The library receives pieces, so its own offsets refer to characters of a piece, and its word ids
    are indices of pieces. Here `offsets` and `word_ids` refer to the text. They are computed on
    access, because that takes longer than encoding; every other attribute is the `Encoding`'s.
    """

    def __init__(
        self,
        encoding: "tokenizers.Encoding",
        backend: "SentencePieceBackend",
        texts: Sequence[str | list[str]],
    ) -> None:
        self._encoding = encoding
        self._backend = backend
        self._texts = texts

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_encoding":  # not set yet while unpickling
            raise AttributeError(name)
        return getattr(self._encoding, name)

    def __len__(self) -> int:
        return len(self._encoding)

    @property
    def offsets(self) -> list[tuple[int, int]]:
        return [(0, 0) if piece is None else piece.span for piece in self._pieces()]

    @property
    def word_ids(self) -> list[int | None]:
        return [None if piece is None else piece.word for piece in self._pieces()]

    def char_to_token(self, char_index: int, sequence_index: int = 0) -> int | None:
        spans = enumerate(zip(self.offsets, self._encoding.sequence_ids, strict=True))
        found = (t for t, ((a, b), s) in spans if s == sequence_index and a <= char_index < b)
        return next(found, None)

    @property
    def overflowing(self) -> list["PieceEncoding"]:
        windows = self._encoding.overflowing
        return [PieceEncoding(window, self._backend, self._texts) for window in windows]

    @cached_property
    def _pieces_of_texts(self) -> list[list["_Piece"]]:
        return [
            list(self._backend.pieces_with_offsets(text))
            if isinstance(text, str)
            else [
                _Piece(piece.span, index)
                for index, word in enumerate(text)
                for piece in self._backend.pieces_with_offsets(word)
            ]
            for text in self._texts
        ]

    def _pieces(self) -> list["_Piece | None"]:
        """For each of the T tokens its piece; None for special tokens outside the texts."""
        indices = zip(self._encoding.sequence_ids, self._encoding.word_ids, strict=True)
        return [
            None if text is None or piece is None else self._pieces_of_texts[text][piece]
            for text, piece in indices
        ]


@dataclass(frozen=True)
class _Piece:
    """A piece and its position in the text.

    Attributes:
        span: its characters, (first, last + 1), without the space before a word, unless the piece
            is only a space.
        word: the index of its word; a word begins after each space and each special token.
    """

    span: tuple[int, int]
    word: int


class SentencePieceBackend:
    """The interface of a `tokenizers.Tokenizer`, with SentencePiece as its pre-tokenizer.

    Args:
        vocabulary: a `tokenizers.Tokenizer` whose model looks up whole pieces, and whose
            post-processor adds the special tokens.
        source: the SentencePiece model that splits texts.
        target: the SentencePiece model that splits target texts, and that decodes.
        config: the fields of tokenizer_config.json that are saved unchanged.
    """

    def __init__(
        self,
        vocabulary: "tokenizers.Tokenizer",
        source: "sentencepiece.SentencePieceProcessor",
        target: "sentencepiece.SentencePieceProcessor",
        config: Mapping[str, Any],
    ) -> None:
        self.vocabulary = vocabulary
        self._source = source
        self._target = target
        self._config = dict(config)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "vocabulary":  # not set yet while unpickling
            raise AttributeError(name)
        return getattr(self.vocabulary, name)

    def for_targets(self) -> "SentencePieceBackend":
        """The same vocabulary, but the target's model splits the texts."""
        return SentencePieceBackend(self.vocabulary, self._target, self._target, self._config)

    def encode_batch(
        self,
        inputs: Sequence[Any],
        is_pretokenized: bool = False,
        add_special_tokens: bool = True,
    ) -> list[PieceEncoding]:
        """Encode texts and pairs of texts, as `tokenizers.Tokenizer.encode_batch` does."""
        samples = [sample if isinstance(sample, tuple) else (sample,) for sample in inputs]
        special = self._special_pattern()
        pieces = [
            tuple(
                [piece for part in _words(text) for piece in self._pieces(part, special)]
                for text in sample
            )
            for sample in samples
        ]
        # Special tokens were found before the split, so the library must not look for them inside
        # pieces. This is set in every call, because copying the vocabulary resets it.
        self.vocabulary.encode_special_tokens = True
        encodings = self.vocabulary.encode_batch(
            [sample if len(sample) == 2 else sample[0] for sample in pieces],
            is_pretokenized=True,
            add_special_tokens=add_special_tokens,
        )
        return [
            PieceEncoding(encoding, self, sample)
            for encoding, sample in zip(encodings, samples, strict=True)
        ]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Decode ids with the target's model; a special token is followed by a space."""
        tokens = [str(self.vocabulary.id_to_token(token_id)) for token_id in ids]
        return self.decode_tokens(tokens, skip_special_tokens)

    def decode_tokens(self, tokens: Sequence[str], skip_special_tokens: bool = False) -> str:
        """Decode tokens, see :meth:`decode`."""
        special = self._special_tokens()
        text, run = "", list[str]()
        for token in tokens:
            if token not in special:
                run.append(token)
            elif not skip_special_tokens:
                text += f"{self._target.decode_pieces(run)}{token} "
                run = []
        text += self._target.decode_pieces(run)
        return text.replace(_SPACE, " ").strip()

    def save_files(self, directory: Path) -> dict[str, Any]:
        """Write vocab.json and the two models; return the fields for tokenizer_config.json."""
        vocab = self.vocabulary.get_vocab(with_added_tokens=True)
        write_json(directory / "vocab.json", dict(sorted(vocab.items(), key=lambda item: item[1])))
        for name, model in (("source.spm", self._source), ("target.spm", self._target)):
            (directory / name).write_bytes(model.serialized_model_proto())
        return {**self._config, "tokenizer_class": "MarianTokenizer"}

    def pieces_with_offsets(self, text: str) -> Iterator[_Piece]:
        """The pieces of `text` with their positions, in the order of :meth:`encode_batch`."""
        word = -1
        for start, code, rest in _parts(text, self._special_pattern()):
            if code:
                word += 1
                yield _Piece((start, start + len(code)), word)
            found = self._source.encode(rest, out_type="offset_mapping")
            start += len(code)
            for index, piece in enumerate(found["pieces"]):
                first, last = (start + offset for offset in found["offsets"][index])
                blank = len(text[first:last]) - len(text[first:last].lstrip())
                first += blank if first + blank < last else 0
                word += index == 0 or piece.startswith(_SPACE)
                yield _Piece((first, last), word)

    def _pieces(self, text: str, special: re.Pattern[str]) -> list[str]:
        pieces: list[str] = []
        for _, code, rest in _parts(text, special):
            pieces += [code] if code else []
            pieces += self._source.encode(rest, out_type=str)
        return pieces

    def _special_tokens(self) -> set[str]:
        added = self.vocabulary.get_added_tokens_decoder().values()
        return {token.content for token in added}

    def _special_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._special_tokens(), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


def _words(text: str | list[str]) -> list[str]:
    """The words of a text that was given as words; a text itself is one part."""
    return [text] if isinstance(text, str) else text


def _parts(text: str, special: re.Pattern[str]) -> Iterator[tuple[int, str, str]]:
    """Split `text` at special tokens: yield the start of each part, its first piece, and the rest.

    The first piece is a special token, or a language code `>>...<<` at the start of the part, which
    need not be in the vocabulary, or empty. SentencePiece splits the rest.
    """
    start = 0
    for index, part in enumerate(special.split(text)):
        end = part.find("<<") if part.startswith(">>") else -1
        code = part[: end + 2] if end != -1 else ""
        # The parts with odd indices are special tokens.
        yield (start, part, "") if index % 2 else (start, code, part[len(code) :])
        start += len(part)


# ---- files ----


def load_marian(
    directory: Path, config: Mapping[str, Any], named: NamedTokens
) -> SentencePieceBackend:
    """Read vocab.json, source.spm and target.spm.

    Args:
        directory: of the files.
        config: the content of tokenizer_config.json.
        named: the special tokens that the files name.

    Raises:
        CheckpointError: a file is missing or broken, or a setting is not supported.
        ImportError: the `sentencepiece` library is not installed, or too old.
    """
    source, target = (_model(checkpoint_file(directory, name)) for name in MARIAN_FILES)
    roles = pipelines.T5 | {r: token for r, token in named.roles.items() if token is not None}
    vocabulary = _vocabulary(checkpoint_file(directory, "vocab.json"), roles, named)
    kept = {field: config[field] for field in _SAVED_AGAIN if field in config}
    return SentencePieceBackend(vocabulary, source, target, kept)


def _model(path: Path) -> "sentencepiece.SentencePieceProcessor":
    size = path.stat().st_size
    if not 0 < size <= _LARGEST_MODEL:
        raise CheckpointError(
            f"{path} has {size:,} bytes; a SentencePiece model must have 1 to {_LARGEST_MODEL:,}"
        )
    processor = library().SentencePieceProcessor
    try:
        return processor(model_proto=path.read_bytes())
    except RuntimeError as error:
        raise CheckpointError(f"{path} is not a SentencePiece model: {error}") from error


def _vocabulary(path: Path, roles: Mapping[str, str], named: NamedTokens) -> "tokenizers.Tokenizer":
    """A backend that looks up whole pieces in vocab.json (piece to id) and appends `</s>`.

    A special token that has no id in any file gets the next free one, in the order of the roles, as
    in transformers; only `<unk>` must have one.
    """
    tk = pipelines.library()
    vocab, special = read_json(path), list(dict.fromkeys(roles.values()))
    unk, eos = roles["unk_token"], roles["eos_token"]
    with pipelines.library_errors(str(path)):
        if unk not in vocab:
            raise ValueError(
                f"the vocabulary has no {shortened(unk)}, which is required for unknown pieces"
            )
        if other := next((token for token in named.added if token not in special), None):
            raise ValueError(
                f"{shortened(other)} is an added token; only the special tokens {special} may be "
                f"added: remove it from {_ADDED}"
            )
        for token, token_id in named.ids.items():
            flags = ("lstrip", "rstrip", "single_word")
            if flag := next((f for f in flags if getattr(named.added[token], f)), None):
                raise ValueError(f"{shortened(token)} with {flag}=true is not supported")
            if vocab.setdefault(token, token_id) != token_id:
                raise ValueError(
                    f"{shortened(token)} has the id {vocab[token]} here and {token_id} in "
                    f"{_ADDED}; give it "
                    "the same id in both"
                )
        for role in SPECIAL_TOKENS:
            if role in roles:
                vocab.setdefault(roles[role], len(vocab))
        backend = tk.Tokenizer(tk.models.WordLevel(vocab, unk_token=unk))
        backend.add_special_tokens([tk.AddedToken(token, normalized=False) for token in special])
        backend.post_processor = tk.processors.TemplateProcessing(
            single=["$A", eos], pair=["$A", "$B", eos], special_tokens=[(eos, vocab[eos])]
        )
        return backend

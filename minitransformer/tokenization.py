"""Text to ids and back: a thin wrapper over the `tokenizers` library.

:class:`Tokenizer` loads or trains a vocabulary and turns texts into a :class:`BatchEncoding`, which
knows for every row which characters its tokens came from. The ids are those of Hugging Face's fast
tokenizers (`transformers.tokenization_utils_tokenizers`); what differs is what happens to mistakes:
a wrong argument, a missing token or a broken file is one error that says what to do.

Letters: B rows (texts, or windows of texts), T tokens.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitransformer import sentencepiece_tokenizer as marian
from minitransformer import tokenizer_loading as loading
from minitransformer import tokenizer_training as training
from minitransformer.batch_encoding import BatchEncoding
from minitransformer.files import atomic_directory, write_json
from minitransformer.hub import resolve_checkpoint
from minitransformer.names import unexpected_name
from minitransformer.tokenizer_loading import SPECIAL_TOKENS
from minitransformer.tokenizer_texts import checked, cleaned_up, samples_of

if TYPE_CHECKING:
    import tokenizers

_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "source.spm", "target.spm", "added_tokens.json"),
)
_LARGEST_ID = 10_000_000  # the largest vocabularies have a quarter of a million tokens
_NO_LIMIT = 10**20  # Hugging Face writes 1e30 for "no maximal length"
_PADDINGS = ("longest", "max_length")
_TRUNCATIONS = ("longest_first", "only_first", "only_second")

# The library keeps the truncation of a call in the backend; the lock keeps two threads from
# truncating each other's texts. One for all, so that a tokenizer can be pickled.
_BACKEND_LOCK = threading.Lock()


class MissingTokenError(ValueError, AttributeError):
    """The vocabulary has no such special token. An AttributeError too, so that `hasattr` works."""


def _token(role: str) -> Any:
    """A property: the special token of a role; assigning one gives it the role."""

    def assign(tokenizer: "Tokenizer", token: str) -> None:
        tokenizer._set_special_tokens(tokenizer.special_tokens | {role: token})

    return property(lambda tokenizer: tokenizer._special_token(role), assign)


def _token_id(role: str) -> Any:
    """A property: the id of a role's special token; read only, it follows from the token."""
    return property(lambda tokenizer: tokenizer.token_to_id(tokenizer._special_token(role)))


class Tokenizer:
    """A vocabulary with its rules; made by :meth:`train` or :meth:`from_pretrained`.

    The special tokens are attributes: `mask_token`, `mask_token_id`, and so on for bos, eos, unk,
    sep, pad and cls. One that the vocabulary lacks raises :class:`MissingTokenError` (a
    ValueError); `"mask_token" in tokenizer.special_tokens` asks first.

    Args:
        backend: a `tokenizers.Tokenizer`, which this object takes over.
        special_tokens: role to token, such as `{"pad_token": "<pad>"}`.
        model_max_length: the tokens that the model can take, or None where that is not known.
        padding_side: "right" or "left", where a call does not say.
        token_types: whether calls return `token_type_ids`.
        clean_up_tokenization_spaces: whether decoding takes the spaces before punctuation and
            English contractions away. Not for BPE, where the text would be no longer what it was.
        source: what error messages call this tokenizer.

    Raises:
        ValueError: ids that are not unique or absurdly large, an unknown role or side, or a
            special token outside the vocabulary.
    """

    bos_token: str = _token("bos_token")
    eos_token: str = _token("eos_token")
    unk_token: str = _token("unk_token")
    sep_token: str = _token("sep_token")
    pad_token: str = _token("pad_token")
    cls_token: str = _token("cls_token")
    mask_token: str = _token("mask_token")
    bos_token_id: int = _token_id("bos_token")
    eos_token_id: int = _token_id("eos_token")
    unk_token_id: int = _token_id("unk_token")
    sep_token_id: int = _token_id("sep_token")
    pad_token_id: int = _token_id("pad_token")
    cls_token_id: int = _token_id("cls_token")
    mask_token_id: int = _token_id("mask_token")

    def __init__(
        self,
        backend: "tokenizers.Tokenizer",
        special_tokens: Mapping[str, str],
        *,
        model_max_length: int | None = None,
        padding_side: str = "right",
        token_types: bool = False,
        clean_up_tokenization_spaces: bool = False,
        source: str = "the tokenizer",
    ) -> None:
        ids = backend.get_vocab(with_added_tokens=True).values()
        self.source = source
        if not ids or max(ids) > _LARGEST_ID or len(set(ids)) != len(ids):
            raise ValueError(
                f"{len(ids)} tokens have {len(set(ids))} different ids up to "
                f"{max(ids, default=None)}; every token needs its own, below {_LARGEST_ID:,}"
            )
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.vocab_size: int = max(ids) + 1  # rows an embedding needs; ids may have gaps
        self.model_max_length = model_max_length
        self.padding_side = checked("padding_side", padding_side, ("right", "left"))
        self.token_types = token_types
        self.clean_up_tokenization_spaces = (
            clean_up_tokenization_spaces and type(backend.model).__name__ != "BPE"
        )
        self._set_special_tokens(special_tokens)

    @classmethod
    def train(
        cls,
        files: str | Path | Sequence[str | Path],
        vocab_size: int = 30_522,
        algorithm: str = "bpe",
        min_frequency: int = 2,
        lowercase: bool = False,
        show_progress: bool = True,
    ) -> "Tokenizer":
        """Train on the lines of UTF-8 text `files` (one path or several).

        `algorithm` is "bpe" (over bytes, arranged as RoBERTa), "wordpiece" (as BERT; `lowercase` is
        for this one) or "unigram" (as XLM-RoBERTa); `min_frequency`, for the first two, is how
        often a pair must occur to be merged. Small files may give fewer tokens than `vocab_size`.
        The same files give the same vocabulary, token for token.

        Raises:
            ValueError: an unknown algorithm, a too small `vocab_size`, a missing, empty or
                non-UTF-8 file.
        """
        backend = training.train(
            files, vocab_size, algorithm, min_frequency, lowercase, show_progress
        )
        bert = algorithm == "wordpiece"
        return cls(backend, loading.BERT if bert else loading.ROBERTA, token_types=bert)

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path,
        *,
        revision: str | None = None,
        model_max_length: int | None = None,
        padding_side: str | None = None,
    ) -> "Tokenizer":
        """Load a directory, a tokenizer.json, or a name on the Hugging Face hub.

        A directory holds tokenizer.json, or source.spm, target.spm and vocab.json (Marian), or
        vocab.txt (WordPiece), or vocab.json and merges.txt (byte-level BPE), looked for in this
        order. tokenizer_config.json may name the special tokens; those that no file names are
        inferred from what the vocabulary holds. Padding and truncation stored in tokenizer.json
        are left aside: they are arguments of each call.

        Raises:
            CheckpointError: nothing there, or a file that is broken, hostile or contradictory.
            ImportError: Marian's files need the `sentencepiece` library, which is not there.
        """
        path = resolve_checkpoint(path_or_name, _FILES, revision)
        directory, name = (path, "tokenizer.json") if path.is_dir() else (path.parent, path.name)
        config = loading.optional_json(directory, "tokenizer_config.json")
        if path.is_dir() and marian.is_stored_in(directory, config):
            backend: Any = marian.load(directory, config)
        else:
            backend = loading.load_backend(directory, name, config)
        roles = loading.special_tokens(directory, config, backend)
        token_types = loading.uses_token_types(directory, config, backend)
        length = config.get("model_max_length")
        if not isinstance(length, (int, float)) or not 0 < length < _NO_LIMIT:
            length = None
        with loading.library_errors(str(path)):
            return cls(
                backend,
                roles,
                model_max_length=model_max_length or (None if length is None else int(length)),
                padding_side=padding_side or config.get("padding_side", "right"),
                token_types=token_types,
                clean_up_tokenization_spaces=loading.cleans_up(directory, config),
                source=str(path),
            )

    def save_pretrained(self, path: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json into the directory `path`, atomically.

        `transformers.AutoTokenizer` (5.x) loads it and gives equal ids. The class named there is
        the generic one: a class of a model family would rebuild the backend by its own defaults.
        Marian's has no tokenizer.json; its three files and its class are written.
        """
        roles = {role: self.special_tokens.get(role) for role in SPECIAL_TOKENS}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": self._value_names(),
            "padding_side": self.padding_side,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            **roles,
        }
        if self.model_max_length is not None:
            config["model_max_length"] = self.model_max_length
        with atomic_directory(path) as directory:
            if isinstance(self.backend, marian.SentencePieceBackend):
                config |= self.backend.save_files(directory)
            else:
                text = self.backend.to_str(pretty=True)
                (directory / "tokenizer.json").write_text(text, encoding="utf-8")
            write_json(directory / "tokenizer_config.json", config)

    def __len__(self) -> int:
        """The number of tokens; below `vocab_size` where the ids have gaps."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def __repr__(self) -> str:
        kind = type(self.backend.model).__name__
        return f"Tokenizer({kind}, vocab_size={self.vocab_size}, {dict(self.special_tokens)})"

    def token_to_id(self, token: str) -> int:
        """The id of `token`. Raises ValueError where the vocabulary lacks it."""
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise ValueError(f"{token!r} is not a token of this vocabulary")
        return int(token_id)

    def id_to_token(self, token_id: int) -> str:
        """The token with this id. Raises ValueError where there is none."""
        known = isinstance(token_id, int) and 0 <= token_id < self.vocab_size
        token = self.backend.id_to_token(token_id) if known else None
        if token is None:
            hint = "; put pad_token_id in place of ignored labels" if token_id == -100 else ""
            raise ValueError(
                f"id {token_id!r} is outside the vocabulary, 0 to {self.vocab_size - 1}{hint}"
            )
        return str(token)

    @property
    def padding_id(self) -> int:
        """What stands in `input_ids` at padding: the id of pad_token, or without one, eos_token's.

        Raises:
            MissingTokenError: the vocabulary has neither.
        """
        roles = [role for role in ("pad_token", "eos_token") if role in self.special_tokens]
        return self.token_to_id(self._special_token(roles[0] if roles else "pad_token"))

    def __call__(
        self,
        texts: str | Sequence[str] | None = None,
        text_pairs: str | Sequence[str] | None = None,
        *,
        text_target: str | Sequence[str] | None = None,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        stride: int = 0,
        return_overflowing_tokens: bool = False,
        padding_side: str | None = None,
        add_special_tokens: bool = True,
        return_tensors: str | None = None,
        **unknown: Any,
    ) -> BatchEncoding:
        """Encode one text, a list of texts, or pairs of texts.

        Args:
            texts: one text or several.
            text_pairs: as many second texts.
            text_target: in place of texts, those that an encoder-decoder is to write. They give
                the same ids as `texts` would, save with Marian's two models.
            padding: True or "longest" (to the longest row), "max_length", or False. Where there is
                no padding token, as in GPT-2, `padding_id` is the end token's; in any case it is
                `attention_mask` that says what is padding.
            truncation: True or "longest_first" (cuts the longer text of a pair), "only_first",
                "only_second", or False.
            max_length: in tokens, special tokens included; default `model_max_length`.
            stride: tokens that a window shares with the one before; with pairs it needs
                "only_first" or "only_second".
            return_overflowing_tokens: return every window of a text that is too long, as a row;
                `overflow_to_sample` says which text a row came from.
            return_tensors: "pt" or "np" for (B, T) of int64, B = 1 for one text; None for lists.

        Raises:
            TypeError: an unknown argument, or texts that are not str.
            ValueError: arguments that contradict each other or the texts; see the message.
        """
        if unknown:
            choices = list(Tokenizer.__call__.__kwdefaults__ or ())
            raise TypeError(unexpected_name("argument", next(iter(unknown)), choices))
        backend = self.backend
        if text_target is None:
            samples = samples_of("texts", texts, text_pairs)
        elif texts is not None or text_pairs is not None:
            raise ValueError(
                "text_target stands alone: call once for texts and once for text_target; labels "
                "are the second call's input_ids, with -100 where its attention_mask is 0"
            )
        else:
            samples = samples_of("text_target", text_target)
            if isinstance(backend, marian.SentencePieceBackend):
                backend = backend.for_targets()
        pad = checked("padding", "longest" if padding is True else padding, (False, *_PADDINGS))
        cut = "longest_first" if truncation is True else truncation
        cut = checked("truncation", cut, (False, *_TRUNCATIONS))
        side = checked("padding_side", padding_side or self.padding_side, ("right", "left"))
        checked("return_tensors", return_tensors, (None, "pt", "np"))
        if stride and not (cut and return_overflowing_tokens):
            raise ValueError("stride needs truncation and return_overflowing_tokens=True")
        limit = self._limit(max_length, cut, pad)
        if cut:
            self._check_room(samples, cut, limit, stride, add_special_tokens)
        encodings = self._encode(backend, samples, cut, limit, stride, add_special_tokens)
        rows, owners = encodings, list(range(len(encodings)))
        if return_overflowing_tokens:
            windows = [[encoding, *encoding.overflowing] for encoding in encodings]
            rows = [window for group in windows for window in group]
            owners = [sample for sample, group in enumerate(windows) for _ in group]
        if pad:
            longest = max(map(len, rows), default=0)
            self._pad(rows, max(longest, limit) if pad == "max_length" else longest, side)
        batch = BatchEncoding(rows, owners, samples, self._value_names(), return_tensors)
        single = isinstance(text_target if texts is None else texts, str)
        if single and return_tensors is None and not return_overflowing_tokens:
            batch.update({name: value[0] for name, value in batch.items()})
        return batch

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of a 1-D list, array or tensor of ids, as transformers' `decode`.

        Spaces before punctuation stay, so that byte-level text comes back as it was, unless
        `clean_up_tokenization_spaces` is set, as by a tokenizer_config.json.

        The ids may end anywhere, as they do while a text is being generated. Where tokens are
        bytes, the last may end within a character, which then shows as one or more U+FFFD at the
        end of the text until the ids that follow complete it. What stands before these stays as
        it is, so the text of the first ids begins the text of all; only where spaces are cleaned
        up may the last few characters still change.

        Raises:
            ValueError: an id outside the vocabulary, or more than one dimension.
        """
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        ids = [ids] if isinstance(ids, int) else list(ids)
        if ids and isinstance(ids[0], (list, tuple)):
            raise ValueError("decode takes one row of ids; batch_decode takes several")
        for token_id in ids:
            self.id_to_token(token_id)
        with loading.library_errors(self.source):
            text = str(self.backend.decode(ids, skip_special_tokens=skip_special_tokens))
        return cleaned_up(text) if self.clean_up_tokenization_spaces else text

    def batch_decode(self, rows: Any, skip_special_tokens: bool = False) -> list[str]:
        """The texts of several rows of ids; see :meth:`decode`."""
        return [self.decode(ids, skip_special_tokens) for ids in rows]

    # ---- inside ----

    def _special_token(self, role: str) -> str:
        if role not in self.special_tokens:
            raise MissingTokenError(
                f"this vocabulary has no {role}, only {self.special_tokens}; to give the role to "
                f"one of its tokens: tokenizer.{role} = '...'"
            )
        return self.special_tokens[role]

    def _set_special_tokens(self, special_tokens: Mapping[str, str]) -> None:
        tk = loading.library()
        for role, token in special_tokens.items():
            if role not in SPECIAL_TOKENS:
                raise ValueError(unexpected_name("special token", role, SPECIAL_TOKENS))
            if not isinstance(token, str) or self.backend.token_to_id(token) is None:
                raise ValueError(f"{role} {token!r} is not a token of the vocabulary")
            if token not in self._marked_special():
                self.backend.add_special_tokens([tk.AddedToken(token, normalized=False)])
        self.special_tokens: dict[str, str] = dict(special_tokens)
        self.special_ids: frozenset[int] = frozenset(self._marked_special().values())

    def _marked_special(self) -> dict[str, int]:
        added = self.backend.get_added_tokens_decoder().items()
        return {token.content: token_id for token_id, token in added if token.special}

    def _value_names(self) -> list[str]:
        return ["input_ids", *["token_type_ids"] * self.token_types, "attention_mask"]

    def _limit(self, max_length: int | None, truncation: str | bool, padding: str | bool) -> int:
        """The length in tokens that truncation or padding goes to; 0 where neither needs one."""
        if not truncation and padding != "max_length":
            if max_length is not None:
                raise ValueError(
                    f"max_length={max_length} has no effect: add truncation=True or "
                    "padding='max_length'"
                )
            return 0
        limit = max_length if max_length is not None else self.model_max_length
        if limit is None:
            raise ValueError("no length is known to cut or pad to: pass max_length")
        if not isinstance(limit, int) or limit < 1:
            raise ValueError(f"max_length={limit!r}; a positive number of tokens is needed")
        return limit

    def _check_room(
        self,
        samples: list[tuple[str, ...]],
        truncation: str,
        limit: int,
        stride: int,
        special: bool,
    ) -> None:
        """Refuse what the library answers with a Rust panic or with unclear words.

        A window must have room for more new tokens than `stride` repeats. For "only_first" and
        "only_second" the room is what the other text leaves, so that one is encoded here as well.
        """
        pairs = bool(samples) and len(samples[0]) == 2
        extra = self.backend.num_special_tokens_to_add(pairs) if special else 0
        room = limit - extra
        if not 0 <= stride < room:
            raise ValueError(
                f"max_length={limit} leaves room for {max(room, 0)} tokens beside {extra} special "
                f"ones; at least 1 is needed, and stride={stride} must be from 0 to below that room"
            )
        if truncation == "only_second" and not pairs:
            raise ValueError("truncation='only_second' needs text_pairs")
        if stride and pairs and truncation == "longest_first":
            raise ValueError("stride with pairs needs truncation='only_first' or 'only_second'")
        if not pairs or truncation == "longest_first":
            return
        cut = int(truncation == "only_second")
        kept = self._encode(
            self.backend, [(pair[1 - cut],) for pair in samples], False, 0, 0, False
        )
        for row, (pair, whole) in enumerate(zip(samples, kept, strict=True)):
            left = room - len(whole)
            if left > stride:
                continue
            if len(self._encode(self.backend, [(pair[cut],)], False, 0, 0, False)[0]) > left:
                raise ValueError(
                    f"text {1 - cut} of pair {row} has {len(whole)} tokens, which leaves {left} of "
                    f"max_length={limit} to text {cut}; more than stride={stride} are needed"
                )

    def _encode(
        self,
        backend: Any,
        samples: list[tuple[str, ...]],
        truncation: str | bool,
        limit: int,
        stride: int,
        add_special_tokens: bool,
    ) -> list["tokenizers.Encoding"]:
        inputs = [sample if len(sample) == 2 else sample[0] for sample in samples]
        with _BACKEND_LOCK, loading.library_errors(self.source):
            try:
                if truncation:
                    backend.enable_truncation(limit, stride=stride, strategy=truncation)
                return list(backend.encode_batch(inputs, add_special_tokens=add_special_tokens))
            finally:
                backend.no_truncation()

    def _pad(self, rows: list["tokenizers.Encoding"], length: int, side: str) -> None:
        if all(len(row) == length for row in rows):
            return
        token_id = self.padding_id
        for row in rows:
            row.pad(length, direction=side, pad_id=token_id, pad_token=self.id_to_token(token_id))

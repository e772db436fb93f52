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

from minitransformer import tokenizer_loading as loading
from minitransformer import tokenizer_training as training
from minitransformer.batch_encoding import BatchEncoding
from minitransformer.files import atomic_directory, write_json
from minitransformer.hub import resolve_checkpoint
from minitransformer.names import unexpected_name
from minitransformer.tokenizer_loading import SPECIAL_TOKENS

if TYPE_CHECKING:
    import tokenizers

_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"),
    *("vocab.txt", "vocab.json", "merges.txt"),
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
        self.padding_side = _checked("padding_side", padding_side, ("right", "left"))
        self.token_types = token_types
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

        A directory holds tokenizer.json, or vocab.txt (WordPiece), or vocab.json and merges.txt
        (byte-level BPE), looked for in this order. tokenizer_config.json may name the special
        tokens; those that no file names are inferred from what the vocabulary holds. Padding and
        truncation stored in tokenizer.json are left aside: they are arguments of each call.

        Raises:
            CheckpointError: nothing there, or a file that is broken, hostile or contradictory.
        """
        path = resolve_checkpoint(path_or_name, _FILES, revision)
        directory, name = (path, "tokenizer.json") if path.is_dir() else (path.parent, path.name)
        config = loading.optional_json(directory, "tokenizer_config.json")
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
                source=str(path),
            )

    def save_pretrained(self, path: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json into the directory `path`, atomically.

        `transformers.AutoTokenizer` (5.x) loads it and gives equal ids. The class named there is
        the generic one: a class of a model family would rebuild the backend by its own defaults.
        """
        roles = {role: self.special_tokens.get(role) for role in SPECIAL_TOKENS}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": self._value_names(),
            "padding_side": self.padding_side,
            "clean_up_tokenization_spaces": False,
            **roles,
        }
        if self.model_max_length is not None:
            config["model_max_length"] = self.model_max_length
        with atomic_directory(path) as directory:
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

    def __call__(
        self,
        texts: str | Sequence[str],
        text_pairs: str | Sequence[str] | None = None,
        *,
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
            padding: True or "longest" (to the longest row), "max_length", or False.
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
        samples = _samples(texts, text_pairs)
        pad = _checked("padding", "longest" if padding is True else padding, (False, *_PADDINGS))
        cut = "longest_first" if truncation is True else truncation
        cut = _checked("truncation", cut, (False, *_TRUNCATIONS))
        side = _checked("padding_side", padding_side or self.padding_side, ("right", "left"))
        _checked("return_tensors", return_tensors, (None, "pt", "np"))
        if stride and not (cut and return_overflowing_tokens):
            raise ValueError("stride needs truncation and return_overflowing_tokens=True")
        limit = self._limit(max_length, cut, pad)
        if cut:
            self._check_room(samples, cut, limit, stride, add_special_tokens)
        encodings = self._encode(samples, cut, limit, stride, add_special_tokens)
        rows, owners = encodings, list(range(len(encodings)))
        if return_overflowing_tokens:
            windows = [[encoding, *encoding.overflowing] for encoding in encodings]
            rows = [window for group in windows for window in group]
            owners = [sample for sample, group in enumerate(windows) for _ in group]
        if pad:
            longest = max(map(len, rows), default=0)
            self._pad(rows, max(longest, limit) if pad == "max_length" else longest, side)
        batch = BatchEncoding(rows, owners, samples, self._value_names(), return_tensors)
        if isinstance(texts, str) and return_tensors is None and not return_overflowing_tokens:
            batch.update({name: value[0] for name, value in batch.items()})
        return batch

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of a 1-D list, array or tensor of ids.

        As transformers' `decode` with `clean_up_tokenization_spaces=False`: no space is taken away
        before punctuation, so that byte-level text comes back as it was.

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
            return str(self.backend.decode(ids, skip_special_tokens=skip_special_tokens))

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
        kept = self._encode([(pair[1 - cut],) for pair in samples], False, 0, 0, False)
        for row, (pair, whole) in enumerate(zip(samples, kept, strict=True)):
            left = room - len(whole)
            if left > stride:
                continue
            if len(self._encode([(pair[cut],)], False, 0, 0, False)[0]) > left:
                raise ValueError(
                    f"text {1 - cut} of pair {row} has {len(whole)} tokens, which leaves {left} of "
                    f"max_length={limit} to text {cut}; more than stride={stride} are needed"
                )

    def _encode(
        self,
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
                    self.backend.enable_truncation(limit, stride=stride, strategy=truncation)
                return list(
                    self.backend.encode_batch(inputs, add_special_tokens=add_special_tokens)
                )
            finally:
                self.backend.no_truncation()

    def _pad(self, rows: list["tokenizers.Encoding"], length: int, side: str) -> None:
        if all(len(row) == length for row in rows):
            return
        for row in rows:
            row.pad(length, direction=side, pad_id=self.pad_token_id, pad_token=self.pad_token)


# ---- arguments ----


def _checked(argument: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """`value`, if it is one of `choices`; 0 does not pass for False."""
    if any(value is choice or (value == choice and isinstance(value, str)) for choice in choices):
        return value
    if isinstance(value, str):
        names = [choice for choice in choices if isinstance(choice, str)]
        raise ValueError(unexpected_name(argument, value, names))
    raise ValueError(f"{argument}={value!r}; the choices are: {choices}")


def _samples(
    texts: str | Sequence[str], text_pairs: str | Sequence[str] | None
) -> list[tuple[str, ...]]:
    """B tuples of one or two texts, proved to be texts."""
    first = _texts("texts", texts)
    if text_pairs is None:
        return [(text,) for text in first]
    second = _texts("text_pairs", text_pairs)
    if len(first) != len(second) or isinstance(texts, str) != isinstance(text_pairs, str):
        raise ValueError(
            f"{len(first)} texts ({type(texts).__name__}) and {len(second)} text_pairs "
            f"({type(text_pairs).__name__}): both must be one str, or lists of the same length"
        )
    return list(zip(first, second, strict=True))


def _texts(argument: str, value: Any) -> list[str]:
    if isinstance(value, str):
        value = [value]
    elif not isinstance(value, Sequence):
        raise TypeError(f"{argument} must be a str or a list of str, not {type(value).__name__}")
    for row, text in enumerate(value):
        if not isinstance(text, str):
            raise TypeError(f"{argument}[{row}] must be a str, not {type(text).__name__}: {text!r}")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(f"{argument}[{row}] holds half of a surrogate pair: not valid Unicode")
    return list(value)

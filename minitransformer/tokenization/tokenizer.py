"""Text to token ids and back: a thin wrapper over the `tokenizers` library.

:class:`Tokenizer` loads or trains a vocabulary and encodes texts as a :class:`BatchEncoding`, which
maps every token to the characters that it came from. The ids are those of Hugging Face's fast
tokenizers (`transformers.tokenization_utils_tokenizers`). Mistakes are handled differently: for a
wrong argument, a missing token or a broken file, an error says what to do.

Letters: B sequences (each a text, a pair of texts, or a window of a long text), T tokens.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitransformer.files import atomic_directory, write_json
from minitransformer.hub import resolve_checkpoint
from minitransformer.names import shortened, unexpected_name
from minitransformer.tokenization import loading, pipelines, training
from minitransformer.tokenization.batch_encoding import BatchEncoding
from minitransformer.tokenization.sentencepiece import SentencePieceBackend
from minitransformer.tokenization.special_tokens import SPECIAL_TOKENS

if TYPE_CHECKING:
    import tokenizers

_LARGEST_ID = 10_000_000  # the largest vocabularies have about a quarter of a million tokens
_PADDINGS = ("longest", "max_length")
_TRUNCATIONS = ("longest_first", "only_first", "only_second")

# The replacements of `clean_up_tokenization`, in this order, each in the whole text.
_CLEAN_UP = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")),
    *((" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)

# Truncation is a setting of the backend that each call changes; the lock keeps concurrent calls
# from using each other's setting. It is global, because a tokenizer with a lock cannot be pickled.
_BACKEND_LOCK = threading.Lock()


class MissingTokenError(ValueError, AttributeError):
    """The vocabulary has no such special token; an AttributeError too, so that `hasattr` works."""


def _token(role: str) -> Any:
    """A property that gets and sets the special token with this role."""

    def assign(tokenizer: "Tokenizer", token: str) -> None:
        tokenizer._set_special_tokens(tokenizer.special_tokens | {role: token})

    return property(lambda tokenizer: tokenizer._special_token(role), assign)


def _token_id(role: str) -> Any:
    """A read-only property: the id of the special token with this role."""
    return property(lambda tokenizer: tokenizer.token_to_id(tokenizer._special_token(role)))


class Tokenizer:
    """A vocabulary and its tokenization rules; made by :meth:`train` or :meth:`from_pretrained`.

    The special tokens are attributes: `mask_token`, `mask_token_id`, and so on for bos, eos, unk,
    sep, pad and cls. If the vocabulary has no such token, the attribute raises
    :class:`MissingTokenError` (a ValueError); `"mask_token" in tokenizer.special_tokens` tells
    whether it has one.

    Args:
        backend: a `tokenizers.Tokenizer`, or Marian's :class:`SentencePieceBackend`. Its padding
            and truncation are switched off, because they are arguments of each call.
        special_tokens: role to token, such as `{"pad_token": "<pad>"}`.
        model_max_length: the largest number of tokens that the model takes; None if not known.
        padding_side: "right" or "left"; the default for calls.
        truncation_side: "right" or "left", the end at which texts are cut. Windows are counted from
            the left in any case.
        token_types: whether calls return `token_type_ids`.
        clean_up_tokenization_spaces: whether decoding removes the spaces before punctuation and
            English contractions. It has no effect for BPE, which decodes to the original text.
        source: the name of this tokenizer in error messages.

    Raises:
        ValueError: ids that are not unique or too large, an unknown role or padding side, or a
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
        truncation_side: str = "right",
        token_types: bool = False,
        clean_up_tokenization_spaces: bool = False,
        source: str = "the tokenizer",
    ) -> None:
        ids = backend.get_vocab(with_added_tokens=True).values()
        self.source = source
        if not ids or max(ids) > _LARGEST_ID or len(set(ids)) != len(ids):
            raise ValueError(
                f"{len(ids)} tokens have {len(set(ids))} different ids, of which the largest is "
                f"{max(ids, default=None)}; every token needs its own id, up to {_LARGEST_ID:,}"
            )
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.vocab_size: int = max(ids) + 1  # rows of the embedding; ids may have gaps
        self.model_max_length = model_max_length
        self.padding_side = _checked("padding_side", padding_side, ("right", "left"))
        self.truncation_side = _checked("truncation_side", truncation_side, ("right", "left"))
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
        """Train a vocabulary on the lines of text files; the same files give the same vocabulary.

        Args:
            files: one path or several, of UTF-8 text.
            vocab_size: the number of tokens; small files may yield fewer.
            algorithm: "bpe" (byte-level, as in RoBERTa), "wordpiece" (as in BERT) or "unigram" (as
                in XLM-RoBERTa).
            min_frequency: for "bpe" and "wordpiece": how often a pair must occur to be merged.
            lowercase: only for "wordpiece": whether texts are converted to lower case.
            show_progress: whether the library prints progress bars.

        Raises:
            ValueError: an unknown algorithm, `lowercase` without "wordpiece", a `vocab_size` that
                is too small, or a file that is missing, empty or not UTF-8.
        """
        backend = training.train(
            files, vocab_size, algorithm, min_frequency, lowercase, show_progress
        )
        is_bert = algorithm == "wordpiece"
        return cls(backend, pipelines.BERT if is_bert else pipelines.ROBERTA, token_types=is_bert)

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

        A directory contains tokenizer.json, or source.spm, target.spm and vocab.json (Marian), or
        vocab.txt (WordPiece), or vocab.json and merges.txt (byte-level BPE).
        `tokenizer_class` in tokenizer_config.json or config.json, else `model_type`, says which
        tokenizer it is; without them, the first of these that exists is loaded. Settings and added
        tokens in tokenizer_config.json, special_tokens_map.json and added_tokens.json are followed;
        a role that no file names gets the usual token, if the vocabulary has it. Of the padding and
        truncation in tokenizer.json only the sides and the padding token are used, because the rest
        are arguments of each call.

        Args:
            path_or_name: the directory, the file, or the name.
            revision: the branch, tag or commit of the repository on the hub.
            model_max_length: in tokens; replaces the value in tokenizer_config.json.
            padding_side: "right" or "left"; replaces the value in tokenizer_config.json.

        Raises:
            CheckpointError: no tokenizer is found; its class or a setting is not supported; or a
                file is broken, unsafe or contradicts another one.
            ImportError: Marian's files need the `sentencepiece` library, which is not installed.
        """
        path = resolve_checkpoint(path_or_name, loading.FILES, revision)
        arguments = loading.load(path)
        if model_max_length is not None:
            arguments["model_max_length"] = model_max_length
        if padding_side is not None:
            arguments["padding_side"] = padding_side
        with pipelines.library_errors(str(path)):
            return cls(**arguments)

    def save_pretrained(self, path: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json into the directory `path`, atomically.

        `transformers.AutoTokenizer` (5.x) loads them and gives the same ids. `tokenizer_class` is
        the generic one, because the class of a model family would rebuild the backend with its own
        defaults. A Marian tokenizer is saved as a MarianTokenizer, in its three files instead of
        tokenizer.json.
        """
        roles = {role: self.special_tokens.get(role) for role in SPECIAL_TOKENS}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": self._model_input_names(),
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            **roles,
        }
        if self.model_max_length is not None:
            config["model_max_length"] = self.model_max_length
        with atomic_directory(path) as directory:
            if isinstance(self.backend, SentencePieceBackend):
                config |= self.backend.save_files(directory)
            else:
                text = self.backend.to_str(pretty=True)
                (directory / "tokenizer.json").write_text(text, encoding="utf-8")
            write_json(directory / "tokenizer_config.json", config)

    def __len__(self) -> int:
        """The number of tokens; less than `vocab_size` if the ids have gaps."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def __repr__(self) -> str:
        kind = type(self.backend.model).__name__
        return f"Tokenizer({kind}, vocab_size={self.vocab_size}, {dict(self.special_tokens)})"

    def token_to_id(self, token: str) -> int:
        """The id of `token`. Raises ValueError if it is not in the vocabulary."""
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise ValueError(f"{shortened(token)} is not a token of this vocabulary")
        return int(token_id)

    def id_to_token(self, token_id: int) -> str:
        """The token with this id. Raises ValueError if no token has it."""
        known = isinstance(token_id, int) and 0 <= token_id < self.vocab_size
        token = self.backend.id_to_token(token_id) if known else None
        if token is None:
            why = ", whose ids have gaps" if known else f"; ids are 0 to {self.vocab_size - 1}"
            hint = "; replace ignored labels with pad_token_id" if token_id == -100 else ""
            raise ValueError(f"id {shortened(token_id)} is not in the vocabulary{why}{hint}")
        return str(token)

    @property
    def padding_id(self) -> int:
        """The id of padding in `input_ids`: that of pad_token, or of eos_token if there is none.

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
            text_pairs: as many second texts. As in transformers, a call with one text and the
                second text "" has only one text; in lists, "" is a second text without tokens.
            text_target: instead of `texts`, the targets of an encoder-decoder model. They get the
                same ids as in `texts`, except with Marian, which has a SentencePiece model for
                each side.
            padding: True or "longest" (to the longest sequence), "max_length", or False. Without
                truncation, sequences longer than `max_length` stay as they are. The id at padding
                is `padding_id`, which may also occur in texts; `attention_mask` says what is
                padding.
            truncation: True or "longest_first" (cuts the longer text of a pair), "only_first",
                "only_second", or False.
            max_length: in tokens, including special tokens; by default `model_max_length`.
            stride: the number of tokens that a window shares with the one before; pairs need
                truncation="only_first" or "only_second".
            return_overflowing_tokens: whether a text that is too long becomes several sequences,
                one per window; `overflow_to_sample` says which text a sequence came from.
            padding_side: "right" or "left"; by default the tokenizer's `padding_side`.
            add_special_tokens: whether the model's special tokens are added to the texts.
            return_tensors: "pt" or "np" for (B, T) of int64, B = 1 for one text; None for lists.

        Raises:
            TypeError: an unknown argument, or a text that is not a str.
            ValueError: arguments that contradict each other or the texts.
        """
        if unknown:
            choices = list(Tokenizer.__call__.__kwdefaults__ or ())
            raise TypeError(unexpected_name("argument", next(iter(unknown)), choices))
        backend = self.backend
        if text_target is None:
            samples = _as_samples("texts", texts, text_pairs)
        elif texts is not None or text_pairs is not None:
            raise ValueError(
                "text_target cannot be combined with texts: call once with texts and once with "
                "text_target; the labels are the input_ids of the second call, with -100 where its "
                "attention_mask is 0"
            )
        else:
            samples = _as_samples("text_target", text_target)
            if isinstance(backend, SentencePieceBackend):
                backend = backend.for_targets()
        padding = _checked(
            "padding", "longest" if padding is True else padding, (False, *_PADDINGS)
        )
        strategy = "longest_first" if truncation is True else truncation
        strategy = _checked("truncation", strategy, (False, *_TRUNCATIONS))
        side = _checked("padding_side", padding_side or self.padding_side, ("right", "left"))
        _checked("return_tensors", return_tensors, (None, "pt", "np"))
        if stride and not (strategy and return_overflowing_tokens):
            raise ValueError("stride needs truncation and return_overflowing_tokens=True")
        limit = self._limit(max_length, strategy, padding)
        if strategy:
            self._check_limit(samples, strategy, limit, stride, add_special_tokens)
        cut_side = "right" if return_overflowing_tokens else self.truncation_side
        encodings = self._encode(
            backend, samples, strategy, limit, stride, add_special_tokens, cut_side
        )
        overflow_to_sample = list(range(len(encodings)))
        if return_overflowing_tokens:
            windows = [[encoding, *encoding.overflowing] for encoding in encodings]
            encodings = [window for group in windows for window in group]
            overflow_to_sample = [sample for sample, group in enumerate(windows) for _ in group]
        if padding:
            longest = max(map(len, encodings), default=0)
            length = limit if padding == "max_length" else longest
            self._pad(encodings, length, side)
        batch = BatchEncoding(
            encodings, overflow_to_sample, samples, self._model_input_names(), return_tensors
        )
        single = isinstance(text_target if texts is None else texts, str)
        if single and return_tensors is None and not return_overflowing_tokens:
            batch.update({name: value[0] for name, value in batch.items()})
        return batch

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """Decode a 1-D list, array or tensor of ids, as transformers' `decode` does.

        Spaces before punctuation are kept, so that byte-level BPE restores the original text,
        unless `clean_up_tokenization_spaces` is set, for instance by tokenizer_config.json.

        The ids may end anywhere, as they do while a text is being generated. With byte-level BPE
        the last token may end within a character; the text then ends in one or more U+FFFD until
        further ids complete the character. The text before these is final: the text of a prefix of
        the ids is a prefix of the whole text. Only if spaces are cleaned up, the last few
        characters may still change.

        Raises:
            ValueError: an id is not in the vocabulary, or `ids` has more than one dimension.
        """
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        ids = [ids] if isinstance(ids, int) else list(ids)
        if ids and isinstance(ids[0], (list, tuple)):
            raise ValueError("decode takes the ids of one sequence; use batch_decode for several")
        for token_id in ids:
            self.id_to_token(token_id)
        with pipelines.library_errors(self.source):
            text = str(self.backend.decode(ids, skip_special_tokens=skip_special_tokens))
        return clean_up_tokenization(text) if self.clean_up_tokenization_spaces else text

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> list[str]:
        """Decode several sequences of ids; see :meth:`decode`."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def _special_token(self, role: str) -> str:
        if role not in self.special_tokens:
            raise MissingTokenError(
                f"this vocabulary has no {role}, only {self.special_tokens}; to use one of its "
                f"tokens as {role}: tokenizer.{role} = '...'"
            )
        return self.special_tokens[role]

    def _set_special_tokens(self, special_tokens: Mapping[str, str]) -> None:
        tk = pipelines.library()
        for role, token in special_tokens.items():
            if role not in SPECIAL_TOKENS:
                raise ValueError(unexpected_name("special token", role, SPECIAL_TOKENS))
            if not isinstance(token, str) or self.backend.token_to_id(token) is None:
                raise ValueError(f"{role} {shortened(token)} is not a token of the vocabulary")
            if token not in self._special_vocab():
                self.backend.add_special_tokens([tk.AddedToken(token, normalized=False)])
        self.special_tokens: dict[str, str] = dict(special_tokens)
        self.special_ids: frozenset[int] = frozenset(self._special_vocab().values())

    def _special_vocab(self) -> dict[str, int]:
        """The tokens that the backend treats as special, with their ids."""
        added = self.backend.get_added_tokens_decoder().items()
        return {token.content: token_id for token_id, token in added if token.special}

    def _model_input_names(self) -> list[str]:
        return ["input_ids", *["token_type_ids"] * self.token_types, "attention_mask"]

    def _limit(self, max_length: int | None, truncation: str | bool, padding: str | bool) -> int:
        """The length in tokens to truncate or pad to; 0 if neither is requested."""
        if not truncation and padding != "max_length":
            if max_length is not None:
                raise ValueError(
                    f"max_length={max_length} has no effect: add truncation=True or "
                    "padding='max_length'"
                )
            return 0
        limit = max_length if max_length is not None else self.model_max_length
        if limit is None:
            raise ValueError(
                "truncation and padding='max_length' need a length, and the tokenizer has no "
                "model_max_length: pass max_length"
            )
        if not isinstance(limit, int) or limit < 1:
            raise ValueError(f"max_length={shortened(limit)} must be a positive integer")
        return limit

    def _check_limit(
        self,
        samples: list[tuple[str, ...]],
        truncation: str,
        limit: int,
        stride: int,
        add_special_tokens: bool,
    ) -> None:
        """Refuse a limit or stride for which the library panics or raises a vague error.

        A window must have room for more tokens than the `stride` that it shares with the one
        before. With "only_first" and "only_second" the other text takes up part of it, so that
        text is encoded here too.
        """
        pairs = bool(samples) and len(samples[0]) == 2
        special = self.backend.num_special_tokens_to_add(pairs) if add_special_tokens else 0
        available = limit - special
        if not 0 <= stride < available:
            raise ValueError(
                f"max_length={limit} leaves room for {max(available, 0)} tokens besides {special} "
                f"special tokens; at least 1 is needed, and stride={stride} must be at least 0 and "
                "less than that number"
            )
        if truncation == "only_second" and not pairs:
            raise ValueError("truncation='only_second' needs text_pairs")
        if stride and pairs and truncation == "longest_first":
            raise ValueError("stride with pairs needs truncation='only_first' or 'only_second'")
        if not pairs or truncation == "longest_first":
            return
        cut = int(truncation == "only_second")  # the index of the text that is truncated
        others = self._encode(
            self.backend, [(pair[1 - cut],) for pair in samples], False, 0, 0, False
        )
        for index, (pair, encoding) in enumerate(zip(samples, others, strict=True)):
            left = available - len(encoding)
            if left > stride:
                continue
            if len(self._encode(self.backend, [(pair[cut],)], False, 0, 0, False)[0]) > left:
                raise ValueError(
                    f"text {1 - cut} of pair {index} has {len(encoding)} tokens, which leaves "
                    f"{left} of max_length={limit} for text {cut}; it needs more than "
                    f"stride={stride}"
                )

    def _encode(
        self,
        backend: Any,
        samples: list[tuple[str, ...]],
        truncation: str | bool,
        limit: int,
        stride: int,
        add_special_tokens: bool,
        cut_side: str = "right",
    ) -> list["tokenizers.Encoding"]:
        inputs = [sample if len(sample) == 2 else sample[0] for sample in samples]
        with _BACKEND_LOCK, pipelines.library_errors(self.source):
            try:
                if truncation:
                    backend.enable_truncation(
                        limit, stride=stride, strategy=truncation, direction=cut_side
                    )
                return list(backend.encode_batch(inputs, add_special_tokens=add_special_tokens))
            finally:
                backend.no_truncation()

    def _pad(self, encodings: list["tokenizers.Encoding"], length: int, side: str) -> None:
        if all(len(encoding) >= length for encoding in encodings):
            return
        pad_id = self.padding_id
        pad_token = self.id_to_token(pad_id)
        for encoding in encodings:
            encoding.pad(length, direction=side, pad_id=pad_id, pad_token=pad_token)


def clean_up_tokenization(text: str) -> str:
    """Remove the spaces before punctuation and English contractions."""
    for spaced, joined in _CLEAN_UP:
        text = text.replace(spaced, joined)
    return text


def _checked(argument: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """`value`, if it is one of `choices`; 0 does not count as False."""
    if any(value is choice or (value == choice and isinstance(value, str)) for choice in choices):
        return value
    if isinstance(value, str):
        names = [choice for choice in choices if isinstance(choice, str)]
        raise ValueError(unexpected_name(argument, value, names))
    raise ValueError(f"{argument}={shortened(value)} must be one of {choices}")


def _as_samples(
    argument: str,
    texts: str | Sequence[str] | None,
    text_pairs: str | Sequence[str] | None = None,
) -> list[tuple[str, ...]]:
    """Tuples of one text, or of two with `text_pairs`; checks that each is a str."""
    first = _as_texts(argument, texts)
    if text_pairs is None or (text_pairs == "" and isinstance(texts, str)):
        return [(text,) for text in first]
    second = _as_texts("text_pairs", text_pairs)
    if len(first) != len(second) or isinstance(texts, str) != isinstance(text_pairs, str):
        raise ValueError(
            f"{len(first)} texts ({type(texts).__name__}) and {len(second)} text_pairs "
            f"({type(text_pairs).__name__}): pass two str, or two lists of the same length"
        )
    return list(zip(first, second, strict=True))


def _as_texts(argument: str, value: Any) -> list[str]:
    if isinstance(value, str):
        value = [value]
    elif not isinstance(value, Sequence):
        raise TypeError(f"{argument} must be a str or a list of str, not {type(value).__name__}")
    for i, text in enumerate(value):
        if not isinstance(text, str):
            raise TypeError(
                f"{argument}[{i}] must be a str, not {type(text).__name__}: {shortened(text)}"
            )
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(f"{argument}[{i}] contains a lone surrogate: it is not valid Unicode")
    return list(value)

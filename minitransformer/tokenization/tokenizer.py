"""Text to token ids and back: a thin wrapper over the `tokenizers` library.

:class:`Tokenizer` loads or trains a vocabulary and encodes texts as a :class:`BatchEncoding`, which
maps every token to the characters that it came from. The ids are those of Hugging Face's fast
tokenizers (`transformers.tokenization_utils_tokenizers`). Mistakes are handled differently: for a
wrong argument, a missing token or a broken file, an error says what to do.

Letters: B sequences (each a text, a pair of texts, or a window of a long text), T tokens.
"""

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitransformer.elsewhere import TRAINING_TOKENIZERS
from minitransformer.files import atomic_directory, write_json
from minitransformer.hub import resolve_checkpoint
from minitransformer.names import shortened, unexpected_name
from minitransformer.tokenization import loading, pipelines, training
from minitransformer.tokenization.arguments import (
    Sample,
    as_ids,
    as_samples,
    check_names,
    checked,
    next_multiple,
    padding_strategy,
    truncation_strategy,
)
from minitransformer.tokenization.batch_encoding import IGNORED, BatchEncoding, values_of
from minitransformer.tokenization.methods import TokenizerMethods
from minitransformer.tokenization.sentencepiece import SentencePieceBackend
from minitransformer.tokenization.special_tokens import SPECIAL_TOKENS

if TYPE_CHECKING:
    import tokenizers

_LARGEST_ID = 10_000_000  # the largest vocabularies have about a quarter of a million tokens

# The replacements of `clean_up_tokenization`, in this order, each in the whole text.
_CLEAN_UP = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")),
    *((" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)

# Truncation is a setting of the backend that each call changes; the lock keeps concurrent calls
# from using each other's setting. It is global, because a tokenizer with a lock cannot be pickled.
_BACKEND_LOCK = threading.Lock()
# The workers of a DataLoader are forks: one that is made during a call in another thread would find
# the lock held, by a thread that it does not have.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_BACKEND_LOCK.acquire,
        after_in_parent=_BACKEND_LOCK.release,
        after_in_child=_BACKEND_LOCK.release,
    )


class MissingTokenError(ValueError, AttributeError):
    """The vocabulary has no such special token; an AttributeError too, so that `hasattr` works."""


def _token(role: str) -> Any:
    """A property that gets and sets the special token with this role."""

    def assign(tokenizer: "Tokenizer", token: str) -> None:
        tokenizer._set_special_tokens(tokenizer.special_tokens | {role: token})

    return property(lambda tokenizer: tokenizer._special_token(role), assign)


def _token_id(role: str) -> Any:
    """A property that gets and sets the id of the special token with this role."""

    def assign(tokenizer: "Tokenizer", token_id: int) -> None:
        setattr(tokenizer, role, tokenizer.id_to_token(token_id))

    return property(lambda tokenizer: tokenizer.token_to_id(tokenizer._special_token(role)), assign)


class Tokenizer(TokenizerMethods):
    """A vocabulary and its tokenization rules; made by :meth:`train` or :meth:`from_pretrained`.

    The special tokens are attributes: `mask_token`, `mask_token_id`, and so on for bos, eos, unk,
    sep, pad and cls. If the vocabulary has no such token, the attribute raises
    :class:`MissingTokenError` (a ValueError); `"mask_token" in tokenizer.special_tokens` tells
    whether it has one. Most of what transformers' tokenizers have besides is in
    :class:`TokenizerMethods`.

    Attributes:
        vocab_size: the number of embeddings that a model needs: the largest id + 1.
        special_tokens: role to token.
        special_ids: the ids of all special tokens, with a role or without.
        name_or_path: what :meth:`from_pretrained` was given; "" for others.

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

    is_fast = True
    name_or_path = ""

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
        special_tokens: Mapping[str, str] | None = None,
        *,
        model_max_length: int | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        token_types: bool = False,
        clean_up_tokenization_spaces: bool = False,
        source: str = "the tokenizer",
    ) -> None:
        if not hasattr(backend, "get_vocab"):
            raise TypeError(
                f"backend must be a tokenizers.Tokenizer, not {shortened(backend)}; files are read "
                "by Tokenizer.from_pretrained(path)"
            )
        self.source = source
        self.vocab_size: int = _num_embeddings(backend)
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.model_max_length = model_max_length
        self.padding_side = checked("padding_side", padding_side, ("right", "left"))
        self.truncation_side = checked("truncation_side", truncation_side, ("right", "left"))
        self.token_types = token_types
        self.clean_up_tokenization_spaces = (
            clean_up_tokenization_spaces and type(backend.model).__name__ != "BPE"
        )
        self._set_special_tokens(special_tokens or {})

    @classmethod
    def train(
        cls,
        files: str | Path | Sequence[str | Path] | None = None,
        vocab_size: int = 30_522,
        algorithm: str = "bpe",
        min_frequency: int = 2,
        lowercase: bool = False,
        show_progress: bool = True,
        *,
        texts: Iterable[str | Sequence[str]] | None = None,
        **others: Any,
    ) -> "Tokenizer":
        """Train a vocabulary on text files, or on texts in memory.

        The same files or texts give the same vocabulary.

        Args:
            files: one path or several, of UTF-8 text, whose lines are the texts.
            vocab_size: the number of tokens; small files may yield fewer.
            algorithm: "bpe" (byte-level, as in RoBERTa), "wordpiece" (as in BERT) or "unigram" (as
                in XLM-RoBERTa).
            min_frequency: for "bpe" and "wordpiece": how often a pair must occur to be merged.
            lowercase: only for "wordpiece": whether texts are converted to lower case.
            show_progress: whether the library prints progress bars.
            texts: instead of `files`, any iterable of texts, or of lists of texts.

        Raises:
            ValueError: an unknown algorithm, `lowercase` without "wordpiece", a `vocab_size` that
                is too small, no text at all, or a file that is missing, empty or not UTF-8.
            TypeError: `texts` contains something else than texts, or an unknown argument.
        """
        check_names(cls.train, others, TRAINING_TOKENIZERS)
        backend = training.train(
            files, texts, vocab_size, algorithm, min_frequency, lowercase, show_progress
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
        **settings: Any,
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
            settings: other fields of tokenizer_config.json, to replace those in the file:
                `add_prefix_space=True`, `do_lower_case=False`, `bos_token="<s>"`. `use_fast` has
                no effect, since all tokenizers here are fast ones.

        Raises:
            TypeError: an unknown setting.
            CheckpointError: no tokenizer is found; its class or a setting is not supported; or a
                file is broken, unsafe or contradicts another one.
            ImportError: Marian's files need the `sentencepiece` library, which is not installed.
        """
        named = {"model_max_length": model_max_length, "padding_side": padding_side}
        settings |= {name: value for name, value in named.items() if value is not None}
        settings = loading.known_settings(settings)  # before a name is looked up on the hub
        path = resolve_checkpoint(path_or_name, loading.FILES, revision)
        arguments = loading.load(path, settings)
        with pipelines.library_errors(str(path)):
            tokenizer = cls(**arguments)
        tokenizer.name_or_path = str(path_or_name)
        return tokenizer

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
            "model_input_names": self.model_input_names,
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

    @property
    def model_input_names(self) -> list[str]:
        """What a call returns by default."""
        return ["input_ids", *["token_type_ids"] * self.token_types, "attention_mask"]

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
        text: str | Sequence[Any] | None = None,
        text_pair: str | Sequence[Any] | None = None,
        *,
        text_target: str | Sequence[Any] | None = None,
        padding: bool | str | None = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        max_target_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        add_special_tokens: bool = True,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        **others: Any,
    ) -> BatchEncoding:
        """Encode one text, a list of texts, or pairs of texts.

        Args:
            text: one text, or several in a list, an array or a pandas Series. A list of tuples of
                two texts is a list of pairs.
            text_pair: as many second texts. As in transformers, a call with one text and the
                second text "" has only one text; in lists, "" is a second text without tokens.
            text_target: the targets of an encoder-decoder model. Alone, they are encoded like
                texts, except with Marian, which has a SentencePiece model for each side. With
                `text`, they become the `labels` of the batch, with -100 at padding.
            padding: True or "longest" (to the longest sequence), "max_length", or False. Without
                truncation, sequences longer than `max_length` stay as they are. The id at padding
                is `padding_id`, which may also occur in texts; `attention_mask` says what is
                padding.
            truncation: True or "longest_first" (cuts the longer text of a pair), "only_first",
                "only_second", or False.
            max_length: in tokens, including special tokens; by default `model_max_length`.
            max_target_length: the same for `text_target`; by default `max_length`.
            stride: the number of tokens that a window shares with the one before; pairs need
                truncation="only_first" or "only_second".
            is_split_into_words: whether each text is a list of words; `word_ids` of the result are
                their indices. Byte-level BPE needs a tokenizer with `add_prefix_space`.
            pad_to_multiple_of: makes padded sequences longer, to a multiple of this.
            padding_side: "right" or "left"; by default the tokenizer's `padding_side`.
            add_special_tokens: whether the model's special tokens are added to the texts.
            return_tensors: "pt" or "np" for (B, T) of int64, B = 1 for one text; None for lists.
            return_token_type_ids: whether the batch has `token_type_ids`; by default `token_types`.
            return_attention_mask: False for a batch without `attention_mask`.
            return_overflowing_tokens: whether a text that is too long becomes several sequences,
                one per window; `overflow_to_sample_mapping` says which text a sequence came from.
            return_special_tokens_mask: adds `special_tokens_mask`, 1 at special tokens and padding.
            return_offsets_mapping: adds `offset_mapping`, the characters (first, last + 1) of each
                token; `batch.offsets(index)` needs no argument.
            return_length: adds `length`, the number of tokens of each sequence.

        Raises:
            TypeError: an unknown argument, or a text that is not a str.
            ValueError: arguments that contradict each other or the texts.
        """
        check_names(self.__call__, others)
        checked("return_tensors", return_tensors, (None, "pt", "np"))
        options: dict[str, Any] = {
            "padding": padding,
            "truncation": truncation,
            "stride": stride,
            "words": is_split_into_words,
            "multiple": pad_to_multiple_of,
            "padding_side": padding_side,
            "add_special_tokens": add_special_tokens,
            "windows": return_overflowing_tokens,
        }
        targets: list[Sample] = []
        target_length = max_target_length or max_length
        if text_target is not None:
            targets, single = as_samples("text_target", text_target, None, is_split_into_words)
        if text is None and text_target is not None:
            if text_pair is not None:
                raise ValueError("text_target has no second texts: leave out text_pair")
            samples = targets
            encodings, owners = self._sequences(True, samples, target_length, **options)
        else:
            samples, single = as_samples("text", text, text_pair, is_split_into_words)
            encodings, owners = self._sequences(False, samples, max_length, **options)
        names = {
            "input_ids": True,
            "token_type_ids": self.token_types
            if return_token_type_ids is None
            else return_token_type_ids,
            "attention_mask": return_attention_mask is not False,
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
            "length": return_length,
        }
        data = values_of(encodings, [name for name, asked in names.items() if asked])
        if return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = owners
        if text is not None and text_target is not None:
            if len(targets) != len(encodings):
                raise ValueError(
                    f"{len(targets)} target texts for {len(encodings)} sequences: each text has "
                    "one target, and no windows"
                )
            data["labels"] = [
                [i if real else IGNORED for i, real in zip(e.ids, e.attention_mask, strict=True)]
                for e in self._sequences(True, targets, target_length, **options)[0]
            ]
        if single and return_tensors is None and not return_overflowing_tokens:
            data = {name: value[0] if name != "length" else value for name, value in data.items()}
        return BatchEncoding(
            data,
            encodings,
            overflow_to_sample=owners,
            samples=samples,
            tensor_type=return_tensors,
        )

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **others: Any,
    ) -> Any:
        """Decode a list, array or tensor of ids: a str, or a list of str for several sequences.

        Spaces before punctuation are kept, so that byte-level BPE restores the original text,
        unless `clean_up_tokenization_spaces` is set, for instance by tokenizer_config.json.

        The ids may end anywhere, as they do while a text is being generated. With byte-level BPE
        the last token may end within a character; the text then ends in one or more U+FFFD until
        further ids complete the character. The text before these is final: the text of a prefix of
        the ids is a prefix of the whole text. Only if spaces are cleaned up, the last few
        characters may still change.

        Raises:
            TypeError: an unknown argument.
            ValueError: an id is not in the vocabulary.
        """
        check_names(self.decode, others)
        ids = as_ids(token_ids)
        if isinstance(ids, list) and any(isinstance(sequence, list) for sequence in ids):
            return [
                self.decode(sequence, skip_special_tokens, clean_up_tokenization_spaces)
                for sequence in ids
            ]
        ids = ids if isinstance(ids, list) else [ids]
        for token_id in ids:
            self.id_to_token(token_id)
        with pipelines.library_errors(self.source):
            text = str(self.backend.decode(ids, skip_special_tokens=skip_special_tokens))
        cleans = clean_up_tokenization_spaces
        if cleans is None:
            cleans = self.clean_up_tokenization_spaces
        return clean_up_tokenization(text) if cleans and not self._is_bpe() else text

    def _special_token(self, role: str) -> str:
        if role not in self.special_tokens:
            end = role == "pad_token" and "eos_token" in self.special_tokens
            token = "tokenizer.eos_token" if end else "'...'"
            raise MissingTokenError(
                f"this vocabulary has no {role}, only {self.special_tokens}; to use one of its "
                f"tokens as {role}: tokenizer.{role} = {token}; to add a new one: "
                f"tokenizer.add_special_tokens({{'{role}': '...'}})"
            )
        return self.special_tokens[role]

    def _set_special_tokens(self, special_tokens: Mapping[str, str]) -> None:
        tk = pipelines.library()
        for role, token in special_tokens.items():
            if role not in SPECIAL_TOKENS:
                raise ValueError(unexpected_name("special token", role, SPECIAL_TOKENS))
            if not isinstance(token, str) or self.backend.token_to_id(token) is None:
                raise ValueError(
                    f"{role} {shortened(token)} is not a token of the vocabulary; to add it: "
                    f"tokenizer.add_special_tokens({{'{role}': {shortened(token)}}})"
                )
            if token not in self._special_vocab():
                self.backend.add_special_tokens([tk.AddedToken(token, normalized=False)])
        self.special_tokens: dict[str, str] = dict(special_tokens)
        self.special_ids: frozenset[int] = frozenset(self._special_vocab().values())

    def _special_vocab(self) -> dict[str, int]:
        """The tokens that the backend treats as special, with their ids."""
        added = self.backend.get_added_tokens_decoder().items()
        return {token.content: token_id for token_id, token in added if token.special}

    def _is_bpe(self) -> bool:
        return type(self.backend.model).__name__ == "BPE"

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

    def _sequences(
        self,
        as_targets: bool,
        samples: list[Sample],
        max_length: int | None,
        *,
        padding: Any,
        truncation: Any,
        stride: int,
        words: bool,
        multiple: int | None,
        padding_side: str | None,
        add_special_tokens: bool,
        windows: bool,
    ) -> tuple[list["tokenizers.Encoding"], list[int]]:
        """The encodings of a call, truncated and padded, and the sample of each.

        `as_targets` says whether the samples are texts of the decoder, `windows` whether a sample
        that is too long becomes several sequences; the other arguments are those of the call.
        """
        padding = padding_strategy(padding)
        strategy = truncation_strategy(truncation)
        side = checked("padding_side", padding_side or self.padding_side, ("right", "left"))
        if stride and not (strategy and windows):
            raise ValueError("stride needs truncation and return_overflowing_tokens=True")
        limit = self._limit(max_length, strategy, padding)
        if padding == "max_length" and strategy and multiple and limit % multiple:
            raise ValueError(
                f"max_length={limit} is not a multiple of pad_to_multiple_of={multiple}, so no "
                "sequence can be cut to the one and padded to the other; change one of them"
            )
        backend = self.backend
        if words and not self._keeps_words_apart():
            raise ValueError(
                "is_split_into_words=True needs a space before each word, and this tokenizer adds "
                "none: load it with Tokenizer.from_pretrained(path, add_prefix_space=True)"
            )
        if as_targets and isinstance(backend, SentencePieceBackend):
            backend = backend.for_targets()
        if strategy:
            self._check_limit(samples, strategy, limit, stride, add_special_tokens, words)
        cut_side = "right" if windows else self.truncation_side
        encodings = self._encode(
            backend, samples, strategy, limit, stride, add_special_tokens, words, cut_side
        )
        owners = list(range(len(encodings)))
        if windows:
            groups = [[encoding, *encoding.overflowing] for encoding in encodings]
            encodings = [window for group in groups for window in group]
            owners = [sample for sample, group in enumerate(groups) for _ in group]
        longest = max(map(len, encodings), default=0)
        length = limit if padding == "max_length" else longest
        length = next_multiple(length, multiple, padding)
        if padding and any(len(encoding) < length for encoding in encodings):
            pad_id = self.padding_id
            token = self.id_to_token(pad_id)
            for encoding in encodings:
                encoding.pad(length, direction=side, pad_id=pad_id, pad_token=token)
        return encodings, owners

    def _keeps_words_apart(self) -> bool:
        """Whether words that are given one by one get other tokens than parts of one word."""
        if type(self.backend.decoder).__name__ != "ByteLevel":
            return True
        return str(self.backend.pre_tokenizer.pre_tokenize_str("a")[0][0]) != "a"

    def _check_limit(
        self,
        samples: list[Sample],
        truncation: str,
        limit: int,
        stride: int,
        add_special_tokens: bool,
        words: bool,
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
            raise ValueError("truncation='only_second' needs text_pair")
        if stride and pairs and truncation == "longest_first":
            raise ValueError("stride with pairs needs truncation='only_first' or 'only_second'")
        if not pairs or truncation == "longest_first":
            return
        cut = int(truncation == "only_second")  # the index of the text that is truncated

        def encoded(texts: list[Any]) -> list["tokenizers.Encoding"]:
            singles: list[Sample] = [(text,) for text in texts]
            return self._encode(self.backend, singles, False, 0, 0, False, words)

        others = encoded([pair[1 - cut] for pair in samples])
        for index, (pair, encoding) in enumerate(zip(samples, others, strict=True)):
            left = available - len(encoding)
            if left > stride:
                continue
            if len(encoded([pair[cut]])[0]) > left:
                raise ValueError(
                    f"text {1 - cut} of pair {index} has {len(encoding)} tokens, which leaves "
                    f"{left} of max_length={limit} for text {cut}; it needs more than "
                    f"stride={stride}"
                )

    def _encode(
        self,
        backend: Any,
        samples: list[Sample],
        truncation: str | bool,
        limit: int,
        stride: int,
        add_special_tokens: bool,
        words: bool,
        cut_side: str = "right",
    ) -> list["tokenizers.Encoding"]:
        inputs = [sample if len(sample) == 2 else sample[0] for sample in samples]
        with _BACKEND_LOCK, pipelines.library_errors(self.source):
            try:
                if truncation:
                    backend.enable_truncation(
                        limit, stride=stride, strategy=truncation, direction=cut_side
                    )
                return list(
                    backend.encode_batch(
                        inputs, is_pretokenized=words, add_special_tokens=add_special_tokens
                    )
                )
            finally:
                backend.no_truncation()


def clean_up_tokenization(text: str) -> str:
    """Remove the spaces before punctuation and English contractions."""
    for spaced, joined in _CLEAN_UP:
        text = text.replace(spaced, joined)
    return text


def _num_embeddings(backend: Any) -> int:
    """The number of embeddings that a model needs; ids may have gaps."""
    ids = backend.get_vocab(with_added_tokens=True).values()
    if not ids or max(ids) > _LARGEST_ID or len(set(ids)) != len(ids):
        raise ValueError(
            f"{len(ids)} tokens have {len(set(ids))} different ids, of which the largest is "
            f"{max(ids, default=None)}; every token needs its own id, up to {_LARGEST_ID:,}"
        )
    return int(max(ids)) + 1

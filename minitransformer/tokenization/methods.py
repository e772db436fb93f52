"""Methods of a tokenizer that a user of Hugging Face knows, beside a call and `decode`.

To turn a text into ids and back, nothing here is needed: tokenizer.py shows how that is done.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minitransformer.elsewhere import TOKENIZER
from minitransformer.names import listed, shortened, unexpected_name
from minitransformer.tokenization import pipelines
from minitransformer.tokenization.arguments import (
    as_ids,
    check_names,
    checked,
    next_multiple,
    padding_strategy,
)
from minitransformer.tokenization.batch_encoding import IGNORED, BatchEncoding
from minitransformer.tokenization.sentencepiece import SentencePieceBackend
from minitransformer.tokenization.special_tokens import SPECIAL_TOKENS


class TokenizerMethods:
    """A call step by step, padding afterwards, and how a vocabulary grows."""

    if TYPE_CHECKING:  # what Tokenizer has
        backend: Any
        padding_side: str
        special_ids: frozenset[int]
        special_tokens: dict[str, str]
        unk_token_id: int
        vocab_size: int

        def __call__(self, *arguments: Any, **options: Any) -> BatchEncoding: ...
        def __len__(self) -> int: ...
        def decode(self, *arguments: Any, **options: Any) -> Any: ...
        def id_to_token(self, token_id: int) -> str: ...
        def token_to_id(self, token: str) -> int: ...
        @property
        def padding_id(self) -> int: ...
        def _limit(self, *arguments: Any) -> int: ...
        def _set_special_tokens(self, special_tokens: Mapping[str, str]) -> None: ...
        def _special_vocab(self) -> dict[str, int]: ...

    # ---- a call, one step at a time ----

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of one text, or of a pair; `options` are those of a call."""
        if not isinstance(text, str) and not options.get("is_split_into_words"):
            raise TypeError(
                f"tokenize takes one text, not {shortened(text)}; for several: "
                "[tokenizer.tokenize(text) for text in texts]"
            )
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """The `input_ids` of a call, which has the same options."""
        return self(text, text_pair, **options)["input_ids"]

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """A call, as older versions of transformers name it."""
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> BatchEncoding:
        """A call with several texts, or with several pairs in tuples."""
        return self(batch_text_or_text_pairs, **options)

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token, or the ids of several; that of unk_token for those that are unknown.

        Raises:
            TypeError: something else than a token.
            ValueError: a token is unknown, and there is no unk_token; see also :meth:`token_to_id`.
        """
        if not isinstance(tokens, str):
            if not isinstance(tokens, Iterable):
                raise TypeError(f"a token is a str, not {shortened(tokens)}")
            return [self.convert_tokens_to_ids(token) for token in tokens]
        found = self.backend.token_to_id(tokens)
        known = found is not None or "unk_token" not in self.special_tokens
        return self.token_to_id(tokens) if known else self.unk_token_id

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of several in a list, array or tensor.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        ids = as_ids(ids)
        if not isinstance(ids, list):
            return self.id_to_token(ids)
        skipped = self.special_ids if skip_special_tokens else ()
        return [self.id_to_token(token_id) for token_id in ids if token_id not in skipped]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of these tokens; see :meth:`decode`."""
        if isinstance(self.backend, SentencePieceBackend):
            return self.backend.decode_tokens(tokens)
        decoder = self.backend.decoder
        return str(decoder.decode(list(tokens))) if decoder is not None else " ".join(tokens)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """The number of special tokens that a call adds to one text, or to a pair."""
        return int(self.backend.num_special_tokens_to_add(pair))

    def get_special_tokens_mask(
        self, ids: Any, *, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for each special token among the ids of a sequence, 0 for the others.

        Raises:
            ValueError: `already_has_special_tokens` is not True; a call adds them.
        """
        if not already_has_special_tokens:
            raise ValueError(
                "get_special_tokens_mask needs ids that contain the special tokens: pass "
                "already_has_special_tokens=True, or call tokenizer(text, "
                "return_special_tokens_mask=True)"
            )
        return [int(token_id in self.special_ids) for token_id in as_ids(ids)]

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **others: Any,
    ) -> list[str]:
        """Decode several sequences of ids; see :meth:`decode`."""
        texts = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces, **others)
        return [texts] if isinstance(texts, str) and len(sequences) else list(texts)

    # ---- sequences that were encoded before ----

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        **others: Any,
    ) -> BatchEncoding:
        """Make sequences equally long that were encoded before, as a collator does.

        `input_ids` get `padding_id`, `attention_mask` and `token_type_ids` 0, `special_tokens_mask`
        1. Labels that are lists get -100: with one
        label a token they become as long as the sequence, others as long as the longest of them.
        All other values stay as they are.

        Args:
            encoded_inputs: dicts of one sequence each, or one dict of lists, as this tokenizer
                returns both; the values may be tensors or arrays.
            padding: True or "longest", "max_length", or False.
            max_length: the length for "max_length", by default `model_max_length`; longer sequences
                stay as they are.
            pad_to_multiple_of: makes the sequences longer, to a multiple of this.
            padding_side: "right" or "left"; by default the tokenizer's `padding_side`.
            return_attention_mask: False for a batch without `attention_mask`; otherwise one is
                added if there is none.
            return_tensors: "pt" or "np"; by default what the ids were given as.

        Raises:
            TypeError: `encoded_inputs` are no dicts, or an unknown argument.
            ValueError: there are no `input_ids`, or arguments contradict each other.
        """
        check_names(self.pad, others)
        values, kind, single = _as_values(encoded_inputs)
        side = checked("padding_side", padding_side or self.padding_side, ("right", "left"))
        ids = values["input_ids"]
        if return_attention_mask is False:
            values.pop("attention_mask", None)
        else:
            values.setdefault("attention_mask", [[1] * len(sequence) for sequence in ids])
        how = padding_strategy(padding)
        limit = self._limit(max_length if how == "max_length" else None, False, how)
        longest = max(map(len, ids), default=0)
        length = next_multiple(limit or longest, pad_to_multiple_of, how) if how else 0

        def filled(sequences: list[list[Any]], length: int, value: int) -> list[list[Any]]:
            fills = [[value] * (length - len(sequence)) for sequence in sequences]
            pairs = zip(sequences, fills, strict=True)
            return [[*s, *fill] if side == "right" else [*fill, *s] for s, fill in pairs]

        fill = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
        if any(len(sequence) < length for sequence in ids):
            fill["input_ids"] = self.padding_id
        padded = {n: filled(v, length, fill[n]) if n in fill else v for n, v in values.items()}
        labels = values.get("labels")
        if how and labels and all(isinstance(label, list) for label in labels):
            of_tokens = [*map(len, labels)] == [*map(len, ids)]
            longest = length if of_tokens else max(map(len, labels))
            padded["labels"] = filled(labels, longest, IGNORED)
        kind = return_tensors or kind
        if single and kind is None:
            padded = {name: value[0] for name, value in padded.items()}
        return BatchEncoding(padded, tensor_type=kind)

    # ---- the vocabulary ----

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id, the added ones too."""
        return dict(self.backend.get_vocab(with_added_tokens=True))

    vocab = property(get_vocab)

    def get_added_vocab(self) -> dict[str, int]:
        """The tokens that are cut out of a text first, special ones and others, with their ids."""
        added = sorted(self.backend.get_added_tokens_decoder().items())
        return {token.content: token_id for token_id, token in added}

    def add_tokens(self, tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens, with the next ids where the vocabulary lacks them; return how many it lacked.

        `model.resize_token_embeddings(len(tokenizer))` then gives the model embeddings for them.

        Args:
            tokens: a str, a `tokenizers.AddedToken`, or several of them.
            special_tokens: whether they are special tokens, which decoding may leave out.

        Raises:
            TypeError: something else than a token.
            ValueError: an empty token, a vocabulary whose ids have gaps, or a Marian, whose two
                models determine its tokens.
        """
        tk = pipelines.library()
        is_one = isinstance(tokens, str) or not isinstance(tokens, Iterable)
        tokens = [tokens] if is_one else list(tokens)
        for token in tokens:
            if not isinstance(token, str | tk.AddedToken):
                raise TypeError(f"a token is a str or an AddedToken, not {shortened(token)}")
            text = token if isinstance(token, str) else token.content
            if not text:
                raise ValueError("a token cannot be empty")
            if self.backend.token_to_id(text) is not None:
                continue
            if self.vocab_size != len(self):
                raise ValueError(
                    f"{shortened(text)} cannot be added: the {len(self)} ids have gaps, up to "
                    f"{self.vocab_size - 1}, so the next one may be taken; write it into the files "
                    "of the tokenizer"
                )
            if isinstance(self.backend, SentencePieceBackend):
                raise ValueError(
                    f"{shortened(text)} cannot be added: the tokens of a Marian are the pieces of "
                    "its two SentencePiece models; write it as a word of the text"
                )
        size = len(self)
        add = self.backend.add_special_tokens if special_tokens else self.backend.add_tokens
        add(tokens)
        number = len(self) - size
        self.vocab_size += number
        self._set_special_tokens(self.special_tokens)
        return number

    def add_special_tokens(self, special_tokens: Mapping[str, Any]) -> int:
        """Give roles to tokens, and add those that the vocabulary lacks; return their number.

        Args:
            special_tokens: role to token, such as `{"pad_token": "[PAD]"}`. The tokens in the list
                "additional_special_tokens", or "extra_special_tokens", have no role.

        Raises:
            ValueError: an unknown role, or what :meth:`add_tokens` refuses.
        """
        without_role = ("additional_special_tokens", "extra_special_tokens")
        roles: dict[str, str] = {}
        tokens: list[Any] = []
        for role, token in special_tokens.items():
            if role in without_role:
                tokens += [token] if isinstance(token, str) else token
            elif role in SPECIAL_TOKENS:
                tokens.append(token)
                roles[role] = getattr(token, "content", token)
            else:
                raise ValueError(
                    unexpected_name("special token", str(role), (*SPECIAL_TOKENS, *without_role))
                )
        number = self.add_tokens(tokens, special_tokens=True)
        self._set_special_tokens(self.special_tokens | roles)
        return number

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Role to token."""
        return dict(self.special_tokens)

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens: those with a role, then the others in the order of their ids."""
        others = sorted(self._special_vocab().items(), key=lambda item: item[1])
        return list(dict.fromkeys([*self.special_tokens.values(), *(token for token, _ in others)]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return [self.token_to_id(token) for token in self.all_special_tokens]

    if not TYPE_CHECKING:  # a type checker knows the attributes that there are

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # a property failed: its own error says why
                return object.__getattribute__(self, name)
            if name.startswith("__"):  # what `copy` and `pickle` look for
                raise AttributeError(name)
            if name in TOKENIZER:
                raise AttributeError(f"there is no tokenizer.{name}; use {TOKENIZER[name]}")
            names = [n for n in {*dir(type(self)), *vars(self)} if not n.startswith("_")]
            names.sort()
            raise AttributeError(unexpected_name("attribute of a tokenizer", name, names))


def _as_values(features: Any) -> tuple[dict[str, list[Any]], str | None, bool]:
    """The values of `Tokenizer.pad` as lists, the kind of their arrays, and whether one sequence.

    Raises:
        TypeError: features are no dicts.
        ValueError: the dicts have different names, or no `input_ids`.
    """
    many = features if not isinstance(features, Mapping) else [features]
    if not isinstance(many, Sequence) or not all(isinstance(one, Mapping) for one in many):
        raise TypeError(
            f"pad takes a list of dicts, or a dict of lists, not {shortened(features)}; for texts, "
            "call the tokenizer with padding=True"
        )
    names = list(dict.fromkeys(name for one in many for name in one))
    for one in many:
        missing = [name for name in ["input_ids", *names] if name not in one]
        if missing:
            raise ValueError(f"pad needs {missing[0]} in each dict; one has only {listed(one)}")
    if not many:
        raise ValueError("pad needs at least one sequence")
    ids = many[0]["input_ids"]
    inner = ids[0] if isinstance(ids, list) and ids else ids
    kind = "pt" if hasattr(inner, "device") and hasattr(inner, "cpu") else None
    kind = "np" if kind is None and hasattr(inner, "tolist") else kind
    if not isinstance(features, Mapping):
        return {name: [as_ids(one[name]) for one in many] for name in names}, kind, False
    values = {name: as_ids(features[name]) for name in names}
    single = not values["input_ids"] or not isinstance(values["input_ids"][0], list)
    return {n: [value] if single else value for n, value in values.items()}, kind, single

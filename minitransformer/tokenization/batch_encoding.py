"""What a tokenizer returns: the ids of a batch, and the characters that each token came from.

Letters: B sequences (each a text, a pair of texts, or a window of a long text), T tokens.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from minitransformer.names import listed, shortened

if TYPE_CHECKING:
    import tokenizers
    import torch

IGNORED = -100  # a label that takes part in no loss
# Inputs of a model, and the attributes of the library's `Encoding` that hold them.
_ENCODING_ATTRIBUTES = {
    "input_ids": "ids",
    "token_type_ids": "type_ids",
    "attention_mask": "attention_mask",
}
# Other values of a call, with the argument that asks for them.
_OPTIONAL = {
    "special_tokens_mask": "return_special_tokens_mask",
    "offset_mapping": "return_offsets_mapping",
    "length": "return_length",
    "overflow_to_sample_mapping": "return_overflowing_tokens",
    "token_type_ids": "return_token_type_ids",
    "attention_mask": "return_attention_mask",
}


class CharSpan(NamedTuple):
    """Characters `start` to `end` - 1 of a text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `start` to `end` - 1 of a sequence."""

    start: int
    end: int


class BatchEncoding(dict[str, Any]):
    """What a tokenizer returns: `input_ids`, `attention_mask`, perhaps `token_type_ids`.

    Each value contains B sequences of T tokens, as lists or as one (B, T) array or tensor of int64.
    After a call with a single text and without `return_tensors`, each value is a flat list, and its
    `batch_index` is 0. `batch.input_ids` is `batch["input_ids"]`, and `batch[0]` is the library's
    `Encoding` of the first sequence.

    Methods that take an index of a sequence and one within it (a token, a word, a character) take
    the second alone if there is one sequence: `batch.char_to_token(5)`, else
    `batch.char_to_token(1, 5)`.

    Args:
        data: the values by name.
        encodings: the `tokenizers.Encoding` of every sequence; without them, only the values exist.
        overflow_to_sample: for every sequence, the index of the text or pair that it came from.
        samples: the texts, pairs of texts, or lists of words.
        tensor_type: "pt" or "np" to stack the values; None leaves them as they are.

    Raises:
        ValueError: the values of a name cannot be stacked, because sequences differ in length.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encodings: Sequence["tokenizers.Encoding"] = (),
        *,
        overflow_to_sample: Sequence[int] = (),
        samples: Sequence[tuple[str | list[str], ...]] = (),
        tensor_type: str | None = None,
    ) -> None:
        super().__init__(data or {})
        self.encodings = list(encodings)
        self.overflow_to_sample = list(overflow_to_sample)
        self._samples = samples
        self._has_words = bool(samples) and not isinstance(samples[0][0], str)
        # The characters (first, last + 1) that the tokens of a text cover, once they were needed.
        self._covered: dict[tuple[int, int], tuple[int, int]] = {}
        self.convert_to_tensors(tensor_type)

    def __getitem__(self, key: Any) -> Any:
        return self.encodings[key] if isinstance(key, int | slice) else super().__getitem__(key)

    def __missing__(self, key: str) -> Any:
        raise KeyError(self._what_is_there(key))

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name.startswith("__"):  # what `copy` and `pickle` look for
            raise AttributeError(name)
        raise AttributeError(self._what_is_there(name))

    def _what_is_there(self, name: str) -> str:
        argument = _OPTIONAL.get(name)
        hint = f"; to get it, pass {argument}=True to the tokenizer" if argument else ""
        return f"this batch has no {shortened(name)}, only {listed(self)}{hint}"

    @property
    def data(self) -> Self:
        """The batch itself, a dict."""
        return self

    @property
    def is_fast(self) -> bool:
        """Whether texts and tokens can be compared, as they can for what a tokenizer returns."""
        return bool(self.encodings)

    def convert_to_tensors(self, tensor_type: str | None = None) -> Self:
        """Stack the values of each name in place, to a tensor ("pt") or an array ("np").

        Whole numbers become int64, others float32.

        Raises:
            ValueError: there is no sequence, or sequences differ in length.
        """
        if tensor_type is None:
            return self
        if tensor_type not in ("pt", "np"):
            raise ValueError(f"tensors are 'pt' or 'np', not {shortened(tensor_type)}")
        import numpy as np

        # By way of an array, which is several times faster than torch.tensor of nested lists.
        arrays = {name: self._stacked(name, value) for name, value in self.items()}
        if tensor_type == "np":
            self.update({name: np.asarray(array) for name, array in arrays.items()})
        else:
            import torch

            self.update({name: torch.as_tensor(array) for name, array in arrays.items()})
        return self

    @staticmethod
    def _stacked(name: str, value: Any) -> Any:
        """`value` as an array, unless it is an array or a tensor."""
        import numpy as np

        if not isinstance(value, list | tuple):
            return value
        if not value:
            raise ValueError("return_tensors needs at least one text")
        if isinstance(value[0], list | tuple):
            lengths = {len(sequence) for sequence in value}
            if len(lengths) > 1:
                raise ValueError(
                    f"sequences of {min(lengths)} to {max(lengths)} tokens in {name} do not fit "
                    "into one tensor: pass padding=True, or truncation=True with "
                    "padding='max_length'"
                )
        try:
            array = np.array(value)
        except ValueError:
            array = np.array(None)
        if array.dtype.kind not in "iufb":
            raise ValueError(f"{name} contains no numbers that fit into one tensor; leave it out")
        return array.astype(np.float32 if array.dtype.kind == "f" and array.size else np.int64)

    def to(self, device: "str | torch.device | int", *, non_blocking: bool = False) -> Self:
        """Move the tensors to `device` in place, and return itself.

        Raises:
            ValueError: the values are not tensors.
        """
        for name, value in self.items():
            if not hasattr(value, "to"):
                raise ValueError(f"{name} is a {type(value).__name__}; pass return_tensors='pt'")
            self[name] = value.to(device, non_blocking=non_blocking)
        return self

    def padded_batch(
        self, batch_indices: Sequence[int], pad_token_id: int, padding_side: str = "right"
    ) -> "dict[str, torch.Tensor]":
        """Some of the sequences as tensors, (len(batch_indices), T) int64 each.

        They are padded to the length T of the longest of them. This forms batches of sequences of
        similar length, whatever their order here.
        """
        import torch

        return {
            name: torch.nn.utils.rnn.pad_sequence(
                [
                    torch.tensor(getattr(self.encodings[index], _ENCODING_ATTRIBUTES[name]))
                    for index in batch_indices
                ],
                batch_first=True,
                padding_value=pad_token_id if name == "input_ids" else 0,
                padding_side=padding_side,
            )
            for name in self
            if name in _ENCODING_ATTRIBUTES
        }

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The T tokens of a sequence."""
        return list(self._encoding(batch_index).tokens)

    def offsets(self, batch_index: int = 0) -> list[tuple[int, int]]:
        """For each of the T tokens its characters in the text, (first, last + 1).

        They are (0, 0) for special tokens that are not in the text. With is_split_into_words=True
        the characters are counted from the beginning of the word.
        """
        return list(self._encoding(batch_index).offsets)

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each of the T tokens the index of its word in its text; None for special tokens."""
        return list(self._encoding(batch_index).word_ids)

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each of the T tokens 0 (first text) or 1 (second); None for special tokens."""
        return list(self._encoding(batch_index).sequence_ids)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int:
        """The first token that covers a character.

        Args:
            batch_or_char_index: the sequence to search, or the character if there is one sequence.
            char_index: the index of the character in its text.
            sequence_index: the text that contains the character: 0, or 1 for the second of a pair.

        Raises:
            ValueError: no token covers it; the message says why not, and what is covered.
        """
        batch_index = batch_or_char_index
        if char_index is None:  # a loop over all characters saves the call
            batch_index, char_index = self._indices("char_to_token", batch_index, None)
        encoding = self._encoding(batch_index)
        try:
            token = None if self._has_words else encoding.char_to_token(char_index, sequence_index)
        except OverflowError:  # a negative index
            token = None
        # The library searches the other text if it has no token of this one.
        if token is None or encoding.token_to_sequence(token) != sequence_index:
            raise ValueError(self._why_no_token(batch_index, char_index, sequence_index))
        return token

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan:
        """The characters (start, end) of its text that a token covers.

        Raises:
            ValueError: there is no such token, or it is a special one, which covers no characters.
        """
        batch_index, token = self._token("token_to_chars", batch_or_token_index, token_index)
        if self.sequence_ids(batch_index)[token] is None:
            raise ValueError(
                f"token {token} of sequence {batch_index} is the special token "
                f"{shortened(self.tokens(batch_index)[token])}, which covers no characters"
            )
        return CharSpan(*self.offsets(batch_index)[token])

    def token_to_sequence(
        self, batch_or_token_index: int, token_index: int | None = None
    ) -> int | None:
        """The text of a token: 0, or 1 for the second of a pair; None for a special token."""
        batch_index, token = self._token("token_to_sequence", batch_or_token_index, token_index)
        return self.sequence_ids(batch_index)[token]

    def token_to_word(
        self, batch_or_token_index: int, token_index: int | None = None
    ) -> int | None:
        """The index of a token's word in its text; None for a special token."""
        batch_index, token = self._token("token_to_word", batch_or_token_index, token_index)
        return self.word_ids(batch_index)[token]

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan:
        """The tokens (start, end) of a word.

        Raises:
            ValueError: no token belongs to the word.
        """
        batch_index, word = self._indices("word_to_tokens", batch_or_word_index, word_index)
        owners = zip(self.word_ids(batch_index), self.sequence_ids(batch_index), strict=True)
        tokens = [token for token, owner in enumerate(owners) if owner == (word, sequence_index)]
        if not tokens:
            raise ValueError(
                f"no token of sequence {batch_index} belongs to word {word} of text "
                f"{sequence_index}; its words are in batch.word_ids({batch_index})"
            )
        return TokenSpan(tokens[0], tokens[-1] + 1)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan:
        """The characters (start, end) of a word; see :meth:`word_to_tokens`."""
        batch_index, word = self._indices("word_to_chars", batch_or_word_index, word_index)
        tokens = self.word_to_tokens(batch_index, word, sequence_index)
        spans = self.offsets(batch_index)[slice(*tokens)]
        return CharSpan(spans[0][0], spans[-1][1])

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The index of the word that contains a character; see :meth:`char_to_token`."""
        batch_index, char = self._indices("char_to_word", batch_or_char_index, char_index)
        return self.word_ids(batch_index)[self.char_to_token(batch_index, char, sequence_index)]

    def _encoding(self, batch_index: int) -> "tokenizers.Encoding":
        try:
            return self.encodings[batch_index]
        except IndexError:
            count = len(self.encodings)
            why = (
                f"it has {count}, counted from 0"
                if count
                else (
                    "only what the tokenizer returns for texts knows them, not what pad() returns"
                )
            )
            raise ValueError(f"this batch has no texts of sequence {batch_index}: {why}") from None

    def _indices(self, method: str, first: int, second: int | None) -> tuple[int, int]:
        """The index of the sequence, and the one within it, of a call with one or both."""
        if second is None and len(self.encodings) > 1:
            raise ValueError(
                f"{method}({first}) is for a batch of one sequence; this one has "
                f"{len(self.encodings)}: {method}(batch_index, {first})"
            )
        return (0, first) if second is None else (first, second)

    def _token(self, method: str, first: int, second: int | None) -> tuple[int, int]:
        batch_index, token = self._indices(method, first, second)
        count = len(self._encoding(batch_index))
        if not -count <= token < count:
            raise ValueError(
                f"sequence {batch_index} has {count} tokens, so none with index {token}"
            )
        return batch_index, token

    def _why_no_token(self, batch_index: int, char_index: int, sequence_index: int) -> str:
        texts = self._samples[self.overflow_to_sample[batch_index]]
        where = f"character {char_index} of text {sequence_index} in sequence {batch_index}"
        if not 0 <= sequence_index < len(texts):
            return f"{where}: the sequence has {len(texts)} text(s), counted from 0"
        text = texts[sequence_index]
        if not isinstance(text, str):
            return (
                f"{where}: the text was given as words, so characters are counted in each word; "
                "use word_to_tokens and offsets"
            )
        if not 0 <= char_index < len(text):
            return f"{where} is beyond the text, which has {len(text)} characters"
        first, last = self._characters(batch_index, sequence_index)
        if first == last:
            return f"{where}: truncation removed every token of this text"
        sample = self.overflow_to_sample[batch_index]
        if text[char_index].isspace():
            why = "is white space, which belongs to no token"
        elif first <= char_index < last:
            why = f"({text[char_index]!r}) was removed by the normalizer"
        elif self.overflow_to_sample.count(sample) > 1:
            why = (
                "is in another window; those of this text are the sequences i with "
                f"batch.overflow_to_sample[i] == {sample}"
            )
        else:
            why = (
                "was truncated: leave the example out, or pass return_overflowing_tokens=True and "
                "a stride, so that windows cover the whole text"
            )
        return f"{where} {why}; the sequence covers characters {first} to {last - 1}"

    def _characters(self, batch_index: int, sequence_index: int) -> tuple[int, int]:
        """The characters (first, last + 1) that the tokens of a text cover in a sequence."""
        place = batch_index, sequence_index
        if place not in self._covered:
            owners = zip(self.offsets(batch_index), self.sequence_ids(batch_index), strict=True)
            spans = [span for span, owner in owners if owner == sequence_index] or [(0, 0)]
            self._covered[place] = min(first for first, _ in spans), max(end for _, end in spans)
        return self._covered[place]


def values_of(
    encodings: Sequence["tokenizers.Encoding"], names: Sequence[str]
) -> dict[str, list[Any]]:
    """The values of a batch with these names: B lists of T each; B numbers for "length"."""
    attributes = {
        **_ENCODING_ATTRIBUTES,
        "special_tokens_mask": "special_tokens_mask",
        "offset_mapping": "offsets",
    }
    return {
        name: [
            len(encoding) if name == "length" else getattr(encoding, attributes[name])
            for encoding in encodings
        ]
        for name in names
    }

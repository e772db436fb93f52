"""What a tokenizer returns: the ids of a batch, and the characters that each token came from.

Letters: B sequences (each a text, a pair of texts, or a window of a long text), T tokens.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from minitransformer.names import shortened

if TYPE_CHECKING:
    import tokenizers
    import torch

# Inputs of a model, and the attributes of the library's `Encoding` that hold them.
_ENCODING_ATTRIBUTES = {
    "input_ids": "ids",
    "token_type_ids": "type_ids",
    "attention_mask": "attention_mask",
}


class BatchEncoding(dict[str, Any]):
    """What a tokenizer returns: `input_ids`, `attention_mask`, perhaps `token_type_ids`.

    Each value contains B sequences of T tokens, as lists or as one (B, T) array or tensor of int64.
    After a call with a single text and without `return_tensors`, each value is a flat list, and its
    `batch_index` is 0.

    Attributes:
        encodings: the `tokenizers.Encoding` of every sequence.
        overflow_to_sample: for every sequence, the index of the text or pair that it came from.
    """

    def __init__(
        self,
        encodings: list["tokenizers.Encoding"],
        overflow_to_sample: list[int],
        samples: list[tuple[str, ...]],
        model_input_names: Sequence[str],
        return_tensors: str | None = None,
    ) -> None:
        super().__init__(
            {
                name: [getattr(encoding, _ENCODING_ATTRIBUTES[name]) for encoding in encodings]
                for name in model_input_names
            }
        )
        if return_tensors is not None:
            self._stack(as_torch=return_tensors == "pt")
        self.encodings = encodings
        self.overflow_to_sample = overflow_to_sample
        self._samples = samples

    def _stack(self, as_torch: bool) -> None:
        """Replace each list of B sequences, which must be equally long, by a (B, T) array."""
        lengths = {len(ids) for ids in self["input_ids"]}
        if not lengths:
            raise ValueError("return_tensors needs at least one text")
        if len(lengths) > 1:
            raise ValueError(
                f"sequences of {min(lengths)} to {max(lengths)} tokens do not fit into one tensor: "
                "pass padding=True, or truncation=True with padding='max_length'"
            )
        import numpy as np

        # By way of an array, which is several times faster than torch.tensor of nested lists.
        self.update({name: np.array(values, dtype=np.int64) for name, values in self.items()})
        if as_torch:
            import torch

            self.update({name: torch.from_numpy(array) for name, array in self.items()})

    def to(self, device: "str | torch.device") -> Self:
        """Move the tensors to `device` in place, and return itself.

        Raises:
            ValueError: the values are not tensors.
        """
        for name, value in self.items():
            if not hasattr(value, "to"):
                raise ValueError(f"{name} is a {type(value).__name__}; pass return_tensors='pt'")
            self[name] = value.to(device)
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
        }

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The T tokens of a sequence."""
        return list(self.encodings[batch_index].tokens)

    def offsets(self, batch_index: int = 0) -> list[tuple[int, int]]:
        """For each of the T tokens its characters in the text, (first, last + 1).

        They are (0, 0) for special tokens that are not in the text.
        """
        return list(self.encodings[batch_index].offsets)

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each of the T tokens the index of its word in its text; None for special tokens."""
        return list(self.encodings[batch_index].word_ids)

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each of the T tokens 0 (first text) or 1 (second); None for special tokens."""
        return list(self.encodings[batch_index].sequence_ids)

    def char_to_token(self, batch_index: int, char_index: int, sequence_index: int = 0) -> int:
        """The first token that covers a character.

        Args:
            batch_index: the sequence to search.
            char_index: the index of the character in its text.
            sequence_index: the text that contains the character: 0, or 1 for the second of a pair.

        Raises:
            ValueError: no token covers it; the message says why not, and what is covered.
        """
        tokens = zip(self.offsets(batch_index), self.sequence_ids(batch_index), strict=True)
        spans = [
            (token, start, end)
            for token, ((start, end), sequence_id) in enumerate(tokens)
            if sequence_id == sequence_index
        ]
        for token, start, end in spans:
            if start <= char_index < end:
                return token
        raise ValueError(self._why_no_token(batch_index, char_index, sequence_index, spans))

    def token_to_chars(self, batch_index: int, token_index: int) -> tuple[int, int]:
        """The characters (first, last + 1) of its text that a token covers.

        Raises:
            ValueError: it is a special token, which covers no characters.
        """
        if self.sequence_ids(batch_index)[token_index] is None:
            token = self.tokens(batch_index)[token_index]
            raise ValueError(
                f"token {token_index} of sequence {batch_index} is the special token "
                f"{shortened(token)}, "
                "which covers no characters"
            )
        return self.offsets(batch_index)[token_index]

    def _why_no_token(
        self,
        batch_index: int,
        char_index: int,
        sequence_index: int,
        spans: list[tuple[int, int, int]],
    ) -> str:
        texts = self._samples[self.overflow_to_sample[batch_index]]
        where = f"character {char_index} of text {sequence_index} in sequence {batch_index}"
        if not 0 <= sequence_index < len(texts):
            return f"{where}: the sequence has {len(texts)} text(s), counted from 0"
        text = texts[sequence_index]
        if not 0 <= char_index < len(text):
            return f"{where} is beyond the text, which has {len(text)} characters"
        if not spans:
            return f"{where}: truncation removed every token of this text"
        first, last = min(start for _, start, _ in spans), max(end for *_, end in spans)
        covered = f"the sequence covers characters {first} to {last - 1}"
        if text[char_index].isspace():
            return f"{where} is white space, which belongs to no token; {covered}"
        if first <= char_index < last:
            return f"{where} ({text[char_index]!r}) was removed by the normalizer; {covered}"
        return f"{where} was truncated or is in another window; {covered}"

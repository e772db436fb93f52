"""What a tokenizer returns: the ids of a batch, and where each came from in its text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import tokenizers
    import torch

# Where the library's `Encoding` keeps what the models call by these names.
_FIELDS = {"input_ids": "ids", "token_type_ids": "type_ids", "attention_mask": "attention_mask"}


class BatchEncoding(dict[str, Any]):
    """What a tokenizer returns: `input_ids`, `attention_mask`, perhaps `token_type_ids`.

    Each value has B rows of T ids: lists, or one (B, T) array or tensor of int64. After a call with
    one text and without `return_tensors` it is a single flat list, which is row 0 to the methods.

    Attributes:
        encodings: the library's `Encoding` of every row.
        overflow_to_sample: for every row the index of the text it came from.
    """

    def __init__(
        self,
        encodings: list["tokenizers.Encoding"],
        overflow_to_sample: list[int],
        texts: list[tuple[str, ...]],
        names: Sequence[str],
        return_tensors: str | None = None,
    ) -> None:
        super().__init__({n: [getattr(row, _FIELDS[n]) for row in encodings] for n in names})
        if return_tensors is not None:
            self._stack(as_torch=return_tensors == "pt")
        self.encodings = encodings
        self.overflow_to_sample = overflow_to_sample
        self._texts = texts

    def _stack(self, as_torch: bool) -> None:
        """Make a (B, T) array or tensor of each list of rows, which must have one length."""
        lengths = {len(row) for row in self["input_ids"]}
        if not lengths:
            raise ValueError("no tensor can be made of no text")
        if len(lengths) > 1:
            raise ValueError(
                f"no tensor can be made of rows of {min(lengths)} to {max(lengths)} tokens: "
                "pass padding=True"
            )
        import numpy as np

        # By way of an array: several times faster than a tensor from nested lists.
        self.update({name: np.array(rows, dtype=np.int64) for name, rows in self.items()})
        if as_torch:
            import torch

            self.update({name: torch.from_numpy(array) for name, array in self.items()})

    def to(self, device: "str | torch.device") -> Self:
        """Move the tensors to `device` in place, and return itself."""
        for name, value in self.items():
            if not hasattr(value, "to"):
                raise ValueError(f"{name} is a {type(value).__name__}; use return_tensors='pt'")
            self[name] = value.to(device)
        return self

    def padded_rows(
        self, rows: Sequence[int], pad_token_id: int, padding_side: str = "right"
    ) -> "dict[str, torch.Tensor]":
        """Some rows as tensors, (len(rows), T) int64, padded on one side to the longest of them.

        So rows of like length can be computed together, whatever their order in the batch.
        """
        import torch

        return {
            name: torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(getattr(self.encodings[row], _FIELDS[name])) for row in rows],
                batch_first=True,
                padding_value=pad_token_id if name == "input_ids" else 0,
                padding_side=padding_side,
            )
            for name in self
        }

    def tokens(self, row: int = 0) -> list[str]:
        """The T tokens of a row; a special one may come with the space it took along."""
        return list(self.encodings[row].tokens)

    def offsets(self, row: int = 0) -> list[tuple[int, int]]:
        """T pairs (first, last + 1) of characters in the row's text; (0, 0) for special tokens."""
        return list(self.encodings[row].offsets)

    def word_ids(self, row: int = 0) -> list[int | None]:
        """For each of the T tokens the index of its word in its text; None for special tokens."""
        return list(self.encodings[row].word_ids)

    def sequence_ids(self, row: int = 0) -> list[int | None]:
        """For each of the T tokens 0 (first text) or 1 (second); None for special tokens."""
        return list(self.encodings[row].sequence_ids)

    def char_to_token(self, row: int, char: int, sequence: int = 0) -> int:
        """The first token of `row` that covers the character `char` of its text `sequence`.

        Raises:
            ValueError: no token does; the message says why and which characters the row covers.
        """
        tokens = zip(self.offsets(row), self.sequence_ids(row), strict=True)
        spans = [
            (token, start, end)
            for token, ((start, end), owner) in enumerate(tokens)
            if owner == sequence
        ]
        for token, start, end in spans:
            if start <= char < end:
                return token
        raise ValueError(self._why_no_token(row, char, sequence, spans))

    def token_to_chars(self, row: int, token: int) -> tuple[int, int]:
        """The characters (first, last + 1) that `token` of `row` covers in its text.

        Raises:
            ValueError: it is a special token, which covers none.
        """
        if self.sequence_ids(row)[token] is None:
            name = self.tokens(row)[token]
            raise ValueError(f"token {token} of row {row} is the special token {name!r}")
        return self.offsets(row)[token]

    def _why_no_token(
        self, row: int, char: int, sequence: int, spans: list[tuple[int, int, int]]
    ) -> str:
        texts = self._texts[self.overflow_to_sample[row]]
        where = f"character {char} of text {sequence} in row {row}"
        if not 0 <= sequence < len(texts):
            return f"{where}: the row has {len(texts)} text(s), counted from 0"
        text = texts[sequence]
        if not 0 <= char < len(text):
            return f"{where} lies beyond the text, which has {len(text)} characters"
        if not spans:
            return f"{where}: the row covers no character of that text, truncation took them all"
        first, last = min(start for _, start, _ in spans), max(end for *_, end in spans)
        covered = f"the row covers characters {first} to {last - 1}"
        if text[char].isspace():
            return f"{where} is white space that belongs to no token; {covered}"
        if first <= char < last:
            return f"{where} ({text[char]!r}) was dropped by the normalizer; {covered}"
        return f"{where} was cut off by truncation or lies in another window; {covered}"

"""When a row is finished: by a token that ends it, or by a text that was to be waited for.

R rows, L tokens so far.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from minitransformer.tokenization import Tokenizer


class StopStrings:
    """Texts that end a row, wherever the borders of tokens fall.

    Args:
        strings: the texts.
        tokenizer: what turns the row into text.
        vocab_size: ids from this on are padding.
    """

    def __init__(self, strings: Sequence[str], tokenizer: "Tokenizer", vocab_size: int) -> None:
        self.strings = strings
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        # A token is at least a byte; a few more, for those without a text, and because the first
        # one may lose the space before it.
        self.reach = max(len(text.encode()) for text in strings) + 8

    def end(self, ids: Sequence[int]) -> bool:
        """Whether the last of these tokens completes one of the texts."""
        last = ids[-self.reach :]
        before, text = self._text(last[:-1]), self._text(last)
        # Where the last token begins; a character that it only completed is its own.
        begin = shared_length(before, text)
        return any(
            text.find(string, max(0, begin - len(string) + 1)) >= 0 for string in self.strings
        )

    def _text(self, ids: Sequence[int]) -> str:
        tokens = [token for token in ids if token < self.vocab_size]
        return self.tokenizer.decode([t for t in tokens if has_text(self.tokenizer, t)])


class Stopping:
    """What ends a row before its length does.

    Args:
        eos_token_ids: tokens that end a row.
        strings: texts that do, or None.
        device: of the rows.
    """

    def __init__(
        self, eos_token_ids: tuple[int, ...], strings: StopStrings | None, device: torch.device
    ) -> None:
        self.eos_token_ids = frozenset(eos_token_ids)
        self.strings = strings
        self._eos = torch.tensor(eos_token_ids, device=device) if eos_token_ids else None

    @property
    def possible(self) -> bool:
        """Whether anything but its length can end a row."""
        return self._eos is not None or self.strings is not None

    def ended(self, history: Tensor) -> Tensor:
        """Which rows the last token ended: (R, L) to (R,) bool."""
        tokens = history[:, -1]
        if self._eos is None:
            ended = torch.zeros_like(tokens, dtype=torch.bool)
        else:
            ended = (tokens[:, None] == self._eos).any(dim=1)
        if self.strings is None:
            return ended
        rows = history[:, -self.strings.reach :].tolist()
        return ended | torch.tensor([self.strings.end(row) for row in rows], device=ended.device)

    def end(self, ids: Sequence[int]) -> bool:
        """Whether the last of these tokens ends a row, which must hold what came before too."""
        return ids[-1] in self.eos_token_ids or (self.strings is not None and self.strings.end(ids))


def has_text(tokenizer: "Tokenizer", token: int) -> bool:
    """Whether the tokenizer has this token: a model may have more rows, as T5 has 28."""
    try:
        tokenizer.id_to_token(token)
    except ValueError:
        return False
    return True


def shared_length(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))

"""When a sequence has ended: at a token that ends it, or at a text that ends it.

R sequences, L tokens so far.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from minitransformer.tokenization import Tokenizer


class StopStrings:
    """Texts that end a sequence, wherever the borders of tokens fall.

    Args:
        strings: the texts.
        tokenizer: what turns a sequence into text.
        vocab_size: ids from this on are padding.

    Raises:
        ValueError: there is no tokenizer.
    """

    def __init__(
        self, strings: Sequence[str], tokenizer: Tokenizer | None, vocab_size: int
    ) -> None:
        if tokenizer is None:
            raise ValueError(
                f"stop_strings={strings}: pass tokenizer=..., which turns tokens into the text in "
                "which they are looked for"
            )
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
        # Where the text of the last token begins; a character that it only completed is its own.
        begin = shared_length(before, text)
        return any(
            text.find(string, max(0, begin - len(string) + 1)) >= 0 for string in self.strings
        )

    def _text(self, ids: Sequence[int]) -> str:
        tokens = [token for token in ids if token < self.vocab_size]
        return self.tokenizer.decode([t for t in tokens if has_text(self.tokenizer, t)])


class StoppingCriteria:
    """What ends a sequence before its length does.

    Args:
        eos_token_ids: tokens that end a sequence.
        strings: texts that do, or None.
        device: of the sequences.
    """

    def __init__(
        self, eos_token_ids: tuple[int, ...], strings: StopStrings | None, device: torch.device
    ) -> None:
        self.eos_token_ids = eos_token_ids
        self.strings = strings
        self._eos = torch.tensor(eos_token_ids, dtype=torch.int64, device=device)

    def ended(self, history: Tensor) -> Tensor:
        """Which sequences the last token ended: (R, L) to (R,) bool."""
        ended = (history[:, -1:] == self._eos).any(dim=1)  # (R,)
        if self.strings is None:
            return ended
        last = history[:, -self.strings.reach :].tolist()
        return ended | torch.tensor([self.strings.end(ids) for ids in last], device=ended.device)

    def end(self, ids: Sequence[int]) -> bool:
        """Whether the last of these tokens ends a sequence, of which `ids` holds all tokens."""
        return ids[-1] in self.eos_token_ids or (self.strings is not None and self.strings.end(ids))


def no_next_token(sequence: int, number: int) -> ValueError:
    """The error of a sequence that no token can follow after `number` new ones."""
    return ValueError(
        f"no token can follow in sequence {sequence} after {number} new ones: every one is "
        "forbidden, or the model's logits are NaN"
    )


def has_text(tokenizer: Tokenizer, token: int) -> bool:
    """Whether the tokenizer has this token: a model may have more embeddings, as T5 has 28."""
    try:
        tokenizer.id_to_token(token)
    except ValueError:
        return False
    return True


def shared_length(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))

"""When a sequence has ended: at an end token or at a stop string.

R sequences, L tokens so far.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minitransformer.generation_config import GenerationConfig
from minitransformer.models.validation import not_finite
from minitransformer.tokenization import Tokenizer

# The fields that forbid tokens.
_FORBIDDING = (
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "min_new_tokens",
    "suppress_tokens",
    "begin_suppress_tokens",
)


class StopStrings:
    """Strings that end a sequence, whether or not they begin and end at token boundaries.

    Args:
        strings: the stop strings.
        tokenizer: decodes the tokens of a sequence.
        vocab_size: of the model; this id and larger ones are padding.

    Raises:
        ValueError: there is no tokenizer.
    """

    def __init__(
        self, strings: Sequence[str], tokenizer: Tokenizer | None, vocab_size: int
    ) -> None:
        if tokenizer is None:
            raise ValueError(
                f"stop_strings={strings} needs a tokenizer, to decode the text in which they are "
                "searched for; pass tokenizer=..."
            )
        self.strings = strings
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        # How many of the last tokens are searched. A token stands for at least one byte. A few more
        # are added, because some tokens have no text and the first may lose its leading space.
        self.window = max(len(string.encode()) for string in strings) + 8

    def match_at_end(self, ids: Sequence[int]) -> bool:
        """Whether the last of these tokens completes a stop string."""
        last = ids[-self.window :]
        before, text = self._decode(last[:-1]), self._decode(last)
        # Where the last token's text begins. A character that it completes belongs to it.
        start = common_prefix_length(before, text)
        return any(
            text.find(string, max(0, start - len(string) + 1)) >= 0 for string in self.strings
        )

    def _decode(self, ids: Sequence[int]) -> str:
        tokens = [token for token in ids if token < self.vocab_size]
        return self.tokenizer.decode([t for t in tokens if has_token(self.tokenizer, t)])


class StoppingCriteria:
    """Decides whether a sequence has ended before it reached its maximum length.

    Args:
        eos_token_ids: the end tokens.
        strings: the stop strings, or None.
        device: of the sequences.
    """

    def __init__(
        self, eos_token_ids: tuple[int, ...], strings: StopStrings | None, device: torch.device
    ) -> None:
        self.eos_token_ids = eos_token_ids
        self.strings = strings
        self._eos = torch.tensor(eos_token_ids, dtype=torch.int64, device=device)

    def ended(self, history: Tensor) -> Tensor:
        """Whether the last token ends each sequence: (R, L) to (R,) bool."""
        ended = (history[:, -1:] == self._eos).any(dim=1)  # (R,)
        if self.strings is None:
            return ended
        last = history[:, -self.strings.window :].tolist()
        matches = [self.strings.match_at_end(ids) for ids in last]
        return ended | torch.tensor(matches, device=ended.device)

    def has_ended(self, ids: Sequence[int]) -> bool:
        """The same for one sequence, given all its tokens."""
        if ids[-1] in self.eos_token_ids:
            return True
        return self.strings is not None and self.strings.match_at_end(ids)


def no_next_token(
    sequence: int, num_new_tokens: int, score: float, config: GenerationConfig, model: nn.Module
) -> ValueError:
    """The error for a sequence that cannot be continued.

    Args:
        sequence: its number in the batch.
        num_new_tokens: how many were generated before.
        score: the highest of the next token, -inf where every token is forbidden.
        config: of the call.
        model: whose logits are broken otherwise.
    """
    forbidding = [name for name in _FORBIDDING if getattr(config, name)]
    if score == -math.inf and forbidding:
        return ValueError(
            f"sequence {sequence} cannot be continued after {num_new_tokens} new tokens: every "
            f"token is forbidden; allow more of them in {' or '.join(forbidding)}"
        )
    return not_finite(f"the logits of sequence {sequence} after {num_new_tokens} new tokens", model)


def has_token(tokenizer: Tokenizer, token: int) -> bool:
    """Whether the tokenizer has this token. A model may have more embeddings: T5 has 28 more."""
    try:
        tokenizer.id_to_token(token)
    except ValueError:
        return False
    return True


def common_prefix_length(one: str, other: str) -> int:
    """How many characters two texts have in common at the beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))

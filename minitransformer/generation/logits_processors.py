"""What changes the scores of the next token before one is chosen.

A processor is called with the tokens of each sequence so far and the scores of its next token,
which it may change in place and returns. Each gives, logit for logit, what its namesake in
`transformers.generation.logits_process` gives, and they run in the same order.

Where a sequence is padded, `input_ids` holds `vocab_size`, which is no token: padding forbids
nothing. (transformers counts padding as a token in n-grams and in the source.)

R sequences, B sources (R = B * K), L tokens so far, S source tokens, V vocabulary, G n-gram size,
W windows of n-grams, N tokens that a processor is for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minitransformer.generation_config import GenerationConfig, as_tuple

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divide the scores of tokens that the sequence holds by `penalty`; multiply where negative.

    Keskar et al. 2019 (CTRL). Above 1 it discourages what was there.
    """

    penalty: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        return _penalized(scores, _without_padding(input_ids, scores.shape[1]), self.penalty)


@dataclass(frozen=True)
class EncoderRepetitionPenalty:
    """The other way round for the tokens of the source: above 1 it encourages them."""

    penalty: float
    source_ids: Tensor  # (B, S)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        ids = _without_padding(self.source_ids, scores.shape[1])
        return _penalized(scores, _per_sequence(ids, len(scores)), 1 / self.penalty)


@dataclass(frozen=True)
class NoRepeatNGram:
    """No n-gram of `size` tokens occurs twice in a sequence."""

    size: int

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        if input_ids.shape[1] < self.size:
            return scores
        return _forbid_completions(input_ids.unfold(1, self.size, 1), input_ids, scores)


@dataclass(frozen=True)
class EncoderNoRepeatNGram:
    """No n-gram of `size` tokens that occurs in the source."""

    size: int
    source_ids: Tensor  # (B, S)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        if input_ids.shape[1] < self.size - 1 or self.source_ids.shape[1] < self.size:
            return scores
        windows = self.source_ids.unfold(1, self.size, 1)  # (B, W, G)
        return _forbid_completions(_per_sequence(windows, len(scores)), input_ids, scores)


@dataclass(frozen=True)
class NoBadWord:
    """Never the last token of a bad word after its other tokens."""

    word: Tensor  # (G,), at least two tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        if input_ids.shape[1] < len(self.word) - 1:
            return scores
        windows = self.word.expand(len(scores), 1, -1)  # (R, 1, G)
        return _forbid_completions(windows, input_ids, scores)


@dataclass(frozen=True)
class SuppressTokens:
    """Never one of these tokens."""

    tokens: Tensor  # (N,)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        return scores.index_fill_(1, self.tokens, -torch.inf)


@dataclass(frozen=True)
class MinLength:
    """None of the tokens that end a sequence while it has fewer than `length`."""

    length: int
    tokens: Tensor  # (N,)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        if input_ids.shape[1] >= self.length:
            return scores
        return scores.index_fill_(1, self.tokens, -torch.inf)


@dataclass(frozen=True)
class SuppressTokensAt:
    """None of these tokens where a sequence has `length`: as its first new one."""

    length: int
    tokens: Tensor  # (N,)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        if input_ids.shape[1] != self.length:
            return scores
        return scores.index_fill_(1, self.tokens, -torch.inf)


@dataclass(frozen=True)
class ForcedTokensAt:
    """Only these tokens where a sequence has `length`: the first after the start, or the last."""

    length: int
    tokens: Tensor  # (N,)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        if input_ids.shape[1] != self.length:
            return scores
        return scores.fill_(-torch.inf).index_fill_(1, self.tokens, 0.0)


@dataclass(frozen=True)
class ExponentialDecayLengthPenalty:
    """Raise the scores of the tokens that end a sequence by a factor that grows from `start` on."""

    start: int
    factor: float
    tokens: Tensor  # (N,)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        late = input_ids.shape[1] - self.start
        if late <= 0:
            return scores
        ends = scores[:, self.tokens]  # (R, N)
        added = ends.abs() * (self.factor**late - 1)
        return scores.index_add_(1, self.tokens, added.masked_fill(~ends.isfinite(), 0.0))


def make_processors(
    config: GenerationConfig, *, prompt_length: int, source_ids: Tensor
) -> list[LogitsProcessor]:
    """The processors that a config asks for, and no others.

    Args:
        config: with `max_new_tokens` known.
        prompt_length: tokens of a sequence before the first new one.
        source_ids: (B, S), the source, or the prompt where there is none; padding as above.
    """

    def ids(tokens: int | tuple[int, ...] | None) -> Tensor:
        return torch.tensor(as_tuple(tokens), device=source_ids.device)

    assert config.max_new_tokens is not None
    made: list[LogitsProcessor] = []
    if config.encoder_repetition_penalty != 1:
        made.append(EncoderRepetitionPenalty(config.encoder_repetition_penalty, source_ids))
    if config.repetition_penalty != 1:
        made.append(RepetitionPenalty(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        made.append(NoRepeatNGram(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size:
        made.append(EncoderNoRepeatNGram(config.encoder_no_repeat_ngram_size, source_ids))
    if config.bad_words_ids is not None:
        made += _no_bad_words(config, source_ids.device)
    ends = config.eos_token_ids
    if config.min_new_tokens and ends:
        made.append(MinLength(prompt_length + config.min_new_tokens, ids(ends)))
    if config.forced_bos_token_id is not None:
        made.append(ForcedTokensAt(1, ids(config.forced_bos_token_id)))
    if config.forced_eos_token_id is not None:
        last = prompt_length + config.max_new_tokens - 1
        made.append(ForcedTokensAt(last, ids(config.forced_eos_token_id)))
    if config.exponential_decay_length_penalty is not None and ends:
        start, factor = config.exponential_decay_length_penalty
        made.append(ExponentialDecayLengthPenalty(prompt_length + start, factor, ids(ends)))
    if config.suppress_tokens is not None:
        made.append(SuppressTokens(ids(config.suppress_tokens)))
    if config.begin_suppress_tokens is not None:
        forced = prompt_length == 1 and config.forced_bos_token_id is not None
        made.append(SuppressTokensAt(prompt_length + forced, ids(config.begin_suppress_tokens)))
    return made


def _no_bad_words(config: GenerationConfig, device: torch.device) -> list[LogitsProcessor]:
    """As in transformers, a bad word that is nothing but the end token is passed over."""
    words = [w for w in config.bad_words_ids or () if w not in {(e,) for e in config.eos_token_ids}]
    single = [word[0] for word in words if len(word) == 1]
    longer = [NoBadWord(torch.tensor(word, device=device)) for word in words if len(word) > 1]
    return [*([SuppressTokens(torch.tensor(single, device=device))] if single else []), *longer]


def _without_padding(ids: Tensor, vocab_size: int) -> Tensor:
    """(R, L) with a token of the same sequence in the place of padding: the same set of tokens."""
    real = ids < vocab_size
    first = real.byte().argmax(dim=1, keepdim=True)
    return torch.where(real, ids, ids.gather(1, first))


def _per_sequence(per_source: Tensor, num_sequences: int) -> Tensor:
    """(B, ...) to (R, ...): the K sequences of a source have the same."""
    times = num_sequences // len(per_source)
    return per_source if times == 1 else per_source.repeat_interleave(times, dim=0)


def _penalized(scores: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Scores (R, V) with those of `ids`, (R, L), made smaller; a token counts once."""
    chosen = scores.gather(1, ids)  # (R, L)
    return scores.scatter_(1, ids, torch.where(chosen < 0, chosen * penalty, chosen / penalty))


def _forbid_completions(windows: Tensor, input_ids: Tensor, scores: Tensor) -> Tensor:
    """Forbid the last token of every n-gram whose other tokens are the end of the sequence.

    Args:
        windows: (R, W, G), the n-grams.
        input_ids: (R, L), L at least G - 1.
        scores: (R, V).
    """
    length, size = input_ids.shape[1], windows.shape[2]
    end = input_ids[:, length - size + 1 :]  # (R, G - 1)
    completed = (windows[..., :-1] == end[:, None]).all(dim=2)  # (R, W)
    last = windows[..., -1]  # (R, W)
    completed &= last < scores.shape[1]
    # The smaller of what a token has and -inf, or of what it has and inf.
    limits = torch.where(completed, -torch.inf, torch.inf).to(scores.dtype)
    return scores.scatter_reduce_(1, last.clamp(max=scores.shape[1] - 1), limits, "amin")

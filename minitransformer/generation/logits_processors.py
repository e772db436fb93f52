"""Logits processors: they change the scores of the next token before it is chosen.

A processor takes the tokens of each sequence so far and the scores of its next token. It returns
the new scores, and may change the given ones in place. Each processor gives, logit for logit, the
result of its counterpart in `transformers.generation.logits_process`; they run in the same order.

At padding, `input_ids` holds `vocab_size`, which is not a token, so that padding never forbids
anything. (transformers treats padding as a token in n-grams and in the source.)

R sequences, B sources (R = B * K), L tokens so far, S source tokens, V vocabulary, G n-gram size,
W n-grams, N tokens that a processor acts on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minitransformer.generation_config import GenerationConfig, as_tuple

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divide the scores of tokens that occur in the sequence by `penalty`; multiply negative ones.

    From CTRL (Keskar et al. 2019). A penalty above 1 discourages repetition.
    """

    penalty: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        return _penalized(scores, _without_padding(input_ids, scores.shape[1]), self.penalty)


@dataclass(frozen=True)
class EncoderRepetitionPenalty:
    """The inverse for tokens of the source: a penalty above 1 encourages copying them."""

    penalty: float
    source_ids: Tensor  # (B, S)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        ids = _without_padding(self.source_ids, scores.shape[1])
        return _penalized(scores, _per_sequence(ids, len(scores)), 1 / self.penalty)


@dataclass(frozen=True)
class NoRepeatNGram:
    """Forbid every token that would repeat an n-gram of `size` tokens of the sequence."""

    size: int

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        if input_ids.shape[1] < self.size:
            return scores
        return _forbid_completions(input_ids.unfold(1, self.size, 1), input_ids, scores)


@dataclass(frozen=True)
class EncoderNoRepeatNGram:
    """Forbid every token that would complete an n-gram of `size` tokens of the source."""

    size: int
    source_ids: Tensor  # (B, S)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        if input_ids.shape[1] < self.size - 1 or self.source_ids.shape[1] < self.size:
            return scores
        ngrams = self.source_ids.unfold(1, self.size, 1)  # (B, W, G)
        return _forbid_completions(_per_sequence(ngrams, len(scores)), input_ids, scores)


@dataclass(frozen=True)
class NoBadWord:
    """Forbid the last token of a bad word after the word's other tokens."""

    word: Tensor  # (G,), two tokens or more

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        if input_ids.shape[1] < len(self.word) - 1:
            return scores
        ngrams = self.word.expand(len(scores), 1, -1)  # (R, 1, G)
        return _forbid_completions(ngrams, input_ids, scores)


@dataclass(frozen=True)
class SuppressTokens:
    """Forbid these tokens."""

    tokens: Tensor  # (N,)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        return scores.index_fill_(1, self.tokens, -torch.inf)


@dataclass(frozen=True)
class MinLength:
    """Forbid the end tokens while a sequence has fewer than `length` tokens."""

    length: int
    tokens: Tensor  # (N,), the end tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        if input_ids.shape[1] >= self.length:
            return scores
        return scores.index_fill_(1, self.tokens, -torch.inf)


@dataclass(frozen=True)
class SuppressTokensAt:
    """Forbid these tokens after exactly `length` tokens, for example as the first new token."""

    length: int
    tokens: Tensor  # (N,)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        if input_ids.shape[1] != self.length:
            return scores
        return scores.index_fill_(1, self.tokens, -torch.inf)


@dataclass(frozen=True)
class ForcedTokensAt:
    """Allow only these tokens after exactly `length` tokens, as the first or the last new token."""

    length: int
    tokens: Tensor  # (N,)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        if input_ids.shape[1] != self.length:
            return scores
        return scores.fill_(-torch.inf).index_fill_(1, self.tokens, 0.0)


@dataclass(frozen=True)
class ExponentialDecayLengthPenalty:
    """Raise the scores of the end tokens by a factor that grows exponentially after `start`.

    Beyond 1e10, the factor no longer grows, so that scores remain within the range of float32.
    """

    start: int  # length of a sequence, in tokens
    factor: float
    tokens: Tensor  # (N,), the end tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, L) and (R, V) to (R, V)."""
        excess = input_ids.shape[1] - self.start
        if excess <= 0:
            return scores
        limit = math.log(1e10) / math.log(self.factor) if self.factor > 1 else math.inf
        end_scores = scores[:, self.tokens]  # (R, N)
        added = end_scores.abs() * (self.factor ** min(excess, limit) - 1)
        added = added.masked_fill(~end_scores.isfinite(), 0.0)
        return scores.index_add_(1, self.tokens, added)


def make_processors(
    config: GenerationConfig, *, prompt_length: int, source_ids: Tensor
) -> list[LogitsProcessor]:
    """Make the processors that the config needs, in the order in which they run.

    Args:
        config: resolved, so that `max_new_tokens` is set.
        prompt_length: how many tokens a sequence has before its first new one.
        source_ids: (B, S), the source, or for a decoder the prompt; `vocab_size` at padding.
    """

    def ids(tokens: int | tuple[int, ...] | None) -> Tensor:
        return torch.tensor(as_tuple(tokens), device=source_ids.device)

    assert config.max_new_tokens is not None
    processors: list[LogitsProcessor] = []
    if config.encoder_repetition_penalty != 1:
        processors.append(EncoderRepetitionPenalty(config.encoder_repetition_penalty, source_ids))
    if config.repetition_penalty != 1:
        processors.append(RepetitionPenalty(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        processors.append(NoRepeatNGram(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size:
        processors.append(EncoderNoRepeatNGram(config.encoder_no_repeat_ngram_size, source_ids))
    if config.bad_words_ids is not None:
        processors += _no_bad_words(config, source_ids.device)
    eos_token_ids = config.eos_token_ids
    if config.min_new_tokens and eos_token_ids:
        processors.append(MinLength(prompt_length + config.min_new_tokens, ids(eos_token_ids)))
    if config.forced_bos_token_id is not None:
        processors.append(ForcedTokensAt(1, ids(config.forced_bos_token_id)))
    if config.forced_eos_token_id is not None:
        last = prompt_length + config.max_new_tokens - 1
        processors.append(ForcedTokensAt(last, ids(config.forced_eos_token_id)))
    if config.exponential_decay_length_penalty is not None and eos_token_ids:
        start, factor = config.exponential_decay_length_penalty
        processors.append(
            ExponentialDecayLengthPenalty(prompt_length + start, factor, ids(eos_token_ids))
        )
    if config.suppress_tokens is not None:
        processors.append(SuppressTokens(ids(config.suppress_tokens)))
    if config.begin_suppress_tokens is not None:
        forced = prompt_length == 1 and config.forced_bos_token_id is not None
        processors.append(
            SuppressTokensAt(prompt_length + forced, ids(config.begin_suppress_tokens))
        )
    return processors


def _no_bad_words(config: GenerationConfig, device: torch.device) -> list[LogitsProcessor]:
    """As in transformers, a bad word that consists of one end token is ignored."""
    words = [w for w in config.bad_words_ids or () if w not in {(e,) for e in config.eos_token_ids}]
    single = [word[0] for word in words if len(word) == 1]
    longer = [NoBadWord(torch.tensor(word, device=device)) for word in words if len(word) > 1]
    return [*([SuppressTokens(torch.tensor(single, device=device))] if single else []), *longer]


def _without_padding(ids: Tensor, vocab_size: int) -> Tensor:
    """Replace padding by a real token of the same sequence, so that the set of tokens is the same.

    (R, L) to (R, L).
    """
    real = ids < vocab_size
    first = real.byte().argmax(dim=1, keepdim=True)  # (R, 1)
    return torch.where(real, ids, ids.gather(1, first))


def _per_sequence(per_source: Tensor, num_sequences: int) -> Tensor:
    """Repeat each source's values for its K sequences: (B, ...) to (R, ...)."""
    times = num_sequences // len(per_source)
    return per_source if times == 1 else per_source.repeat_interleave(times, dim=0)


def _penalized(scores: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Apply the penalty once to each token of `ids`, (R, L), in the scores, (R, V)."""
    old = scores.gather(1, ids)  # (R, L)
    return scores.scatter_(1, ids, torch.where(old < 0, old * penalty, old / penalty))


def _forbid_completions(ngrams: Tensor, input_ids: Tensor, scores: Tensor) -> Tensor:
    """Forbid the last token of every n-gram whose other tokens end the sequence.

    Args:
        ngrams: (R, W, G).
        input_ids: (R, L), L at least G - 1.
        scores: (R, V).
    """
    length, size = input_ids.shape[1], ngrams.shape[2]
    end = input_ids[:, length - size + 1 :]  # (R, G - 1)
    completed = (ngrams[..., :-1] == end[:, None]).all(dim=2)  # (R, W)
    last = ngrams[..., -1]  # (R, W)
    completed &= last < scores.shape[1]
    # "amin" takes the smaller of the old score and the limit: -inf forbids, inf changes nothing.
    limits = torch.where(completed, -torch.inf, torch.inf).to(scores.dtype)
    return scores.scatter_reduce_(1, last.clamp(max=scores.shape[1] - 1), limits, "amin")

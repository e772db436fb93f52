"""Beam search: the K best unfinished sequences of each source are extended side by side.

B sources or prompts, K beams of each, R = B * K sequences, L tokens so far, W tokens of a prompt,
V vocabulary, C candidate tokens of a beam, P continuations considered for a source: more than K,
because some of them may end their sequence.

The scores stay on the model's device. The host decides which beams continue, from one small table
for each token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minitransformer.generation.logits_processors import LogitsProcessor
from minitransformer.generation.sampling import Candidates, candidates
from minitransformer.generation.stopping import StoppingCriteria, no_next_token
from minitransformer.generation_config import GenerationConfig
from minitransformer.models.base import DecodingSession

# The score of beams that must not be chosen, and of missing hypotheses.
WORST = -math.inf


class Beam(NamedTuple):
    """An unfinished sequence, or a finished one: a hypothesis."""

    score: float  # the sum of its tokens' scores; for a hypothesis, divided by length ** penalty
    tokens: tuple[int, ...]  # the new tokens, without the prompt


class Continuation(NamedTuple):
    """A beam extended by one token."""

    score: float
    parent: int  # index of the beam that it extends, below K
    token: int


@dataclass
class Search:
    """The beams of one source.

    Args:
        config: the resolved generation config of the call.
        stopping: decides when a sequence has ended.
        prompt: the tokens before the new ones; a stop string may begin among them.
    """

    config: GenerationConfig
    stopping: StoppingCriteria
    prompt: tuple[int, ...]
    running: list[Beam] = field(init=False)
    parents: list[int] = field(
        init=False
    )  # for each of `running`, the previous beam that it extends
    finished: list[Beam] = field(default_factory=list)  # at most K, best first
    improvable: bool = True  # whether a running beam may still beat the worst finished one

    def __post_init__(self) -> None:
        # All beams start out equal, so only the first may be extended at first.
        self.running = [Beam(0.0, ()), *[Beam(WORST, ())] * (self.config.num_beams - 1)]
        self.parents = list(range(self.config.num_beams))

    @property
    def full(self) -> bool:
        """Whether K hypotheses have been found."""
        return len(self.finished) == self.config.num_beams

    @property
    def closed(self) -> bool:
        """Whether no further hypothesis is accepted."""
        return not self.improvable or (self.config.early_stopping is True and self.full)

    def is_stuck(self, best: Sequence[Continuation]) -> bool:
        """Whether a score is NaN, or there is neither a possible continuation nor a hypothesis."""
        if self.closed:
            return False
        if any(math.isnan(continuation.score) for continuation in best):
            return True
        return not self.finished and all(continuation.score == WORST for continuation in best)

    def advance(self, best: Sequence[Continuation]) -> bool:
        """Extend the running beams, and add the continuations that end to the hypotheses.

        Args:
            best: the P best continuations, best first; if sampled, in any order.

        Returns:
            Whether at least one continuation does not end its sequence.
        """
        num_beams = self.config.num_beams
        ends = self._which_end(best)
        running = [c for c, end in zip(best, ends, strict=True) if not end]
        if self.config.do_sample:
            running.sort(key=lambda c: -c.score)
        if not self.closed:
            # Only the first K continuations may become hypotheses.
            first = zip(best[:num_beams], ends[:num_beams], strict=True)
            self._add_hypotheses([c for c, end in first if end])
        if len(running) < num_beams:  # fill up with ended beams, which must not be chosen
            ended = [c for c, end in zip(best, ends, strict=True) if end]
            running += [Continuation(WORST, c.parent, c.token) for c in ended]
        running = running[:num_beams]
        self.parents = [continuation.parent for continuation in running]
        self.running = [Beam(c.score, self._tokens(c)) for c in running]
        self._update_improvable()
        return not all(ends)

    def hypotheses(self) -> list[Beam]:
        """The `num_return_sequences` best hypotheses; empty ones where fewer were found."""
        number = self.config.num_return_sequences
        return [*self.finished, *[Beam(WORST, ())] * number][:number]

    def _tokens(self, continuation: Continuation) -> tuple[int, ...]:
        return (*self.running[continuation.parent].tokens, continuation.token)

    def _which_end(self, best: Sequence[Continuation]) -> list[bool]:
        if len(self.running[0].tokens) + 1 == self.config.max_new_tokens:
            return [True] * len(best)
        if self.stopping.strings is None:
            return [c.token in self.stopping.eos_token_ids for c in best]
        return [self.stopping.has_ended(self.prompt + self._tokens(c)) for c in best]

    def _add_hypotheses(self, ended: Sequence[Continuation]) -> None:
        """Keep the K best. A score is divided by length ** penalty, the end token included."""
        for continuation in ended:
            if continuation.score > WORST:  # otherwise only forbidden tokens were left
                tokens = self._tokens(continuation)
                score = continuation.score / len(tokens) ** self.config.length_penalty
                self.finished.append(Beam(score, tokens))
        self.finished.sort(key=lambda beam: -beam.score)
        del self.finished[self.config.num_beams :]

    def _update_improvable(self) -> None:
        """Compare the best score that a running beam can still reach with the worst hypothesis.

        Further tokens can only lower a sum of log probabilities, but a positive penalty favours
        longer sequences: `early_stopping="never"` assumes the maximum length, the other settings
        the present length.
        """
        penalty, length = self.config.length_penalty, len(self.running[0].tokens)
        if self.config.early_stopping == "never" and penalty > 0:
            assert self.config.max_new_tokens is not None
            length = self.config.max_new_tokens
        worst = self.finished[-1].score if self.full else WORST
        self.improvable = self.improvable and self.running[0].score / length**penalty > worst


@torch.no_grad()
def search_beams(
    session: DecodingSession,
    config: GenerationConfig,
    processors: Sequence[LogitsProcessor],
    stopping: StoppingCriteria,
    generator: torch.Generator | None,
    model: nn.Module,
) -> list[list[Beam]]:
    """Find the `num_return_sequences` best hypotheses of each source, best first.

    The search goes on until it is over for every source. As in transformers, the sources whose own
    search is over run along; their hypotheses no longer change.

    Args:
        session: runs the model on its prompts.
        config: the resolved generation config of the call.
        processors: change the scores, which are log probabilities here.
        stopping: decides when a sequence has ended.
        generator: draws the continuations if `do_sample` is set; None uses PyTorch's global one.
        model: the session's, for the message of an error.

    Raises:
        ValueError: a source has neither a possible next token nor a hypothesis, or the logits are
            NaN or infinite.
    """
    scores = session.start().float()  # (B, V)
    prompts = session.prompt.tolist() if stopping.strings else [()] * len(scores)
    searches = [Search(config, stopping, tuple(prompt)) for prompt in prompts]
    scores, history = copy_prompts(session, scores, config.num_beams)  # (R, V), (R, L)
    while True:
        scores = scores.log_softmax(dim=1)
        for process in processors:
            scores = process(history, scores)
        best = _continuations(scores, searches, config, generator)
        for source, (search, continuations) in enumerate(zip(searches, best, strict=True)):
            if search.is_stuck(continuations):
                score = sum(continuation.score for continuation in continuations)
                num_new_tokens = len(search.running[0].tokens)
                raise no_next_token(source, num_new_tokens, score, config, model)
        unfinished = [search.advance(b) for search, b in zip(searches, best, strict=True)]
        if not any(unfinished) or is_over(searches, config):
            return [search.hypotheses() for search in searches]
        history = _extend(history, searches, session)
        scores = session.step(history).float()


def copy_prompts(session: DecodingSession, scores: Tensor, times: int) -> tuple[Tensor, Tensor]:
    """Repeat every prompt: scores (B, V) to (R, V) with R = B * times, and the prompts, (R, W)."""
    copies = torch.arange(len(scores), device=scores.device).repeat_interleave(times)  # (R,)
    session.select(copies)
    return scores[copies], session.prompt[copies]


def _continuations(
    scores: Tensor,
    searches: Sequence[Search],
    config: GenerationConfig,
    generator: torch.Generator | None,
) -> list[list[Continuation]]:
    """The P best continuations of each source, or P sampled ones: (R, V) to B lists of P."""
    # With E end tokens, at most E continuations of each beam end, so at least one goes on.
    per_beam = max(2, 1 + len(config.eos_token_ids))
    if config.do_sample:
        allowed = candidates(scores, config, min_tokens_to_keep=per_beam)
    else:
        allowed = Candidates(scores, None)
    scores = allowed.scores  # (R, C)
    if config.renormalize_logits:
        scores = scores.log_softmax(dim=1)
    beam_scores = [[beam.score] for search in searches for beam in search.running]
    scores += torch.tensor(beam_scores, device=scores.device)  # (R, C)
    total = scores.view(len(searches), -1)  # (B, K * C)
    count = min(per_beam * config.num_beams, total.shape[1])
    if config.do_sample:
        # The softmax is NaN if every token is forbidden; `is_stuck` reports it after the draw.
        probabilities = total.softmax(dim=1).nan_to_num(nan=1.0)
        indices = torch.multinomial(probabilities, count, generator=generator)  # (B, P)
        is_nan = total.amax(dim=1, keepdim=True).isnan()  # (B, 1); drawn or not, NaN is an error
        best = total.gather(1, indices).masked_fill(is_nan, torch.nan)
    else:
        best, indices = total.topk(count)  # (B, P) twice
    tokens = indices % scores.shape[1]
    if allowed.ids is not None:
        tokens = allowed.ids.view(len(searches), -1).gather(1, indices)
    # One transfer for all three: float64 represents every id and every score exactly.
    parts = (best.double(), (indices // scores.shape[1]).double(), tokens.double())
    return [
        [Continuation(score, int(parent), int(token)) for score, parent, token in continuations]
        for continuations in torch.stack(parts, dim=2).tolist()
    ]


def is_over(searches: Sequence[Search], config: GenerationConfig) -> bool:
    """Whether no search can find a better hypothesis."""
    if config.early_stopping is True and all(search.full for search in searches):
        return True
    return not any(search.improvable for search in searches)


def _extend(history: Tensor, searches: Sequence[Search], session: DecodingSession) -> Tensor:
    """Reorder the sequences by their parents and append the new tokens: (R, L) to (R, L + 1)."""
    num_beams = len(searches[0].parents)
    parents = [num_beams * b + parent for b, s in enumerate(searches) for parent in s.parents]
    if parents != list(range(len(parents))):  # often the order does not change
        order = torch.tensor(parents, device=history.device)  # (R,)
        session.select(order)
        history = history[order]
    tokens = [[beam.tokens[-1]] for search in searches for beam in search.running]
    return torch.cat([history, torch.tensor(tokens, device=history.device)], dim=1)

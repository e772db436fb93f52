"""Beam search: the best few beginnings of each source are continued side by side.

B sources, K beams of each, R = B * K sequences, L tokens so far, V vocabulary, C candidates of a
beam, P continuations of a source that are looked at: more than K, because some may end.

The scores live on the model's device. Which beams continue is decided on the host, from one small
table a token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from minitransformer.generation.logits_processors import LogitsProcessor
from minitransformer.generation.sampling import Candidates, candidates
from minitransformer.generation.stopping import StoppingCriteria, no_next_token
from minitransformer.generation_config import GenerationConfig
from minitransformer.models.base import DecodingSession

# Below every real score: what beams have before they differ, and hypotheses that were not found.
WORST = -1e9


class Beam(NamedTuple):
    """A beginning, or a finished hypothesis."""

    score: float  # the sum of its tokens' scores; of a hypothesis, divided by length ** penalty
    tokens: tuple[int, ...]  # the new ones


class Continuation(NamedTuple):
    """A beam with one token more."""

    score: float
    parent: int  # which of the K beams it continues
    token: int


@dataclass
class Search:
    """The beams of one source.

    Args:
        config: the resolved config of the call.
        stopping: what ends a sequence.
        prompt: the tokens before the new ones, for stop strings that begin in the prompt.
    """

    config: GenerationConfig
    stopping: StoppingCriteria
    prompt: tuple[int, ...]
    running: list[Beam] = field(init=False)
    parents: list[int] = field(init=False)  # which of the beams before each of `running` continues
    finished: list[Beam] = field(default_factory=list)  # the best first, at most K
    improvable: bool = True  # whether a running beam may still beat the worst finished one

    def __post_init__(self) -> None:
        # All begin alike, so only the first counts until they differ.
        self.running = [Beam(0.0, ()), *[Beam(WORST, ())] * (self.config.num_beams - 1)]
        self.parents = list(range(self.config.num_beams))

    @property
    def full(self) -> bool:
        """Whether there are as many hypotheses as beams."""
        return len(self.finished) == self.config.num_beams

    @property
    def closed(self) -> bool:
        """Whether no further hypothesis is taken."""
        return not self.improvable or (self.config.early_stopping is True and self.full)

    def is_stuck(self, best: Sequence[Continuation]) -> bool:
        """Whether no continuation is possible and there is no hypothesis, or a score is NaN."""
        if any(math.isnan(continuation.score) for continuation in best):
            return True
        return not self.finished and all(continuation.score <= WORST for continuation in best)

    def advance(self, best: Sequence[Continuation]) -> bool:
        """Choose which of the best continuations go on, and take those that end.

        Returns:
            Whether there is one that does not end.
        """
        number = self.config.num_beams
        ends = self._ends(best)
        going_on = [c for c, end in zip(best, ends, strict=True) if not end]
        if self.config.do_sample:  # drawn in no order
            going_on.sort(key=lambda c: -c.score)
        if not self.closed:
            # A hypothesis must be among the K best continuations.
            self._finish([c for c, end in zip(best[:number], ends[:number], strict=True) if end])
        if len(going_on) < number:  # what has ended fills up, and never wins
            ended = [c for c, end in zip(best, ends, strict=True) if end]
            going_on += [Continuation(c.score + WORST, c.parent, c.token) for c in ended]
        kept = going_on[:number]
        self.parents = [continuation.parent for continuation in kept]
        self.running = [Beam(c.score, self._tokens(c)) for c in kept]
        self._look_ahead()
        return not all(ends)

    def hypotheses(self) -> list[Beam]:
        """The `num_return_sequences` best; empty ones where fewer were found."""
        number = self.config.num_return_sequences
        return [*self.finished, *[Beam(WORST, ())] * number][:number]

    def _tokens(self, continuation: Continuation) -> tuple[int, ...]:
        return (*self.running[continuation.parent].tokens, continuation.token)

    def _ends(self, best: Sequence[Continuation]) -> list[bool]:
        if len(self.running[0].tokens) + 1 == self.config.max_new_tokens:
            return [True] * len(best)
        if self.stopping.strings is None:
            return [c.token in self.stopping.eos_token_ids for c in best]
        return [self.stopping.end(self.prompt + self._tokens(c)) for c in best]

    def _finish(self, ended: Sequence[Continuation]) -> None:
        """The score of a hypothesis is divided by its new tokens, the end included, ** penalty."""
        for continuation in ended:
            tokens = self._tokens(continuation)
            score = continuation.score / len(tokens) ** self.config.length_penalty
            if score > WORST:  # else only forbidden tokens were left
                self.finished.append(Beam(score, tokens))
        self.finished.sort(key=lambda beam: -beam.score)
        del self.finished[self.config.num_beams :]

    def _look_ahead(self) -> None:
        """Compare the best that may still come with the worst hypothesis.

        More tokens only lower a sum of log probabilities, but the penalty may raise what it is
        divided to: "never" assumes the greatest length, the others the present one.
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
) -> list[list[Beam]]:
    """The best `num_return_sequences` hypotheses for each source, the best first.

    As in transformers, the search of one source goes on, without consequence, until that of
    every source is over.

    Args:
        session: the model at work on its prompts.
        config: the resolved config of the call.
        processors: what changes the scores, which are logarithms of probabilities here.
        stopping: what ends a sequence.
        generator: for drawing continuations, where `do_sample` is set; None is PyTorch's own.

    Raises:
        ValueError: a source has no token to continue with and no hypothesis, or the logits are NaN.
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
                raise no_next_token(source, len(search.running[0].tokens))
        going_on = [search.advance(b) for search, b in zip(searches, best, strict=True)]
        if not any(going_on) or is_over(searches, config):
            return [search.hypotheses() for search in searches]
        history = _move(history, searches, session)
        scores = session.step(history).float()


def copy_prompts(session: DecodingSession, scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Continue every prompt `number` times: (B, V) to (R, V), and the prompts, (R, W)."""
    copies = torch.arange(len(scores), device=scores.device).repeat_interleave(number)  # (R,)
    session.select(copies)
    return scores[copies], session.prompt[copies]


def _continuations(
    scores: Tensor,
    searches: Sequence[Search],
    config: GenerationConfig,
    generator: torch.Generator | None,
) -> list[list[Continuation]]:
    """The P best continuations of each source, or P that are drawn: (R, V) to (B, P)."""
    # With E tokens that end a sequence, at most E continuations of each beam end.
    several = max(2, 1 + len(config.eos_token_ids))
    if config.do_sample:
        chosen = candidates(scores, config, keep=several)
    else:
        chosen = Candidates(scores, None)
    scores = chosen.scores  # (R, C)
    if config.renormalize_logits:
        scores = scores.log_softmax(dim=1)
    before = [[beam.score] for search in searches for beam in search.running]
    scores += torch.tensor(before, device=scores.device)  # (R, C)
    total = scores.view(len(searches), -1)  # (B, K * C)
    count = min(several * config.num_beams, total.shape[1])
    if config.do_sample:
        # Where everything is forbidden there is NaN, which is found when all have been drawn.
        probabilities = total.softmax(dim=1).nan_to_num(nan=1.0)
        indices = torch.multinomial(probabilities, count, generator=generator)  # (B, P)
        best = total.gather(1, indices)
    else:
        best, indices = total.topk(count)  # (B, P) twice
    tokens = indices % scores.shape[1]
    if chosen.ids is not None:
        tokens = chosen.ids.view(len(searches), -1).gather(1, indices)
    # One transfer: a double holds every id and every score.
    parts = (best.double(), (indices // scores.shape[1]).double(), tokens.double())
    return [
        [Continuation(score, int(parent), int(token)) for score, parent, token in continuations]
        for continuations in torch.stack(parts, dim=2).tolist()
    ]


def is_over(searches: Sequence[Search], config: GenerationConfig) -> bool:
    """Whether no hypothesis can change any more."""
    if config.early_stopping is True and all(search.full for search in searches):
        return True
    return not any(search.improvable for search in searches)


def _move(history: Tensor, searches: Sequence[Search], session: DecodingSession) -> Tensor:
    """Bring every sequence to the beam that it continues: (R, L) to (R, L + 1)."""
    number = len(searches[0].parents)
    parents = [number * b + parent for b, s in enumerate(searches) for parent in s.parents]
    if parents != list(range(len(parents))):  # often every beam stays where it is
        moved = torch.tensor(parents, device=history.device)
        session.select(moved)
        history = history[moved]
    tokens = [[beam.tokens[-1]] for search in searches for beam in search.running]
    return torch.cat([history, torch.tensor(tokens, device=history.device)], dim=1)

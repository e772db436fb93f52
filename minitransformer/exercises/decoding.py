"""Generating text, and what is read from the numbers of a model: tokens, answers, entities.

B sequences or sources, K beams, S tokens in the cache, L new tokens, T tokens of a window, V
vocabulary, E hidden size, D head size, P positions, C classes.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from minitransformer.exercises.exercise import Exercise
from minitransformer.exercises.inputs import integers, normal, real_tokens
from minitransformer.exercises.runner import Case
from minitransformer.generation import beam_search, sampling, stopping
from minitransformer.generation.generate import Decoding
from minitransformer.layers import kv_cache
from minitransformer.tasks import question_answering, tag_schemes, token_classification


def _case(label: str, inputs: dict[str, Any], tolerance: float | None = None) -> Case:
    """A case without gradients, which generating and reading text need not have."""
    return Case(label, inputs, gradients=False, tolerance=tolerance)


# ---- a step of greedy search ----


def greedy_step(
    tokens: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    finished: Tensor,
    weights: dict[str, Tensor],
    eos: int,
    pad: int,
) -> dict[str, Tensor]:
    """Run a small decoder on the newest token of each sequence, and choose the next one.

    The decoder is one attention with one head. Of the tokens before, it needs only the keys and
    values, which are in the cache. With n the number of real tokens before, which padding is not:

        x = token[t] + position[n]
        q, k, v = x query, x key, x value
        context = softmax(q K^T / sqrt(D)) V        K, V: the cached ones, then k, v
        logits = (x + context output) token^T

    The new token attends to the real tokens of the cache and to itself. Its key, its value, and
    True in the mask are appended at the end, in finished sequences too.

    The next token is the one with the highest logit. A sequence that chooses `eos` gives `eos` in
    this step, and is finished from then on: it gives `pad` in all later steps.

    Source: the cache of any decoder; in the library, `KeyValues` and the loop of `generate`.

    Args:
        tokens: (B,) int64, the newest token of each sequence.
        keys: (B, S, D), those of the tokens before. S may be 0.
        values: (B, S, D).
        mask: (B, S) bool, True at real tokens; padding may be anywhere.
        finished: (B,) bool, the sequences that have given `eos` before.
        weights: "token" (V, E), "position" (P, E), "query" (E, D), "key" (E, D), "value" (E, D) and
            "output" (D, E); applied from the right, as above.
        eos: the token that ends a sequence.
        pad: the token after its end; it may be the same as `eos`.

    Returns:
        "logits": (B, V), also of finished sequences;
        "tokens": (B,) int64, the next ones;
        "keys", "values": (B, S + 1, D);
        "mask": (B, S + 1) bool;
        "finished": (B,) bool, the old ones and those that have just given `eos`.
    """
    raise NotImplementedError("write me")


class GreedyStepSteps:
    """The decoding loop of the library in one step, for a decoder of one head."""

    def position(self, mask: Tensor) -> Tensor:
        """(B,) int64, the position of the new token."""
        return mask.sum(dim=1)

    def appended_keys(self, keys: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, S + 1, D)."""
        return torch.cat([keys, key[:, None]], dim=1)

    def appended_values(self, values: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, S + 1, D)."""
        return torch.cat([values, value[:, None]], dim=1)

    def extended(self, mask: Tensor) -> Tensor:
        """(B, S + 1) bool."""
        return torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.bool)], dim=1)

    def attended(self, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The keys, values and mask that the new token sees."""
        return keys, values, mask

    def masked(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Scores that give padding no weight: (B, S + 1)."""
        return scores.masked_fill(~mask, -math.inf)

    def best(self, logits: Tensor) -> Tensor:
        """(B,)."""
        return logits.argmax(dim=-1)

    def padded(self, chosen: Tensor, finished: Tensor, pad: int) -> Tensor:
        """The next tokens, of which finished sequences have none: (B,)."""
        return chosen.masked_fill(finished, pad)

    def ended(self, finished: Tensor, chosen: Tensor, tokens: Tensor, eos: int) -> Tensor:
        """(B,) bool, which sequences are finished after this step."""
        return finished | (chosen == eos)

    def finish(
        self, chosen: Tensor, finished: Tensor, tokens: Tensor, eos: int, pad: int
    ) -> tuple[Tensor, Tensor]:
        """The next tokens, and which sequences are finished: (B,) twice."""
        chosen = self.padded(chosen, finished, pad)
        return chosen, self.ended(finished, chosen, tokens, eos)

    def __call__(
        self,
        tokens: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
        finished: Tensor,
        weights: Mapping[str, Tensor],
        eos: int,
        pad: int,
    ) -> dict[str, Tensor]:
        hidden = weights["token"][tokens] + weights["position"][self.position(mask)]  # (B, E)
        query, key, value = (hidden @ weights[name] for name in ("query", "key", "value"))  # (B, D)
        keys = self.appended_keys(keys, key, value)
        values = self.appended_values(values, key, value)
        mask = self.extended(mask)
        seen_keys, seen_values, seen = self.attended(keys, values, mask)
        scores = (seen_keys @ query[:, :, None]).squeeze(2) / math.sqrt(query.shape[1])
        probabilities = self.masked(scores, seen).softmax(dim=1)  # (B, S + 1)
        context = (probabilities[:, None] @ seen_values).squeeze(1)  # (B, D)
        logits = (hidden + context @ weights["output"]) @ weights["token"].T  # (B, V)
        chosen, finished = self.finish(self.best(logits), finished, tokens, eos, pad)
        return {
            "logits": logits,
            "tokens": chosen,
            "keys": keys,
            "values": values,
            "mask": mask,
            "finished": finished,
        }


def greedy_step_cases() -> Iterator[Case]:
    """An empty cache, a full one, both paddings, sequences that end and that have ended."""

    def inputs(
        batch: int,
        cached: int,
        *,
        mask: Tensor | None = None,
        finished: Sequence[bool] = (),
        eos: int = 6,
        pad: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> dict[str, Any]:
        shapes = {"token": (7, 4), "position": (9, 4)}
        shapes |= dict.fromkeys(("query", "key", "value"), (4, 3)) | {"output": (3, 4)}
        every = torch.ones(batch, cached, dtype=torch.bool)
        return {
            "tokens": torch.tensor([2, 4, 5])[:batch],
            "keys": normal(batch, cached, 3, seed=2, dtype=dtype),
            "values": normal(batch, cached, 3, seed=3, dtype=dtype),
            "mask": every if mask is None else mask,
            "finished": torch.tensor(finished or [False] * batch),
            "weights": {
                name: normal(*shape, seed=206 + number, dtype=dtype)
                for number, (name, shape) in enumerate(shapes.items())
            },
            "eos": eos,
            "pad": pad,
        }

    left = real_tokens(2, 4, 3, total=4, left=True)
    right = real_tokens(4, 1, 3, total=4)
    some = [True, False, False]
    yield _case("the first token, an empty cache", inputs(1, 0))
    yield _case("one token in the cache", inputs(1, 1))
    yield _case("three sequences, four tokens in the cache", inputs(3, 4))
    yield _case("padding on the left", inputs(3, 4, mask=left))
    yield _case("padding on the right", inputs(3, 4, mask=right))
    given = inputs(3, 4)["tokens"].tolist()
    chosen = GreedyStepSteps()(**inputs(3, 4))["tokens"].tolist()
    yield _case("a sequence ends", inputs(3, 4, eos=chosen[0]))
    yield _case("a given token is the end token", inputs(3, 4, eos=given[0]))
    yield _case("a sequence has ended before", inputs(3, 4, finished=some))
    yield _case("one has ended, another ends", inputs(3, 4, finished=some, eos=chosen[2]))
    same = inputs(3, 4, finished=some, eos=chosen[2], pad=chosen[2])
    yield _case("padding is the end token", same)
    yield _case("float32, padding on the left", inputs(3, 4, mask=left, dtype=torch.float32))


GREEDY_STEP = Exercise(
    template=greedy_step,
    reference=Decoding,
    steps=GreedyStepSteps,
    cases=greedy_step_cases,
    title="a step of greedy search with a cache",
)


@GREEDY_STEP.mistake("mask.sum(dim=1)", of=GreedyStepSteps)
def position_starts_again(steps: Any) -> None:
    """Every new token gets position 0, because it comes alone; its position is the number of real
    tokens before it.
    """
    steps.position = lambda mask: torch.zeros(len(mask), dtype=torch.int64)


@GREEDY_STEP.mistake("mask.sum(dim=1)", of=GreedyStepSteps)
def position_counts_padding(steps: Any) -> None:
    """The position is the length of the cache, in which padding counts too; count the real tokens
    in the mask, or a sequence depends on how long the others in the batch are.
    """
    steps.position = lambda mask: torch.full((len(mask),), mask.shape[1])


@GREEDY_STEP.mistake("mask.sum(dim=1)", of=GreedyStepSteps)
def position_one_too_high(steps: Any) -> None:
    """The new token is counted among those before it, so that positions begin at 1 (a cumsum of the
    mask needs - 1); the first token has position 0.
    """
    steps.position = lambda mask: mask.sum(dim=1) + 1


@GREEDY_STEP.mistake("keys = self.appended_keys(keys, key, value)", of=GreedyStepSteps)
def new_token_not_seen(steps: Any) -> None:
    """Attention sees the cache as it was before this token; the token attends to itself too, so
    append its key and value first.
    """
    steps.attended = lambda *cache: tuple(tensor[:, :-1] for tensor in cache)


@GREEDY_STEP.mistake("scores = (seen_keys @ query", of=GreedyStepSteps)
def cache_not_seen(steps: Any) -> None:
    """The new token attends to itself alone; its query must meet the keys of the whole cache."""
    steps.attended = lambda *cache: tuple(tensor[:, -1:] for tensor in cache)


@GREEDY_STEP.mistake("torch.cat([self.keys, key], dim=2)", of=kv_cache.KeyValues)
def put_in_front(steps: Any) -> None:
    """New keys and values are put before the cached ones, while the mask, and the next step, have
    them at the end; append them.
    """
    steps.appended_keys = lambda keys, key, value: torch.cat([key[:, None], keys], dim=1)
    steps.appended_values = lambda values, key, value: torch.cat([value[:, None], values], dim=1)


@GREEDY_STEP.mistake("torch.cat([self.values, value], dim=2)", of=kv_cache.KeyValues)
def keys_among_the_values(steps: Any) -> None:
    """The new key is appended to the values too; append the new value."""
    steps.appended_values = lambda values, key, value: torch.cat([values, key[:, None]], dim=1)


@GREEDY_STEP.mistake("torch.cat([self.attention_mask, attention_mask], dim=1)", of=kv_cache.KVCache)
def mask_not_extended(steps: Any) -> None:
    """The mask is that of the cache before, one shorter than the keys; append True for the new
    token.
    """
    steps.extended = lambda mask: mask


@GREEDY_STEP.mistake("scores.masked_fill(~mask", of=GreedyStepSteps)
def padding_attended_to(steps: Any) -> None:
    """The mask is not used: the new token attends to padding in the cache."""
    steps.masked = lambda scores, mask: scores


@GREEDY_STEP.mistake("tokens.masked_fill(~running, pad_token_id)")
def finished_sequences_go_on(steps: Any) -> None:
    """A finished sequence gets the token with the highest logit; it should get `pad`."""
    steps.padded = lambda chosen, finished, pad: chosen


@GREEDY_STEP.mistake("tokens = tokens.masked_fill(~running, pad_token_id)")
def end_token_lost(steps: Any) -> None:
    """A sequence that ends in this step gives `pad`, so that its end token is lost. Put `pad` into
    the sequences that were finished before, and only then look for `eos`.
    """

    def finish(
        chosen: Tensor, finished: Tensor, tokens: Tensor, eos: int, pad: int
    ) -> tuple[Tensor, Tensor]:
        finished = steps.ended(finished, chosen, tokens, eos)
        return steps.padded(chosen, finished, pad), finished

    steps.finish = finish


@GREEDY_STEP.mistake("running & ~self.stopping.ended(history)")
def finished_forgotten(steps: Any) -> None:
    """Only the sequences that give `eos` in this step are finished, and those before are running
    again in the next step; a sequence that was finished stays so (finished | ...).
    """
    steps.ended = lambda finished, chosen, tokens, eos: chosen == eos


@GREEDY_STEP.mistake("history[:, -1:] == self._eos", of=stopping.StoppingCriteria)
def end_seen_a_step_late(steps: Any) -> None:
    """`eos` is looked for among the given tokens; look for it among those that are chosen now, or
    each sequence gets one token after its end.
    """
    steps.ended = lambda finished, chosen, tokens, eos: finished | (tokens == eos)


@GREEDY_STEP.mistake("scores.max(dim=1)")
def best_of_the_batch(steps: Any) -> None:
    """The highest logit is searched for along the batch (dim=0), which gives V sequence numbers
    instead of B tokens; search along the vocabulary (dim=-1).
    """
    steps.best = lambda logits: logits.argmax(dim=0)


# ---- a step of beam search ----


def beam_step(
    logits: Tensor, sequences: Tensor, scores: Tensor, eos: int, pad: int
) -> dict[str, Tensor]:
    """Extend the K beams of each source by one token, and keep the K best of all continuations.

    The score of a sequence is the sum of the log probabilities of its tokens:

        score(beam + token) = score(beam) + log softmax(logits of the beam)[token]

    All K * V continuations of a source compete, so one beam may have several of them, and another
    none. There is no length penalty.

    - With L = 0, all beams of a source are still the same: only the first is extended, or the K
      best would be K copies of one sequence.
    - A beam that contains `eos` is finished. It has one continuation, `pad`, which changes its
      score by nothing, and it competes with that.

    Source: "Sequence to Sequence Learning with Neural Networks" (Sutskever et al. 2014), section
    3.2; in the library, `beam_search`, which keeps finished sequences in a list instead.

    Args:
        logits: (B, K, V), float32 or float64, for the next token of each beam. V is at least K.
        sequences: (B, K, L) int64, the tokens of each beam so far.
        scores: (B, K), of the beams, in the same dtype.
        eos: the token that ends a sequence.
        pad: the token after its end.

    Returns:
        "sequences": (B, K, L + 1) int64, the best first;
        "scores": (B, K), theirs, in the same dtype;
        "beams": (B, K) int64, from 0 to K - 1, which beam of its source each of them extends: by
        it, a cache is reordered.
    """
    raise NotImplementedError("write me")


class BeamStepSteps:
    """A step of `search_beams`, with finished beams among the others."""

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """(B, K, V)."""
        return logits.log_softmax(dim=-1)

    def finished(self, sequences: Tensor, eos: int) -> Tensor:
        """(B, K) bool, which beams have ended."""
        return (sequences == eos).any(dim=-1)

    def after_the_end(self, log_probabilities: Tensor, pad: int) -> Tensor:
        """What stands for the log probabilities of finished beams: (B, K, V)."""
        nothing = torch.full_like(log_probabilities, -math.inf)
        nothing[..., pad] = 0.0
        return nothing

    def added(self, scores: Tensor, log_probabilities: Tensor) -> Tensor:
        """The scores of all continuations: (B, K, V)."""
        return scores[:, :, None] + log_probabilities

    def first_beam_only(self, totals: Tensor) -> Tensor:
        """The same for the first token, when all beams are the same."""
        copies = torch.arange(totals.shape[1])[:, None] > 0  # (K, 1)
        return totals.masked_fill(copies, -math.inf)

    def best(self, totals: Tensor) -> tuple[Tensor, Tensor]:
        """The K best scores, and their numbers among the K * V: (B, K) twice."""
        return totals.flatten(1).topk(totals.shape[1])

    def split(self, numbers: Tensor, num_beams: int, vocab_size: int) -> tuple[Tensor, Tensor]:
        """The beam and the token of each number: (B, K) twice."""
        return numbers // vocab_size, numbers % vocab_size

    def reordered(self, sequences: Tensor, beams: Tensor) -> Tensor:
        """The sequences that are extended: (B, K, L)."""
        return sequences[torch.arange(len(sequences))[:, None], beams]

    def returned(self, scores: Tensor, length: int) -> Tensor:
        """The scores of continuations of this length."""
        return scores

    def returned_beams(self, beams: Tensor) -> Tensor:
        """The numbers of the beams that are extended: (B, K)."""
        return beams

    def __call__(
        self, logits: Tensor, sequences: Tensor, scores: Tensor, eos: int, pad: int
    ) -> dict[str, Tensor]:
        _, num_beams, vocab_size = logits.shape
        log_probabilities = self.log_probabilities(logits)
        after = self.after_the_end(log_probabilities, pad)
        finished = self.finished(sequences, eos)[:, :, None]
        totals = self.added(scores, torch.where(finished, after, log_probabilities))
        if sequences.shape[2] == 0:
            totals = self.first_beam_only(totals)
        best, numbers = self.best(totals)
        beams, tokens = self.split(numbers, num_beams, vocab_size)
        extended = torch.cat([self.reordered(sequences, beams), tokens[:, :, None]], dim=2)
        return {
            "sequences": extended,
            "scores": self.returned(best, extended.shape[2]),
            "beams": self.returned_beams(beams),
        }


def beam_step_cases() -> Iterator[Case]:
    """One source and several, the first token, beams that have ended."""

    def inputs(
        sources: int, beams: int, vocabulary: int, length: int, dtype: torch.dtype = torch.float64
    ) -> dict[str, Any]:
        return {
            "logits": 2 * normal(sources, beams, vocabulary, seed=1, dtype=dtype),
            "sequences": 2 + integers(vocabulary - 2, sources, beams, length, seed=2),
            "scores": -normal(sources, beams, seed=3, dtype=dtype).abs(),
            "eos": 1,
            "pad": 0,
        }

    first = inputs(2, 3, 6, 0)
    first["scores"] = torch.zeros(2, 3, dtype=torch.float64)
    yield _case("one beam", inputs(1, 1, 4, 1))
    yield _case("two beams", inputs(1, 2, 3, 2))
    yield _case("two sources, three beams", inputs(2, 3, 5, 2))
    yield _case("more tokens", inputs(2, 4, 20, 3))
    yield _case("the first token", first)
    one = inputs(2, 3, 6, 3)
    one["sequences"][:, 0, -1] = 1
    one["logits"][:, 0, 0] += 3.0
    one["scores"] = one["scores"] - 3.0
    one["scores"][:, 0] = torch.tensor([-0.3, -1.1], dtype=torch.float64)
    yield _case("a beam has just ended", one)
    before = inputs(2, 3, 6, 4)
    before["sequences"][:, 1, -2:] = torch.tensor([1, 0])
    before["scores"][:, 1] = torch.tensor([-0.2, -0.4], dtype=torch.float64)
    yield _case("a beam has ended before", before)
    unlikely = inputs(1, 2, 4, 2)
    unlikely["sequences"][0, 0, -1] = 1
    unlikely["scores"] = torch.tensor([[-30.0, -0.5]], dtype=torch.float64)
    yield _case("a finished beam of a low score", unlikely)
    yield _case("large logits", inputs(1, 2, 5, 2) | {"logits": 500 * normal(1, 2, 5, seed=4)})
    yield _case("float32", inputs(2, 3, 8, 2, torch.float32))


BEAM_STEP = Exercise(
    template=beam_step,
    reference=beam_search._continuations,
    steps=BeamStepSteps,
    cases=beam_step_cases,
    title="a step of beam search",
)


@BEAM_STEP.mistake("scores.log_softmax(dim=1)", of=beam_search.search_beams)
def probabilities_added(steps: Any) -> None:
    """Probabilities are added to the scores. The probability of a sequence is the product of those
    of its tokens, whose logarithm is a sum: add log probabilities.
    """
    steps.log_probabilities = lambda logits: logits.softmax(dim=-1)


@BEAM_STEP.mistake("scores.log_softmax(dim=1)", of=beam_search.search_beams)
def logits_added(steps: Any) -> None:
    """Logits are added to the scores as they are. Those of different beams cannot be compared
    before a log_softmax, because each beam has its own sum of exponentials.
    """
    steps.log_probabilities = lambda logits: logits


@BEAM_STEP.mistake("scores.log_softmax(dim=1)", of=beam_search.search_beams)
def softmax_over_all_beams(steps: Any) -> None:
    """The log_softmax runs over all beams together; each beam has a distribution of its own, over
    the vocabulary.
    """
    steps.log_probabilities = lambda logits: logits.flatten(1).log_softmax(dim=1).view_as(logits)


@BEAM_STEP.mistake("scores += torch.tensor(beam_scores")
def scores_not_added(steps: Any) -> None:
    """The continuations are ranked by their last token alone; add the scores of the beams."""
    steps.added = lambda scores, log_probabilities: log_probabilities


@BEAM_STEP.mistake("total.topk(count)")
def best_of_each_beam(steps: Any) -> None:
    """Every beam is extended by its own best token, which is K greedy searches side by side; the K
    best are chosen among the continuations of all beams of a source.
    """

    def best(totals: Tensor) -> tuple[Tensor, Tensor]:
        scores, tokens = totals.max(dim=2)
        return scores, tokens + totals.shape[2] * torch.arange(totals.shape[1])

    steps.best = best


@BEAM_STEP.mistake("numbers // vocab_size, numbers % vocab_size", of=BeamStepSteps)
def number_not_split(steps: Any) -> None:
    """The number of a continuation among the K * V is taken for its token; the token is the
    remainder of its division by V.
    """
    steps.split = lambda numbers, num_beams, vocab_size: (numbers // vocab_size, numbers)


@BEAM_STEP.mistake("numbers // vocab_size, numbers % vocab_size", of=BeamStepSteps)
def divided_by_the_beams(steps: Any) -> None:
    """The number of a continuation is divided by K; K rows of V scores were laid end to end, so
    number // V is the beam, and number % V the token.
    """
    steps.split = lambda numbers, num_beams, vocab_size: (numbers // num_beams, numbers % num_beams)


@BEAM_STEP.mistake("numbers // vocab_size, numbers % vocab_size", of=BeamStepSteps)
def beam_and_token_swapped(steps: Any) -> None:
    """Quotient and remainder are swapped: number // V is the beam, number % V the token."""
    steps.split = lambda numbers, num_beams, vocab_size: (
        numbers % vocab_size,
        numbers // vocab_size,
    )


@BEAM_STEP.mistake("numbers // vocab_size, numbers % vocab_size", of=BeamStepSteps)
def beams_of_the_whole_batch(steps: Any) -> None:
    """`beams` are counted through the whole batch, b K + k, as beam_idx is in Hugging Face, where
    the batch has B K rows; here they are the beams of each source, from 0 to K - 1.
    """
    steps.returned_beams = lambda beams: beams + beams.shape[1] * torch.arange(len(beams))[:, None]


@BEAM_STEP.mistake("history = history[order]", of=beam_search._extend)
def sequences_not_reordered(steps: Any) -> None:
    """Each new token is appended to the sequence that stands in its place; append it to the one
    that it extends: sequence k goes on from beam beams[k].
    """
    steps.reordered = lambda sequences, beams: sequences


@BEAM_STEP.mistake("[Beam(WORST, ())]", of=beam_search.Search.__post_init__)
def copies_at_the_first_token(steps: Any) -> None:
    """At the first token, all K beams are extended though they are the same, so the search finds K
    times one sequence; extend the first beam only (give the others -inf).
    """
    steps.first_beam_only = lambda totals: totals


@BEAM_STEP.mistake("torch.where(finished, after, log_probabilities)", of=BeamStepSteps)
def finished_beams_go_on(steps: Any) -> None:
    """A beam that has given `eos` is extended by other tokens; its only continuation is `pad`."""
    steps.finished = lambda sequences, eos: torch.zeros(sequences.shape[:2], dtype=torch.bool)


@BEAM_STEP.mistake("any(dim=-1)", of=BeamStepSteps)
def end_forgotten_after_a_pad(steps: Any) -> None:
    """Only a beam whose last token is `eos` counts as finished, so that it goes on after one `pad`;
    look for `eos` in the whole sequence.
    """
    finished = steps.finished
    steps.finished = lambda sequences, eos: finished(sequences[..., -1:], eos)


@BEAM_STEP.mistake("nothing[..., pad] = 0.0", of=BeamStepSteps)
def pad_costs(steps: Any) -> None:
    """The `pad` of a finished beam adds its log probability, so finished beams become worse with
    every step; it should add 0.
    """

    def after_the_end(log_probabilities: Tensor, pad: int) -> Tensor:
        others = torch.arange(log_probabilities.shape[-1]) != pad
        return log_probabilities.masked_fill(others, -math.inf)

    steps.after_the_end = after_the_end


@BEAM_STEP.mistake("nothing[..., pad] = 0.0", of=BeamStepSteps)
def finished_beams_lost(steps: Any) -> None:
    """A finished beam has no continuation, so that it drops out of the search with its score; keep
    it, with `pad` at a log probability of 0.
    """
    steps.after_the_end = lambda log_probabilities, pad: torch.full_like(
        log_probabilities, -math.inf
    )


@BEAM_STEP.mistake("continuation.score / len(tokens)", of=beam_search.Search)
def divided_by_the_length(steps: Any) -> None:
    """The returned scores are divided by the length, and go into the next step so. Running sums
    stay sums; where lengths are to be compared, hypotheses are divided once, at the end.
    """
    steps.returned = lambda scores, length: scores / length


# ---- which tokens may be sampled ----


def sample_filter(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Divide by the temperature, then leave only the likeliest tokens: top-k, then top-p.

    - temperature: the logits are divided by it. All that follows works on the quotients.
    - top_k: the k highest remain, of each row by itself. 0 switches it off; with k above V all
      remain.
    - top_p: p_1 >= p_2 >= ... are the probabilities of the tokens that top-k has left, which sum to
      1 again. Those remain that are needed to reach a sum of top_p: token i remains if
      p_1 + ... + p_(i-1) < top_p. The likeliest token always remains, also with top_p = 0. 1.0
      switches it off.

    Source: "Hierarchical Neural Story Generation" (Fan et al. 2018) for top-k, "The Curious Case of
    Neural Text Degeneration" (Holtzman et al. 2020) for top-p.

    Args:
        logits: (B, V), of any float dtype. There are no ties.
        temperature: above 0.
        top_k: a number of tokens, or 0.
        top_p: from 0 to 1.

    Returns:
        (B, V), in the order of the vocabulary: logits / temperature where a token remains, -inf
        where it does not. These are logits, not probabilities.
    """
    raise NotImplementedError("write me")


class SampleFilterSteps:
    """`candidates` of the library in steps, for temperature, top-k and top-p."""

    def tempered(self, logits: Tensor, temperature: float) -> Tensor:
        """What is filtered: (B, V)."""
        return logits / temperature

    def top_k_size(self, top_k: int, vocab_size: int) -> int:
        """How many tokens top-k leaves."""
        return min(top_k, vocab_size) if top_k > 0 else vocab_size

    def last_kept(self, best: Tensor) -> Tensor:
        """The lowest scores that remain, given the k best of each row: (B, 1)."""
        return best[:, -1:]

    def below(self, scores: Tensor, last_kept: Tensor) -> Tensor:
        """(B, V) bool, True at tokens that top-k leaves out."""
        return scores < last_kept

    def removed(self, scores: Tensor, excluded: Tensor) -> Tensor:
        """The scores without the excluded tokens: (B, V)."""
        return scores.masked_fill(excluded, -math.inf)

    def probabilities(self, scores: Tensor, all_scores: Tensor) -> Tensor:
        """Those that top-p sums, given the scores after top-k and before it: (B, V)."""
        return scores.softmax(dim=-1)

    def order(self, probabilities: Tensor) -> Tensor:
        """The tokens as top-p goes through them: (B, V) int64."""
        return probabilities.argsort(dim=-1, descending=True)

    def beyond(self, probabilities: Tensor, top_p: float) -> Tensor:
        """(B, V) bool, True where p_1 + ... + p_(i-1) has reached top_p."""
        return probabilities.cumsum(dim=-1) - probabilities >= top_p

    def first_kept(self, excluded: Tensor) -> Tensor:
        """The same, False for the likeliest token."""
        return excluded & (torch.arange(excluded.shape[1]) > 0)

    def in_vocabulary_order(self, excluded: Tensor, order: Tensor) -> Tensor:
        """(B, V) bool, for each token of the vocabulary."""
        return torch.zeros_like(excluded).scatter(1, order, excluded)

    def returned(self, scores: Tensor, temperature: float) -> Tensor:
        """The result: (B, V)."""
        return scores

    def __call__(self, logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
        all_scores = self.tempered(logits, temperature)
        best = all_scores.topk(self.top_k_size(top_k, logits.shape[1])).values  # (B, k)
        scores = self.removed(all_scores, self.below(all_scores, self.last_kept(best)))
        if top_p < 1:
            probabilities = self.probabilities(scores, all_scores)
            order = self.order(probabilities)
            excluded = self.first_kept(self.beyond(probabilities.gather(1, order), top_p))
            scores = self.removed(scores, self.in_vocabulary_order(excluded, order))
        return self.returned(scores, temperature)


def sample_filter_cases() -> Iterator[Case]:
    """Each filter alone, all together, and each at its limits."""

    def inputs(
        *shape: int,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        dtype: torch.dtype = torch.float64,
    ) -> dict[str, Any]:
        return {
            "logits": 1.5 * normal(*shape, seed=8, dtype=dtype),
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
        }

    yield _case("no filter", inputs(1, 4))
    yield _case("a temperature", inputs(1, 4, temperature=0.5))
    yield _case("top-k", inputs(1, 4, top_k=2))
    yield _case("top-p", inputs(1, 4, top_p=0.6))
    yield _case("top-k, three rows", inputs(3, 7, top_k=3))
    yield _case("top-p, three rows", inputs(3, 7, top_p=0.75))
    yield _case("top-p at a temperature", inputs(3, 7, temperature=2.0, top_p=0.7))
    yield _case("top-k and top-p", inputs(3, 7, top_k=4, top_p=0.7))
    yield _case("all three", inputs(3, 12, temperature=1.7, top_k=6, top_p=0.8))
    yield _case("top-k of one", inputs(3, 5, top_k=1))
    yield _case("top-k above the vocabulary", inputs(2, 3, top_k=5))
    yield _case("top-p of zero", inputs(2, 5, top_p=0.0))
    yield _case("top-p below the best probability", inputs(3, 5, temperature=0.3, top_p=0.1))
    yield _case("float32", inputs(2, 50, top_k=20, top_p=0.9, dtype=torch.float32))


SAMPLE_FILTER = Exercise(
    template=sample_filter,
    reference=sampling.candidates,
    steps=SampleFilterSteps,
    cases=sample_filter_cases,
    title="top-k and top-p for sampling",
)


@SAMPLE_FILTER.mistake("scores / config.temperature")
def temperature_multiplied(steps: Any) -> None:
    """The logits are multiplied by the temperature; divide them, so that a temperature below 1
    makes the likely tokens likelier.
    """
    steps.tempered = lambda logits, temperature: logits * temperature


@SAMPLE_FILTER.mistake("scores / config.temperature")
def temperature_last(steps: Any) -> None:
    """The temperature is applied after the filters, but it changes the probabilities that top-p
    sums; divide first.
    """
    steps.tempered = lambda logits, temperature: logits
    steps.returned = lambda scores, temperature: scores / temperature


@SAMPLE_FILTER.mistake("0 < config.top_k < scores.shape[1]")
def zero_not_off(steps: Any) -> None:
    """With top_k = 0, the best 0 tokens are looked up, and there is no last one among them; 0
    switches the filter off.
    """

    def top_k_size(top_k: int, vocab_size: int) -> int:
        if top_k == 0:
            raise IndexError("there is no last one of 0 tokens")
        return size(top_k, vocab_size)

    size = steps.top_k_size
    steps.top_k_size = top_k_size


@SAMPLE_FILTER.mistake("0 < config.top_k < scores.shape[1]")
def more_than_there_are(steps: Any) -> None:
    """With top_k above V, `topk` ends in an error; take at most V."""
    size = steps.top_k_size
    steps.top_k_size = lambda top_k, vocab_size: max(top_k, size(top_k, vocab_size))


@SAMPLE_FILTER.mistake("scores < last_kept", of=SampleFilterSteps)
def one_too_few(steps: Any) -> None:
    """The k-th best token is excluded too, because it is compared with itself by <=; exclude what
    is below it (<).
    """
    steps.below = lambda scores, last_kept: scores <= last_kept


@SAMPLE_FILTER.mistake("best[:, -1:]", of=SampleFilterSteps)
def one_limit_for_all_rows(steps: Any) -> None:
    """One limit, the k-th best logit of the first row, serves all rows; each row has its own, so
    keep the dimension: best[:, -1:].
    """
    steps.last_kept = lambda best: best[:1, -1:]


@SAMPLE_FILTER.mistake("scores.masked_fill(excluded, -torch.inf)", of=sampling.top_p)
def zeros_for_the_excluded(steps: Any) -> None:
    """Excluded tokens get a logit of 0, which is as likely as others, as exp(0) = 1; give them
    -inf.
    """
    steps.removed = lambda scores, excluded: scores.masked_fill(excluded, 0.0)


@SAMPLE_FILTER.mistake("scores.masked_fill(excluded, -torch.inf)", of=sampling.top_p)
def large_negative_logits(steps: Any) -> None:
    """Excluded tokens get a large negative logit such as -1e9; -inf excludes them in every dtype,
    and whoever reads the result can see that they are.
    """
    steps.removed = lambda scores, excluded: scores.masked_fill(excluded, -1e9)


@SAMPLE_FILTER.mistake(
    "probabilities.cumsum(dim=-1) - probabilities >= top_p", of=SampleFilterSteps
)
def crossing_token_excluded(steps: Any) -> None:
    """The token with which the sum reaches top_p is excluded, so that less than top_p remains; it
    is needed. Compare the sum of the tokens before it.
    """
    steps.beyond = lambda probabilities, top_p: probabilities.cumsum(dim=-1) > top_p


@SAMPLE_FILTER.mistake("excluded[:, :min_tokens_to_keep] = False", of=sampling.top_p)
def likeliest_excluded(steps: Any) -> None:
    """Nothing keeps the likeliest token if top_p is below its probability, or 0, so that all tokens
    may be excluded; it always remains.
    """
    steps.first_kept = lambda excluded: excluded


@SAMPLE_FILTER.mistake(
    "probabilities.cumsum(dim=-1) - probabilities >= top_p", of=SampleFilterSteps
)
def each_by_itself(steps: Any) -> None:
    """Each probability is compared with top_p by itself; top_p is a limit of their sum, from the
    likeliest on.
    """
    steps.beyond = lambda probabilities, top_p: probabilities < top_p


@SAMPLE_FILTER.mistake("probabilities.argsort(dim=-1, descending=True)", of=SampleFilterSteps)
def not_sorted(steps: Any) -> None:
    """The probabilities are summed in the order of the vocabulary; sort them first, likeliest
    first.
    """
    steps.order = lambda probabilities: torch.arange(probabilities.shape[1]).expand_as(
        probabilities
    )


@SAMPLE_FILTER.mistake("probabilities.argsort(dim=-1, descending=True)", of=SampleFilterSteps)
def least_likely_first(steps: Any) -> None:
    """The probabilities are sorted in ascending order, so that the least likely tokens remain; sort
    with descending=True.
    """
    steps.order = lambda probabilities: probabilities.argsort(dim=-1)


@SAMPLE_FILTER.mistake("scatter(1, order, excluded)", of=SampleFilterSteps)
def mask_in_sorted_order(steps: Any) -> None:
    """What is excluded is known in sorted order, and applied to the logits in the order of the
    vocabulary; bring it back first: mask.scatter(1, order, sorted_mask).
    """
    steps.in_vocabulary_order = lambda excluded, order: excluded


@SAMPLE_FILTER.mistake("scatter(1, order, excluded)", of=SampleFilterSteps)
def gathered_instead_of_scattered(steps: Any) -> None:
    """The mask in sorted order is gathered by the order, which permutes once more instead of back;
    scatter by it (or gather by order.argsort()).
    """
    steps.in_vocabulary_order = lambda excluded, order: excluded.gather(1, order)


@SAMPLE_FILTER.mistake("scores.softmax(dim=-1)", of=SampleFilterSteps)
def probabilities_before_top_k(steps: Any) -> None:
    """Top-p sums the probabilities from before top-k, so fewer than top_p of what is left remains,
    or more; take the softmax again after top-k.
    """
    steps.probabilities = lambda scores, all_scores: all_scores.softmax(dim=-1)


@SAMPLE_FILTER.mistake("scores.masked_fill(excluded, -math.inf)", of=SampleFilterSteps)
def probabilities_returned(steps: Any) -> None:
    """The result is a softmax; return logits, with -inf for what is excluded."""
    returned = steps.returned
    steps.returned = lambda scores, temperature: returned(scores, temperature).softmax(dim=-1)


# ---- a step of byte-pair encoding ----


def merge_pair(
    words: dict[tuple[str, ...], int],
) -> tuple[tuple[str, str] | None, dict[tuple[str, ...], int]]:
    """One step of training BPE: find the most frequent pair of symbols, and merge it everywhere.

    - Count: every pair of neighbours within a word counts as often as the word occurs, also pairs
      that overlap: ("a", "a", "a") has the pair ("a", "a") twice.
    - Choose the pair with the highest count; of several, the smallest in Python's order of tuples
      of strings: ("a", "c") before ("b", "a").
    - Merge: in each word, from left to right, the two symbols become one, their concatenation. A
      symbol that has been merged is not merged again in this step: ("a", "a", "a") becomes
      ("aa", "a").

    Source: "Neural Machine Translation of Rare Words with Subword Units" (Sennrich et al. 2016),
    algorithm 1; the counts and the choice are those of the library `tokenizers`.

    Args:
        words: how often each word occurs in a text, as a tuple of its symbols, which are strings of
            one character or more. The dict need not be sorted. No two words are the same text in
            different symbols, so that none become equal by the merge.

    Returns:
        The pair, and all words after the merge, also those without the pair, with their counts. If
        no word has two symbols, None and the words as they are.
    """
    raise NotImplementedError("write me")


Symbols = tuple[str, ...]
Pair = tuple[str, str]


class MergePairSteps:
    """A step of training BPE. The library leaves training to `tokenizers`, which counts the same
    way, and chooses the same pair as long as its ids are in alphabetical order.
    """

    def pairs(self, symbols: Symbols) -> list[Pair]:
        """The pairs of neighbours."""
        return [*pairwise(symbols)]

    def weight(self, count: int) -> int:
        """How much a pair counts in a word that occurs so often."""
        return count

    def counts(self, words: Mapping[Symbols, int]) -> Counter[Pair]:
        """How often each pair occurs."""
        counts: Counter[Pair] = Counter()
        for symbols, count in words.items():
            for pair in self.pairs(symbols):
                counts[pair] += self.weight(count)
        return counts

    def best(self, counts: Mapping[Pair, int]) -> Pair:
        """The most frequent pair."""
        return min(counts, key=lambda pair: (-counts[pair], pair))

    def chosen(self, counts: Mapping[Pair, int]) -> Pair | None:
        """The same, or None if there is no pair."""
        return self.best(counts) if counts else None

    def merged(self, symbols: Symbols, pair: Pair) -> Symbols:
        """A word after the merge."""
        result: list[str] = []
        position = 0
        while position < len(symbols):
            size = 2 if symbols[position : position + 2] == pair else 1
            result.append("".join(symbols[position : position + size]))
            position += size
        return tuple(result)

    def all_merged(self, words: Mapping[Symbols, int], pair: Pair) -> dict[Symbols, int]:
        """All words after the merge."""
        return {self.merged(symbols, pair): count for symbols, count in words.items()}

    def __call__(self, words: dict[Symbols, int]) -> tuple[Pair | None, dict[Symbols, int]]:
        pair = self.chosen(self.counts(words))
        return pair, words if pair is None else self.all_merged(words, pair)


def merge_pair_cases() -> Iterator[Case]:
    """Words of one pair and more, ties, repeated letters, symbols that have been merged before."""

    def case(label: str, words: dict[str, int]) -> Case:
        """Symbols are separated by spaces."""
        split = {tuple(word.split()): count for word, count in words.items()}
        return _case(label, {"words": split})

    yield case("one word", {"a b": 1})
    yield case("the pair inside a word", {"c a b d": 1, "a b": 1})
    yield case("two words", {"l o w": 5, "n e w": 2})
    yield case("words count as often as they occur", {"d o g s": 1, "d o t": 1, "c a t s": 4})
    yield case("a pair at the end of words", {"x y": 1, "o y z": 2, "m y z": 2, "t z": 2})
    yield case("a tie", {"b c z": 2, "c a x": 2, "a c y": 2})
    yield case("a tie, the smallest first", {"a b": 1, "z a": 1})
    yield case("the same letter three times", {"a a a": 2, "b a": 1})
    yield case("overlapping pairs decide", {"a a a": 2, "b c": 3})
    yield case("the pair twice in a word", {"n a n a s": 1, "b a n a n a": 2})
    yield case("twice in a word decides", {"z y x z y": 2, "d e": 3})
    yield case("merged before", {"l ow e r": 2, "s l ow": 1, "fl ow e r": 2, "w e": 1, "xl ow": 1})
    yield case("a merged symbol ends with the first", {"b c": 3, "ab c": 1, "b cd": 1, "ab cd": 1})
    yield case("words without a pair", {"a": 3, "b c": 1, "d": 2})
    yield case("nothing to merge", {"the": 3, "a": 1})
    yield case("no words", {})


MERGE_PAIR = Exercise(
    template=merge_pair,
    reference=MergePairSteps,
    steps=MergePairSteps,
    cases=merge_pair_cases,
    title="a step of training byte-pair encoding",
)


@MERGE_PAIR.mistake("counts[pair] += self.weight(count)")
def words_counted_once(steps: Any) -> None:
    """Each word counts once, however often it occurs in the text; add the count of the word."""
    steps.weight = lambda count: 1


@MERGE_PAIR.mistake("for pair in self.pairs(symbols)")
def once_in_a_word(steps: Any) -> None:
    """A pair that occurs twice in a word counts once, as in a set; count each place."""
    pairs = steps.pairs
    steps.pairs = lambda symbols: [*dict.fromkeys(pairs(symbols))]


@MERGE_PAIR.mistake("[*pairwise(symbols)]")
def overlapping_pairs_not_counted(steps: Any) -> None:
    """Of pairs that overlap only the first is counted, as `str.count` does; count all
    neighbours.
    """

    def pairs(symbols: Symbols) -> list[Pair]:
        found: list[Pair] = []
        taken = -1  # where the last pair of two equal symbols was counted
        for position, pair in enumerate(pairwise(symbols)):
            if pair[0] != pair[1] or found[-1:] != [pair] or taken != position - 1:
                found.append(pair)
                taken = position
        return found

    steps.pairs = pairs


@MERGE_PAIR.mistake("[*pairwise(symbols)]")
def last_pair_not_counted(steps: Any) -> None:
    """The last pair of each word is not counted: there are len - 1 pairs, not len - 2."""
    pairs = steps.pairs
    steps.pairs = lambda symbols: pairs(symbols[:-1])


@MERGE_PAIR.mistake("min(counts, key=lambda pair: (-counts[pair], pair))")
def tie_to_the_first(steps: Any) -> None:
    """Of pairs that are equally frequent the one that was counted first is merged, so that the
    vocabulary depends on the order of the text; take the smallest.
    """
    steps.best = lambda counts: max(counts, key=lambda pair: counts[pair])


@MERGE_PAIR.mistake("min(counts, key=lambda pair: (-counts[pair], pair))")
def tie_to_the_largest(steps: Any) -> None:
    """Of pairs that are equally frequent the largest is merged, as the maximum of (count, pair) is;
    take the smallest: the minimum of (-count, pair).
    """
    steps.best = lambda counts: max(counts, key=lambda pair: (counts[pair], pair))


@MERGE_PAIR.mistake("self.best(counts) if counts else None")
def no_pair_not_foreseen(steps: Any) -> None:
    """If no word has two symbols there is no pair, and the maximum of nothing is an error; return
    None and the words.
    """
    steps.chosen = lambda counts: steps.best(counts)


@MERGE_PAIR.mistake("while position < len(symbols)")
def first_place_only(steps: Any) -> None:
    """Only the first place of the pair in a word is merged; go on to the end of the word."""

    def merged(symbols: Symbols, pair: Pair) -> Symbols:
        places = [i for i, found in enumerate(pairwise(symbols)) if found == pair][:1]
        for i in places:
            return (*symbols[:i], "".join(pair), *symbols[i + 2 :])
        return symbols

    steps.merged = merged


@MERGE_PAIR.mistake("position += size")
def second_symbol_kept(steps: Any) -> None:
    """After a merge the loop goes on one symbol later, so the second symbol of the pair is there
    twice; go on two symbols later.
    """

    def merged(symbols: Symbols, pair: Pair) -> Symbols:
        following = [*symbols[1:], ""]
        return tuple(
            "".join(pair) if (symbol, after) == pair else symbol
            for symbol, after in zip(symbols, following, strict=True)
        )

    steps.merged = merged


@MERGE_PAIR.mistake("while position < len(symbols)")
def last_symbol_lost(steps: Any) -> None:
    """The loop over pairs ends before the last symbol, which is lost unless it is merged; append it
    (and keep words of one symbol).
    """

    def merged(symbols: Symbols, pair: Pair) -> Symbols:
        result: list[str] = []
        position = 0
        while position < len(symbols) - 1:
            size = 2 if symbols[position : position + 2] == pair else 1
            result.append("".join(symbols[position : position + size]))
            position += size
        return tuple(result)

    steps.merged = merged


@MERGE_PAIR.mistake("symbols[position : position + 2] == pair")
def from_the_right(steps: Any) -> None:
    """The pair is merged from right to left, which gives ("a", "aa") of three a; go from left to
    right.
    """

    def merged(symbols: Symbols, pair: Pair) -> Symbols:
        result: list[str] = []
        end = len(symbols)
        while end > 0:
            size = 2 if symbols[max(0, end - 2) : end] == pair else 1
            result.insert(0, "".join(symbols[end - size : end]))
            end -= size
        return tuple(result)

    steps.merged = merged


@MERGE_PAIR.mistake("symbols[position : position + 2] == pair")
def text_replaced(steps: Any) -> None:
    """The word is joined by spaces, and "b c" is replaced by "bc" in this text, which it also finds
    within longer symbols, as in "ab c"; compare whole symbols.
    """
    steps.merged = lambda symbols, pair: tuple(
        " ".join(symbols).replace(" ".join(pair), "".join(pair)).split()
    )


@MERGE_PAIR.mistake("for symbols, count in words.items()}")
def other_words_lost(steps: Any) -> None:
    """Only words with the pair are returned; keep the others as they are."""

    def all_merged(words: Mapping[Symbols, int], pair: Pair) -> dict[Symbols, int]:
        both = {symbols: steps.merged(symbols, pair) for symbols in words}
        return {new: words[old] for old, new in both.items() if new != old}

    steps.all_merged = all_merged


# ---- the answer to a question ----


def answer_span(
    start_logits: Tensor,
    end_logits: Tensor,
    offsets: list[tuple[int, int]],
    sequence_ids: list[int | None],
    context: str,
    max_answer_tokens: int,
    cls: int,
    threshold: float | None,
) -> dict[str, Any]:
    """The best answer of one window of extractive question answering, as in SQuAD.

    A span is a first and a last token. Its score is the start logit of the first plus the end logit
    of the last. Allowed are the spans

    - whose first and last token belong to the context (sequence id 1),
    - whose last token is not before the first (one token may be both),
    - of at most `max_answer_tokens` tokens, first and last included.

    The best of *all* of them is the answer; the best start alone need not be a part of it. The
    answer is the text from the first character of its first token to the last character of its
    last.

    "No answer" has a score too, that of the span from [CLS] to [CLS]. It is the result if it
    exceeds the score of the best span by more than the threshold.

    Source: "BERT" (Devlin et al. 2019), sections 4.2 and 4.3; in the library,
    `tasks/question_answering.py`.

    Args:
        start_logits, end_logits: (T,), float.
        offsets: of each of the T tokens, the characters [start, end) in the text that it comes
            from: in the question for tokens of the question, in the context for those of the
            context; (0, 0) for special tokens.
        sequence_ids: 0 for tokens of the question, 1 for those of the context, None for special
            tokens, padding included. The context has at least one token.
        context: the text.
        max_answer_tokens: the longest answer.
        cls: the position of [CLS]; not 0 if there is padding on the left.
        threshold: see above; None if every question has an answer.

    Returns:
        "answer": str; "start", "end": int, its characters [start, end) in the context;
        "score": float, of the span. For "no answer": "", 0, 0 and its score.
    """
    raise NotImplementedError("write me")


Offsets = Sequence[Sequence[int]]
Scores = list[list[float]]  # of all spans: (T, T), the first token down, the last across


class AnswerSpanSteps:
    """What the library does from the logits to the answer, for one window."""

    def may_be_answer(self, sequence_id: int | None) -> bool:
        """Whether a token may begin or end an answer."""
        return sequence_id == 1

    def normalized(self, logits: Tensor) -> Tensor:
        """What scores are made of: (T,)."""
        return logits

    def score(self, start: Tensor, end: Tensor) -> Tensor:
        """The scores of spans, from what there is at their first and at their last tokens."""
        return start + end

    def in_order(self, first: int, last: int) -> bool:
        """Whether a span does not end before it begins."""
        return first <= last

    def fits(self, first: int, last: int, max_answer_tokens: int) -> bool:
        """Whether a span is short enough."""
        return last - first < max_answer_tokens

    def best(self, scores: Scores, allowed: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """The best of the allowed spans."""
        return max(allowed, key=lambda span: scores[span[0]][span[1]])

    def cls_position(self, cls: int) -> int:
        """Where the score of no answer is read."""
        return cls

    def null_score(self, start: Tensor, end: Tensor) -> Tensor:
        """The score of no answer, from what there is at [CLS]."""
        return self.score(start, end)

    def is_null(self, null_score: float, score: float, threshold: float | None) -> bool:
        """Whether there is no answer."""
        return threshold is not None and null_score - score > threshold

    def characters(self, offsets: Offsets, first: int, last: int) -> tuple[int, int]:
        """The characters [start, end) of a span."""
        return offsets[first][0], offsets[last][1]

    def text(self, context: str, start: int, end: int) -> str:
        """The answer."""
        return context[start:end]

    def __call__(
        self,
        start_logits: Tensor,
        end_logits: Tensor,
        offsets: Offsets,
        sequence_ids: Sequence[int | None],
        context: str,
        max_answer_tokens: int,
        cls: int,
        threshold: float | None,
    ) -> dict[str, Any]:
        tokens = [i for i, number in enumerate(sequence_ids) if self.may_be_answer(number)]
        allowed = [
            (first, last)
            for first in tokens
            for last in tokens
            if self.in_order(first, last) and self.fits(first, last, max_answer_tokens)
        ]
        starts, ends = self.normalized(start_logits), self.normalized(end_logits)  # (T,) twice
        scores: Scores = self.score(starts[:, None], ends).tolist()  # (T, T)
        first, last = self.best(scores, allowed)
        score, cls = scores[first][last], self.cls_position(cls)
        null_score = float(self.null_score(starts[cls], ends[cls]))
        if self.is_null(null_score, score, threshold):
            return {"answer": "", "start": 0, "end": 0, "score": null_score}
        start, end = self.characters(offsets, first, last)
        return {
            "answer": self.text(context, start, end),
            "start": start,
            "end": end,
            "score": score,
        }


def answer_span_cases() -> Iterator[Case]:
    """Peaks of the logits in the context and elsewhere, in order and not, near and far."""

    def case(
        label: str,
        starts: Mapping[int, float],
        ends: Mapping[int, float],
        *,
        context: str = "Ada Lovelace wrote it.",
        longest: int = 15,
        threshold: float | None = None,
        left: int = 0,
        right: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> Case:
        """[CLS] question [SEP] context [SEP] with padding on either side.

        Args:
            starts, ends: what is added to small logits, at positions without padding: 0 is [CLS],
                1 the question, 2 [SEP], 3 to 7 the context, 8 [SEP].
        """
        asked = _word_offsets("Who?")
        found = _word_offsets(context)
        none = (0, 0)
        offsets = [none, *asked, none, *found, none]
        ids = [None, *[0] * len(asked), None, *[1] * len(found), None]
        total = left + len(ids) + right
        logits = 0.1 * normal(2, total, seed=len(label))
        for row, peaks in enumerate((starts, ends)):
            for position, height in peaks.items():
                logits[row, left + position] += height
        logits = logits.to(dtype)
        return _case(
            label,
            {
                "start_logits": logits[0],
                "end_logits": logits[1],
                "offsets": [*[none] * left, *offsets, *[none] * right],
                "sequence_ids": [*[None] * left, *ids, *[None] * right],
                "context": context,
                "max_answer_tokens": longest,
                "cls": left,
                "threshold": threshold,
            },
            tolerance=1e-6,
        )

    peak = {3: 5.0}, {4: 5.0}
    yield case("one start, one end", *peak, context="Ada Lovelace")
    yield case("an answer of one token", {5: 5.0}, {5: 5.0})
    yield case("the best end is before the best start", {6: 5.0, 4: 4.0}, {5: 5.0, 6: 4.6})
    yield case(
        "the best start and the best end are far apart",
        {3: 5.0, 6: 4.0},
        {7: 5.0, 4: 3.0},
        longest=3,
    )
    yield case("one token too long", {4: 5.0}, {6: 5.0, 5: 4.0}, longest=2)
    yield case("just short enough", {4: 5.0}, {6: 5.0, 5: 4.0}, longest=3)
    yield case(
        "an end before the start, a short longest answer",
        {7: 5.0, 4: 4.0},
        {6: 5.0, 4: 4.5},
        longest=2,
    )
    yield case("the best start leads to a poor end", {6: 5.0, 3: 4.5}, {5: 5.0, 7: 1.0})
    yield case("the peaks are in the question", {1: 9.0, 3: 5.0}, {1: 9.0, 4: 5.0})
    yield case("the peaks are at special tokens", {8: 9.0, 3: 5.0}, {8: 9.0, 4: 5.0})
    unsure = {0: 6.0, 3: 5.0}, {0: 6.0, 4: 5.0}
    yield case("no answer is likelier", *unsure, threshold=0.0)
    yield case("no answer is likelier, but must not be given", *unsure)
    yield case("no answer is a little likelier than the threshold allows", *unsure, threshold=1.0)
    yield case("no answer is likelier, within the threshold", *unsure, threshold=3.0)
    yield case("a negative threshold", *peak, threshold=-30.0)
    half = {0: 9.0, 3: 5.0}, {4: 5.0}
    yield case("[CLS] is a likely start, but no end", *half, threshold=0.0)
    yield case("padding on the right", *unsure, threshold=0.0, right=3)
    yield case("padding on the left", *unsure, threshold=0.0, left=3)
    yield case("padding on the left, an answer", *peak, threshold=0.0, left=2)
    yield case("peaks at padding", {10: 9.0, 3: 5.0}, {10: 9.0, 4: 5.0}, right=3)
    yield case("float32", {4: 3.0}, {6: 4.0}, dtype=torch.float32)


def _word_offsets(text: str) -> list[tuple[int, int]]:
    """The characters of each word, where punctuation at its end is a word of its own."""
    offsets: list[tuple[int, int]] = []
    start = 0
    for word in text.split():
        start = text.index(word, start)
        size = len(word.rstrip("."))
        offsets += [(start, start + size)] + [(start + size, start + len(word))] * (
            size < len(word)
        )
        start += len(word)
    return offsets


ANSWER_SPAN = Exercise(
    template=answer_span,
    reference=question_answering.best_spans,
    steps=AnswerSpanSteps,
    cases=answer_span_cases,
    title="the answer to a question from start and end scores",
)


@ANSWER_SPAN.mistake("first <= last", of=AnswerSpanSteps)
def end_before_the_start(steps: Any) -> None:
    """A span may end before it begins, as happens if the best start and the best end are chosen
    each by itself; compare only spans with first <= last.
    """
    steps.in_order = lambda first, last: True


@ANSWER_SPAN.mistake("last - first < max_answer_tokens", of=AnswerSpanSteps)
def length_not_limited(steps: Any) -> None:
    """Spans of more than `max_answer_tokens` tokens are compared too; leave them out before the
    best is chosen.
    """
    steps.fits = lambda first, last, max_answer_tokens: True


@ANSWER_SPAN.mistake("last - first < max_answer_tokens", of=AnswerSpanSteps)
def one_token_too_long(steps: Any) -> None:
    """Spans of one token too many are allowed: from first to last there are last - first + 1
    tokens.
    """
    steps.fits = lambda first, last, max_answer_tokens: last - first <= max_answer_tokens


@ANSWER_SPAN.mistake("max(allowed, key=lambda span", of=AnswerSpanSteps)
def best_start_first(steps: Any) -> None:
    """The best start is chosen first, and the best end for it; a start with a lower logit may have
    a better end, so compare the sums of all spans.
    """

    def best_from_the_best_start(
        scores: Scores, allowed: Sequence[tuple[int, int]]
    ) -> tuple[int, int]:
        start, _ = max(allowed, key=lambda span: sum(scores[span[0]]))  # the ends have one sum
        return best(scores, [(first, last) for first, last in allowed if first == start])

    best = steps.best
    steps.best = best_from_the_best_start


@ANSWER_SPAN.mistake("sequence_id == 1", of=AnswerSpanSteps)
def question_allowed(steps: Any) -> None:
    """Tokens of the question may be an answer, and their offsets, which count from the beginning of
    the question, are looked up in the context; allow sequence id 1 only.
    """
    allowed = steps.may_be_answer
    steps.may_be_answer = lambda sequence_id: sequence_id == 0 or allowed(sequence_id)


@ANSWER_SPAN.mistake("sequence_id == 1", of=AnswerSpanSteps)
def special_tokens_allowed(steps: Any) -> None:
    """[CLS], [SEP] or padding may begin or end an answer; allow sequence id 1 only."""
    allowed = steps.may_be_answer
    steps.may_be_answer = lambda sequence_id: sequence_id is None or allowed(sequence_id)


@ANSWER_SPAN.mistake("start + end", of=AnswerSpanSteps.score)
def product_of_probabilities(steps: Any) -> None:
    """The score is the product of the two probabilities; it is the sum of the two logits, with
    which thresholds and other windows are compared.
    """
    steps.normalized = lambda logits: logits.softmax(dim=0)
    steps.score = lambda start, end: start * end


@ANSWER_SPAN.mistake("starts = start_logits.masked_fill(~allowed")
def sum_of_probabilities(steps: Any) -> None:
    """Two probabilities are added, so that a span with one likely end and an unlikely other one
    seems good; add the logits, which multiplies probabilities.
    """
    steps.normalized = lambda logits: logits.softmax(dim=0)


@ANSWER_SPAN.mistake("nulls = start_logits[windows, cls_positions] + end_logits")
def null_score_of_the_start(steps: Any) -> None:
    """The score of no answer is the start logit of [CLS] alone; add its end logit."""
    steps.null_score = lambda start, end: start


@ANSWER_SPAN.mistake("nulls = start_logits[windows, cls_positions]")
def cls_at_the_beginning(steps: Any) -> None:
    """The score of no answer is read at position 0, which is padding if that is on the left; [CLS]
    is at position `cls`.
    """
    steps.cls_position = lambda cls: 0


@ANSWER_SPAN.mistake("threshold is not None and null_score - score > threshold", of=AnswerSpanSteps)
def always_an_answer(steps: Any) -> None:
    """There is always an answer; "" is the result if the score of no answer exceeds that of the
    best span by more than the threshold.
    """
    steps.is_null = lambda null_score, score, threshold: False


@ANSWER_SPAN.mistake("threshold is not None and null_score - score > threshold", of=AnswerSpanSteps)
def threshold_on_the_other_side(steps: Any) -> None:
    """The threshold is added to the score of no answer, so that a higher one gives fewer answers;
    no answer has to exceed the best span by more than it.
    """
    steps.is_null = lambda null_score, score, threshold: (
        threshold is not None and null_score + threshold > score
    )


@ANSWER_SPAN.mistake("threshold is not None and null_score - score > threshold", of=AnswerSpanSteps)
def none_taken_for_zero(steps: Any) -> None:
    """A threshold of None counts as 0; with None every question has an answer."""
    is_null = steps.is_null
    steps.is_null = lambda null_score, score, threshold: is_null(null_score, score, threshold or 0)


@ANSWER_SPAN.mistake(
    "int(offsets[first][0]), int(offsets[last][1])", of=question_answering.WindowSpans
)
def last_token_cut(steps: Any) -> None:
    """The answer ends where its last token begins; it ends with that token: offsets[last][1]."""
    steps.characters = lambda offsets, first, last: (offsets[first][0], offsets[last][0])


@ANSWER_SPAN.mistake(
    "int(offsets[first][0]), int(offsets[last][1])", of=question_answering.WindowSpans
)
def tokens_taken_for_characters(steps: Any) -> None:
    """Positions of tokens are used as positions of characters; look those up in the offsets."""
    steps.characters = lambda offsets, first, last: (first, last + 1)


@ANSWER_SPAN.mistake("context[span.start : span.end]", of=question_answering._answers)
def one_character_too_many(steps: Any) -> None:
    """The answer has one character too many: the end of an offset is the first character after the
    token, as in slices.
    """
    steps.text = lambda context, start, end: context[start : end + 1]


# ---- entities from tags ----


def group_entities(
    logits: Tensor,
    id2label: dict[int, str],
    offsets: list[tuple[int, int]],
    special: list[bool],
    text: str,
) -> list[dict[str, Any]]:
    """Group the tokens of a text into named entities.

    The tag of a token is the label of its highest logit: "O", outside of all entities, or "B-" or
    "I-" before the type of an entity, which may have hyphens itself. Special tokens are left out,
    whatever their tags.

    - B- begins an entity, also right after one of the same type.
    - I- continues the entity of the token before it if that has the same type, whether by B- or I-.
      Otherwise (after O, at the beginning, after another type) it begins one too.
    - O ends an entity.

    The score of an entity is the mean of the softmax probabilities of its tokens' tags.

    Source: Tjong Kim Sang and De Meulder 2003 (conlleval); in the library,
    `tasks/token_classification.py` with aggregation_strategy="simple".

    Args:
        logits: (T, C), float.
        id2label: the label of each of the C classes.
        offsets: of each of the T tokens, its characters [start, end) in the text; (0, 0) for
            special ones.
        special: of each token, whether it is special, or padding.
        text: the text.

    Returns:
        For each entity, in the order of the text: "entity_group": str, its type; "score": float;
        "word": str, its text, from the first character of its first token to the last character of
        its last; "start", "end": int, its characters [start, end).
    """
    raise NotImplementedError("write me")


class GroupEntitiesSteps:
    """`group_tokens` of the library with the strategy "simple", for the tags B-, I- and O."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """(T, C)."""
        return logits.softmax(dim=-1)

    def left_out(self, special: bool) -> bool:
        """Whether a token has no tag."""
        return special

    def is_outside(self, tag: str) -> bool:
        """Whether a token belongs to no entity."""
        return tag == "O"

    def stays_open(self) -> bool:
        """Whether an entity goes on after a token outside."""
        return False

    def type_of(self, tag: str) -> str:
        """The type of an entity."""
        return tag.removeprefix("B-").removeprefix("I-")

    def always_begins(self, tag: str) -> bool:
        """Whether a new entity begins, whatever was before."""
        return tag.startswith("B-")

    def same_type(self, tag: str, before: str) -> bool:
        """Whether the token before is of the same type."""
        return self.type_of(tag) == self.type_of(before)

    def may_begin(self, tag: str) -> bool:
        """Whether an entity can begin with this tag."""
        return True

    def at_the_end(self, groups: list[list[int]], is_open: bool) -> list[list[int]]:
        """The entities of the whole text; the last may still be open."""
        return groups

    def score(self, scores: Sequence[float]) -> float:
        """Of an entity, from those of its tokens."""
        return sum(scores) / len(scores)

    def group(self, tag: str) -> str:
        """What an entity is called, from its first tag."""
        return self.type_of(tag)

    def end(self, offsets: Offsets) -> int:
        """The end of an entity, from the offsets of its tokens."""
        return offsets[-1][1]

    def word(self, text: str, offsets: Offsets) -> str:
        """The text of an entity."""
        return text[offsets[0][0] : self.end(offsets)]

    def groups(self, tags: Sequence[str], special: Sequence[bool]) -> list[list[int]]:
        """The tokens of each entity."""
        groups: list[list[int]] = []
        is_open = False
        for token, tag in enumerate(tags):
            if self.left_out(special[token]):
                continue
            if self.is_outside(tag):
                is_open = is_open and self.stays_open()
            elif (
                is_open
                and not self.always_begins(tag)
                and self.same_type(tag, tags[groups[-1][-1]])
            ):
                groups[-1].append(token)
            elif self.may_begin(tag):
                groups.append([token])
                is_open = True
            else:
                is_open = False
        return self.at_the_end(groups, is_open)

    def __call__(
        self,
        logits: Tensor,
        id2label: Mapping[int, str],
        offsets: Offsets,
        special: Sequence[bool],
        text: str,
    ) -> list[dict[str, Any]]:
        scores = self.probabilities(logits).amax(dim=-1).tolist()  # (T,)
        tags = [id2label[number] for number in logits.argmax(dim=-1).tolist()]
        entities = []
        for tokens in self.groups(tags, special):
            own = [offsets[token] for token in tokens]
            entities.append(
                {
                    "entity_group": self.group(tags[tokens[0]]),
                    "score": self.score([scores[token] for token in tokens]),
                    "word": self.word(text, own),
                    "start": own[0][0],
                    "end": self.end(own),
                }
            )
        return entities


def group_entities_cases() -> Iterator[Case]:
    """Entities of one token and more, side by side, broken off, with types of several words."""
    types = ("PER", "LOC", "WORK-OF-ART", "WORK-OF-SCIENCE")
    labels = ["O", *(f"{prefix}-{name}" for name in types for prefix in "BI")]

    def case(
        label: str, text: str, tags: str, left: int = 0, right: int = 0, special: str = "O"
    ) -> Case:
        """A text whose tokens are separated by spaces, or by | within a word, and their tags."""
        words = text.split(" ")
        offsets: list[tuple[int, int]] = [(0, 0)] * (left + 1)
        start = 0
        for word in words:
            for token in word.split("|"):
                offsets.append((start, start + len(token)))
                start += len(token)
            start += 1
        offsets += [(0, 0)] * (right + 1)
        every = [special] * (left + 1) + tags.split() + [special] * (right + 1)
        assert len(every) == len(offsets), label
        logits = normal(len(every), len(labels), seed=len(text)).abs()
        for position, tag in enumerate(every):
            logits[position, labels.index(tag)] += 4.0
        inside = len(offsets) - left - right - 2
        return _case(
            label,
            {
                "logits": logits,
                "id2label": dict(enumerate(labels)),
                "offsets": offsets,
                "special": [True] * (left + 1) + [False] * inside + [True] * (right + 1),
                "text": text.replace("|", ""),
            },
        )

    yield case("an entity of one token", "in Rome .", "O B-LOC O")
    yield case("no entity", "nobody came .", "O O O")
    yield case("an entity of two tokens", "in New York .", "O B-LOC I-LOC O")
    yield case("two entities", "Ada went to New York .", "B-PER O O B-LOC I-LOC O")
    yield case("tokens within words", "Dante Ali|gh|ieri wrote", "B-PER I-PER I-PER I-PER O")
    yield case("an entity at the end", "we saw Ada Love|lace", "O O B-PER I-PER I-PER")
    yield case("side by side", "we gave Ada Bob 's book", "O O B-PER B-PER O O")
    yield case("side by side, longer", "Ada King Bob Cox", "B-PER I-PER B-PER I-PER")
    yield case("another type", "Ada Rome .", "B-PER B-LOC O")
    yield case("I- of another type", "Ada in Rome Italy .", "B-PER O I-PER I-LOC O")
    yield case("I- of another type after B-", "Ada King Rome Italy .", "B-PER I-PER I-LOC I-LOC O")
    yield case("I- after O", "in New York .", "O I-LOC I-LOC O")
    yield case("I- at the beginning", "New York is big", "I-LOC I-LOC O O")
    yield case("O between two parts", "Ada of King .", "B-PER O I-PER O")
    yield case("a type with hyphens", "read Hamlet now", "O B-WORK-OF-ART O")
    art = "B-WORK-OF-ART I-WORK-OF-SCIENCE I-WORK-OF-SCIENCE O"
    yield case("types that begin alike", "Hamlet Opt|icks now", art)
    yield case("tags at special tokens", "Ada went", "B-PER O", special="B-LOC")
    yield case("padding on the right", "Ada King went", "B-PER I-PER O", right=3, special="I-PER")
    yield case("padding on the left", "to Ada King", "O B-PER I-PER", left=3, special="B-PER")


GROUP_ENTITIES = Exercise(
    template=group_entities,
    reference=token_classification.group_tokens,
    steps=GroupEntitiesSteps,
    cases=group_entities_cases,
    title="named entities from tags",
)


@GROUP_ENTITIES.mistake('tag.startswith("B-")', of=GroupEntitiesSteps)
def neighbours_merged(steps: Any) -> None:
    """B- right after an entity of the same type continues that one; B- always begins a new one."""
    steps.always_begins = lambda tag: False


@GROUP_ENTITIES.mistake("self.type_of(tag) == self.type_of(before)", of=GroupEntitiesSteps)
def types_not_compared(steps: Any) -> None:
    """I- continues an entity of another type; compare the types, and begin a new entity."""
    steps.same_type = lambda tag, before: True


@GROUP_ENTITIES.mistake("return tag != OUTSIDE", of=tag_schemes.TagScheme)
def stray_inside_tags_lost(steps: Any) -> None:
    """I- without an entity of its type before it is dropped; models do predict it, and it begins an
    entity.
    """
    steps.may_begin = lambda tag: tag.startswith("B-")


@GROUP_ENTITIES.mistake("zip(tags, begins, strict=True)] + [True]", of=tag_schemes.TagScheme)
def last_entity_lost(steps: Any) -> None:
    """An entity that goes on to the last token is lost, because it is stored only when the next
    token ends it; store it after the loop too.
    """
    steps.at_the_end = lambda groups, is_open: groups[:-1] if is_open else groups


@GROUP_ENTITIES.mistake("stops = [tag == OUTSIDE or begin", of=tag_schemes.TagScheme)
def goes_on_after_O(steps: Any) -> None:
    """I- after O continues the entity before the O; O ends it."""
    steps.stays_open = lambda: True


@GROUP_ENTITIES.mistake('tag.startswith("B-")', of=GroupEntitiesSteps)
def every_token_by_itself(steps: Any) -> None:
    """Every token is an entity of its own; I- continues the one before."""
    steps.always_begins = lambda tag: True


@GROUP_ENTITIES.mistake('tag == "O"', of=GroupEntitiesSteps)
def outside_grouped(steps: Any) -> None:
    """Tokens tagged O are returned as entities of a type O; leave them out."""
    steps.is_outside = lambda tag: False


@GROUP_ENTITIES.mistake("self.type_of(tag)", of=GroupEntitiesSteps.group)
def prefix_kept(steps: Any) -> None:
    """`entity_group` has the prefix of the first tag; return the type alone."""
    steps.group = lambda tag: tag


@GROUP_ENTITIES.mistake('removeprefix("B-")', of=GroupEntitiesSteps)
def split_at_every_hyphen(steps: Any) -> None:
    """A type with hyphens is cut at the first of them, so WORK-OF-ART becomes WORK; cut off the
    prefix only: tag[2:] or tag.split("-", 1).
    """
    steps.type_of = lambda tag: tag.split("-")[1] if "-" in tag else tag


@GROUP_ENTITIES.mistake("np.mean(", of=token_classification._entity)
def score_of_the_first_token(steps: Any) -> None:
    """The score is that of the first token; take the mean of all tokens of the entity."""
    steps.score = lambda scores: scores[0]


@GROUP_ENTITIES.mistake("np.mean(", of=token_classification._entity)
def scores_multiplied(steps: Any) -> None:
    """The scores of the tokens are multiplied, so that long entities have low ones; take their
    mean.
    """
    steps.score = math.prod


@GROUP_ENTITIES.mistake("logits.softmax(dim=-1)", of=token_classification.TokenClassification)
def logits_as_scores(steps: Any) -> None:
    """The scores are logits; take the softmax over the classes first."""
    steps.probabilities = lambda logits: logits


@GROUP_ENTITIES.mistake("if not special:", of=token_classification.TokenClassification)
def special_tokens_tagged(steps: Any) -> None:
    """[CLS], [SEP] and padding take part with their tags, which mean nothing; leave them out."""
    steps.left_out = lambda special: False


@GROUP_ENTITIES.mistake('"end": tokens[-1].end', of=token_classification._entity)
def end_of_the_first_token(steps: Any) -> None:
    """An entity ends with its first token; its end is that of its last token."""
    steps.end = lambda offsets: offsets[0][1]


@GROUP_ENTITIES.mistake("text[offsets[0][0]", of=GroupEntitiesSteps)
def tokens_joined_by_spaces(steps: Any) -> None:
    """The tokens are joined by spaces, also those of one word; take the characters of the text from
    the start of the first to the end of the last.
    """
    steps.word = lambda text, offsets: " ".join(text[start:end] for start, end in offsets)

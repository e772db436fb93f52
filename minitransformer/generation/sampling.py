"""Sampling: which tokens may be drawn, and the draw itself.

R sequences, V vocabulary, C candidate tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from minitransformer.generation_config import GenerationConfig

# How many of the best tokens top-p looks at before it sorts the whole vocabulary.
_PARTIAL_SORT_SIZE = 1024


@dataclass(frozen=True)
class Candidates:
    """The tokens from which one is drawn; excluded ones have the score -inf.

    Of a vocabulary of 50,000 tokens, `top_k` leaves fifty, so that all later steps work on fifty
    numbers for each sequence. Sorting the whole vocabulary would take as long as several layers of
    a small model.
    """

    scores: Tensor  # (R, C)
    ids: Tensor | None  # (R, C), the tokens' ids; None where C is the whole vocabulary in order

    def tokens(self, indices: Tensor) -> Tensor:
        """Token ids of indices into the candidates, both (R, N)."""
        return indices if self.ids is None else self.ids.gather(1, indices)


def candidates(
    scores: Tensor, config: GenerationConfig, *, min_tokens_to_keep: int = 1
) -> Candidates:
    """Apply temperature, top_k, top_p, min_p and typical_p, in this order.

    The resulting probabilities are those of transformers' logits warpers of the same names, with
    one exception: if several tokens tie for the last place of `top_k`, exactly `top_k` tokens
    remain here, whereas transformers keeps all that tie.

    Args:
        scores: (R, V).
        config: sets the five fields.
        min_tokens_to_keep: how many of the best tokens are never excluded.
    """
    if config.temperature != 1:
        scores = scores / config.temperature
    ids = others = None
    if 0 < config.top_k < scores.shape[1]:
        num_kept = min(max(config.top_k, min_tokens_to_keep), scores.shape[1])
        scores, ids = scores.topk(num_kept)  # (R, C) twice, best first
    elif config.top_p < 1:
        scores, ids, others = _sort_for_top_p(scores, config.top_p, min_tokens_to_keep)
    elif min_tokens_to_keep > 1:
        scores, ids = scores.sort(descending=True)
    if config.top_p < 1:
        scores = top_p(scores, config.top_p, min_tokens_to_keep, others)
    if config.min_p is not None:
        scores = min_p(scores, config.min_p, min_tokens_to_keep)
    if config.typical_p < 1:
        scores = typical_p(scores, config.typical_p, min_tokens_to_keep)
    return Candidates(scores, ids)


def top_p(
    scores: Tensor, p: float, min_tokens_to_keep: int = 1, others: Tensor | None = None
) -> Tensor:
    """Nucleus sampling (Holtzman et al. 2020): keep the likeliest tokens that together reach p.

    Args:
        scores: (R, C), best first.
        p: the total probability to reach.
        min_tokens_to_keep: how many of the best tokens are never excluded.
        others: (R, 1), log of the sum of exp(score) over the tokens that are not among the C; None
            if there are none.

    Returns:
        The scores, (R, C), with -inf for the excluded tokens.
    """
    all_scores = scores if others is None else torch.cat([scores, others], dim=1)
    # A token is excluded if it and all less likely ones have at most 1 - p together. As in
    # transformers, they are summed from the least likely on: rounding hides that 0.5 and 0.3 reach
    # 0.8 if the likely ones are summed.
    sums = all_scores.flip(1).softmax(dim=1).cumsum(dim=1)
    excluded = (sums <= 1 - p).flip(1)[:, : scores.shape[1]]
    excluded[:, :min_tokens_to_keep] = False
    return scores.masked_fill(excluded, -torch.inf)


def min_p(scores: Tensor, ratio: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep tokens of at least `ratio` times the highest probability (Nguyen et al. 2024).

    Args:
        scores: (R, C), best first if `min_tokens_to_keep` is above 1.
        ratio: from 0 to 1.
        min_tokens_to_keep: how many of the best tokens are never excluded.

    Returns:
        The scores, (R, C), with -inf for the excluded tokens.
    """
    probabilities = scores.softmax(dim=1)
    excluded = probabilities < ratio * probabilities.amax(dim=1, keepdim=True)
    if min_tokens_to_keep > 1:
        excluded[:, :min_tokens_to_keep] = False
    return scores.masked_fill(excluded, -torch.inf)


def typical_p(scores: Tensor, mass: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Locally typical sampling (Meister et al. 2022).

    Keep the tokens whose surprisal (negative log probability) is closest to the entropy, as many
    as are needed for a total probability of `mass`.

    Args:
        scores: (R, C).
        mass: above 0, below 1.
        min_tokens_to_keep: how many of the closest tokens are never excluded.

    Returns:
        The scores, (R, C), with -inf for the excluded tokens.
    """
    log_probabilities = scores.log_softmax(dim=1)
    probabilities = log_probabilities.exp()
    # An excluded token gives 0 * -inf = NaN, which nansum skips.
    entropy = -(log_probabilities * probabilities).nansum(dim=1, keepdim=True)
    distance, order = (-log_probabilities - entropy).abs().sort(dim=1)
    total = scores.gather(1, order).softmax(dim=1).cumsum(dim=1)
    last = (total < mass).sum(dim=1, keepdim=True).clamp(max=scores.shape[1] - 1)
    excluded = distance > distance.gather(1, last)
    excluded[:, :min_tokens_to_keep] = False
    return scores.masked_fill(excluded.scatter(1, order, excluded), -torch.inf)


def draw(allowed: Candidates, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Draw a token for each sequence, according to its probability.

    Inverse transform sampling: one uniform random number for each sequence, looked up in the
    cumulative probabilities. Their sum is computed in float64: in float32, the last tokens of a
    large vocabulary would be lost to rounding.

    Returns:
        The tokens, (R,), and the highest score, (R,), which is not finite where there was no token
        to draw.
    """
    cumulative = allowed.scores.softmax(dim=1).cumsum(dim=1, dtype=torch.float64)  # (R, C)
    uniform = torch.rand(
        len(cumulative), 1, dtype=torch.float64, device=cumulative.device, generator=generator
    )
    # `right=True` finds the first index above the random number; a token of probability 0 has the
    # same cumulative value as the token before it, so it is never the first.
    indices = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)  # (R, 1)
    indices = indices.clamp(max=cumulative.shape[1] - 1)
    return allowed.tokens(indices).squeeze(1), allowed.scores.amax(dim=1)


def _sort_for_top_p(
    scores: Tensor, p: float, min_tokens_to_keep: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sort the best tokens, at least as many as reach p together.

    A thousand tokens are nearly always enough, and are found in a tenth of the time of a full sort.

    Returns:
        Their scores and ids, (R, C) each, and what :func:`top_p` needs to know of the others.
    """
    size = max(_PARTIAL_SORT_SIZE, min_tokens_to_keep)
    # On a GPU, checking whether they are enough would make the host wait for the device.
    if size < scores.shape[1] and scores.device.type == "cpu":
        best, ids = scores.topk(size)
        others = scores.scatter(1, ids, -torch.inf).logsumexp(dim=1, keepdim=True)  # (R, 1)
        probability = (others - best.logsumexp(dim=1, keepdim=True)).sigmoid()  # of the others
        if bool((probability < 1 - p).all()):
            return best, ids, others
    return *scores.sort(descending=True), None

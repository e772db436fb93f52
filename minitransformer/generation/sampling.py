"""Which tokens may be drawn, and the draw.

R sequences, V vocabulary, C candidates, K kept at least.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from minitransformer.generation_config import GenerationConfig

# Tokens among which a nucleus is looked for before the whole vocabulary is sorted.
_FIRST_LOOK = 1024


@dataclass(frozen=True)
class Candidates:
    """The tokens among which one is drawn, with -inf for those that were excluded.

    Of a vocabulary of 50,000, `top_k` leaves fifty. What comes after it then works on fifty
    numbers a sequence; sorting the whole vocabulary takes as long as some layers of a small model.
    """

    scores: Tensor  # (R, C)
    ids: Tensor | None  # (R, C), which tokens they are; None where C is the vocabulary in its order

    def tokens(self, indices: Tensor) -> Tensor:
        """(R, N), indices among the candidates, to their tokens."""
        return indices if self.ids is None else self.ids.gather(1, indices)


def candidates(scores: Tensor, config: GenerationConfig, *, keep: int = 1) -> Candidates:
    """Apply temperature, top_k, top_p, min_p and typical_p, in this order.

    The probabilities are those of transformers' processors of the same names. Where the score of
    number `top_k` occurs several times, exactly `top_k` tokens are left here, and more there.

    Args:
        scores: (R, V).
        config: the fields.
        keep: tokens that stay in any case, K.
    """
    if config.temperature != 1:
        scores = scores / config.temperature
    ids = total = None
    if 0 < config.top_k < scores.shape[1]:
        most = min(max(config.top_k, keep), scores.shape[1])
        scores, ids = scores.topk(most)  # (R, C), the best first
    elif config.top_p < 1:
        total = scores.logsumexp(dim=1, keepdim=True)  # (R, 1)
        scores, ids = _best(scores, total, config.top_p, keep)
    elif keep > 1:
        scores, ids = scores.sort(descending=True)
    if config.top_p < 1:
        scores = top_p(scores, config.top_p, keep, total)
    if config.min_p is not None:
        scores = min_p(scores, config.min_p, keep)
    if config.typical_p < 1:
        scores = typical_p(scores, config.typical_p, keep)
    return Candidates(scores, ids)


def top_p(scores: Tensor, p: float, keep: int = 1, total: Tensor | None = None) -> Tensor:
    """Nucleus sampling (Holtzman et al. 2020): the likeliest tokens that have p together.

    Args:
        scores: (R, C), the best first.
        p: the probability that they reach.
        keep: tokens that stay in any case.
        total: (R, 1), the logarithm of the sum of exp(score) over the vocabulary, where C is only
            a part of it.
    """
    if total is None:
        total = scores.logsumexp(dim=1, keepdim=True)
    probabilities = (scores - total).exp()
    before = probabilities.cumsum(dim=1) - probabilities  # what the better ones have together
    excluded = before >= p
    excluded[:, :keep] = False
    return scores.masked_fill(excluded, -torch.inf)


def min_p(scores: Tensor, share: float, keep: int = 1) -> Tensor:
    """Only tokens that have `share` of the likeliest one's probability (Nguyen et al. 2024).

    Args:
        scores: (R, C), the best first where `keep` is above 1.
        share: from 0 to 1.
        keep: tokens that stay in any case.
    """
    probabilities = scores.softmax(dim=1)
    excluded = probabilities < share * probabilities.amax(dim=1, keepdim=True)
    if keep > 1:
        excluded[:, :keep] = False
    return scores.masked_fill(excluded, -torch.inf)


def typical_p(scores: Tensor, mass: float, keep: int = 1) -> Tensor:
    """Locally typical sampling (Meister et al. 2022).

    The tokens whose surprise is nearest to the expected one, until they have `mass` together.

    Args:
        scores: (R, C).
        mass: above 0, below 1.
        keep: tokens that stay in any case.
    """
    log_probabilities = scores.log_softmax(dim=1)
    probabilities = log_probabilities.exp()
    # 0 * -inf is NaN, which nansum passes over: what is excluded adds nothing.
    entropy = -(log_probabilities * probabilities).nansum(dim=1, keepdim=True)
    distance, order = (-log_probabilities - entropy).abs().sort(dim=1)
    total = probabilities.gather(1, order).cumsum(dim=1)
    last = (total < mass).sum(dim=1, keepdim=True).clamp(max=scores.shape[1] - 1)
    excluded = distance > distance.gather(1, last)
    excluded[:, :keep] = False
    return scores.masked_fill(excluded.scatter(1, order, excluded), -torch.inf)


def draw(chosen: Candidates, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Draw a token for each sequence, by its probability.

    One random number a sequence, looked up in the running total of the probabilities. Double
    precision keeps the last tokens of a large vocabulary from drowning in the total.

    Returns:
        The tokens, (R,), and whether there was one to draw, (R,) bool.
    """
    total = chosen.scores.softmax(dim=1).cumsum(dim=1, dtype=torch.float64)  # (R, C)
    height = torch.rand(
        len(total), 1, dtype=torch.float64, device=total.device, generator=generator
    )
    # The first index whose total is above the height, which a token without probability never is.
    indices = torch.searchsorted(total, height * total[:, -1:], right=True)
    indices = indices.clamp(max=total.shape[1] - 1)
    return chosen.tokens(indices).squeeze(1), total[:, -1] > 0


def _best(scores: Tensor, total: Tensor, p: float, keep: int) -> tuple[Tensor, Tensor]:
    """The best of each sequence, sorted, at least so many that they have p together: (R, C) twice.

    A thousand are nearly always enough, and are found in a tenth of the time of a sort.
    """
    number = max(_FIRST_LOOK, keep)
    # A GPU would have to be waited for, to know whether they are enough.
    if number < scores.shape[1] and scores.device.type == "cpu":
        best, ids = scores.topk(number)
        if bool(((best - total).exp().sum(dim=1) > p).all()):
            return best, ids
    return scores.sort(descending=True)

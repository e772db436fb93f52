"""Losses, each as a sum and the number of labels; their quotient is a model's `loss`.

Training over several micro-batches divides by the number of labels in all of them: means of unequal
micro-batches do not add up to the mean of the whole, sums do.

B batch, T tokens, V vocabulary or classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED_LABEL = -100  # a label that is no label: PyTorch's and Hugging Face's value


def mean_loss(total: Tensor, count: Tensor) -> Tensor:
    """The mean of `count` losses that sum to `total`; zero where there are none."""
    return total / count.clamp(min=1)


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[label], summed over everything labelled, and how many labels there are.

    No label at all gives a sum of 0 with a gradient of zeros.

    Args:
        logits: (..., V).
        labels: (...) int64, -100 where there is no label.
    """
    total = F.cross_entropy(
        at_least_float32(logits).flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="sum",
    )
    return total, (labels != IGNORED_LABEL).sum()


def answer_loss_sum(
    start_logits: Tensor,
    end_logits: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    attention_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Half the sum of the cross-entropies of an answer's start and end, and B.

    Each is one choice among the real tokens of a sequence; padding is no choice.

    Args:
        start_logits, end_logits: (B, T).
        start_positions, end_positions: (B,) int64.
        attention_mask: (B, T), 0 or False at padding; None where nothing is padded.
    """
    if attention_mask is not None:
        padding = attention_mask == 0
        start_logits = start_logits.masked_fill(padding, -math.inf)
        end_logits = end_logits.masked_fill(padding, -math.inf)
    start_total, count = cross_entropy_sum(start_logits, start_positions)
    end_total, _ = cross_entropy_sum(end_logits, end_positions)
    return (start_total + end_total) / 2, count


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits, in float32 at least: a sum of thousands of losses does not fit half precision."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits

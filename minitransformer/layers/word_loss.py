"""The loss of guessed words in half formats, a thousand words of the vocabulary at a time.

By the formula, the scores of all words are written to memory, again in float32, again as logarithms
of the softmax, and as often for the gradients; autocast also copies the head's matrix, and its
gradient. Here the scores are written once. What leads to them and what follows is computed while
it is in the cache.

N rows, E hidden size, V vocabulary, W words of a piece.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.layers.linear import shapes_fit
from minitransformer.layers.shortcuts import is_batched, only_autograd_follows

HALF_FORMATS = (torch.bfloat16, torch.float16)
_WORDS = 1024  # of a piece: products of fewer are slower, what follows from more leaves the cache


class WordScores(NamedTuple):
    """What the last map of a model that guesses words is made of: its scores are x W^T + b."""

    hidden: Tensor  # (..., E)
    weight: Tensor  # (V, E)
    bias: Tensor | None = None  # (V,)


def pieces_pay(scores: WordScores) -> bool:
    """Whether :func:`word_loss` serves: half formats, on a CPU, and only autograd follows."""
    return (
        only_autograd_follows(*scores, under_autocast=True)
        and _dtype(scores.hidden) in HALF_FORMATS
        and shapes_fit(*scores, under_autocast=torch.is_autocast_enabled("cpu"))
    )


def word_loss(scores: WordScores, labels: Tensor) -> Tensor:
    """-log softmax(x W^T + b)[label], summed over the rows.

    The products are of the dtype of `hidden`, or of autocast's where that is on; the rest is of
    float32. Scores are rounded to that dtype, as by the formula.

    Args:
        scores: of N rows; on a CPU.
        labels: (N,) int64, 0 to V - 1.

    Returns:
        A number of float32.
    """
    return _WordLoss.apply(*scores, labels, _dtype(scores.hidden))


class _WordLoss(torch.autograd.Function):
    """Forward keeps the scores; `backward` goes through the same pieces."""

    @staticmethod
    def forward(
        context: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        x = hidden.to(dtype)
        scores = x.new_empty(len(x), len(weight))  # (N, V)
        parts = []  # of the denominators, as logarithms, (N,) each
        for words in _pieces(scores):
            part = _linear(x, weight[words], None if bias is None else bias[words])  # (N, W)
            scores[:, words] = part
            parts.append(part.float().logsumexp(dim=1))
        denominator = torch.stack(parts).logsumexp(dim=0)  # (N,)
        context.save_for_backward(hidden, weight, bias, labels, scores, denominator)
        right = scores.gather(1, labels[:, None]).squeeze(1)  # (N,)
        return (denominator - right).sum()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, scores, denominator = context.saved_tensors
        by_hidden, by_weight, by_bias, *_ = context.needs_input_grad
        # A gradient that may have a gradient of its own, and many at a time, by the formula.
        if torch.is_grad_enabled() or is_batched(gradient):
            return *_derivable_gradients(context, gradient), None, None
        x = hidden.to(scores.dtype)
        for_hidden = torch.zeros_like(hidden, dtype=torch.float32) if by_hidden else None
        for_weight = torch.empty_like(weight) if by_weight else None  # (V, E)
        for_bias = torch.empty_like(bias) if by_bias else None  # (V,)
        for words in _pieces(scores):
            # The derivative by a score: its softmax, less 1 where the word is the right one.
            part = (scores[:, words] - denominator[:, None]).exp_()  # (N, W), of float32
            here = (labels >= words.start) & (labels < words.stop)
            part[here, labels[here] - words.start] -= 1
            part *= gradient
            if for_bias is not None:
                for_bias[words] = part.sum(dim=0)
            part = part.to(x.dtype)
            if for_hidden is not None:
                for_hidden += part @ weight[words].to(x.dtype)  # (N, E)
            if for_weight is not None:
                for_weight[words] = part.t() @ x  # (W, E)
        return for_hidden, for_weight, for_bias, None, None


def _derivable_gradients(context: Any, gradient: Tensor) -> Iterator[Tensor | None]:
    """Those by hidden states, weight and bias; None of what needs none."""
    *inputs, labels, scores, _ = context.saved_tensors
    by = context.needs_input_grad[:3]
    derivable = torch.is_grad_enabled()
    with torch.enable_grad():
        # By aliases: the hidden states may come from the weight, and that way is not ours.
        factors: list[Any] = [None if t is None else t.view_as(t) for t in inputs]
        hidden, weight, bias = factors
        logits = _linear(hidden.to(scores.dtype), weight, bias).float()  # (N, V)
        loss = F.cross_entropy(logits, labels, reduction="sum")
    needed = [factor for factor, needs in zip(factors, by, strict=True) if needs]
    found = iter(torch.autograd.grad(loss, needed, create_graph=derivable))
    return (
        (next(found) * gradient).to(t.dtype) if needs else None
        for t, needs in zip(inputs, by, strict=True)
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b in the dtype of x."""
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _pieces(scores: Tensor) -> list[slice]:
    """Cut the words of (N, V) scores; the last piece may be smaller."""
    return [slice(start, start + _WORDS) for start in range(0, scores.shape[1], _WORDS)]


def _dtype(hidden: Tensor) -> torch.dtype:
    """What products of the hidden states are computed in; autocast leaves float64 alone."""
    if torch.is_autocast_enabled("cpu") and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype("cpu")
    return hidden.dtype

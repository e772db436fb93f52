"""Scaled dot-product attention ("Attention Is All You Need", section 3.2.1), masked or not (3.2.3).

B batch, T query tokens, S key tokens, H heads, D head size.
"""

import math

import torch
from torch import Tensor, nn

from minitransformer.layers.dropout import dropout
from minitransformer.layers.masks import causal_mask


def attention_weights(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(Q K^T / sqrt(D)): how much each query token takes from each key token.

    A row whose keys are all masked is a row of zeros: it takes from nobody.

    Args:
        query: (B, H, T, D).
        key: (B, H, S, D).
        mask: bool, broadcastable to (B, H, T, S), True = attend.
        bias: added to the scores, broadcastable to (B, H, T, S): T5's relative positions.
        scale: what the products are multiplied by; None stands for 1 / sqrt(D).

    Returns:
        (B, H, T, S), each row a distribution over the keys that it may attend to.
    """
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)  # (B, H, T, S)
    if bias is not None:
        scores = scores + bias
    if mask is None:
        return scores.softmax(dim=-1)
    # -inf suits every dtype, and its weight is exactly zero. The softmax of a row of nothing but
    # -inf is NaN, which the second fill turns into zeros, in the gradient as well.
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1).masked_fill(~mask, 0.0)


class Kernel(nn.Module):
    """Base of the kernels: softmax(Q K^T * scale + bias) V.

    Args:
        dropout: probability of dropping a weight while training.
        scale: of the products; None stands for 1 / sqrt(D).
        causal: a query, which is one of the last T of the S tokens, sees none that come after it.
    """

    def __init__(
        self, dropout: float = 0.0, scale: float | None = None, causal: bool = False
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.scale = scale
        self.causal = causal

    def whole_mask(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor | None:
        """The mask of padding and, where the kernel is causal, of what comes later."""
        triangle = self.triangle(query.shape[-2], key.shape[-2], query.device)
        if triangle is None:
            return mask
        return triangle if mask is None else mask & triangle

    def triangle(self, num_queries: int, num_keys: int, device: torch.device) -> Tensor | None:
        """What hides what comes later, (1, 1, T, S) bool; None where nothing does."""
        if not self.causal or num_queries == 1 or not num_keys:  # the last token sees all
            return None
        return causal_mask(num_queries, num_keys, device)

    def weights(
        self, query: Tensor, key: Tensor, mask: Tensor | None, bias: Tensor | None = None
    ) -> Tensor:
        """The attention map, (B, H, T, S), of the arguments of `forward`, before dropout."""
        return attention_weights(query, key, self.whole_mask(query, key, mask), bias, self.scale)


class EagerAttention(Kernel):
    """The formula as the paper writes it: to be read, and the parity reference.

    Dropout falls on the weights, as in the original code and in Hugging Face's
    `eager_attention_forward`.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Queries (B, H, T, D) over keys and values (B, H, S, D) give (B, H, T, D)."""
        weights = self.weights(query, key, mask, bias)  # (B, H, T, S)
        return dropout(weights, self.dropout, self.training) @ value

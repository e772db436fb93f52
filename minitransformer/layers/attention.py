"""Scaled dot-product and multi-head attention ("Attention Is All You Need", sections 3.2.1, 3.2.2).

B batch, T query tokens, S key tokens, H heads, D head size, E = H * D hidden size.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(D)): how much each query token takes from each key token.

    A row whose keys are all masked is a row of zeros: it takes from nobody.

    Args:
        query: (B, H, T, D).
        key: (B, H, S, D).
        mask: bool, broadcastable to (B, H, T, S), True = attend.

    Returns:
        (B, H, T, S), each row a distribution over the keys that it may attend to.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, T, S)
    if mask is None:
        return scores.softmax(dim=-1)
    # -inf suits every dtype, and its weight is exactly zero. The softmax of a row of nothing but
    # -inf is NaN, which the second fill turns into zeros, in the gradient as well.
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1).masked_fill(~mask, 0.0)


class EagerAttention(nn.Module):
    """softmax(Q K^T / sqrt(D)) V as the paper writes it: to be read, and the parity reference.

    Dropout falls on the weights, as in the original code and in Hugging Face's
    `eager_attention_forward`.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Queries (B, H, T, D) over keys and values (B, H, S, D) give (B, H, T, D)."""
        return self.dropout(attention_weights(query, key, mask)) @ value


class SdpaAttention(nn.Module):
    """The same numbers from PyTorch's kernel, which need not keep the (T, S) weights in memory."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Queries (B, H, T, D) over keys and values (B, H, S, D) give (B, H, T, D)."""
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )


KERNELS: dict[str, type[EagerAttention] | type[SdpaAttention]] = {
    "eager": EagerAttention,
    "sdpa": SdpaAttention,
}


class MultiHeadAttention(nn.Module):
    """H attentions of size D side by side, each over its own projection of the tokens.

    Self-attention where queries and keys are the same tokens, cross-attention where `context`
    brings others.

    Args:
        hidden_size: E.
        num_heads: H; divides E.
        dropout: probability of dropping a weight while training.
        attention: the kernel, "eager" or "sdpa".

    Raises:
        ValueError: H does not divide E, or the kernel is unknown.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, dropout: float = 0.0, attention: str = "sdpa"
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(
                f"hidden_size={hidden_size} is not a multiple of num_attention_heads={num_heads}"
            )
        if attention not in KERNELS:
            raise ValueError(f"attention={attention!r} is unknown; choose one of {sorted(KERNELS)}")
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.kernel = KERNELS[attention](dropout)

    def forward(
        self, hidden: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Let each token of `hidden` gather what it needs from `context`.

        Args:
            hidden: (B, T, E), the tokens that ask.
            context: (B, S, E), the tokens that are asked; `hidden` itself by default.
            mask: bool, broadcastable to (B, H, T, S), True = attend.

        Returns:
            (B, T, E).
        """
        context = hidden if context is None else context
        query = self._split_heads(self.query(hidden))  # (B, H, T, D)
        key = self._split_heads(self.key(context))  # (B, H, S, D)
        value = self._split_heads(self.value(context))  # (B, H, S, D)
        gathered = self.kernel(query, key, value, mask)  # (B, H, T, D)
        return self.output(gathered.transpose(1, 2).flatten(2))  # (B, T, E)

    def _split_heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, T, D)

"""Position-wise feed-forward networks ("Attention Is All You Need", section 3.3).

B batch, T tokens, E hidden size, I intermediate size.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from minitransformer.layers.activations import activation_named
from minitransformer.layers.dropout import Dropout
from minitransformer.layers.fused_linear import fused_linear
from minitransformer.layers.linear import Linear, nobody_sees

# What the middle holds in one piece. The C library gives one of 32 MB or more back as soon as it is
# free, and asking for it anew takes a tenth of the time of a product.
_MOST_BYTES = 30 * 2**20


class FeedForward(nn.Module):
    """Linear, activation, linear: each token by itself, through a wider middle.

    Args:
        hidden_size: E.
        intermediate_size: I, usually 4 E.
        activation: a name of :data:`minitransformer.layers.activations.ACTIVATIONS`.
        dropout: probability, of what the activation gives; 0 in BERT.
        bias: whether the two linear maps have one; T5's have none.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: str,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.expand = Linear(hidden_size, intermediate_size, bias)
        self.activation = activation_named(activation)
        self.dropout = Dropout(dropout)
        self.contract = Linear(intermediate_size, hidden_size, bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        if nobody_sees(hidden, self.expand, self.contract, self.dropout):
            return _in_pieces(self._transformed, hidden, self.expand.out_features)
        return self._transformed(hidden)

    def _transformed(self, hidden: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        expanded = fused_linear(hidden, self.expand, self.activation)  # (..., I)
        return fused_linear(self.dropout(expanded), self.contract)  # (..., E)


class GatedFeedForward(nn.Module):
    """The activation of one linear map times another (Shazeer 2020, "GLU Variants"): T5 1.1's.

    Args:
        hidden_size, intermediate_size, activation, dropout, bias: as in :class:`FeedForward`.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: str,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.gate = Linear(hidden_size, intermediate_size, bias)
        self.activation = activation_named(activation)
        self.gated = Linear(hidden_size, intermediate_size, bias)
        self.dropout = Dropout(dropout)
        self.contract = Linear(intermediate_size, hidden_size, bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        if nobody_sees(hidden, self.gate, self.gated, self.contract, self.dropout):
            return _in_pieces(self._transformed, hidden, self.gate.out_features)
        return self._transformed(hidden)

    def _transformed(self, hidden: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        gate = fused_linear(hidden, self.gate, self.activation)  # (..., I)
        expanded = gate * fused_linear(hidden, self.gated)
        return fused_linear(self.dropout(expanded), self.contract)  # (..., E)


def _in_pieces(network: Callable[[Tensor], Tensor], hidden: Tensor, width: int) -> Tensor:
    """network(hidden), for so many tokens at a time that its middle is not too large.

    Args:
        network: (..., E) to (..., E), each token by itself.
        hidden: (..., E).
        width: I, numbers of the middle for each token.
    """
    numbers = hidden.numel() // hidden.shape[-1] * width
    pieces = math.ceil(numbers * hidden.element_size() / _MOST_BYTES)
    if pieces <= 1:
        return network(hidden)
    tokens = hidden.flatten(0, -2).chunk(pieces)  # (B * T / pieces, E) each
    return torch.cat([network(piece) for piece in tokens]).view_as(hidden)

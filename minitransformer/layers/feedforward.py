"""Position-wise feed-forward networks ("Attention Is All You Need", section 3.3).

B batch, T tokens, E hidden size, I intermediate size.
"""

from torch import Tensor, nn

from minitransformer.layers.activated_linear import activated_linear
from minitransformer.layers.activations import activation_named
from minitransformer.layers.dropout import Dropout


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
        self.expand = nn.Linear(hidden_size, intermediate_size, bias)
        self.activation = activation_named(activation)
        self.dropout = Dropout(dropout)
        self.contract = nn.Linear(intermediate_size, hidden_size, bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        expanded = activated_linear(hidden, self.expand, self.activation)  # (B, T, I)
        return self.contract(self.dropout(expanded))  # (B, T, E)


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
        self.gate = nn.Linear(hidden_size, intermediate_size, bias)
        self.activation = activation_named(activation)
        self.gated = nn.Linear(hidden_size, intermediate_size, bias)
        self.dropout = Dropout(dropout)
        self.contract = nn.Linear(intermediate_size, hidden_size, bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        gate = activated_linear(hidden, self.gate, self.activation)  # (B, T, I)
        expanded = gate * self.gated(hidden)
        return self.contract(self.dropout(expanded))  # (B, T, E)

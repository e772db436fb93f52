"""Position-wise feed-forward network ("Attention Is All You Need", section 3.3).

B batch, T tokens, E hidden size, I intermediate size.
"""

from torch import Tensor, nn

from minitransformer.layers.activations import activation_named


class FeedForward(nn.Module):
    """Linear, activation, linear: each token by itself, through a wider middle.

    Args:
        hidden_size: E.
        intermediate_size: I, usually 4 E.
        activation: a name of :data:`minitransformer.layers.activations.ACTIVATIONS`.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str) -> None:
        super().__init__()
        self.expand = nn.Linear(hidden_size, intermediate_size)
        self.activation = activation_named(activation)
        self.contract = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        expanded = self.activation(self.expand(hidden))  # (B, T, I)
        return self.contract(expanded)  # (B, T, E)

"""Position-wise feed-forward networks ("Attention Is All You Need", 3.3), and their activations.

B batch, T tokens, E hidden size, I intermediate size.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


def gelu(x: Tensor) -> Tensor:
    """x * P(N(0, 1) <= x): the exact GELU (Hendrycks and Gimpel 2016), BERT's and RoBERTa's.

    The formula. The models call PyTorch's `F.gelu`, which is the same in one pass over memory; the
    tests check that they agree.
    """
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU, from the same paper; GPT-2's "gelu_new".

    It differs from the exact one by up to 5e-4: enough to fail parity, too little to be noticed.
    """
    return x * 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def pytorch_gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU, by PyTorch; :func:`gelu_tanh` is its formula."""
    return F.gelu(x, approximate="tanh")


# By Hugging Face's names in config.json ("hidden_act").
ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_new": pytorch_gelu_tanh,
    "gelu_pytorch_tanh": pytorch_gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,  # the name it had before, as in Marian's checkpoints
}


def get_activation(name: str) -> Activation:
    """The activation of that name.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(
            f"hidden_act={name!r:.200} is unknown; choose one of {sorted(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


class FeedForward(nn.Module):
    """Linear, activation, linear, applied to each token separately.

    Args:
        hidden_size: E.
        intermediate_size: I, usually 4 E.
        activation: a name of :data:`ACTIVATIONS`.
        dropout: probability, after the activation; 0 in BERT.
        bias: whether the two linear layers have one; T5's have none.
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
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.activation = get_activation(activation)
        self.dropout = nn.Dropout(dropout)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        middle = self.activation(self.up_proj(hidden))  # (B, T, I)
        return self.down_proj(self.dropout(middle))  # (B, T, E)


class GatedFeedForward(nn.Module):
    """The activation of one linear layer times another (Shazeer 2020, "GLU Variants"): T5 1.1's.

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
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.activation = get_activation(activation)
        self.dropout = nn.Dropout(dropout)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        middle = self.activation(self.gate_proj(hidden)) * self.up_proj(hidden)  # (B, T, I)
        return self.down_proj(self.dropout(middle))  # (B, T, E)

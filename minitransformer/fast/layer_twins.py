"""The twins of layers: subclasses without new parameters that compute the same numbers faster.

Each combines the techniques that apply to it, and runs the plain forward where a dispatch guard
finds that something else could observe the difference. Submodules are called, so that hooks on them
keep working. The file of each technique names the rows of the speed tables and the measurements.

B batch, T tokens, S key tokens, N tokens of an unpadded batch, H heads, D head size, E hidden size,
I intermediate size or inputs, O outputs.
"""

import torch
from torch import Tensor, nn

from minitransformer.fast.dispatch import has_no_hooks, is_plain_eager, is_plain_eager_cpu
from minitransformer.fast.dropout import dropout
from minitransformer.fast.feed_forward import in_blocks
from minitransformer.fast.linear import linear_with_activation
from minitransformer.fast.prepacked_linear import prepacked_copy, prepacked_linear
from minitransformer.fast.unpadding import UnpaddedMask
from minitransformer.fast.varlen_attention import (
    padded_attention,
    simplified_mask,
    varlen_attention,
)
from minitransformer.layers.attention import (
    ATTENTION_IMPLEMENTATIONS,
    CrossAttention,
    FusedSelfAttention,
    MultiHeadAttention,
)
from minitransformer.layers.feed_forward import FeedForward, GatedFeedForward


class FastLinear(nn.Linear):
    """A linear layer by whichever product is faster on this processor."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return prepacked_linear(x, self, self.bias)


class FastDropout(nn.Dropout):
    """Dropout with 16 random bits per number."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        if self.inplace:
            return super().forward(x)
        return dropout(x, self.p, self.training)


class FastFeedForward(FeedForward):
    """In blocks; without gradients, the activation is fused with the product or in place."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        if not _can_be_fused(hidden, self.dropout, self.up_proj, self.down_proj):
            return super().forward(hidden)
        return in_blocks(self._block, hidden, self.up_proj.out_features)

    def _block(self, hidden: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        hidden = linear_with_activation(hidden, self.up_proj, self.activation)  # (..., I)
        return linear_with_activation(self.dropout(hidden), self.down_proj)


class FastGatedFeedForward(GatedFeedForward):
    """The same for a gated network."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        if not _can_be_fused(hidden, self.dropout, self.gate_proj, self.up_proj, self.down_proj):
            return super().forward(hidden)
        return in_blocks(self._block, hidden, self.up_proj.out_features)

    def _block(self, hidden: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        gate = linear_with_activation(hidden, self.gate_proj, self.activation)  # (..., I)
        hidden = gate * linear_with_activation(hidden, self.up_proj)  # (..., I)
        return linear_with_activation(self.dropout(hidden), self.down_proj)


class FastMultiHeadAttention(MultiHeadAttention):
    """Attention by the fastest kernel for a batch, which may be unpadded.

    With an :class:`UnpaddedMask` as `mask`, `hidden` and `context` are (1, N, E).
    """

    def attend_and_merge(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | UnpaddedMask | None,
        bias: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention of all heads, merged by the output projection: (B, T, E), and the weights."""
        probability = self.dropout if self.training else 0.0
        if isinstance(mask, UnpaddedMask):
            assert not output_attentions, "attention weights are collected from padded batches"
            attended = varlen_attention(
                query, key, value, mask, bias, scale=self.scale, dropout=probability
            )  # (1, H, N, D)
        elif not output_attentions and self._can_choose_kernel(query, key, value, mask, bias):
            simple, is_causal = simplified_mask(mask, query.shape[2])
            attended = padded_attention(
                query,
                key,
                value,
                simple,
                bias,
                scale=self.scale,
                dropout=probability,
                causal=is_causal,
            )  # (B, H, T, D)
        else:
            return super().attend_and_merge(query, key, value, mask, bias, output_attentions)
        return self.output(attended.transpose(1, 2).flatten(2)), None

    def _can_choose_kernel(self, *tensors: Tensor | None) -> bool:
        """Whether the values may be read, on a CPU, and the attention is a built-in one."""
        return (
            is_plain_eager(*tensors, under_autocast=True)
            and has_usual_attention(self)
            and all(tensor is None or tensor.device.type == "cpu" for tensor in tensors)
        )


class FastFusedSelfAttention(FastMultiHeadAttention, FusedSelfAttention):
    """The same, with queries, keys and values from one matrix."""


class FastCrossAttention(FastMultiHeadAttention, CrossAttention):
    """The same, over an encoder's tokens."""


def has_usual_attention(module: MultiHeadAttention) -> bool:
    """Whether it uses a built-in attention implementation, which a faster kernel may replace."""
    return module.attend in ATTENTION_IMPLEMENTATIONS.values()


def _can_be_fused(x: Tensor, dropout: nn.Module, *linears: nn.Linear) -> bool:
    """Whether nothing but autograd observes what these modules compute from x, on a CPU.

    False if the first linear layer has a prepacked weight for x, which is even faster.
    """
    return (
        not torch.compiler.is_compiling()  # first: the compiler cannot trace the rest
        and type(dropout) in (nn.Dropout, FastDropout)
        and all(type(module) in (nn.Linear, FastLinear) for module in linears)
        and has_no_hooks(dropout, *linears)
        and is_plain_eager_cpu(x, *(t for module in linears for t in (module.weight, module.bias)))
        and prepacked_copy(linears[0], x) is None
    )

"""PyTorch's function for all heads at once, which takes tokens first and an inverted mask."""

import torch
import torch.nn.functional as F
from torch import nn


class MultiHeadAttention(nn.Module):
    def __init__(self, embed_dim, heads):
        super().__init__()
        self.heads = heads
        for name in ("output", "value", "key", "query"):  # in another order
            setattr(self, name, nn.Linear(embed_dim, embed_dim))

    def forward(self, hidden, context, mask):
        batch, queries, width = hidden.shape
        keys = context.shape[1]
        hide = torch.zeros(batch * self.heads, queries, keys, dtype=hidden.dtype)
        if mask is not None:
            seen = mask.expand(batch, self.heads, queries, keys)
            hide.masked_fill_(~seen.reshape(hide.shape), float("-inf"))
        mixed, _ = F.multi_head_attention_forward(
            hidden.transpose(0, 1),
            context.transpose(0, 1),
            context.transpose(0, 1),
            width,
            self.heads,
            None,
            torch.cat([self.query.bias, self.key.bias, self.value.bias]),
            None,
            None,
            False,
            0.0,
            self.output.weight,
            self.output.bias,
            training=False,
            need_weights=False,
            attn_mask=hide,
            use_separate_proj_weight=True,
            q_proj_weight=self.query.weight,
            k_proj_weight=self.key.weight,
            v_proj_weight=self.value.weight,
        )
        return mixed.transpose(0, 1)

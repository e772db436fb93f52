"""PyTorch's function; keys and values from one product with both matrices stacked."""

import torch
import torch.nn.functional as F
from torch import nn


class CrossAttention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.key = nn.Linear(d_model, d_model)
        self.query = nn.Linear(d_model, d_model)
        self.output = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)

    def forward(self, decoder, encoder, mask):
        b, t, e = decoder.shape
        both = torch.cat([self.key.weight, self.value.weight])
        biases = torch.cat([self.key.bias, self.value.bias])
        k, v = (
            F.linear(encoder, both, biases)
            .view(b, -1, 2, self.n_heads, e // self.n_heads)
            .unbind(2)
        )
        q = self.query(decoder).view(b, t, self.n_heads, -1)
        out = F.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask
        )
        return self.output(out.transpose(1, 2).reshape(b, t, e))

"""PyTorch's attention and GELU; the sums are written into what the branches gave."""

import torch.nn.functional as F
from torch import nn


class DecoderLayer(nn.Module):
    def __init__(self, dim, n_head, dim_ff, layer_norm_eps):
        super().__init__()
        self.attention = nn.Module()
        self.attention.query_key_value = nn.Linear(dim, 3 * dim)
        self.attention.output = nn.Linear(dim, dim)
        self.feed_forward = nn.Module()
        self.feed_forward.up_proj = nn.Linear(dim, dim_ff)
        self.feed_forward.down_proj = nn.Linear(dim_ff, dim)
        self.attention_norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.feed_forward_norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.n_head = n_head

    def forward(self, x, attn_mask):
        B, T, C = x.size()
        qkv = self.attention.query_key_value(self.attention_norm(x))
        q, k, v = (
            part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
            for part in qkv.split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        x = self.attention.output(y.transpose(1, 2).contiguous().view(B, T, C)).add_(x)
        inner = F.gelu(self.feed_forward.up_proj(self.feed_forward_norm(x)), approximate="tanh")
        return self.feed_forward.down_proj(inner).add_(x)

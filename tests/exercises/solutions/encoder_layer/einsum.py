"""Everything by einsum and hand-written formulas; the linear layers only hold the weights."""

import math

import torch
from torch import nn


class SelfAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nn.Linear(dim, dim))

    def forward(self, x, mask):
        e = x.shape[-1]
        d = e // self.heads

        def heads(linear):
            w = linear.weight.view(self.heads, d, e)
            return torch.einsum("bte,hde->bhtd", x, w) + linear.bias.view(1, self.heads, 1, d)

        scores = torch.einsum("bhqd,bhkd->bhqk", heads(self.query), heads(self.key)) * d**-0.5
        if mask is not None:
            scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
        probs = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
        mixed = torch.einsum("bhqk,bhkd->bhqd", probs, heads(self.value))
        # The output projection head by head, the heads summed.
        w = self.output.weight.view(e, self.heads, d)
        return torch.einsum("bhqd,ehd->bqe", mixed, w) + self.output.bias


class MLP(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.up_proj = nn.Linear(dim, inner)
        self.down_proj = nn.Linear(inner, dim)

    def forward(self, x):
        y = self.up_proj(x)
        return self.down_proj(y * 0.5 * torch.erfc(-y / math.sqrt(2)))


class EncoderLayer(nn.Module):
    def __init__(self, dim, heads, inner, eps):
        super().__init__()
        self.attention = SelfAttention(dim, heads)
        self.feed_forward = MLP(dim, inner)
        self.attention_norm = nn.LayerNorm(dim, eps)
        self.feed_forward_norm = nn.LayerNorm(dim, eps)

    def forward(self, x, mask):
        for part, norm in (
            (lambda h: self.attention(h, mask), self.attention_norm),
            (self.feed_forward, self.feed_forward_norm),
        ):
            x = norm(part(x) + x)
        return x

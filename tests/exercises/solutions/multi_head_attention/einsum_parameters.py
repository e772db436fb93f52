"""Parameters in bare containers, weights reshaped to (H, D, E), everything by einsum."""

import torch
from torch import nn


class Projection(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, size))
        self.bias = nn.Parameter(torch.empty(size))


class MultiHeadAttention(nn.Module):
    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.h = num_heads
        self.query = Projection(hidden_size)
        self.key = Projection(hidden_size)
        self.value = Projection(hidden_size)
        self.output = Projection(hidden_size)

    def heads(self, layer, tokens):
        weight = layer.weight.view(self.h, -1, tokens.shape[-1])
        bias = layer.bias.view(self.h, 1, -1)
        return torch.einsum("hde,bne->bhnd", weight, tokens) + bias

    def forward(self, x, memory, mask):
        q, k, v = self.heads(self.query, x), self.heads(self.key, memory), None
        v = self.heads(self.value, memory)
        logits = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
        logits = logits - logits.detach().amax(-1, keepdim=True)
        powers = logits.exp()
        if mask is not None:
            powers = powers * mask  # zeros before the division need no -inf
        total = powers.sum(-1, keepdim=True)
        p = powers / total.masked_fill(total == 0, 1)
        mixed = torch.einsum("bhij,bhjd->bihd", p, v)
        weight = self.output.weight.view(-1, self.h, q.shape[-1])
        return torch.einsum("bihd,ohd->bio", mixed, weight) + self.output.bias

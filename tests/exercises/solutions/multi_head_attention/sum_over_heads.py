"""A loop over heads; each adds its part through its own columns of the output projection."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class MultiHeadAttention(nn.Module):
    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.size = hidden_size // num_heads
        self.num_heads = num_heads
        self.query, self.key, self.value, self.output = (
            nn.Linear(hidden_size, hidden_size) for _ in range(4)
        )

    def forward(self, hidden, context, mask=None):
        result = self.output.bias
        for head in reversed(range(self.num_heads)):
            own = slice(head * self.size, (head + 1) * self.size)
            q, k, v = (
                F.linear(tokens, layer.weight[own], layer.bias[own])
                for tokens, layer in (
                    (hidden, self.query),
                    (context, self.key),
                    (context, self.value),
                )
            )
            scores = torch.bmm(q, k.mT) / math.sqrt(self.size)
            if mask is not None:
                seen = mask.expand(len(q), self.num_heads, *scores.shape[1:])[:, head]
                scores = scores.masked_fill(seen.logical_not(), -math.inf)
            weights = F.softmax(scores, dim=2)
            if mask is not None:
                weights = torch.where(seen, weights, torch.zeros_like(weights))
            result = result + F.linear(weights @ v, self.output.weight[:, own])
        return result

"""One word of the vocabulary after the other, and a norm whose parameters are used by hand."""

import torch
import torch.nn.functional as F
from torch import nn


class TiedLMHead(nn.Module):
    def __init__(self, hidden_size, vocab_size, eps):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.register_parameter("bias", nn.Parameter(torch.empty(vocab_size)))
        self.eps = eps

    def forward(self, hidden, token_embedding):
        h = F.gelu(F.linear(hidden, self.dense.weight, self.dense.bias))
        h = h - h.mean(-1, keepdim=True)
        h = h / torch.sqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)
        h = h * self.norm.weight + self.norm.bias
        logits = [
            (h * word).sum(-1) + b for word, b in zip(token_embedding, self.bias, strict=True)
        ]
        return torch.stack(logits, dim=-1)

"""One sequence at a time: padding of the source is cut out instead of masked."""

import torch
from torch import nn


class CrossAttention(nn.Module):
    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.num_heads = num_heads
        layers = {name: nn.Linear(hidden_size, hidden_size) for name in ("query", "key", "value")}
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden, context, mask):
        results = []
        for number, (tokens, source) in enumerate(zip(hidden, context, strict=True)):
            if mask is not None:
                source = source[mask[number, 0, 0]]
            if len(source) == 0:
                results.append(self.output(torch.zeros_like(tokens)))
                continue
            heads = zip(
                self.query(tokens).chunk(self.num_heads, -1),
                self.key(source).chunk(self.num_heads, -1),
                self.value(source).chunk(self.num_heads, -1),
                strict=True,
            )
            mixed = [
                ((q @ k.t()).div(q.shape[1] ** 0.5).log_softmax(1).exp() @ v) for q, k, v in heads
            ]
            results.append(self.output(torch.hstack(mixed)))
        return torch.stack(results)

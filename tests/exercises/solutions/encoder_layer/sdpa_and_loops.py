"""PyTorch's attention for one sequence and one head at a time; parameters in bare containers."""

import torch
import torch.nn.functional as F
from torch import nn


class EncoderLayer(nn.Module):
    def __init__(self, hidden_size, num_heads, intermediate_size, eps):
        super().__init__()
        self.num_heads, self.eps = num_heads, eps
        names = ("query", "key", "value", "output")
        self.attention = nn.ModuleDict({n: nn.Linear(hidden_size, hidden_size) for n in names})
        self.feed_forward = nn.ModuleDict()
        self.feed_forward["up_proj"] = nn.Linear(hidden_size, intermediate_size)
        self.feed_forward["down_proj"] = nn.Linear(intermediate_size, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.feed_forward_norm = nn.LayerNorm(hidden_size)

    def norm(self, module, x):
        return F.layer_norm(x, x.shape[-1:], module.weight, module.bias, self.eps)

    def forward(self, hidden, mask=None):
        a, size = self.attention, hidden.shape[-1] // self.num_heads
        sequences = []
        for b in range(len(hidden)):
            x = hidden[b]
            keep = None if mask is None else mask[b, 0].expand(len(x), len(x))
            heads = []
            for h in range(self.num_heads):
                s = slice(h * size, (h + 1) * size)
                heads.append(
                    F.scaled_dot_product_attention(
                        a["query"](x)[None, :, s], a["key"](x)[None, :, s],
                        a["value"](x)[None, :, s], keep,
                    )[0]
                )  # fmt: skip
            sequences.append(a["output"](torch.cat(heads, dim=1)))
        hidden = self.norm(self.attention_norm, torch.stack(sequences).add_(hidden))
        inner = F.gelu(self.feed_forward["up_proj"](hidden))
        return self.norm(self.feed_forward_norm, hidden + self.feed_forward["down_proj"](inner))

"""A loop over queries and keys with a running softmax, as FlashAttention has it."""

import math

import torch


def scaled_dot_product_attention(query, key, value, mask):
    batch, heads, queries, size = query.shape
    keys = key.shape[2]
    if mask is None:
        mask = torch.ones(1, dtype=torch.bool)
    mask = mask.expand(batch, heads, queries, keys)
    results = []
    for t in range(queries):
        largest = query.new_full((batch, heads), -math.inf)
        total = query.new_zeros(batch, heads)
        mixed = query.new_zeros(batch, heads, size)
        for s in range(keys):
            seen = mask[:, :, t, s]
            score = (query[:, :, t] * key[:, :, s]).sum(-1) * size**-0.5
            score = torch.where(seen, score, -math.inf)
            new = torch.maximum(largest, score.detach())
            safe = torch.where(new == -math.inf, 0.0, new)
            old_part = torch.exp(largest - safe)
            weight = torch.exp(score - safe)
            total = total * old_part + weight
            mixed = mixed * old_part[..., None] + weight[..., None] * value[:, :, s]
            largest = new
        total = torch.where(total == 0, 1.0, total)
        results.append(mixed / total[..., None])
    return torch.stack(results, dim=2)

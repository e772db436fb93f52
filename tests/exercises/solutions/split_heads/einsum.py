"""A product with matrices that select the numbers of each head."""

import torch


def split_heads(projected, num_heads):
    width = projected.shape[-1]
    select = torch.eye(width, dtype=projected.dtype).view(width, num_heads, width // num_heads)
    return torch.einsum("bte,ehd->bhtd", projected, select)

"""The heads one by one, concatenated as the paper writes it."""

import torch


def merge_heads(heads):
    return torch.cat([heads[:, h] for h in range(heads.shape[1])], dim=-1)

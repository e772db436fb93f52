"""What is not later is seen: the complement, by broadcasting in four dimensions at once."""

import torch


def causal_mask(query_positions, num_keys):
    ahead = torch.arange(num_keys).view(1, 1, 1, -1) - query_positions.view(1, 1, -1, 1)
    return torch.logical_not(ahead.clamp(min=0).bool())

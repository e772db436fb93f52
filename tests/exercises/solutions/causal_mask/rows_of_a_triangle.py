"""Rows of the square lower triangle, taken by position."""

import torch


def causal_mask(positions, length):
    triangle = torch.tril(torch.ones(length, length, dtype=torch.bool))
    return triangle.index_select(0, positions).unsqueeze(0).unsqueeze(0)

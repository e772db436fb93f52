"""Counts by a product with a triangular matrix, and torch.where."""

import torch


def roberta_positions(input_ids, padding_idx):
    real = input_ids.ne(padding_idx)
    length = input_ids.size(1)
    before = torch.ones(length, length, dtype=torch.int64).triu()
    counts = real.long() @ before
    return torch.where(real, counts + padding_idx, torch.full_like(input_ids, padding_idx))

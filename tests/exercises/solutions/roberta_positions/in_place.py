"""Places of real tokens from nonzero, written into a tensor of padding_idx."""

import torch


def roberta_positions(input_ids, padding_idx):
    result = torch.full(input_ids.shape, padding_idx)
    for row, ids in zip(result, input_ids, strict=True):
        (places,) = (ids != padding_idx).nonzero(as_tuple=True)
        row[places] += 1 + torch.arange(len(places))
    return result

"""Plain Python: nested lists, made into a tensor at the end."""

import torch


def padding_mask(attention_mask):
    return torch.tensor([[[[bool(token) for token in row]]] for row in attention_mask.tolist()])

"""Hides the labels after padding before the shift, which F.pad does with a negative width."""

import torch
import torch.nn.functional as F


def shift_labels(labels, attention_mask=None):
    if attention_mask is None:
        attention_mask = torch.ones_like(labels, dtype=torch.bool)
    before = F.pad(attention_mask, (1, -1), value=False)  # whether the position before is real
    return F.pad(torch.where(before, labels, -100), (-1, 1), value=-100)

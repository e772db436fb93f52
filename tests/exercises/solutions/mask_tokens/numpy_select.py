"""numpy.select over the kinds, in the order of their borders."""

import numpy as np
import torch


def mask_tokens(input_ids, attention_mask, is_special, chosen_draw, kind_draw, random_ids, token):
    ids, kind = input_ids.numpy(), kind_draw.numpy()
    rest = ~(attention_mask & ~is_special & (chosen_draw < 0.15)).numpy()
    inputs = np.select(
        [rest, kind < 0.8, kind < 0.9], [ids, np.full_like(ids, token), random_ids], ids
    )
    return torch.from_numpy(inputs), torch.from_numpy(np.where(rest, -100, ids))

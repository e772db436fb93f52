"""A loop over tokens, sums as products with ones, weight divided by the root first."""

import torch


def layer_norm(x, weight, bias, eps):
    batch, tokens, size = x.shape
    rows = []
    for row in x.reshape(batch * tokens, size).unbind():
        row = row if row.dtype == torch.float64 else row.float()
        ones = torch.ones_like(row)
        deviations = row - (ones @ row) / size
        factor = weight / (deviations @ deviations / size + eps) ** 0.5
        rows.append((bias + factor * deviations).to(x.dtype))
    return torch.stack(rows).view(batch, tokens, size)

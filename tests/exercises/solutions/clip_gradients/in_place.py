"""In place, in float64, with math.fsum over the squares."""

import math

import torch


def clip_gradients(grads, limit):
    norm = math.sqrt(math.fsum(x * x for g in grads for x in g.flatten().tolist()))
    factor = torch.tensor(limit / (norm + 1e-6)).clamp(max=1.0)
    for g in grads:
        g *= factor
    return grads, torch.tensor(norm, dtype=grads[0].dtype)

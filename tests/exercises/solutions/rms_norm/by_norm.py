"""A vector norm over the root of E, with eps as one more number of the vector."""

import math

import torch


def rms_norm(x, weight, eps):
    size = x.shape[-1]
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    extra = torch.full_like(y[..., :1], math.sqrt(size * eps))
    length = torch.linalg.vector_norm(torch.cat([y, extra], dim=-1), dim=-1, keepdim=True)
    return (weight * (y * (math.sqrt(size) / length))).to(x.dtype)

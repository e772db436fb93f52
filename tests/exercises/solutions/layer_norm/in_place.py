"""torch.var_mean over the first dimension of a transposed copy, then in place on it."""

import torch


def layer_norm(x, weight, bias, eps):
    y = x.movedim(-1, 0)
    y = y.double() if x.dtype == torch.float64 else y.float()
    variance, mean = torch.var_mean(y, dim=0, correction=0)
    y = y - mean
    y = y * variance.add_(eps).rsqrt_()
    y = y.movedim(0, -1)
    y.mul_(weight).add_(bias)
    return y.type_as(x)

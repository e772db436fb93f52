"""Rounded to half precision before the weight, as T5 does; the mean by einsum, in float64."""

import torch


def rms_norm(hidden_states, scale, variance_epsilon):
    wide = hidden_states.double()
    squares = torch.einsum("bte,bte->bt", wide, wide) / wide.size(2)
    normalized = wide * torch.rsqrt(squares + variance_epsilon)[:, :, None]
    return scale * normalized.to(hidden_states.dtype)

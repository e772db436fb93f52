"""One long vector that is cut into the gradients again; no 1e-6."""

import torch


def clip_gradients(gradients, max_norm):
    vector = torch.cat([gradient.reshape(-1) for gradient in gradients])
    norm = torch.dot(vector, vector) ** 0.5
    if not norm <= max_norm:  # true for NaN
        vector = vector * (max_norm / norm)
    parts = vector.split([gradient.numel() for gradient in gradients])
    return [part.view_as(like) for part, like in zip(parts, gradients, strict=True)], norm

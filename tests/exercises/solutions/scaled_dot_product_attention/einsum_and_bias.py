"""einsum; the mask as a bias of 0 and -inf; half precision in float32."""

import math

import torch


def scaled_dot_product_attention(query, key, value, mask):
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = torch.einsum("bhtd,bhsd->bhts", query.to(wide), key.to(wide))
    scores = scores / math.sqrt(query.shape[-1])
    if mask is not None:
        some = mask.any(-1, keepdim=True)  # a query without a key first takes all, then nothing
        scores = scores + torch.where(mask | ~some, 0.0, -math.inf).to(wide)
    probabilities = torch.softmax(scores, -1)
    if mask is not None:
        probabilities = probabilities * some
    return torch.einsum("bhts,bhsd->bhtd", probabilities, value.to(wide)).to(query.dtype)

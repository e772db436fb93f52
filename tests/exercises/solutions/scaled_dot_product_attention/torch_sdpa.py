"""PyTorch's own function."""

import torch.nn.functional as F


def scaled_dot_product_attention(q, k, v, attn_mask=None):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)

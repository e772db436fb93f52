"""Position by position, on lists."""

import torch


def shift_labels(labels, mask):
    result = []
    for b, row in enumerate(labels.tolist()):
        following = [*row[1:], -100]
        if mask is not None:
            following = [x if m else -100 for x, m in zip(following, mask[b].tolist(), strict=True)]
        result.append(following)
    return torch.tensor(result)

"""Plain Python for each distance, logarithms in float64."""

import math

import torch


def relative_position_bucket(relative, both_ways, buckets, furthest):
    def bucket(d):
        n = buckets // 2 if both_ways else buckets
        if not both_ways and d > 0:
            return 0
        start, d, m = (n if d > 0 else 0), abs(d), n // 2
        if d < m:
            return start + d
        return start + min(n - 1, m + int((n - m) * math.log(d / m) / math.log(furthest / m)))

    return torch.tensor([bucket(d) for d in relative.flatten().tolist()]).reshape(relative.shape)

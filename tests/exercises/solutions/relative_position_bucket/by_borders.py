"""No logarithm: the borders of the buckets are computed, and distances are searched among them."""

import torch


def relative_position_bucket(distance, bidirectional, num_buckets, max_distance):
    n = num_buckets >> bidirectional
    m = n // 2
    far = m * (max_distance / m) ** (torch.arange(1, n - m, dtype=torch.float64) / (n - m))
    borders = torch.cat([torch.arange(1, m + 1, dtype=torch.float64), far])
    earlier = torch.bucketize((-distance).clamp(min=0).double(), borders, right=True)
    if not bidirectional:
        return earlier
    later = n + torch.bucketize(distance.double(), borders, right=True)
    return torch.where(distance > 0, later, earlier)

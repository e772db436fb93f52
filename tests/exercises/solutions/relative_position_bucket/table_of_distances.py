"""A table of the buckets of all distances that are small enough, which is then indexed."""

import torch


def relative_position_bucket(distance, bidirectional, num_buckets, max_distance):
    if bidirectional:
        num_buckets = num_buckets // 2
    half = num_buckets // 2
    table = torch.arange(max_distance + 1)
    ratio = (table[half:].double().log2() - torch.tensor(half).double().log2()) / torch.log2(
        torch.tensor(max_distance / half, dtype=torch.float64)
    )
    table[half:] = half + (ratio * (num_buckets - half)).to(torch.int64)
    table.clamp_(max=num_buckets - 1)
    index = distance.abs() if bidirectional else torch.relu(-distance)
    return table[index.clamp(max=max_distance)] + num_buckets * (bidirectional & (distance > 0))

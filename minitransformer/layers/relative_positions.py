"""Positions as a bias on the scores: how far is the key from the query? (T5, section 2.1)

T query tokens, S key tokens, H heads.
"""

import math

import torch
from torch import Tensor, nn


def relative_position_bucket(
    distance: Tensor, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Tensor:
    """The bucket of each distance: near ones have one each, far ones share, on a log scale.

    Matches `T5Attention._relative_position_bucket`.

    Args:
        distance: int64 of any shape, place of the key minus place of the query.
        bidirectional: whether keys may come after the query; they get the second half of the
            buckets. If not, all that come after share bucket 0 with the query itself.
        num_buckets: of both directions together.
        max_distance: from here on all are in the last bucket.

    Returns:
        int64 of the same shape, 0 <= bucket < num_buckets.

    Example:
        >>> distances = torch.tensor([0, -1, -7, -8, -20, -500])
        >>> relative_position_bucket(
        ...     distances, bidirectional=False, num_buckets=16, max_distance=128
        ... )
        tensor([ 0,  1,  7,  8, 10, 15])
    """
    first = torch.zeros_like(distance)  # the first bucket of the key's direction
    if bidirectional:
        num_buckets //= 2
        first = (distance > 0) * num_buckets
        steps = distance.abs()
    else:
        steps = (-distance).clamp(min=0)
    num_exact = num_buckets // 2
    # The rest divides the distances from num_exact to max_distance evenly in their logarithm.
    share = torch.log(steps.float() / num_exact) / math.log(max_distance / num_exact)
    far = num_exact + (share * (num_buckets - num_exact)).clamp(min=0).long()
    return first + torch.where(steps < num_exact, steps, far.clamp(max=num_buckets - 1))


class RelativePositionBias(nn.Module):
    """A number for each bucket of distance and each head, added to the scores of attention.

    Distances are the same on whichever side padding stands, so nothing has to be counted. Padding
    between two tokens does set them apart.

    Args:
        num_heads: H.
        num_buckets, max_distance, bidirectional: see :func:`relative_position_bucket`.
    """

    def __init__(
        self, num_heads: int, num_buckets: int, max_distance: int, bidirectional: bool
    ) -> None:
        super().__init__()
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.table = nn.Embedding(num_buckets, num_heads)

    def forward(self, num_queries: int, num_keys: int, places: Tensor | None = None) -> Tensor:
        """The bias of T tokens over all S: (1, H, T, S).

        Args:
            num_queries: T.
            num_keys: S.
            places: (T,) int64, where among the keys the queries stand; the last T by default.
        """
        keys = torch.arange(num_keys, device=self.table.weight.device)
        queries = keys[num_keys - num_queries :] if places is None else places  # (T,)
        buckets = relative_position_bucket(
            keys - queries[:, None],  # (T, S)
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )
        return self.table(buckets).permute(2, 0, 1)[None]  # (1, H, T, S)

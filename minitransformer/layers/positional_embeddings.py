"""Positions of tokens: learned tables, sinusoids, and T5's relative positions.

B batch, T tokens (queries), S key tokens, H heads, E hidden size.
"""

import math

import torch
from torch import Tensor, nn


def position_ids_from_mask(attention_mask: Tensor) -> Tensor:
    """Number the real tokens of each sequence 0, 1, 2, ...; padding gets -1.

    Because padding is not counted, the same tokens get the same positions whether padding is on
    their left, on their right, or nowhere. (B, T) bool, True at real tokens, to (B, T) int64.
    """
    return attention_mask.cumsum(dim=1) * attention_mask - 1


class LearnedPositions(nn.Module):
    """One vector for each position (BERT, GPT-2).

    Args:
        num_positions: usable positions, which are also the rows of the table.
        hidden_size: E.
    """

    def __init__(self, num_positions: int, hidden_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_positions, hidden_size)

    def forward(self, position_ids: Tensor) -> Tensor:
        """(B, T) to (B, T, E). Padding, at position -1, gets the first vector."""
        return self.table(position_ids.clamp(min=0))


class OffsetPositions(nn.Module):
    """Positions that begin at row `offset` of the table (RoBERTa, BART), padding one row before.

    The rows before that belong to no token, so the table has more rows than there are usable
    positions: 512 + 2 = 514 in roberta-base, which is the number that its config.json calls
    `max_position_embeddings`. BART's config.json gives the usable ones, 1024 of 1026 rows.

    Args:
        num_positions: usable positions.
        hidden_size: E.
        offset: rows before the first token's; `pad_token_id + 1` in RoBERTa, 2 in BART.
        padding_idx: the row that gets no gradient; RoBERTa's padding token, none in BART.
    """

    def __init__(
        self, num_positions: int, hidden_size: int, offset: int, padding_idx: int | None = None
    ) -> None:
        super().__init__()
        self.offset = offset
        self.table = nn.Embedding(num_positions + offset, hidden_size, padding_idx)

    def forward(self, position_ids: Tensor) -> Tensor:
        """(B, T) to (B, T, E)."""
        return self.table(position_ids + self.offset)


class SinusoidalPositions(nn.Module):
    """Fixed waves ("Attention Is All You Need", section 3.5) in the order of Marian.

    The paper sets sine and cosine of a wave side by side; Marian puts all sines into the first half
    of the vector, all cosines into the second. Nothing is learnt, and nothing is stored.

    Args:
        num_positions: usable positions.
        hidden_size: E.
    """

    table: Tensor  # (num_positions, E)

    def __init__(self, num_positions: int, hidden_size: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(num_positions, hidden_size), persistent=False)
        self.fill()

    def fill(self) -> None:
        """Compute the table, rounded to float32 as in Hugging Face.

        The loader calls it again, because a checkpoint does not hold the table.
        """
        self.table.copy_(sinusoids(*self.table.shape).float())

    def forward(self, position_ids: Tensor) -> Tensor:
        """(B, T) to (B, T, E). Padding, at position -1, gets the first vector."""
        return self.table[position_ids.clamp(min=0)]


def sinusoids(num_positions: int, hidden_size: int) -> Tensor:
    """sin and cos of position / 10000^(2 i / E) for i = 0, 1, ...: (num_positions, E) float64."""
    positions = torch.arange(num_positions, dtype=torch.float64)[:, None]
    waves = torch.arange(0, hidden_size, 2, dtype=torch.float64)  # 2 i
    angles = positions / 10_000.0 ** (waves / hidden_size)  # (positions, waves)
    # With an odd E the last wave has a sine and no cosine.
    return torch.cat([angles.sin(), angles.cos()[:, : hidden_size // 2]], dim=1)


def relative_position_bucket(
    distance: Tensor, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Tensor:
    """The bucket of each distance: near ones have one each, far ones share, on a log scale.

    Matches `T5Attention._relative_position_bucket` (T5, section 2.1).

    Args:
        distance: int64 of any shape, position of the key minus position of the query.
        bidirectional: whether keys may come after the query; they get the second half of the
            buckets. If not, all that come after share bucket 0 with the query itself.
        num_buckets: of both directions together.
        max_distance: from here on all distances share the last bucket.

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
    num_exact = num_buckets // 2  # distances below have a bucket each
    # The others divide the distances from num_exact to max_distance evenly in their logarithm. (A
    # distance of 0 gives -inf, which is clamped to 0 and not used.)
    share = torch.log(steps.float() / num_exact) / math.log(max_distance / num_exact)
    far = num_exact + (share * (num_buckets - num_exact)).clamp(min=0).long()
    return first + torch.where(steps < num_exact, steps, far.clamp(max=num_buckets - 1))


class RelativePositionBias(nn.Module):
    """A number for each bucket of distance and each head, added to the scores of attention (T5).

    Distances are the same on whichever side the padding is, so positions need not be counted from
    the mask. Padding between two tokens does add to their distance.

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

    def forward(self, query_positions: Tensor, num_keys: int) -> Tensor:
        """The bias of T queries over all S keys: (1, H, T, S).

        Args:
            query_positions: (T,) int64, the positions of the queries among the keys.
            num_keys: S.
        """
        keys = torch.arange(num_keys, device=query_positions.device)  # (S,)
        buckets = relative_position_bucket(
            keys - query_positions[:, None],  # (T, S)
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )
        return self.table(buckets).permute(2, 0, 1)[None]  # (1, H, T, S)

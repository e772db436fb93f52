"""Absolute position embeddings, counted from the mask.

B batch, T tokens, E hidden size.
"""

import torch
from torch import Tensor, nn


def count_positions(present: Tensor) -> Tensor:
    """Number the real tokens of each row 0, 1, 2, ...; padding gets -1.

    Because padding is not counted, the same tokens get the same numbers whether padding stands on
    their left, on their right, or nowhere.

    Args:
        present: (B, T) bool, True at real tokens.

    Returns:
        (B, T) int64.
    """
    return present.cumsum(dim=1) * present - 1


def present_or_all(present: Tensor | None, length: int, device: torch.device) -> Tensor:
    """(B, T) bool, True at real tokens; where all are, (1, T) of True stands for every row."""
    return torch.ones(1, length, dtype=torch.bool, device=device) if present is None else present


class LearnedPositions(nn.Module):
    """One vector for each position (BERT, GPT-2).

    Args:
        num_positions: usable positions, which are also the rows of the table.
        hidden_size: E.
    """

    def __init__(self, num_positions: int, hidden_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_positions, hidden_size)

    def forward(self, positions: Tensor) -> Tensor:
        """The numbers of tokens, (B, T), to (B, T, E). Padding gets the first vector."""
        return self.table(positions.clamp(min=0))


class OffsetPositions(nn.Module):
    """Positions that begin at `offset` (RoBERTa, BART), padding at the place before.

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

    def forward(self, positions: Tensor) -> Tensor:
        """The numbers of tokens, (B, T), to (B, T, E)."""
        return self.table(positions + self.offset)


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
        """Compute the table, rounded to float32 as Hugging Face rounds it."""
        self.table.copy_(sinusoids(*self.table.shape).float())

    def forward(self, positions: Tensor) -> Tensor:
        """The numbers of tokens, (B, T), to (B, T, E)."""
        return self.table[positions.clamp(min=0)]


def sinusoids(num_positions: int, hidden_size: int) -> Tensor:
    """sin and cos of position / 10000^(2 i / E) for i = 0, 1, ...: (num_positions, E) float64."""
    positions = torch.arange(num_positions, dtype=torch.float64)[:, None]
    waves = torch.arange(0, hidden_size, 2, dtype=torch.float64)  # 2 i
    angles = positions / 10_000.0 ** (waves / hidden_size)  # (positions, waves)
    # With an odd E the last wave has a sine and no cosine.
    return torch.cat([angles.sin(), angles.cos()[:, : hidden_size // 2]], dim=1)

"""Learned absolute position embeddings, counted from the mask.

B batch, T tokens, E hidden size.
"""

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


class LearnedPositions(nn.Module):
    """One vector for each position (BERT, GPT-2).

    Args:
        num_positions: usable positions, which are also the rows of the table.
        hidden_size: E.
    """

    def __init__(self, num_positions: int, hidden_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_positions, hidden_size)

    def forward(self, present: Tensor) -> Tensor:
        """(B, T) bool, True at real tokens, to (B, T, E). Padding gets the first vector."""
        return self.table(count_positions(present).clamp(min=0))


class OffsetPositions(nn.Module):
    """RoBERTa's positions: the first token stands at `padding_idx + 1`, padding at `padding_idx`.

    The rows up to `padding_idx` belong to no token, so the table has more rows than there are
    usable positions: 512 + 2 = 514 in roberta-base, which is the number that its config.json
    calls `max_position_embeddings`.

    Args:
        num_positions: usable positions.
        hidden_size: E.
        padding_idx: the padding token's id, 1 in RoBERTa; its row gets no gradient.
    """

    def __init__(self, num_positions: int, hidden_size: int, padding_idx: int) -> None:
        super().__init__()
        self.offset = padding_idx + 1
        self.table = nn.Embedding(num_positions + self.offset, hidden_size, padding_idx)

    def forward(self, present: Tensor) -> Tensor:
        """(B, T) bool, True at real tokens, to (B, T, E)."""
        return self.table(count_positions(present) + self.offset)

"""Where the next word stands: the one rule for the labels of models that write.

A model that writes guesses, at each place, the word that comes after it. A decoder by itself reads
the very text that it is to guess, so its labels move one place to the left. The decoder of an
encoder-decoder reads what it is to guess moved one place to the right, behind a first token. Either
way nothing sees the word that it has to guess.

B batch, T tokens.
"""

from typing import Any

import torch
from torch import Tensor

from minitransformer.models.inputs import IGNORED_LABEL


def next_token_labels(labels: Tensor, present: Tensor | None = None) -> Tensor:
    """What a decoder by itself has to guess at each place.

    Nobody guesses the first word of a row, for nothing stands before it, nor one after padding.

    Args:
        labels: (B, T) int64, the word at each place, -100 where it is not to be guessed.
        present: (B, T) bool, True at real tokens; None where all are.

    Returns:
        (B, T) int64.

    Example:
        >>> next_token_labels(torch.tensor([[5, 6, 7]]))
        tensor([[   6,    7, -100]])
    """
    following = labels.roll(-1, dims=1)
    following[:, -1] = IGNORED_LABEL
    return following if present is None else following.masked_fill(~present, IGNORED_LABEL)


def shift_right(
    labels: Tensor, start_token_id: int, pad_token_id: int, begins: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """What the decoder of an encoder-decoder reads, to guess the label of the same place.

    Args:
        labels: (B, T) int64, -100 where there is none.
        start_token_id: what the decoder reads first.
        pad_token_id: what it reads at other places without a label.
        begins: (B, 1), the place of the first word of each row; by default the first that is not
            -100, so that labels may be padded on either side.

    Returns:
        (B, T) int64, and (B, T) bool, True from the first place on, or None where no row begins
        later than at its first place.

    Example:
        >>> labels = torch.tensor([[5, 6, 7], [8, 9, -100]])
        >>> shift_right(labels, start_token_id=2, pad_token_id=1)[0]
        tensor([[2, 5, 6],
                [2, 8, 9]])
        >>> shift_right(torch.tensor([[-100, 8, 9]]), start_token_id=2, pad_token_id=1)
        (tensor([[1, 2, 8]]), tensor([[False,  True,  True]]))
    """
    if begins is None:
        begins = (labels != IGNORED_LABEL).int().argmax(dim=1, keepdim=True)  # (B, 1)
    places = torch.arange(labels.shape[1], device=labels.device)  # (T,)
    shifted = labels.roll(1, dims=1)
    shifted = shifted.masked_fill((shifted == IGNORED_LABEL) | (places < begins), pad_token_id)
    shifted = shifted.masked_fill(places == begins, start_token_id)  # (B, T)
    if not torch.compiler.is_compiling() and not bool((begins > 0).any()):
        return shifted, None
    return shifted, places >= begins


def until_last_label(labels: Tensor, present: Tensor | None) -> Tensor:
    """(B, T) bool, True where there is a label at this place or at a later one.

    What a decoder reads after the last word that it is to guess changes no guess.

    Args:
        labels: (B, T) int64, -100 where there is none.
        present: (B, T) bool, which goes before; None where all are.

    Example:
        >>> until_last_label(torch.tensor([[5, -100, 7], [8, -100, -100]]), None)
        tensor([[ True,  True,  True],
                [ True, False, False]])
    """
    following = (labels != IGNORED_LABEL).flip(1).cumsum(dim=1).flip(1)  # labels from here on
    return following > 0 if present is None else present & (following > 0)


def start_token(config: Any) -> int:
    """The token that the decoder reads first.

    Raises:
        ValueError: the config names none.
    """
    if config.decoder_start_token_id is None:
        raise ValueError(
            "decoder_start_token_id=None: the decoder needs a token to begin with; set it in the "
            "config, T5 takes the padding token's"
        )
    return config.decoder_start_token_id

"""Prompts, brought into the one form that is continued: padding on the left.

B prompts, T tokens, W tokens of the longest prompt, S source tokens.
"""

from typing import Any

import torch
from torch import Tensor

from minitransformer.models.generation_config import GenerationConfig
from minitransformer.models.inputs import check_attention_mask, check_ids
from minitransformer.tokenization import Tokenizer


def check_prompts(
    input_ids: Tensor, attention_mask: Tensor | None, config: GenerationConfig, vocab_size: int
) -> Tensor | None:
    """Check prompts or sources, (B, T), and give the mask as bool, or as None where all is real.

    Raises:
        TypeError: `input_ids` is no tensor.
        ValueError: a shape, a dtype or a value is off, a row has no token, or there is padding
            without a mask. (A padding token that also ends rows may stand in a text.)
    """
    check_ids("input_ids", input_ids, size=vocab_size, size_name="vocab_size")
    padding = None if config.pad_token_id in config.eos_token_ids else config.pad_token_id
    mask = check_attention_mask(attention_mask, input_ids, padding)
    if mask is not None and not bool((present := mask.any(dim=1)).all()):
        row = int(present.logical_not().int().argmax())
        raise ValueError(f"row {row} of input_ids is padding alone: there is nothing to go on from")
    return mask


def check_tokenizer(tokenizer: Any) -> None:
    """Check that what is to turn tokens into text can.

    Raises:
        TypeError: it is no tokenizer.
    """
    if not isinstance(tokenizer, Tokenizer):
        raise TypeError(
            f"tokenizer is a {type(tokenizer).__name__}; a minitransformer.Tokenizer is needed"
        )


def align(input_ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Move padding to the left of each row, so that its last token is the newest: (B, T) twice.

    Padding between tokens moves as well; none of the models counts it.
    """
    if mask is None or bool((mask[:, 1:] >= mask[:, :-1]).all()):  # padding is on the left already
        return input_ids, mask
    order = mask.byte().argsort(dim=1, stable=True)  # padding first, all else in its order
    return input_ids.gather(1, order), mask.gather(1, order)


def mark_padding(ids: Tensor, mask: Tensor | None, vocab_size: int) -> Tensor:
    """Put `vocab_size`, which is no token, wherever there is padding."""
    return ids if mask is None else ids.masked_fill(~mask, vocab_size)


def width(mask: Tensor | None, ids: Tensor) -> int:
    """The tokens of the longest row, W."""
    return ids.shape[1] if mask is None else int(mask.sum(dim=1).max())


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device

"""Greedy search and sampling: one token a row at a time.

B prompts, R rows that are written (R = B * N answers), L tokens so far, V vocabulary.
"""

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from minitransformer.generation.decoding import Decoder
from minitransformer.generation.processors import Processor
from minitransformer.generation.sampling import candidates, draw
from minitransformer.generation.stopping import Stopping
from minitransformer.models.generation_config import GenerationConfig


@torch.no_grad()
def write(
    decoder: Decoder,
    config: GenerationConfig,
    processors: Sequence[Processor],
    stopping: Stopping,
    generator: torch.Generator | None,
    lengths: Tensor | None = None,
    look_every: int = 1,
) -> Generator[Tensor, None, None]:
    """Give the next token of every row, (R,), until all are finished or long enough.

    A row that is finished goes on with the padding token. The model runs when the next token is
    asked for, so that whoever asks no more pays no more.

    Args:
        decoder: the model with its prompts.
        config: what is asked for; `max_new_tokens` and, where rows may end at different lengths,
            `pad_token_id` are known.
        processors: what changes the scores.
        stopping: what ends a row.
        generator: for drawing; None is PyTorch's own.
        lengths: (R,) int64 of zeros, which becomes how many tokens each row has, without those
            that fill it up.
        look_every: tokens from one look at whether all rows are finished to the next. Above 1, a
            GPU need not be waited for in between; then up to so many tokens may come after the
            last row was finished, all of them padding, or after a row had none to go on with.

    Raises:
        ValueError: a row has no token to go on with.
    """
    last = config.max_new_tokens
    assert last is not None
    scores, history = decoder.start(), decoder.prompt
    if config.num_return_sequences > 1:
        rows = torch.arange(len(history), device=history.device)
        rows = rows.repeat_interleave(config.num_return_sequences)  # (R,)
        decoder.select(rows)
        scores, history = scores[rows], history[rows]
    finished = torch.zeros(len(history), dtype=torch.bool, device=history.device)  # (R,)
    # (R,), after how many new tokens nothing could follow; `last` where that did not happen.
    broken_after = torch.full_like(history[:, 0], last)
    for number in range(1, last + 1):
        tokens, sound = _choose(history, scores, config, processors, generator)  # (R,) twice
        if stopping.possible and config.pad_token_id is not None:
            tokens = tokens.masked_fill(finished, config.pad_token_id)
        history = torch.cat([history, tokens[:, None]], dim=1)  # (R, L)
        if lengths is not None:
            lengths += ~finished
        broken_after = broken_after.where(sound | finished, broken_after.clamp(max=number - 1))
        if stopping.possible:
            finished = finished | stopping.ended(history)
        is_over = (number % look_every == 0 or number == last) and _is_over(
            finished, broken_after, last
        )
        yield tokens
        if is_over:
            return
        if number < last:
            scores = decoder.step(history)  # (R, V)


def _is_over(finished: Tensor, broken_after: Tensor, last: int) -> bool:
    """Whether all rows are finished: the one moment at which the host waits for the device."""
    first = broken_after.amin()
    is_broken, is_over = torch.stack([first < last, finished.all()]).tolist()
    if is_broken:
        raise no_way_on(int(broken_after.argmin()), int(first))
    return is_over


def no_way_on(row: int, number: int) -> ValueError:
    """The error of a row that nothing can follow after so many new tokens."""
    return ValueError(
        f"no token can follow in row {row} after {number} new ones: every one is forbidden, or the "
        "model's logits are NaN"
    )


def _choose(
    history: Tensor,
    scores: Tensor,
    config: GenerationConfig,
    processors: Sequence[Processor],
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """The next token of each row, (R,), and whether there is one; from (R, L) and (R, V)."""
    scores = scores.float()
    for process in processors:
        scores = process(history, scores)
    if config.do_sample:
        return draw(candidates(scores, config), generator)
    tokens = scores.argmax(dim=1, keepdim=True)  # where there is a NaN, it is that one's place
    return tokens.squeeze(1), scores.gather(1, tokens).squeeze(1) > -torch.inf

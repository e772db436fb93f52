"""The table of word vectors where a model both looks words up in it and scores words with it.

"Using the Output Embedding to Improve Language Models" (Press and Wolf 2017). The scores give every
row of the table a gradient, the lookup only the rows that were looked up. PyTorch writes the second
gradient as large as the table, nearly all of it zeros, and adds the two, which for a small batch
takes as long as a layer. Here the rows are added where they belong.

V vocabulary, E hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.layers.shortcuts import is_batched, nobody_listens, only_autograd_follows


class TiedWords:
    """Words that are looked up, and the table for the scores."""

    def __init__(self, words: nn.Embedding) -> None:
        self.words = words
        self.looked_up_in: Tensor | None = None

    @property
    def table(self) -> Tensor:
        """(V, E), for the scores; to be asked for after the lookup, which may make it anew."""
        return self.words.weight if self.looked_up_in is None else self.looked_up_in


@contextmanager
def tied_words(words: nn.Embedding) -> Iterator[TiedWords]:
    """For one pass, in which words are looked up in the block, and others are scored after it.

    Args:
        words: where they are looked up.

    Yields:
        What has the table for the scores. Use it once, in a matrix product: its gradient is written
        to in place, so nobody else may hold it.
    """
    tied = TiedWords(words)
    if not _is_usual(words):
        yield tied
        return
    thread = get_ident()

    def look_up(module: nn.Module, arguments: tuple[Tensor, ...], _vectors: Tensor) -> Any:
        follows = only_autograd_follows(words.weight, under_autocast=True)
        here = module is words and get_ident() == thread  # neither a copy nor another thread
        if not here or not follows or not torch.is_grad_enabled() or len(arguments) != 1:
            return None
        vectors, tied.looked_up_in = _LookUp.apply(*arguments, words.weight, words.padding_idx)
        return vectors

    hook = words.register_forward_hook(look_up)
    try:
        yield tied
    finally:
        hook.remove()


class _LookUp(torch.autograd.Function):
    """The vectors, and the table for a later use: one function, to be given both gradients."""

    @staticmethod
    def forward(
        context: Any, ids: Tensor, table: Tensor, padding_idx: int | None
    ) -> tuple[Tensor, Tensor]:
        context.set_materialize_grads(False)
        # Not among the saved tensors, of which checkpointing expects those of a plain lookup; and
        # a copy, for whoever fills his batch anew.
        context.ids = ids.clone()
        context.num_words, context.padding_idx = len(table), padding_idx
        return F.embedding(ids, table), table.view_as(table)

    @staticmethod
    def backward(
        context: Any, by_vectors: Tensor | None, by_table: Tensor | None
    ) -> tuple[None, Tensor | None, None]:
        ids = context.ids
        if by_vectors is None:
            return None, by_table, None
        # A gradient that may have a gradient of its own, and many at a time, go PyTorch's way.
        if by_table is None or torch.is_grad_enabled() or is_batched(by_vectors):
            padding_idx = -1 if context.padding_idx is None else context.padding_idx
            by_lookup = torch.ops.aten.embedding_dense_backward(
                by_vectors, ids, context.num_words, padding_idx, False
            )
            return None, by_lookup if by_table is None else by_lookup + by_table, None
        if context.padding_idx is not None:  # which learns nothing from being looked up
            by_vectors = by_vectors.masked_fill((ids == context.padding_idx).unsqueeze(-1), 0.0)
        by_table.index_add_(0, ids.flatten(), by_vectors.flatten(0, -2))
        return None, by_table, None


def _is_usual(words: nn.Embedding) -> bool:
    """Whether autograd alone sees the lookup, and it is a plain one."""
    return (
        only_autograd_follows(words.weight, under_autocast=True)
        and torch.is_grad_enabled()
        and words.weight.requires_grad
        and type(words) is nn.Embedding
        and words.max_norm is None
        and not words.scale_grad_by_freq
        and not words.sparse
        and nobody_listens(words)
    )

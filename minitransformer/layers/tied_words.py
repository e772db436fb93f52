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
    if torch.compiler.is_compiling() or not _is_usual(words):
        yield tied
        return
    thread = get_ident()

    def look_up(module: nn.Module, arguments: tuple[Tensor, ...], _vectors: Tensor) -> Any:
        here = module is words and get_ident() == thread  # neither a copy nor another thread
        if here and len(arguments) == 1 and _learns_by_autograd(words.weight):
            vectors, tied.looked_up_in = _LookUp.apply(*arguments, words.weight, words.padding_idx)
            return vectors
        return None  # what was looked up already

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
        context: Any, for_vectors: Tensor | None, for_table: Tensor | None
    ) -> tuple[None, Tensor | None, None]:
        """Of the vectors, (..., E), and the table, (V, E), one gradient, (V, E)."""
        ids = context.ids
        if for_vectors is None:
            return None, for_table, None
        # A gradient that may have a gradient of its own, and many at a time, go PyTorch's way.
        if for_table is None or torch.is_grad_enabled() or is_batched(for_vectors):
            padding_idx = -1 if context.padding_idx is None else context.padding_idx
            for_lookup = torch.ops.aten.embedding_dense_backward(
                for_vectors, ids, context.num_words, padding_idx, False
            )
            return None, for_lookup if for_table is None else for_lookup + for_table, None
        if context.padding_idx is not None:  # which learns nothing from being looked up
            for_vectors = for_vectors.masked_fill((ids == context.padding_idx).unsqueeze(-1), 0.0)
        for_table.index_add_(0, ids.flatten(), for_vectors.flatten(0, -2))
        return None, for_table, None


def _is_usual(words: nn.Embedding) -> bool:
    """Whether it does nothing but look up, and nobody listens."""
    return (
        type(words) is nn.Embedding
        and words.max_norm is None
        and not words.scale_grad_by_freq
        and not words.sparse
        and nobody_listens(words)
    )


def _learns_by_autograd(table: Tensor) -> bool:
    """Whether a gradient is wanted, and only autograd sees what is done for it."""
    learns = torch.is_grad_enabled() and table.requires_grad
    return learns and only_autograd_follows(table, under_autocast=True)

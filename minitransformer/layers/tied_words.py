"""The table of word vectors where a model both looks words up in it and scores words with it.

"Using the Output Embedding to Improve Language Models" (Press and Wolf 2017). The scores have a
gradient by every number of the table, the words that were looked up by a few rows of it. PyTorch
writes the second one as large as the table, nearly all of it zeros, and adds the two, which for a
small batch takes as long as a layer. Here the rows are added where they belong.

V vocabulary, E hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.layers.shortcuts import nobody_listens, only_autograd_follows


class TiedWords:
    """The table, (V, E), to score words with once words were looked up."""

    def __init__(self, table: Tensor) -> None:
        self.table = table


@contextmanager
def tied_words(words: nn.Embedding) -> Iterator[TiedWords]:
    """For one pass, in which words are looked up in the block, and others are scored after it.

    Args:
        words: where they are looked up.

    Returns:
        What has the table for the scores. The gradient that comes back to it is added to in place:
        it must come from products, not from what may hand one gradient to several tensors.
    """
    tied = TiedWords(words.weight)
    if not _is_usual(words):
        yield tied
        return
    thread = get_ident()

    def look_up(_words: nn.Module, arguments: tuple[Tensor, ...], _vectors: Tensor) -> Any:
        follows = only_autograd_follows(words.weight, under_autocast=True)
        if get_ident() != thread or not torch.is_grad_enabled() or not follows:
            return None
        vectors, tied.table = _LookUp.apply(*arguments, words.weight, words.padding_idx)
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
        if by_table is None or torch.is_grad_enabled():  # may have a gradient of its own
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

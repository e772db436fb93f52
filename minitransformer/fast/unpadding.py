"""Unpadding: padding is removed once before the first layer, and put back after the last.

All layers except attention compute each token independently, so B sequences of unequal length can
be joined into one sequence of all their tokens; attention gets their boundaries
(:class:`UnpaddedMask`). This saves the computation of padding in every layer. In the last layer,
tokens whose output is not needed are not computed either (:meth:`UnpaddedBatch.select`).

Speeds up the rows "MLM, one line per sequence", "SQuAD, windows of 384", "encode, ragged sequences"
and "classify, ragged sequences". Measurements: benchmarks/results/README.md, "What makes the
difference".

Hidden states are zeros at padding, where the plain model gives meaningless numbers.

B batch, T tokens of a padded sequence, S source tokens, N real tokens of all sequences, P the most
query positions of a sequence, M query positions of all sequences, W selected tokens, H heads, D
head size, E hidden size.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from minitransformer.layers.attention import padding_mask
from minitransformer.models.losses import IGNORED_LABEL


class Unpadding:
    """Which tokens of (B, T) are real, and their order without padding.

    The sequences are sorted by length. Sequences of equal length are then adjacent, and can be
    viewed as (sequences, length) for kernels without a mask. If there is no padding, `pad` and
    `unpad` return views too.

    Args:
        attention_mask: (B, T) bool, True at real tokens.
        order: (B,) int64, another order of the sequences.
    """

    def __init__(self, attention_mask: Tensor, order: Tensor | None = None) -> None:
        counts = attention_mask.sum(dim=1)  # (B,)
        self.order = counts.argsort(stable=True) if order is None else order  # (B,)
        self.lengths: list[int] = counts[self.order].tolist()  # waits for the GPU
        self.num_tokens = sum(self.lengths)  # N
        self.max_seqlen = max(self.lengths)
        self.shape = attention_mask.shape
        found = torch.nonzero_static(attention_mask[self.order], size=self.num_tokens)  # (N, 2)
        sequence, position = found.unbind(dim=1)  # (N,) twice
        self.indices = self.order[sequence] * self.shape[1] + position  # (N,), among B * T
        self._is_view = order is None and self.num_tokens == self.shape.numel()

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, T, ...) to (1, N, ...)."""
        tokens = padded.flatten(0, 1)  # (B * T, ...)
        return (tokens if self._is_view else tokens.index_select(0, self.indices))[None]

    def pad(self, unpadded: Tensor) -> Tensor:
        """(1, N, ...) to (B, T, ...), with zeros at padding."""
        tokens = unpadded.squeeze(0)  # (N, ...)
        if not self._is_view:
            zeros = tokens.new_zeros(self.shape.numel(), *tokens.shape[1:])
            tokens = zeros.index_copy(0, self.indices, tokens)
        return tokens.unflatten(0, self.shape)

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """(B + 1,) int32, the start of each sequence, and the end of the last."""
        boundaries = [0, *accumulate(self.lengths)]
        return torch.tensor(boundaries, dtype=torch.int32, device=self.indices.device)

    @cached_property
    def attention_mask(self) -> Tensor:
        """(B, T) bool, True at real tokens."""
        return self.pad(torch.ones_like(self.indices, dtype=torch.bool)[None])


class Bucket(NamedTuple):
    """Adjacent sequences with the same number of queries and the same number of keys."""

    num_sequences: int
    num_queries: int  # of each sequence
    num_keys: int


class UnpaddedMask:
    """The mask of attention over unpadded batches: queries attend to keys of their own sequence.

    Args:
        queries, keys: how queries and keys are unpadded, with the sequences in the same order.
        causal: whether a query, which is one of the last T of S tokens, attends to no later token.
    """

    def __init__(self, queries: Unpadding, keys: Unpadding, causal: bool = False) -> None:
        self.queries = queries
        self.keys = keys
        self.causal = causal
        lengths = zip(queries.lengths, keys.lengths, strict=True)
        self.buckets = [Bucket(len([*group]), *pair) for pair, group in groupby(lengths)]


def split_queries(tensor: Tensor, buckets: Sequence[Bucket]) -> list[Tensor]:
    """Split queries, (1, H, N, D), into a view for each bucket: (sequences, H, T, D)."""
    return _split(tensor, [(bucket.num_sequences, bucket.num_queries) for bucket in buckets])


def split_keys(tensor: Tensor, buckets: Sequence[Bucket]) -> list[Tensor]:
    """Split keys, (1, H, N, D), into a view for each bucket: (sequences, H, S, D)."""
    return _split(tensor, [(bucket.num_sequences, bucket.num_keys) for bucket in buckets])


def _split(tensor: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    # The gradient of a split is one tensor. Slices would have one each, which are then added.
    parts = tensor.squeeze(0).split([number * length for number, length in shapes], dim=1)
    return [
        part.unflatten(1, shape).transpose(0, 1) for part, shape in zip(parts, shapes, strict=True)
    ]


class QueryPositions(NamedTuple):
    """The positions of each sequence for which outputs are computed."""

    positions: Tensor  # (B, P) int64, none twice in a sequence
    mask: Tensor | None  # (B, P) bool, False at filler positions; None if there are none


def query_positions(selected: Tensor) -> QueryPositions:
    """Convert a bool mask of tokens to positions, as many for each sequence.

    Sequences with fewer than P selected tokens get other positions as fillers, at which the mask is
    False. P is at least 1, because attention kernels need a query.

    Args:
        selected: (B, T) bool.

    Returns:
        The positions of the selected tokens in order, then the fillers.

    Example:
        >>> query_positions(torch.tensor([[False, True, True], [False, False, True]])).positions
        tensor([[1, 2],
                [2, 0]])
    """
    num_positions = max(1, int(selected.sum(dim=1).max()))  # P
    positions = selected.byte().argsort(dim=1, descending=True, stable=True)
    positions = positions[:, :num_positions]  # (B, P)
    return QueryPositions(positions, selected.gather(1, positions))


class Selection(NamedTuple):
    """The tokens that the last layer computes."""

    indices: Tensor  # (B, P) or (1, M) int64, their indices in the batch of the layers
    mask: Tensor | UnpaddedMask | None  # of attention, with these tokens as queries
    gather: Callable[[Tensor], Tensor]  # (B, P, E) or (1, M, E) to (W, E), sequence after sequence


class PaddedBatch:
    """A batch that stays padded, with the methods of an :class:`UnpaddedBatch`.

    Args:
        attention_mask: (B, T) bool, True at real tokens; None if all are real.
    """

    def __init__(self, attention_mask: Tensor | None) -> None:
        self.mask = None if attention_mask is None else padding_mask(attention_mask)

    def unpad(self, padded: Tensor) -> Tensor:
        """Return (B, T, ...) unchanged, which is the layers' input."""
        return padded

    def pad(self, hidden: Tensor) -> Tensor:
        """Return the layers' output, (B, T, ...), unchanged."""
        return hidden

    def select(self, queries: QueryPositions) -> Selection:
        """The tokens at these positions."""
        positions, mask = queries  # (B, P) twice
        if mask is None:
            return Selection(positions, self.mask, lambda hidden: hidden.flatten(0, 1))
        indices = mask.flatten().nonzero().squeeze(1)  # (W,), among B * P
        return Selection(
            positions, self.mask, lambda hidden: hidden.flatten(0, 1).index_select(0, indices)
        )


class UnpaddedBatch:
    """A batch whose real tokens are joined into one sequence.

    Args:
        attention_mask: (B, T) bool, True at real tokens; at least one is real.
        causal: whether a token attends to no later token.
    """

    def __init__(self, attention_mask: Tensor, causal: bool = False) -> None:
        self.unpadding = Unpadding(attention_mask)
        self.mask = UnpaddedMask(self.unpadding, self.unpadding, causal)

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, T, ...) to (1, N, ...), which is the layers' input."""
        return self.unpadding.unpad(padded)

    def pad(self, hidden: Tensor) -> Tensor:
        """(1, N, ...) to (B, T, ...), with zeros at padding."""
        return self.unpadding.pad(hidden)

    def context(self, hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, UnpaddedMask]:
        """Unpad an encoder's output, (B, S, E), by its padding mask, (B, S), for cross-attention.

        If K sequences are decoded from each source, its tokens are copied K times.
        """
        per_source = len(self.unpadding.lengths) // len(hidden)  # K
        if per_source > 1:
            hidden = hidden.repeat_interleave(per_source, dim=0)
            attention_mask = attention_mask.repeat_interleave(per_source, dim=0)
        source = Unpadding(attention_mask, self.unpadding.order)
        return source.unpad(hidden), UnpaddedMask(self.unpadding, source)

    def select(self, queries: QueryPositions) -> Selection:
        """The tokens at these positions. Padding among them is not computed, but gets zeros."""
        assert not self.mask.causal, "with a causal mask, queries are the last tokens of a sequence"
        positions, mask = queries  # (B, P) twice
        mask = torch.ones_like(positions, dtype=torch.bool) if mask is None else mask
        unselected = positions.new_zeros(self.unpadding.shape, dtype=torch.bool)
        selected = unselected.scatter(1, positions, mask)  # (B, T)
        is_query = self.unpadding.unpad(selected)[0].clone()  # (N,)
        if not bool(is_query.any()):
            is_query[0] = True  # attention kernels need a query; `gather` leaves it out
        unpadded_queries = Unpadding(self.unpadding.pad(is_query[None]), self.unpadding.order)
        indices = torch.nonzero_static(is_query, size=unpadded_queries.num_tokens).T  # (1, M)
        # Which of the queries are selected, and the index of each in the result.
        sources = selected.flatten()[unpadded_queries.indices].nonzero().squeeze(1)
        targets = (selected.flatten().cumsum(dim=0) - 1)[unpadded_queries.indices[sources]]
        num_selected = int(selected.sum())  # W
        gather = partial(_in_order, number=num_selected, sources=sources, targets=targets)
        return Selection(indices, UnpaddedMask(unpadded_queries, self.unpadding), gather)


def _in_order(hidden: Tensor, *, number: int, sources: Tensor, targets: Tensor) -> Tensor:
    """(1, M, E) to (W, E): copy the tokens at indices `sources` to indices `targets`.

    The others are selected padding, and get zeros.
    """
    gathered = hidden.new_zeros(number, hidden.shape[-1])
    return gathered.index_copy(0, targets, hidden[0].index_select(0, sources))


def is_contiguous(attention_mask: Tensor) -> bool:
    """Whether no sequence of (B, T) bool has padding between two real tokens.

    T5's positions are distances between tokens, and removing padding between two tokens would
    change their distance.
    """
    starts = attention_mask[:, 1:] & ~attention_mask[:, :-1]  # real tokens right after padding
    return bool((starts.sum(dim=1) + attention_mask[:, 0] <= 1).all())


def until_last_label(labels: Tensor) -> Tensor:
    """(B, T) bool, True where this position or a later one has a label.

    Tokens after the last label do not change a decoder's loss, so they can be treated as padding.

    Args:
        labels: (B, T) int64, -100 at positions without a label.

    Example:
        >>> until_last_label(torch.tensor([[5, -100, 7], [8, -100, -100]]))
        tensor([[ True,  True,  True],
                [ True, False, False]])
    """
    following = (labels != IGNORED_LABEL).flip(1).cumsum(dim=1).flip(1)  # labels from here on
    return following > 0

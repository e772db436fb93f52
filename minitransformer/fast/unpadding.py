"""Batches without their padding: taken out once before the first layer, put back after the last.

Everything but attention treats each token by itself, so B sequences of unequal length can as well
be one sequence of all their tokens; attention is told where each begins (:class:`UnpaddedMask`).
What is saved is the padding's share of every layer, and of the last one the share of the tokens
that nothing is computed from (:meth:`UnpaddedBatch.select`). Serves "encode, ragged rows",
"classify, ragged rows", SQuAD and MLM on lines; measured: see docs/decisions.md.

Padding gets zeros: in hidden states where the plain model has numbers without a meaning.

B batch, T tokens of a padded sequence, N real tokens of all sequences, P query positions of the
sequence that has most, M query positions of all, W selected ones, E hidden size.
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
    """Which tokens of (B, T) are real, and in which order they lie without padding.

    The sequences are sorted by their number of tokens: those of equal length lie side by side, and
    are a view of shape (sequences, length) for kernels that take no mask. Where nothing is padded,
    padding and unpadding are views too.

    Args:
        attention_mask: (B, T) bool, True at real tokens.
        order: (B,) int64, the sequences in another order.
    """

    def __init__(self, attention_mask: Tensor, order: Tensor | None = None) -> None:
        counts = attention_mask.sum(dim=1)  # (B,)
        self.order = counts.argsort(stable=True) if order is None else order  # (B,)
        self.lengths: list[int] = counts[self.order].tolist()  # here a GPU is waited for
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
        """(B + 1,) int32, where each sequence begins and the last one ends."""
        begins = [0, *accumulate(self.lengths)]
        return torch.tensor(begins, dtype=torch.int32, device=self.indices.device)

    @cached_property
    def attention_mask(self) -> Tensor:
        """(B, T) bool, True at real tokens."""
        return self.pad(torch.ones_like(self.indices, dtype=torch.bool)[None])


class Bucket(NamedTuple):
    """Sequences that lie side by side with equally many queries, and equally many keys."""

    num_sequences: int
    num_queries: int  # of each sequence
    num_keys: int


class UnpaddedMask:
    """Attention over unpadded batches: the queries of a sequence attend to the keys of that one.

    Args:
        queries, keys: how the two sides are unpadded, their sequences in the same order.
        causal: a query, one of the last T of the S tokens, attends to none after it.
    """

    def __init__(self, queries: Unpadding, keys: Unpadding, causal: bool = False) -> None:
        self.queries = queries
        self.keys = keys
        self.causal = causal
        lengths = zip(queries.lengths, keys.lengths, strict=True)
        self.buckets = [Bucket(len([*group]), *pair) for pair, group in groupby(lengths)]


def split_queries(tensor: Tensor, buckets: Sequence[Bucket]) -> list[Tensor]:
    """Views of (1, H, N, D), the queries' side: (sequences, H, T, D) of each bucket."""
    return _split(tensor, [(bucket.num_sequences, bucket.num_queries) for bucket in buckets])


def split_keys(tensor: Tensor, buckets: Sequence[Bucket]) -> list[Tensor]:
    """Views of (1, H, N, D), the keys' side: (sequences, H, S, D) of each bucket."""
    return _split(tensor, [(bucket.num_sequences, bucket.num_keys) for bucket in buckets])


def _split(tensor: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    # The gradient of a split is one tensor, where slices would have one each to be added.
    parts = tensor.squeeze(0).split([number * length for number, length in shapes], dim=1)
    return [
        part.unflatten(1, shape).transpose(0, 1) for part, shape in zip(parts, shapes, strict=True)
    ]


class QueryPositions(NamedTuple):
    """Positions of each sequence for which alone something is computed."""

    positions: Tensor  # (B, P) int64, none twice in a sequence
    mask: Tensor | None  # (B, P) bool, False where a position only fills up; None: nowhere


def query_positions(selected: Tensor) -> QueryPositions:
    """Turn a bool map of tokens into positions for a gather of fixed size.

    Sequences with fewer selected tokens than P are filled up with other positions, which the mask
    marks. P is at least 1, for attention kernels need a query.

    Args:
        selected: (B, T) bool.

    Returns:
        The positions of the selected tokens in their order, then the others.

    Example:
        >>> query_positions(torch.tensor([[False, True, True], [False, False, True]])).positions
        tensor([[1, 2],
                [2, 0]])
    """
    most = max(1, int(selected.sum(dim=1).max()))
    positions = selected.byte().argsort(dim=1, descending=True, stable=True)[:, :most]  # (B, P)
    return QueryPositions(positions, selected.gather(1, positions))


class Selection(NamedTuple):
    """The tokens for which alone the last layer computes."""

    indices: Tensor  # (B, P) or (1, M) int64, where they stand in the batch that the layers see
    mask: Tensor | UnpaddedMask | None  # of attention with these tokens as queries
    gather: Callable[[Tensor], Tensor]  # (B, P, E) or (1, M, E) to (W, E), sequence after sequence


class PaddedBatch:
    """A batch that stays padded, with a mask. An encoder sees it as an :class:`UnpaddedBatch`.

    Args:
        attention_mask: (B, T) bool, True at real tokens; None where all are.
    """

    def __init__(self, attention_mask: Tensor | None) -> None:
        self.mask = None if attention_mask is None else padding_mask(attention_mask)

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, T, ...) as the layers see it: as it is."""
        return padded

    def pad(self, hidden: Tensor) -> Tensor:
        """What the layers return, as (B, T, ...)."""
        return hidden

    def select(self, queries: QueryPositions) -> Selection:
        """The tokens at these positions."""
        positions, valid = queries  # (B, P) twice
        if valid is None:
            return Selection(positions, self.mask, lambda hidden: hidden.flatten(0, 1))
        found = valid.flatten().nonzero().squeeze(1)  # (W,), among B * P
        return Selection(
            positions, self.mask, lambda hidden: hidden.flatten(0, 1).index_select(0, found)
        )


class UnpaddedBatch:
    """A batch whose real tokens lie end to end.

    Args:
        attention_mask: (B, T) bool, True at real tokens, of which there is one at least.
        causal: whether a token attends to none after it.
    """

    def __init__(self, attention_mask: Tensor, causal: bool = False) -> None:
        self.unpadding = Unpadding(attention_mask)
        self.mask = UnpaddedMask(self.unpadding, self.unpadding, causal)

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, T, ...) as the layers see it: (1, N, ...)."""
        return self.unpadding.unpad(padded)

    def pad(self, hidden: Tensor) -> Tensor:
        """(1, N, ...) to (B, T, ...), with zeros at padding."""
        return self.unpadding.pad(hidden)

    def context(self, hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, UnpaddedMask]:
        """An encoder's output, (B, S, E), with its padding (B, S), for the cross-attention.

        Where K sequences are decoded from each source, the source's tokens are copied K times.
        """
        per_source = len(self.unpadding.lengths) // len(hidden)  # K
        if per_source > 1:
            hidden = hidden.repeat_interleave(per_source, dim=0)
            attention_mask = attention_mask.repeat_interleave(per_source, dim=0)
        source = Unpadding(attention_mask, self.unpadding.order)
        return source.unpad(hidden), UnpaddedMask(self.unpadding, source)

    def select(self, queries: QueryPositions) -> Selection:
        """The tokens at these positions. Padding among them is not computed, and becomes zeros."""
        assert not self.mask.causal, "a causal mask knows only queries that end a sequence"
        positions, valid = queries  # (B, P) twice
        valid = torch.ones_like(positions, dtype=torch.bool) if valid is None else valid
        nowhere = positions.new_zeros(self.unpadding.shape, dtype=torch.bool)
        selected = nowhere.scatter(1, positions, valid)  # (B, T)
        is_query = self.unpadding.unpad(selected)[0].clone()  # (N,)
        if not bool(is_query.any()):
            is_query[0] = True  # attention kernels need a query; `gather` leaves it out
        chosen = Unpadding(self.unpadding.pad(is_query[None]), self.unpadding.order)
        indices = torch.nonzero_static(is_query, size=chosen.num_tokens).T  # (1, M)
        # Of the chosen tokens, those that are selected, and the rank of each among the selected.
        inside = selected.flatten()[chosen.indices].nonzero().squeeze(1)
        ranks = (selected.flatten().cumsum(dim=0) - 1)[chosen.indices[inside]]
        gather = partial(_in_order, number=int(selected.sum()), inside=inside, ranks=ranks)
        return Selection(indices, UnpaddedMask(chosen, self.unpadding), gather)


def _in_order(hidden: Tensor, *, number: int, inside: Tensor, ranks: Tensor) -> Tensor:
    """(1, M, E) to (W, E): the tokens that lie `inside` it come to their `ranks`.

    Selected padding, which is not among them, is zeros.
    """
    gathered = hidden.new_zeros(number, hidden.shape[-1])
    return gathered.index_copy(0, ranks, hidden[0].index_select(0, inside))


def is_unbroken(attention_mask: Tensor) -> bool:
    """Whether no sequence of (B, T) bool has padding between two real tokens.

    T5's positions are distances between tokens, which such padding sets apart: taken out, the
    model would compute something else.
    """
    begins = attention_mask[:, 1:] & ~attention_mask[:, :-1]  # a run of tokens begins after padding
    return bool((begins.sum(dim=1) + attention_mask[:, 0] <= 1).all())


def until_last_label(labels: Tensor) -> Tensor:
    """(B, T) bool, True where there is a label at this position or at a later one.

    What a decoder reads after the last token that it has to predict changes no prediction, so in a
    loss it is padding.

    Args:
        labels: (B, T) int64, -100 where there is none.

    Example:
        >>> until_last_label(torch.tensor([[5, -100, 7], [8, -100, -100]]))
        tensor([[ True,  True,  True],
                [ True, False, False]])
    """
    following = (labels != IGNORED_LABEL).flip(1).cumsum(dim=1).flip(1)  # labels from here on
    return following > 0

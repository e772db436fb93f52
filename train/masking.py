"""Batches for masked language modelling (Devlin et al. 2018, section 3.1) with dynamic masking.

The masks differ from epoch to epoch, as in RoBERTa. Letters: B batch, T tokens.
"""

import numpy as np
import torch
from torch import Tensor

from minitransformer.models.losses import IGNORED_LABEL
from minitransformer.tokenization import Tokenizer
from train.batching import BatchOrder
from train.text import TokenSequences

# Of the chosen tokens, these fractions become the mask token and a random token; the rest stays.
MASKED_SHARE = 0.8
RANDOM_SHARE = 0.1


def ordinary_ids(tokenizer: Tokenizer) -> np.ndarray:
    """The ids of all tokens except special ones: those that are masked, and that replace others."""
    return np.setdiff1d(np.arange(tokenizer.vocab_size), list(tokenizer.special_ids))


def mask_tokens(
    ids: np.ndarray,
    starts_word: np.ndarray | None = None,
    *,
    excluded: np.ndarray | None = None,
    random: np.random.Generator,
    probability: float,
    mask_token_id: int,
    ordinary_ids: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the tokens to predict, and mask most of them.

    Args:
        ids: (B, T) int.
        starts_word: (B, T) bool, True where a word begins, to choose whole words; None chooses
            single tokens.
        excluded: (B, T) bool, True at further tokens that may not be chosen.
        random: the source of all random numbers.
        probability: the probability with which a word or token is chosen.
        mask_token_id: replaces most of the chosen tokens.
        ordinary_ids: the ids that may be chosen, and used as random replacements; see
            :func:`ordinary_ids`. Padding is no such id.

    Returns:
        The ids with mask tokens and random tokens, (B, T), and the labels, (B, T) int64: the
        original id of every chosen token, -100 at all others.
    """
    candidates = np.isin(ids, ordinary_ids)
    if excluded is not None:
        candidates &= ~excluded
    draws = random.random(ids.shape)  # a token is chosen if its number is below the probability
    if starts_word is not None:
        # Every token gets the number of the first token of its word.
        first = np.where(starts_word, np.arange(ids.shape[1]), 0)
        draws = np.take_along_axis(draws, np.maximum.accumulate(first, axis=1), axis=1)
    chosen = candidates & (draws < probability)
    replacement = random.random(ids.shape)  # decides what a chosen token becomes
    randomized = chosen & (replacement >= MASKED_SHARE)
    randomized &= replacement < MASKED_SHARE + RANDOM_SHARE
    masked = np.where(chosen & (replacement < MASKED_SHARE), mask_token_id, ids)
    masked = np.where(randomized, random.choice(ordinary_ids, ids.shape), masked)
    return masked, np.where(chosen, ids, IGNORED_LABEL)


class MaskedBatches:
    """Batches for masked language modelling; they depend only on the seed, the epoch and the index.

    :class:`BatchOrder` decides which sequences form a batch.

    Args:
        sequences: the tokenized text.
        tokenizer: the one that tokenized it.
        batch_size: sequences per batch.
        probability: the probability with which a token is chosen.
        whole_words: choose whole words, not single tokens.
        seed: for the order and the masks.
        shuffle: False keeps the sequences in order and their masks the same in every epoch.

    Raises:
        ValueError: there are no sequences, or an argument is invalid.
    """

    def __init__(
        self,
        sequences: TokenSequences,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        probability: float = 0.15,
        whole_words: bool = False,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        if not 0 < probability < 1:
            raise ValueError(f"probability={probability} must be between 0 and 1")
        self.sequences = sequences
        self.order = BatchOrder(
            sequences.lengths, batch_size=batch_size, seed=seed, shuffle=shuffle
        )
        self.probability = probability
        self.whole_words = whole_words
        self.seed = seed
        self.pad_token_id = tokenizer.pad_token_id
        self.mask_token_id = tokenizer.mask_token_id
        self.ordinary_ids = ordinary_ids(tokenizer)

    @property
    def num_batches(self) -> int:
        """Number of batches per epoch."""
        return self.order.num_batches

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` and `labels`: (B, T) int64 each."""
        epoch = epoch if self.order.shuffle else 0
        indices = self.order.example_indices(epoch, index)
        ids, starts_word, attention_mask = self._pad(indices)
        masked, labels = mask_tokens(
            ids,
            starts_word if self.whole_words else None,
            random=np.random.default_rng([self.seed, epoch, index]),
            probability=self.probability,
            mask_token_id=self.mask_token_id,
            ordinary_ids=self.ordinary_ids,
        )
        return {
            "input_ids": torch.from_numpy(masked).long(),
            "attention_mask": torch.from_numpy(attention_mask).long(),
            "labels": torch.from_numpy(labels).long(),
        }

    def _pad(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ids, the beginnings of words and the padding mask of sequences, (B, T) each."""
        sequences = self.sequences
        lengths = sequences.lengths[indices]
        shape = (len(indices), int(lengths.max()))
        ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        starts_word = np.ones(shape, dtype=bool)
        for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
            begin = sequences.bounds[index]
            ids[row, :length] = sequences.ids[begin : begin + length]
            starts_word[row, :length] = sequences.starts_word[begin : begin + length]
        return ids, starts_word, np.arange(shape[1]) < lengths[:, None]

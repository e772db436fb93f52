"""Masked-language-model batches (Devlin et al. 2018, section 3.1), masked anew in every epoch.

B batch, T tokens.
"""

import numpy as np
import torch
from torch import Tensor

from minitransformer.models.losses import IGNORED_LABEL
from minitransformer.tokenization import Tokenizer
from train.batching import BatchOrder
from train.text import TokenSequences

MASKED_SHARE = 0.8  # of the chosen tokens become the mask token,
RANDOM_SHARE = 0.1  # these a random one, and the rest stays


def mask_tokens(
    ids: np.ndarray,
    starts_word: np.ndarray | None,
    *,
    random: np.random.Generator,
    probability: float,
    mask_token_id: int,
    ordinary_ids: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose tokens to be predicted, and mask most of them.

    Args:
        ids: (B, T) int.
        starts_word: (B, T) bool: words are chosen whole, each with `probability`; None: tokens
            are chosen one by one.
        random: draws everything.
        probability: of a word or token to be chosen.
        mask_token_id: what most of the chosen ones become.
        ordinary_ids: the ids that may be chosen, and drawn as random ones: neither special
            tokens nor padding.

    Returns:
        The ids with mask and random tokens, (B, T), and the labels, (B, T) int64: the id where a
        token was chosen, -100 elsewhere.
    """
    ordinary = np.isin(ids, ordinary_ids)
    draws = random.random(ids.shape)
    if starts_word is not None:
        # Every token takes the draw of the first token of its word.
        first = np.where(starts_word, np.arange(ids.shape[1]), 0)
        draws = np.take_along_axis(draws, np.maximum.accumulate(first, axis=1), axis=1)
    chosen = ordinary & (draws < probability)
    fate = random.random(ids.shape)
    randomized = chosen & (fate >= MASKED_SHARE) & (fate < MASKED_SHARE + RANDOM_SHARE)
    masked = np.where(chosen & (fate < MASKED_SHARE), mask_token_id, ids)
    masked = np.where(randomized, random.choice(ordinary_ids, ids.shape), masked)
    return masked, np.where(chosen, ids, IGNORED_LABEL)


class MaskedBatches:
    """Batches for masked language modelling, each a function of seed, epoch and number alone.

    Which sequences meet in a batch is said by :class:`BatchOrder`.

    Args:
        sequences: the text.
        tokenizer: that made them.
        batch_size: sequences a batch.
        probability: of a token to be chosen.
        whole_words: choose words, not tokens.
        seed: of order and masks.
        shuffle: False keeps sequences in order and masks them the same way in every epoch.

    Raises:
        ValueError: there are no sequences, or a number has no meaning.
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
            raise ValueError(f"probability={probability} must lie between 0 and 1")
        self.sequences = sequences
        self.order = BatchOrder(
            sequences.lengths, batch_size=batch_size, seed=seed, shuffle=shuffle
        )
        self.probability = probability
        self.whole_words = whole_words
        self.seed = seed
        self.pad_token_id = tokenizer.pad_token_id
        self.mask_token_id = tokenizer.mask_token_id
        self.ordinary_ids = np.setdiff1d(
            np.arange(tokenizer.vocab_size), list(tokenizer.special_ids)
        )

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return self.order.num_batches

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` and `labels`: (B, T) int64 each."""
        epoch = epoch if self.order.shuffle else 0
        numbers = self.order.examples(epoch, index)
        ids, starts_word, attention_mask = self._pad(numbers)
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

    def _pad(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids, beginnings of words and padding mask of these sequences, (B, T) each."""
        sequences = self.sequences
        lengths = sequences.lengths[numbers]
        shape = (len(numbers), int(lengths.max()))
        ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        starts_word = np.ones(shape, dtype=bool)
        for row, (number, length) in enumerate(zip(numbers, lengths, strict=True)):
            begin = sequences.bounds[number]
            ids[row, :length] = sequences.ids[begin : begin + length]
            starts_word[row, :length] = sequences.starts_word[begin : begin + length]
        return ids, starts_word, np.arange(shape[1]) < lengths[:, None]

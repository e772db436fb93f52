"""What counting alone knows of a text: the losses that a language model has to beat.

Both count on the text that the model is trained on, in the model's own tokens, and guess the same
tokens of another text: all but the first. N tokens, V vocabulary.
"""

import numpy as np


def unigram_loss(ids: np.ndarray, held_out: np.ndarray, vocab_size: int) -> float:
    """Nats a token of one who knows how often each token occurs, and reads nothing.

    A token's probability is its count plus one, so that an unseen token has one too.

    Args:
        ids: (N,), counted.
        held_out: (N',), guessed.
        vocab_size: V.
    """
    return float(-np.log(_unigram(ids, vocab_size)[held_out[1:]]).mean())


def bigram_loss(ids: np.ndarray, held_out: np.ndarray, vocab_size: int) -> float:
    """Nats a token of one who knows how often each token follows each other one.

    Smoothed as Witten and Bell (1991) do: after a token that occurred n times with t different
    successors, a new successor is as likely as if t of n + t cases had been new ones, and which one
    it is, is left to the unigram guess. So

        p(w | v) = (count(v, w) + t(v) p(w)) / (n(v) + t(v)),

    where no pair has the probability zero. On small texts this is as good as finer methods, and
    much better than to add one to every count.

    Args:
        ids, held_out, vocab_size: as in :func:`unigram_loss`.
    """
    pairs, counts = np.unique(_pairs(ids, vocab_size), return_counts=True)
    occurred = np.bincount(ids[:-1], minlength=vocab_size)  # (V,) n
    successors = np.bincount(pairs // vocab_size, minlength=vocab_size)  # (V,) t

    wanted = _pairs(held_out, vocab_size)  # (N' - 1,)
    nearest = np.searchsorted(pairs, wanted).clip(max=len(pairs) - 1)
    seen = np.where(pairs[nearest] == wanted, counts[nearest], 0)  # (N' - 1,)
    before, after = held_out[:-1], held_out[1:]
    guess = _unigram(ids, vocab_size)[after]
    total = occurred[before] + successors[before]
    # Where nothing was ever seen to follow, there are no pairs to go by.
    probability = np.where(
        total > 0, (seen + successors[before] * guess) / np.maximum(total, 1), guess
    )
    return float(-np.log(probability).mean())


def _unigram(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """(V,) probabilities."""
    counts = np.bincount(ids, minlength=vocab_size) + 1
    return counts / counts.sum()


def _pairs(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """(N - 1,) one number for each token and the next."""
    return ids[:-1].astype(np.int64) * vocab_size + ids[1:]

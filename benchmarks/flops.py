"""How many floating-point operations a batch takes, by formula: matrix products alone.

A product of (m, k) and (k, n) takes 2 m k n of them. Backward takes twice as many as forward: one
product for the gradient of each factor. What is not a product (norms, GELU, softmax, dropout, the
optimizer) is a percent or two of the operations, though more than that of the time.

Two numbers are of interest. *Necessary* is what the loss depends on: real tokens, the last layer at
places that somebody asks for, and scores there. *Executed* is what is computed, padding included.

E hidden size, I intermediate size, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np

TRAINING = 3  # forward and backward together, by forward alone


@dataclass(frozen=True)
class EncoderSizes:
    """The sizes of a BERT-like encoder; the defaults are those of DistilBERT.

    The number of heads has no influence on the count.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 3072

    def layer(self, tokens: int, wanted: int, pairs: int) -> int:
        """One layer.

        Args:
            tokens: that give keys and values.
            wanted: tokens that give queries, and for which the layer is computed.
            pairs: of a query and a key that meet.
        """
        E, I = self.hidden_size, self.intermediate_size  # noqa: E741
        keys_and_values = 4 * E * E * tokens
        queries_and_output = 4 * E * E * wanted
        attention = 4 * E * pairs
        feed_forward = 4 * E * I * wanted
        return keys_and_values + queries_and_output + attention + feed_forward

    def encoder(self, lengths: np.ndarray, wanted: np.ndarray | None = None) -> int:
        """All layers.

        Args:
            lengths: (B,) tokens of each row.
            wanted: (B,) how many of them the last layer computes; None for all.
        """
        lengths = lengths.astype(np.int64)
        wanted = lengths if wanted is None else wanted.astype(np.int64)
        tokens = int(lengths.sum())
        whole = self.layer(tokens, tokens, int((lengths**2).sum()))
        last = self.layer(tokens, int(wanted.sum()), int((lengths * wanted).sum()))
        return (self.num_hidden_layers - 1) * whole + last

    def word_scores(self, tokens: int, vocab_size: int) -> int:
        """The head that guesses words: a dense layer and a score for each word."""
        return 2 * self.hidden_size * (self.hidden_size + vocab_size) * tokens

    def span_scores(self, tokens: int) -> int:
        """The head of question answering: two scores a token."""
        return 4 * self.hidden_size * tokens

    def class_scores(self, texts: int, num_labels: int) -> int:
        """The head of sequence classification: a dense layer and a score for each class."""
        return 2 * self.hidden_size * (self.hidden_size + num_labels) * texts

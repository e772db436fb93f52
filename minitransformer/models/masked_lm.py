"""Masked language modelling: which word was here? (Devlin et al. 2018, section 3.1)

B batch, T tokens, N labelled tokens, E hidden size, V vocabulary.
"""

import torch
from torch import Tensor, nn

from minitransformer.layers.activations import activation_named
from minitransformer.layers.linear import Linear, linear
from minitransformer.layers.norm import LayerNorm
from minitransformer.layers.rows import chosen_rows
from minitransformer.layers.shortcuts import nobody_listens
from minitransformer.layers.tied_words import tied_words
from minitransformer.layers.word_loss import WordScores
from minitransformer.models.base import mean_loss
from minitransformer.models.heads import EncoderTask, summed_cross_entropy, summed_word_loss
from minitransformer.models.inputs import IGNORED_LABEL, check_labels, check_same_shape
from minitransformer.models.outputs import MaskedLMOutput
from minitransformer.names import strict_names


class MaskedLMHead(nn.Module):
    """Linear, activation, norm, then a score for each word of the vocabulary.

    The last matrix is the word embedding itself ("tied"), so it is handed in, not stored here.
    """

    def __init__(self, hidden_size: int, vocab_size: int, activation: str, eps: float) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)
        self.activation = activation_named(activation)
        self.norm = LayerNorm(hidden_size, eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        """(..., E) and (V, E) to (..., V)."""
        return linear(*self.word_scores(hidden, word_embeddings), self.training)

    def word_scores(self, hidden: Tensor, word_embeddings: Tensor) -> WordScores:
        """What the scores are made of, of (..., E) and (V, E)."""
        hidden = self.norm(self.activation(self.dense(hidden)))  # (..., E)
        return WordScores(hidden, word_embeddings, self.bias)


class MaskedLM(EncoderTask):
    """Base of the models that guess masked words: a backbone and an `lm_head`."""

    guesses_words = True
    lm_head: MaskedLMHead

    @strict_names
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> MaskedLMOutput:
        """Score every word of the vocabulary at every place.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 or True at real tokens; may be left out where none is padded.
            token_type_ids: (B, T) int64; 0 by default.
            labels: (B, T) int64, the right word where one is asked for, -100 elsewhere.
            output_hidden_states: collect what enters the layers, and what leaves each of them.
            output_attentions: collect each layer's attention map.

        Raises:
            ValueError: an input's shape, dtype or values are off.
        """
        if labels is not None:
            check_labels(labels, input_ids, attention_mask, self.config.vocab_size)
        hidden, record = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            hidden_states=output_hidden_states,
            attentions=output_attentions,
        )
        logits = self.lm_head(hidden, self.backbone.embeddings.words.weight)  # (B, T, V)
        loss = count = None
        if labels is not None:
            total, count = summed_cross_entropy(logits, labels)
            loss = mean_loss(total, count)
        return MaskedLMOutput(
            logits=logits, loss=loss, num_supervised_tokens=count, **record.fields()
        )

    @strict_names
    def logits_at(
        self,
        places: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """The logits of `forward` at the chosen places alone, for a fraction of the work.

        Only they are projected to the vocabulary, and the last layer computes queries, output
        and feed-forward only for them; nothing later looks at the others, so this is exact.

        Args:
            places: (B, T) bool.
            input_ids, attention_mask, token_type_ids: as in `forward`.

        Returns:
            (N, V), in the order of `places.nonzero()`.
        """
        check_same_shape("places", places, input_ids)
        if places.dtype != torch.bool:
            raise ValueError(f"places has dtype {places.dtype}; torch.bool is needed")
        hidden = self._hidden_at(places, input_ids, attention_mask, token_type_ids)  # (N, E)
        return self.lm_head(hidden, self.backbone.embeddings.words.weight)  # (N, V)

    @strict_names
    def summed_loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The sum of the losses of the labelled tokens, and how many those are.

        Divide by the number of the whole batch, over all of its micro-batches.
        """
        check_labels(labels, input_ids, attention_mask, self.config.vocab_size)
        places = labels != IGNORED_LABEL  # (B, T)
        labels = labels[places]  # (N,)
        if not self._scores_as_usual():
            logits = self.logits_at(places, input_ids, attention_mask, token_type_ids)  # (N, V)
            return summed_cross_entropy(logits, labels)
        with tied_words(self.backbone.embeddings.words) as tied:
            hidden = self._hidden_at(places, input_ids, attention_mask, token_type_ids)  # (N, E)
        scores = self.lm_head.word_scores(hidden, tied.table)
        return summed_word_loss(scores, labels, self.lm_head.training)

    def _scores_as_usual(self) -> bool:
        """Whether nobody has replaced how words are scored, nor listens to the scores."""
        return (
            type(self.lm_head) is MaskedLMHead
            and nobody_listens(self.lm_head)
            and getattr(self.logits_at, "__func__", None) is MaskedLM.logits_at
        )

    def _hidden_at(
        self,
        places: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
    ) -> Tensor:
        """The last hidden state at the chosen places, (N, E), without the others'."""
        wanted = chosen_rows(places)
        return self.encode(input_ids, attention_mask, token_type_ids, wanted=wanted)[0]

"""What all models that write have in common: a score for each word that may come next.

B batch, T tokens, N labelled tokens, E hidden size, V vocabulary.
"""

from typing import Any

from torch import Tensor, nn

from minitransformer.layers.reordered_weights import reordered_linear
from minitransformer.layers.word_loss import WordScores
from minitransformer.models.base import TaskModel
from minitransformer.models.config import Config
from minitransformer.models.generation_config import GenerationConfig
from minitransformer.models.heads import (
    Labelled,
    summed_cross_entropy,
    summed_word_loss,
)


class GenerativeModel(TaskModel):
    """Base of the models that write: they score the words that may come next.

    Attributes:
        generation_config: how the checkpoint wants to be asked; at first what the config says of
            tokens. Its fields are the defaults of :func:`minitransformer.generate`.
        said_of_tasks: what the checkpoint's config.json says of single tasks, kept as it stands.
        reorder_weights: whether a CPU that writes may keep a second copy of the decoder's weights
            in the order that it reads fastest. Set it to False where memory is short.
        record_steps: whether a GPU that writes may keep the step for a token as a CUDA graph.
            Threads record in turn; False is for a process that records graphs of its own too.
    """

    guesses_words = True

    def __init__(self, config: Config, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.generation_config = GenerationConfig.from_model_config(config)
        self.said_of_tasks: dict[str, Any] = {}
        self.reorder_weights = True
        self.record_steps = True

    @property
    def head(self) -> nn.Embedding | nn.Linear:
        """The module whose weight, (V, E), scores the words: the word embedding."""
        return getattr(self, self.backbone_name).words

    def word_scores(self, hidden: Tensor) -> WordScores:
        """What the scores of words are made of: (..., E), the head's weight and a bias."""
        return WordScores(hidden, self.head.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """Score each word of the vocabulary: (..., E) to (..., V).

        A subclass that scores them in another way says so here, and `loss` follows.
        """
        return reordered_linear(*self.word_scores(hidden), training=self.training)

    def _summed_word_loss(self, hidden: Tensor, labelled: Labelled) -> tuple[Tensor, Tensor]:
        """Of (B, T, E), scored only where there is a label."""
        hidden = labelled.rows(hidden)  # (N, E)
        if getattr(self.logits, "__func__", None) is not GenerativeModel.logits:  # replaced
            return summed_cross_entropy(self.logits(hidden), labelled.labels)
        return summed_word_loss(self.word_scores(hidden), labelled.labels, self.training)

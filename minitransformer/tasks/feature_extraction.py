"""Feature extraction: vectors of texts. B batch, T tokens, N texts, E hidden size."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from minitransformer.models.base import Model, TaskModel
from minitransformer.models.bert import BertModel
from minitransformer.names import unexpected_name
from minitransformer.tasks.base import Task, as_texts
from minitransformer.tokenization import Tokenizer

_POOLINGS = ("cls", "mean")


class FeatureExtraction(Task):
    """Callable that returns the last hidden states of texts, for each token or pooled.

    Without pooling, the result is that of transformers' pipeline.

    Args:
        model: an encoder; if it has a task head, its backbone is used.
        tokenizer: the model's tokenizer.
        batch_size: the maximum number of texts in a batch.

    Raises:
        ValueError: the model is not an encoder, or the tokenizer has more tokens than the model has
            embeddings.
    """

    name = "feature-extraction"
    model_class = BertModel  # base class of all encoders
    example = "BertModel"
    model: BertModel

    def __init__(self, model: Model, tokenizer: Tokenizer, *, batch_size: int = 32) -> None:
        super().__init__(model, tokenizer, batch_size=batch_size)
        if isinstance(model, TaskModel):
            self.model = model.backbone

    @classmethod
    def supports(cls, model_class: type) -> bool:
        """Whether models of this class do the task: encoders, with or without a task head."""
        return super().supports(getattr(model_class, "backbone_class", model_class))

    def __call__(
        self, texts: str | Sequence[str], *, pooling: str | None = None
    ) -> Tensor | list[Tensor]:
        """Encode every text.

        Args:
            texts: one or several.
            pooling: "cls" takes the vector of the first token; "mean" averages the vectors of all
                tokens, special tokens included, as sentence-transformers does; None returns all.

        Returns:
            float32 on the CPU. With pooling: (E,) for one text, (N, E) for several. Without: (T, E)
            for one text of T tokens, for several a list of such tensors.

        Warns:
            UserWarning: texts exceeded the model's maximum length and were truncated.

        Raises:
            TypeError: a text is not a string.
            ValueError: a text is empty, or the pooling is unknown.
        """
        if pooling is not None and pooling not in _POOLINGS:
            raise ValueError(unexpected_name("pooling", str(pooling), _POOLINGS))
        batch = self._encode(as_texts("texts", texts))
        features = self._run(batch, lambda inputs: self._features(inputs, pooling))
        if isinstance(texts, str):
            return features[0]
        if pooling is None:
            return features
        return torch.stack(features) if features else torch.empty(0, self.model.config.hidden_size)

    def _features(self, inputs: dict[str, Tensor], pooling: str | None) -> Iterable[Tensor]:
        """(T, E) without padding, or (E,), for each of B sequences."""
        mask = inputs["attention_mask"]
        hidden = self._finite(self.model(**inputs).last_hidden_state, mask)  # (B, T, E)
        for states, length in zip(hidden, mask.sum(dim=1).tolist(), strict=True):
            real = states[:length]  # (T, E); padding is on the right
            if pooling is None:
                yield real.clone()  # a view would keep the whole batch in memory
            else:
                yield real[0].clone() if pooling == "cls" else real.mean(dim=0)

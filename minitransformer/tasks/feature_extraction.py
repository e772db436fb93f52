"""Feature extraction: vectors of texts. B batch, T tokens, N texts, E hidden size."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from minitransformer.models.base import Model, TaskModel
from minitransformer.models.bert import BertModel
from minitransformer.names import shortened, unexpected_name
from minitransformer.tasks.base import Task, as_texts, takes_any_inputs
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

    @takes_any_inputs
    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        pooling: str | None = None,
        return_tensors: bool | str = False,
        truncation: bool | None = None,
        max_length: int | None = None,
    ) -> Any:
        """Encode every text.

        Args:
            texts: one or several.
            pooling: "cls" takes the vector of the first token; "mean" averages the vectors of all
                tokens, special tokens included, as sentence-transformers does; None returns all.
            return_tensors: without pooling, whether to return tensors; "pt" means True.
            truncation: True truncates long texts without a warning, False makes them an error.
            max_length: in tokens; by default, and at most, that of the model.

        Returns:
            float32 on the CPU. With pooling, tensors: (E,) for one text, (N, E) for several.
            Without, for one text of T tokens nested lists of numbers, or a tensor, of the shape
            (1, T, E); for several texts a list of those.

        Warns:
            UserWarning: texts exceeded the maximum length and were truncated.

        Raises:
            TypeError: a text is not a string.
            ValueError: a text is empty or, with `truncation=False`, too long; the pooling is
                unknown, or `return_tensors` names another library.
        """
        if pooling is not None and pooling not in _POOLINGS:
            raise ValueError(unexpected_name("pooling", str(pooling), _POOLINGS))
        if return_tensors not in (True, False, None, "pt"):
            raise ValueError(
                f"return_tensors={shortened(return_tensors)} must be 'pt', True or False; "
                "tensor.numpy() converts a tensor to NumPy"
            )
        batch = self._encode(as_texts("texts", texts), truncation=truncation, max_length=max_length)
        features = self._run(batch, lambda inputs: self._features(inputs, pooling))
        if pooling is None:
            every = [one[None] if return_tensors else [one.tolist()] for one in features]
            return every[0] if isinstance(texts, str) else every
        if isinstance(texts, str):
            return features[0]
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

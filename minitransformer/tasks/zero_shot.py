"""Zero-shot classification: into classes that the model was not trained on (Yin et al. 2019).

For each class, a model for natural language inference predicts whether the text entails the
hypothesis "This example is <class>."

B batch, N texts, L candidate labels, C classes of the model.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from minitransformer.models.base import Model, SequenceClassifier
from minitransformer.names import listed, shortened
from minitransformer.tasks.base import Task, as_texts, takes_any_inputs
from minitransformer.tokenization import Tokenizer

_PLACEHOLDER = "{}"  # stands for the label in the template


class ZeroShotClassification(Task):
    """Callable that ranks arbitrary labels for texts, as transformers' pipeline does.

    Args:
        model: a sequence classifier trained on natural language inference. The name of one class in
            `id2label` must begin with "entail", ignoring case. The class of contradiction is the
            one whose name begins with "contradict"; if there is none, it is the first class, or the
            last if the first is entailment. (transformers always takes the first or the last.)
        tokenizer: the model's tokenizer.
        batch_size: the maximum number of pairs of text and label in a batch.

    Raises:
        ValueError: the model does not classify texts, none of its classes is entailment, or the
            tokenizer has more tokens than the model has embeddings.
    """

    name = "zero-shot-classification"
    model_class = SequenceClassifier
    example = "BertForSequenceClassification"
    other_names: ClassVar = {**Task.other_names, "sequences": "texts", "multi_class": "multi_label"}
    model: SequenceClassifier

    def __init__(self, model: Model, tokenizer: Tokenizer, *, batch_size: int = 32) -> None:
        super().__init__(model, tokenizer, batch_size=batch_size)
        names = self.model.config.id2label
        entailment = _class_with_prefix(names, "entail")
        if entailment is None or len(names) < 2:
            raise ValueError(
                "zero-shot-classification needs a model for natural language inference, with a "
                f"class 'entailment' among several; its classes are: {listed(names.values())}"
            )
        contradiction = _class_with_prefix(names, "contradict")
        if contradiction is None:
            contradiction = len(names) - 1 if entailment == 0 else 0
        self.entailment, self.contradiction = entailment, contradiction

    @takes_any_inputs
    def __call__(
        self,
        texts: str | Sequence[str],
        candidate_labels: str | Sequence[str],
        *,
        hypothesis_template: str = "This example is {}.",
        multi_label: bool = False,
    ) -> Any:
        """Rank the labels for every text.

        Args:
            texts: one or several.
            candidate_labels: a list, or one string with the labels separated by commas.
            hypothesis_template: the hypothesis, with {} for the label, in the language of the
                texts.
            multi_label: True scores each label independently, by entailment against contradiction;
                False treats the labels as alternatives, whose scores sum to 1. A single label is
                always scored independently.

        Returns:
            For one text: a dict with `sequence` (the text), `labels`, best first, and their
            `scores`. For several: a list of such dicts.

        Warns:
            UserWarning: texts exceeded the model's maximum length and were truncated; hypotheses
                are never truncated.

        Raises:
            TypeError: a text or label is not a string.
            ValueError: a text is empty, a label is empty or occurs twice, there is no label, the
                template has no {}, or a hypothesis leaves no room for the text.
        """
        labels = _labels(candidate_labels)
        if not isinstance(hypothesis_template, str) or _PLACEHOLDER not in hypothesis_template:
            raise ValueError(
                f"hypothesis_template={shortened(hypothesis_template)} has no {_PLACEHOLDER}; "
                "put it where the label belongs"
            )
        premises = as_texts("texts", texts)
        hypotheses = [hypothesis_template.replace(_PLACEHOLDER, label) for label in labels]
        batch = self._encode(
            [premise for premise in premises for _ in labels],
            hypotheses * len(premises),
            of_pairs="only_first",
            sequences_per_text=len(labels),
        )
        logits = self._run(batch, lambda inputs: self._finite(self.model(**inputs).logits))
        answers = [
            self._ranked(
                premise,
                labels,
                torch.stack(logits[number * len(labels) : (number + 1) * len(labels)]),
                independent=multi_label or len(labels) == 1,
            )
            for number, premise in enumerate(premises)
        ]
        return answers[0] if isinstance(texts, str) else answers

    def _ranked(
        self, text: str, labels: list[str], logits: Tensor, independent: bool
    ) -> dict[str, Any]:
        """Rank the labels by the logits of their hypotheses, (L, C)."""
        if independent:
            pairs = logits[:, [self.contradiction, self.entailment]]  # (L, 2)
            scores = pairs.softmax(dim=1)[:, 1]  # (L,)
        else:
            scores = logits[:, self.entailment].softmax(dim=0)  # (L,)
        best = scores.sort(descending=True, stable=True)
        return {
            "sequence": text,
            "labels": [labels[number] for number in best.indices.tolist()],
            "scores": best.values.tolist(),
        }


def _class_with_prefix(names: dict[int, str], prefix: str) -> int | None:
    """The first class whose name begins with the prefix, ignoring case."""
    for number, name in names.items():
        if name.lower().startswith(prefix):
            return number
    return None


def _labels(candidates: str | Sequence[str]) -> list[str]:
    if isinstance(candidates, str):
        candidates = [label.strip() for label in candidates.split(",") if label.strip()]
    labels = as_texts("candidate_labels", candidates)
    if not labels:
        raise ValueError("candidate_labels is empty; pass at least one")
    for number, label in enumerate(labels):
        if label in labels[:number]:
            raise ValueError(f"candidate_labels has {shortened(label)} twice; remove one")
    return labels

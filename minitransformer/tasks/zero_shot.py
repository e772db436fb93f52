"""Zero-shot classification: into classes that are named only in the call.

(Yin et al. 2019) A model of natural language inference is asked, for each class, whether the text
entails "This example is <class>."

B batch, N texts, L candidate labels, C classes of the model.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minitransformer.models.base import Model, SequenceClassifier
from minitransformer.tasks.base import Task, as_texts
from minitransformer.tokenization import Tokenizer

_PLACEHOLDER = "{}"  # of the label in the template


class ZeroShotClassification(Task):
    """Callable that ranks labels of the user's choice for texts, as transformers' pipeline does.

    Args:
        model: a sequence classifier trained on natural language inference. One of its classes in
            `id2label` begins with "entail", in any case. Its opposite is the one that begins with
            "contradict"; where none does, the first class, or the last if the first is entailment.
            (transformers always takes one of these two.)
        tokenizer: its tokenizer.
        batch_size: pairs of text and label in a batch, at most.

    Raises:
        ValueError: the model classifies no texts, none of its classes is entailment, or the
            tokenizer has more tokens than the model has embeddings.
    """

    name = "zero-shot-classification"
    model_class = SequenceClassifier
    example = "BertForSequenceClassification"
    model: SequenceClassifier

    def __init__(self, model: Model, tokenizer: Tokenizer, *, batch_size: int = 32) -> None:
        super().__init__(model, tokenizer, batch_size=batch_size)
        names = self.model.config.id2label
        entailment = _class_that_begins(names, "entail")
        if entailment is None or len(names) < 2:
            raise ValueError(
                "zero-shot-classification needs a model of natural language inference, with a "
                f"class 'entailment' among several; the classes are: {', '.join(names.values())}"
            )
        contradiction = _class_that_begins(names, "contradict")
        if contradiction is None:
            contradiction = len(names) - 1 if entailment == 0 else 0
        self.entailment, self.contradiction = entailment, contradiction

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
            candidate_labels: a list, or one text with commas between the labels.
            hypothesis_template: what the text is to entail, with {} for the label; in the language
                of the texts.
            multi_label: True scores each label alone, by entailment against contradiction; False
                takes the labels for alternatives, whose scores sum to 1. A single label is always
                scored alone.

        Returns:
            For one text: a dict with `sequence` (the text), `labels`, best first, and their
            `scores`. For several: a list of such.

        Warns:
            UserWarning: texts were longer than the model can take, and were truncated; the
                hypotheses are not.

        Raises:
            TypeError: a text or label is no str.
            ValueError: a text is empty, a label is empty or comes twice, there is no label, the
                template has no {}, or a hypothesis leaves no space for the text.
        """
        labels = _labels(candidate_labels)
        if not isinstance(hypothesis_template, str) or _PLACEHOLDER not in hypothesis_template:
            raise ValueError(
                f"hypothesis_template={hypothesis_template!r} has no {_PLACEHOLDER} for the label"
            )
        premises = as_texts("texts", texts)
        hypotheses = [hypothesis_template.replace(_PLACEHOLDER, label) for label in labels]
        batch = self._encode(
            [premise for premise in premises for _ in labels],
            hypotheses * len(premises),
            truncation="only_first",
            sequences_per_text=len(labels),
        )
        logits = self._run(batch, lambda inputs: self.model(**inputs).logits.float().cpu())
        answers = [
            self._ranked(
                premise,
                labels,
                torch.stack(logits[number * len(labels) : (number + 1) * len(labels)]),
                alone=multi_label or len(labels) == 1,
            )
            for number, premise in enumerate(premises)
        ]
        return answers[0] if isinstance(texts, str) else answers

    def _ranked(self, text: str, labels: list[str], logits: Tensor, alone: bool) -> dict[str, Any]:
        """The labels by the (L, C) scores of their hypotheses."""
        if alone:
            both = logits[:, [self.contradiction, self.entailment]]  # (L, 2)
            scores = both.softmax(dim=1)[:, 1]  # (L,)
        else:
            scores = logits[:, self.entailment].softmax(dim=0)  # (L,)
        best = scores.sort(descending=True, stable=True)
        return {
            "sequence": text,
            "labels": [labels[number] for number in best.indices.tolist()],
            "scores": best.values.tolist(),
        }


def _class_that_begins(names: dict[int, str], beginning: str) -> int | None:
    """The first class whose name begins so, in any case."""
    for number, name in names.items():
        if name.lower().startswith(beginning):
            return number
    return None


def _labels(candidates: str | Sequence[str]) -> list[str]:
    if isinstance(candidates, str):
        candidates = [label.strip() for label in candidates.split(",") if label.strip()]
    labels = as_texts("candidate_labels", candidates)
    if not labels:
        raise ValueError("candidate_labels is empty; name at least one")
    for number, label in enumerate(labels):
        if label in labels[:number]:
            raise ValueError(f"candidate_labels names {label!r} twice")
    return labels

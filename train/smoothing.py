"""Label smoothing (Szegedy et al. 2015, section 7): the label's class gets a probability below 1.

With smoothing s and C classes, the target distribution gives 1 - s + s / C to the label, and s / C
to every other class. The loss is the cross-entropy with it.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from minitransformer.hf.config import reference_class
from minitransformer.models.base import (
    LanguageModel,
    Seq2SeqLM,
    SequenceClassifier,
    TaskModel,
    next_token_labels,
)
from minitransformer.models.losses import IGNORED_LABEL, at_least_float32


def check_can_smooth(model: TaskModel) -> None:
    """Check that the loss of a model is a cross-entropy with one class as label.

    Raises:
        ValueError: it is not.
    """
    kind = model.problem_type if isinstance(model, SequenceClassifier) else None
    if kind not in (None, "single_label_classification"):
        raise ValueError(
            f"label_smoothing needs labels that are classes, but problem_type is {kind!r}; leave "
            "label_smoothing out"
        )
    if hasattr(model, "qa_outputs"):
        raise ValueError(
            "label_smoothing needs labels that are classes, but those of "
            f"{reference_class(model).__name__} are positions; leave label_smoothing out"
        )


def smoothed_loss_sum(model: TaskModel, smoothing: float, **batch: Any) -> tuple[Tensor, Tensor]:
    """As `model.loss_sum(**batch)`, with smoothed labels; computed from the logits.

    The mean, as of every loss here, is over the labelled tokens or texts: that of PyTorch's
    `cross_entropy(..., label_smoothing=smoothing)`, and of transformers' `label_smoothing_factor`.

    Args:
        model: for which :func:`check_can_smooth` raises no error.
        smoothing: from 0 to 1.
        batch: the arguments of `loss_sum`.
    """
    labels = batch["labels"]
    logits_at = getattr(model, "logits_at", None)
    if logits_at is not None:  # a masked language model: most of the tokens have no label
        labelled = labels != IGNORED_LABEL
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits, labels = logits_at(labelled, **inputs), labels[labelled]  # (N, V), (N,)
    else:
        logits = model(**batch).logits  # (B, T, V), or (B, C)
        if isinstance(model, LanguageModel) and not isinstance(model, Seq2SeqLM):
            labels = next_token_labels(labels, batch.get("attention_mask"))
    total = F.cross_entropy(
        at_least_float32(logits).flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        label_smoothing=smoothing,
        reduction="sum",
    )
    return total, (labels != IGNORED_LABEL).sum()

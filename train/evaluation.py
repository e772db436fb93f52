"""The evaluation of a model on held-out batches, with metrics of the user's own.

B examples, T tokens, C classes or tokens of the vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from minitransformer.hf.config import reference_class
from minitransformer.models.base import TaskModel
from minitransformer.models.losses import IGNORED_LABEL
from minitransformer.tokenization import Tokenizer
from train.config import TrainingConfig
from train.loaders import (
    Batch,
    Data,
    Examples,
    build_loader,
    check_batch,
    is_numbered,
    model_inputs,
    seeded,
)


class Predictions(NamedTuple):
    """What metrics are computed from, for all examples; `logits, labels = predictions`."""

    predictions: np.ndarray  # the logits, (B, C), or (B, T, C) with -100 at padding
    label_ids: np.ndarray  # (B,), or (B, T) with -100 at padding


class Evaluator:
    """The `evaluate` of :func:`train.loop.train`: the loss, and metrics of the user's own.

    Args:
        model: that is trained.
        data: the held-out batches or examples, as in `train`; a Dataset is not shuffled.
        config: of the run, for the precision and the device.
        compute_metrics: takes the logits and the labels of all examples as numpy arrays, as in
            transformers, and returns metrics; None for the loss alone.
        tokenizer, batch_size, collate_fn: of a Dataset, as in `train`.

    Raises:
        ValueError: `compute_metrics` is given, but the model's labels are positions.
    """

    def __init__(
        self,
        model: TaskModel,
        data: Data | DataLoader[Any] | Examples,
        config: TrainingConfig,
        compute_metrics: Callable[[Predictions], dict[str, Any]] | None = None,
        *,
        tokenizer: Tokenizer | None = None,
        batch_size: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.compute_metrics = compute_metrics
        if compute_metrics is not None and "labels" not in model_inputs(model):
            raise ValueError(
                "compute_metrics gets logits and labels, which "
                f"{reference_class(model).__name__} does not have; write an evaluate of your own"
            )
        self.data: Data | DataLoader[Any]
        if is_numbered(data):
            self.data = data
        else:
            self.data = build_loader(
                data,
                batch_size=batch_size,
                collate_fn=collate_fn,
                tokenizer=tokenizer,
                shuffle=False,
            )

    def __call__(self, should_stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
        """Evaluate the model, which must be in evaluation mode.

        Returns:
            `loss`, the mean over all labels of all batches, and the user's metrics; None if
            `should_stop` returned True.

        Raises:
            TypeError: `compute_metrics` returned no dict.
            ValueError: there is no label, or a batch does not fit the model.
        """
        total, count = 0.0, 0
        logits: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        for batch in tqdm(self._batches(), desc="evaluating", leave=False, unit="batch"):
            if should_stop():
                return None
            with torch.inference_mode(), self.config.autocast():
                if self.compute_metrics is None:
                    loss, number = self.model.loss_sum(**batch)
                else:
                    output = self.model(**batch)
                    number = self.model.num_supervised_tokens(batch)
                    loss = output.loss * number
                    logits.append(_array(output.logits))
                    labels.append(_array(batch["labels"]))
            total += float(loss)
            count += int(number)
        if not count:
            raise ValueError("there is no label in the data to evaluate on")
        metrics = {"loss": total / count}
        if self.compute_metrics is not None:
            own = self.compute_metrics(Predictions(_joined(logits), _joined(labels)))
            if not isinstance(own, dict):
                raise TypeError(
                    f"compute_metrics returned a {type(own).__name__}; it must return its metrics "
                    'as a dict, such as {"accuracy": 0.75}'
                )
            metrics |= own
        return metrics

    def _batches(self) -> Iterator[Batch]:
        device = next(self.model.parameters()).device
        names = model_inputs(self.model)
        batches = self.data if isinstance(self.data, DataLoader) else _of_an_epoch(self.data)
        with seeded(0):  # a loader, or its collator, may draw numbers
            for batch in batches:
                checked = check_batch(batch, self.model, names)
                yield {name: tensor.to(device) for name, tensor in checked.items()}


def _of_an_epoch(data: Data) -> Iterator[Batch]:
    for index in range(data.num_batches):
        yield data.batch(0, index)


def _array(tensor: Tensor) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """Batches of unequal length T as one array, with -100 where there is no token."""
    if arrays[0].ndim == 1 or len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    length = max(array.shape[1] for array in arrays)
    return np.concatenate(
        [
            np.pad(
                array,
                [(0, 0), (0, length - array.shape[1]), *[(0, 0)] * (array.ndim - 2)],
                constant_values=IGNORED_LABEL,
            )
            for array in arrays
        ]
    )

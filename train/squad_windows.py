"""SQuAD windows through a model: batches to train on, and predictions of whole files.

B windows, T tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from minitransformer.tasks.spans import (
    Prediction,
    Window,
    best_spans,
    join_windows,
    may_be_answer,
)
from train.batching import BatchOrder, pad_rows
from train.squad_features import Features


class WindowBatches:
    """Batches of labelled windows of like length; each a function of seed, epoch and number.

    Args:
        features: the windows; those that are not trainable are left out.
        pad_token_id: of the tokenizer.
        batch_size: windows a batch.
        seed: of the order.

    Raises:
        ValueError: no window is left.
    """

    def __init__(
        self, features: Features, *, pad_token_id: int, batch_size: int, seed: int = 0
    ) -> None:
        self.features = features
        self.pad_token_id = pad_token_id
        self.windows = np.flatnonzero(features.trainable)
        self.order = BatchOrder(
            features.lengths[self.windows], batch_size=batch_size, seed=seed, shuffle=True
        )

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return self.order.num_batches

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        """The inputs of the model, (B, T) int64 each, and the places of the answers, (B,)."""
        windows = self.windows[self.order.rows(epoch, index)]
        return window_inputs(self.features, windows, self.pad_token_id) | {
            "start_positions": torch.from_numpy(self.features.start_positions[windows]).long(),
            "end_positions": torch.from_numpy(self.features.end_positions[windows]).long(),
        }


def window_inputs(
    features: Features, windows: Sequence[int] | np.ndarray, pad_token_id: int
) -> dict[str, Tensor]:
    """The windows padded on the right: `input_ids`, `attention_mask`, perhaps `token_type_ids`."""
    places = [features.tokens(window) for window in windows]
    ids = [features.input_ids[place] for place in places]
    inputs = {
        "input_ids": pad_rows(ids, pad_token_id),
        "attention_mask": pad_rows([np.ones(len(row), np.int64) for row in ids], 0),
    }
    if features.token_type_ids is not None:
        inputs["token_type_ids"] = pad_rows([features.token_type_ids[place] for place in places], 0)
    return inputs


@dataclass(frozen=True)
class Predictions:
    """What a model makes of a file.

    Attributes:
        questions: what the windows of each question say, by its number.
        loss: the mean over the windows, in nats.
        start_accuracy, end_accuracy: the share of windows whose likeliest first, or last, token is
            the labelled one. Course material reports these. They count tokens, not answers: a
            window without the answer counts as right where [CLS] wins, a span that ends one token
            late is half right, and of several gold answers only the first counts.
    """

    questions: dict[int, Prediction]
    loss: float
    start_accuracy: float
    end_accuracy: float


@torch.inference_mode()
def predict(
    model: nn.Module,
    features: Features,
    contexts: Sequence[str],
    *,
    pad_token_id: int,
    batch_size: int,
    max_answer_tokens: int = 30,
    top_k: int = 20,
    bf16: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Predictions | None:
    """Run every window through the model and join those of each question.

    Args:
        model: for question answering, in evaluation mode.
        features: the windows.
        contexts: of the questions that they were made of.
        pad_token_id: of the tokenizer.
        batch_size: windows a batch; those of like length go together.
        max_answer_tokens: no answer is longer.
        top_k: spans to keep of each question.
        bf16: compute in bfloat16.
        should_stop: asked before every batch whether to give up.

    Returns:
        None if `should_stop` said so.
    """
    device = next(model.parameters()).device
    by_length = np.argsort(features.lengths, kind="stable")
    allowed = _may_be_answer(features, contexts)
    of_each: dict[int, list[Window]] = {}
    figures = _Figures()
    for begin in tqdm(
        range(0, len(by_length), batch_size), desc="answering", leave=False, unit="batch"
    ):
        if should_stop():
            return None
        windows = by_length[begin : begin + batch_size]
        inputs = window_inputs(features, windows, pad_token_id)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output = model(**{name: tensor.to(device) for name, tensor in inputs.items()})
        start_logits = _at_real_tokens(output.start_logits, inputs["attention_mask"])
        end_logits = _at_real_tokens(output.end_logits, inputs["attention_mask"])
        found = best_spans(
            start_logits,
            end_logits,
            allowed=pad_rows([allowed[features.tokens(window)] for window in windows], 0).bool(),
            cls_places=torch.zeros(len(windows), dtype=torch.int64),
            max_answer_tokens=max_answer_tokens,
            top_k=top_k,
        )
        for row, window in enumerate(windows):
            offsets = features.offsets[features.tokens(window)].tolist()
            of_each.setdefault(int(features.example_index[window]), []).append(
                found.window(row, offsets)
            )
        figures.add(features, windows, start_logits, end_logits)
    return Predictions(
        questions={
            question: join_windows(joined, top_k=top_k) for question, joined in of_each.items()
        },
        loss=figures.loss / max(1, figures.windows),
        start_accuracy=figures.right_starts / max(1, figures.windows),
        end_accuracy=figures.right_ends / max(1, figures.windows),
    )


@dataclass
class _Figures:
    """Sums over the windows whose labels are known."""

    loss: float = 0.0
    right_starts: int = 0
    right_ends: int = 0
    windows: int = 0

    def add(
        self, features: Features, windows: np.ndarray, start_logits: Tensor, end_logits: Tensor
    ) -> None:
        """Add some windows with their logits, (B, T) twice."""
        # A question whose answer no window holds has no labels to be measured by.
        known = features.trainable[windows]
        if not known.any():
            return
        starts = torch.from_numpy(features.start_positions[windows][known]).long()
        ends = torch.from_numpy(features.end_positions[windows][known]).long()
        start_logits, end_logits = start_logits[known], end_logits[known]
        for logits, places in ((start_logits, starts), (end_logits, ends)):
            self.loss += float(nn.functional.cross_entropy(logits, places, reduction="sum")) / 2
        self.right_starts += int((start_logits.argmax(dim=1) == starts).sum())
        self.right_ends += int((end_logits.argmax(dim=1) == ends).sum())
        self.windows += len(starts)


def _may_be_answer(features: Features, contexts: Sequence[str]) -> np.ndarray:
    """(N,) bool: of the tokens of all windows those that may begin and end an answer."""
    allowed = np.zeros(len(features.input_ids), dtype=bool)
    for window in range(len(features)):
        tokens = features.tokens(window)
        allowed[tokens] = may_be_answer(
            contexts[features.example_index[window]],
            features.offsets[tokens].tolist(),
            int(features.context_start[window]),
            int(features.context_end[window]),
        )
    return allowed


def _at_real_tokens(logits: Tensor, attention_mask: Tensor) -> Tensor:
    """(B, T) on the CPU, in float32, with no chance for padding."""
    return logits.cpu().float().masked_fill(attention_mask == 0, -torch.inf)

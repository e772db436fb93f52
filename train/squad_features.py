"""Convert SQuAD examples to windows of tokens, labelled with the first and last answer token.

A window contains the question and as much of the context as fits. A context that is too long gives
several windows. Each repeats the last `stride` tokens of the one before, so that every answer of up
to `stride` + 1 tokens is complete in at least one window. :class:`WindowBatches` pads windows and
forms batches.

Letters: W windows, N tokens of all windows, B batch, T tokens of a batch.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minitransformer.names import shortened
from minitransformer.tokenization import BatchEncoding, Tokenizer
from train.batching import BatchOrder, pad_sequences
from train.squad import Answer, Example

_EXAMPLES_AT_ONCE = 256


@dataclass
class FeatureCounts:
    """Counts of examples and windows.

    Attributes:
        examples: questions.
        windows: windows of all questions.
        without_answer: windows labelled "no answer".
        truncated_questions: questions truncated to `max_question_length` tokens.
        unlocated: questions whose answers were all dropped when the file was read.
        lost_answers: answers that are not complete in any window, or have no token.
    """

    examples: int = 0
    windows: int = 0
    without_answer: int = 0
    truncated_questions: int = 0
    unlocated: int = 0
    lost_answers: int = 0

    def summary(self) -> str:
        """One line with all numbers."""
        return (
            f"{self.windows:,} windows ({self.without_answer:,} without the answer) of "
            f"{self.examples:,} questions ({self.truncated_questions:,} truncated, "
            f"{self.unlocated:,} whose answer was not located, {self.lost_answers:,} whose answer "
            "is in no window)"
        )


@dataclass(frozen=True)
class Features:
    """Windows of tokens, one after another in flat arrays.

    Attributes:
        input_ids: (N,) int32.
        token_type_ids: (N,) uint8, or None if the tokenizer returns none.
        offsets: (N, 2) int32: the characters (first, last + 1) of each context token, (0, 0) for
            all other tokens.
        bounds: (W + 1,) int64; window i is `input_ids[bounds[i] : bounds[i + 1]]`.
        context_start, context_end: (W,) int32: the tokens [start, end) of a window are context.
        start_positions, end_positions: (W,) int32: the first and the last token of the answer,
            counted from the first of the window. Both are 0, the position of the cls token, if the
            window does not contain the whole answer.
        example_index: (W,) int32, ascending.
        trainable: (W,) bool, False if "no answer" would be a wrong label: in all windows of a
            question whose answer was not located or is in no window.
        counts: of examples and windows.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray | None
    offsets: np.ndarray
    bounds: np.ndarray
    context_start: np.ndarray
    context_end: np.ndarray
    start_positions: np.ndarray
    end_positions: np.ndarray
    example_index: np.ndarray
    trainable: np.ndarray
    counts: FeatureCounts

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(W,) int64: the number of tokens of each window."""
        return np.diff(self.bounds)

    def tokens(self, window: int) -> slice:
        """The slice of `input_ids`, `token_type_ids` and `offsets` for a window."""
        return slice(int(self.bounds[window]), int(self.bounds[window + 1]))

    def span(self, window: int, start: int, end: int) -> tuple[int, int]:
        """The characters (first, last + 1) of the context that the tokens `start` to `end` cover.

        Args:
            window: the index of the window.
            start, end: the first and the last token, counted from the first of the window.

        Raises:
            ValueError: they are not context tokens, or not in this order.
        """
        first, last = int(self.context_start[window]), int(self.context_end[window]) - 1
        if not first <= start <= end <= last:
            raise ValueError(
                f"tokens {start} to {end} of window {window} are not a span of its context, which "
                f"is tokens {first} to {last}"
            )
        offsets = self.offsets[self.tokens(window)]
        return int(offsets[start, 0]), int(offsets[end, 1])

    def checksum(self) -> int:
        """A checksum of the windows and labels."""
        total = 0
        for array in (self.input_ids, self.bounds, self.start_positions, self.end_positions):
            total = zlib.crc32(array.tobytes(), total)
        return total


def span_text(features: Features, window: int, start: int, end: int, context: str) -> str:
    """The text of the tokens `start` to `end` of a window, without white space around it.

    Args:
        features: the windows.
        window: the index of the window.
        start, end: the first and the last token, counted from the first of the window.
        context: the context of the example.

    Raises:
        ValueError: they are not context tokens, or not in this order.
    """
    first, last = features.span(window, start, end)
    return context[first:last].strip()


def make_features(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    max_length: int = 384,
    stride: int = 128,
    max_question_length: int = 64,
    show_progress: bool = True,
) -> Features:
    """Tokenize questions and contexts, and divide them into labelled windows.

    The label is the first answer that was located, as usual: the smallest span of tokens that
    covers it. For an answer "15" inside of a token "2015", that is the whole token.

    Args:
        examples: questions with their contexts.
        tokenizer: begins a sequence with a cls token, as BERT's and RoBERTa's do.
        max_length: tokens per window, including the question and special tokens.
        stride: the number of context tokens that a window repeats from the one before.
        max_question_length: tokens per question; longer questions are truncated, and counted.
        show_progress: show a progress bar.

    Raises:
        ValueError: there are no examples, the tokenizer's sequences do not begin with a cls token,
            or the lengths leave no room for the context.
    """
    if not examples:
        raise ValueError("there are no examples to convert")
    _check_cls(tokenizer)
    _check_lengths(tokenizer, max_length, stride, max_question_length)
    builder = _FeatureBuilder(tokenizer.token_types, stride)
    with tqdm(
        total=len(examples), desc="tokenizing", unit="question", disable=not show_progress
    ) as bar:
        for begin in range(0, len(examples), _EXAMPLES_AT_ONCE):
            chunk = examples[begin : begin + _EXAMPLES_AT_ONCE]
            questions = [example.question for example in chunk]
            short = _truncated(questions, tokenizer, max_question_length)
            builder.counts.truncated_questions += sum(map(str.__ne__, short, questions))
            batch = tokenizer(
                short,
                [example.context for example in chunk],
                truncation="only_second",
                max_length=max_length,
                stride=stride,
                return_overflowing_tokens=True,
            )
            samples = batch.overflow_to_sample
            for sample, windows in groupby(range(len(samples)), key=samples.__getitem__):
                builder.add(chunk[sample], batch, list(windows))
            bar.update(len(chunk))
    return builder.features()


def answer_tokens(offsets: np.ndarray, answer: Answer) -> tuple[int, int] | None:
    """The first and the last token that share a character with the answer.

    Args:
        offsets: (tokens, 2): the characters (first, last + 1) of each token of a context.
        answer: in the same context.

    Returns:
        None if no token does, because the tokenizer dropped the characters.
    """
    tokens = np.flatnonzero((offsets[:, 0] < answer.end) & (offsets[:, 1] > answer.start))
    return (int(tokens[0]), int(tokens[-1])) if len(tokens) else None


def _check_cls(tokenizer: Tokenizer) -> None:
    first = tokenizer.id_to_token(tokenizer("a", "b")["input_ids"][0])
    if first != tokenizer.special_tokens.get("cls_token"):
        raise ValueError(
            f"the tokenizer begins a sequence with {shortened(first)}, not with a cls token, "
            "which is needed for 'no answer'; use a model whose tokenizer does, such as BERT or "
            "RoBERTa"
        )


def _check_lengths(
    tokenizer: Tokenizer, max_length: int, stride: int, max_question_length: int
) -> None:
    if max_question_length < 1:
        raise ValueError(f"max_question_length={max_question_length} must be at least 1")
    special = tokenizer.backend.num_special_tokens_to_add(True)
    context_length = max_length - special - max_question_length
    if not 0 <= stride < context_length:
        raise ValueError(
            f"max_length={max_length}, minus {special} special tokens and "
            f"max_question_length={max_question_length}, leaves {context_length} tokens for the "
            f"context; stride={stride} must be at least 0 and less than that"
        )


def _truncated(questions: list[str], tokenizer: Tokenizer, limit: int) -> list[str]:
    """The questions, truncated to `limit` tokens."""
    batch = tokenizer(questions, add_special_tokens=False)
    return [
        question if len(ids) <= limit else _truncate(question, tokenizer, limit)
        for question, ids in zip(questions, batch["input_ids"], strict=True)
    ]


def _truncate(question: str, tokenizer: Tokenizer, limit: int) -> str:
    """The beginning of a question, with at most `limit` tokens.

    A truncated word may have more tokens than it had before, hence the loop, which removes at least
    one character each time.
    """
    while True:
        offsets = tokenizer([question], add_special_tokens=False).offsets(0)
        if len(offsets) <= limit:
            return question
        question = question[: min(offsets[limit][0], len(question) - 1)]


@dataclass
class _FeatureBuilder:
    """Collects the windows of one example after another."""

    token_types: bool
    stride: int
    counts: FeatureCounts = field(default_factory=FeatureCounts)
    ids: list[np.ndarray] = field(default_factory=list)
    types: list[np.ndarray] = field(default_factory=list)
    offsets: list[np.ndarray] = field(default_factory=list)
    # context_start, context_end, start_position, end_position, example_index, trainable
    rows: list[tuple[int, int, int, int, int, bool]] = field(default_factory=list)

    def add(self, example: Example, batch: BatchEncoding, indices: list[int]) -> None:
        """Add the windows of an example, which are the sequences `indices` of the batch."""
        windows = [self._add_tokens(batch, index) for index in indices]
        if not len(windows[0][1]):
            raise ValueError(f"the context of question {shortened(example.id)} has no token")
        labels, trainable = self._labels(example, [context for _, context in windows])
        for (start, context), label in zip(windows, labels, strict=True):
            first, last = (0, 0) if label is None else (start + label[0], start + label[1])
            self.counts.without_answer += label is None
            end, index = start + len(context), self.counts.examples
            self.rows.append((start, end, first, last, index, trainable))
        self.counts.windows += len(indices)
        self.counts.examples += 1

    def _add_tokens(self, batch: BatchEncoding, index: int) -> tuple[int, np.ndarray]:
        """Add the tokens of a window.

        Returns:
            The position of the first context token, and the offsets of all of them, (tokens, 2).
        """
        self.ids.append(np.array(batch["input_ids"][index], dtype=np.int32))
        if self.token_types:
            self.types.append(np.array(batch["token_type_ids"][index], dtype=np.uint8))
        offsets = np.array(batch.offsets(index), dtype=np.int32)
        context = np.array([text == 1 for text in batch.sequence_ids(index)])
        offsets[~context] = 0
        self.offsets.append(offsets)
        return int(context.argmax()), offsets[context]

    def _labels(
        self, example: Example, contexts: list[np.ndarray]
    ) -> tuple[list[tuple[int, int] | None], bool]:
        """The answer's tokens in the context of every window, and whether to train on them."""
        no_labels: list[tuple[int, int] | None] = [None] * len(contexts)
        if not example.answers:
            self.counts.unlocated += example.is_unlocated
            return no_labels, example.is_impossible
        labels = _label_windows(contexts, self.stride, example.answers[0])
        lost = labels == no_labels
        self.counts.lost_answers += lost
        return labels, not lost

    def features(self) -> Features:
        """The features of all windows that were added."""
        columns = [np.array(column, dtype=np.int32) for column in zip(*self.rows, strict=True)]
        start, end, first, last, index, trainable = columns
        return Features(
            input_ids=np.concatenate(self.ids),
            token_type_ids=np.concatenate(self.types) if self.token_types else None,
            offsets=np.concatenate(self.offsets),
            bounds=np.cumsum([0, *map(len, self.ids)]),
            context_start=start,
            context_end=end,
            start_positions=first,
            end_positions=last,
            example_index=index,
            trainable=trainable.astype(bool),
            counts=self.counts,
        )


def _label_windows(
    contexts: list[np.ndarray], stride: int, answer: Answer
) -> list[tuple[int, int] | None]:
    """The answer's first and last token in the context of each window; None if not all are in it.

    They are found in the whole context first, so that an answer that is only partly in a window is
    recognized, even if the tokenizer dropped characters at the edge of the window.
    """
    for before, after in pairwise(contexts):
        assert np.array_equal(before[len(before) - stride :], after[:stride]), (
            "the windows do not overlap by the stride"
        )
    whole = np.concatenate([contexts[0], *(context[stride:] for context in contexts[1:])])
    found = answer_tokens(whole, answer)
    labels: list[tuple[int, int] | None] = []
    begin = 0  # position of the window in the whole context, in tokens
    for context in contexts:
        inside = found is not None and begin <= found[0] and found[1] < begin + len(context)
        labels.append((found[0] - begin, found[1] - begin) if found and inside else None)
        begin += len(context) - stride
    return labels


class WindowBatches:
    """Batches of windows of similar length; they depend only on the seed, the epoch and the index.

    Args:
        features: the windows; those that are not trainable are left out.
        pad_token_id: the tokenizer's.
        batch_size: windows per batch.
        seed: for the order.

    Raises:
        ValueError: no window is trainable.
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
        """Number of batches per epoch."""
        return self.order.num_batches

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]:
        """The inputs of the model, (B, T) int64 each, and the positions of the answers, (B,)."""
        windows = self.windows[self.order.example_indices(epoch, index)]
        return window_inputs(self.features, windows, self.pad_token_id) | {
            "start_positions": torch.from_numpy(self.features.start_positions[windows]).long(),
            "end_positions": torch.from_numpy(self.features.end_positions[windows]).long(),
        }


def window_inputs(
    features: Features, windows: Sequence[int] | np.ndarray, pad_token_id: int
) -> dict[str, Tensor]:
    """The windows padded on the right: `input_ids`, `attention_mask`, perhaps `token_type_ids`."""
    tokens = [features.tokens(window) for window in windows]
    ids = [features.input_ids[each] for each in tokens]
    inputs = {
        "input_ids": pad_sequences(ids, pad_token_id),
        "attention_mask": pad_sequences([np.ones(len(window), np.int64) for window in ids], 0),
    }
    if features.token_type_ids is not None:
        types = [features.token_type_ids[each] for each in tokens]
        inputs["token_type_ids"] = pad_sequences(types, 0)
    return inputs

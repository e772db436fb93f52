"""SQuAD examples to windows of tokens, each labelled with where its answer begins and ends.

A window holds the question and as much of the context as fits. A context that is too long gives
several windows, each of which repeats the last `stride` tokens of the one before, so that every
answer of up to `stride` + 1 tokens lies whole in at least one of them. The windows, in the end, are
padded to batches.

W windows, N tokens of all windows, B batch, T tokens of a batch.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minitransformer.tokenization import BatchEncoding, Tokenizer
from train.batching import BatchOrder, pad_sequences
from train.squad import Answer, Example

_EXAMPLES_AT_ONCE = 256


@dataclass
class FeatureCounts:
    """What became of the examples.

    Attributes:
        examples: questions.
        windows: made of them.
        without_answer: windows labelled as no answer.
        truncated_questions: questions cut to `max_question_length` tokens.
        unlocated: questions whose every answer was dropped when the file was read.
        lost_answers: answers that no window holds whole, or that no token stands for.
    """

    examples: int = 0
    windows: int = 0
    without_answer: int = 0
    truncated_questions: int = 0
    unlocated: int = 0
    lost_answers: int = 0

    def summary(self) -> str:
        """One line with every number."""
        return (
            f"{self.windows:,} windows ({self.without_answer:,} without the answer) of "
            f"{self.examples:,} questions ({self.truncated_questions:,} cut short, "
            f"{self.unlocated:,} with no located answer, {self.lost_answers:,} with a lost one)"
        )


@dataclass(frozen=True)
class Features:
    """Windows of tokens, one after the other in flat arrays.

    Attributes:
        input_ids: (N,) int32.
        token_type_ids: (N,) uint8, or None where the tokenizer makes none.
        offsets: (N, 2) int32: for tokens of the context the characters (first, last + 1) they
            stand for, (0, 0) for all others.
        bounds: (W + 1,) int64; window i is `input_ids[bounds[i] : bounds[i + 1]]`.
        context_start, context_end: (W,) int32, the tokens [start, end) of a window that are
            context: no answer lies outside.
        start_positions, end_positions: (W,) int32, the first and the last token of the answer,
            counted from the window's first; both 0, the position of the cls token, where the window
            does not hold the whole answer.
        example_index: (W,) int32, never falling.
        trainable: (W,) bool, False where "no answer" would be a wrong label: in every window of a
            question whose answer was not located, or is in no window.
        counts: of all that.
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
        """(W,) int64, tokens of each window."""
        return np.diff(self.bounds)

    def tokens(self, window: int) -> slice:
        """Where a window's tokens stand in `input_ids`, `token_type_ids` and `offsets`."""
        return slice(int(self.bounds[window]), int(self.bounds[window + 1]))

    def span(self, window: int, start: int, end: int) -> tuple[int, int]:
        """The characters (first, last + 1) of the context that tokens `start` to `end` stand for.

        Args:
            window: which one.
            start, end: its first and last token, counted from the window's first.

        Raises:
            ValueError: they are not tokens of the context, in this order.
        """
        first, last = int(self.context_start[window]), int(self.context_end[window]) - 1
        if not first <= start <= end <= last:
            raise ValueError(
                f"tokens {start} to {end} of window {window} are no span of its context, which "
                f"is tokens {first} to {last}"
            )
        offsets = self.offsets[self.tokens(window)]
        return int(offsets[start, 0]), int(offsets[end, 1])

    def checksum(self) -> int:
        """A number that other questions, windows or labels would hardly have."""
        total = 0
        for array in (self.input_ids, self.bounds, self.start_positions, self.end_positions):
            total = zlib.crc32(array.tobytes(), total)
        return total


def span_text(features: Features, window: int, start: int, end: int, context: str) -> str:
    """The text of the tokens `start` to `end` of a window, without white space around it.

    Args:
        features: with that window.
        window: which one.
        start, end: its first and last token, counted from the window's first.
        context: of the window's example.

    Raises:
        ValueError: they are not tokens of the context, in this order.
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
    """Tokenize questions and contexts into labelled windows.

    Of several answers the first that was located is the label, as is usual; the label is the
    smallest span of tokens that covers it: "2015" for an answer "15" inside that token.

    Args:
        examples: questions with their contexts.
        tokenizer: one that begins a sequence with a cls token, as BERT's and RoBERTa's do.
        max_length: tokens a window, question and special tokens included.
        stride: tokens of context that a window repeats from the one before.
        max_question_length: tokens a question; a longer one loses its end, and is counted.
        show_progress: draw a bar.

    Raises:
        ValueError: there are no examples, the tokenizer's sequences do not begin with a cls token,
            or the lengths leave no token to the context.
    """
    if not examples:
        raise ValueError("there are no examples to make features of")
    _check_cls(tokenizer)
    _check_lengths(tokenizer, max_length, stride, max_question_length)
    builder = _FeatureBuilder(tokenizer.token_types, stride)
    with tqdm(
        total=len(examples), desc="tokenizing", unit="question", disable=not show_progress
    ) as bar:
        for begin in range(0, len(examples), _EXAMPLES_AT_ONCE):
            chunk = examples[begin : begin + _EXAMPLES_AT_ONCE]
            questions = [example.question for example in chunk]
            short = _shortened(questions, tokenizer, max_question_length)
            builder.counts.truncated_questions += sum(map(str.__ne__, short, questions))
            batch = tokenizer(
                short,
                [example.context for example in chunk],
                truncation="only_second",
                max_length=max_length,
                stride=stride,
                return_overflowing_tokens=True,
            )
            owners = batch.overflow_to_sample
            for owner, windows in groupby(range(len(owners)), key=owners.__getitem__):
                builder.add(chunk[owner], batch, list(windows))
            bar.update(len(chunk))
    return builder.features()


def answer_tokens(offsets: np.ndarray, answer: Answer) -> tuple[int, int] | None:
    """The first and the last of the tokens that share a character with the answer.

    Args:
        offsets: (tokens, 2), the characters (first, last + 1) of each token of a context.
        answer: in the same context.

    Returns:
        None where no token does: a tokenizer may drop control characters.
    """
    tokens = np.flatnonzero((offsets[:, 0] < answer.end) & (offsets[:, 1] > answer.start))
    return (int(tokens[0]), int(tokens[-1])) if len(tokens) else None


def _check_cls(tokenizer: Tokenizer) -> None:
    first = tokenizer.id_to_token(tokenizer("a", "b")["input_ids"][0])
    if first != tokenizer.special_tokens.get("cls_token"):
        raise ValueError(
            f"the tokenizer begins a sequence with {first!r}, not with a cls token, which stands "
            "for 'no answer'; question answering needs one that does, as BERT's and RoBERTa's"
        )


def _check_lengths(
    tokenizer: Tokenizer, max_length: int, stride: int, max_question_length: int
) -> None:
    if max_question_length < 1:
        raise ValueError(f"max_question_length={max_question_length} must be at least 1")
    special = len(tokenizer("", "")["input_ids"])
    context_length = max_length - special - max_question_length
    if not 0 <= stride < context_length:
        raise ValueError(
            f"max_length={max_length}, less {special} special tokens and "
            f"max_question_length={max_question_length}, leaves {context_length} tokens to the "
            f"context; stride={stride} must be from 0 to below that"
        )


def _shortened(questions: list[str], tokenizer: Tokenizer, limit: int) -> list[str]:
    """The questions, cut where they have more than `limit` tokens."""
    batch = tokenizer(questions, add_special_tokens=False)
    return [
        question if len(ids) <= limit else _cut(question, tokenizer, limit)
        for question, ids in zip(questions, batch["input_ids"], strict=True)
    ]


def _cut(question: str, tokenizer: Tokenizer, limit: int) -> str:
    """The longest beginning that was found to have at most `limit` tokens.

    Byte-pair merges may come out longer for a word that is cut, hence the loop; every turn takes
    away a character at least.
    """
    while True:
        offsets = tokenizer([question], add_special_tokens=False).offsets(0)
        if len(offsets) <= limit:
            return question
        question = question[: min(offsets[limit][0], len(question) - 1)]


@dataclass
class _FeatureBuilder:
    """Collects the windows of one example after the other."""

    token_types: bool
    stride: int
    counts: FeatureCounts = field(default_factory=FeatureCounts)
    ids: list[np.ndarray] = field(default_factory=list)
    types: list[np.ndarray] = field(default_factory=list)
    offsets: list[np.ndarray] = field(default_factory=list)
    # context_start, context_end, start_position, end_position, example_index, trainable
    numbers: list[tuple[int, int, int, int, int, bool]] = field(default_factory=list)

    def add(self, example: Example, batch: BatchEncoding, numbers: list[int]) -> None:
        """Take the windows of an example, which have these numbers in the batch."""
        windows = [self._add_tokens(batch, number) for number in numbers]
        if not len(windows[0][1]):
            raise ValueError(f"no character of the context of question {example.id!r} is a token")
        labels, trainable = self._labels(example, [context for _, context in windows])
        for (start, context), label in zip(windows, labels, strict=True):
            first, last = (0, 0) if label is None else (start + label[0], start + label[1])
            self.counts.without_answer += label is None
            end, number = start + len(context), self.counts.examples
            self.numbers.append((start, end, first, last, number, trainable))
        self.counts.windows += len(numbers)
        self.counts.examples += 1

    def _add_tokens(self, batch: BatchEncoding, number: int) -> tuple[int, np.ndarray]:
        """Take the tokens of a window.

        Returns:
            The position of the first that is context, and the offsets (tokens, 2) of all that are.
        """
        self.ids.append(np.array(batch["input_ids"][number], dtype=np.int32))
        if self.token_types:
            self.types.append(np.array(batch["token_type_ids"][number], dtype=np.uint8))
        offsets = np.array(batch.offsets(number), dtype=np.int32)
        context = np.array([owner == 1 for owner in batch.sequence_ids(number)])
        offsets[~context] = 0
        self.offsets.append(offsets)
        return int(context.argmax()), offsets[context]

    def _labels(
        self, example: Example, contexts: list[np.ndarray]
    ) -> tuple[list[tuple[int, int] | None], bool]:
        """For every window its answer's tokens, counted in the context, and whether to train."""
        nowhere: list[tuple[int, int] | None] = [None] * len(contexts)
        if not example.answers:
            self.counts.unlocated += example.is_unlocated
            return nowhere, example.is_impossible
        labels = _label_windows(contexts, self.stride, example.answers[0])
        lost = labels == nowhere
        self.counts.lost_answers += lost
        return labels, not lost

    def features(self) -> Features:
        """All that was taken."""
        columns = [np.array(column, dtype=np.int32) for column in zip(*self.numbers, strict=True)]
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
    """Where the answer's tokens stand in each window's context; None where not all of them do.

    They are found in the whole context first. So an answer that a window cuts is seen to be cut,
    whatever characters the tokenizer left out at the window's edges.
    """
    for before, after in pairwise(contexts):
        assert np.array_equal(before[len(before) - stride :], after[:stride]), "not by this stride"
    whole = np.concatenate([contexts[0], *(context[stride:] for context in contexts[1:])])
    found = answer_tokens(whole, answer)
    labels: list[tuple[int, int] | None] = []
    begin = 0  # of the window in the whole context, in tokens
    for context in contexts:
        inside = found is not None and begin <= found[0] and found[1] < begin + len(context)
        labels.append((found[0] - begin, found[1] - begin) if found and inside else None)
        begin += len(context) - stride
    return labels


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
        """The inputs of the model, (B, T) int64 each, and the positions of the answers, (B,)."""
        windows = self.windows[self.order.examples(epoch, index)]
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

"""Collators: each makes a batch, a dict of tensors, of a list of examples, which are dicts.

They are for a DataLoader's `collate_fn`, and have Hugging Face's names. They refuse a
field that is no number; Hugging Face's collators drop it. A field named `label` or `label_ids`
becomes `labels`.

Letters: B examples, T tokens, C classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minitransformer.elsewhere import COLLATING, without
from minitransformer.models.losses import IGNORED_LABEL
from minitransformer.names import listed, shortened, unexpected_name
from minitransformer.tokenization import Tokenizer
from train.masking import mask_tokens, ordinary_ids

Example = Mapping[str, Any]
Batch = dict[str, Tensor]

_LABELS = ("labels", "label", "label_ids")


def default_data_collator(features: Sequence[Example]) -> Batch:
    """Stack examples that need no padding.

    Raises:
        TypeError: an example is not a dict.
        ValueError: a field is no number, or of another size in another example.
    """
    return {
        "labels" if name in _LABELS else name: _stacked(name, values)
        for name, values in _fields(features).items()
    }


class _CollatorType(type):
    """What making a collator does before its dataclass does: arguments are checked.

    A dataclass has an argument for each field and no other, so without this Python's own error
    would be the answer to Hugging Face's other arguments, and to misspelled ones.
    """

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        """Make a collator.

        Raises:
            TypeError: an argument is unknown, or must be named.
        """
        named = without(named, COLLATING)
        known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for name in named:
            if name not in known:
                raise TypeError(unexpected_name(f"argument of {cls.__name__}", name, known))
        positional = [name for name, field in known.items() if not field.kw_only]
        if len(arguments) > len(positional):
            raise TypeError(
                f"{cls.__name__} takes {listed(positional)} by position; name all other "
                "arguments, as in padding=True"
            )
        return super().__call__(*arguments, **named)


@dataclass(kw_only=True)
class _Padding(metaclass=_CollatorType):
    """How sequences of tokens are padded."""

    tokenizer: Tokenizer = dataclasses.field(kw_only=False)
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tokenizer, Tokenizer):
            raise TypeError(
                f"tokenizer is a {type(self.tokenizer).__name__}; pass a "
                "minitransformer.Tokenizer, such as Tokenizer.from_pretrained(path)"
            )
        if self.padding not in (True, "longest", "max_length"):
            raise ValueError(
                f"padding={shortened(self.padding)} gives no batch; pass True, to the longest "
                "example, or 'max_length', to max_length"
            )
        if self.padding == "max_length" and self.max_length is None:
            raise ValueError("padding='max_length' needs max_length, a number of tokens")
        if self.pad_to_multiple_of is not None and self.pad_to_multiple_of < 1:
            raise ValueError(f"pad_to_multiple_of={self.pad_to_multiple_of} must be at least 1")

    def length(self, longest: int) -> int:
        """To what length sequences are padded, the longest of which has `longest` tokens."""
        if self.padding == "max_length" and self.max_length is not None:
            longest = max(longest, self.max_length)
        multiple = self.pad_to_multiple_of or 1
        return -(-longest // multiple) * multiple

    def pad(self, values: Sequence[Any], value: int, name: str) -> Tensor:
        """Sequences of integers to (B, T) int64."""
        arrays = [_array(name, each) for each in values]
        if any(array.ndim != 1 or (len(array) and array.dtype.kind == "f") for array in arrays):
            raise ValueError(f"{name!r} must be one sequence of integers in each example")
        length = self.length(max(map(len, arrays)))
        padded = np.full((len(arrays), length), value, dtype=np.int64)
        for row, array in zip(padded, arrays, strict=True):
            start = length - len(array) if self.tokenizer.padding_side == "left" else 0
            row[start : start + len(array)] = array
        return torch.from_numpy(padded)

    def batch(self, features: Sequence[Example], label_padding: int | None = None) -> Batch:
        """Pad what the tokenizer made, and labels too if `label_padding` is one; stack the rest."""
        fields = _fields(features)
        if "input_ids" not in fields:
            raise ValueError(
                f"the examples have no 'input_ids', but {listed(fields)}; tokenize the texts: "
                "dataset of tokenizer(text)"
            )
        if "attention_mask" not in fields:
            fields["attention_mask"] = [np.ones(len(ids), int) for ids in fields["input_ids"]]
        fill = {
            "input_ids": self.tokenizer.padding_id,
            "attention_mask": 0,
            "token_type_ids": 0,
            "special_tokens_mask": 1,
        }
        if label_padding is not None:
            fill |= dict.fromkeys(_LABELS, label_padding)
        return {
            "labels" if name in _LABELS else name: (
                self.pad(values, fill[name], name) if name in fill else _stacked(name, values)
            )
            for name, values in fields.items()
        }


@dataclass
class DataCollatorWithPadding(_Padding):
    """Pads tokenized texts to the longest of the batch, on the tokenizer's side.

    Args:
        tokenizer: says how to pad. One without a padding token, as GPT-2's, pads with another one,
            which the attention mask excludes.
        padding: True, or "max_length".
        max_length: for "max_length".
        pad_to_multiple_of: round the length up to a multiple.

    Raises:
        ValueError: as in :func:`default_data_collator`; or there are no `input_ids`.
    """

    def __call__(self, features: Sequence[Example]) -> Batch:
        """B examples to `input_ids`, `attention_mask`, ..., (B, T) int64 each, and `labels`."""
        return self.batch(features)


@dataclass
class DataCollatorForTokenClassification(_Padding):
    """Pads tokenized texts, and with them a label for each token.

    Args:
        tokenizer: says how to pad.
        label_pad_token_id: the label at padding.
    """

    label_pad_token_id: int = IGNORED_LABEL

    def __call__(self, features: Sequence[Example]) -> Batch:
        """B examples to `input_ids`, `attention_mask`, `labels`, ..., (B, T) int64 each."""
        batch = self.batch(features, self.label_pad_token_id)
        ids, labels = batch["input_ids"], batch.get("labels")
        if labels is not None and labels.shape != ids.shape:
            raise ValueError(
                f"labels are padded to {labels.shape[1]} and input_ids to {ids.shape[1]} tokens; "
                "each example needs a label for each of its tokens, -100 for none"
            )
        return batch


@dataclass
class DataCollatorForSeq2Seq(_Padding):
    """Pads sources, and with them targets of other lengths.

    The models here make the decoder's input of the labels themselves, so there is none in the
    batch, whether a `model` is given or not.

    Args:
        tokenizer: says how to pad.
        model: not needed.
        label_pad_token_id: the label at padding.
    """

    model: Any = None
    label_pad_token_id: int = IGNORED_LABEL

    def __call__(self, features: Sequence[Example]) -> Batch:
        """B examples to `input_ids`, `attention_mask`, (B, S) int64, and `labels`, (B, T) int64."""
        return self.batch(features, self.label_pad_token_id)


@dataclass
class DataCollatorForLanguageModeling(_Padding):
    """Pads texts and labels their tokens: masked ones, or all of them.

    Masks are new in every batch (see :func:`train.masking.mask_tokens`): of the chosen tokens, 80%
    become the mask token, 10% another token, and 10% stay. They are drawn from PyTorch's generator.
    Without masks, all tokens but padding are labels, the padding token too where it is a real
    token; Hugging Face's collator drops every one, and with it the end of text of a GPT-2.

    Args:
        tokenizer: says how to pad, and which token masks.
        mlm: True for masked language models, False for those that predict the next token.
        mlm_probability: with which a token is chosen.

    Raises:
        MissingTokenError: the tokenizer has no mask token; pass mlm=False for a GPT-2.
        ValueError: the probability is not between 0 and 1.
    """

    mlm: bool = True
    mlm_probability: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mlm:
            return
        if not (isinstance(self.mlm_probability, float) and 0 < self.mlm_probability < 1):
            raise ValueError(
                f"mlm_probability={shortened(self.mlm_probability)} must be a fraction of the "
                "tokens, between 0 and 1"
            )
        self._mask_token_id = self.tokenizer.mask_token_id
        self._ordinary_ids = ordinary_ids(self.tokenizer)

    def __call__(self, features: Sequence[Example | Sequence[int]]) -> Batch:
        """B examples, or lists of ids, to `input_ids`, ... and `labels`, (B, T) int64 each."""
        examples = [
            {n: v for n, v in each.items() if n not in _LABELS}
            if isinstance(each, Mapping)
            else {"input_ids": each}
            for each in features
        ]
        batch = self.batch(examples)
        ids, excluded = batch["input_ids"], batch["attention_mask"] == 0
        special = batch.pop("special_tokens_mask", None)
        if not self.mlm:
            batch["labels"] = ids.masked_fill(excluded, IGNORED_LABEL)
            return batch
        if special is not None:
            excluded |= special == 1
        seed = torch.randint(2**62, ())
        masked, labels = mask_tokens(
            ids.numpy(),
            excluded=excluded.numpy(),
            random=np.random.default_rng(int(seed)),
            probability=self.mlm_probability,
            mask_token_id=self._mask_token_id,
            ordinary_ids=self._ordinary_ids,
        )
        batch["input_ids"], batch["labels"] = torch.from_numpy(masked), torch.from_numpy(labels)
        return batch


def _fields(features: Sequence[Example]) -> dict[str, list[Any]]:
    """The values of each field, one for each example; fields that are None are left out."""
    if not features:
        raise ValueError("a batch needs an example, and there is none")
    for each in features:
        if not isinstance(each, Mapping):
            raise TypeError(
                f"an example is a {type(each).__name__}; it must be a dict, such as "
                '{"input_ids": [...], "label": 0}'
            )
        if each.keys() != features[0].keys():
            different = sorted(map(str, each.keys() ^ features[0].keys()))
            raise ValueError(f"not every example of the batch has {listed(different)}")
    fields = {name: [each[name] for each in features] for name in features[0]}
    for name, values in fields.items():
        missing = [index for index, value in enumerate(values) if value is None]
        if 0 < len(missing) < len(values):
            raise ValueError(f"{name!r} is None in example {missing[0]} of a batch, not in all")
    return {name: values for name, values in fields.items() if values[0] is not None}


def _stacked(name: str, values: Sequence[Any]) -> Tensor:
    """The values of a field, of equal shapes, as one tensor, (B, ...)."""
    arrays = [_array(name, value) for value in values]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        lengths = sorted(len(array) if array.ndim else 1 for array in arrays)
        collator = "DataCollatorWithPadding"
        if name in _LABELS:
            collator = "DataCollatorForTokenClassification (or ForSeq2Seq)"
        raise ValueError(
            f"{name!r} has {lengths[0]} to {lengths[-1]} values in the examples of a batch; pad "
            f"them: collate_fn={collator}(tokenizer), from train"
        )
    return torch.from_numpy(np.stack(arrays))


def _array(name: str, value: Any) -> np.ndarray:
    """One value of a field as an array of int64, float32 or bool."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        array = np.asarray(None)
    if array.dtype == bool:
        return array
    if np.issubdtype(array.dtype, np.integer):
        return array.astype(np.int64)
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    raise ValueError(
        f"{name!r} is {shortened(value)} in an example, which is no number or sequence of numbers; "
        "leave it out of the examples, as in dataset.remove_columns, or convert it"
    )

"""Checks of what goes into a model: one clear error instead of a crash, or of a wrong answer.

One error is about what comes out: :func:`not_finite`.

B batch, T tokens, C classes.

Values of a tensor (is every id in the vocabulary?) are checked where they can be read, see
:func:`minitransformer.tracing.values_are_readable`. All checks together read a few thousand
integers a call.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from minitransformer.elsewhere import FORWARD, METHODS, without
from minitransformer.models.losses import IGNORED_LABEL
from minitransformer.names import unexpected_name
from minitransformer.tracing import values_are_readable

P = ParamSpec("P")
R = TypeVar("R")

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def strict_names(method: Callable[P, R]) -> Callable[P, R]:
    """Make a method suggest the nearest known name when an argument is misspelled.

    Arguments of Hugging Face that change nothing here may be given; for others, the error says what
    to type.
    """
    known = frozenset(name for name in inspect.signature(method).parameters if name != "self")

    @functools.wraps(method)
    def checked(*arguments: P.args, **named: P.kwargs) -> R:
        for name in named:
            if name not in known:
                output: Any = method(*arguments, **understood(named))
                return output.to_tuple() if named.get("return_dict") is False else output
        return method(*arguments, **named)

    def understood(named: Mapping[str, Any]) -> dict[str, Any]:
        foreign = {name: value for name, value in named.items() if name not in known}
        for name in without(foreign, FORWARD):
            kind = f"{method.__name__}() argument"
            raise TypeError(unexpected_name(kind, name, sorted(known)))
        return {name: value for name, value in named.items() if name in known}

    return checked


class StrictAttributes(nn.Module):
    """A module that says of an attribute which it lacks what to type instead."""

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        try:
            return super().__getattr__(name)  # a parameter, a buffer or a part
        except AttributeError as error:
            raise _no_attribute(self, name, error) from None


def _no_attribute(module: nn.Module, name: str, error: AttributeError) -> AttributeError:
    if "_modules" not in vars(module):  # before nn.Module's __init__ there are no parts
        return error
    parts = ", ".join(part for part, _ in module.named_children())
    said = METHODS.get(name, f"its parts are {parts}")
    return AttributeError(f"a {type(module).__name__} has no {name}: {said}")


def check_shape(name: str, ids: Tensor) -> None:
    """Check that `ids` is a tensor of shape (B, T) with at least one token.

    Raises:
        TypeError: it is not a tensor.
        ValueError: its shape is another.
    """
    if not isinstance(ids, Tensor):
        raise _no_tensor(name, ids)
    if ids.dim() != 2:
        fix = f"; pass {name}[None] for a batch of one" if ids.dim() == 1 else ""
        raise ValueError(f"{name} has shape {tuple(ids.shape)}; (B, T) is needed{fix}")
    if ids.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(ids.shape)}: there is no token in it")


def _no_tensor(name: str, ids: Any) -> TypeError:
    hint = ""
    if isinstance(ids, list):
        hint = ": pass return_tensors='pt' to the tokenizer"
    elif isinstance(ids, str):
        hint = ": pass what the tokenizer makes of it"
    elif isinstance(ids, Mapping):
        hint = ": call model(**batch), with two stars"
    return TypeError(f"{name} is a {type(ids).__name__}; a tensor of shape (B, T) is needed{hint}")


def check_ids(name: str, ids: Tensor, *, size: int, size_name: str) -> None:
    """Check that `ids` is (B, T), integer, and within 0 <= id < size.

    Raises:
        TypeError: it is not a tensor.
        ValueError: its shape, dtype or values are wrong.
    """
    check_shape(name, ids)
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} has dtype {ids.dtype}; torch.int64 is needed: {name}.long()")
    if not values_are_readable(ids):
        return
    smallest, largest = (int(bound) for bound in ids.aminmax())
    if smallest < 0 or largest >= size:
        wrong = smallest if smallest < 0 else largest
        raise ValueError(f"{name} holds {wrong}; the ids go from 0 to {size - 1} ({size_name})")


def check_same_shape(
    name: str, tensor: Tensor, input_ids: Tensor, ids_name: str = "input_ids"
) -> None:
    """Check that `tensor` has a value for each token of `input_ids`, (B, T).

    Raises:
        TypeError: one of them is not a tensor.
        ValueError: the shapes differ.
    """
    check_shape(ids_name, input_ids)
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; a tensor of shape (B, T) is needed")
    if tensor.shape != input_ids.shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; "
            f"the shape of {ids_name} is needed, {tuple(input_ids.shape)}"
        )


def check_length(length: int, *, longest: int, table_rows: int, name: str = "input_ids") -> None:
    """Check that a sequence of `length` tokens fits a table of positions.

    Args:
        length: T.
        longest: how many tokens fit, `config.max_sequence_length`.
        table_rows: rows of the table, `config.max_position_embeddings`.
        name: of the ids.

    Raises:
        ValueError: it does not; the message says how many do, and what to do.
    """
    if length > longest:
        unused = f", {table_rows - longest} of which belong to no token" * (table_rows > longest)
        raise ValueError(
            f"{name} has {length} tokens per sequence, but {longest} fit "
            f"(max_position_embeddings={table_rows}{unused}); "
            f"truncate: tokenizer(texts, truncation=True, max_length={longest})"
        )


def check_attention_mask(
    attention_mask: Tensor | None,
    input_ids: Tensor,
    pad_token_id: int | None,
    name: str = "attention_mask",
) -> None:
    """Check a padding mask.

    Args:
        attention_mask: (B, T), bool or an integer of 0 and 1, True or 1 at real tokens; or None
            where no token is padding.
        input_ids: (B, T).
        pad_token_id: the id that must not occur where no mask is given; None where there is none,
            or where it has another meaning too, such as that of the decoder's first token.
        name: of the mask.

    Raises:
        TypeError: it is not a tensor.
        ValueError: its shape, dtype or values are wrong, or it is missing where there is padding.
    """
    readable = values_are_readable(input_ids)
    if attention_mask is None:
        if pad_token_id is not None and readable and bool((input_ids == pad_token_id).any()):
            raise ValueError(
                f"input_ids holds the padding id {pad_token_id} but there is no attention_mask, so "
                f"padding would be attended to; pass attention_mask=(input_ids != {pad_token_id})"
            )
        return
    _check_mask_kind(name, attention_mask, input_ids, name.replace("attention_mask", "input_ids"))
    mask = attention_mask.bool()
    if mask is not attention_mask and readable and not bool((attention_mask == mask).all()):
        raise ValueError(
            f"{name} holds {int(attention_mask[attention_mask != mask][0])}; "
            "only 1 (a real token) and 0 (padding) are allowed"
        )


def _check_mask_kind(name: str, mask: Tensor, input_ids: Tensor, ids_name: str) -> None:
    """Check the shape, (B, T), and the dtype, but no values."""
    check_same_shape(name, mask, input_ids, ids_name)
    if mask.dtype not in (torch.bool, *_INTEGERS):
        raise ValueError(
            f"{name} has dtype {mask.dtype}; bool or an integer of 0 and 1 is needed. For an "
            "additive mask (0 and -inf) pass `mask == 0`"
        )


def refuse_token_types(token_type_ids: Tensor | None, family: str) -> None:
    """Refuse token types where a family has none.

    Raises:
        ValueError: there are some.
    """
    if token_type_ids is not None:
        raise ValueError(
            f"token_type_ids was given, but {family} has no token types; leave it out. If "
            "the tokenizer returns it, set tokenizer.token_types = False"
        )


def check_labels(
    labels: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    num_classes: int,
    prefix: str = "",
) -> None:
    """Check labels for every token: (B, T) int64, a class or -100 for none.

    A label at padding would train the model on what nothing reads, and more so the longer the
    padding. `prefix` is what the names of ids and mask begin with: "decoder_" for a decoder's.

    Raises:
        TypeError: it is not a tensor.
        ValueError: the shape, the dtype or a value is wrong, or padding is labelled.
    """
    ids_name, mask_name = f"{prefix}input_ids", f"{prefix}attention_mask"
    check_same_shape("labels", labels, input_ids, ids_name)
    _check_classes(labels, num_classes)
    if attention_mask is None or not values_are_readable(labels):
        return
    _check_mask_kind(mask_name, attention_mask, input_ids, ids_name)
    wrong = (labels != IGNORED_LABEL) & (attention_mask == 0)
    if bool(wrong.any()):
        sequence, position = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"labels holds {int(labels[sequence, position])} in sequence {sequence} at position "
            f"{position}, which is padding; set labels to {IGNORED_LABEL} where {mask_name} is 0"
        )


def check_class_labels(labels: Tensor, batch_size: int, num_classes: int) -> None:
    """Check labels for every sequence: (B,) int64, a class or -100 for none.

    Raises:
        TypeError: it is not a tensor.
        ValueError: the shape, the dtype or a value is wrong.
    """
    _check_vector("labels", labels, batch_size)
    if labels.is_floating_point():
        raise ValueError(
            f"labels has dtype {labels.dtype}; class labels must be torch.int64. For "
            "several classes per sequence set problem_type='multi_label_classification', for "
            "numbers 'regression'"
        )
    _check_classes(labels, num_classes)


def check_targets(labels: Tensor, shape: tuple[int, int], *, between_0_and_1: bool) -> None:
    """Check labels that are numbers, one for each score.

    Args:
        labels: (B, C) float, or (B,) where C = 1.
        shape: (B, C), of the scores.
        between_0_and_1: whether a label is the share of a class, not just any number.

    Raises:
        TypeError: it is not a tensor.
        ValueError: the shape, the dtype or a value is wrong.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels is a {type(labels).__name__}; a tensor is needed")
    if not labels.is_floating_point():
        raise ValueError(
            f"labels has dtype {labels.dtype}; regression and multi-label targets must be floats"
        )
    if labels.dim() == 1 and shape[1] == 1:
        labels = labels[:, None]
    if labels.shape != shape:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; one for each score is needed, {shape}"
        )
    if values_are_readable(labels):
        in_range = (labels >= 0) & (labels <= 1) if between_0_and_1 else labels.isfinite()
        if not bool(in_range.all()):
            sequence, score = (~in_range).nonzero()[0].tolist()
            allowed = "from 0 to 1; 1 means that the class applies" if between_0_and_1 else "finite"
            raise ValueError(
                f"labels holds {labels[sequence, score].item()} in sequence {sequence} for score "
                f"{score}; labels must be {allowed}"
            )


def check_answer_positions(
    start_positions: Tensor,
    end_positions: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor | None,
) -> None:
    """Check the positions of answers: (B,) int64 each, of real tokens, no end before its start.

    Raises:
        TypeError: one is not a tensor.
        ValueError: a shape, a dtype or a value is wrong; the message names the sequence.
    """
    check_shape("input_ids", input_ids)
    if attention_mask is not None:
        _check_mask_kind("attention_mask", attention_mask, input_ids, "input_ids")
    batch_size, length = input_ids.shape
    for name, positions in (("start_positions", start_positions), ("end_positions", end_positions)):
        _check_vector(name, positions, batch_size)
        if positions.dtype != torch.int64:
            raise ValueError(f"{name} has dtype {positions.dtype}; torch.int64 is needed")
        if not values_are_readable(positions):
            continue
        outside = (positions < 0) | (positions >= length)
        if attention_mask is not None:
            real = attention_mask.gather(1, positions.clamp(0, length - 1)[:, None]).squeeze(1)
            outside |= real == 0
        if bool(outside.any()):
            sequence = int(outside.int().argmax())
            raise ValueError(
                f"{name} holds {int(positions[sequence])} in sequence {sequence}, where there is "
                f"no token: a sequence has {length} positions, padding included; no answer is the "
                "position of [CLS]"
            )
    if values_are_readable(end_positions) and bool((end_positions < start_positions).any()):
        sequence = int((end_positions < start_positions).int().argmax())
        raise ValueError(
            f"sequence {sequence}: end_positions is {int(end_positions[sequence])}, before "
            f"start_positions, {int(start_positions[sequence])}; both are positions of tokens of "
            "the answer"
        )


def check_end_tokens(is_end: Tensor, eos_token_id: int | None) -> None:
    """Check that every sequence has an end token, which BART classifies a text by.

    Args:
        is_end: (B, T) bool, True at real end tokens.
        eos_token_id: their id.

    Raises:
        ValueError: one has none; the message names it.
    """
    if values_are_readable(is_end) and not bool(is_end.any(dim=1).all()):
        sequence = int(is_end.any(dim=1).int().argmin())
        raise ValueError(
            f"input_ids has no end token, eos_token_id={eos_token_id}, in sequence {sequence}; "
            "BART classifies a text at its end: tokenize it with special tokens"
        )


def check_evaluation_mode(model: nn.Module) -> None:
    """Check that no part of the model is in training mode.

    Raises:
        ValueError: one is.
    """
    if any(module.training for module in model.modules()):
        raise ValueError(
            "the model, or a part of it, is in training mode, where dropout would change the "
            "result; call model.eval() first"
        )


def not_finite(outputs: str, model: nn.Module) -> ValueError:
    """The error for outputs that are NaN or infinite, which says whether the weights are too.

    Args:
        outputs: what they are, in the plural, such as "the logits".
        model: that computed them.
    """
    weights = dict([*model.named_parameters(), *model.named_buffers()])
    broken = [name for name, values in weights.items() if not bool(values.isfinite().all())]
    if broken:
        return ValueError(
            f"{outputs} contain NaN or infinity, and so does the weight {broken[0]}; load an "
            "undamaged checkpoint, or train again with a lower learning rate"
        )
    dtypes = ", ".join(sorted({str(values.dtype) for values in weights.values()}))
    return ValueError(
        f"{outputs} contain NaN or infinity, though all weights ({dtypes}) are finite: a number "
        "exceeded the range of its dtype; in float16 it is small, so use float32 or bfloat16 "
        "instead, as in model.float()"
    )


def _check_vector(name: str, values: Tensor, batch_size: int) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} is a {type(values).__name__}; a tensor of shape (B,) is needed")
    if values.shape != (batch_size,):
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; one for each sequence is needed, "
            f"({batch_size},)"
        )


def _check_classes(labels: Tensor, num_classes: int) -> None:
    if labels.dtype != torch.int64:
        raise ValueError(f"labels has dtype {labels.dtype}; torch.int64 is needed")
    if not values_are_readable(labels):
        return
    wrong = (labels != IGNORED_LABEL) & ((labels < 0) | (labels >= num_classes))
    if bool(wrong.any()):
        raise ValueError(
            f"labels holds {int(labels[wrong][0])}; a label goes from 0 to {num_classes - 1}, or "
            f"is {IGNORED_LABEL} where there is none"
        )

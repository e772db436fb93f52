"""Checks of what goes into a model: one clear error instead of a crash, or of a wrong answer.

B batch, T tokens, C classes.

The values of a tensor (is every id in the vocabulary?) can be looked at only where that is
possible, so those checks are skipped while torch.compile traces, those of ids and masks while a
CUDA graph is recorded too. All of them together read a few thousand integers a call.
"""

import torch
from torch import Tensor

IGNORED_LABEL = -100  # a label that is no label: PyTorch's and Hugging Face's value

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_shape(name: str, ids: Tensor) -> None:
    """Check that `ids` is a tensor of shape (B, T) with at least one token.

    Raises:
        TypeError: it is no tensor.
        ValueError: its shape is another.
    """
    if not isinstance(ids, Tensor):
        raise TypeError(f"{name} is a {type(ids).__name__}; a tensor of shape (B, T) is needed")
    if ids.dim() != 2:
        fix = f"; pass {name}[None] for a batch of one" if ids.dim() == 1 else ""
        raise ValueError(f"{name} has shape {tuple(ids.shape)}; (B, T) is needed{fix}")
    if ids.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(ids.shape)}: there is no token in it")


def check_ids(name: str, ids: Tensor, *, size: int, size_name: str) -> None:
    """Check that `ids` is (B, T), integer, and within 0 <= id < size.

    Raises:
        TypeError: it is no tensor.
        ValueError: its shape, dtype or values are off.
    """
    check_shape(name, ids)
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} has dtype {ids.dtype}; torch.int64 is needed")
    if not _can_read(ids):
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
        TypeError: one of them is no tensor.
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
    """Check that a row of `length` tokens fits a table of positions.

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
            f"{name} has {length} tokens a row, but {longest} fit "
            f"(max_position_embeddings={table_rows}{unused}); "
            f"truncate: tokenizer(texts, truncation=True, max_length={longest})"
        )


def check_attention_mask(
    attention_mask: Tensor | None,
    input_ids: Tensor,
    pad_token_id: int | None,
    name: str = "attention_mask",
) -> Tensor | None:
    """Check the mask and give it as bool, or as None where nothing is padded.

    None lets the attention kernels run without a mask, which is faster.

    Args:
        attention_mask: (B, T), bool or an integer of 0 and 1, True or 1 at real tokens; or None
            where no token is padding.
        input_ids: (B, T).
        pad_token_id: the id that must not occur where no mask is given; None where there is none,
            or where it has another meaning too, such as that of the decoder's first token.
        name: of the mask.

    Raises:
        ValueError: its shape, dtype or values are off, or it is missing where there is padding.
    """
    readable = _can_read(input_ids)
    if attention_mask is None:
        if pad_token_id is not None and readable and bool((input_ids == pad_token_id).any()):
            raise ValueError(
                f"input_ids holds the padding id {pad_token_id} but there is no attention_mask, so "
                f"padding would be attended to; pass attention_mask=(input_ids != {pad_token_id})"
            )
        return None
    ids_name = name.replace("attention_mask", "input_ids")
    _check_mask_kind(name, attention_mask, input_ids, ids_name)
    mask = attention_mask.bool()
    if mask is not attention_mask and readable and not bool((attention_mask == mask).all()):
        raise ValueError(
            f"{name} holds {int(attention_mask[attention_mask != mask][0])}; "
            "only 1 (a real token) and 0 (padding) have a meaning"
        )
    return None if readable and bool(mask.all()) else mask


def _check_mask_kind(name: str, mask: Tensor, input_ids: Tensor, ids_name: str) -> None:
    """Whatever its values: (B, T), and of a dtype in which 0 stands for padding."""
    check_same_shape(name, mask, input_ids, ids_name)
    if mask.dtype not in (torch.bool, *_INTEGERS):
        raise ValueError(
            f"{name} has dtype {mask.dtype}; bool or an integer of 0 and 1 is needed. Of an "
            "additive mask (0 and -inf) pass `mask == 0`"
        )


def refuse_token_types(token_type_ids: Tensor | None, family: str) -> None:
    """Refuse token types where a family has none.

    Raises:
        ValueError: there are some.
    """
    if token_type_ids is not None:
        raise ValueError(
            f"token_type_ids was given, but {family} has no token types; leave it out. A "
            "tokenizer that returns it anyway: tokenizer.token_types = False"
        )


def check_labels(
    labels: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    num_classes: int,
    prefix: str = "",
) -> None:
    """Check labels for every token: (B, T) int64, a class or -100 for none.

    A label at padding would train the model on what nobody reads, and more so the longer the
    padding. `prefix` is what the names of ids and mask begin with: "decoder_" for a decoder's.

    Raises:
        ValueError: the shape, the dtype or a value is off, or padding is labelled.
    """
    ids_name, mask_name = f"{prefix}input_ids", f"{prefix}attention_mask"
    check_same_shape("labels", labels, input_ids, ids_name)
    _check_classes(labels, num_classes)
    if attention_mask is None or torch.compiler.is_compiling():
        return
    _check_mask_kind(mask_name, attention_mask, input_ids, ids_name)
    wrong = (labels != IGNORED_LABEL) & (attention_mask == 0)
    if bool(wrong.any()):
        row, place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"labels holds {int(labels[row, place])} in row {row} at place {place}, which is "
            f"padding; set labels to {IGNORED_LABEL} where {mask_name} is 0"
        )


def check_class_labels(labels: Tensor, num_rows: int, num_classes: int) -> None:
    """Check labels for every row: (B,) int64, a class or -100 for none.

    Raises:
        TypeError: it is no tensor.
        ValueError: the shape, the dtype or a value is off.
    """
    _check_vector("labels", labels, num_rows)
    if labels.is_floating_point():
        raise ValueError(
            f"labels has dtype {labels.dtype}; a class for each row is torch.int64. For several "
            "classes a row set problem_type='multi_label_classification', for numbers 'regression'"
        )
    _check_classes(labels, num_classes)


def check_targets(labels: Tensor, shape: tuple[int, int], *, between_0_and_1: bool) -> Tensor:
    """Check labels that are numbers, one for each score, and give them the scores' shape.

    Args:
        labels: (B, C) float; (B,) where C = 1.
        shape: (B, C), of the scores.
        between_0_and_1: whether a label is the share of a class, not just any number.

    Raises:
        TypeError: it is no tensor.
        ValueError: the shape, the dtype or a value is off.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels is a {type(labels).__name__}; a tensor is needed")
    if not labels.is_floating_point():
        raise ValueError(f"labels has dtype {labels.dtype}; a number for each score is a float")
    if labels.dim() == 1 and shape[1] == 1:
        labels = labels[:, None]
    if labels.shape != shape:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; one for each score is needed, {shape}"
        )
    if not torch.compiler.is_compiling():
        if not bool(labels.isfinite().all()):
            raise ValueError("labels holds a number that is NaN or infinite")
        if between_0_and_1 and not bool(((labels >= 0) & (labels <= 1)).all()):
            raise ValueError(
                "labels holds a number outside 0 to 1; 1 stands for a class that is so"
            )
    return labels


def check_positions(
    start_positions: Tensor,
    end_positions: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor | None,
) -> None:
    """Check the places of answers: (B,) int64 each, of real tokens, no end before its start.

    Raises:
        TypeError: one is no tensor.
        ValueError: a shape, a dtype or a value is off; the message names the row.
    """
    check_shape("input_ids", input_ids)
    if attention_mask is not None:
        _check_mask_kind("attention_mask", attention_mask, input_ids, "input_ids")
    num_rows, length = input_ids.shape
    for name, positions in (("start_positions", start_positions), ("end_positions", end_positions)):
        _check_vector(name, positions, num_rows)
        if positions.dtype != torch.int64:
            raise ValueError(f"{name} has dtype {positions.dtype}; torch.int64 is needed")
        if torch.compiler.is_compiling():
            continue
        outside = (positions < 0) | (positions >= length)
        if attention_mask is not None:
            there = attention_mask.gather(1, positions.clamp(0, length - 1)[:, None]).squeeze(1)
            outside |= there == 0
        if bool(outside.any()):
            row = int(outside.int().argmax())
            raise ValueError(
                f"{name} holds {int(positions[row])} in row {row}, where there is no token: a row "
                f"has {length} places, padding included; no answer is the place of [CLS]"
            )
    if not torch.compiler.is_compiling() and bool((end_positions < start_positions).any()):
        row = int((end_positions < start_positions).int().argmax())
        raise ValueError(
            f"row {row}: end_positions is {int(end_positions[row])}, before start_positions, "
            f"{int(start_positions[row])}; both are the places of tokens of the answer"
        )


def _can_read(tensor: Tensor) -> bool:
    """Whether its values can be looked at: not while what is done with it is only written down."""
    if torch.compiler.is_compiling():
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _check_vector(name: str, values: Tensor, num_rows: int) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} is a {type(values).__name__}; a tensor of shape (B,) is needed")
    if values.shape != (num_rows,):
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; one for each row is needed, ({num_rows},)"
        )


def _check_classes(labels: Tensor, num_classes: int) -> None:
    if labels.dtype != torch.int64:
        raise ValueError(f"labels has dtype {labels.dtype}; torch.int64 is needed")
    if torch.compiler.is_compiling():
        return
    wrong = (labels != IGNORED_LABEL) & ((labels < 0) | (labels >= num_classes))
    if bool(wrong.any()):
        raise ValueError(
            f"labels holds {int(labels[wrong][0])}; a label goes from 0 to {num_classes - 1}, or "
            f"is {IGNORED_LABEL} where there is none"
        )

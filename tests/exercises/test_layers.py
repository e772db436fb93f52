"""The exercises on norms, GELU and positions: steps are the library; mistakes in others' words."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.exercises import layers
from minitransformer.exercises.checking import first_difference, judge, wrong_outcome
from minitransformer.exercises.exercise import Exercise
from minitransformer.exercises.runner import evaluate
from minitransformer.layers.positional_embeddings import (
    OffsetPositions,
    position_ids_from_mask,
    relative_position_bucket,
)
from tests import tiny


def library_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """As `LayerNorm` calls it."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def library_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `RMSNorm` calls it."""
    return F.rms_norm(x, weight.shape, weight, eps)


def library_positions(input_ids: Tensor, padding_idx: int) -> Tensor:
    """What a table that holds the numbers of its rows gives."""
    positions = OffsetPositions(input_ids.shape[1], 1, padding_idx + 1, padding_idx)
    table = positions.table.weight
    table.data[:, 0] = torch.arange(len(table))
    return positions(position_ids_from_mask(input_ids != padding_idx))[..., 0].long()


def library_bucket(
    distance: Tensor, bidirectional: bool, num_buckets: int, max_distance: int
) -> Tensor:
    """With arguments by position."""
    return relative_position_bucket(
        distance,
        bidirectional=bidirectional,
        num_buckets=num_buckets,
        max_distance=max_distance,
    )


LIBRARY: list[tuple[Exercise, Callable[..., Any]]] = [
    (layers.LAYER_NORM, library_layer_norm),
    (layers.RMS_NORM, library_rms_norm),
    (layers.GELU, F.gelu),
    (layers.GELU, layers.GELU.reference),
    (layers.ROBERTA_POSITIONS, library_positions),
    (layers.SINUSOIDS, layers.SINUSOIDS.reference),
    (layers.RELATIVE_POSITION_BUCKET, library_bucket),
]


@pytest.mark.parametrize(("exercise", "function"), LIBRARY)
def test_steps_without_mistakes_are_the_library(
    exercise: Exercise, function: Callable[..., Any]
) -> None:
    for case in exercise.cases():
        steps, library = wrong_outcome(exercise, (), case), evaluate(function, case)
        assert library.error is None, case.label
        assert first_difference(case, steps, library) is None, case.label


@pytest.mark.parametrize("exercise", [layers.LAYER_NORM, layers.RMS_NORM])
def test_steps_of_norms_are_the_formulas(exercise: Exercise) -> None:
    for case in exercise.cases():
        if case.inputs["x"].dtype not in (torch.float16, torch.bfloat16):
            formula = evaluate(exercise.reference, case)
            assert first_difference(case, wrong_outcome(exercise, (), case), formula) is None


def test_no_case_of_the_buckets_depends_on_rounding() -> None:
    for case in layers.RELATIVE_POSITION_BUCKET.cases():
        for factor in (1 - 1e-5, 1 + 1e-5):

            def otherwise_rounded(steps: Any, factor: float = factor) -> None:
                share = steps.share
                steps.share = lambda away, exact, largest: torch.where(
                    away == exact, 0.0, share(away, exact, largest) * factor
                )

            steps = evaluate(layers.RelativePositionBucketSteps(), case, otherwise_rounded)
            assert first_difference(case, steps, evaluate(library_bucket, case)) is None, case.label


# ---- mistakes as students write them ----


def norm_by_torch_std(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Annotated-transformer style: unbiased, and eps outside."""
    y = x if x.dtype == torch.float64 else x.float()
    y = weight * (y - y.mean(-1, keepdim=True)) / (y.std(-1, keepdim=True) + eps) + bias
    return y.to(x.dtype)


def norm_in_float16(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`layer_norm` of the library, in half precision."""
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.pow(2).mean(-1, keepdim=True) + eps) ** 0.5 * weight + bias


def norm_of_the_expanded_variance(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Sums instead of means."""
    y, n = x if x.dtype == torch.float64 else x.float(), x.size(2)
    mean = y.sum(2, keepdim=True) / n
    variance = torch.einsum("bte,bte->bt", y, y)[..., None] / n - mean**2
    return ((y - mean) * (weight / torch.sqrt(variance + eps)) + bias).type_as(x)


def norm_under_no_grad(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """A factor without a gradient; eps forgotten."""
    wide = x if x.dtype == torch.float64 else x.float()
    with torch.no_grad():
        factor = wide.pow(2).mean(2, keepdim=True).rsqrt()
    return (wide * factor * weight).to(x.dtype)


def norm_by_normalize(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """A vector norm for a root mean square."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide / (wide.pow(2).sum(-1, keepdim=True) + eps).sqrt() * weight).to(x.dtype)


def numbered_by_arange(input_ids: Tensor, padding_idx: int) -> Tensor:
    """As in the first ports of RoBERTa."""
    start = padding_idx + 1
    return torch.arange(start, start + input_ids.shape[1])[None].repeat(len(input_ids), 1)


def float_mask(input_ids: Tensor, padding_idx: int) -> Tensor:
    """A float mask, padding_idx forgotten."""
    mask = (input_ids != padding_idx).float()
    return mask.cumsum(1) * mask


def annotated_sinusoids(num_positions: int, hidden_size: int) -> Tensor:
    """Side by side, in float32."""
    table = torch.zeros(num_positions, hidden_size)
    position = torch.arange(0, num_positions).unsqueeze(1)
    div_term = torch.exp(torch.arange(0, hidden_size, 2) * -(math.log(10000.0) / hidden_size))
    table[:, 0::2] = torch.sin(position * div_term)
    table[:, 1::2] = torch.cos(position * div_term)[:, : hidden_size // 2]
    return table


def clipped_distances(
    distance: Tensor, bidirectional: bool, num_buckets: int, max_distance: int
) -> Tensor:
    """Shaw's clipping in T5's buckets, the directions exchanged."""
    if not bidirectional:
        return (-distance).clamp(0, num_buckets - 1)
    half = num_buckets // 2
    return distance.abs().clamp(max=half - 1) + half * (distance < 0)


STUDENTS: list[tuple[Exercise, Callable[..., Any], set[str]]] = [
    (layers.LAYER_NORM, norm_by_torch_std, {"unbiased variance", "eps outside the root"}),
    (layers.LAYER_NORM, norm_in_float16, {"squares in half precision"}),
    (layers.LAYER_NORM, norm_of_the_expanded_variance, {"difference of large squares"}),
    (layers.RMS_NORM, norm_under_no_grad, {"no eps", "constant statistics"}),
    (layers.RMS_NORM, norm_by_normalize, {"sum of squares"}),
    (layers.GELU, lambda x: F.gelu(x, approximate="tanh"), {"tanh approximation"}),
    (layers.GELU, F.silu, {"silu"}),
    (layers.GELU, F.relu, {"relu"}),
    (layers.GELU, lambda x: x * torch.special.erf(x / 2**0.5) / 2, {"no one plus"}),
    (layers.ROBERTA_POSITIONS, numbered_by_arange, {"padding numbered"}),
    (layers.ROBERTA_POSITIONS, float_mask, {"no offset", "rows are floats"}),
    (layers.SINUSOIDS, annotated_sinusoids, {"side by side", "table in float32"}),
    (
        layers.RELATIVE_POSITION_BUCKET,
        clipped_distances,
        {"a bucket for every distance", "earlier keys in the second half"},
    ),
]


@pytest.mark.parametrize(("exercise", "solution", "names"), STUDENTS)
def test_a_mistake_is_named_in_whichever_way_it_is_written(
    exercise: Exercise, solution: Callable[..., Any], names: set[str]
) -> None:
    cases = list(exercise.cases())
    report = judge(exercise, cases, [evaluate(solution, case) for case in cases])
    assert [{mistake.name for mistake in found} for found in report.mistakes] == [names]


# ---- whole models ----


def call(name: str, model: Any) -> Tensor:
    """The first result of a model for sequences with padding on the left."""
    torch.manual_seed(0)
    ids = torch.randint(4, 30, (2, 11))
    mask = torch.ones(2, 11, dtype=torch.int64)
    mask[1, :4] = 0
    if name == "RobertaModel":
        return model(ids.masked_fill(mask == 0, 1), mask).last_hidden_state[mask.bool()]
    return model(ids, mask, labels=ids).logits


@pytest.mark.parametrize(
    ("exercise", "name", "mistake"),
    [
        (layers.LAYER_NORM, "RobertaModel", "unbiased variance"),
        (layers.RMS_NORM, tiny.T5, "no weight"),
        (layers.GELU, "RobertaModel", "tanh approximation"),
        (layers.ROBERTA_POSITIONS, "RobertaModel", "padding counted"),
        (layers.ROBERTA_POSITIONS, "RobertaModel", "no offset"),
        (layers.SINUSOIDS, tiny.MARIAN, "side by side"),
        (layers.RELATIVE_POSITION_BUCKET, tiny.T5, "log of max distance"),
    ],
)
def test_models_can_make_a_mistake(exercise: Exercise, name: str, mistake: str) -> None:
    expected = call(name, tiny.build(name))
    right, wrong = tiny.new(name), tiny.new(name)
    exercise.put_into_model(right)
    tiny.assert_equal(call(name, right), expected)
    exercise.put_into_model(wrong, [m for m in exercise.mistakes if m.name == mistake])
    largest = (call(name, wrong) - expected).abs().max().item()
    assert 1e-5 < largest < math.inf

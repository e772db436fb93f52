"""Where a step waits for the device: before its first product, and nowhere after it.

Python code that reads a value or a count waits until the GPU has finished all its work; before the
first layer the GPU is idle, and waiting is cheap.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from minitransformer.models.base import Model
from tests import tiny
from tests.models.test_decoder_invariants import collate_labelled, labelled
from tests.models.test_heads import PROBLEMS, build, collate, examples_of

# Operations that read values; those of `marked` are not visible as operations otherwise.
READING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique"}
MARKED = {"tolist", "tensor"}
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "linear"}

pytestmark = pytest.mark.slow
both_variants = pytest.mark.parametrize("variant", ["sdpa", "optimized"])


def marked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Let the profiler see it: reading a list, or copying numbers to a device."""

    def call(*inputs: Any, **named: Any) -> Any:
        with record_function(name):
            return function(*inputs, **named)

    return call


def reads_and_products(
    model: Model, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[int], int]:
    """How many products went before each read of a training step, and how many there were.

    Measured with a profiler, because an optimized model runs the plain forward under hooks and
    dispatch modes.
    """
    with monkeypatch.context() as patched, profile(activities=[ProfilerActivity.CPU]) as profiler:
        patched.setattr(torch.Tensor, "tolist", marked("tolist", torch.Tensor.tolist))
        patched.setattr(torch, "tensor", marked("tensor", torch.tensor))
        loss = model.loss(**batch)
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    events = sorted(profiler.events(), key=lambda event: event.time_range.start)
    reads, products = [], 0
    for name in (event.name.removeprefix("aten::") for event in events):
        products += name in PRODUCTS
        if name in READING | MARKED:
            reads.append(products)
    return reads, products


@both_variants
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("family", tiny.ENCODERS)
def test_a_step_waits_only_before_its_first_product(family, problem, variant, monkeypatch):
    model = build(family, problem, variant)
    batch = collate(examples_of(problem, [6, 3, 4]), model)
    reads, products = reads_and_products(model, batch, monkeypatch)
    assert products > 10
    assert reads  # inputs are checked
    assert not any(reads)


@both_variants
@pytest.mark.parametrize("name", tiny.LANGUAGE_MODELS)
def test_an_encoder_decoder_waits_before_its_decoder_too(name, variant, monkeypatch):
    model: Any = tiny.build(name, variant)
    examples = labelled(name, [6, 3, 4], explicit=True)
    batch = collate_labelled(name, examples, left=False, left_target=False)
    reads, products = reads_and_products(model, batch, monkeypatch)
    assert reads[0] == 0
    assert len(set(reads)) == (1 if name in tiny.CAUSAL else 2)
    assert products > 2 * max(reads)

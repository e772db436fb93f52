"""Where a step waits for the device: before its first product, and nowhere after it.

Whoever asks for a number, or for how many there are, waits until a GPU has done all that it was
told; while it has nothing else to do, that is cheap.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minitransformer.layers.packing import Packing
from tests.models import decoders
from tests.models.test_decoder_invariants import collate_labelled, labelled
from tests.models.test_heads import FAMILIES, KERNELS, PROBLEMS, build, collate, examples_of

ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear")


class Order(TorchDispatchMode):
    """What asks, and what multiplies, in the order in which it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []  # and how many products went before
        self.products = 0

    def ask(self, name: str) -> None:
        self.asked.append((name, self.products))

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        self.products += name in PRODUCTS
        chosen_by_bools = name in ("index", "index_put", "index_put_") and any(
            place is not None and place.dtype == torch.bool for place in args[1]
        )
        if name in ASKING or chosen_by_bools:
            self.ask(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def order(monkeypatch: pytest.MonkeyPatch) -> Iterator[Order]:
    """The mode does not see lengths of packed rows, which `tolist` reads, nor what is copied."""
    mode, packing, tensor = Order(), Packing.__init__, torch.tensor

    def copied(*inputs: Any, **named: Any) -> torch.Tensor:
        if "device" in named:
            mode.ask("tensor")
        return tensor(*inputs, **named)

    def asking(self: Packing, *inputs: Any) -> None:
        mode.ask("tolist")
        packing(self, *inputs)

    with monkeypatch.context() as patched, mode:
        patched.setattr(Packing, "__init__", asking)
        patched.setattr(torch, "tensor", copied)
        yield mode


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_waits_only_before_its_first_product(family, problem, attention, monkeypatch):
    model = build(family, problem, attention)
    batch = collate(examples_of(problem, [6, 3, 4]), model)
    with order(monkeypatch) as found:
        loss = model.loss(**batch)
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert found.products > 10
    assert [asked for asked in found.asked if asked[1]] == []
    assert found.asked  # inputs are checked


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("name", decoders.WRITERS)
def test_a_model_that_writes_waits_before_its_decoder_too(name, attention, monkeypatch):
    model: Any = decoders.build(name, attention)
    examples = labelled(name, [6, 3, 4], explicit=True)
    batch = collate_labelled(name, examples, left=False, left_target=False)
    with order(monkeypatch) as found:
        loss = model.loss(**batch)
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    moments = {products for _, products in found.asked}
    assert 0 in moments
    assert len(moments) == (1 if name in decoders.CAUSAL else 2)
    assert found.products > 2 * max(moments)

"""Products in half precision by float32: the numbers of F.linear, and where they are used.

What they cost is measured, so the tests set the result.
"""

import pytest
import torch
import torch.nn.functional as F

from minitransformer.fast import dtype_cost, measuring
from minitransformer.fast import half_precision as module
from minitransformer.fast.half_precision import HALF, is_faster_in_float32, linear_in_float32
from minitransformer.fast.layer_twins import FastLinear

MANY = module._MIN_ROWS


@pytest.fixture
def faster(monkeypatch):
    """Float32 is faster, and oneDNN is on."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)
    monkeypatch.setattr(module, "is_faster", lambda *_, **__: True)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("outputs", [1, 21, 64])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_numbers_are_those_in_float32_rounded_once(dtype, outputs, with_bias, monkeypatch):
    monkeypatch.setattr(module, "_MAX_BYTES", 4 * 32 * 10)  # ten rows a block
    weight = torch.randn(outputs, 64, dtype=dtype)[:, ::2]
    bias = torch.randn(outputs, 2, dtype=dtype)[:, 1] if with_bias else None
    for x in (torch.randn(3, 5, 32, dtype=dtype), torch.randn(32, 7, dtype=dtype).t()):
        exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
        found = linear_in_float32(x, weight, bias)
        assert found.dtype == dtype and found.is_contiguous()
        rounding = torch.finfo(dtype).eps  # once: the half of it, and float32's own
        torch.testing.assert_close(found.double(), exact, rtol=0.51 * rounding, atol=1e-5)


def test_where_products_are_computed_in_float32(faster, monkeypatch):
    layer = FastLinear(8, 4, dtype=torch.bfloat16)
    x = torch.randn(2, MANY // 2, 8, dtype=torch.bfloat16)

    def serves(x, weight=layer.weight):
        return is_faster_in_float32(x, weight, layer.bias)

    assert not serves(x)  # with gradients
    with torch.no_grad():
        assert serves(x) and not serves(x[:, 1:]) and not serves(x[0, 0]) and not serves(x[:0])
        assert not serves(x.float(), layer.weight.float()) and not serves(x, layer.weight.float())
        with torch.autocast("cpu", torch.bfloat16):
            assert not serves(x)
        expected = linear_in_float32(x, layer.weight, layer.bias)
        assert torch.equal(layer(x), expected)
        monkeypatch.setattr(module, "is_faster", lambda *_, **__: False)
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("rows", [1, 128])
def test_both_sides_of_a_comparison_compute_the_same(dtype, rows, monkeypatch):
    monkeypatch.setattr(measuring, "SPEEDUPS", {})
    monkeypatch.setattr(measuring, "_seconds", lambda way: way() and 1.0)
    with torch.no_grad():
        for make in (dtype_cost._both(dtype, rows), module._both_products(dtype, rows)):
            usual, other = (way() for way in make)
            for one, two in zip(usual, other, strict=True):
                torch.testing.assert_close(one.float(), two.float(), rtol=1e-2, atol=1e-2)
    assert dtype_cost.half_precision_speedups(dtype) == {"one row": 1.0, "128 rows": 1.0}

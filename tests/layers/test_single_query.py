"""A single query in bfloat16, which the CPU computes in float32: the same numbers and gradients."""

import pytest
import torch

from minitransformer.layers.attention import attention_weights
from minitransformer.layers.kernels import SdpaAttention

ROUNDING = {"rtol": 2e-2, "atol": 2e-2}


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_numbers_are_those_of_the_formula(with_mask, with_bias):
    query = torch.randn(2, 3, 1, 8, dtype=torch.bfloat16, requires_grad=True)
    key = torch.randn(2, 3, 50, 8, dtype=torch.bfloat16, requires_grad=True)
    value = torch.randn(2, 3, 50, 8, dtype=torch.bfloat16, requires_grad=True)
    mask = torch.rand(2, 1, 1, 50) < 0.7 if with_mask else None
    bias = torch.randn(1, 3, 1, 50, dtype=torch.bfloat16) if with_bias else None
    gathered = SdpaAttention(causal=True, scale=0.5)(query, key, value, mask, bias)
    assert gathered.dtype == torch.bfloat16
    exact = [part.detach().double().requires_grad_() for part in (query, key, value)]
    weights = attention_weights(*exact[:2], mask, None if bias is None else bias.double(), 0.5)
    expected = weights @ exact[2]
    torch.testing.assert_close(gathered.double(), expected, **ROUNDING)
    found = torch.autograd.grad(gathered.sum(), (query, key, value))
    for ours, theirs in zip(found, torch.autograd.grad(expected.sum(), exact), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), theirs, **ROUNDING)

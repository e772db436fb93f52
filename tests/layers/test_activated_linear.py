"""A linear map and its activation in one pass: the same numbers, and only where it may serve."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minitransformer.layers import activated_linear as module
from minitransformer.layers.activated_linear import activated_linear
from minitransformer.layers.activations import ACTIVATIONS
from minitransformer.layers.feedforward import FeedForward


@pytest.fixture
def calls(monkeypatch):
    """How often oneDNN's kernel ran."""
    seen = []
    kernel = torch.ops.mkldnn._linear_pointwise

    class Kernels:
        @staticmethod
        def _linear_pointwise(*arguments):
            seen.append(arguments[3])
            return kernel(*arguments)

    for activation in module._FUSED:  # which are tried once, before anybody counts
        for dtype in (torch.float32, torch.bfloat16):
            module._kernel_works(dtype, activation)
    monkeypatch.setattr(torch.ops, "mkldnn", Kernels)
    return seen


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_is_the_activation_of_the_linear_map(name, bias, dtype, calls):
    linear, activation = nn.Linear(24, 40, bias, dtype=dtype), ACTIVATIONS[name]
    x = torch.randn(3, 5, 24, dtype=dtype) * 2
    expected = activation(
        F.linear(x.float(), linear.weight.float(), None if not bias else linear.bias.float())
    )
    with torch.no_grad():
        found = activated_linear(x, linear, activation)
    assert found.dtype == dtype
    tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-6
    torch.testing.assert_close(found.float(), expected.float(), rtol=tolerance, atol=tolerance)
    fused = torch.backends.mkldnn.is_available() and dtype != torch.float64
    assert len(calls) == (fused and name not in ("silu", "swish"))


def test_whoever_needs_more_gets_two_steps(calls):
    linear, gelu, x = nn.Linear(3, 4), ACTIVATIONS["gelu"], torch.randn(2, 3)
    activated_linear(x, linear, gelu).sum().backward()  # gradients
    assert linear.weight.grad is not None
    with torch.no_grad():
        activated_linear(x.double(), nn.Linear(3, 4).double(), gelu)
        activated_linear(x[:0], linear, gelu)
        activated_linear(x, linear, lambda values: values)  # an activation of one's own
        activated_linear(x, linear, partial(F.gelu, approximate="tanh"))
        with torch.autocast("cpu", torch.bfloat16):
            assert activated_linear(x, linear, gelu).dtype == torch.bfloat16
        with torch.backends.mkldnn.flags(enabled=False):
            activated_linear(x, linear, gelu)
        seen = []
        hook = linear.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
        activated_linear(x, linear, gelu)
        hook.remove()
        assert len(seen) == 1
        linear.forward = lambda values: values @ torch.ones(3, 4)  # as while a text is written
        torch.testing.assert_close(activated_linear(x, linear, gelu), gelu(x @ torch.ones(3, 4)))
        own = Doubling(3, 4)
        torch.testing.assert_close(activated_linear(x, own, gelu), gelu(own(x)))
        assert calls == []
        activated_linear(x, nn.Linear(3, 4), gelu)
        assert calls == ["gelu"]


class Doubling(nn.Linear):
    """A linear map that does something else, as adapters do."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_bias_that_is_not_contiguous_is_read_right():
    linear = nn.Linear(3, 4)
    linear.bias = nn.Parameter(torch.randn(4, 2)[:, 0])
    x = torch.randn(5, 3)
    with torch.no_grad():
        torch.testing.assert_close(activated_linear(x, linear, F.gelu), F.gelu(linear(x)))


def test_a_copied_model_keeps_its_fast_path(calls):
    layer = copy.deepcopy(FeedForward(4, 6, "gelu_new"))
    with torch.no_grad():
        layer(torch.randn(2, 4))
    assert calls == ["gelu"]


def test_a_kernel_that_computes_something_else_is_not_trusted(monkeypatch):
    class Kernels:
        @staticmethod
        def _linear_pointwise(x, weight, bias, *_):
            return F.linear(x, weight, bias)  # without the activation

    monkeypatch.setattr(torch.ops, "mkldnn", Kernels)
    assert not module._kernel_works.__wrapped__(torch.float32, ACTIVATIONS["gelu"])
    monkeypatch.setattr(torch.ops, "mkldnn", object())  # a PyTorch without it
    assert not module._kernel_works.__wrapped__(torch.float32, ACTIVATIONS["gelu"])

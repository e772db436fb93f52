"""Linear maps with fewer passes: the same numbers, and only where nobody needs more."""

import copy
import platform
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minitransformer.layers import feedforward
from minitransformer.layers import fused_linear as module
from minitransformer.layers.activations import ACTIVATIONS
from minitransformer.layers.feedforward import FeedForward, GatedFeedForward
from minitransformer.layers.fused_linear import fused_linear


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


@pytest.mark.parametrize("name", [*ACTIVATIONS, None])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("most", [0, 100])
def test_it_is_the_activation_of_the_linear_map(name, bias, dtype, most, calls, monkeypatch):
    monkeypatch.setattr(module, "_MOST_ROWS_IN_FLOAT32", most)
    linear, activation = nn.Linear(24, 40, bias, dtype=dtype), ACTIVATIONS.get(name)
    x = torch.randn(3, 5, 24, dtype=dtype) * 2
    before = x.clone()
    bias_there = None if not bias else linear.bias.float()
    expected = F.linear(x.float(), linear.weight.float(), bias_there)
    expected = expected if activation is None else activation(expected)
    with torch.no_grad():
        found = fused_linear(x, linear, activation)
    assert found.dtype == dtype
    tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-6
    torch.testing.assert_close(found.float(), expected.float(), rtol=tolerance, atol=tolerance)
    assert torch.equal(x, before)
    fused = torch.backends.mkldnn.is_available() and dtype != torch.float64
    fused &= bool(most) or dtype == torch.bfloat16
    assert len(calls) == (fused and name not in ("silu", "swish"))


def test_with_many_rows_the_activation_writes_where_it_reads(monkeypatch):
    monkeypatch.setattr(module, "_MOST_ROWS_IN_FLOAT32", 0)
    linear, x = nn.Linear(8, 4), torch.randn(3, 8)
    products = []
    forward = F.linear
    monkeypatch.setattr(F, "linear", lambda *a: products.append(forward(*a)) or products[-1])
    for name in ACTIVATIONS:
        with torch.no_grad():
            found = fused_linear(x, linear, ACTIVATIONS[name])
        assert found.data_ptr() == products[-1].data_ptr(), name


def test_from_the_first_row_too_many_on_it_is_pytorchs_product(calls):
    linear, x = nn.Linear(8, 4), torch.randn(module._MOST_ROWS_IN_FLOAT32 + 1, 8)
    with torch.no_grad():
        fused_linear(x, linear)
        assert calls == []
        fused_linear(x[1:], linear)
        assert calls == ["none"]


def test_whoever_needs_more_gets_two_steps(calls, monkeypatch):
    linear, gelu, x = nn.Linear(3, 4), ACTIVATIONS["gelu"], torch.randn(2, 3)
    fused_linear(x, linear, gelu).sum().backward()  # gradients
    assert linear.weight.grad is not None
    with torch.no_grad():
        fused_linear(x.double(), nn.Linear(3, 4).double(), gelu)
        fused_linear(x[:0], linear, gelu)
        fused_linear(x, linear, lambda values: values)  # an activation of one's own
        fused_linear(x, linear, partial(F.gelu, approximate="tanh"))
        with torch.autocast("cpu", torch.bfloat16):
            assert fused_linear(x, linear, gelu).dtype == torch.bfloat16
        with torch.backends.mkldnn.flags(enabled=False):
            fused_linear(x, linear, gelu)
        seen = []
        hook = linear.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
        fused_linear(x, linear, gelu)
        with monkeypatch.context() as patched:
            patched.setattr(module, "_MOST_ROWS_IN_FLOAT32", 0)  # which would write in place
            fused_linear(x, linear, gelu)
        hook.remove()
        torch.testing.assert_close(seen, [linear(x)] * 2)
        linear.forward = lambda values: values @ torch.ones(3, 4)  # as while a text is written
        torch.testing.assert_close(fused_linear(x, linear, gelu), gelu(x @ torch.ones(3, 4)))
        own = Doubling(3, 4)
        torch.testing.assert_close(fused_linear(x, own, gelu), gelu(own(x)))
        assert calls == []
        fused_linear(x, nn.Linear(3, 4), gelu)
        assert calls == ["gelu"]


class Adapted(nn.Module):
    """A linear map inside another module, whose weight it shows."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)

    def forward(self, x):
        return 2 * self.base(x)


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
@pytest.mark.parametrize("replaced", [Adapted, nn.Sequential])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_map_that_was_replaced_is_the_one_that_computes(kind, replaced, gradients, monkeypatch):
    monkeypatch.setattr(feedforward, "_MOST_BYTES", 3 * 8 * 4)  # three tokens
    layer, hidden = kind(6, 8, "gelu"), torch.randn(5, 6)
    names = [name for name, part in layer.named_children() if isinstance(part, nn.Linear)]
    for name in names:
        changed = copy.deepcopy(layer)
        setattr(changed, name, replaced(getattr(changed, name)))
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(changed(hidden), plain(changed, hidden))
    all_of_them = copy.deepcopy(layer)
    for name in names:
        setattr(all_of_them, name, replaced(getattr(all_of_them, name)))
    tokens = []
    all_of_them.dropout.p, all_of_them.activation = 0.0, lambda x: tokens.append(len(x)) or x
    all_of_them(hidden)
    assert tokens == [5]  # all at a time
    with torch.no_grad():
        adapted = Adapted(nn.Linear(6, 8))
        torch.testing.assert_close(fused_linear(hidden, adapted), adapted(hidden))


class Doubling(nn.Linear):
    """A linear map that does something else, as adapters do."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_bias_that_is_not_contiguous_is_read_right():
    linear = nn.Linear(3, 4)
    linear.bias = nn.Parameter(torch.randn(4, 2)[:, 0])
    x = torch.randn(5, 3)
    with torch.no_grad():
        torch.testing.assert_close(fused_linear(x, linear, F.gelu), F.gelu(linear(x)))


def test_a_copied_model_keeps_its_fast_path(calls):
    layer = copy.deepcopy(FeedForward(4, 6, "gelu_new"))
    with torch.no_grad():
        layer(torch.randn(2, 4))
    assert calls == ["gelu", "none"]


def test_the_compiler_sees_one_whole_graph_and_no_shortcuts(calls):
    layer, x = FeedForward(4, 6, "gelu"), torch.randn(2, 4)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.no_grad():
        found = compiled(x)
        assert calls == []
        torch.testing.assert_close(found, layer(x))


def plain(layer, hidden):
    """A feed-forward network by its formula."""
    if isinstance(layer, FeedForward):
        return layer.contract(layer.activation(layer.expand(hidden)))
    return layer.contract(layer.activation(layer.gate(hidden)) * layer.gated(hidden))


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6), (1, 7, 6), (2, 0, 6)])
def test_many_tokens_go_through_in_pieces(kind, shape, monkeypatch):
    layer, hidden = kind(6, 8, "gelu"), torch.randn(shape, requires_grad=True)
    monkeypatch.setattr(feedforward, "_MOST_BYTES", 3 * 8 * 4)  # three tokens
    pieces = []
    monkeypatch.setattr(
        kind, "_transformed", lambda *a, own=kind._transformed: pieces.append(a) or own(*a)
    )
    learning = [hidden, *layer.parameters()]
    expected = plain(layer, hidden)
    gradients = torch.autograd.grad(expected.pow(2).sum(), learning)
    many = max(1, -(-hidden[..., 0].numel() // 3))
    with torch.no_grad():
        torch.testing.assert_close(layer(hidden), expected)
    assert len(pieces) == many
    found = layer(hidden)
    torch.testing.assert_close(found, expected)
    found = torch.autograd.grad(found.pow(2).sum(), learning)
    torch.testing.assert_close(found, gradients, rtol=1e-4, atol=1e-5)
    assert len(pieces) == 2 * many
    assert all(len(piece) <= 3 for _, piece in pieces if piece.dim() == 2)
    pieces.clear()
    hooks = [
        (layer.contract, "register_forward_hook"),
        (layer.dropout, "register_forward_pre_hook"),
        (layer.contract, "register_full_backward_hook"),
        (layer.contract, "register_full_backward_pre_hook"),
    ]
    for part, register in hooks:
        hook = getattr(part, register)(lambda *_: None)
        torch.testing.assert_close(layer(hidden), expected)  # where somebody listens
        hook.remove()
    with torch.autocast("cpu", torch.bfloat16):
        layer(hidden)
    layer.contract = Doubling(8, 6)  # and where a map is not the usual
    layer(hidden)
    assert len(pieces) == len(hooks) + 2


def test_no_kernels_is_no_excuse_where_there_are_some():
    if torch.backends.mkldnn.is_available() and platform.machine() == "x86_64":
        assert all(module._kernel_works(torch.float32, known) for known in module._FUSED)


def test_a_kernel_that_computes_something_else_is_not_trusted(monkeypatch):
    class Kernels:
        @staticmethod
        def _linear_pointwise(x, weight, bias, *_):
            return F.linear(x, weight, bias)  # without the activation

    monkeypatch.setattr(torch.ops, "mkldnn", Kernels)
    assert not module._kernel_works.__wrapped__(torch.float32, ACTIVATIONS["gelu"])
    monkeypatch.setattr(torch.ops, "mkldnn", object())  # a PyTorch without it
    assert not module._kernel_works.__wrapped__(torch.float32, ACTIVATIONS["gelu"])

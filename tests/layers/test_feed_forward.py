"""Activations against their formulas, and the feed-forward networks against loops."""

import math

import pytest
import torch

from minitransformer.layers.feed_forward import (
    ACTIVATIONS,
    FeedForward,
    GatedFeedForward,
    gelu,
    gelu_tanh,
    get_activation,
)


@pytest.mark.parametrize(
    ("name", "formula"),
    [("gelu", gelu), ("gelu_new", gelu_tanh), ("gelu_pytorch_tanh", gelu_tanh)],
)
def test_activations_are_the_formulas(name, formula):
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64, requires_grad=True)
    activation, written = ACTIVATIONS[name](x), formula(x)
    torch.testing.assert_close(activation, written, rtol=1e-12, atol=1e-14)
    slopes = [torch.autograd.grad(y.sum(), x)[0] for y in (activation, written)]
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-13)


def test_gelu_by_hand_and_its_approximation_is_another_function():
    one = torch.tensor(1.0, dtype=torch.float64)
    assert gelu(one).item() == pytest.approx(0.8413447460685429)  # P(N(0, 1) <= 1)
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    assert 1e-4 < (gelu(x) - gelu_tanh(x)).abs().max() < 5e-4


def test_swish_is_silu_by_another_name():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    expected = torch.tensor([v / (1 + math.exp(-v)) for v in x.tolist()], dtype=torch.float64)
    for name in ("swish", "silu"):
        torch.testing.assert_close(get_activation(name)(x), expected)


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match="hidden_act='gelo' .*'gelu'"):
        get_activation("gelo")


def test_feed_forward_is_two_matrices_and_an_activation():
    layer = FeedForward(4, 9, "gelu")
    x = torch.randn(2, 3, 4)
    middle = gelu(x @ layer.up_proj.weight.T + layer.up_proj.bias)
    expected = middle @ layer.down_proj.weight.T + layer.down_proj.bias
    torch.testing.assert_close(layer(x), expected)


def test_feed_forward_without_biases_and_with_dropout():
    layer = FeedForward(4, 9, "relu", dropout=0.5, bias=False)
    assert [name for name, _ in layer.named_parameters()] == ["up_proj.weight", "down_proj.weight"]
    x = torch.randn(2, 3, 4)
    middle = (x @ layer.up_proj.weight.T).clamp(min=0)
    torch.testing.assert_close(layer.eval()(x), middle @ layer.down_proj.weight.T)
    assert not torch.equal(layer.train()(x), layer(x))


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_gated_feed_forward_is_one_map_through_the_activation_times_another(bias):
    layer = GatedFeedForward(4, 9, "gelu_new", bias=bias)
    assert len(list(layer.parameters())) == (6 if bias else 3)
    x = torch.randn(2, 3, 4)
    for sequence in range(2):
        for t in range(3):
            middle = []
            for i in range(9):
                gate = float(x[sequence, t] @ layer.gate_proj.weight[i])
                gated = float(x[sequence, t] @ layer.up_proj.weight[i])
                if bias:
                    gate, gated = (
                        gate + float(layer.gate_proj.bias[i]),
                        gated + float(layer.up_proj.bias[i]),
                    )
                cubic = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
                middle.append(0.5 * gate * (1 + math.tanh(cubic)) * gated)
            expected = layer.down_proj.weight @ torch.tensor(middle)
            if bias:
                expected = expected + layer.down_proj.bias
            torch.testing.assert_close(layer(x)[sequence, t], expected)


def test_gated_feed_forward_drops_out_the_product():
    layer = GatedFeedForward(4, 9, "relu", dropout=0.5, bias=False)
    x, seen = torch.randn(2, 3, 4), []
    layer.dropout.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    assert not torch.equal(layer(x), layer(x))
    expected = (x @ layer.gate_proj.weight.T).clamp(min=0) * (x @ layer.up_proj.weight.T)
    torch.testing.assert_close(seen[0], expected)
    assert torch.equal(layer.eval()(x), layer(x))

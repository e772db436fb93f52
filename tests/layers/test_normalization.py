"""Layer normalization and its variant without a mean, against the formulas."""

import pytest
import torch

from minitransformer.layers.normalization import LayerNorm, RMSNorm, layer_norm, rms_norm


def test_norm_by_hand():
    x = torch.tensor([[1.0, 3.0]])
    weight, bias = torch.tensor([2.0, 10.0]), torch.tensor([0.5, 0.0])
    # mean 2, variance 1 (over E, not E - 1), eps inside the root: 1 / sqrt(1 + 3) = 0.5
    expected = torch.tensor([[-0.5 * 2 + 0.5, 0.5 * 10]])
    torch.testing.assert_close(layer_norm(x, weight, bias, eps=3.0), expected)


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 1.0])
def test_the_norm_module_is_the_formula(eps):
    norm = LayerNorm(7, eps).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    results = []
    for output in (norm(x), layer_norm(x, norm.weight, norm.bias, eps)):
        results.append([output, *torch.autograd.grad(output.sin().sum(), [x, *norm.parameters()])])
    for module, formula in zip(*results, strict=True):
        torch.testing.assert_close(module, formula, rtol=1e-12, atol=1e-12)


def test_the_norm_without_a_mean_by_hand():
    x, weight = torch.tensor([[1.0, -7.0]]), torch.tensor([2.0, 10.0])
    # mean of squares 25, eps inside the root: 1 / sqrt(25 + 11) = 1 / 6
    expected = torch.tensor([[2.0 / 6, -70.0 / 6]])
    torch.testing.assert_close(rms_norm(x, weight, eps=11.0), expected)
    norm = RMSNorm(2, eps=11.0)
    assert [name for name, _ in norm.named_parameters()] == ["weight"]
    with torch.no_grad():
        norm.weight.copy_(weight)
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1.0])
def test_rms_norm_is_the_formula_term_by_term_in_values_and_gradients(eps):
    """y_i = w_i x_i r, r = (mean of squares + eps)^-1/2, and its derivatives by hand."""
    norm = RMSNorm(5, eps).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 5, dtype=torch.float64)
    output = norm(x)
    output.backward(upstream)
    weights = norm.weight.tolist()
    weight_gradient = torch.zeros(5, dtype=torch.float64)
    for row in range(3):
        numbers = x[row].tolist()
        root = (sum(n * n for n in numbers) / 5 + eps) ** -0.5
        along = sum(float(upstream[row, i]) * weights[i] * numbers[i] for i in range(5))
        for i, number in enumerate(numbers):
            weight = weights[i]
            assert output[row, i].item() == pytest.approx(weight * number * root, rel=1e-12)
            slope = float(upstream[row, i]) * weight * root - along * number * root**3 / 5
            assert x.grad[row, i].item() == pytest.approx(slope, rel=1e-9, abs=1e-12)
            weight_gradient[i] += float(upstream[row, i]) * number * root
    torch.testing.assert_close(norm.weight.grad, weight_gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(output, rms_norm(x, norm.weight, eps), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_rms_norm_of_half_formats_squares_in_float32(dtype, size):
    """Squares of 1e4 do not fit float16, those of 1e-3 vanish in it."""
    norm = RMSNorm(64, 1e-6).to(dtype)
    x = (torch.randn(3, 64) * size).to(dtype)
    expected = rms_norm(x.double(), norm.weight.double(), 1e-6)
    result = norm(x)
    assert result.dtype == dtype
    epsilon = torch.finfo(dtype).eps
    torch.testing.assert_close(result.double(), expected, rtol=2 * epsilon, atol=epsilon)

"""Norm, activations, masks, positions, rows, feed-forward."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.layers.activations import ACTIVATIONS, activation_named, gelu, gelu_tanh
from minitransformer.layers.feedforward import FeedForward, GatedFeedForward
from minitransformer.layers.masks import causal_mask, padding_mask
from minitransformer.layers.norm import LayerNorm, RMSNorm, layer_norm, rms_norm
from minitransformer.layers.positions import (
    LearnedPositions,
    OffsetPositions,
    SinusoidalPositions,
    count_positions,
    sinusoids,
)
from minitransformer.layers.rows import chosen_rows, first_tokens, last_tokens, take_rows


def test_norm_by_hand():
    x = torch.tensor([[1.0, 3.0]])
    weight, bias = torch.tensor([2.0, 10.0]), torch.tensor([0.5, 0.0])
    # mean 2, variance 1 (over E, not E - 1), eps inside the root: 1 / sqrt(1 + 3) = 0.5
    expected = torch.tensor([[-0.5 * 2 + 0.5, 0.5 * 10]])
    torch.testing.assert_close(layer_norm(x, weight, bias, eps=3.0), expected)


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 1.0])
def test_norm_kernel_is_the_formula(eps):
    norm = LayerNorm(7, eps).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    results = []
    for output in (norm(x), layer_norm(x, norm.weight, norm.bias, eps)):
        results.append([output, *torch.autograd.grad(output.sin().sum(), [x, *norm.parameters()])])
    for kernel, formula in zip(*results, strict=True):
        torch.testing.assert_close(kernel, formula, rtol=1e-12, atol=1e-12)


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


@pytest.mark.parametrize(
    ("name", "formula"),
    [("gelu", gelu), ("gelu_new", gelu_tanh), ("gelu_pytorch_tanh", gelu_tanh)],
)
def test_activation_kernels_are_the_formulas(name, formula):
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64, requires_grad=True)
    kernel, written = ACTIVATIONS[name](x), formula(x)
    torch.testing.assert_close(kernel, written, rtol=1e-12, atol=1e-14)
    slopes = [torch.autograd.grad(y.sum(), x)[0] for y in (kernel, written)]
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-13)


def test_gelu_by_hand_and_its_approximation_is_another_function():
    one = torch.tensor(1.0, dtype=torch.float64)
    assert gelu(one).item() == pytest.approx(0.8413447460685429)  # P(N(0, 1) <= 1)
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    assert 1e-4 < (gelu(x) - gelu_tanh(x)).abs().max() < 5e-4


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match="hidden_act='gelo' .*'gelu'"):
        activation_named("gelo")


def test_feed_forward_is_two_matrices_and_an_activation():
    layer = FeedForward(4, 9, "gelu")
    x = torch.randn(2, 3, 4)
    middle = gelu(x @ layer.expand.weight.T + layer.expand.bias)
    expected = middle @ layer.contract.weight.T + layer.contract.bias
    torch.testing.assert_close(layer(x), expected)


def test_feed_forward_without_biases_and_with_dropout():
    layer = FeedForward(4, 9, "relu", dropout=0.5, bias=False)
    assert [name for name, _ in layer.named_parameters()] == ["expand.weight", "contract.weight"]
    x = torch.randn(2, 3, 4)
    middle = (x @ layer.expand.weight.T).clamp(min=0)
    torch.testing.assert_close(layer.eval()(x), middle @ layer.contract.weight.T)
    assert not torch.equal(layer.train()(x), layer(x))


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_gated_feed_forward_is_one_map_through_the_activation_times_another(bias):
    layer = GatedFeedForward(4, 9, "gelu_new", bias=bias)
    assert len(list(layer.parameters())) == (6 if bias else 3)
    x = torch.randn(2, 3, 4)
    for row in range(2):
        for t in range(3):
            middle = []
            for i in range(9):
                gate = float(x[row, t] @ layer.gate.weight[i])
                gated = float(x[row, t] @ layer.gated.weight[i])
                if bias:
                    gate, gated = (
                        gate + float(layer.gate.bias[i]),
                        gated + float(layer.gated.bias[i]),
                    )
                cubic = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
                middle.append(0.5 * gate * (1 + math.tanh(cubic)) * gated)
            expected = layer.contract.weight @ torch.tensor(middle)
            if bias:
                expected = expected + layer.contract.bias
            torch.testing.assert_close(layer(x)[row, t], expected)


def test_gated_feed_forward_drops_out_the_product():
    layer = GatedFeedForward(4, 9, "relu", dropout=0.5, bias=False)
    x, seen = torch.randn(2, 3, 4), []
    layer.dropout.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    assert not torch.equal(layer(x), layer(x))
    expected = (x @ layer.gate.weight.T).clamp(min=0) * (x @ layer.gated.weight.T)
    torch.testing.assert_close(seen[0], expected)
    assert torch.equal(layer.eval()(x), layer(x))


def test_swish_is_silu_by_another_name():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    expected = torch.tensor([v / (1 + math.exp(-v)) for v in x.tolist()], dtype=torch.float64)
    for name in ("swish", "silu"):
        torch.testing.assert_close(activation_named(name)(x), expected)


def test_masks_by_hand():
    mask = padding_mask(torch.tensor([[True, False]]))
    assert mask.shape == (1, 1, 1, 2)
    assert mask.flatten().tolist() == [True, False]
    assert causal_mask(2, 3)[0, 0].tolist() == [[True, True, False], [True, True, True]]
    assert (causal_mask(2, 2) & mask)[0, 0].tolist() == [[True, False], [True, False]]
    with pytest.raises(ValueError, match="3 queries .* 2 keys"):
        causal_mask(3, 2)


def test_positions_count_tokens_not_places():
    present = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1]]).bool()
    assert count_positions(present).tolist() == [[-1, -1, 0, 1], [0, 1, -1, -1], [0, -1, 1, 2]]


def test_roberta_positions_have_two_more_rows_and_begin_at_two():
    positions = OffsetPositions(512, 3, offset=2, padding_idx=1)
    assert positions.table.weight.shape == (514, 3)
    present = torch.tensor([[False, True, True]])
    torch.testing.assert_close(
        positions(count_positions(present))[0], positions.table.weight[[1, 2, 3]]
    )
    assert torch.equal(positions.table.weight[1], torch.zeros(3))
    full = positions(torch.arange(512)[None])
    assert torch.equal(full[0, -1], positions.table.weight[513])


def test_bert_positions_begin_at_zero():
    positions = LearnedPositions(5, 3)
    present = torch.tensor([[True, True, False]])
    torch.testing.assert_close(
        positions(count_positions(present))[0], positions.table.weight[[0, 1, 0]]
    )


def test_bart_positions_begin_at_two_and_all_rows_are_learnt():
    positions = OffsetPositions(5, 3, offset=2)
    assert positions.table.weight.shape == (7, 3)
    present = torch.tensor([[False, True, True], [True, False, True]])
    rows = positions(count_positions(present))
    torch.testing.assert_close(rows, positions.table.weight[torch.tensor([[1, 2, 3], [2, 1, 3]])])
    rows.sum().backward()
    assert positions.table.weight.grad[1].any()  # Hugging Face trains that row as well


@pytest.mark.parametrize(("size", "positions"), [(8, 40), (7, 5), (2, 3), (1, 4), (512, 512)])
def test_sinusoids_term_by_term(size, positions):
    """All sines come first, then all cosines; with an odd size there is one sine more."""
    table = sinusoids(positions, size)
    assert table.shape == (positions, size)
    assert table.dtype == torch.float64
    sines = (size + 1) // 2
    for position in {0, 1, positions // 2, positions - 1}:
        for place in range(size):
            wave = place if place < sines else place - sines
            angle = position / 10_000 ** (2 * wave / size)
            expected = math.sin(angle) if place < sines else math.cos(angle)
            assert table[position, place].item() == pytest.approx(expected, abs=1e-12)


def test_sinusoidal_positions_are_computed_not_stored_and_counted_from_the_mask():
    positions = SinusoidalPositions(6, 4)
    assert not list(positions.parameters())
    assert not positions.state_dict()
    expected = sinusoids(6, 4).float()
    present = torch.tensor([[False, True, True], [True, True, False], [True, False, True]])
    rows = positions(count_positions(present))
    torch.testing.assert_close(rows, expected[torch.tensor([[0, 0, 1], [0, 1, 0], [0, 0, 1]])])
    full = positions(torch.arange(6)[None])
    assert torch.equal(full[0], expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_sinusoids_of_another_dtype_are_those_of_float32_rounded(dtype):
    positions = SinusoidalPositions(6, 4).to(dtype)
    before = positions.table.clone()
    positions.table.zero_()
    positions.fill()
    assert positions.table.dtype == dtype
    assert torch.equal(positions.table, sinusoids(6, 4).float().to(dtype))
    assert torch.equal(before, positions.table)


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_the_first_and_the_last_token_of_each_row(rows):
    present = torch.tensor(rows)
    firsts, lasts = first_tokens(present), last_tokens(present)
    assert firsts.shape == lasts.shape == (len(rows), 1)
    for row, first, last in zip(rows, firsts[:, 0].tolist(), lasts[:, 0].tolist(), strict=True):
        places = [place for place, there in enumerate(row) if there] or [0, 3]
        assert (first, last) == (places[0], places[-1])


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_chosen_rows_find_every_chosen_place_in_order(chosen):
    places = torch.tensor(chosen)
    index, valid = chosen_rows(places)
    assert index.shape[1] == max(1, int(places.sum(dim=1).max()))
    hidden = torch.arange(places.numel()).view(*places.shape, 1)
    assert torch.equal(take_rows(hidden, index)[valid], hidden[places])


def test_the_example_of_chosen_rows():
    index, valid = chosen_rows(torch.tensor([[False, True, True], [False, False, True]]))
    assert index.tolist() == [[1, 2], [2, 0]]
    assert valid.tolist() == [[True, True], [True, False]]


def test_attention_scale_is_the_root_of_the_head_size():
    from minitransformer.layers.attention import attention_weights

    query = torch.tensor([[[[2.0, 0, 0, 0]]]])
    key = torch.tensor([[[[1.0, 0, 0, 0], [0, 0, 0, 0]]]])
    expected = 1 / (1 + math.exp(-1))  # scores 2 / sqrt(4) and 0
    assert attention_weights(query, key)[0, 0, 0, 0].item() == pytest.approx(expected)

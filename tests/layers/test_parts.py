"""Norm, activations, masks, positions, rows, feed-forward."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.layers.activations import ACTIVATIONS, activation_named, gelu, gelu_tanh
from minitransformer.layers.feedforward import FeedForward
from minitransformer.layers.masks import causal_mask, padding_mask
from minitransformer.layers.norm import LayerNorm, layer_norm
from minitransformer.layers.positions import LearnedPositions, OffsetPositions, count_positions
from minitransformer.layers.rows import chosen_rows, take_rows


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
    torch.testing.assert_close(positions(present)[0], positions.table.weight[[1, 2, 3]])
    assert torch.equal(positions.table.weight[1], torch.zeros(3))
    full = positions(torch.ones(1, 512, dtype=torch.bool))
    assert torch.equal(full[0, -1], positions.table.weight[513])


def test_bert_positions_begin_at_zero():
    positions = LearnedPositions(5, 3)
    present = torch.tensor([[True, True, False]])
    torch.testing.assert_close(positions(present)[0], positions.table.weight[[0, 1, 0]])


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

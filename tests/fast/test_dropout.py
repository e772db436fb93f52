"""Dropout with 16 random bits, and blockwise attention with dropout."""

import math

import pytest
import torch
import torch.nn.functional as F

from minitransformer.fast import blockwise_attention as blockwise
from minitransformer.fast import dropout as dropout_module
from minitransformer.fast.blockwise_attention import blocks, blockwise_attention
from minitransformer.fast.dropout import dropout, dropout_mask
from minitransformer.fast.layer_twins import FastDropout
from minitransformer.layers.attention import attention_weights, causal_mask, padding_mask

COUNT = 400_000


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.9])
def test_the_dropped_share_is_the_probability_and_the_mean_stays(probability):
    mask, scale = dropout_mask(torch.Size([COUNT]), probability)
    deviation = math.sqrt(probability * (1 - probability) / COUNT)
    assert abs((~mask).float().mean().item() - probability) < 4 * deviation
    assert scale == pytest.approx(1 / (1 - probability), rel=1e-3)
    x = torch.rand(COUNT, dtype=torch.float64) + 1
    dropped = dropout(x, probability, training=True)
    assert set(dropped[dropped != 0].div(x[dropped != 0]).round(decimals=9).tolist()) == {
        round(scale, 9)
    }
    assert dropped.mean().item() == pytest.approx(x.mean().item(), rel=8 * deviation * scale)


def test_the_four_16_bit_numbers_of_an_integer_are_independent():
    mask, _ = dropout_mask(torch.Size([COUNT]), 0.5)
    parts = mask.view(-1, 4).double()
    assert (parts.mean(dim=0) - 0.5).abs().max() < 4 * 0.5 / math.sqrt(COUNT / 4)
    together = torch.corrcoef(parts.T) - torch.eye(4)
    assert together.abs().max() < 4 / math.sqrt(COUNT / 4)


def test_each_of_the_65536_numbers_counts_once(monkeypatch):
    """The share of all 16-bit numbers that drop an element is the rounded probability."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    monkeypatch.setattr(
        torch.Tensor, "random_", lambda self, *_: self.copy_(every.view(self.dtype))
    )
    for probability in (0.1, 0.25, 1e-6, 0.99998, 1.0):
        mask, scale = dropout_mask(torch.Size([2**16]), probability)
        assert int((~mask).sum()) == round(probability * 2**16)
        assert scale * int(mask.sum()) == (0 if probability == 1.0 else 2**16)


def test_a_seed_is_reproducible_and_evaluation_returns_the_input():
    x, module = torch.randn(7, 3), FastDropout(0.5)
    torch.manual_seed(1)
    first = module(x)
    torch.manual_seed(1)
    assert torch.equal(module(x), first)
    assert not torch.equal(module(x), first)
    assert module.eval()(x) is x
    assert dropout(x, 0.0, training=True) is x
    in_place = FastDropout(0.5, inplace=True)
    assert in_place(x) is x and x.eq(0).any()


def test_the_gradient_has_the_same_mask():
    x = torch.ones(50, requires_grad=True)
    dropped = dropout(x, 0.3, training=True)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())


def test_pytorchs_dropout_runs_where_more_than_autograd_observes_it(monkeypatch):
    monkeypatch.setattr(dropout_module, "dropout_mask", None)  # not to be called
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert set(dropout(torch.ones(200), 0.5, training=True).tolist()) == {0.0, 2.0}
    monkeypatch.undo()
    monkeypatch.setattr(dropout_module, "dropout_mask", None)
    assert dropout(torch.ones(2, 3, device="meta"), 0.5, training=True).shape == (2, 3)
    assert dropout(torch.ones(0, 3), 0.5, training=True).shape == (0, 3)
    many = torch.vmap(lambda x: dropout(x, 0.5, training=True), randomness="different")
    assert set(many(torch.ones(200, 2)).flatten().tolist()) == {0.0, 2.0}


def test_everything_is_dropped_with_probability_one():
    assert not dropout(torch.ones(70_000), 1.0, training=True).any()
    query = torch.randn(2, 2, 100, 4)
    assert not blockwise_attention(query, query, query, None, dropout=1.0).any()


@pytest.mark.parametrize("kind", ["none", "padding", "causal", "heads", "flat"])
@pytest.mark.parametrize("in_cache", [1, 60, 10_000])
def test_blockwise_attention_is_the_formula_in_values_and_gradients(kind, in_cache, monkeypatch):
    """In blocks of one head, of several, and in one block, with the same dropout mask."""
    monkeypatch.setattr(blockwise, "_MAX_WEIGHTS_IN_BLOCK", in_cache)
    query = torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    key = torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    value = torch.randn(3, 2, 5, 3, dtype=torch.float64, requires_grad=True)
    real = torch.tensor([[True] * 5, [True, True, False, False, True], [False] * 5])
    mask = {
        "none": None,
        "padding": padding_mask(real),
        "causal": causal_mask(torch.arange(5), 5) & padding_mask(real),
        "heads": torch.rand(3, 2, 5, 5) < 0.7,
        "flat": torch.rand(5, 5) < 0.7,
    }[kind]
    kept = torch.rand(3, 2, 5, 5) < 0.6
    drawn = iter([kept[block].clone() for block in blocks(kept.shape)])
    monkeypatch.setattr(blockwise, "dropout_mask", lambda shape, _: (next(drawn).view(shape), 2.5))
    found = blockwise_attention(query, key, value, mask, dropout=0.4, scale=0.3)
    weights = attention_weights(query, key, mask, scale=0.3)
    expected = (weights * kept * 2.5) @ value
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    direction = torch.randn_like(expected)
    for gradient, right in zip(
        torch.autograd.grad(found, (query, key, value), direction),
        torch.autograd.grad(expected, (query, key, value), direction),
        strict=True,
    ):
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-12)


def test_blocks_cover_everything_once_and_fit_the_cache():
    for shape in ((3, 2, 5, 5), (40, 12, 24, 24), (2, 12, 512, 512), (1, 3, 2000, 2000)):
        seen = torch.zeros(shape[:2], dtype=torch.int64)
        for block in blocks(shape):
            seen[block] += 1
            sequences, heads = (part.stop - part.start for part in block)
            most = max(blockwise._MAX_WEIGHTS_IN_BLOCK, shape[2] * shape[3])
            assert sequences * heads * shape[2] * shape[3] <= most
        assert torch.equal(seen, torch.ones_like(seen))


def test_on_average_blockwise_attention_is_attention():
    query, key, value = torch.randn(3, 1, 2, 4, 8)
    many = [tensor.expand(4000, -1, -1, -1) for tensor in (query, key, value)]
    mean = blockwise_attention(*many, None, dropout=0.3).mean(dim=0)
    expected = F.scaled_dot_product_attention(query, key, value)[0]
    torch.testing.assert_close(mean, expected, rtol=0.0, atol=0.06)


def test_in_bfloat16_the_gradients_are_the_formulas_up_to_rounding(monkeypatch):
    monkeypatch.setattr(
        blockwise,
        "dropout_mask",
        lambda shape, _: (torch.arange(shape[-1]).expand(shape) > 1, 1.5),
    )
    exact = [torch.randn(2, 2, 24, 8, requires_grad=True) for _ in range(3)]
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    weights = attention_weights(*exact[:2]) * (torch.arange(24) > 1) * 1.5
    direction = torch.randn(2, 2, 24, 8)
    right = torch.autograd.grad(weights @ exact[2], exact, direction)
    found = blockwise_attention(*half, None, dropout=0.1)
    assert found.dtype == torch.bfloat16
    for gradient, there in zip(
        torch.autograd.grad(found, half, direction.bfloat16()), right, strict=True
    ):
        assert gradient.dtype == torch.bfloat16
        assert (gradient.float() - there).norm() < 0.02 * there.norm()


def test_differences_of_nearly_equal_bfloat16_numbers_are_exact():
    """All numbers fit bfloat16 but one, 257: the sum that is subtracted from 256 and 258."""
    query, key = torch.randint(-3, 4, (2, 1, 2, 8, 4)).float()
    query[..., :2], key[..., 2:] = 0, 0  # all scores are 0, all weights 1/8
    value = torch.tensor([256.0, 0.0]).repeat(1, 2, 8, 1)
    value[..., ::2, 1] = 2
    exact = [tensor.requires_grad_() for tensor in (query, key, value)]
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    expected = attention_weights(query, key, scale=1.0) @ value
    found = blockwise_attention(*half, None, dropout=1e-6, scale=1.0)  # drops nothing
    for gradient, right in zip(
        torch.autograd.grad(found.sum(), half),
        torch.autograd.grad(expected.sum(), exact),
        strict=True,
    ):
        assert right.any()
        assert torch.equal(gradient.float(), right)

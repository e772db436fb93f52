"""Dropout, and attention with dropout on its weights."""

import math

import pytest
import torch
import torch.nn.functional as F

from minitransformer.layers import dropout as dropout_module
from minitransformer.layers import piecewise_attention as dropped_module
from minitransformer.layers.attention import attention_weights
from minitransformer.layers.dropout import Dropout, dropout, kept
from minitransformer.layers.kernels import SdpaAttention
from minitransformer.layers.masks import causal_mask, padding_mask
from minitransformer.layers.piecewise_attention import pieces, piecewise_attention

COUNT = 400_000


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_asked_and_the_mean_stays(probability):
    keep, scale = kept(torch.Size([COUNT]), probability)
    deviation = math.sqrt(probability * (1 - probability) / COUNT)
    assert abs((~keep).float().mean().item() - probability) < 4 * deviation
    assert scale == pytest.approx(1 / (1 - probability), rel=1e-3)
    x = torch.rand(COUNT, dtype=torch.float64) + 1
    dropped = dropout(x, probability, training=True)
    assert set(dropped[dropped != 0].div(x[dropped != 0]).round(decimals=9).tolist()) == {
        round(scale, 9)
    }
    assert dropped.mean().item() == pytest.approx(x.mean().item(), rel=8 * deviation * scale)


def test_the_four_parts_of_a_word_know_nothing_of_each_other():
    keep, _ = kept(torch.Size([COUNT]), 0.5)
    parts = keep.view(-1, 4).double()
    shares = parts.mean(dim=0)
    assert (shares - 0.5).abs().max() < 4 * 0.5 / math.sqrt(COUNT / 4)
    together = torch.corrcoef(parts.T) - torch.eye(4)
    assert together.abs().max() < 4 / math.sqrt(COUNT / 4)


def test_every_one_of_the_65536_draws_counts_once(monkeypatch):
    """Of all 16-bit numbers, as many are dropped as the rounded probability says."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    monkeypatch.setattr(
        torch.Tensor, "random_", lambda self, *_: self.copy_(every.view(self.dtype))
    )
    for probability in (0.1, 0.25, 1e-6, 0.999999):
        keep, scale = kept(torch.Size([2**16]), probability)
        dropped = min(round(probability * 2**16), 2**16 - 1)
        assert int((~keep).sum()) == dropped
        assert scale * int(keep.sum()) == 2**16


def test_a_seed_gives_the_same_and_evaluation_gives_the_input():
    x = torch.randn(7, 3)
    module = Dropout(0.5)
    torch.manual_seed(1)
    first = module(x)
    torch.manual_seed(1)
    assert torch.equal(module(x), first)
    assert not torch.equal(module(x), first)
    assert module.eval()(x) is x
    assert dropout(x, 0.0, training=True) is x


def test_the_gradient_goes_where_the_numbers_went():
    x = torch.ones(50, requires_grad=True)
    dropped = dropout(x, 0.3, training=True)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())


@pytest.mark.parametrize("kind", ["none", "padding", "causal", "heads"])
@pytest.mark.parametrize("in_cache", [1, 60, 10_000])
def test_piecewise_attention_is_the_formula_in_values_and_gradients(kind, in_cache, monkeypatch):
    """In pieces of one head, of a few, and in one: with the same weights dropped."""
    monkeypatch.setattr(dropped_module, "_IN_CACHE", in_cache)
    query = torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    key = torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    value = torch.randn(3, 2, 5, 3, dtype=torch.float64, requires_grad=True)
    present = torch.tensor([[True] * 5, [True, True, False, False, True], [False] * 5])
    mask = {
        "none": None,
        "padding": padding_mask(present),
        "causal": causal_mask(5, 5) & padding_mask(present),
        "heads": torch.rand(3, 2, 5, 5) < 0.7,
    }[kind]
    keep = torch.rand(3, 2, 5, 5) < 0.6
    drawn = iter([keep[piece].clone() for piece in pieces(keep.shape)])
    monkeypatch.setattr(dropped_module, "kept", lambda shape, _: (next(drawn).view(shape), 2.5))
    found = piecewise_attention(query, key, value, mask, 0.4, scale=0.3)
    weights = attention_weights(query, key, mask, scale=0.3)
    expected = (weights * keep * 2.5) @ value
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    direction = torch.randn_like(expected)
    for gradient, right in zip(
        torch.autograd.grad(found, (query, key, value), direction),
        torch.autograd.grad(expected, (query, key, value), direction),
        strict=True,
    ):
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-12)


def test_pieces_cover_everything_once_and_fit_the_cache():
    for shape in ((3, 2, 5, 5), (40, 12, 24, 24), (2, 12, 512, 512), (1, 3, 2000, 2000)):
        seen = torch.zeros(shape[:2], dtype=torch.int64)
        for piece in pieces(shape):
            seen[piece] += 1
            rows, heads = (part.stop - part.start for part in piece)
            most = max(dropped_module._IN_CACHE, shape[2] * shape[3])
            assert rows * heads * shape[2] * shape[3] <= most
        assert torch.equal(seen, torch.ones_like(seen))


def test_a_cpu_that_trains_with_dropout_computes_in_pieces(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "minitransformer.layers.kernels.piecewise_attention",
        lambda query, *rest: calls.append(rest[3]) or query,
    )
    kernel = SdpaAttention(dropout=0.2)
    query = torch.randn(1, 2, 4, 3)
    kernel.train()(query, query, query, None)
    kernel.eval()(query, query, query, None)
    SdpaAttention(dropout=0.0).train()(query, query, query, None)
    assert calls == [0.2]


def test_on_average_piecewise_attention_is_attention():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 4, 8)
    rows = [tensor.expand(4000, -1, -1, -1) for tensor in (query, key, value)]
    mean = piecewise_attention(*rows, None, 0.3).mean(dim=0)
    expected = F.scaled_dot_product_attention(query, key, value)[0]
    torch.testing.assert_close(mean, expected, rtol=0.0, atol=0.06)


def test_on_a_device_and_in_compiled_code_pytorchs_own_dropout_serves(monkeypatch):
    monkeypatch.setattr(dropout_module, "kept", None)  # not to be called
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert set(dropout(torch.ones(200), 0.5, training=True).tolist()) == {0.0, 2.0}

"""Dropout, and attention with dropout on its weights."""

import math

import pytest
import torch
import torch.nn.functional as F

from minitransformer.layers import dropout as dropout_module
from minitransformer.layers import piecewise_attention as piecewise_module
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
    for probability in (0.1, 0.25, 1e-6, 0.99998, 1.0):
        keep, scale = kept(torch.Size([2**16]), probability)
        assert int((~keep).sum()) == round(probability * 2**16)
        assert scale * int(keep.sum()) == (0 if probability == 1.0 else 2**16)


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
    monkeypatch.setattr(piecewise_module, "_IN_CACHE", in_cache)
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
    monkeypatch.setattr(piecewise_module, "kept", lambda shape, _: (next(drawn).view(shape), 2.5))
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
            most = max(piecewise_module._IN_CACHE, shape[2] * shape[3])
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


def test_in_bfloat16_the_gradients_are_those_of_the_formula_but_for_rounding(monkeypatch):
    monkeypatch.setattr(
        piecewise_module, "kept", lambda shape, _: (torch.arange(shape[-1]).expand(shape) > 1, 1.5)
    )
    exact = [torch.randn(2, 2, 24, 8, requires_grad=True) for _ in range(3)]
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    weights = attention_weights(*exact[:2]) * (torch.arange(24) > 1) * 1.5
    direction = torch.randn(2, 2, 24, 8)
    right = torch.autograd.grad(weights @ exact[2], exact, direction)
    found = piecewise_attention(*half, None, 0.1)
    assert found.dtype == torch.bfloat16
    for gradient, there in zip(
        torch.autograd.grad(found, half, direction.bfloat16()), right, strict=True
    ):
        assert gradient.dtype == torch.bfloat16
        assert (gradient.float() - there).norm() < 0.02 * there.norm()


def test_nothing_to_ask_and_nobody_who_asks():
    kernel = SdpaAttention(dropout=0.5).train()
    query = torch.randn(2, 2, 3, 4)
    assert not kernel(query, query[:, :, :0], query[:, :, :0], None).any()
    assert kernel(query[:0], query[:0], query[:0], None).shape == (0, 2, 3, 4)


def test_a_mask_of_fewer_dimensions_stands_for_all(monkeypatch):
    monkeypatch.setattr(
        piecewise_module, "kept", lambda shape, _: (torch.ones(shape, dtype=torch.bool), 1.0)
    )
    query, key, value = torch.randn(3, 2, 2, 4, 3)
    mask = torch.rand(4, 4) < 0.7
    found = SdpaAttention(dropout=0.5).train()(query, key, value, mask)
    torch.testing.assert_close(found, attention_weights(query, key, mask) @ value)


def test_all_are_dropped_where_the_probability_is_one():
    assert not dropout(torch.ones(70_000), 1.0, training=True).any()
    query = torch.randn(2, 2, 100, 4)
    assert not SdpaAttention(dropout=1.0).train()(query, query, query, None).any()


@pytest.mark.parametrize("with_autocast", [False, True])
def test_short_rows_of_bfloat16_with_gradients_run_in_float32(with_autocast, monkeypatch):
    """Under autocast too, which would turn them back."""
    seen = []
    kernel = F.scaled_dot_product_attention

    def look(query, *arguments, **named):
        seen.append((query.dtype, torch.is_autocast_enabled("cpu")))
        return kernel(query, *arguments, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", look)
    query = torch.randn(1, 2, 4, 8, dtype=torch.bfloat16, requires_grad=True)
    long = torch.randn(1, 2, 129, 8, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=with_autocast):
        for tensor in (query, long, query.detach()):
            gathered = SdpaAttention()(tensor, tensor, tensor, None)
            assert gathered.dtype == torch.bfloat16
    assert seen == [
        (torch.float32, False),
        (torch.bfloat16, with_autocast),
        (torch.bfloat16, with_autocast),
    ]

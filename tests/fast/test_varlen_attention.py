"""Attention kernels equal the formula, over unpadded and padded batches."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.fast import blockwise_attention as blockwise
from minitransformer.fast import varlen_attention as module
from minitransformer.fast.unpadding import UnpaddedMask, Unpadding
from minitransformer.fast.varlen_attention import (
    padded_attention,
    simplified_mask,
    varlen_attention,
)
from minitransformer.layers.attention import attention_weights, causal_mask, padding_mask
from tests.fast.test_unpadding import masks

ROUNDING = {"rtol": 2e-2, "atol": 2e-2}


def triangle(length):
    return causal_mask(torch.arange(length), length)


def formula(query, key, value, mask, bias=None, *, scale=None, causal=False):
    """(B, H, T, D), by the formula."""
    if causal:
        mask = triangle(query.shape[2]) if mask is None else mask & triangle(query.shape[2])
    return attention_weights(query, key, mask, bias, scale) @ value


def assert_same_with_gradients(found, expected, leaves):
    """The same values, and the same gradients of the leaves."""
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    direction = torch.randn_like(expected)
    for gradient, right in zip(
        torch.autograd.grad(found, leaves, direction, allow_unused=True),
        torch.autograd.grad(expected, leaves, direction),
        strict=True,
    ):
        gradient = torch.zeros_like(right) if gradient is None else gradient
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-10)


@given(masks, masks, st.booleans(), st.booleans())
def test_unpadded_attention_is_the_formula_at_real_tokens(own, other, causal, crossing):
    """Values and gradients of self- and cross-attention, with empty sequences too."""
    size = min(len(own), len(other))
    own = own[:size]
    other = other[:size] if crossing and not causal else own
    if not own.any():
        return
    query = torch.randn(size, 2, 5, 4, dtype=torch.float64)
    key, value = torch.randn(2, size, 2, 5, 4, dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    queries = Unpadding(own)
    mask = UnpaddedMask(queries, Unpadding(other, queries.order), causal)
    unpadded = [
        side.unpad(leaf.transpose(1, 2)).transpose(1, 2)  # (1, H, N, D)
        for side, leaf in zip((queries, mask.keys, mask.keys), leaves, strict=True)
    ]
    attended = queries.pad(varlen_attention(*unpadded, mask).transpose(1, 2))  # (B, T, H, D)
    expected = formula(*leaves, padding_mask(other), causal=causal).transpose(1, 2)
    assert_same_with_gradients(attended, expected * own[..., None, None], leaves)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_dropout_is_applied_to_the_weights_of_every_bucket(causal, biased, monkeypatch):
    """Buckets of one sequence, two and none; dropout drops every second weight."""

    def kept(shape, _probability):
        diagonals = torch.arange(shape[-2])[:, None] + torch.arange(shape[-1])
        return (diagonals % 2 == 0).expand(shape), 2.0

    real = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0]]).bool()
    unpadding = Unpadding(real)
    padded = [torch.randn(4, 4, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    unpadded = [unpadding.unpad(tensor).transpose(1, 2) for tensor in padded]
    bias = torch.randn(1, 2, 4, 4, dtype=torch.float64) if biased else None
    monkeypatch.setattr(blockwise, "dropout_mask", kept)

    def drawn(query, key, value, *, attn_mask, dropout_p, is_causal, scale):
        """A stand-in for PyTorch's kernel, which takes a bias and has its own random numbers."""
        assert (dropout_p, is_causal, scale) == (0.5, False, None)
        weights = attention_weights(query, key, bias=attn_mask)
        mask, keep_scale = kept(weights.shape, dropout_p)
        return (weights * mask * keep_scale) @ value

    monkeypatch.setattr(F, "scaled_dot_product_attention", drawn)
    mask = UnpaddedMask(unpadding, unpadding, causal)
    found = unpadding.pad(varlen_attention(*unpadded, mask, bias, dropout=0.5).transpose(1, 2))
    query, key, value = (tensor.transpose(1, 2) for tensor in padded)
    whole = padding_mask(real) & triangle(4) if causal else padding_mask(real)
    weights = attention_weights(query, key, whole, bias)
    drop, keep_scale = kept(weights.shape, 0.5)
    expected = ((weights * drop * keep_scale) @ value).transpose(1, 2) * real[..., None, None]
    assert_same_with_gradients(found, expected, padded)


@pytest.mark.parametrize("in_cache", [1, 2**19])
@pytest.mark.parametrize("causal", [False, True])
def test_unpadded_dropout_is_the_formula_for_every_block_size(in_cache, causal, monkeypatch):
    """A random dropout mask, different in every sequence and head, with an odd scale."""
    drawn = []

    def kept(shape, _probability):
        drawn.append(torch.rand(shape) < 0.6)
        return drawn[-1], 2.5

    monkeypatch.setattr(blockwise, "dropout_mask", kept)
    monkeypatch.setattr(blockwise, "_MAX_WEIGHTS_IN_BLOCK", in_cache)
    real = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]]).bool()
    unpadding = Unpadding(real)
    padded = [torch.randn(4, 4, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    unpadded = [unpadding.unpad(tensor).transpose(1, 2) for tensor in padded]
    mask = UnpaddedMask(unpadding, unpadding, causal)
    found = varlen_attention(*unpadded, mask, scale=0.3, dropout=0.4)
    found = unpadding.pad(found.transpose(1, 2))

    keep = torch.zeros(4, 2, 4, 4, dtype=torch.bool)
    matrices = iter([matrix for block in drawn for matrix in block])
    for sequence in unpadding.order.tolist():
        positions = real[sequence].nonzero().flatten()
        for head in range(2):
            keep[sequence, head, positions[:, None], positions] = next(matrices)
    assert next(matrices, None) is None and len(drawn) == (8 if in_cache == 1 else 3)
    query, key, value = (tensor.transpose(1, 2) for tensor in padded)
    whole = padding_mask(real) & triangle(4) if causal else padding_mask(real)
    weights = attention_weights(query, key, whole, scale=0.3)
    expected = ((weights * keep * 2.5) @ value).transpose(1, 2) * real[..., None, None]
    assert_same_with_gradients(found, expected, padded)


@pytest.mark.parametrize("causal", [False, True])
def test_with_dropout_a_sequence_without_keys_gets_zeros(causal, monkeypatch):
    own = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]]).bool()
    other = torch.tensor([[1, 1], [0, 0], [1, 0]]).bool()
    queries = Unpadding(own)
    mask = UnpaddedMask(queries, Unpadding(other, queries.order), causal)

    def sevens(like, size=None):
        batch, heads, tokens, head_size = like.shape
        return torch.full((batch, tokens, heads, size or head_size), 7.0).transpose(1, 2)

    monkeypatch.setattr(blockwise, "_empty_heads", sevens)  # uninitialized memory would be detected
    query = torch.randn(1, 2, queries.num_tokens, 4, requires_grad=True)
    key, value = (torch.randn(1, 2, mask.keys.num_tokens, 4, requires_grad=True) for _ in range(2))
    attended = varlen_attention(query, key, value, mask, dropout=0.5)
    attended = queries.pad(attended.transpose(1, 2))  # (B, T, H, D)
    attended.sum().backward()
    assert attended[0, :2].any() and not attended[1:].any()
    at_queries, at_keys = (
        [side.pad(leaf.grad.transpose(1, 2)) for leaf in leaves]
        for side, leaves in ((queries, [query]), (mask.keys, [key, value]))
    )
    for gradient, real in [*((g, own) for g in at_queries), *((g, other) for g in at_keys)]:
        assert torch.isfinite(gradient).all() and not (gradient == 7).any()
        assert not gradient[1:].any() and gradient.shape[:2] == real.shape


MASKS = {
    "none": None,
    "padding": padding_mask(torch.tensor([[True] * 6, [True, True, False, False, True, True]])),
    "nothing real": padding_mask(torch.tensor([[True] * 6, [False] * 6])),
    "flat": torch.tensor([True, False, True, True, False, True]).expand(6, 6),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_padded_attention_is_the_formula(kind, biased, causal):
    leaves = [torch.randn(2, 3, 6, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    mask, options = MASKS[kind], {"scale": 0.3, "causal": causal}
    bias = torch.randn(1, 3, 6, 6, dtype=torch.float64) if biased else None
    found = padded_attention(*leaves, mask, bias, **options)
    assert_same_with_gradients(found, formula(*leaves, mask, bias, **options), leaves)


@pytest.mark.parametrize("dropout", [0.0, 1e-12])
def test_the_queries_of_a_causal_mask_are_the_last_tokens(dropout):
    query, key = torch.randn(2, 1, 2, 6, 4)
    whole = formula(query, key, key, None, causal=True)
    for num_queries in (1, 2, 5):
        found = padded_attention(
            query[:, :, -num_queries:], key, key, None, causal=True, dropout=dropout
        )
        torch.testing.assert_close(found, whole[:, :, -num_queries:])


def test_causal_attention_is_an_argument_and_dropout_on_a_cpu_is_blockwise(monkeypatch):
    asked, in_blocks = [], []
    kernel = F.scaled_dot_product_attention

    def look(*tensors, attn_mask, dropout_p, is_causal, scale):
        asked.append((attn_mask is None, is_causal, dropout_p))
        return kernel(*tensors, attn_mask=attn_mask, is_causal=is_causal, scale=scale)

    monkeypatch.setattr(F, "scaled_dot_product_attention", look)
    monkeypatch.setattr(
        module, "blockwise_attention", lambda q, k, v, mask, **_: in_blocks.append(mask) or q
    )
    x = torch.randn(1, 2, 4, 3)
    padded_attention(x, x, x, None, causal=True)
    padded_attention(x, x, x, torch.ones(4, 4).bool(), causal=True)
    padded_attention(x[:, :, :1], x, x, None, causal=True)
    padded_attention(x, x, x, None)
    assert asked == [(True, True, 0), (False, False, 0), (True, False, 0), (True, False, 0)]
    padded_attention(x, x, x, None, dropout=0.2)
    padded_attention(x, x, x, None, dropout=0.2, causal=True)
    assert len(asked) == 4 and in_blocks[0] is None and torch.equal(in_blocks[1], triangle(4))
    padded_attention(x, x, x, None, torch.randn(4, 4), dropout=0.2)  # a bias has a gradient
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    padded_attention(x, x, x, None, dropout=0.2)
    unpadding = Unpadding(torch.ones(2, 2).bool())
    varlen_attention(x, x, x, UnpaddedMask(unpadding, unpadding), dropout=0.2)
    assert asked[4:] == [(False, False, 0.2), (True, False, 0.2), (True, False, 0.2)]
    assert len(in_blocks) == 2


@pytest.mark.parametrize("unpadded", [False, True])
def test_attention_with_dropout_has_the_derivatives_of_torch_func(unpadded):
    """PyTorch's attention runs then, because the blocks have a backward pass only."""
    tensors = [torch.randn(1, 2, 3, 4) for _ in range(3)]
    unpadding = Unpadding(torch.tensor([[True, False], [True, True]]))
    attend, mask = padded_attention, None
    if unpadded:
        attend, mask = varlen_attention, UnpaddedMask(unpadding, unpadding)

    def total(query):
        # Dropout so rare that nothing is dropped.
        return attend(query, *tensors[1:], mask, dropout=1e-9).pow(2).sum()

    query = tensors[0].clone().requires_grad_()
    total(query).backward()
    found = torch.func.grad(total)(tensors[0])
    torch.testing.assert_close(found, query.grad)
    direction = torch.randn_like(query)
    _, slope = torch.func.jvp(total, (tensors[0],), (direction,))
    torch.testing.assert_close(slope, (query.grad * direction).sum())


@pytest.mark.parametrize("with_autocast", [False, True])
def test_short_sequences_of_bfloat16_with_gradients_run_in_float32(with_autocast, monkeypatch):
    """Under autocast too, which would cast the inputs back."""
    seen = []
    kernel = F.scaled_dot_product_attention

    def look(query, *arguments, **named):
        seen.append((query.dtype, torch.is_autocast_enabled("cpu")))
        return kernel(query, *arguments, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", look)
    short = torch.randn(1, 2, 4, 8, dtype=torch.bfloat16, requires_grad=True)
    long = torch.randn(1, 2, 129, 8, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=with_autocast):
        for tensor in (short, long, short.detach()):
            assert padded_attention(tensor, tensor, tensor, None).dtype == torch.bfloat16
    assert seen == [
        (torch.float32, False),
        (torch.bfloat16, with_autocast),
        (torch.bfloat16, with_autocast),
    ]


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("num_blocks", [1, 2, 3])
def test_a_single_query_in_bfloat16(with_mask, with_bias, num_blocks, monkeypatch):
    """The CPU computes it in float32, in blocks of heads: the same numbers and gradients."""
    monkeypatch.setattr(module, "_MAX_BYTES", 4 * 2 * 3 * 50 * 8 / num_blocks)
    calls, kernel = [], F.scaled_dot_product_attention
    counted = lambda *a, **k: calls.append(1) or kernel(*a, **k)  # noqa: E731
    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    query = torch.randn(2, 3, 1, 8, dtype=torch.bfloat16, requires_grad=True)
    key = torch.randn(2, 3, 50, 8, dtype=torch.bfloat16, requires_grad=True)
    value = torch.randn(2, 3, 50, 8, dtype=torch.bfloat16, requires_grad=True)
    mask = torch.rand(2, 1, 1, 50) < 0.7 if with_mask else None
    bias = torch.randn(1, 3, 1, 50, dtype=torch.bfloat16) if with_bias else None
    attended = padded_attention(query, key, value, mask, bias, causal=True, scale=0.5)
    assert attended.dtype == torch.bfloat16 and len(calls) == num_blocks
    exact = [part.detach().double().requires_grad_() for part in (query, key, value)]
    weights = attention_weights(*exact[:2], mask, None if bias is None else bias.double(), 0.5)
    expected = weights @ exact[2]
    torch.testing.assert_close(attended.double(), expected, **ROUNDING)
    found = torch.autograd.grad(attended.sum(), (query, key, value))
    for ours, theirs in zip(found, torch.autograd.grad(expected.sum(), exact), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), theirs, **ROUNDING)


def test_full_and_causal_masks_are_dropped():
    ones = torch.ones(2, 1, 1, 4).bool()
    assert simplified_mask(None, 4) == (None, False)
    assert simplified_mask(ones, 4) == (None, False)
    assert simplified_mask(triangle(4), 4) == (None, True)
    assert simplified_mask(triangle(4) & ones, 4) == (None, True)
    assert simplified_mask(triangle(1), 1) == (None, False)
    assert simplified_mask(triangle(4)[0, 0], 4) == (None, True)
    for mask, num_queries in (
        (padding_mask(torch.tensor([[True, True, False], [True] * 3])), 3),
        (padding_mask(torch.tensor([[False, True]])), 1),
        (padding_mask(torch.tensor([[False]])), 1),
        (triangle(4) & padding_mask(torch.tensor([[False, True, True, True], [True] * 4])), 4),
        (triangle(4)[:, :, 2:], 2),
        (torch.tensor([True, False]), 2),
        (triangle(4).flip(2, 3).transpose(2, 3).flip(3), 4),
    ):
        assert simplified_mask(mask, num_queries) == (mask, False)


def test_a_changed_mask_is_read_again(monkeypatch):
    looks = []
    look = module._read
    monkeypatch.setattr(module, "_read", lambda *a: looks.append(1) or look(*a))
    mask = torch.ones(1, 1, 1, 4).bool()
    for _ in range(3):
        assert simplified_mask(mask, 4) == (None, False)
    assert len(looks) == 1
    mask[..., 1] = False
    assert simplified_mask(mask, 4) == (mask, False)
    again = mask.clone()
    assert simplified_mask(again, 4)[0] is again
    mask[...] = True
    assert simplified_mask(mask, 4) == (None, False)
    with torch.inference_mode():  # where changes are not counted
        mask = torch.ones(1, 1, 1, 4).bool()
        assert simplified_mask(mask, 4) == (None, False)
        mask[..., 1] = False
        assert simplified_mask(mask, 4) == (mask, False)


@pytest.mark.parametrize("causal", [False, True])
def test_the_cuda_kernel_gets_the_boundaries_of_sequences(causal, monkeypatch):
    """A stand-in that reads its arguments as the kernel does; with empty sequences too."""

    def flash(query, key, value, begins, key_begins, most, most_keys, dropout, *rest, scale):
        assert (begins.dtype, key_begins.dtype) == (torch.int32, torch.int32)
        assert (most, most_keys, dropout, scale) == (3, 3 if causal else 4, 0.25, 0.5)
        assert rest == (causal, False)
        attended = torch.zeros_like(query)  # (N, H, D)
        for own, other in zip(pairwise(begins), pairwise(key_begins), strict=True):
            parts = query[slice(*own)], key[slice(*other)], value[slice(*other)]
            parts = [part.transpose(0, 1)[None] for part in parts]
            attended[slice(*own)] = formula(*parts, None, scale=scale, causal=causal)[0].transpose(
                0, 1
            )
        return attended, None, None, None, None

    own = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    other = own if causal else torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    queries = Unpadding(own)
    mask = UnpaddedMask(queries, Unpadding(other, queries.order), causal)
    padded = [torch.randn(3, 4, 2, 8) for _ in range(3)]
    unpadded = [
        side.unpad(tensor).transpose(1, 2)
        for side, tensor in zip((queries, mask.keys, mask.keys), padded, strict=True)
    ]
    expected = varlen_attention(*unpadded, mask, scale=0.5)
    monkeypatch.setattr(module, "_has_varlen_kernel", lambda _query: True)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash)
    found = varlen_attention(*unpadded, mask, scale=0.5, dropout=0.25)
    torch.testing.assert_close(found, expected)


@pytest.mark.cuda
@pytest.mark.parametrize("causal", [False, True])
def test_the_cuda_kernel_for_different_lengths_gives_the_same(causal):
    real = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], device="cuda").bool()
    unpadding = Unpadding(real)
    mask = UnpaddedMask(unpadding, unpadding, causal)
    query, key, value = (
        torch.randn(1, 8, 2, 64, device="cuda").transpose(1, 2).requires_grad_() for _ in range(3)
    )
    expected = varlen_attention(query, key, value, mask)  # float32: bucket by bucket
    found = varlen_attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), mask)
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    weight = torch.randn_like(expected)
    right = torch.autograd.grad((expected * weight).sum(), (query, key, value))
    gradients = torch.autograd.grad((found.float() * weight).sum(), (query, key, value))
    for gradient, there in zip(gradients, right, strict=True):
        torch.testing.assert_close(gradient, there, rtol=5e-2, atol=5e-2)

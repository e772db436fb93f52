"""Multi-head attention against loops: self, masked and cross."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from minitransformer.layers.cache import PastTokens
from minitransformer.layers.masks import padding_mask
from minitransformer.layers.multihead import (
    CrossAttention,
    FusedSelfAttention,
    MultiHeadAttention,
)

KERNELS = ["eager", "sdpa"]
every_kernel = pytest.mark.parametrize("attention", KERNELS)


def by_hand(
    layer: MultiHeadAttention,
    hidden: Tensor,
    context: Tensor,
    head_size: int,
    *,
    scale: float,
    allowed: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """One query, one head and one key at a time; `allowed` is (B, T, S), `bias` (1, H, T, S)."""
    query, key, value = layer.query(hidden), layer.key(context), layer.value(context)
    gathered = torch.zeros_like(query)
    for row in range(len(hidden)):
        for head in range(layer.num_heads):
            part = slice(head * head_size, (head + 1) * head_size)
            for t in range(hidden.shape[1]):
                places = [s for s in range(context.shape[1]) if allowed[row, t, s]]
                scores = [float(query[row, t, part] @ key[row, s, part]) * scale for s in places]
                if bias is not None:
                    scores = [
                        score + float(bias[0, head, t, s])
                        for score, s in zip(scores, places, strict=True)
                    ]
                total = sum(math.exp(score) for score in scores)
                for score, s in zip(scores, places, strict=True):
                    gathered[row, t, part] += math.exp(score) / total * value[row, s, part]
    return layer.output(gathered)


def everyone(rows: int, queries: int, keys: int) -> Tensor:
    return torch.ones(rows, queries, keys, dtype=torch.bool)


@every_kernel
@torch.no_grad()
def test_self_attention_by_hand(attention):
    layer = MultiHeadAttention(6, 2, attention=attention).double()
    hidden = torch.randn(2, 4, 6, dtype=torch.float64)
    mask = torch.tensor([[True, True, True, True], [False, True, True, False]])
    expected = by_hand(
        layer, hidden, hidden, 3, scale=3**-0.5, allowed=everyone(2, 4, 4) & mask[:, None]
    )
    torch.testing.assert_close(layer(hidden, mask=padding_mask(mask)), expected)


@every_kernel
@torch.no_grad()
def test_heads_of_any_size_without_bias_with_a_scale_and_with_positions(attention):
    """T5's: H * D = 10 is not E = 6, and nothing scales the scores down."""
    layer = MultiHeadAttention(
        6, 2, attention=attention, head_size=5, bias=False, scale=1.0, causal=True
    ).double()
    assert layer.query.weight.shape == layer.value.weight.shape == (10, 6)
    assert layer.output.weight.shape == (6, 10)
    assert not [name for name, _ in layer.named_parameters() if name.endswith("bias")]
    hidden = torch.randn(2, 4, 6, dtype=torch.float64)
    bias = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    mask = torch.tensor([[True, True, True, True], [False, False, True, True]])
    allowed = (everyone(2, 4, 4) & mask[:, None]).tril()
    expected = by_hand(layer, hidden, hidden, 5, scale=1.0, allowed=allowed, bias=bias)
    torch.testing.assert_close(layer(hidden, mask=padding_mask(mask), bias=bias), expected)


@every_kernel
@torch.no_grad()
def test_masked_attention_by_hand_and_token_by_token(attention):
    layer = MultiHeadAttention(6, 3, attention=attention, causal=True).double()
    hidden = torch.randn(2, 5, 6, dtype=torch.float64)
    expected = by_hand(layer, hidden, hidden, 2, scale=2**-0.5, allowed=everyone(2, 5, 5).tril())
    torch.testing.assert_close(layer(hidden), expected)
    past = PastTokens()
    parts = [layer(part, past=past) for part in hidden.split([2, 1, 2], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected)


@every_kernel
@torch.no_grad()
def test_cross_attention_by_hand(attention):
    layer = CrossAttention(6, 2, attention=attention).double()
    hidden = torch.randn(2, 3, 6, dtype=torch.float64)
    context = torch.randn(2, 5, 6, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True, True], [False, False, True, True, False]])
    allowed = everyone(2, 3, 5) & mask[:, None]
    expected = by_hand(layer, hidden, context, 3, scale=3**-0.5, allowed=allowed)
    torch.testing.assert_close(layer(hidden, context, padding_mask(mask)), expected)


@every_kernel
@pytest.mark.parametrize("causal", [False, True])
def test_one_fused_matrix_is_three(attention, causal):
    sizes = {"attention": attention, "scale": 0.3, "causal": causal}
    fused, three = FusedSelfAttention(6, 2, **sizes), MultiHeadAttention(6, 2, **sizes)
    assert fused.query_key_value.weight.shape == (18, 6)
    with torch.no_grad():
        for place, part in enumerate((three.query, three.key, three.value)):
            rows = slice(6 * place, 6 * place + 6)
            part.weight.copy_(fused.query_key_value.weight[rows])
            part.bias.copy_(fused.query_key_value.bias[rows])
        three.output.load_state_dict(fused.output.state_dict())
    hidden = torch.randn(2, 4, 6)
    torch.testing.assert_close(fused(hidden), three(hidden))


def test_a_fused_matrix_has_no_context():
    with pytest.raises(AssertionError, match="self-attention"):
        FusedSelfAttention(6, 2)(torch.randn(1, 2, 6), torch.randn(1, 3, 6))


@settings(max_examples=20)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from(KERNELS),
)
def test_rows_of_one_source_are_what_copies_of_it_give(
    sources, beams, length, source_length, masked, attention
):
    layer = CrossAttention(6, 2, attention=attention).double()
    context = torch.randn(sources, source_length, 6, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(sources * beams, length, 6, dtype=torch.float64, requires_grad=True)
    mask = None
    if masked:
        mask = torch.rand(sources, source_length) < 0.6  # rows of nothing among them
        mask = padding_mask(mask)
    folded = layer(hidden, context, mask)
    copies = None if mask is None else mask.repeat_interleave(beams, dim=0)
    copied = layer(hidden, context.repeat_interleave(beams, dim=0), copies)
    torch.testing.assert_close(folded, copied)
    leaves = [hidden, context, *layer.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(folded.sin().sum(), leaves),
        torch.autograd.grad(copied.sin().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@every_kernel
@torch.no_grad()
def test_keys_and_values_of_a_source_are_computed_once_and_never_copied(attention):
    layer = CrossAttention(6, 2, attention=attention)
    context, past = torch.randn(2, 5, 6), PastTokens()
    calls = {"key": 0, "value": 0}
    for name in calls:
        getattr(layer, name).register_forward_hook(
            lambda *_arguments, name=name: calls.__setitem__(name, calls[name] + 1)
        )
    seen: list[tuple[int, ...]] = []
    layer.kernel.register_forward_pre_hook(
        lambda _kernel, inputs: seen.append(tuple(inputs[1].shape))
    )
    for step in range(4):
        hidden = torch.randn(2 * (1 if step == 0 else 3), 1, 6)
        output = layer(hidden, context, past=past)
        beams = len(hidden) // 2
        expected = layer(hidden, context.repeat_interleave(beams, dim=0))
        torch.testing.assert_close(output, expected)
    assert calls == {"key": 1 + 4, "value": 1 + 4}  # once, and once for each comparison
    assert seen[::2] == [(2, 2, 5, 3)] * 4


def test_the_cache_of_another_source_is_refused():
    layer, past = CrossAttention(6, 2), PastTokens()
    with torch.no_grad():
        layer(torch.randn(2, 1, 6), torch.randn(2, 5, 6), past=past)
        for shape in ((1, 5, 6), (2, 4, 6), (2, 5, 6)):
            with pytest.raises(ValueError, match="the cache is of another source; begin with a"):
                layer(torch.randn(2, 1, 6), torch.randn(shape), past=past)


@every_kernel
@pytest.mark.parametrize("with_bias", [False, True])
def test_rows_that_may_attend_to_nothing_give_the_bias_of_the_output(attention, with_bias):
    layer = MultiHeadAttention(6, 2, attention=attention, causal=True)
    hidden = torch.randn(2, 3, 6, requires_grad=True)
    mask = padding_mask(torch.tensor([[False] * 3, [True] * 3]))
    bias = torch.randn(1, 2, 3, 3, requires_grad=True) if with_bias else None
    output = layer(hidden, mask=mask, bias=bias)
    assert torch.equal(output[0], layer.output.bias.expand(3, 6))
    output.square().sum().backward()
    leaves = [hidden, *layer.parameters(), *([bias] if with_bias else [])]
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    assert not hidden.grad[0].any()
    assert hidden.grad[1].any()


def test_the_kernel_is_a_module_so_that_hooks_can_listen():
    for layer in (MultiHeadAttention(6, 2), CrossAttention(6, 2), FusedSelfAttention(6, 2)):
        assert isinstance(layer.kernel, nn.Module)

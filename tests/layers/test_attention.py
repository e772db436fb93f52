"""Attention against loops: the formula, PyTorch's, several heads, cross-attention."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minitransformer.layers.attention import (
    ATTENTION_IMPLEMENTATIONS,
    CrossAttention,
    FusedSelfAttention,
    MultiHeadAttention,
    attention_weights,
    causal_mask,
    eager_attention,
    get_attention,
    padding_mask,
    sdpa_attention,
)
from minitransformer.layers.kv_cache import KeyValues

IMPLEMENTATIONS = ["eager", "sdpa"]
every_implementation = pytest.mark.parametrize("attention", IMPLEMENTATIONS)


# --- Masks


def test_masks_by_hand():
    mask = padding_mask(torch.tensor([[True, False]]))
    assert mask.shape == (1, 1, 1, 2)
    assert mask.flatten().tolist() == [True, False]
    # Two queries, the last of three tokens.
    assert causal_mask(torch.tensor([1, 2]), 3)[0, 0].tolist() == [[True, True, False], [True] * 3]
    both = causal_mask(torch.arange(2), 2) & mask
    assert both[0, 0].tolist() == [[True, False], [True, False]]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(1, 7))
def test_a_query_attends_to_the_keys_up_to_its_own_position(positions, num_keys):
    mask = causal_mask(torch.tensor(positions), num_keys)
    assert mask.shape == (1, 1, len(positions), num_keys)
    assert mask.dtype == torch.bool
    for t, position in enumerate(positions):
        assert mask[0, 0, t].tolist() == [s <= position for s in range(num_keys)]


# --- The formula


def test_weights_are_the_formula_term_by_term():
    query, key = torch.randn(1, 2, 3, 5), torch.randn(1, 2, 4, 5)
    mask = torch.tensor([[True, True, False, True]])
    weights = attention_weights(query, key, mask)
    for head in range(2):
        for t in range(3):
            exponentials = [
                math.exp(float(query[0, head, t] @ key[0, head, s]) / math.sqrt(5)) if s != 2 else 0
                for s in range(4)
            ]
            expected = torch.tensor([e / sum(exponentials) for e in exponentials])
            torch.testing.assert_close(weights[0, head, t], expected)


def test_the_scale_is_the_root_of_the_head_size():
    query = torch.tensor([[[[2.0, 0, 0, 0]]]])
    key = torch.tensor([[[[1.0, 0, 0, 0], [0, 0, 0, 0]]]])
    expected = 1 / (1 + math.exp(-1))  # scores 2 / sqrt(4) and 0
    assert attention_weights(query, key)[0, 0, 0, 0].item() == pytest.approx(expected)


def by_loops(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float | None,
) -> Tensor:
    """One query and one key at a time."""
    sequences, heads, num_queries, size = query.shape
    output = torch.zeros_like(query)
    for sequence in range(sequences):
        for head in range(heads):
            for t in range(num_queries):
                weights = {}
                for s in range(key.shape[2]):
                    if mask is not None and not mask[sequence, 0, t if mask.shape[2] > 1 else 0, s]:
                        continue
                    product = float(query[sequence, head, t] @ key[sequence, head, s])
                    score = product * scale if scale is not None else product / math.sqrt(size)
                    weights[s] = math.exp(
                        score + (0 if bias is None else float(bias[0, head, t, s]))
                    )
                for s, weight in weights.items():
                    share = weight / sum(weights.values())
                    output[sequence, head, t] += share * value[sequence, head, s]
    return output


@every_implementation
@settings(max_examples=25)
@given(
    num_queries=st.integers(1, 4),
    more_keys=st.integers(0, 3),
    causal=st.booleans(),
    padding=st.sampled_from(["none", "keys", "pairs"]),
    with_bias=st.booleans(),
    scale=st.sampled_from([None, 1.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_an_implementation_is_the_loops_with_causality_padding_bias_and_scale(
    attention, num_queries, more_keys, causal, padding, with_bias, scale, seed
):
    torch.manual_seed(seed)
    num_keys = num_queries + more_keys
    query = torch.randn(2, 3, num_queries, 5, dtype=torch.float64)
    key, value = (torch.randn(2, 3, num_keys, 5, dtype=torch.float64) for _ in range(2))
    mask = None
    if padding != "none":
        # Queries without a single key are among them.
        mask = torch.rand(2, 1, num_queries if padding == "pairs" else 1, num_keys) < 0.5
    if causal:
        past = causal_mask(torch.arange(more_keys, num_keys), num_keys)
        mask = past.expand(2, -1, -1, -1) if mask is None else past & mask
    bias = torch.randn(1, 3, num_queries, num_keys, dtype=torch.float64) if with_bias else None
    output, weights = get_attention(attention)(query, key, value, mask, bias, scale=scale)
    assert weights is None
    expected = by_loops(query, key, value, mask, bias, scale)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)


@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 4),
    st.sampled_from(["none", "keys", "pairs"]),
    st.booleans(),
    st.sampled_from([None, 1.0]),
    st.integers(0, 2**20),
)
def test_sdpa_equals_eager_in_values_and_in_every_gradient(
    batch, num_queries, more_keys, masked, with_bias, scale, seed
):
    generator = torch.Generator().manual_seed(seed)
    num_keys = num_queries + more_keys
    shapes = [(batch, 3, num_queries, 5), (batch, 3, num_keys, 5), (batch, 3, num_keys, 5)]
    if with_bias:
        shapes.append((1, 3, num_queries, num_keys))  # learnt, so it has a gradient too
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    mask = None
    if masked != "none":
        # Any mask, with queries that may attend to nothing among them.
        shape = (batch, 1, num_queries if masked == "pairs" else 1, num_keys)
        mask = torch.rand(shape, generator=generator) < 0.6
    results = []
    for attend in (eager_attention, sdpa_attention):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        query, key, value, *bias = leaves
        output, _ = attend(query, key, value, mask, *bias, scale=scale)
        output.sin().sum().backward()
        results.append([output, *(leaf.grad for leaf in leaves)])
    for eager, sdpa in zip(*results, strict=True):
        assert eager.isfinite().all()
        torch.testing.assert_close(sdpa, eager, rtol=1e-10, atol=1e-10)


@every_implementation
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", ["none", "fixed", "learnt"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_sequence_without_keys_is_zero_and_has_a_finite_gradient(attention, dtype, causal, bias):
    query, key, value = (torch.randn(2, 1, 3, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    added = None
    if bias != "none":
        added = torch.randn(1, 1, 3, 3, dtype=dtype, requires_grad=bias == "learnt")
    mask = padding_mask(torch.tensor([[True, True, False], [False, False, False]]))
    if causal:
        mask = mask & causal_mask(torch.arange(3), 3)
    output, _ = get_attention(attention)(query, key, value, mask, added)
    assert output.dtype == dtype
    output.float().sum().backward()
    assert torch.equal(output[1], torch.zeros_like(output[1]))
    assert output[0].isfinite().all()
    assert output[0].abs().sum() > 0
    for tensor in (query, key, value, *([added] if bias == "learnt" else [])):
        assert tensor.grad.isfinite().all()
    for tensor in (query, key, value):
        assert not tensor.grad[1].any()


@every_implementation
def test_padding_before_the_first_token_leaves_its_query_without_a_key(attention):
    """Left padding under a causal mask: the first queries may attend to nothing at all."""
    query, key, value = (torch.randn(1, 2, 4, 3) for _ in range(3))
    mask = padding_mask(torch.tensor([[False, False, True, True]]))
    mask = mask & causal_mask(torch.arange(4), 4)
    output, _ = get_attention(attention)(query, key, value, mask)
    assert not output[:, :, :2].any()
    torch.testing.assert_close(output[:, :, 2], value[:, :, 2])


@every_implementation
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_weights_are_what_the_output_is_made_of_before_dropout(attention, dropout):
    query, key, value = torch.randn(2, 3, 2, 5), torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    mask = padding_mask(torch.tensor([[False, True, True, True], [True, True, True, False]]))
    mask = mask & causal_mask(torch.tensor([2, 3]), 4)
    bias = torch.randn(1, 3, 2, 4)
    attend = get_attention(attention)
    collect = {"scale": 0.7, "output_attentions": True}
    output, weights = attend(query, key, value, mask, bias, dropout=dropout, **collect)
    assert weights.shape == (2, 3, 2, 4)
    assert not weights[:, :, 0, 3].any()  # the first of two queries is the third of four tokens
    expected, _ = attend(query, key, value, mask, bias, scale=0.7)
    torch.testing.assert_close(weights @ value, expected)
    assert torch.allclose(output, expected) == (dropout == 0.0)


@every_implementation
def test_dropout_falls_on_the_weights_and_keeps_the_mean(attention):
    query = torch.zeros(1, 1, 500, 4)  # every key gets the same weight
    key, value = torch.zeros(1, 1, 2000, 4), torch.ones(1, 1, 2000, 1)
    attend = get_attention(attention)
    exact, _ = attend(query, key, value, None)
    torch.testing.assert_close(exact, torch.ones_like(exact))
    sums, _ = attend(query, key, value, None, dropout=0.5)
    assert sums.mean().item() == pytest.approx(1.0, abs=0.01)
    # The sum of 2000 weights of 1/2000, each doubled or dropped, has this deviation.
    assert sums.std().item() == pytest.approx(1 / 2000**0.5, rel=0.15)


def test_eager_dropout_is_pytorchs_dropout():
    """The same seed drops the same weights as `F.dropout`, so runs repeat those of transformers."""
    query, key, value = (torch.randn(1, 2, 3, 4) for _ in range(3))
    torch.manual_seed(7)
    output, weights = eager_attention(query, key, value, None, dropout=0.3, output_attentions=True)
    torch.manual_seed(7)
    assert torch.equal(output, torch.nn.functional.dropout(weights, 0.3) @ value)


# --- Several heads


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
    for sequence in range(len(hidden)):
        for head in range(layer.num_heads):
            part = slice(head * head_size, (head + 1) * head_size)
            for t in range(hidden.shape[1]):
                keys = [s for s in range(context.shape[1]) if allowed[sequence, t, s]]
                scores = [
                    float(query[sequence, t, part] @ key[sequence, s, part]) * scale for s in keys
                ]
                if bias is not None:
                    scores = [
                        score + float(bias[0, head, t, s])
                        for score, s in zip(scores, keys, strict=True)
                    ]
                total = sum(math.exp(score) for score in scores)
                for score, s in zip(scores, keys, strict=True):
                    gathered[sequence, t, part] += (
                        math.exp(score) / total * value[sequence, s, part]
                    )
    return layer.output(gathered)


def all_pairs(sequences: int, queries: int, keys: int) -> Tensor:
    return torch.ones(sequences, queries, keys, dtype=torch.bool)


@every_implementation
@torch.no_grad()
def test_self_attention_by_hand(attention):
    layer = MultiHeadAttention(6, 2, attention=attention).double()
    hidden = torch.randn(2, 4, 6, dtype=torch.float64)
    mask = torch.tensor([[True, True, True, True], [False, True, True, False]])
    expected = by_hand(
        layer, hidden, hidden, 3, scale=3**-0.5, allowed=all_pairs(2, 4, 4) & mask[:, None]
    )
    output, weights = layer(hidden, hidden, padding_mask(mask))
    assert weights is None
    torch.testing.assert_close(output, expected)


@every_implementation
@torch.no_grad()
def test_heads_of_any_size_without_bias_with_a_scale_and_with_positions(attention):
    """T5's: H * D = 10 is not E = 6, and nothing scales the scores down."""
    layer = MultiHeadAttention(
        6, 2, attention=attention, head_size=5, bias=False, scale=1.0
    ).double()
    assert layer.query.weight.shape == layer.value.weight.shape == (10, 6)
    assert layer.output.weight.shape == (6, 10)
    assert not [name for name, _ in layer.named_parameters() if name.endswith("bias")]
    hidden = torch.randn(2, 4, 6, dtype=torch.float64)
    bias = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    real = torch.tensor([[True, True, True, True], [False, False, True, True]])
    allowed = (all_pairs(2, 4, 4) & real[:, None]).tril()
    expected = by_hand(layer, hidden, hidden, 5, scale=1.0, allowed=allowed, bias=bias)
    mask = causal_mask(torch.arange(4), 4) & padding_mask(real)
    torch.testing.assert_close(layer(hidden, hidden, mask, bias=bias)[0], expected)


@every_implementation
@torch.no_grad()
def test_causal_attention_by_hand_and_with_a_cache_in_parts(attention):
    layer = MultiHeadAttention(6, 3, attention=attention).double()
    hidden = torch.randn(2, 5, 6, dtype=torch.float64)
    expected = by_hand(layer, hidden, hidden, 2, scale=2**-0.5, allowed=all_pairs(2, 5, 5).tril())
    mask = causal_mask(torch.arange(5), 5)
    torch.testing.assert_close(layer(hidden, hidden, mask)[0], expected)
    cache, parts = KeyValues(), []
    for start, end in ((0, 2), (2, 3), (3, 5)):
        part = hidden[:, start:end]
        parts.append(layer(part, part, mask[:, :, start:end, :end], cache=cache)[0])
    torch.testing.assert_close(torch.cat(parts, dim=1), expected)


@every_implementation
@torch.no_grad()
@pytest.mark.parametrize("attention_class", [MultiHeadAttention, CrossAttention])
def test_cross_attention_by_hand(attention_class, attention):
    layer = attention_class(6, 2, attention=attention).double()
    hidden = torch.randn(2, 3, 6, dtype=torch.float64)
    context = torch.randn(2, 5, 6, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True, True], [False, False, True, True, False]])
    allowed = all_pairs(2, 3, 5) & mask[:, None]
    expected = by_hand(layer, hidden, context, 3, scale=3**-0.5, allowed=allowed)
    torch.testing.assert_close(layer(hidden, context, padding_mask(mask))[0], expected)


@every_implementation
@pytest.mark.parametrize("causal", [False, True])
def test_one_fused_matrix_is_three(attention, causal):
    sizes = {"attention": attention, "scale": 0.3}
    fused, three = FusedSelfAttention(6, 2, **sizes), MultiHeadAttention(6, 2, **sizes)
    assert fused.query_key_value.weight.shape == (18, 6)
    with torch.no_grad():
        for number, part in enumerate((three.query, three.key, three.value)):
            third = slice(6 * number, 6 * number + 6)
            part.weight.copy_(fused.query_key_value.weight[third])
            part.bias.copy_(fused.query_key_value.bias[third])
        three.output.load_state_dict(fused.output.state_dict())
    hidden = torch.randn(2, 4, 6)
    mask = causal_mask(torch.arange(4), 4) if causal else None
    collect = {"output_attentions": True}
    torch.testing.assert_close(
        fused(hidden, hidden, mask, **collect), three(hidden, hidden, mask, **collect)
    )


def test_a_fused_matrix_has_no_context():
    with pytest.raises(AssertionError, match="self-attention"):
        FusedSelfAttention(6, 2)(torch.randn(1, 2, 6), torch.randn(1, 3, 6), None)


def test_heads_equal_separate_attentions():
    layer = MultiHeadAttention(8, 2, attention="eager")
    hidden = torch.randn(1, 4, 8)
    parts = []
    for head in (slice(0, 4), slice(4, 8)):
        query, key, value = (
            (hidden @ linear.weight[head].T + linear.bias[head])[:, None]
            for linear in (layer.query, layer.key, layer.value)
        )
        parts.append((attention_weights(query, key) @ value)[:, 0])
    output, _ = layer(hidden, hidden, None)
    torch.testing.assert_close(output, layer.output(torch.cat(parts, dim=-1)))


@every_implementation
def test_values_at_padding_are_never_used(attention):
    layer = MultiHeadAttention(8, 2, attention=attention)
    hidden = torch.randn(1, 5, 8)
    mask = padding_mask(torch.tensor([[True, True, True, False, False]]))
    poisoned = hidden.clone()
    poisoned[:, 3:] = 1e4
    output, other = layer(hidden, hidden, mask)[0], layer(poisoned, poisoned, mask)[0]
    assert torch.equal(output[:, :3], other[:, :3])


@every_implementation
def test_a_future_token_changes_nothing_under_a_causal_mask(attention):
    layer = MultiHeadAttention(8, 2, attention=attention)
    hidden = torch.randn(2, 6, 8)
    changed = hidden.clone()
    changed[:, 4:] += 1
    mask = causal_mask(torch.arange(6), 6)
    before, after = layer(hidden, hidden, mask)[0], layer(changed, changed, mask)[0]
    torch.testing.assert_close(after[:, :4], before[:, :4], rtol=0, atol=1e-6)
    assert (after[:, 4:] - before[:, 4:]).abs().max() > 1e-3


@every_implementation
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_fully_masked_sequence_gives_the_bias_of_the_output(attention, with_bias):
    layer = MultiHeadAttention(6, 2, attention=attention)
    hidden = torch.randn(2, 3, 6, requires_grad=True)
    mask = padding_mask(torch.tensor([[False] * 3, [True] * 3])) & causal_mask(torch.arange(3), 3)
    bias = torch.randn(1, 2, 3, 3, requires_grad=True) if with_bias else None
    output, _ = layer(hidden, hidden, mask, bias=bias)
    assert torch.equal(output[0], layer.output.bias.expand(3, 6))
    output.square().sum().backward()
    leaves = [hidden, *layer.parameters(), *([bias] if with_bias else [])]
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    assert not hidden.grad[0].any()
    assert hidden.grad[1].any()


@every_implementation
def test_dropout_is_on_in_training_alone(attention):
    layer = MultiHeadAttention(8, 2, dropout=0.5, attention=attention)
    hidden = torch.randn(2, 4, 8)
    outputs = [layer(hidden, hidden, None)[0] for _ in range(2)]
    assert not torch.equal(*outputs)
    layer.eval()
    outputs = [layer(hidden, hidden, None)[0] for _ in range(2)]
    assert torch.equal(*outputs)
    without = MultiHeadAttention(8, 2, attention=attention)
    without.load_state_dict(layer.state_dict())
    assert torch.equal(without.train()(hidden, hidden, None)[0], outputs[0])


def test_bad_sizes_and_implementations_are_named():
    with pytest.raises(ValueError, match="hidden_size=10 .* num_attention_heads=3"):
        MultiHeadAttention(10, 3)
    with pytest.raises(ValueError, match="attention='flash' .*eager.*sdpa"):
        MultiHeadAttention(8, 2, attention="flash")
    assert sorted(ATTENTION_IMPLEMENTATIONS) == IMPLEMENTATIONS


def test_what_was_packed_names_optimize():
    with pytest.raises(ValueError, match=r"attention='packed' .*optimize\(model\)"):
        MultiHeadAttention(8, 2, attention="packed")


# --- Cross-attention of several sequences to one source


def test_cross_attention_takes_keys_and_values_from_the_context():
    layer = CrossAttention(8, 2)
    hidden, context = torch.randn(2, 3, 8), torch.randn(2, 7, 8)
    output, _ = layer(hidden, context, None)
    assert output.shape == (2, 3, 8)
    assert not torch.allclose(output, layer(hidden, context.flip(0), None)[0])
    # Attention has no order: the tokens of the context may be anywhere.
    torch.testing.assert_close(layer(hidden, context.flip(1), None)[0], output)


@settings(max_examples=20)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from(IMPLEMENTATIONS),
)
def test_sequences_of_one_source_are_what_copies_of_it_give(
    sources, beams, length, source_length, masked, attention
):
    layer = CrossAttention(6, 2, attention=attention).double()
    context = torch.randn(sources, source_length, 6, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(sources * beams, length, 6, dtype=torch.float64, requires_grad=True)
    mask = copies = None
    if masked:
        mask = padding_mask(
            torch.rand(sources, source_length) < 0.6
        )  # some sequences are only padding
        copies = mask.repeat_interleave(beams, dim=0)
    shared, weights = layer(hidden, context, mask, output_attentions=True)
    copied, expected = layer(
        hidden, context.repeat_interleave(beams, dim=0), copies, output_attentions=True
    )
    torch.testing.assert_close(shared, copied)
    torch.testing.assert_close(weights, expected)
    leaves = [hidden, context, *layer.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(shared.sin().sum(), leaves),
        torch.autograd.grad(copied.sin().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@every_implementation
@torch.no_grad()
def test_keys_and_values_of_a_source_are_computed_once(attention):
    layer = CrossAttention(6, 2, attention=attention)
    context, cache = torch.randn(2, 5, 6), KeyValues()
    calls = {"key": 0, "value": 0}
    for name in calls:
        getattr(layer, name).register_forward_hook(
            lambda *_arguments, name=name: calls.__setitem__(name, calls[name] + 1)
        )
    for step in range(4):
        beams = 1 if step == 0 else 3
        hidden = torch.randn(2 * beams, 1, 6)
        output, _ = layer(hidden, context, None, cache=cache)
        expected, _ = layer(hidden, context.repeat_interleave(beams, dim=0), None)
        torch.testing.assert_close(output, expected)
        assert cache.keys.shape == cache.values.shape == (2, 2, 5, 3)  # one for each source
    assert calls == {"key": 1 + 4, "value": 1 + 4}  # once, and once for each comparison


def test_the_cache_of_another_source_is_refused():
    layer, cache = CrossAttention(6, 2), KeyValues()
    with torch.no_grad():
        layer(torch.randn(2, 1, 6), torch.randn(2, 5, 6), None, cache=cache)
        for shape in ((1, 5, 6), (2, 4, 6), (2, 5, 6)):
            with pytest.raises(ValueError, match="the cache belongs to another source; start with"):
                layer(torch.randn(2, 1, 6), torch.randn(shape), None, cache=cache)

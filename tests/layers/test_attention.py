import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minitransformer.layers.attention import EagerAttention, attention_weights
from minitransformer.layers.kernels import SdpaAttention
from minitransformer.layers.masks import causal_mask, padding_mask
from minitransformer.layers.multihead import MultiHeadAttention


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


@given(
    st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(0, 2**20)
)
def test_sdpa_equals_eager_in_values_and_gradients(batch, queries, keys, masked, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, 2, queries, 5), (batch, 2, keys, 5), (batch, 2, keys, 5)]
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    # Any mask, rows without a single key among them.
    mask = torch.rand(batch, 1, queries, keys, generator=generator) < 0.6 if masked else None
    results = []
    for kernel in (EagerAttention(), SdpaAttention()):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        output = kernel(*leaves, mask)
        output.sin().sum().backward()
        results.append([output, *(leaf.grad for leaf in leaves)])
    for eager, sdpa in zip(*results, strict=True):
        assert eager.isfinite().all()
        torch.testing.assert_close(sdpa, eager, rtol=1e-10, atol=1e-10)


def by_loops(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float | None,
    causal: bool,
) -> Tensor:
    """One query and one key at a time; the queries are the last of the keys."""
    rows, heads, num_queries, size = query.shape
    num_keys = key.shape[2]
    output = torch.zeros_like(query)
    for row in range(rows):
        for head in range(heads):
            for t in range(num_queries):
                last = num_keys - num_queries + t if causal else num_keys - 1
                weights = {}
                for s in range(last + 1):
                    if mask is not None and not mask[row, 0, t if mask.shape[2] > 1 else 0, s]:
                        continue
                    product = float(query[row, head, t] @ key[row, head, s])
                    score = product * scale if scale is not None else product / math.sqrt(size)
                    weights[s] = math.exp(
                        score + (0 if bias is None else float(bias[0, head, t, s]))
                    )
                for s, weight in weights.items():
                    share = weight / sum(weights.values())
                    output[row, head, t] += share * value[row, head, s]
    return output


@pytest.mark.parametrize("kernel_class", [EagerAttention, SdpaAttention])
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
def test_a_kernel_is_the_loops_with_time_padding_positions_and_scale(
    kernel_class, num_queries, more_keys, causal, padding, with_bias, scale, seed
):
    torch.manual_seed(seed)
    num_keys = num_queries + more_keys
    query = torch.randn(2, 3, num_queries, 5, dtype=torch.float64)
    key, value = (torch.randn(2, 3, num_keys, 5, dtype=torch.float64) for _ in range(2))
    mask = None
    if padding != "none":
        # Rows that may attend to nothing are among them.
        mask = torch.rand(2, 1, num_queries if padding == "pairs" else 1, num_keys) < 0.5
    bias = torch.randn(1, 3, num_queries, num_keys, dtype=torch.float64) if with_bias else None
    output = kernel_class(0.0, scale, causal)(query, key, value, mask, bias)
    expected = by_loops(query, key, value, mask, bias, scale, causal)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)


@given(
    st.integers(1, 5),
    st.integers(0, 4),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 1.0]),
    st.integers(0, 2**20),
)
def test_sdpa_equals_eager_with_positions_and_time_in_every_gradient(
    num_queries, more_keys, causal, masked, scale, seed
):
    generator = torch.Generator().manual_seed(seed)
    num_keys = num_queries + more_keys
    shapes = [(2, 3, num_queries, 5), (2, 3, num_keys, 5), (2, 3, num_keys, 5)]
    shapes.append((1, 3, num_queries, num_keys))  # the bias, which is learnt
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    mask = torch.rand(2, 1, 1, num_keys, generator=generator) < 0.6 if masked else None
    results = []
    for kernel in (EagerAttention(0.0, scale, causal), SdpaAttention(0.0, scale, causal)):
        *leaves, bias = (tensor.clone().requires_grad_() for tensor in inputs)
        output = kernel(*leaves, mask, bias)
        output.sin().sum().backward()
        results.append([output, *(leaf.grad for leaf in leaves), bias.grad])
    for eager, sdpa in zip(*results, strict=True):
        assert eager.isfinite().all()
        torch.testing.assert_close(sdpa, eager, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel_class", [EagerAttention, SdpaAttention])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("learnt", [False, True])
def test_a_row_without_keys_is_zero_with_positions_too(kernel_class, dtype, causal, learnt):
    kernel = kernel_class(0.0, 1.0, causal)
    query, key, value = (torch.randn(2, 1, 3, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    bias = torch.randn(1, 1, 3, 3, dtype=dtype, requires_grad=learnt)
    mask = torch.tensor([[True, True, False], [False, False, False]])[:, None, None]
    output = kernel(query, key, value, mask, bias)
    assert output.dtype == dtype
    output.float().sum().backward()
    assert torch.equal(output[1], torch.zeros_like(output[1]))
    assert output[0].isfinite().all()
    assert output[0].abs().sum() > 0
    for tensor in (query, key, value, *([bias] if learnt else [])):
        assert tensor.grad.isfinite().all()
    for tensor in (query, key, value):
        assert not tensor.grad[1].any()


@pytest.mark.parametrize("kernel_class", [EagerAttention, SdpaAttention])
def test_padding_before_the_first_token_leaves_its_query_without_a_key(kernel_class):
    """Left padding under a triangle: the first queries may attend to nothing at all."""
    query, key, value = (torch.randn(1, 2, 4, 3) for _ in range(3))
    mask = torch.tensor([[False, False, True, True]])[:, None, None]
    output = kernel_class(causal=True)(query, key, value, mask)
    assert not output[:, :, :2].any()
    torch.testing.assert_close(output[:, :, 2], value[:, :, 2])


@pytest.mark.parametrize("kernel_class", [EagerAttention, SdpaAttention])
def test_the_map_is_what_the_output_is_made_of(kernel_class):
    kernel = kernel_class(0.0, 0.7, causal=True)
    query, key, value = torch.randn(2, 3, 2, 5), torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    mask = torch.tensor([[False, True, True, True], [True, True, True, False]])[:, None, None]
    bias = torch.randn(1, 3, 2, 4)
    weights = kernel.weights(query, key, mask, bias)
    assert weights.shape == (2, 3, 2, 4)
    assert not weights[:, :, 0, 3].any()  # the first of two queries is the third of four tokens
    torch.testing.assert_close(weights @ value, kernel(query, key, value, mask, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", [EagerAttention(), SdpaAttention()])
def test_a_row_without_keys_is_zero_and_has_a_finite_gradient(kernel, dtype):
    query, key, value = (torch.randn(2, 1, 3, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[True, True, False], [False, False, False]])[:, None, None]
    output = kernel(query, key, value, mask)
    output.float().sum().backward()
    assert torch.equal(output[1], torch.zeros_like(output[1]))
    assert output[0].abs().sum() > 0
    for tensor in (query, key, value):
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_stands_at_padding_is_never_read(attention):
    layer = MultiHeadAttention(8, 2, attention=attention)
    hidden = torch.randn(1, 5, 8)
    mask = padding_mask(torch.tensor([[True, True, True, False, False]]))
    poisoned = hidden.clone()
    poisoned[:, 3:] = 1e4
    assert torch.equal(layer(hidden, mask=mask)[:, :3], layer(poisoned, mask=mask)[:, :3])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_future_token_changes_nothing_under_a_causal_mask(attention):
    layer = MultiHeadAttention(8, 2, attention=attention)
    hidden = torch.randn(2, 6, 8)
    changed = hidden.clone()
    changed[:, 4:] += 1
    mask = causal_mask(6, 6)
    before, after = layer(hidden, mask=mask), layer(changed, mask=mask)
    torch.testing.assert_close(after[:, :4], before[:, :4], rtol=0, atol=1e-6)
    assert (after[:, 4:] - before[:, 4:]).abs().max() > 1e-3


def test_cross_attention_takes_keys_and_values_from_the_context():
    layer = MultiHeadAttention(8, 2)
    hidden, context = torch.randn(2, 3, 8), torch.randn(2, 7, 8)
    output = layer(hidden, context)
    assert output.shape == (2, 3, 8)
    assert not torch.allclose(output, layer(hidden, context.flip(0)))
    # Attention has no order: the context's tokens may stand anywhere.
    torch.testing.assert_close(layer(hidden, context.flip(1)), output)


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
    torch.testing.assert_close(layer(hidden), layer.output(torch.cat(parts, dim=-1)))


def test_dropout_is_on_in_training_alone_and_keeps_the_mean():
    kernel = EagerAttention(dropout=0.5)
    query = key = torch.zeros(1, 1, 1, 400)  # every key gets the same weight
    key, value = torch.zeros(1, 1, 2000, 400), torch.ones(1, 1, 2000, 1)
    assert kernel.eval()(query, key, value, None).item() == pytest.approx(1.0, abs=1e-4)
    assert kernel.train()(query, key, value, None).item() == pytest.approx(1.0, abs=0.1)
    assert kernel(query, key, value, None) != kernel(query, key, value, None)
    # The sum of 2000 weights of 1/2000, each doubled or dropped, has this deviation.
    for trained in (kernel, SdpaAttention(dropout=0.5).train()):
        sums = trained(query.expand(1, 1, 500, 400), key, value, None)
        assert sums.std().item() == pytest.approx(1 / 2000**0.5, rel=0.15)
    sdpa = SdpaAttention(dropout=0.5)
    assert sdpa.eval()(query, key, value, None).item() == pytest.approx(1.0, abs=1e-4)
    assert sdpa.train()(query, key, value, None) != sdpa(query, key, value, None)


def test_bad_sizes_and_kernels_are_named():
    with pytest.raises(ValueError, match="hidden_size=10 .* num_attention_heads=3"):
        MultiHeadAttention(10, 3)
    with pytest.raises(ValueError, match="attention='flash' .*eager.*sdpa"):
        MultiHeadAttention(8, 2, attention="flash")

"""Each layer and its twin: equal values and gradients, and when the plain forward runs."""

import copy
import pickle
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minitransformer.fast import feed_forward as blocks_module
from minitransformer.fast import layer_twins as module
from minitransformer.fast import linear as linear_module
from minitransformer.fast import prepacked_linear as prepacked_module
from minitransformer.fast.layer_twins import FastLinear, has_usual_attention
from minitransformer.fast.optimize import REPLACEMENTS, optimize
from minitransformer.fast.unpadding import UnpaddedBatch, UnpaddedMask, Unpadding
from minitransformer.layers.attention import (
    CrossAttention,
    FusedSelfAttention,
    MultiHeadAttention,
    causal_mask,
    padding_mask,
)
from minitransformer.layers.feed_forward import ACTIVATIONS, FeedForward, GatedFeedForward
from minitransformer.layers.kv_cache import KeyValues
from tests.fast.test_unpadding import masks

NETWORKS = [FeedForward, GatedFeedForward]
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def twin_of(module):
    """An optimized copy."""
    return optimize(copy.deepcopy(module))


@pytest.fixture(params=["onednn", "default"], autouse=True)
def library(request, monkeypatch):
    """Each library, whatever is faster here; without oneDNN, the default twice."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)
    name = request.param if linear_module.onednn_works() else "default"
    monkeypatch.setattr(linear_module, "_chosen", name)
    for file in (linear_module, prepacked_module):
        monkeypatch.setattr(file, "is_faster", lambda *_, **__: name == "onednn")


def assert_same(plain, twin, call, leaves, exact=False):
    """The same values and gradients of `call(module)`, in training and evaluation mode."""
    tolerance = {"rtol": 1e-9, "atol": 1e-10} if exact else {"rtol": 1e-4, "atol": 1e-5}
    for mode in (True, False):
        found = []
        for layer in (plain.train(mode), twin.train(mode)):
            output = call(layer)
            direction = torch.linspace(-1, 1, output.numel()).view_as(output).to(output.dtype)
            inputs = [*leaves, *layer.parameters()]
            gradients = torch.autograd.grad(output, inputs, direction, allow_unused=True)
            with torch.no_grad():
                found.append([output, call(layer), *(g for g in gradients if g is not None)])
        torch.testing.assert_close(*found, **tolerance)


def test_every_twin_is_a_subclass_without_anything_of_its_own():
    """Optimizing and restoring change no names, state dicts or copies."""
    for plain, twin in REPLACEMENTS.items():
        assert issubclass(twin, plain) and "__init__" not in vars(twin)
        assert pickle.loads(pickle.dumps(twin)) is twin
    for layer in (
        nn.Linear(4, 6),
        nn.Dropout(0.1),
        FeedForward(4, 6, "gelu", 0.1),
        GatedFeedForward(4, 6, "relu"),
        MultiHeadAttention(6, 2),
        FusedSelfAttention(6, 2),
        CrossAttention(6, 2),
    ):
        twin, before = twin_of(layer), dict(vars(layer))
        assert type(twin) is not type(layer) and list(vars(twin)) == list(before)
        for loaded in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
            assert type(loaded) is type(twin)
            torch.testing.assert_close(loaded.state_dict(), layer.state_dict())
        twin.__class__ = type(layer)
        assert repr(twin).splitlines()[0] == repr(layer).splitlines()[0]


# ---- feed-forward networks ----


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_network_and_its_twin(kind, activation, bias):
    plain = kind(6, 8, activation, bias=bias)
    hidden = torch.randn(2, 5, 6, requires_grad=True)
    assert_same(plain, twin_of(plain), lambda layer: layer(hidden), [hidden])


@pytest.mark.parametrize("kind", NETWORKS)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.booleans())
def test_networks_of_tokens_in_any_shape(kind, shape, gradients):
    plain, hidden = kind(6, 8, "gelu").double(), torch.randn(*shape, 6, dtype=torch.float64)
    with torch.set_grad_enabled(gradients), pytest.MonkeyPatch.context() as patched:
        patched.setattr(blocks_module, "_MAX_BYTES", 3 * 8 * 8)  # three tokens
        torch.testing.assert_close(twin_of(plain)(hidden), plain(hidden), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", NETWORKS)
def test_dropout_is_applied_to_the_intermediate_values(kind, monkeypatch):
    """With PyTorch's dropout, the same seed gives the same dropout mask."""

    def drawn(shape, probability):
        return torch.empty(shape).bernoulli_(1 - probability).bool(), 1 / (1 - probability)

    monkeypatch.setattr("minitransformer.fast.dropout.dropout_mask", drawn)
    plain, hidden = kind(6, 8, "gelu", dropout=0.5), torch.randn(2, 5, 6, requires_grad=True)

    def call(layer):
        torch.manual_seed(0)
        return layer(hidden)

    assert_same(plain, twin_of(plain), call, [hidden])
    assert not torch.equal(call(plain), call(plain.train()))


@pytest.fixture
def pieces(monkeypatch):
    """The number of tokens in each block of a feed-forward twin, at most three."""
    seen = []
    monkeypatch.setattr(blocks_module, "_MAX_BYTES", 3 * 8 * 4)
    for kind in NETWORKS:
        twin = REPLACEMENTS[kind]

        def counted(self, hidden, own=twin._block):
            seen.append(hidden[..., 0].numel())
            return own(self, hidden)

        monkeypatch.setattr(twin, "_block", counted)
    return seen


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6), (1, 7, 6)])
def test_many_tokens_go_through_in_blocks(kind, shape, pieces):
    plain, hidden = kind(6, 8, "gelu"), torch.randn(shape, requires_grad=True)
    assert_same(plain, twin_of(plain), lambda layer: layer(hidden), [hidden])
    assert len(pieces) == 4 * -(-hidden[..., 0].numel() // 3) and max(pieces) <= 3


class Doubling(nn.Linear):
    """A linear layer that computes something else, as adapters do."""

    def forward(self, x):
        return 2 * super().forward(x)


class Adapted(nn.Module):
    """A module with a linear layer inside, whose weight it exposes."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)

    def forward(self, x):
        return 2 * self.base(x)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("replaced", [Adapted, nn.Sequential, "doubling"])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_replaced_linear_layer_is_used(kind, replaced, gradients, pieces):
    plain, hidden = kind(6, 8, "gelu"), torch.randn(5, 6)
    for name in PROJECTIONS:
        if not hasattr(plain, name):
            continue
        changed, twin = copy.deepcopy(plain), twin_of(plain)
        for layer in (changed, twin):
            part = getattr(layer, name)
            if replaced == "doubling":
                part.__class__ = Doubling
            else:
                setattr(layer, name, replaced(part))
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(twin(hidden), changed(hidden))
    assert pieces == []


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_observes_a_network_gets_the_plain_forward(kind, pieces, monkeypatch):
    layer, hidden = twin_of(kind(6, 8, "gelu")), torch.randn(5, 6, requires_grad=True)
    expected = layer(hidden)
    pieces.clear()
    for part, register in (
        (layer.down_proj, "register_forward_hook"),
        (layer.dropout, "register_forward_pre_hook"),
        (layer.down_proj, "register_full_backward_hook"),
        (layer.up_proj, "register_full_backward_pre_hook"),
    ):
        hook = getattr(part, register)(lambda *_: None)
        torch.testing.assert_close(layer(hidden), expected)
        hook.remove()
    seen = []
    hook = layer.up_proj.register_forward_hook(lambda *arguments: seen.append(arguments[2].clone()))
    with torch.no_grad():
        layer(hidden)
    torch.testing.assert_close(seen, [F.linear(hidden, layer.up_proj.weight, layer.up_proj.bias)])
    hook.remove()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(hidden).dtype == torch.bfloat16
    torch.testing.assert_close(torch.vmap(layer)(hidden[None])[0], expected)
    layer.up_proj.forward = lambda values: values @ torch.ones(6, 8)
    layer(hidden)
    del layer.up_proj.forward
    with monkeypatch.context() as patched:
        patched.setattr(torch.backends.mkldnn, "enabled", False)
        torch.testing.assert_close(layer(hidden), expected)
    assert layer(hidden[:0]).shape == (0, 6)
    assert pieces == []
    layer.activation = lambda x: x  # a user's activation does not exclude the fast path
    layer(hidden)
    assert pieces == [3, 2]


def test_a_decoding_network_uses_its_prepacked_weights(pieces):
    layer, hidden = twin_of(FeedForward(6, 8, "gelu")), torch.randn(2, 1, 6)
    linears = [layer.up_proj, layer.down_proj]
    with torch.no_grad():
        expected = layer(hidden)
        assert pieces == [2]
        prepacked_module.prepack(linears, 100, num_rows=2)
        with prepacked_module.decoding():
            torch.testing.assert_close(layer(hidden), expected)
            has_copy = prepacked_module.prepacked_copy(layer.up_proj, hidden) is not None
        assert pieces == ([2] if has_copy else [2, 2])
        assert has_copy == (linear_module.measured_library() == "onednn")
        pieces.clear()
        torch.testing.assert_close(layer(hidden), expected)  # a call outside a session
        assert pieces == [2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_compiles_to_one_graph(kind, pieces):
    layer, hidden = twin_of(kind(6, 8, "gelu")), torch.randn(2, 6)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            found = compiled(hidden)
            assert pieces == []
            torch.testing.assert_close(found, layer(hidden))
        pieces.clear()


# ---- attention ----


def self_attention(kind, **options):
    return kind(12, 3, **options).double()


def whole_mask(real, causal):
    """(B, 1, 1 or T, T) bool."""
    positions = torch.arange(real.shape[1])
    return (
        padding_mask(real) & causal_mask(positions, len(positions))
        if causal
        else (padding_mask(real))
    )


@pytest.mark.parametrize("kind", [MultiHeadAttention, FusedSelfAttention])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_self_attention_and_its_twin(kind, attention, causal, padded, biased):
    plain = self_attention(kind, attention=attention, scale=0.7)
    hidden = torch.randn(3, 5, 12, dtype=torch.float64, requires_grad=True)
    real = torch.ones(3, 5).bool()
    if padded:
        real = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    bias = torch.randn(1, 3, 5, 5, dtype=torch.float64, requires_grad=True) if biased else None
    mask = whole_mask(real, causal)
    assert_same(
        plain,
        twin_of(plain),
        lambda layer: layer(hidden, hidden, mask, bias=bias)[0],
        [hidden, bias] if biased else [hidden],
        exact=True,
    )


@pytest.mark.parametrize("kind", [MultiHeadAttention, FusedSelfAttention])
@given(masks, st.booleans())
def test_unpadded_self_attention_at_real_tokens(kind, real, causal):
    if not real.any():
        return
    plain = self_attention(kind)
    twin = twin_of(plain)
    hidden = torch.randn(*real.shape, 12, dtype=torch.float64, requires_grad=True)
    batch = UnpaddedBatch(real, causal)

    def call(layer):
        if layer is plain:
            output, _ = layer(hidden, hidden, whole_mask(real, causal))
            return output * real[..., None]
        unpadded = batch.unpad(hidden)
        return batch.pad(layer(unpadded, unpadded, batch.mask)[0])

    assert_same(plain, twin, call, [hidden], exact=True)


def test_the_last_layer_for_selected_tokens_only():
    """Fewer queries than keys, in both kinds of batches."""
    plain = self_attention(MultiHeadAttention)
    twin, hidden = twin_of(plain), torch.randn(2, 4, 12, dtype=torch.float64)
    real = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    expected, _ = plain(hidden, hidden, padding_mask(real))
    found, _ = twin(hidden[:, 1:3], hidden, padding_mask(real))
    torch.testing.assert_close(found, expected[:, 1:3])
    all_tokens, some = Unpadding(real), torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1]]).bool()
    queries = Unpadding(some, all_tokens.order)
    found, _ = twin(
        queries.unpad(hidden), all_tokens.unpad(hidden), UnpaddedMask(queries, all_tokens)
    )
    torch.testing.assert_close(queries.pad(found), expected * some[..., None])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_twin_that_returns_its_weights_runs_the_plain_forward(attention):
    plain = self_attention(FusedSelfAttention, attention=attention, dropout=0.1)
    twin, hidden = twin_of(plain), torch.randn(2, 4, 12, dtype=torch.float64)
    found = []
    for layer in (plain, twin):
        torch.manual_seed(0)
        found.append(layer(hidden, hidden, None, output_attentions=True))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert twin(hidden, hidden, None)[1] is None


@pytest.fixture
def kernels(monkeypatch):
    """The arguments of the kernel for padded batches: mask or not, causal or not, dropout."""
    seen = []
    kernel = module.padded_attention

    def counted(query, key, value, mask, bias=None, *, scale, dropout, causal):
        seen.append((mask is not None, causal, dropout))
        return kernel(query, key, value, mask, bias, scale=scale, dropout=dropout, causal=causal)

    monkeypatch.setattr(module, "padded_attention", counted)
    return seen


def test_full_masks_are_dropped_and_causal_masks_become_an_argument(kernels):
    layer = twin_of(MultiHeadAttention(12, 3, dropout=0.1))
    hidden, ones = torch.randn(2, 4, 12), torch.ones(2, 4).bool()
    layer.eval()(hidden, hidden, padding_mask(ones))
    layer(hidden, hidden, whole_mask(ones, causal=True))
    ones[1, 3] = False
    layer(hidden, hidden, padding_mask(ones))
    layer.train()(hidden, hidden, padding_mask(ones))
    assert kernels == [(False, False, 0), (False, True, 0), (True, False, 0), (True, False, 0.1)]


def test_what_observes_attention_gets_the_plain_forward(kernels):
    plain = MultiHeadAttention(12, 3).eval().requires_grad_(False)
    layer, hidden, ones = twin_of(plain), torch.randn(2, 4, 12), torch.ones(2, 4).bool()
    expected, _ = plain(hidden, hidden, None)

    def attend(hidden, real):
        return layer(hidden, hidden, padding_mask(real))[0]

    with warnings.catch_warnings(action="ignore"):
        traced = torch.jit.trace(attend, (hidden, ones), check_trace=False)
    torch.testing.assert_close(traced(hidden, ones), expected)
    ones[1, 3] = False  # a trace with a mask of ones must honour other masks
    masked, _ = plain(hidden, hidden, padding_mask(ones))
    torch.testing.assert_close(traced(hidden, ones), masked)
    many = torch.vmap(attend)(hidden[:, None], ones[:, None])
    torch.testing.assert_close(many.squeeze(1), masked)
    torch.func.grad(lambda x: attend(x, ones).sum())(hidden)
    assert layer.to("meta")(hidden.to("meta"), hidden.to("meta"), None)[0].shape == (2, 4, 12)
    assert kernels == []


def test_a_users_attention_implementation_is_used(kernels):
    layer, hidden = twin_of(MultiHeadAttention(12, 3)), torch.randn(2, 4, 12)
    assert has_usual_attention(layer)
    layer.attend = lambda query, *_, **__: (torch.zeros_like(query), None)
    assert not has_usual_attention(layer)
    torch.testing.assert_close(layer(hidden, hidden, None)[0], layer.output.bias.expand(2, 4, 12))
    assert kernels == []


@pytest.mark.slow
def test_attention_compiles_to_one_graph(kernels):
    layer, hidden = twin_of(MultiHeadAttention(12, 3)), torch.randn(2, 4, 12)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    mask = padding_mask(torch.tensor([[True] * 4, [True, True, False, True]]))
    found, _ = compiled(hidden, hidden, mask)
    assert kernels == []
    torch.testing.assert_close(found, layer(hidden, hidden, mask)[0])


@pytest.mark.parametrize("per_source", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_and_its_twin(per_source, masked, kernels):
    plain = self_attention(CrossAttention)
    hidden = torch.randn(2 * per_source, 4, 12, dtype=torch.float64, requires_grad=True)
    context = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
    mask = padding_mask(torch.tensor([[1, 1, 1, 0, 0], [1] * 5]).bool()) if masked else None
    assert_same(
        plain,
        twin_of(plain),
        lambda layer: layer(hidden, context, mask)[0],
        [hidden, context],
        exact=True,
    )
    assert kernels


def test_the_source_is_projected_once_and_then_cached():
    plain = self_attention(CrossAttention)
    twin, context = twin_of(plain), torch.randn(2, 5, 12, dtype=torch.float64)
    caches, seen = [KeyValues(), KeyValues()], []
    twin.key.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        for _ in range(3):
            hidden = torch.randn(4, 1, 12, dtype=torch.float64)
            expected, _ = plain(hidden, context, None, cache=caches[0])
            found, _ = twin(hidden, context, None, cache=caches[1])
            torch.testing.assert_close(found, expected)
        assert seen == [1]
        with pytest.raises(ValueError, match="belongs to another source"):
            twin(hidden, context.clone(), None, cache=caches[1])


def test_unpadded_cross_attention():
    plain = self_attention(CrossAttention)
    twin, hidden = twin_of(plain), torch.randn(4, 3, 12, dtype=torch.float64)
    context = torch.randn(2, 5, 12, dtype=torch.float64)
    target = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0]]).bool()
    source = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]]).bool()
    batch = UnpaddedBatch(target, causal=True)
    expected, _ = plain(hidden, context, padding_mask(source))
    tokens, mask = batch.context(context, source)
    found, _ = twin(batch.unpad(hidden), tokens, mask)
    torch.testing.assert_close(batch.pad(found), expected * target[..., None])


@pytest.mark.parametrize("unpadded", [False, True])
def test_on_average_dropout_changes_nothing(unpadded):
    plain = MultiHeadAttention(12, 3, dropout=0.3)
    twin, hidden = twin_of(plain).train(), torch.randn(1, 4, 12)
    many = hidden.expand(3000, -1, -1)
    mask = padding_mask(torch.ones(3000, 4).bool())
    if unpadded:
        batch = UnpaddedBatch(torch.ones(3000, 4).bool())
        many, mask = batch.unpad(many), batch.mask
    with torch.no_grad():
        mean = twin(many, many, mask)[0].view(3000, 4, 12).mean(dim=0)
    expected, _ = plain.eval()(hidden, hidden, None)
    torch.testing.assert_close(mean, expected[0], rtol=0.0, atol=0.03)


def test_a_subclass_of_a_twin_or_of_linear_is_left_alone():
    """A fused forward accepts only `nn.Linear` and its twin themselves."""
    fuse = partial(module._can_be_fused, torch.ones(2, 4), nn.Dropout(0.0))
    assert fuse(nn.Linear(4, 6)) and fuse(FastLinear(4, 6), nn.Linear(6, 4))
    assert not fuse(Doubling(4, 6))
    assert not fuse(type("Own", (FastLinear,), {})(4, 6))
    assert not module._can_be_fused(torch.ones(2, 4), nn.Identity(), nn.Linear(4, 6))

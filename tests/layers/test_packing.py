"""Rows without padding: what goes in comes out, and attention keeps to its row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.layers import kernels, piecewise_attention
from minitransformer.layers.arrangement import PackedRows, PaddedRows, arrange
from minitransformer.layers.attention import EagerAttention, attention_weights
from minitransformer.layers.kernels import PackedAttention
from minitransformer.layers.masks import padding_mask
from minitransformer.layers.packing import PackedMask, Packing
from minitransformer.layers.rows import Wanted, chosen_rows

# (B, 5) bool, any padding anywhere, rows of nothing else among them.
masks = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=6).map(
    torch.tensor
)


def assert_same_with_gradients(found, expected, leaves):
    """The same values, and the same gradients of the leaves."""
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    direction = torch.randn_like(expected)
    for gradient, right in zip(
        torch.autograd.grad(found, leaves, direction),
        torch.autograd.grad(expected, leaves, direction),
        strict=True,
    ):
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-10)


@given(masks)
def test_what_is_packed_comes_back_with_zeros_for_padding(present):
    packing = Packing(present)
    padded = torch.arange(1, 5 * len(present) + 1).view(len(present), 5)
    packed = packing.pack(padded)
    assert packed.shape == (1, int(present.sum()))
    assert torch.equal(packing.unpack(packed), padded * present)
    assert torch.equal(packing.present, present)
    # Row after row, the shortest first, each in its order.
    rows = [row[there].tolist() for row, there in zip(padded, present, strict=True)]
    assert packed[0].tolist() == [token for row in sorted(rows, key=len) for token in row]
    assert packing.borders.tolist()[1:] == torch.tensor(packing.lengths).cumsum(0).tolist()
    assert packing.longest == max(packing.lengths)


@given(masks, st.data())
def test_both_arrangements_choose_the_same_tokens(present, data):
    wanted = torch.tensor([[data.draw(st.booleans()) for _ in row] for row in present])
    hidden = torch.randn(*present.shape, 3) * present[..., None]
    for packed in (False, True):
        rows = arrange(present, packed=packed)
        inside = rows.enter(hidden)
        chosen = rows.choose(chosen_rows(wanted))
        taken = torch.take_along_dim(inside, chosen.places[..., None], dim=1)
        assert torch.equal(chosen.take(taken), hidden[wanted])
        one = rows.choose(Wanted(torch.full((len(present), 1), 3), None))
        taken = torch.take_along_dim(inside, one.places[..., None], dim=1)
        assert torch.equal(one.take(taken), hidden[:, 3])
        assert torch.equal(rows.leave(inside), hidden)
        assert isinstance(rows, PackedRows if packed and present.any() else PaddedRows)


@given(masks, masks, st.booleans(), st.booleans())
def test_packed_attention_is_the_formula_at_real_tokens(own, other, causal, crossing):
    """Values, gradients and maps of attention to oneself and to others, rows without tokens too."""
    size = min(len(own), len(other))
    own = own[:size]
    other = other[:size] if crossing and not causal else own
    if not own.any():
        return
    query = torch.randn(size, 2, 5, 4, dtype=torch.float64)
    key, value = torch.randn(2, size, 2, 5, 4, dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    queries = Packing(own)
    mask = PackedMask(queries, Packing(other, queries.order))

    kernel = PackedAttention(causal=causal)
    sides = (queries, mask.keys, mask.keys)
    packed = [
        packing.pack(leaf.transpose(1, 2)).transpose(1, 2)  # (1, H, N, D)
        for packing, leaf in zip(sides, leaves, strict=True)
    ]
    gathered = queries.unpack(kernel(*packed, mask).transpose(1, 2))  # (B, T, H, D)
    formula = EagerAttention(causal=causal)
    expected = formula(*leaves, padding_mask(other)).transpose(1, 2) * own[..., None, None]
    torch.testing.assert_close(gathered, expected, rtol=1e-10, atol=1e-10)

    weight = torch.randn_like(expected)
    found = torch.autograd.grad((gathered * weight).sum(), leaves, allow_unused=True)
    right = torch.autograd.grad((expected * weight).sum(), leaves)
    for gradient, there in zip(found, right, strict=True):
        gradient = torch.zeros_like(there) if gradient is None else gradient
        torch.testing.assert_close(gradient, there, rtol=1e-10, atol=1e-10)

    maps = kernel.weights(*packed[:2], mask)  # (B, H, T, S)
    there = formula.weights(*leaves[:2], padding_mask(other)) * own[:, None, :, None]
    torch.testing.assert_close(maps, there, rtol=1e-10, atol=1e-10)
    again = (maps @ value).transpose(1, 2)
    torch.testing.assert_close(again, gathered, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_packed_attention_drops_weights_of_every_group(causal, biased, monkeypatch):
    """Groups of one row, of two and of none, under a dropout that keeps every second weight."""

    def kept(shape, _probability):
        rows = torch.arange(shape[-2])[:, None] + torch.arange(shape[-1])
        return (rows % 2 == 0).expand(shape), 2.0

    present = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0]]).bool()
    packing = Packing(present)
    padded = [torch.randn(4, 4, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    packed = [packing.pack(tensor).transpose(1, 2) for tensor in padded]
    bias = torch.randn(1, 2, 4, 4, dtype=torch.float64) if biased else None
    kernel = PackedAttention(dropout=0.5, causal=causal).train()
    monkeypatch.setattr("minitransformer.layers.piecewise_attention.kept", kept)

    def drawn(query, key, value, *, attn_mask, dropout_p, is_causal, scale):
        """PyTorch's kernel, which takes biases and would draw by itself."""
        assert (dropout_p, is_causal, scale) == (0.5, False, None)
        weights = attention_weights(query, key, bias=attn_mask)
        keep, scale = kept(weights.shape, dropout_p)
        return (weights * keep * scale) @ value

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", drawn)
    gathered = kernel(*packed, PackedMask(packing, packing), bias)
    found = packing.unpack(gathered.transpose(1, 2))
    query, key, value = (tensor.transpose(1, 2) for tensor in padded)
    weights = EagerAttention(causal=causal).weights(query, key, padding_mask(present), bias)
    keep, scale = kept(weights.shape, 0.5)
    expected = ((weights * keep * scale) @ value).transpose(1, 2) * present[..., None, None]
    assert_same_with_gradients(found, expected, padded)


@pytest.mark.parametrize("in_cache", [1, 2**19])
@pytest.mark.parametrize("causal", [False, True])
def test_packed_dropout_is_the_formula_whatever_the_pieces(in_cache, causal, monkeypatch):
    """Weights are dropped at random, others in every row and head; the scale is not the usual."""
    drawn = []

    def kept(shape, _probability):
        drawn.append(torch.rand(shape) < 0.6)
        return drawn[-1], 2.5

    monkeypatch.setattr(piecewise_attention, "kept", kept)
    monkeypatch.setattr(piecewise_attention, "_IN_CACHE", in_cache)
    present = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]]).bool()
    packing = Packing(present)
    padded = [torch.randn(4, 4, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    packed = [packing.pack(tensor).transpose(1, 2) for tensor in padded]
    kernel = PackedAttention(dropout=0.4, scale=0.3, causal=causal).train()
    found = packing.unpack(kernel(*packed, PackedMask(packing, packing)).transpose(1, 2))

    keep = torch.zeros(4, 2, 4, 4, dtype=torch.bool)
    matrices = iter([matrix for piece in drawn for matrix in piece])  # of row after row, its heads
    for row in packing.order.tolist():
        places = present[row].nonzero().flatten()
        for head in range(2):
            keep[row, head, places[:, None], places] = next(matrices)
    assert next(matrices, None) is None and len(drawn) == (8 if in_cache == 1 else 3)
    query, key, value = (tensor.transpose(1, 2) for tensor in padded)
    weights = EagerAttention(scale=0.3, causal=causal).weights(query, key, padding_mask(present))
    expected = ((weights * keep * 2.5) @ value).transpose(1, 2) * present[..., None, None]
    assert_same_with_gradients(found, expected, padded)


@pytest.mark.parametrize("causal", [False, True])
def test_with_dropout_who_has_nobody_to_ask_gets_nothing(causal, monkeypatch):
    own = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]]).bool()
    other = torch.tensor([[1, 1], [0, 0], [1, 0]]).bool()
    queries = Packing(own)
    mask = PackedMask(queries, Packing(other, queries.order))

    def room(like, size=None):
        rows, heads, tokens, head_size = like.shape
        return torch.full((rows, tokens, heads, size or head_size), 7.0).transpose(1, 2)

    monkeypatch.setattr(piecewise_attention, "_room", room)  # what is not written is seen
    query = torch.randn(1, 2, queries.num_tokens, 4, requires_grad=True)
    key, value = (torch.randn(1, 2, mask.keys.num_tokens, 4, requires_grad=True) for _ in range(2))
    kernel = PackedAttention(dropout=0.5, causal=causal).train()
    gathered = queries.unpack(kernel(query, key, value, mask).transpose(1, 2))  # (B, T, H, D)
    gathered.sum().backward()
    assert gathered[0, :2].any() and not gathered[1:].any()
    at_queries, at_keys = (
        [side.unpack(leaf.grad.transpose(1, 2)) for leaf in leaves]
        for side, leaves in ((queries, [query]), (mask.keys, [key, value]))
    )
    for gradient, asked in [*((g, own) for g in at_queries), *((g, other) for g in at_keys)]:
        assert torch.isfinite(gradient).all() and not (gradient == 7).any()
        assert not gradient[1:].any() and gradient.shape[:2] == asked.shape


def test_compiled_code_leaves_dropout_to_pytorch(monkeypatch):
    packing = Packing(torch.ones(2, 3, dtype=torch.bool))
    rows = [torch.randn(1, 2, 6, 4) for _ in range(3)]
    kernel, mask = PackedAttention(dropout=0.5).train(), PackedMask(packing, packing)
    monkeypatch.setattr("minitransformer.layers.kernels.packed_piecewise_attention", None)
    with pytest.raises(TypeError):
        kernel(*rows, mask)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert kernel(*rows, mask).shape == rows[0].shape


def test_rows_of_one_length_are_computed_together():
    present = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]]).bool()
    packing = Packing(present)
    mask = PackedMask(packing, packing)
    assert mask.groups == [(1, 0, 0), (1, 1, 1), (2, 2, 2)]


def test_where_nothing_is_padded_or_nothing_real_rows_stay():
    assert isinstance(arrange(None, packed=True), PaddedRows)
    assert isinstance(arrange(torch.zeros(2, 3, dtype=torch.bool), packed=True), PaddedRows)


@given(masks)
def test_padding_between_tokens_is_refused_where_places_matter(present):
    def breaks(row):
        places = row.nonzero().flatten().tolist()
        return places != list(range(places[0], places[-1] + 1)) if places else False

    if any(map(breaks, present)):
        with pytest.raises(ValueError, match="mask_of_mine .*attention='packed'.*attention='sdpa'"):
            arrange(present, packed=True, unbroken="mask_of_mine")
    else:
        arrange(present, packed=True, unbroken="mask_of_mine")


def test_packed_attention_takes_a_mask_of_padded_rows_too():
    query, key, value = torch.randn(3, 2, 1, 4, 3)
    mask = padding_mask(torch.tensor([[True, True, False, True], [True] * 4]))
    torch.testing.assert_close(
        PackedAttention()(query, key, value, mask), EagerAttention()(query, key, value, mask)
    )


@pytest.mark.parametrize("causal", [False, True])
def test_cudas_kernel_is_told_where_rows_begin(causal, monkeypatch):
    """A stand-in that reads the arguments as the kernel does; rows without tokens too."""

    def flash(query, key, value, begins, keys_begin, longest, longest_key, dropout, *rest, scale):
        assert (begins.dtype, keys_begin.dtype) == (torch.int32, torch.int32)
        assert (longest, longest_key, dropout, scale) == (3, 3 if causal else 4, 0.25, 0.5)
        assert rest == (causal, False)
        formula = EagerAttention(scale=scale, causal=causal)
        gathered = torch.zeros_like(query)  # (N, H, D)
        for row in range(len(begins) - 1):
            own = slice(begins[row], begins[row + 1])
            asked = slice(keys_begin[row], keys_begin[row + 1])
            rows = (query[own], key[asked], value[asked])
            gathered[own] = formula(*(r.transpose(0, 1)[None] for r in rows), None)[0].transpose(
                0, 1
            )
        return gathered, None, None, None, None

    own = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    other = own if causal else torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    queries = Packing(own)
    mask = PackedMask(queries, Packing(other, queries.order))
    padded = [torch.randn(3, 4, 2, 8) for _ in range(3)]
    packed = [
        packing.pack(tensor).transpose(1, 2)
        for packing, tensor in zip((queries, mask.keys, mask.keys), padded, strict=True)
    ]
    expected = PackedAttention(scale=0.5, causal=causal)(*packed, mask)
    kernel = PackedAttention(dropout=0.25, scale=0.5, causal=causal).train()
    monkeypatch.setattr(kernels, "_has_kernel_for_any_length", lambda _query: True)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash)
    torch.testing.assert_close(kernel(*packed, mask), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("causal", [False, True])
def test_cudas_kernel_for_rows_of_any_length_gives_the_same(causal):
    present = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], device="cuda").bool()
    packing = Packing(present)
    mask = PackedMask(packing, packing)
    query, key, value = (
        torch.randn(1, 8, 2, 64, device="cuda").transpose(1, 2).requires_grad_() for _ in range(3)
    )
    kernel = PackedAttention(causal=causal)
    expected = kernel(query, key, value, mask)  # float32: group by group
    found = kernel(query.bfloat16(), key.bfloat16(), value.bfloat16(), mask)
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    weight = torch.randn_like(expected)
    right = torch.autograd.grad((expected * weight).sum(), (query, key, value))
    gradients = torch.autograd.grad((found.float() * weight).sum(), (query, key, value))
    for gradient, there in zip(gradients, right, strict=True):
        torch.testing.assert_close(gradient, there, rtol=5e-2, atol=5e-2)

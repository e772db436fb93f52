"""Products through reordered copies of weights: the same numbers, never those of old weights."""

import copy
import gc
import platform
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minitransformer.generation import generate
from minitransformer.generation.fast_weights import maps_for_each_word
from minitransformer.layers import reordered_weights as reordering
from minitransformer.layers.reordered_weights import (
    forget_copies,
    reordered_linear,
    reordered_weights,
)
from tests.generation.pairs import FAMILIES, pair

MANY = reordering._WORTH_A_COPY
needs_kernels = pytest.mark.skipif(
    not reordering._kernels_work(torch.float32), reason="this PyTorch is without oneDNN's kernels"
)


@pytest.fixture
def products(monkeypatch):
    """How many products went through a copy so far, in a list of one."""
    for dtype in (torch.float32, torch.bfloat16):
        reordering._kernels_work(dtype)  # whose trial is not to be counted
    count = [0]
    through_copy = reordering.ReorderedWeight.__call__

    def counted(self, x, bias):
        count[0] += 1
        return through_copy(self, x, bias)

    monkeypatch.setattr(reordering.ReorderedWeight, "__call__", counted)
    return count


def test_no_kernels_is_no_excuse_where_there_are_some():
    if torch.backends.mkldnn.is_available() and platform.machine() == "x86_64":
        assert reordering._kernels_work(torch.float32)


def inputs(dtype):
    """(..., 35) in every order in memory that a model may come with."""
    return [
        torch.randn(1, 35, dtype=dtype),
        torch.randn(1, 1, 35, dtype=dtype),
        torch.randn(1, 70, dtype=dtype)[:, ::2],
        torch.randn(4, 6, 35, dtype=dtype)[:, -1],
        torch.randn(35, 5, dtype=dtype).t(),
        torch.randn(2, 70, dtype=dtype)[:, ::2],
        torch.randn(3, 36, dtype=dtype)[:, 1:],
        torch.randn(1, 35, dtype=dtype).expand(7, 35),
        torch.randn(3, 2, 100, 35, dtype=dtype).transpose(0, 2),
    ]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outputs", [1, 21, 128])
def test_the_numbers_are_those_of_the_plain_product(dtype, outputs, products):
    if not reordering._kernels_work(dtype):
        pytest.skip(f"no kernel for {dtype}")
    rounding = 1e-5 if dtype == torch.float32 else 2e-2
    plain = nn.Linear(35, outputs, dtype=dtype)
    # The order of a bias in memory must not matter either.
    strided = nn.Linear(35, outputs, dtype=dtype)
    strided.bias = nn.Parameter(torch.randn(outputs, 3, dtype=dtype)[:, 1])
    transposed = nn.Linear(35, outputs, bias=False, dtype=dtype)
    transposed.weight = nn.Parameter(torch.randn(35, outputs, dtype=dtype).t())
    for number, module in enumerate((plain, strided, transposed), start=1):
        with torch.no_grad(), reordered_weights([module], MANY):
            for x in inputs(dtype):
                expected = F.linear(x, module.weight, module.bias)
                torch.testing.assert_close(module(x), expected, rtol=rounding, atol=rounding)
        assert products[0] == number * len(inputs(dtype))


@needs_kernels
def test_a_weight_that_is_no_linear_module_s(products):
    words, bias = nn.Embedding(50, 8), torch.randn(50)
    hidden = torch.randn(3, 8)
    with torch.no_grad(), reordered_weights([words], MANY):
        torch.testing.assert_close(
            reordered_linear(hidden, words.weight, bias, training=False),
            hidden @ words.weight.t() + bias,
        )
        assert products == [1]
        assert torch.equal(words(torch.tensor([4])), words.weight[[4]])  # it stays a table
    with torch.no_grad():
        reordered_linear(hidden, words.weight, bias, training=False)
    assert products == [1]


@needs_kernels
def test_afterwards_all_is_as_before(products):
    module, x = nn.Linear(4, 6), torch.randn(2, 4)
    before = dict(vars(module))
    with pytest.raises(RuntimeError, match="stop"), reordered_weights([module], MANY):
        raise RuntimeError("stop")
    assert vars(module) == before
    with torch.no_grad(), reordered_weights([module], MANY):
        with reordered_weights([module], MANY):
            module(x)
        module(x)
        assert products == [2]  # an inner block does not end the outer one
    assert vars(module) == before
    assert reordering._IN_USE == {}
    module(x)
    assert products == [2]


@needs_kernels
def test_a_forward_that_somebody_has_put_there_stays(products):
    module = nn.Linear(4, 6)
    own = module.forward = lambda x: x * 2  # type: ignore[method-assign]
    with torch.no_grad(), reordered_weights([module], MANY):
        assert torch.equal(module(torch.ones(1, 4)), torch.full((1, 4), 2.0))
    assert module.forward is own
    assert products == [0]


@needs_kernels
@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.weight.mul_(2),
        lambda module: module.weight.data.mul_(2),  # which PyTorch does not count
        lambda module: setattr(module.weight, "data", module.weight.data * 2),
        lambda module: setattr(module, "weight", nn.Parameter(module.weight * 2)),
        lambda module: module.load_state_dict({"weight": module.weight * 2, "bias": module.bias}),
        lambda module: module.load_state_dict(
            {"weight": module.weight * 2, "bias": module.bias}, assign=True
        ),
    ],
)
def test_a_weight_that_has_changed(change, products):
    module, x = nn.Linear(40, 60), torch.randn(2, 40)
    with torch.no_grad():
        with reordered_weights([module], MANY):
            old = module(x)
        change(module)
        with reordered_weights([module], MANY):
            new = module(x)
        assert products == [2]
        torch.testing.assert_close(new - module.bias, 2 * (old - module.bias))


@needs_kernels
@pytest.mark.parametrize("shape", [(60, 40), (5, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_row_that_is_changed_behind_the_back_of_pytorch(shape, dtype):
    """`.data` is how tokens are added to a table; no version counts it."""
    module = nn.Linear(shape[1], shape[0]).to(dtype)
    x = torch.randn(2, shape[1], dtype=dtype)
    with torch.no_grad():
        for row in range(shape[0]):
            with reordered_weights([module], MANY):
                module(x)
            module.weight.data[row, -1] += 1
            with reordered_weights([module], MANY):
                torch.testing.assert_close(
                    module(x), F.linear(x, module.weight, module.bias), rtol=2e-2, atol=2e-2
                )


@needs_kernels
def test_a_weight_that_changes_inside_the_block(products):
    module, x = nn.Linear(4, 6, bias=False), torch.randn(2, 4)
    with torch.no_grad(), reordered_weights([module], MANY):
        old = module(x)
        module.weight.mul_(2)
        torch.testing.assert_close(module(x), 2 * old)
        module.weight = nn.Parameter(module.weight / 2)
        torch.testing.assert_close(module(x), old)
    with torch.no_grad(), reordered_weights([module], MANY):
        module.weight.data = module.weight * 2
        torch.testing.assert_close(module(x), 2 * old)
    assert products == [1]


@needs_kernels
def test_a_single_number_that_has_changed(products):
    module, x = nn.Linear(40, 60, bias=False), torch.ones(1, 40)
    with torch.no_grad():
        with reordered_weights([module], MANY):
            old = module(x)
        module.weight[1, 1] += 1
        with reordered_weights([module], MANY):
            new = module(x)
        torch.testing.assert_close(new - old, torch.eye(60)[[1]])
    assert products == [2]


@needs_kernels
def test_where_copies_do_not_serve(products, monkeypatch):
    module, x = nn.Linear(4, 6), torch.randn(2, 4)
    expected = F.linear(x, module.weight, module.bias)
    with reordered_weights([module], MANY):
        module(x).sum().backward()
        assert module.weight.grad is not None
        with torch.no_grad():
            assert torch.equal(module(x[0]), F.linear(x[0], module.weight, module.bias))
            assert module(x[:0]).shape == (0, 6)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert module(x).dtype == torch.bfloat16
            with monkeypatch.context() as compiling:
                compiling.setattr(torch.compiler, "is_compiling", lambda: True)
                assert torch.equal(module(x), expected)
            module.double()
            torch.testing.assert_close(module(x.double()), expected.double())
    assert products == [0]


@needs_kernels
@pytest.mark.slow
def test_a_compiled_module_is_one_whole_graph(products):
    module, x = nn.Linear(4, 6), torch.randn(2, 4)
    with torch.no_grad(), reordered_weights([module], MANY):
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), F.linear(x, module.weight, module.bias))
    assert products == [0]


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_weights_that_have_no_copies():
    large = [nn.Linear(4, 6, dtype=torch.float64), nn.Linear(4, 6, device="meta")]
    with torch.inference_mode():
        large.append(nn.Linear(4, 6))  # whose changes nobody counts
    large.append(nn.Linear(0, 6))
    with torch.no_grad(), reordered_weights(large, MANY):
        assert reordering._IN_USE == {}
        assert large[0](torch.randn(2, 4, dtype=torch.float64)).shape == (2, 6)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError, None])
def test_kernels_that_are_absent_or_wrong_are_not_used(error, monkeypatch):
    def broken(self, x, bias):
        if error is None:
            return F.linear(x, torch.zeros(5, 3, dtype=x.dtype), bias)
        raise error("no such kernel")

    monkeypatch.setattr(reordering.ReorderedWeight, "__call__", broken)
    reordering._kernels_work.cache_clear()
    module, x = nn.Linear(3, 5), torch.randn(2, 3)
    try:
        with torch.no_grad(), reordered_weights([module], MANY):
            assert torch.equal(module(x), F.linear(x, module.weight, module.bias))
    finally:
        reordering._kernels_work.cache_clear()


@needs_kernels
def test_copies_are_made_once_and_where_it_pays(products):
    module, x = nn.Linear(4, 6), torch.randn(2, 4)
    with torch.no_grad():
        with reordered_weights([module], MANY - 1):
            module(x)
        assert products == [0]
        with reordered_weights([module], MANY):
            first = reordering._COPIES[module]
        with reordered_weights([module], 1):
            module(x)
        assert products == [1]
        assert reordering._COPIES[module] is first
        forget_copies([module])
        with reordered_weights([module], 1):
            module(x)
        assert products == [1]


@needs_kernels
def test_copies_go_with_their_module_and_are_no_part_of_it():
    module = nn.Linear(4, 6)
    with reordered_weights([module], MANY):
        inside = copy.deepcopy(module)
    assert list(module.state_dict()) == ["weight", "bias"]
    with torch.no_grad():
        x = torch.randn(2, 4)
        inside.weight.mul_(2)  # the copy of a module looks at its own weight
        torch.testing.assert_close(inside(x), F.linear(x, inside.weight, inside.bias))
    held = weakref.ref(reordering._COPIES[module])
    del module
    gc.collect()
    assert held() is None


@needs_kernels
@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.slow) if f != "T5" else f for f in FAMILIES]
)
def test_a_model_writes_the_same_with_and_without(family, products, monkeypatch):
    ours, _ = pair(family)
    ids = torch.randint(3, 90, (2, 5))
    monkeypatch.setattr(ours, "reorder_weights", False)
    asked = {"max_new_tokens": MANY, "min_new_tokens": MANY, "num_beams": 2}
    expected = generate(ours, ids, **asked)
    assert products == [0]
    monkeypatch.setattr(ours, "reorder_weights", True)
    written = generate(ours, ids, **asked)
    assert torch.equal(written.sequences, expected.sequences)
    torch.testing.assert_close(written.sequences_scores, expected.sequences_scores)
    # Every linear map of the decoder and the head, for every word; those of the source once.
    maps = len(maps_for_each_word(ours))
    assert maps * MANY * 0.7 < products[0] <= maps * MANY

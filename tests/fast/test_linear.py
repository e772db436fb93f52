"""Linear layers by the faster matrix product: the numbers of F.linear, in every derivative.

The faster product is measured, so the tests set the result. Each test runs with oneDNN's product,
if this PyTorch has it, and with a stand-in for it.
"""

import copy
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from minitransformer import BertConfig, BertForMaskedLM
from minitransformer.fast import linear as module
from minitransformer.fast import measuring, optimize
from minitransformer.fast.linear import linear_with_activation, set_library
from minitransformer.layers.feed_forward import ACTIVATIONS
from tests import tiny


def linear(x, weight, bias=None):
    """The product in training."""
    return module.linear(x, weight, bias, training=True)


def stand_in(x, weight, bias, activation="none", algorithm=""):
    """A stand-in with the results of oneDNN's product."""
    product = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    names = {"none": lambda t: t, "relu": F.relu}
    names["gelu"] = partial(F.gelu, approximate=algorithm or "none")
    return names[activation](product).to(x.dtype)


@pytest.fixture(params=["onednn", "stand-in"])
def calls(request, monkeypatch):
    """The shapes of the factors, and the activation, of each product by oneDNN, chosen here."""
    product = module.onednn_linear
    if request.param == "onednn":
        if not (torch.backends.mkldnn.enabled and module.onednn_works()):
            pytest.skip("oneDNN is off, or this PyTorch has none")
        for activation in module._FUSED:  # tested once, before calls are counted
            for dtype in (torch.float32, torch.bfloat16):
                module._kernel_works(dtype, activation)
    else:
        product = stand_in
        monkeypatch.setattr(module, "_kernel_works", lambda dtype, _: dtype != torch.float64)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)
    seen = []

    def counted(x, weight, bias=None, activation="none", algorithm=""):
        seen.append((tuple(x.shape), tuple(weight.shape), activation))
        return product(x, weight, bias, activation, algorithm)

    monkeypatch.setattr(module, "onednn_linear", counted)
    monkeypatch.setattr(module, "_chosen", "onednn")
    monkeypatch.setattr(module, "is_faster", lambda *_, **__: True)
    return seen


def leaves(rows=(2, 5), inputs=6, outputs=4, bias=True):
    """x, W and b, twice: equal values, separate gradients."""
    made = [torch.randn(*rows, inputs), torch.randn(outputs, inputs)]
    made += [torch.randn(outputs)] if bias else []
    return [[t.clone().requires_grad_() for t in made] for _ in range(2)]


@pytest.mark.parametrize("rows", [(7,), (2, 5), (1, 3, 4)])
@pytest.mark.parametrize(("inputs", "outputs"), [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_pytorchs(rows, inputs, outputs, bias, calls):
    mine, usual = leaves(rows, inputs, outputs, bias)
    found, expected = linear(*mine), F.linear(*usual)
    assert len(calls) == 1
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    found.backward(direction)
    expected.backward(direction)
    for one, other in zip(mine, usual, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    # The gradient by W too, where the factor that has to be copied is the smaller one.
    assert len(calls) == (3 if inputs > outputs else 2)
    with torch.no_grad():
        assert torch.equal(linear(*mine), expected)
    assert len(calls) == (3 if inputs > outputs else 2)  # without gradients, PyTorch's product


def test_by_default_everything_is_pytorchs(calls):
    set_library("default")
    mine, usual = leaves()
    found, expected = linear(*mine), F.linear(*usual)
    assert torch.equal(found, expected)
    found.sum().backward()
    expected.sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(mine, usual, strict=True))
    assert calls == []


def test_only_the_gradients_that_are_needed_are_computed(calls):
    for with_gradient in range(3):
        (mine, usual), before = leaves(), len(calls)
        for made in (mine, usual):
            for number, tensor in enumerate(made):
                tensor.requires_grad_(number == with_gradient)
        linear(*mine).sum().backward()  # the gradient is expanded, not contiguous
        F.linear(*usual).sum().backward()
        for one, other in zip(mine, usual, strict=True):
            assert (one.grad is None) == (other.grad is None)
        torch.testing.assert_close(mine[with_gradient].grad, usual[with_gradient].grad)
        assert len(calls) - before == (1 if with_gradient == 2 else 2)


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 4), (4, 6)])
def test_gradients_have_gradients(inputs, outputs, calls):
    mine, usual = leaves(inputs=inputs, outputs=outputs)
    for made, product in ((mine, linear), (usual, F.linear)):
        firsts = torch.autograd.grad(product(*made).pow(3).sum(), made, create_graph=True)
        sum(first.pow(2).sum() for first in firsts).backward()
    assert len(calls) > 3
    for one, other in zip(mine, usual, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-3)


STRIDED = {
    "sliced": lambda rows, width: torch.randn(rows, 2 * width)[:, ::2],
    "transposed": lambda rows, width: torch.randn(width, rows).t(),
    "expanded": lambda rows, width: torch.randn(1, width).expand(rows, width),
    "one number": lambda rows, width: torch.randn(1, 1).expand(rows, width),
    "one row": lambda rows, width: torch.randn(width, 3).t()[:1],
}


@pytest.mark.parametrize("kind", STRIDED)
@pytest.mark.parametrize(("inputs", "outputs"), [(6, 4), (4, 6)])
def test_tensors_of_any_strides(kind, inputs, outputs, calls):
    bias = torch.randn(outputs, 2)[:, 0]
    for x, weight in (
        (STRIDED[kind](5, inputs), torch.randn(outputs, inputs)),
        (torch.randn(5, inputs), STRIDED["transposed"](outputs, inputs)),
        (STRIDED[kind](5, inputs), STRIDED["expanded"](outputs, inputs)),
    ):
        gradients = []
        for product in (linear, F.linear):
            factors = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
            found = product(*factors, bias)
            direction = torch.linspace(-1, 1, outputs).expand_as(found)
            gradients.append([found, *torch.autograd.grad(found, factors, direction)])
        torch.testing.assert_close(*gradients)
    assert len(calls) >= 6


def test_what_no_gradient_needs_is_not_saved(calls):
    (x, weight, bias), _ = leaves()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        linear(x, weight.detach())
        assert [tensor.shape for tensor in saved] == [weight.shape]
        linear(x.detach(), weight)
        assert [tensor.shape for tensor in saved] == [weight.shape, x.shape]
        linear(x.detach(), weight.detach(), bias)
        assert len(saved) == 2
    moving = x.detach().clone()
    found = linear(moving, weight.detach(), bias)
    moving.zero_()
    found.sum().backward()
    with torch.inference_mode():
        unsaved = torch.randn(3, 6)
    linear(unsaved, weight.detach(), bias).sum().backward()
    assert bias.grad.tolist() == [10 + 3] * 4
    assert len(calls) == 5


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(use_reentrant, calls):
    mine, usual = leaves()
    checkpoint(linear, *mine, use_reentrant=use_reentrant).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):  # only the backward pass
        linear(*mine).sum().backward()
    F.linear(*usual).sum().mul(2).backward()
    for one, other in zip(mine, usual, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-2, atol=1e-2)
    assert calls


def test_what_observes_or_transforms_gets_pytorchs_own_operations(calls, monkeypatch):
    x, weight, bias = torch.randn(2, 5, 6), torch.randn(4, 6), torch.randn(4)
    expected = F.linear(x, weight, bias)
    same = torch.testing.assert_close
    same(linear(x.double(), weight.double()), F.linear(x.double(), weight.double()))
    same(linear(x[0, 0], weight, bias), expected[0, 0])
    assert linear(x[:0], weight, bias).shape == (0, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    with monkeypatch.context() as patched:
        patched.setattr(torch.backends.mkldnn, "enabled", False)
        same(linear(x, weight, bias), expected)
    with FlopCounterMode(display=False) as counter:
        linear(x, weight)
    assert counter.get_total_flops() == 2 * 10 * 6 * 4
    same(torch.vmap(linear, (0, None, None))(x, weight, bias), expected)
    gradient = torch.func.grad(lambda w: linear(x, w).sum())(weight)
    same(gradient, x.sum(dim=(0, 1)).expand(4, 6))
    _, slope = torch.func.jvp(lambda t: linear(t, weight), (x,), (x,))
    same(slope, F.linear(x, weight))
    with forward_ad.dual_level():
        dual = linear(forward_ad.make_dual(x, x), weight)
        same(forward_ad.unpack_dual(dual).tangent, F.linear(x, weight))
    with warnings.catch_warnings(action="ignore"):
        traced = torch.jit.trace(linear, (x, weight, bias), check_trace=False)
    same(traced(x * 2, weight, bias), F.linear(x * 2, weight, bias))
    same(torch.fx.symbolic_trace(Product())(x, weight), F.linear(x, weight))
    twin = optimize(nn.Linear(6, 4))
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    same(compiled(x), F.linear(x, twin.weight, twin.bias))
    same(torch.fx.symbolic_trace(nn.Sequential(twin))(x), F.linear(x, twin.weight, twin.bias))
    assert calls == []


class Product(nn.Module):
    """For tools that follow modules."""

    def forward(self, x, weight):
        return linear(x, weight)


def test_a_batch_of_gradients_is_pytorchs_own(calls):
    x, weight = torch.randn(2, 5, 6), torch.randn(4, 6)
    slopes = torch.autograd.functional.jacobian(lambda t: linear(t, weight), x, vectorize=True)
    torch.testing.assert_close(slopes.sum(dim=(0, 1, 2)), weight.sum(dim=0).expand(2, 5, 6))
    assert len(calls) == 1  # forward


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (torch.ones(2, 3), torch.ones(4, 5), None),
        (torch.ones(2, 5), torch.ones(4, 5), torch.ones(3)),
        (torch.ones(2, 5), torch.ones(4, 5).double(), None),
        (torch.ones(2, 5), torch.ones(4, 5), torch.ones(4).double()),
    ],
)
def test_wrong_shapes_raise_pytorchs_errors(x, weight, bias, calls):
    messages = []
    for product in (linear, F.linear):
        with pytest.raises(RuntimeError) as error:
            product(x, weight, bias)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_other_kinds_of_tensors_are_pytorchs_own(calls):
    x, weight = torch.randn(2, 5), torch.randn(4, 5)
    same = torch.testing.assert_close
    same(linear(x, weight[0]), F.linear(x, weight[0]))
    same(linear(x, weight, torch.ones(1)), F.linear(x, weight, torch.ones(1)))
    with warnings.catch_warnings(action="ignore"):
        same(linear(x, weight.to_sparse_csr()), F.linear(x, weight))
    assert linear(x.to("meta"), weight.to("meta")).shape == (2, 4)
    assert calls == []


def test_the_twin_is_pytorchs_module_with_another_product(calls):
    usual = nn.Linear(6, 4)
    mine, x = optimize(copy.deepcopy(usual)), torch.randn(3, 6)
    torch.testing.assert_close(mine(x), usual(x))
    assert len(calls) == 1
    # In evaluation mode the numbers are exactly PyTorch's, with gradients and without.
    with torch.inference_mode():
        assert torch.equal(mine(x), usual(x))
    assert torch.equal(mine.eval()(x), usual(x))
    assert len(calls) == 1


def test_a_model_learns_the_same_by_either_library(calls, monkeypatch):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=50, intermediate_size=40, **sizes)
    model, ids = optimize(BertForMaskedLM(config)).train(), torch.randint(5, 50, (3, 9))
    found, counts = [], []
    for library in ("onednn", "default"):
        monkeypatch.setattr(module, "_chosen", library)
        model.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss = model.loss(input_ids=ids, labels=ids)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
        counts.append(len(calls))
    # Six maps a layer and two of the head: forward, by x, and of each layer's second map of the
    # feed-forward by W; in the second round none.
    assert counts == [2 * (2 * 6 + 2) + 2] * 2
    torch.testing.assert_close(found[0], found[1])
    monkeypatch.setattr(module, "_chosen", "onednn")
    model.eval().loss(input_ids=ids, labels=ids)
    assert len(calls) == counts[0]


@pytest.mark.parametrize("name", [*tiny.LANGUAGE_MODELS, "GPT2LMHeadModel untied"])
def test_the_lm_head_uses_it_too(name, calls):
    model = optimize(tiny.new(name).float().train())
    ids = tiny.random_sequences(2, 5)
    model.loss(input_ids=ids, labels=ids).backward()
    head = (model.config.vocab_size, model.config.hidden_size)
    assert [weight for _, weight, _ in calls].count(head) == 1
    calls.clear()
    model.eval().loss(input_ids=ids, labels=ids)
    assert calls == []


@pytest.mark.parametrize("name", [*ACTIVATIONS, None])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("most", [0, 100])
def test_it_equals_the_layer_and_then_the_activation(name, bias, dtype, most, calls, monkeypatch):
    monkeypatch.setattr(module, "_MAX_ROWS_IN_FLOAT32", most)
    layer, activation = nn.Linear(24, 40, bias, dtype=dtype), ACTIVATIONS.get(name)
    x = torch.randn(3, 5, 24, dtype=dtype) * 2
    before = x.clone()
    exact_bias = None if not bias else layer.bias.float()
    expected = F.linear(x.float(), layer.weight.float(), exact_bias)
    expected = expected if activation is None else activation(expected)
    with torch.no_grad():
        found = linear_with_activation(x, layer, activation)
    assert found.dtype == dtype
    tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-6
    torch.testing.assert_close(found.float(), expected.float(), rtol=tolerance, atol=tolerance)
    assert torch.equal(x, before)
    fused = activation in module._FUSED and module._kernel_works(dtype, activation)
    assert len(calls) == (fused and (bool(most) or dtype == torch.bfloat16))


def test_with_many_rows_the_activation_is_in_place(monkeypatch):
    monkeypatch.setattr(module, "_MAX_ROWS_IN_FLOAT32", 0)
    layer, x = nn.Linear(8, 4), torch.randn(3, 8)
    products = []
    forward = F.linear
    monkeypatch.setattr(F, "linear", lambda *a: products.append(forward(*a)) or products[-1])
    for name in ACTIVATIONS:
        with torch.no_grad():
            found = linear_with_activation(x, layer, ACTIVATIONS[name])
        assert found.data_ptr() == products[-1].data_ptr(), name


def test_beyond_the_limit_of_rows_it_is_pytorchs_product(calls):
    layer, x = nn.Linear(8, 4), torch.randn(module._MAX_ROWS_IN_FLOAT32 + 1, 8)
    with torch.no_grad():
        linear_with_activation(x, layer, None)
        assert calls == []
        linear_with_activation(x[1:], layer, None)
    assert [activation for *_, activation in calls] == ["none"]


def test_an_activation_that_cannot_be_fused_takes_two_steps(calls):
    layer, gelu, x = nn.Linear(3, 4), ACTIVATIONS["gelu"], torch.randn(2, 3)
    linear_with_activation(x, layer, gelu).sum().backward()  # gradients
    assert layer.weight.grad is not None
    with torch.no_grad():
        linear_with_activation(x.double(), nn.Linear(3, 4).double(), gelu)
        linear_with_activation(x, layer, lambda values: values)  # a user's activation
        linear_with_activation(x, layer, partial(F.gelu, approximate="tanh"))
        with pytest.raises(RuntimeError):
            linear_with_activation(x[:, :2], layer, None)
        assert calls == []
        linear_with_activation(x, layer, gelu)
    assert [activation for *_, activation in calls] == ["gelu"]


def test_a_bias_that_is_not_contiguous_is_read_right(calls):
    layer = nn.Linear(3, 4)
    layer.bias = nn.Parameter(torch.randn(4, 2)[:, 0])
    x = torch.randn(5, 3)
    with torch.no_grad():
        found = linear_with_activation(x, layer, F.gelu)
        torch.testing.assert_close(found, F.gelu(layer(x)))


def test_the_kernel_is_given_a_contiguous_bias(monkeypatch):
    """On any processor: where the kernel misreads another one, it fails its trial and is not used.

    So without the copy all numbers would be right, only slower.
    """
    seen = []
    monkeypatch.setattr(
        torch.ops.mkldnn,
        "_linear_pointwise",
        lambda _x, _weight, bias, *_: seen.append(bias),
        raising=False,
    )
    bias = torch.randn(4, 2)[:, 0]
    module.onednn_linear(torch.randn(5, 3), torch.randn(4, 3), bias)
    assert seen[0].is_contiguous() and torch.equal(seen[0], bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*ACTIVATIONS, None])
def test_the_activation_is_fused_only_where_that_is_faster(name, dtype, calls, monkeypatch):
    """Measured for each dtype and activation, for few rows and for many."""
    layer, activation = nn.Linear(24, 40, dtype=dtype), ACTIVATIONS.get(name)
    asked, pays = [], {8: True, 16: True, 64: False, 256: False}

    def answer(question, make, rounds):
        asked.append(question)
        return next(fast for rows, fast in pays.items() if f", {rows} rows, {dtype}" in question)

    monkeypatch.setattr(module, "is_faster", answer)
    with torch.no_grad():
        for rows in (1, 32, 33, 500):
            x = torch.randn(rows, 24, dtype=dtype)
            expected = layer(x) if activation is None else activation(layer(x))
            tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-6
            found = linear_with_activation(x, layer, activation)
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    fused = activation in module._FUSED and module._kernel_works(dtype, activation)
    assert [shape[0] for shape, *_ in calls] == ([1, 32] if fused else [])
    assert len(asked) == len(set(asked)) == 4 * fused


@pytest.fixture
def transposed(monkeypatch):
    """The rows of each transposed product, which is chosen here, for a weight of any size."""
    product, seen = module.transposed_linear, []

    def counted(x, weight, bias):
        seen.append(x.numel() // x.shape[-1])
        return product(x, weight, bias)

    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)
    monkeypatch.setattr(module, "transposed_linear", counted)
    monkeypatch.setattr(module, "is_faster", lambda *_: True)
    monkeypatch.setattr(module, "_TRANSPOSED_SIZES", (0, 2**23))
    return seen


@pytest.mark.parametrize("rows", [(4,), (2, 3), (2, 1, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_product_is_the_product(rows, bias, transposed):
    x, weight = torch.randn(*rows, 6).flip(0), torch.randn(4, 6)
    bias = torch.randn(8)[::2] if bias else None
    with torch.no_grad():
        found = module.linear(x, weight, bias, False)
    torch.testing.assert_close(found, F.linear(x, weight, bias), rtol=2e-6, atol=2e-6)
    assert found.is_contiguous() and transposed == [x[..., 0].numel()]


@pytest.mark.parametrize("faster", [True, False])
def test_few_rows_are_transposed_where_that_is_faster(faster, transposed, monkeypatch):
    most, weight = module._MAX_ROWS_TRANSPOSED, torch.randn(4, 6)
    asked = []
    monkeypatch.setattr(module, "is_faster", lambda name, *_: asked.append(name) or faster)
    with torch.no_grad():
        for rows in (1, 2, most, most + 1):
            x = torch.randn(rows, 6)
            torch.testing.assert_close(module.linear(x, weight, None, False), F.linear(x, weight))
        for size in ((25, 30), (0, 23)):  # of larger and of smaller weights than this one
            monkeypatch.setattr(module, "_TRANSPOSED_SIZES", size)
            module.linear(x[:2], weight, None, False)
    assert transposed == ([2, most] if faster else [])
    assert [name.split()[2] for name in asked] == ["8", "64"]


def test_what_is_observed_is_not_transposed(transposed):
    x, weight = torch.randn(3, 6), torch.randn(4, 6)
    module.linear(x, weight, None, False)  # with gradients
    with torch.no_grad():
        module.linear(x.double(), weight.double(), None, False)
        with FlopCounterMode(display=False) as counter:
            module.linear(x, weight, None, False)
        with torch.autocast("cpu", torch.bfloat16):
            module.linear(x, weight, None, False)
        torch.func.vmap(lambda row: module.linear(row[None], weight, None, False))(x)
        with pytest.raises(RuntimeError):
            module.linear(x[:, :3], weight, None, False)
    assert transposed == [] and counter.get_total_flops() == 2 * 3 * 4 * 6


@pytest.mark.parametrize("ratio", [0.9, 1.04, 1.06, 2.0])
def test_the_library_is_measured_once(ratio, monkeypatch):
    measured = []
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(module, "onednn_works", lambda: True)
    monkeypatch.setattr(module, "_chosen", None)
    monkeypatch.setattr(measuring, "SPEEDUPS", {})
    monkeypatch.setattr(measuring, "_speedup", lambda *_: measured.append(1) or ratio)
    for _ in range(2):
        assert module.measured_library() == ("onednn" if ratio > 1.05 else "default")
    assert measured == [1]
    assert dict(measuring.SPEEDUPS) == {module._COMPARISON: ratio}


def test_the_comparison_of_libraries_counts_the_products_of_a_training_step(monkeypatch):
    """The outputs and the gradients of the input, by either library."""
    seen = []

    def product(x, weight, bias=None):
        """Takes no time."""
        seen.append((x.shape[1], *weight.shape, weight.is_contiguous()))

    monkeypatch.setattr(module, "onednn_linear", product)
    monkeypatch.setattr(F, "linear", product)
    for multiply in module._both_products():
        seen.clear()
        multiply()
        forward = [shape[1:3] for shape in seen if shape[3]]
        assert forward == [(768, 768), (3072, 768)]
        assert [shape[:3] for shape in seen if not shape[3]] == [
            (outputs, inputs, outputs) for outputs, inputs in forward
        ]


def test_without_a_choice_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(module, "is_faster", None)  # not to be called
    monkeypatch.setattr(module, "_chosen", None)
    for mkl, mkldnn, works in ((False, True, True), (True, False, True), (True, True, False)):
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda mkl=mkl: mkl)
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", mkldnn)
        monkeypatch.setattr(module, "onednn_works", lambda works=works: works)
        assert module.measured_library() == "default"


def test_a_library_is_set_from_outside(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(module, "_chosen", None)
    monkeypatch.setattr(module, "onednn_works", lambda: True)
    monkeypatch.setattr(module, "is_faster", None)  # not to be called
    for name in module.LIBRARIES:
        set_library(name)
        assert module.measured_library() == name
    with pytest.raises(ValueError, match=r"library='mkl' is unknown.*\['default', 'onednn'\]"):
        set_library("mkl")
    monkeypatch.setattr(module, "onednn_works", lambda: False)
    with pytest.raises(ValueError, match="cannot multiply by oneDNN"):
        set_library("onednn")
    assert module.measured_library() == "default"  # what was set before
    monkeypatch.setattr(module, "onednn_works", lambda: True)
    for faster in (True, False):
        monkeypatch.setattr(module, "is_faster", lambda *_, faster=faster, **__: faster)
        set_library(None)
        assert module.measured_library() == ("onednn" if faster else "default")


def test_a_kernel_with_wrong_results_is_not_used(monkeypatch):
    works = module.onednn_works.__wrapped__
    with torch.device("meta"):  # what is made elsewhere by default is made here
        assert works() == module.onednn_works()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:  # and what has another dtype by default is float32
        assert works() == module.onednn_works()
    finally:
        torch.set_default_dtype(before)
    gelu = ACTIVATIONS["gelu"]
    monkeypatch.setattr(module, "onednn_linear", stand_in)
    assert works() and module._kernel_works.__wrapped__(torch.bfloat16, gelu)
    monkeypatch.setattr(module, "onednn_linear", lambda x, weight, bias, *_: F.linear(x, weight))
    assert not works() and not module._kernel_works.__wrapped__(torch.float32, gelu)

    def without_strides(x, weight, bias, *_):
        return F.linear(x, weight.t().reshape(weight.shape), bias)

    monkeypatch.setattr(module, "onednn_linear", without_strides)
    assert not works()
    monkeypatch.undo()
    monkeypatch.setattr(torch.ops, "mkldnn", object())  # a PyTorch without it
    assert not works() and not module._kernel_works.__wrapped__(torch.float32, gelu)

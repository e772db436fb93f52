"""Linear maps by oneDNN: the numbers of F.linear, in every derivative, where it is faster."""

import copy
import platform
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from minitransformer import BertConfig, BertForMaskedLM
from minitransformer.layers import linear as module
from minitransformer.layers.linear import Linear
from tests.models import decoders

needs_onednn = pytest.mark.skipif(not module.onednn_works(), reason="this PyTorch has no oneDNN")


def linear(x, weight, bias=None):
    """The map of a model that learns."""
    return module.linear(x, weight, bias, training=True)


@pytest.fixture
def calls(monkeypatch):
    """The shapes of the factors that oneDNN multiplied, on a processor on which it is faster."""
    seen = []
    product = module.onednn_linear

    def counted(x, weight, *others):
        seen.append((tuple(x.shape), tuple(weight.shape)))
        return product(x, weight, *others)

    monkeypatch.setattr(module, "prefers_onednn", lambda: True)
    monkeypatch.setattr(module, "onednn_linear", counted)
    return seen


def leaves(rows=(2, 5), inputs=6, outputs=4, bias=True):
    """x, W and b, twice: the same numbers with gradients of their own."""
    made = [torch.randn(*rows, inputs), torch.randn(outputs, inputs)]
    made += [torch.randn(outputs)] if bias else []
    return [[t.clone().requires_grad_() for t in made] for _ in range(2)]


def test_no_onednn_is_no_excuse_where_there_is_some():
    if torch.backends.mkldnn.is_available() and platform.machine() == "x86_64":
        assert module.onednn_works()


@needs_onednn
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
        torch.testing.assert_close(linear(*mine), expected)
    assert len(calls) == (3 if inputs > outputs else 2)  # without gradients PyTorch's own


@needs_onednn
def test_only_the_gradients_that_are_wanted_are_computed(calls):
    for wanted in range(3):
        (mine, usual), before = leaves(), len(calls)
        for made in (mine, usual):
            for number, tensor in enumerate(made):
                tensor.requires_grad_(number == wanted)
        linear(*mine).sum().backward()  # of a gradient that is expanded, not written out
        F.linear(*usual).sum().backward()
        for one, other in zip(mine, usual, strict=True):
            assert (one.grad is None) == (other.grad is None)
        torch.testing.assert_close(mine[wanted].grad, usual[wanted].grad)
        assert len(calls) - before == (1 if wanted == 2 else 2)


@needs_onednn
@pytest.mark.parametrize(("inputs", "outputs"), [(6, 4), (4, 6)])
def test_gradients_have_gradients(inputs, outputs, calls):
    mine, usual = leaves(inputs=inputs, outputs=outputs)
    for made, product in ((mine, linear), (usual, F.linear)):
        firsts = torch.autograd.grad(product(*made).pow(3).sum(), made, create_graph=True)
        sum(first.pow(2).sum() for first in firsts).backward()
    assert len(calls) > 3
    for one, other in zip(mine, usual, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-3)


ACROSS = {
    "sliced": lambda rows, width: torch.randn(rows, 2 * width)[:, ::2],
    "transposed": lambda rows, width: torch.randn(width, rows).t(),
    "expanded": lambda rows, width: torch.randn(1, width).expand(rows, width),
    "one number": lambda rows, width: torch.randn(1, 1).expand(rows, width),
    "one row": lambda rows, width: torch.randn(width, 3).t()[:1],
}


@needs_onednn
@pytest.mark.parametrize("lies", ACROSS)
@pytest.mark.parametrize(("inputs", "outputs"), [(6, 4), (4, 6)])
def test_tensors_that_lie_across(lies, inputs, outputs, calls):
    bias = torch.randn(outputs, 2)[:, 0]
    for x, weight in (
        (ACROSS[lies](5, inputs), torch.randn(outputs, inputs)),
        (torch.randn(5, inputs), ACROSS["transposed"](outputs, inputs)),
        (ACROSS[lies](5, inputs), ACROSS["expanded"](outputs, inputs)),
    ):
        gradients = []
        for product in (linear, F.linear):
            factors = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
            found = product(*factors, bias)
            direction = torch.linspace(-1, 1, outputs).expand_as(found)
            gradients.append([found, *torch.autograd.grad(found, factors, direction)])
        torch.testing.assert_close(*gradients)
    assert len(calls) >= 6


@needs_onednn
def test_what_no_gradient_needs_may_change_or_go(calls):
    (x, weight, bias), _ = leaves()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        linear(x, weight.detach())
        assert [tensor.shape for tensor in kept] == [weight.shape]
        linear(x.detach(), weight)
        assert [tensor.shape for tensor in kept] == [weight.shape, x.shape]
        linear(x.detach(), weight.detach(), bias)
        assert len(kept) == 2
    moving = x.detach().clone()
    found = linear(moving, weight.detach(), bias)
    moving.zero_()
    found.sum().backward()
    with torch.inference_mode():
        unsaved = torch.randn(3, 6)
    linear(unsaved, weight.detach(), bias).sum().backward()
    assert bias.grad.tolist() == [10 + 3] * 4
    assert len(calls) == 5


@needs_onednn
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_what_is_computed_again_for_the_gradients(use_reentrant, calls):
    mine, usual = leaves()
    checkpoint(linear, *mine, use_reentrant=use_reentrant).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):  # around the backward alone
        linear(*mine).sum().backward()
    F.linear(*usual).sum().mul(2).backward()
    for one, other in zip(mine, usual, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-2, atol=1e-2)
    assert calls


def test_whoever_needs_pytorchs_own_operations_gets_them(calls):
    x, weight, bias = torch.randn(2, 5, 6), torch.randn(4, 6), torch.randn(4)
    expected = F.linear(x, weight, bias)
    same = torch.testing.assert_close
    same(linear(x.double(), weight.double()), F.linear(x.double(), weight.double()))
    same(linear(x[0, 0], weight, bias), expected[0, 0])
    assert linear(x[:0], weight, bias).shape == (0, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    with warnings.catch_warnings(action="ignore"), torch.backends.mkldnn.flags(enabled=False):
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
    compiled = torch.compile(Linear(6, 4), backend="eager", fullgraph=True)
    same(compiled(x), F.linear(x, compiled.weight, compiled.bias))
    assert calls == []


@needs_onednn
def test_a_batch_of_gradients_is_pytorchs_own(calls):
    x, weight = torch.randn(2, 5, 6), torch.randn(4, 6)
    slopes = torch.autograd.functional.jacobian(lambda t: linear(t, weight), x, vectorize=True)
    torch.testing.assert_close(slopes.sum(dim=(0, 1, 2)), weight.sum(dim=0).expand(2, 5, 6))
    assert len(calls) == 1  # forward


class Product(nn.Module):
    """For tools that follow modules."""

    def forward(self, x, weight):
        return linear(x, weight)


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (torch.ones(2, 3), torch.ones(4, 5), None),
        (torch.ones(2, 5), torch.ones(4, 5), torch.ones(3)),
        (torch.ones(2, 5), torch.ones(4, 5).double(), None),
        (torch.ones(2, 5), torch.ones(4, 5), torch.ones(4).double()),
    ],
)
def test_what_does_not_fit_is_told_in_pytorchs_words(x, weight, bias, calls):
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


@needs_onednn
def test_the_module_is_pytorchs_with_another_product(calls):
    torch.manual_seed(0)
    mine = Linear(6, 4)
    torch.manual_seed(0)
    usual = nn.Linear(6, 4)
    assert isinstance(mine, nn.Linear) and mine.state_dict().keys() == usual.state_dict().keys()
    x = torch.randn(3, 6)
    torch.testing.assert_close(mine(x), usual(x))
    torch.testing.assert_close(copy.deepcopy(mine)(x), usual(x))
    assert len(calls) == 2
    # What does not learn gives the very numbers, with gradients and without.
    with torch.inference_mode():
        assert torch.equal(mine(x), usual(x))
    assert torch.equal(mine.eval()(x), usual(x))
    assert len(calls) == 2


@needs_onednn
def test_a_model_learns_the_same_by_either_library(calls, monkeypatch):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=50, intermediate_size=40, **sizes)
    model = BertForMaskedLM(config).train()
    ids = torch.randint(5, 50, (3, 9))
    found, counts = [], []
    for preferred in (True, False):
        monkeypatch.setattr(module, "prefers_onednn", lambda preferred=preferred: preferred)
        model.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss = model.loss(ids, labels=ids)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
        counts.append(len(calls))
    # Six maps a layer and two of the head: forward, by x, and of each layer's second map of the
    # feed-forward by W; in the second round none.
    assert counts == [2 * (2 * 6 + 2) + 2] * 2
    torch.testing.assert_close(found[0], found[1])
    monkeypatch.setattr(module, "prefers_onednn", lambda: True)
    model.eval().loss(ids, labels=ids)
    assert len(calls) == counts[0]


@needs_onednn
@pytest.mark.parametrize("name", decoders.WRITERS)
def test_the_head_of_a_model_that_writes_is_multiplied_by_it_too(name, calls):
    model = decoders.new(name).float().train()
    ids = decoders.rows(2, 5)
    model.loss(ids, labels=ids).backward()
    head = tuple(model.head.weight.shape)
    assert [weight for _, weight in calls].count(head) == 1
    calls.clear()
    model.eval().loss(ids, labels=ids)
    assert calls == []


@pytest.mark.parametrize(
    ("name", "mkl", "preferred"),
    [
        ("AMD EPYC", True, True),
        ("AMD EPYC", False, False),
        ("Intel Xeon", True, False),
        (None, True, False),
    ],
)
def test_amds_processors_prefer_it_to_mkl(name, mkl, preferred, monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    known = {} if name is None else {"cpu_name": name}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert module.prefers_onednn.__wrapped__() is preferred
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # an older PyTorch
    assert module.prefers_onednn.__wrapped__() is False


def test_a_kernel_that_computes_something_else_is_not_trusted(monkeypatch):
    works = module.onednn_works.__wrapped__
    with torch.device("meta"):  # what is made elsewhere by default is made here
        assert works() == module.onednn_works()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:  # and what has another dtype by default is float32
        assert works() == module.onednn_works()
    finally:
        torch.set_default_dtype(before)
    monkeypatch.setattr(module, "onednn_linear", lambda x, weight, bias: F.linear(x, weight))
    assert not works()

    def without_strides(x, weight, bias):
        return F.linear(x, weight.t().reshape(weight.shape), bias)

    monkeypatch.setattr(module, "onednn_linear", without_strides)
    assert not works()
    monkeypatch.undo()
    monkeypatch.setattr(torch.ops, "mkldnn", object())  # a PyTorch without it
    assert not works()

"""Linear maps by oneDNN: the numbers of F.linear, in every derivative, where it is faster."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from minitransformer import BertConfig, BertForMaskedLM
from minitransformer.layers import linear as module
from minitransformer.layers.linear import Linear, linear

needs_onednn = pytest.mark.skipif(
    not module.onednn_works(torch.float32), reason="this PyTorch has no oneDNN"
)


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
    assert len(calls) == (4 if inputs > outputs else 3)


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


@needs_onednn
def test_weights_and_biases_that_lie_across(calls):
    x, weight = torch.randn(5, 6), torch.randn(6, 4).t()
    bias = torch.randn(4, 2)[:, 0]
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
    x = torch.randn(6, 5).t()
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight))
    assert len(calls) == 2


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
    compiled = torch.compile(Linear(6, 4), backend="eager", fullgraph=True)
    same(compiled(x), F.linear(x, compiled.weight, compiled.bias))
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
    assert len(calls) == 1


@needs_onednn
def test_a_model_learns_the_same_by_either_library(calls, monkeypatch):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=50, intermediate_size=40, **sizes)
    model = BertForMaskedLM(config).train()
    ids = torch.randint(5, 50, (3, 9))
    found = []
    for preferred in (True, False):
        monkeypatch.setattr(module, "prefers_onednn", lambda preferred=preferred: preferred)
        model.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss = model.loss(ids, labels=ids)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
        # Six maps a layer and two of the head, forward and twice backward, two of these by MKL.
        assert len(calls) >= 2 * (2 * 6 + 2)
    torch.testing.assert_close(found[0], found[1])


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
    monkeypatch.setattr(module, "onednn_linear", lambda x, weight, bias: F.linear(x, weight))
    assert not works(torch.float32)
    forgetful = lambda x, weight, bias: F.linear(x, weight.t().reshape(weight.shape), bias)  # noqa: E731
    monkeypatch.setattr(module, "onednn_linear", forgetful)  # which takes no strides
    assert not works(torch.float32)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    monkeypatch.undo()
    assert not works(torch.float64)

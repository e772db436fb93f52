"""The dispatch guards; the tests of each technique test most of what they exclude."""

import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from minitransformer.fast import dispatch
from minitransformer.fast.dispatch import (
    has_no_hooks,
    is_plain_eager,
    is_plain_eager_cpu,
    is_reverse_mode_only,
)


@pytest.fixture(autouse=True)
def onednn_on(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)


def both(*tensors):
    """Both guards, which differ only in the device and oneDNN."""
    answers = {is_plain_eager(*tensors), is_plain_eager_cpu(*tensors)}
    assert len(answers) == 1
    return answers.pop()


def test_plain_tensors_and_parameters_are_plain():
    x = torch.ones(2, 3)
    assert both(x) and both(x, None, nn.Parameter(x)) and both(x[:, 1:].t()) and both()
    with torch.inference_mode():
        assert both(torch.ones(2))


class Own(torch.Tensor):
    """A user's tensor subclass, which may redefine operations."""


def test_tensors_of_other_kinds_are_not():
    x = torch.ones(2, 3)
    assert not both(x.as_subclass(Own))
    assert not both(x[:0])
    assert not both(x.to("meta"))
    with warnings.catch_warnings(action="ignore"):
        assert not both(x.to_sparse_csr())
        assert not both(torch.nested.nested_tensor([x, x]))
    with FakeTensorMode():
        assert not both(torch.ones(2))
    assert not both(x, x.as_subclass(Own))


def test_what_observes_or_transforms_operations(monkeypatch):
    x, seen = torch.ones(2, 3), []

    def look(tensor):
        seen.append(both(tensor))
        return tensor.sum()

    look(x)
    torch.vmap(look)(x)
    torch.func.grad(look)(x)
    torch.func.jvp(look, (x,), (x,))
    with warnings.catch_warnings(action="ignore"):
        torch.jit.trace(look, x, check_trace=False)
    with FlopCounterMode(display=False):
        look(x)
    with forward_ad.dual_level():
        look(forward_ad.make_dual(x, x))
        look(x)
    torch.autograd.functional.jacobian(lambda t: look(t) * t, x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    look(x)
    assert seen == [True, *[False] * 7, True, False]


def test_a_batch_of_gradients_is_not_plain():
    seen = []

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(_, x):
            return x * 1

        @staticmethod
        def backward(_, gradient):
            seen.append(both(gradient))
            return gradient

    with warnings.catch_warnings(action="ignore"):
        torch.autograd.functional.jacobian(Backward.apply, torch.ones(3), vectorize=True)
    assert seen == [False]


def test_autocast_is_for_the_caller_to_handle():
    x = torch.ones(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert not both(x)
        assert is_plain_eager(x, under_autocast=True)
    with torch.autocast("cpu", enabled=False):
        assert both(x)


def test_one_guard_needs_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert is_plain_eager(torch.ones(2))
    assert not is_plain_eager_cpu(torch.ones(2))


@pytest.mark.cuda
def test_a_device_is_no_cpu_and_a_capture_no_plain_call():
    x = torch.ones(2, device="cuda")
    assert is_plain_eager(x) and not is_plain_eager_cpu(x)
    with torch.autocast("cuda"):
        assert not is_plain_eager(x)
        assert is_plain_eager(torch.ones(2))
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        inside = is_plain_eager(x)
        x.mul_(2)
    assert not inside


def test_hooks_of_every_kind_and_a_replaced_forward():
    module, other = nn.Linear(2, 2), nn.Identity()
    assert has_no_hooks() and has_no_hooks(module, other)
    for register in (
        module.register_forward_hook,
        module.register_forward_pre_hook,
        module.register_full_backward_hook,
        module.register_full_backward_pre_hook,
    ):
        hook = register(lambda *_: None)
        assert not has_no_hooks(other, module) and has_no_hooks(other)
        hook.remove()
        assert has_no_hooks(other, module)
    for register in (
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_full_backward_hook,
    ):
        hook = register(lambda *_: None)
        assert not has_no_hooks(other)
        hook.remove()
    module.forward = lambda x: x
    assert not has_no_hooks(module)


def test_without_a_private_function_of_pytorch_no_guard_passes(monkeypatch):
    x = torch.ones(2)
    absent = dispatch._private(torch._C, "_no_such_name")
    for name in ("_in_functorch_transform", "_in_dispatch_mode", "_is_batched"):
        with monkeypatch.context() as patched:
            patched.setattr(dispatch, name, absent)
            assert not both(x)
    monkeypatch.setattr(dispatch, "_has_global_hook", absent)
    assert not has_no_hooks(nn.Identity())
    monkeypatch.delattr(forward_ad, "_current_level")
    assert not is_reverse_mode_only()

"""Who is given PyTorch's own operations; most of them are tried where the shortcuts are."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from minitransformer.layers import shortcuts
from minitransformer.layers.kernels import PackedAttention, SdpaAttention
from minitransformer.layers.packing import PackedMask, Packing


def test_a_pytorch_without_a_private_name_takes_no_shortcut(monkeypatch):
    x = torch.ones(2)
    assert shortcuts.only_autograd_follows(x) and shortcuts.nobody_listens(nn.Identity())
    absent = shortcuts._asked_of_pytorch(torch._C, "_no_such_name")
    for name in ("_transforms_are_active", "_operations_are_followed", "is_batched"):
        with monkeypatch.context() as patched:
            patched.setattr(shortcuts, name, absent)
            assert not shortcuts.only_autograd_follows(x)
    monkeypatch.setattr(shortcuts, "_all_modules_have_hooks", absent)
    assert not shortcuts.nobody_listens(nn.Identity())
    monkeypatch.delattr(forward_ad, "_current_level")
    assert not shortcuts.only_backward_derives()


@pytest.mark.parametrize("kind", [SdpaAttention, PackedAttention])
def test_attention_with_dropout_can_be_derived_by_transforms(kind):
    """PyTorch's own then; the pieces know `backward` alone."""
    kernel = kind(dropout=1e-9).train()  # so rare that nothing is dropped
    tensors = [torch.randn(1, 2, 3, 4) for _ in range(3)]
    rows = Packing(torch.tensor([[True, False], [True, True]]))
    mask = PackedMask(rows, rows) if kind is PackedAttention else None

    def total(query):
        return kernel(query, *tensors[1:], mask).pow(2).sum()

    query = tensors[0].clone().requires_grad_()
    total(query).backward()
    found = torch.func.grad(total)(tensors[0])
    torch.testing.assert_close(found, query.grad)
    direction = torch.randn_like(query)
    _, slope = torch.func.jvp(total, (tensors[0],), (direction,))
    torch.testing.assert_close(slope, (query.grad * direction).sum())

"""New models are plain PyTorch; test_pytorch_tools.py tests the consequences."""

from collections import Counter

import pytest
from torch import nn

import minitransformer
from tests.tiny import CLASSES, new

every_class = pytest.mark.parametrize("name", CLASSES)
PLAIN = (nn.Linear, nn.Embedding, nn.Dropout)


def check_plain(model: nn.Module) -> None:
    """That each module is PyTorch's own or of layers/ and models/, and has no hook."""
    counts = Counter(kind for module in model.modules() for kind in PLAIN if type(module) is kind)
    assert min(counts[kind] for kind in PLAIN) > 0
    for name, module in model.named_modules():
        for kind in PLAIN:
            assert not isinstance(module, kind) or type(module) is kind, name
        home = type(module).__module__
        assert home.startswith(("torch.nn.", "minitransformer.layers.", "minitransformer.models."))
        assert not module._forward_hooks and not module._forward_pre_hooks, name
        assert "forward" not in vars(module), name


def test_every_class_is_tried():
    exported = [getattr(minitransformer, name) for name in minitransformer.__all__]
    classes = {e for e in exported if isinstance(e, type) and issubclass(e, nn.Module)}
    assert {type(new(name)) for name in CLASSES} == classes


@every_class
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_constructors_give_plain_modules(name, attention):
    check_plain(new(name, attention))


@every_class
def test_so_does_from_pretrained(name, tmp_path):
    model = new(name)
    model.save_pretrained(tmp_path)
    check_plain(minitransformer.from_pretrained(tmp_path))

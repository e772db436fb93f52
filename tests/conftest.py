"""What every test shares: one seed, one thread, hypothesis without chance, CUDA by marker."""

import pytest
import torch
from hypothesis import settings

from minitransformer import layers

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("repeatable")
torch.set_num_threads(1)  # tiny tensors gain nothing from more


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def dropout_as_pytorch_draws_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed drops the same numbers here and in transformers."""

    def kept(shape: torch.Size, probability: float) -> tuple[torch.Tensor, float]:
        return torch.empty(shape).bernoulli_(1 - probability).bool(), 1 / (1 - probability)

    for module in (layers.dropout, layers.piecewise_attention):
        monkeypatch.setattr(module, "kept", kept)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))

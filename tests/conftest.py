"""What every test shares: one seed, one thread, hypothesis without chance, CUDA by marker.

`pytest --without-onednn` runs the tests as on a processor for which PyTorch has no oneDNN.
"""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("repeatable")
torch.set_num_threads(1)  # tiny tensors gain nothing from more


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-onednn", action="store_true", help="turn oneDNN off in PyTorch")


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    if not session.config.option.without_onednn:
        return (yield)
    with torch.backends.mkldnn.flags(enabled=False):
        return (yield)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))

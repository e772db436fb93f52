"""What the documentation shows is what its code prints."""

import re
from pathlib import Path

import pytest
import torch

from tests.pages import run_page

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def torch_as_it_was():
    """A page may change how tensors are printed, and switch gradients off."""
    yield
    torch.set_grad_enabled(True)
    torch.set_printoptions(profile="default")


@pytest.mark.slow
def test_one_sentence_prints_what_the_page_shows(torch_as_it_was):
    page = (DOCS / "one_sentence.md").read_text(encoding="utf-8")
    assert run_page(page) == page, "python -m tests.pages docs/one_sentence.md writes it anew"


def test_the_reading_order_leaves_no_layer_out():
    page = (DOCS / "reading_order.md").read_text(encoding="utf-8")
    layers = [path.name for path in (DOCS.parent / "minitransformer" / "layers").glob("[a-z]*.py")]
    assert [name for name in layers if f"(../minitransformer/layers/{name})" not in page] == []


def test_a_page_that_shows_something_else_is_found():
    page = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n\nand\n\n```python\nx = 1\n```\n"
    assert run_page(page) == re.sub("3", "2", page)

"""The README's table is what the parity tests measure."""

import re

import pytest
import torch

pytest.importorskip("transformers", reason="parity needs transformers")

from minitransformer.hf.config import FAMILIES
from minitransformer.parity import TOLERANCE
from tests import parity_table


def cells(table: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines()]


def test_every_class_that_can_be_loaded_is_measured():
    measured = {
        name.removesuffix(" 1.1")
        for names in parity_table.classes_by_family().values()
        for name in names
    }
    known = {model.__name__ for family in FAMILIES.values() for model in family.models}
    assert measured == known


@pytest.mark.slow
def test_the_readme_shows_what_is_measured():
    """Rounding differs from machine to machine; names and tasks do not."""
    shown = cells(parity_table.shown(parity_table.README.read_text(encoding="utf-8")))
    measured = cells(parity_table.table())
    assert [row[:3] for row in shown] == [row[:3] for row in measured], (
        "python -m tests.parity_table writes it anew"
    )
    for row, again in zip(shown[2:], measured[2:], strict=True):
        *single, double = [float(cell) for cell in row[3:]]
        assert len(single) == 4
        assert max(single) <= TOLERANCE[torch.float32]
        assert double <= TOLERANCE[torch.float64]
        for one, other in zip(row[3:], map(float, again[3:]), strict=True):
            # A loss may be equal to the last bit on one machine and not on another.
            assert float(one) == 0 or other == 0 or 1 / 30 < float(one) / other < 30, (row, again)


def test_each_comparison_belongs_to_one_column():
    names = ["encoder_attentions[0]", "cross_attentions[1]", "start_logits", "gradient of loss.x"]
    kinds = [
        kind
        for name in names
        for kind, pattern in parity_table.KINDS.items()
        if re.match(pattern, name)
    ]
    assert kinds == ["maps", "maps", "states, logits", "gradients"]

"""How much of the package a reader meets who follows one call through it.

Counted on the second of two equal calls, of tiny models on the CPU: the files that ran, the lines
of the functions that ran with their docstrings, and the lines that were executed.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest
import torch

import minitransformer
from minitransformer import RobertaForMaskedLM, generate
from minitransformer.layers.attention import MultiHeadAttention
from tests import tiny
from tests.tiny import batch_of, roberta_config

PACKAGE = str(Path(minitransformer.__file__).parent)


class Journey(NamedTuple):
    """What a call ran through, as sets of (file, line)."""

    of_functions: set[tuple[str, int]]  # lines of the functions that ran
    executed: set[tuple[str, int]]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Files, lines of functions, executed lines."""
        return len({file for file, _ in self.of_functions}), *map(len, self)

    def __str__(self) -> str:
        functions, executed = (Counter(file for file, _ in lines) for lines in self)
        lines = [
            f"{functions[file]:6}{executed[file]:6}  {file.removeprefix(PACKAGE)[1:]}"
            for file in sorted(functions)
        ]
        total = "files, lines of functions, executed lines: {}, {}, {}".format(*self.counts)
        return "\n".join([total, *lines])


def lines_of(code: CodeType) -> range:
    """From the first line of a function, decorators included, to its last."""
    return range(code.co_firstlineno, max(line for *_, line in code.co_lines() if line) + 1)


def journey(call: Callable[[], Any]) -> Journey:
    """What the second of two equal calls runs through, within the package."""
    codes: set[CodeType] = set()
    executed: set[tuple[str, int]] = set()

    def note_line(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            executed.add((frame.f_code.co_filename, frame.f_lineno))
        return note_line

    def note_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        codes.add(frame.f_code)
        return note_line

    call()
    before = sys.gettrace()
    sys.settrace(note_call)
    try:
        call()
    finally:
        sys.settrace(before)
    return Journey({(code.co_filename, n) for code in codes for n in lines_of(code)}, executed)


def attention_layer(attention: str) -> Callable[[], Any]:
    layer = MultiHeadAttention(12, 3, dropout=0.1, attention=attention).train()
    hidden, mask = torch.randn(2, 5, 12), torch.ones(2, 1, 1, 5, dtype=torch.bool)
    return lambda: layer(hidden, hidden, mask)


def masked_language_model() -> Callable[[], Any]:
    model = RobertaForMaskedLM(roberta_config(hidden_dropout_prob=0.1)).train()
    batch = batch_of([9, 4])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    labels = ids.masked_fill(mask == 0, -100)
    return lambda: model(ids, attention_mask=mask, labels=labels)


def generating() -> Callable[[], Any]:
    model: Any = tiny.new("T5ForConditionalGeneration")
    source, mask = tiny.pad([tiny.random_ids(6), tiny.random_ids(4)], 0)

    def call() -> None:
        output = generate(model, source, attention_mask=mask, max_new_tokens=5)
        assert output.num_new_tokens.max() == 5

    return call


@pytest.mark.parametrize(
    ("make", "bounds"),
    [
        pytest.param(lambda: attention_layer("sdpa"), (1, 100, 30), id="attention, sdpa"),
        pytest.param(lambda: attention_layer("eager"), (1, 100, 30), id="attention, eager"),
        pytest.param(masked_language_model, (9, 520, 150), id="RobertaForMaskedLM"),
        pytest.param(generating, (16, 1150, 400), id="generate, T5"),
    ],
)
def test_a_call_runs_through_no_more_than(make, bounds):
    found = journey(make())
    assert found.executed  # of the package that is measured, not of another
    for count, bound in zip(found.counts, bounds, strict=True):
        assert count <= bound, str(found)


def test_what_is_counted():
    """All 17 lines of a function count, once, though only some of them ran."""
    call = attention_layer("sdpa")
    found = journey(call)
    assert journey(call) == found
    file = f"{PACKAGE}/layers/attention.py"
    source = Path(file).read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(source, 1) if line.startswith("def sdpa_attention"))
    returns = [n for n, line in enumerate(source, 1) if line.startswith("    return attended, w")]
    end = next(n for n in returns if n > start)
    assert {(file, n) for n in range(start, end + 1)} <= found.of_functions
    assert (file, start - 1) not in found.of_functions
    assert (file, end) in found.executed
    assert (file, start) not in found.executed  # nor is its docstring
    assert found.executed < found.of_functions

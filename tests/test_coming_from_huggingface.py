"""Every line of "Coming from Hugging Face" runs in both libraries, and gives the same."""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.pages import FENCE, ROOT, printed, table_rows
from tests.tiny import BART, MARIAN, T5, save_checkpoint, tokenizer_of

PAGE = (ROOT / "docs" / "coming_from_huggingface.md").read_text(encoding="utf-8")

# The checkpoints that the page names, and fields of their configs.
CLASSES = dict(enumerate(["contradiction", "neutral", "entailment"]))
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base-uncased": ("BertForMaskedLM", {}),
    "roberta-base": ("RobertaForMaskedLM", {}),
    "distilbert-base-uncased": ("DistilBertForMaskedLM", {}),
    "distilbert-base-uncased-distilled-squad": ("DistilBertForQuestionAnswering", {}),
    "distilbert-base-uncased-finetuned-sst-2-english": (
        "DistilBertForSequenceClassification",
        {"id2label": {0: "NEGATIVE", 1: "POSITIVE"}},
    ),
    "dslim/bert-base-NER": (
        "BertForTokenClassification",
        {"id2label": {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}},
    ),
    "facebook/bart-large-mnli": ("BartForSequenceClassification", {"id2label": CLASSES}),
    "facebook/bart-large-cnn": (BART, {}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "t5-small": (T5, {}),
    "Helsinki-NLP/opus-mt-en-it": (MARIAN, {"codes": ()}),
}


class Row(NamedTuple):
    """A line of code in both libraries."""

    theirs: str
    ours: str
    mark: str  # "†": not in transformers 5; "‡": not run there


def steps(page: str) -> Iterator[Row | str]:
    """The rows of the page's tables and its blocks of Python, in their order."""
    for part in re.split(r"(^```python\n.*?^```\n)", page, flags=re.MULTILINE | re.DOTALL):
        if (block := FENCE.fullmatch(part)) is not None:
            yield block["code"]
            continue
        for left, right in table_rows(part):
            theirs, mark = re.fullmatch(r"`([^`]+)` ?(†|‡|)", left).groups()
            ours = theirs if right == "the same" else re.fullmatch(r"`([^`]+)`", right)[1]
            yield Row(theirs, ours, mark)


def value(code: str, names: dict[str, Any]) -> Any:
    """Run statements, and give the value of the last one if it is an expression."""
    *statements, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        return exec(code, names)
    exec(compile(ast.Module(statements, []), code, "exec"), names)
    return eval(compile(ast.Expression(last.value), code, "eval"), names)


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal structures and strings, and equal numbers up to rounding; objects are not compared."""
    if isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    elif isinstance(theirs, Mapping):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert_same(ours[name], theirs[name])
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
    elif isinstance(theirs, float | np.floating):
        assert ours == pytest.approx(float(theirs), rel=1e-4, abs=1e-4)
    elif isinstance(theirs, str | int | torch.dtype | torch.device):
        assert ours == theirs


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory with the page's checkpoints."""
    path = tmp_path_factory.mktemp("hub")
    for name, (model, fields) in CHECKPOINTS.items():
        save_checkpoint(path / name, model, **fields)
        file = path / name / "tokenizer_config.json"
        settings = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(settings | {"model_max_length": 40}), encoding="utf-8")
    (path / "filiberto").mkdir()
    tokenizer = tokenizer_of("Roberta", path / "filiberto")
    tokenizer.backend.model.save(str(path / "filiberto"))
    tokenizer.backend.save(str(path / "filiberto.json"))
    return path


def check(step: Row | str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Run a row or a block in both libraries, and compare what they give or print."""
    if isinstance(step, str):
        torch.manual_seed(0)
        expected = printed(step.replace("minitransformer", "transformers"), theirs)
        torch.manual_seed(0)
        assert printed(step, ours) == expected
        return
    found = value(step.ours, ours)
    if step.mark == "†":
        with pytest.raises((ImportError, AttributeError, KeyError, TypeError, NameError)):
            value(step.theirs, theirs)
    elif not step.mark:
        expected = value(step.theirs, theirs)
        if ".save_pretrained(" not in step.ours:  # theirs returns the names of files
            assert_same(found, expected)


@pytest.mark.filterwarnings("ignore")
def test_every_row_runs_in_both_libraries_and_gives_the_same(directory, monkeypatch):
    pytest.importorskip("transformers", reason="the left side of the page")
    monkeypatch.chdir(directory)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    found = list(steps(PAGE))
    assert len(found) > 120
    for step in found:
        try:
            check(step, ours, theirs)
        except BaseException as error:
            error.add_note(f"in {step}")
            raise


@pytest.mark.parametrize(
    "row",
    [
        "| `1.0` | `1.1` |",
        "| `[1, 2]` | `[1]` |",
        "| `{'a': 'b'}` | `{'a': 'c'}` |",
        "| `torch.zeros(2)` | `torch.ones(2)` |",
        "| `nonsense` | the same |",
        "| `1` † | the same |",
        "```python\nimport minitransformer\nprint(minitransformer.__version__)\n```",
    ],
)
def test_a_row_that_gives_something_else_is_found(row):
    [step] = steps(f"| a | b |\n| --- | --- |\n{row}\n")
    with pytest.raises((AssertionError, NameError, pytest.fail.Exception)):
        check(step, {"torch": torch}, {"torch": torch})

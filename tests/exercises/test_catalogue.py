"""The promises of the catalogue, for every exercise: each mistake is caught and named, alone and
beside another one; correct solutions of any style are accepted; templates give nothing away."""

import ast
import importlib.util
import itertools
import re
from pathlib import Path

import pytest

from minitransformer.exercises import EXERCISES, checking, runner
from minitransformer.exercises.checking import are_independent, judge, wrong_outcome
from minitransformer.exercises.models import MODEL_MISTAKES

ROOT = Path(__file__).parents[2]
SOLUTIONS = sorted((Path(__file__).parent / "solutions").glob("*/*.py"))

every_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=[*EXERCISES])


def report_of(exercise, *mistakes):
    cases = list(exercise.cases())
    outcomes = [checking.wrong_outcome(exercise, mistakes, case) for case in cases]
    return judge(exercise, cases, outcomes)


@pytest.fixture
def outcomes_are_kept(monkeypatch):
    """What a wrong version gives in a case is computed once, however many it is compared with."""
    kept = {}

    def wrong_outcome_once(exercise, mistakes, case):
        key = exercise.name, tuple(m.name for m in mistakes), case.label, case.gradients
        if key not in kept:
            kept[key] = wrong_outcome(exercise, mistakes, case)
        return kept[key]

    monkeypatch.setattr(checking, "wrong_outcome", wrong_outcome_once)


@every_exercise
@pytest.mark.usefixtures("outcomes_are_kept")
def test_every_mistake_is_caught_and_named(exercise):
    assert len({case.label for case in exercise.cases()}) == len([*exercise.cases()])
    named = {
        mistake.name: [[m.name for m in each] for each in report_of(exercise, mistake).mistakes]
        for mistake in exercise.mistakes
    }
    assert named == {name: [[name]] for name in named}


@every_exercise
def test_without_a_mistake_the_steps_are_right(exercise):
    assert report_of(exercise).passed


@pytest.mark.slow
@every_exercise
@pytest.mark.usefixtures("outcomes_are_kept")
def test_two_mistakes_at_once_are_named(exercise):
    case = next(iter(exercise.cases()))
    pairs = itertools.combinations(exercise.mistakes, 2)
    pairs = [pair for pair in pairs if are_independent(exercise, pair, case)]
    for pair in pairs[:: 1 + len(pairs) // 4]:
        found = report_of(exercise, *pair).mistakes
        # One may hide the other: without a softmax, its axis does not matter.
        assert pair in found or any(len(each) == 1 for each in found), [m.name for m in pair]


@pytest.mark.parametrize(
    "mistakes",
    [*(exercise.mistakes for exercise in EXERCISES.values()), MODEL_MISTAKES],
    ids=[*EXERCISES, "models"],
)
def test_what_a_student_is_told_is_complete(mistakes):
    names = [mistake.name for mistake in mistakes]
    assert len({*names}) == len(names) >= 4
    for mistake in mistakes:
        assert mistake.reason.endswith("."), mistake.name
        assert mistake.line.file.endswith(".py")
        lines = (ROOT / mistake.line.file).read_text(encoding="utf-8").splitlines()
        assert lines[mistake.line.line - 1].strip() == mistake.line.text
        assert mistake.read.splitlines()[0].strip() in mistake.line.text


@every_exercise
def test_a_template_stands_alone_and_has_no_solution(exercise):
    text = exercise.template_text()
    [definition] = [
        node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert definition.name == exercise.target
    assert ast.get_docstring(definition)
    names: dict[str, object] = {}
    exec(compile(text, exercise.file_name, "exec"), names)
    case = next(iter(exercise.cases()))
    assert runner.evaluate(names[exercise.target], case).error.startswith("NotImplementedError")


def test_the_guide_shows_lines_and_code_that_are_there():
    guide = (ROOT / "docs" / "exercises.md").read_text(encoding="utf-8")
    shown = re.findall(r"^  (minitransformer/\S+):(\d+): (.*)$", guide, re.MULTILINE)
    assert len(shown) >= 2
    for file, number, text in shown:
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        assert lines[int(number) - 1].strip().startswith(text.removesuffix("...").strip())
    [code] = re.findall(r"^@SCALED_DOT.*?(?=^```)", guide, re.MULTILINE | re.DOTALL)
    code = re.sub("  # the line of the reference to read", "", code)
    attention = ROOT / "minitransformer" / "exercises" / "attention.py"
    assert code in attention.read_text(encoding="utf-8")


def test_the_catalogue_is_as_large_as_the_docs_say():
    assert len(EXERCISES) >= 25
    assert sum(len(exercise.mistakes) for exercise in EXERCISES.values()) >= 150
    assert len(SOLUTIONS) >= 50


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_correct_solution_is_accepted(path):
    [exercise] = [e for e in EXERCISES.values() if e.file_name == f"{path.parent.name}.py"]
    runner.check_imports(path)
    spec = importlib.util.spec_from_file_location("solution", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases = list(exercise.cases())
    target = getattr(module, exercise.target)
    report = judge(exercise, cases, [runner.evaluate(target, case) for case in cases])
    assert report.passed, report.text()

"""A solution's file: what the report says of it, whatever the file does."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from minitransformer.cli import main
from minitransformer.exercises import check, find
from minitransformer.exercises.checking import (
    are_independent,
    first_difference,
    judge,
    wrong_outcome,
)
from minitransformer.exercises.exercise import Exercise
from minitransformer.exercises.runner import Case, Outcome

HEAD = "import torch\n\n\ndef softmax(scores):\n"
RIGHT = HEAD + "    return torch.softmax(scores, dim=-1)\n"


def checked(tmp_path, text, name="softmax", **settings):
    path = tmp_path / "solution.py"
    path.write_text(text, encoding="utf-8")
    return check(find(name), path, **settings)


def test_a_right_solution_passes_and_is_reported(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(RIGHT)
    assert main(["exercise", "check", str(path)]) == 0
    out = capsys.readouterr().out
    count = len([*find("softmax").cases()])
    told = f"It gives what the reference gives for all {count} inputs."
    assert out == f"softmax: right ({path})\n{told}\n"


def test_a_mistake_is_named_with_its_reason_and_the_lines_to_read(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(HEAD + "    return scores.exp() / scores.exp().sum(-1, keepdim=True)\n")
    assert main(["exercise", "check", str(path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    [report] = document["reports"]
    assert not document["passed"] and not report["passed"]
    assert report["case"] == "large scores"
    assert report["difference"]["yours"] == "nan"
    [[mistake]] = report["mistakes"]
    assert mistake["name"] == "no shift"
    assert mistake["read"]["text"] == "return scores - scores.amax(dim=-1, keepdim=True)"


MULTI_HEAD = """
from torch import nn


class MultiHeadAttention(nn.Module):
    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.heads = num_heads
        for name in ("query", "key", "value", "output"):
            self.add_module(name, nn.Linear(hidden_size, hidden_size))

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, hidden, context, mask):
        query = self.split(self.query(hidden))
        key, value = self.split(self.key(context)), self.split(self.value(context))
        scores = query @ key.mT
        if mask is not None:
            scores = scores.masked_fill(mask, -float("inf"))
        return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
"""


def test_mistakes_of_the_first_inputs_are_named_where_there_are_more(tmp_path):
    report = checked(tmp_path, MULTI_HEAD, "multi-head-attention")
    assert [[m.name for m in each] for each in report.mistakes] == [
        ["no scale", "no output projection"]
    ]
    assert report.notes == (
        "This explains the first inputs alone; there is more. Fix it and check again.",
    )


def test_three_mistakes_at_once_are_named(tmp_path):
    text = MULTI_HEAD.replace("(scores.softmax", "self.output((scores.softmax")
    text = text.replace(".flatten(2)", ".flatten(2))").replace("key.mT", "key.mT / key.shape[-1]")
    report = checked(tmp_path, text, "multi-head-attention")
    assert [[m.name for m in each] for each in report.mistakes] == [
        ["scale by D", "mask inverted", "weights of queries without a key"]
    ]
    assert "\nThree mistakes:\n- The scores are divided by D;" in report.text()


@pytest.mark.parametrize(
    ("body", "note", "names"),
    [
        ("scores.softmax(-1)", "It returns None; is a `return` missing?", []),
        ("return scores.float().softmax(-1).to(scores.dtype)",
         "What differs is as small as rounding to float32.", []),
        ("return scores.softmax(-1, dtype=torch.float32)",
         "A result is torch.float32 where it should be torch.float64;", []),
        ("e = (scores - scores.amax(-1, keepdim=True)).exp2()\n"
         "    return (e / e.sum(-1, keepdim=True)).float()",
         "A result is torch.float32 where it should be torch.float64;", ["powers of two"]),
    ],
)  # fmt: skip
def test_what_is_wrong_whatever_the_exercise_is_said(body, note, names, tmp_path):
    report = checked(tmp_path, f"{HEAD}    {body}\n")
    assert not report.passed
    assert [text.startswith(note) for text in report.notes] == [True], report.text()
    assert report.notes[0] in report.text() and "none of the known" not in report.text()
    assert [m.name for mistakes in report.mistakes for m in mistakes] == names


def test_numbers_that_differ_are_shown_so_that_they_differ(tmp_path):
    report = checked(tmp_path, HEAD + "    return scores.float().softmax(-1).to(scores.dtype)\n")
    assert report.difference.yours != report.difference.reference


def test_what_is_in_no_catalogue_is_said_to_be_unknown(tmp_path):
    report = checked(tmp_path, HEAD + "    return scores.softmax(-1) + 0.125\n")
    assert report.mistakes == ()
    assert report.difference.where == "result[0, 0]"
    assert "none of the known mistakes" in report.text()
    assert "\nAlso wrong: two rows; " in report.text()
    assert "yours      0.39394142\n    reference  0.26894142" in report.text()


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (
            "from minitransformer.layers import attention\n" + RIGHT,
            "Not run: line 1 of solution.py imports minitransformer.layers, which has the answer; "
            "write it yourself.",
        ),
        (
            "import subprocess\n" + RIGHT,
            "Not run: line 1 of solution.py imports subprocess, which a solution does not need; it "
            "may import torch, numpy, Python's own modules without network and processes, and your "
            "own files beside it.",
        ),
        (
            "__import__('transformers')\n" + RIGHT,
            "Not run: it imports transformers, which has the answer; write it yourself.",
        ),
        (HEAD + "    return (\n", "Not run: line 5 of solution.py is not Python: '(' was never "
         "closed."),
        ("raise SystemExit(0)\n", "Not run: solution.py ends the process when it is imported."),
        ("1 / 0\n", "Not run: solution.py cannot be imported: ZeroDivisionError: division by zero "
         "(line 1)."),
        ("softmx = 1\n", "Not run: solution.py has no function or class softmax."),
        ("from . import helpers\n", "Not run: line 1 of solution.py should be: import helpers."),
        (HEAD + "    __import__('transformers')\n",
         "Not run: it imports transformers, which has the answer; write it yourself."),
    ],
    ids=["package", "process", "dynamic", "syntax", "exit", "error", "name", "relative", "later"],
)  # fmt: skip
def test_a_file_that_cannot_be_run_is_one_sentence(text, failure, tmp_path):
    assert checked(tmp_path, text).failure == failure


def test_a_file_that_does_not_end_is_one_sentence(tmp_path):
    text = HEAD + "    while scores.numel() > 3:\n        pass\n    return scores.softmax(-1)\n"
    report = checked(tmp_path, text, time_limit=12)
    # A slow machine may need that long to import torch.
    places = "in the case: two rows", "before the first result"
    told = [f"It had not ended after 12 s, {place}; does a loop never end?" for place in places]
    assert report.failure in told


def test_a_file_that_ends_the_process_is_one_sentence(tmp_path):
    crash = "    if scores.numel() > 3:\n        torch.os._exit(3)\n    return scores.softmax(-1)\n"
    report = checked(tmp_path, HEAD + crash)
    assert report.failure == ("The process ended with status 3 in the case: two rows.")
    told = "    import sys\n    print('row ' * 999, '\\nFatal: no rows', file=sys.stderr)\n"
    report = checked(tmp_path, HEAD + told + "    torch.os._exit(3)\n")
    assert report.failure.endswith("before the first result (Fatal: no rows).")
    exits = checked(tmp_path, HEAD + "    exit()\n")
    assert exits.difference.yours == (
        "SystemExit: your code ends the process; it should return its result (line 5)"
    )


def test_an_error_is_explained_by_the_same_error_alone():
    for name in ("multi-head-attention", "merge-heads"):  # some of whose mistakes end in errors
        cases = [*find(name).cases()]
        report = judge(
            find(name), cases, [Outcome(error="RuntimeError: mine (line 3)")] * len(cases)
        )
        assert not report.passed and report.mistakes == ()
        assert "The call ends in an error; fix that first." in report.text()
    assert not first_difference(cases[0], Outcome(error="A: b (line 3)"), Outcome(error="A: b"))


def test_a_result_that_is_too_long_is_no_question_of_dtypes():
    exercise = find("mask-tokens")
    cases = [*exercise.cases()]
    right = [wrong_outcome(exercise, (), case) for case in cases]
    outcomes = [replace(outcome, value=[*outcome.value, 0]) for outcome in right]
    report = judge(exercise, cases, outcomes)
    assert report.difference.where == "the length of the result"
    assert report.notes == ()


def test_mistakes_that_replace_different_steps_are_preferred():
    class Steps:
        a = b = 1

        def __call__(self):
            return [self.a, self.b]

    def answer():
        raise NotImplementedError

    exercise = Exercise(
        answer, Steps, Steps, lambda: [Case("", {}, gradients=False)], "two numbers"
    )

    @exercise.mistake("a = b = 1")
    def both(steps):
        steps.a, steps.b = 9, 3

    @exercise.mistake("a = b = 1")
    def first(steps):
        steps.a = 2

    @exercise.mistake("a = b = 1")
    def second(steps):
        steps.b = 3

    report = judge(exercise, [*exercise.cases()], [Outcome(value=[2, 3])])
    assert [[m.name for m in each] for each in report.mistakes] == [["first", "second"]]


@pytest.mark.parametrize("name", ["scaled-dot-product-attention", "encoder-layer"])
def test_mistakes_in_one_step_are_not_independent(name):
    exercise = find(name)
    case = next(iter(exercise.cases()))
    mistakes = {mistake.name: mistake for mistake in exercise.mistakes}
    one, same = mistakes["no scale"], mistakes["scale by all heads"]
    assert not are_independent(exercise, (one, same), case)
    assert are_independent(exercise, (one, mistakes["mask inverted"]), case)


def test_a_check_leaves_the_random_numbers_of_its_caller():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    exercise = find("merge-heads")
    cases = [*exercise.cases()]
    judge(exercise, cases, [Outcome(value=None) for _ in cases])
    assert torch.equal(torch.rand(3), expected)


def test_what_the_library_returns_beside_a_result_is_not_expected_of_students(tmp_path):
    report = checked(tmp_path, HEAD + "    return scores.softmax(-1), None\n")
    assert not report.passed


def test_a_parameter_that_is_a_buffer_is_said_to_be_missing(tmp_path):
    buffer = "        bias = self.query.bias.detach()\n        del self.query.bias\n"
    buffer += "        self.query.register_buffer('bias', bias)\n\n    def split"
    text = MULTI_HEAD.replace("\n    def split", buffer, 1)
    report = checked(tmp_path, text, "multi-head-attention")
    assert report.difference.yours.startswith("ValueError: the parameter query.bias is missing")


def test_a_warning_is_nothing_printed(tmp_path):
    text = "import warnings\n" + RIGHT + "\nwarnings.warn('slow')\n"
    report = checked(tmp_path, text)
    assert report.passed and report.printed == ""


def test_a_file_is_checked_for_the_exercise_that_it_is_named_after(tmp_path, capsys):
    (tmp_path / "softmax.py").write_text(RIGHT + "\n\ndef split_heads(x):\n    return x\n")
    (tmp_path / "gelu.py").write_text(
        "import torch\n\ngelu = lambda x: torch.nn.functional.gelu(x)\n"
    )
    assert main(["exercise", "check", str(tmp_path), "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)["reports"]
    assert [report["exercise"] for report in reports] == ["softmax", "gelu"]
    (tmp_path / "gelu.py").write_text("gelu = (\n")
    assert main(["exercise", "check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("softmax: right") and "gelu.py is not Python: '(' was never closed" in out


def test_what_a_file_prints_does_not_reach_the_report(tmp_path, capfd):
    text = RIGHT + "\nprint('{\"passed\": true}', flush=True)\nprint('x' * 10**6)\n"
    report = checked(tmp_path, text)
    assert report.passed
    assert report.printed.startswith('{"passed": true}\nxxx') and len(report.printed) <= 1000
    assert "Your code prints, which a solution should not" in report.text()
    assert capfd.readouterr().out == ""


def test_the_parameters_of_a_class_have_the_names_of_the_template(tmp_path):
    text = (
        "from torch import nn\n\n\nclass MultiHeadAttention(nn.Module):\n"
        "    def __init__(self, size, heads):\n        super().__init__()\n"
        "        self.q = nn.Linear(size, size)\n"
    )
    report = checked(tmp_path, text, "multi-head-attention")
    assert report.difference.yours.startswith("ValueError: the parameter query.weight is missing")


def test_a_file_beside_it_may_be_imported(tmp_path):
    (tmp_path / "helpers.py").write_text("def largest(x):\n    return x.amax(-1, keepdim=True)\n")
    body = "    e = (scores - largest(scores)).exp()\n    return e / e.sum(-1, keepdim=True)\n"
    assert checked(tmp_path, "from helpers import largest\n" + HEAD + body).passed
    (tmp_path / "sched.py").write_text("1 / 0\n")  # Python's own, which is not hidden
    assert checked(tmp_path, "import sched\n" + RIGHT).passed
    (tmp_path / "helpers.py").write_text("import transformers\n")
    report = checked(tmp_path, "import helpers\n" + RIGHT)
    assert report.failure.startswith("Not run: line 1 of helpers.py imports transformers")


# ---- the command ----


def test_templates_and_tests_are_written_and_never_overwritten(tmp_path, capsys):
    out = tmp_path / "course"
    command = ["exercise", "start", "softmax", "scaled_dot_product_attention", "--tests"]
    assert main([*command, "--out", str(out)]) == 0
    written = [path.name for path in sorted(out.iterdir())]
    assert written == ["scaled_dot_product_attention.py", "softmax.py", "test_exercises.py"]
    (out / "softmax.py").write_text(RIGHT)
    assert main([*command, "--out", str(out)]) == 1
    assert "softmax.py exists" in capsys.readouterr().err
    assert (out / "softmax.py").read_text() == RIGHT


@pytest.mark.slow
def test_the_tests_for_a_class_repository_run(tmp_path):
    names = ["softmax", "scaled-dot-product-attention"]
    main(["exercise", "start", *names, "--tests", "--out", str(tmp_path)])
    (tmp_path / "softmax.py").write_text(RIGHT)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "1 failed, 1 passed" in out and "It is not written yet." in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "absent.py"], "No such file or directory: 'absent.py'"),
        (
            ["check", "empty.py"],
            "empty.py defines no function or class, which is no exercise; start",
        ),
        (["check", "empty.py", "--exercise", "sofmax"], "did you mean 'softmax'?"),
        (["chek", "empty.py"], "did you mean 'check'?"),
    ],
)
def test_nothing_to_check_is_a_status_of_its_own(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(SystemExit) as stop:
        main(["exercise", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_list_is_for_programs_too(capsys):
    assert main(["exercise", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["name"] == "softmax" and rows[0]["mistakes"] >= 7
    assert main(["exercise", "list"]) == 0
    assert capsys.readouterr().out.startswith("  1  softmax ")


def test_an_infinity_equals_itself_alone():
    case = Case("infinities", {})
    for infinite, finite in [(-math.inf, -1e9), (torch.tensor([-math.inf]), torch.tensor([-1e9]))]:
        assert first_difference(case, Outcome(infinite), Outcome(infinite)) is None
        assert first_difference(case, Outcome(finite), Outcome(infinite)) is not None
        assert first_difference(case, Outcome(infinite), Outcome(finite)) is not None

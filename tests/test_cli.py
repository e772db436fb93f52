"""The command itself: its version, its two names, and the messages for wrong arguments."""

import subprocess
import sys

import pytest

import minitransformer
from minitransformer import cli


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"minitransformer {minitransformer.__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("module", ["minitransformer", "minitransformer.cli"])
def test_the_package_runs_as_the_command(module):
    command = [sys.executable, "-m", module]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"minitransformer {minitransformer.__version__}\n"
    attention = ["attention", "a-path", "a text", "--out", "a.jpg"]
    failed = subprocess.run([*command, *attention], capture_output=True, text=True)
    assert failed.returncode == 1  # the status of the verb is that of the process
    assert failed.stderr == "error: 'a.jpg' must end in one of .png, .pdf, .svg\n"


@pytest.mark.parametrize(("given", "threshold"), [([], None), (["--threshold", "0"], 0.0)])
def test_a_threshold_of_zero_is_a_threshold(given, threshold, monkeypatch, capsys):
    asked = []

    def answer(questions, context, **settings):
        asked.append(settings)
        return [{"answer": "", "score": 1.0, "start": 0, "end": 0} for _ in questions]

    monkeypatch.setattr(cli, "_pipeline", lambda task, arguments: answer)
    assert cli.main(["answer", "path", "--question", "who?", "--context", "a", *given]) == 0
    assert asked[0]["may_have_no_answer"] is (threshold is not None)
    assert asked[0]["threshold"] == (threshold or 0.0)
    assert "(no answer)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: VERB"),
        (["fill-msk", "path", "a"], "invalid choice: 'fill-msk'"),
        (
            ["parity", "path", "--lenght", "3"],
            "unknown option '--lenght'; did you mean '--length'?",
        ),
        (["parity", "path", "--len", "3"], "unknown option '--len'; did you mean '--length'?"),
        (["parity", "path", "more"], "unexpected argument 'more'; quote a text that contains"),
        (["parity", "path", "--length", "0"], "'0' must be an integer of at least 1"),
        (["parity", "path", "--length", "2.5"], "'2.5' must be an integer of at least 1"),
        (["parity", "path", "--device", "gpu"], "'gpu' is unknown; choose cpu or cuda"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err

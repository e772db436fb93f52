"""The script for a GPU, with a Python that measures nothing, and what it says of the goals."""

import os
import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import gpu_goals
from benchmarks.encoders import SIZES
from benchmarks.runs import write

ROOT = Path(__file__).parents[2]
STEPS = ["tests", "training", "training_compiled", "generation", "attention_cost"]
STEPS += ["report", "goals"]
PYTHON = """#!/bin/sh
printf '%s\\t' "$@" >> "$CALLS"
echo >> "$CALLS"
case "$2 $*" in
    *--compile-theirs*full-50k*) echo measured; exit 3 ;;
    benchmarks.generation*) echo no device >&2; exit 4 ;;
esac
"""


@pytest.fixture
def run_script(tmp_path):
    """Runs gpu.sh with a stub; gives what came of it, and the calls of the stub."""

    def run(*options):
        python, calls = tmp_path / "python", tmp_path / "calls"
        python.write_text(PYTHON, encoding="utf-8")
        python.chmod(0o755)
        names = {"PYTHON": str(python), "CALLS": str(calls), "OUT": str(tmp_path / "out")}
        command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), *options]
        done = subprocess.run(
            command, env=os.environ | names, cwd=tmp_path, text=True, capture_output=True
        )
        lines = calls.read_text().splitlines() if calls.exists() else []
        return done, [line.split("\t")[:-1] for line in lines]

    return run


def test_a_step_that_fails_does_not_stop_the_next(run_script, tmp_path):
    done, calls = run_script("--device", "cpu", "--quick")
    assert done.returncode == 1
    assert "failed: training_compiled generation" in done.stderr
    limits = re.findall("^== (.*), at most (.*) s$", done.stdout, re.MULTILINE)
    assert [name for name, _ in limits] == STEPS
    assert sum(int(seconds) for _, seconds in limits) < 8 * 60
    assert len(calls) == len(STEPS)
    assert re.findall("^== (.*) took .*, exit status ([^0])$", done.stdout, re.MULTILINE) == [
        ("training_compiled", "3"),
        ("generation", "4"),
    ]
    assert "no device" in done.stdout  # the end of what a failed step wrote to its log
    assert (tmp_path / "out" / "training_compiled.txt").read_text() == "measured\n"


def test_every_step_has_options_that_exist(run_script, tmp_path, monkeypatch):
    _, calls = run_script()
    _, *benchmarks, report, goals = calls
    assert report == ["-m", "benchmarks.report", str(tmp_path / "out")]
    for _, name, *options in [*benchmarks, goals]:
        module = import_module(name)
        monkeypatch.setattr(module, "start", lambda parser, argv, run: parser.parse_args(argv))
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        chosen = module.main(options)
        assert (chosen.device, chosen.dtype, chosen.quick) == ("cuda", "bfloat16", False)
        assert chosen.out in (tmp_path / "out", tmp_path / "out" / "compiled")


def test_the_tests_that_need_a_gpu_are_run(run_script):
    _, (tests, *_) = run_script("--quick")
    assert tests[:7] == ["-m", "pytest", "-q", "-n", "0", "-m", "cuda"]
    marked = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"^@pytest\.mark\.cuda", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert marked <= set(tests[7:])


def test_unknown_options_are_refused(run_script):
    done, calls = run_script("--fast")
    assert (done.returncode, calls) == (2, [])
    assert "usage: benchmarks/gpu.sh" in done.stderr


def test_goals_are_compared_with_what_was_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_goals, "product_rate", lambda *_: 800e12)
    full = {"case": "MLM, V 50,265, sequences of 512", "implementation": "optimized"}
    full |= {"commit": "1", "real_tokens_per_second": 1e6}
    plain = full | {"implementation": "plain", "times_default": 1.0}
    write(
        tmp_path / "training_bfloat16.unfinished.csv",
        [full | {"times_default": 2.6, "times_best": 2.2}, plain],
    )
    (tmp_path / "compiled").mkdir()
    write(tmp_path / "compiled" / "training_bfloat16.csv", [full | {"times_best": 1.9}])
    ours = {"implementation": "ours optimized"}
    attention = [ours | {"length": 16_384, "milliseconds": 1.0}]
    attention += [ours | {"length": 32_768, "reason": "memory"}]
    attention += [{"implementation": "flex", "length": 32_768, "milliseconds": 1.0}]
    write(tmp_path / "attention_cost_bfloat16.csv", attention)
    options = ["--dtype", "bfloat16", "--threads", "1", "--out", str(tmp_path)]
    assert gpu_goals.main(options) == 0
    printed = re.sub(" +", " ", capsys.readouterr().out)
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d UTC\ncommit: ", printed)
    assert "a product of matrices in bfloat16: 800 TFLOP/s" in printed
    case = full["case"]
    for said in (
        f"with default settings {case} 2.60 2.5 reached",
        f"with best settings {case} 1.90 2 missed",  # compiled, theirs are faster
        f"of a product of matrices {case} 0.36 0.5 missed",
        "times transformers' generate 10 not measured",
        "static cache, compiled 1.5 not measured",
        "longest sequence attention 16,384 32,768 missed",
    ):
        assert said in printed, printed


def test_flops_of_a_step():
    """As derived by hand for 6 layers of hidden size 768, in millions for a token."""
    for vocab_size, millions in ((50_265, 284.3), (30_522, 270.7)):
        found = gpu_goals.flops_per_token(SIZES, vocab_size, 512)
        assert found / 1e6 == pytest.approx(millions, abs=0.1)


def test_a_product_has_a_rate(monkeypatch):
    monkeypatch.setattr(gpu_goals, "timed", lambda call, device, repeats: call() is None or 0.5)
    assert gpu_goals.product_rate("cpu", "bfloat16", 8) == 2 * 8**3 / 0.5

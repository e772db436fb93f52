"""A run of several cases that is stopped and gone on with."""

import json
import re
from functools import partial

import numpy as np
import pytest

from benchmarks import case_runs, comparison_report, inference, unfinished
from benchmarks.case_runs import CaseRun, run_cases
from benchmarks.rows import Rows

PLAN = {"passes": 2, "sizes": {"hidden_size": 8}}
NAMES = ["short rows", "long rows", "one row"]
KEPT = "unfinished_inference_float32.json"
RESULTS = {"inference_float32.json", "inference_float32.csv"}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """What the benchmark sees of the machine; a test may change it."""
    seen = dict.fromkeys(["commit", "device", "cpu_capability"], "the same")
    seen |= {"threads": 2, "versions": {"torch": "2"}, "load_at_the_start": 0.5}
    monkeypatch.setattr(case_runs, "environment", lambda _device: dict(seen))
    monkeypatch.setattr(case_runs, "code_digest", lambda: seen.get("code", "1"))
    monkeypatch.setattr(case_runs, "prepare_transformers", lambda: None)
    monkeypatch.setattr(comparison_report, "table", lambda found: "the table")
    monkeypatch.setattr(comparison_report, "draw", lambda *_: None)
    return seen


def run(out, measured, *words, fails=None, plan=PLAN, names=NAMES, last_id=7):
    """Cases of which one may be interrupted; `measured` notes which are measured."""

    def measure(name):
        measured.append(name)
        if name == fails:
            raise KeyboardInterrupt
        return [{"side": "ours", "seconds": len(measured)}], [{"against": "theirs"}]

    def make_runs(_rows):
        what = {"dtype": "float32", "batch_size": 4}
        return [CaseRun({"case": name} | what, partial(measure, name)) for name in names]

    arguments = inference.parser().parse_args(["--out", str(out), *words])
    rows = {"ragged": Rows("made up", [np.array([0, last_id])])}
    run_cases("inference", arguments, plan, lambda: rows, make_runs)


def test_it_goes_on_where_it_was_stopped(tmp_path, machine, capsys):
    out, measured = tmp_path / "out", []
    with pytest.raises(KeyboardInterrupt):
        run(out, measured, fails="one row")
    assert measured == NAMES
    assert [file.name for file in out.iterdir()] == [KEPT]  # no results of half a run

    with pytest.raises(ValueError, match=f"{KEPT} holds what .* go on with --resume, or delete"):
        run(out, measured)
    assert measured == NAMES and (out / KEPT).exists()

    machine |= {"load_at_the_start": 2.5, "commit": "one of another page"}
    run(out, measured, "--resume")
    assert measured == [*NAMES, "one row"]
    assert {file.name for file in out.iterdir()} == RESULTS
    found = json.loads((out / "inference_float32.json").read_text())
    assert [(row["case"], row["seconds"]) for row in found["sides"]] == [
        ("short rows", 1),
        ("long rows", 2),
        ("one row", 4),
    ]
    assert [row["case"] for row in found["ratios"]] == NAMES
    assert found["rows"] == {"ragged": "made up"} and found["plan"]["passes"] == 2
    assert found["environment"]["load_at_the_start"] == 0.5
    assert found["environment"]["loads_when_resumed"] == [2.5]
    printed = capsys.readouterr()
    assert printed.out == "the table\n" and "one row, float32" in printed.err


def test_with_nothing_to_go_on_with_it_says_so_and_begins(tmp_path, capsys):
    measured = []
    run(tmp_path / "out", measured, "--resume")
    assert measured == NAMES
    assert re.search(f"there is no .*{KEPT} to go on with: a new run", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("other", "changed"),
    [
        ({"words": ["--seed", "1"]}, "seed was 0, is 1"),
        ({"words": ["--attention", "eager"]}, "attention was 'sdpa', is 'eager'"),
        ({"words": ["--plain"]}, "plain was False, is True"),
        ({"plan": PLAN | {"passes": 3}}, "passes was 2, is 3"),
        ({"names": NAMES[:2]}, "cases was "),
        ({"last_id": 8}, "ragged rows was "),
        ({"threads": 1}, "threads was 2, is 1"),
        ({"device": "another"}, "device was 'the same', is 'another'"),
        ({"versions": {"torch": "3"}}, "versions was "),
        ({"code": "2"}, "code was '1', is '2'"),
    ],
)
def test_another_run_is_not_gone_on_with(tmp_path, machine, other, changed):
    out, measured = tmp_path / "out", []
    with pytest.raises(KeyboardInterrupt):
        run(out, measured, fails="long rows")
    before = (out / KEPT).read_bytes()
    machine |= {key: other[key] for key in machine.keys() | {"code"} if key in other}
    words = other.get("words", [])
    asked = {key: other[key] for key in ("plan", "names", "last_id") if key in other}
    with pytest.raises(ValueError, match=f"{KEPT} belongs to another run: {changed}.*Go on with"):
        run(out, measured, "--resume", *words, **asked)
    assert measured == ["short rows", "long rows"] and (out / KEPT).read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"), [('{"run": {', "is not valid JSON"), ('{"runs": 1}', "is damaged: runs")]
)
def test_a_damaged_file_is_named(tmp_path, text, message):
    (tmp_path / KEPT).write_text(text)
    with pytest.raises(ValueError, match=f"{KEPT} {message}"):
        run(tmp_path, [], "--resume")
    assert (tmp_path / KEPT).read_text() == text


def test_a_case_that_is_asked_for_twice(tmp_path):
    measured = []
    with pytest.raises(ValueError, match="one row, float32: asked for twice"):
        run(tmp_path, measured, names=[*NAMES, "one row"])
    assert not measured


def test_a_picture_that_cannot_be_drawn_leaves_a_finished_run(tmp_path, monkeypatch):
    def draw(*_):
        raise ValueError("other threads")

    monkeypatch.setattr(comparison_report, "draw", draw)
    with pytest.raises(ValueError, match="other threads"):
        run(tmp_path / "out", [])
    assert {file.name for file in (tmp_path / "out").iterdir()} == RESULTS


def test_the_digest_is_of_what_the_files_hold(tmp_path, monkeypatch):
    for package in ("minitransformer", "train", "benchmarks"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("1")
    monkeypatch.setattr(unfinished, "__file__", str(tmp_path / "benchmarks" / "a.py"))
    before = unfinished.code_digest()
    assert before == unfinished.code_digest()
    (tmp_path / "README.md").write_text("a page")
    assert before == unfinished.code_digest()
    (tmp_path / "train" / "a.py").write_text("2")
    assert before != unfinished.code_digest()


def test_other_rows_have_another_checksum():
    ids, spans = [np.array([0, 7]), np.array([0, 8])], np.array([[0, 1], [1, 1]])
    made = [
        Rows("made up", ids),
        Rows("made up", ids[::-1]),
        Rows("made up", ids, pad_token_id=0),
        Rows("made up", ids, spans),
        Rows("made up", ids, spans + 1),
    ]
    assert len({rows.checksum() for rows in made}) == len(made)
    assert made[0].checksum() == Rows("of another name", ids).checksum()

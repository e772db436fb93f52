"""The CSV file of a run, and a run that is stopped and resumed."""

import argparse
from functools import partial

import pytest
import torch

from benchmarks import runs
from benchmarks.runs import Case, Run, read, records, write

NAMES = ["short", "long", "one"]


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """What a run sees of the machine; a test may change it."""
    seen = {"commit": "1", "device": "a CPU", "threads": 2, "torch": "2.10"}
    monkeypatch.setattr(runs, "environment", lambda _device: dict(seen))
    return seen


def measure(out, measured, *, resume=False, fails=None, names=NAMES, **settings):
    """Cases of which one may be interrupted; `measured` notes which are measured."""

    def rows(name):
        measured.append(name)
        if name == fails:
            raise KeyboardInterrupt
        return [{"implementation": "ours", "seconds": len(measured)}, {"implementation": "theirs"}]

    run_cases(
        out, (Case({"case": name}, partial(rows, name)) for name in names), resume, **settings
    )


def run_cases(out, cases, resume=False, **settings):
    arguments = argparse.Namespace(device="cpu", resume=resume, out=out)
    run = Run(arguments, "some", {"seed": 0, **settings})
    run.measure(cases(run.rows) if callable(cases) else cases, str, lambda *_: None)
    return run.rows


def test_it_goes_on_where_it_was_stopped(tmp_path, capsys):
    out, measured = tmp_path / "out", []
    with pytest.raises(KeyboardInterrupt):
        measure(out, measured, fails="one")
    assert [file.name for file in out.iterdir()] == ["some.unfinished.csv"]
    with pytest.raises(ValueError, match="some.unfinished.csv is of a run .* --resume continues"):
        measure(out, measured)
    assert measured == NAMES
    measure(out, measured, resume=True)
    assert measured == [*NAMES, "one"]
    assert [file.name for file in out.iterdir()] == ["some.csv"]
    rows = records(read(out / "some.csv"))
    assert [(row["case"], row["implementation"]) for row in rows] == [
        (name, side) for name in NAMES for side in ("ours", "theirs")
    ]
    assert [row["seconds"] for row in rows if "seconds" in row] == [1, 2, 4]
    assert {(row["seed"], row["device"], row["torch"]) for row in rows} == {(0, "a CPU", "2.10")}
    assert "one" in capsys.readouterr().err  # the progress bar


@pytest.mark.parametrize("other", ["seed", "device", "torch", "commit", "threads"])
def test_another_run_is_not_resumed(tmp_path, machine, other):
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, [], fails="long")
    before = (tmp_path / "some.unfinished.csv").read_bytes()
    settings = {"seed": 1} if other == "seed" else {}
    machine |= {other: "another"} if other != "seed" else {}
    with pytest.raises(ValueError, match=f"is of another run: {other} was "):
        measure(tmp_path, [], resume=True, **settings)
    assert (tmp_path / "some.unfinished.csv").read_bytes() == before


def test_a_later_case_sees_the_rows_of_those_before(tmp_path):
    def cases(rows):
        for number in range(9):
            if number > 1 and rows[-1]["double"] >= 4:
                return
            yield Case({"number": number}, lambda number=number: [{"double": 2 * number}])

    assert [row["double"] for row in run_cases(tmp_path, cases)] == [0, 2, 4]


def test_what_is_written_is_read(tmp_path):
    file = tmp_path / "new" / "some.csv"
    write(file, [{"name": "a", "seconds": 1 / 3, "commit": "12e5"}, {"name": "b, c", "more": "ü"}])
    assert records(read(file)) == [
        {"name": "a", "seconds": 0.333333, "commit": "12e5"},
        {"name": "b, c", "more": "ü"},
    ]
    before = file.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write(file, [{"name": "\ud800"}])
    assert file.read_bytes() == before


def test_the_machine(monkeypatch):
    monkeypatch.undo()
    where = runs.environment("cpu")
    assert where["threads"] == torch.get_num_threads()
    assert where["commit"] and where["device"]

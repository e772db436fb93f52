"""The CSV file of a run, a run that is stopped and resumed, and the options of all benchmarks."""

import argparse
import csv
from functools import partial

import pytest
import torch

from benchmarks import runs
from benchmarks.runs import Case, Run, benchmark_parser, read, write

NAMES = ["short", "long", "one"]


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """What a run sees of the machine; a test may change it."""
    seen = {"commit": "1", "device": "a CPU", "threads": 2, "torch": "2"}
    monkeypatch.setattr(runs, "environment", lambda _device: dict(seen))
    return seen


def measure(out, measured, *, resume=False, fails=None, names=NAMES, **settings):
    """Cases of which one may be interrupted; `measured` notes which are measured."""

    def rows(name):
        measured.append(name)
        if name == fails:
            raise KeyboardInterrupt
        return [{"implementation": "ours", "seconds": len(measured)}, {"implementation": "theirs"}]

    arguments = argparse.Namespace(device="cpu", resume=resume)
    run = Run(out / "some.csv", arguments, {"seed": 0, **settings})
    run.measure([Case({"case": name}, partial(rows, name)) for name in names])
    return run


def test_it_goes_on_where_it_was_stopped(tmp_path, capsys):
    out, measured = tmp_path / "out", []
    with pytest.raises(KeyboardInterrupt):
        measure(out, measured, fails="one")
    assert [file.name for file in out.iterdir()] == ["some.unfinished.csv"]
    with pytest.raises(ValueError, match="some.unfinished.csv is of a run .* --resume goes on"):
        measure(out, measured)
    assert measured == NAMES
    measure(out, measured, resume=True)
    assert measured == [*NAMES, "one"]
    assert [file.name for file in out.iterdir()] == ["some.csv"]
    rows = read(out / "some.csv")
    assert [(row["case"], row["implementation"]) for row in rows] == [
        (name, side) for name in NAMES for side in ("ours", "theirs")
    ]
    assert [row["seconds"] for row in rows if "seconds" in row] == [1, 2, 4]
    assert {(row["seed"], row["device"], row["torch"]) for row in rows} == {(0, "a CPU", "2")}
    assert "one" in capsys.readouterr().err  # the progress bar


def test_with_nothing_to_resume_it_says_so_and_begins(tmp_path, capsys):
    measured = []
    measure(tmp_path, measured, resume=True)
    assert measured == NAMES
    assert "some.unfinished.csv does not exist: a new run" in capsys.readouterr().err


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
    arguments = argparse.Namespace(device="cpu", resume=False)
    run = Run(tmp_path / "some.csv", arguments, {})

    def cases():
        for number in range(9):
            if number > 1 and run.rows[-1]["double"] >= 4:
                return
            yield Case({"number": number}, lambda number=number: [{"double": 2 * number}])

    run.measure(cases())
    assert [row["double"] for row in run.rows] == [0, 2, 4]


def test_what_is_written_is_read(tmp_path):
    rows = [{"name": "a", "seconds": 1 / 3, "commit": "12e5"}, {"name": "b, c", "more": "ü"}]
    write(tmp_path / "new" / "some.csv", rows)
    with open(tmp_path / "new" / "some.csv") as file:
        assert next(csv.reader(file)) == ["name", "seconds", "commit", "more"]
    assert read(tmp_path / "new" / "some.csv") == [
        {"name": "a", "seconds": 0.333333, "commit": "12e5"},
        {"name": "b, c", "more": "ü"},
    ]
    before = (tmp_path / "new" / "some.csv").read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "new" / "some.csv", [{"name": "\ud800"}])
    assert (tmp_path / "new" / "some.csv").read_bytes() == before
    (tmp_path / "bad.csv").write_text('"name","seconds"\n"a",fast\n')
    with pytest.raises(ValueError, match="bad.csv is damaged: .*fast"):
        read(tmp_path / "bad.csv")


def test_the_machine(monkeypatch):
    monkeypatch.undo()
    pytest.importorskip("transformers", reason="its version is noted")
    where = runs.environment("cpu")
    assert where["torch"] == torch.__version__
    assert where["threads"] == torch.get_num_threads()
    assert where["commit"] and where["device"]


def test_options_that_make_no_sense(tmp_path, capsys):
    parser = benchmark_parser("some", "A benchmark.")
    file, nowhere = tmp_path / "file", tmp_path / "link"
    file.touch()
    nowhere.symlink_to(tmp_path / "gone")
    for words, message in (
        (["--out", "x", "--device", "tpu"], "'tpu' is unknown; choose cpu or cuda"),
        (["--out", "x", "--dtype", "int8"], "int8"),
        (["--out", "x", "--threads", "0"], "'0' must be an integer of at least 1"),
        (["--quick"], "--out"),
        (["--out", str(file)], f"{file} is no directory that can be written to"),
        (["--out", str(file / "sub" / "sub")], f"{file} is no directory that can be written to"),
        (["--out", str(nowhere)], f"{nowhere} is no directory that can be written to"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(words)
        assert message in capsys.readouterr().err
    for there in (tmp_path, tmp_path / "new" / "sub"):
        assert parser.parse_args(["--out", str(there)]).out == there
    assert {*tmp_path.iterdir()} == {file, nowhere}  # made when there is something to write

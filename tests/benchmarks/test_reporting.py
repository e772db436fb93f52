"""What stands around the numbers, and the files."""

import csv
import json

import pytest
import torch

from benchmarks import reporting
from benchmarks.arguments import benchmark_parser


def test_files_of_rows_with_a_spread(tmp_path):
    spread = {"median": 1 / 3, "low": 0.25, "high": 2.0}
    rows = [{"name": "a", "seconds": spread}, {"name": "b", "reason": "out of memory"}]
    where = {"commit": "abc", "device": "Abacus", "threads": 2, "versions": {"torch": "2.13.0"}}
    found = {"environment": where | {"load_at_the_start": 0.5}, "rows": rows}
    reporting.save(found, rows, tmp_path / "new" / "found")
    assert json.loads((tmp_path / "new" / "found.json").read_text()) == found
    with open(tmp_path / "new" / "found.csv") as file:
        lines = list(csv.reader(file))
    assert lines == [
        [
            *("name", "seconds", "seconds_low", "seconds_high"),
            *("commit", "device", "threads", "torch", "reason"),
        ],
        ["a", "0.3333", "0.25", "2.0", "abc", "Abacus", "2", "2.13.0", ""],
        ["b", "", "", "", "abc", "Abacus", "2", "2.13.0", "out of memory"],
    ]


def test_files_of_before_stay_if_new_ones_cannot_be_written(tmp_path):
    where = dict.fromkeys(["commit", "device", "threads"], 1) | {"versions": {}}
    reporting.save({"environment": where}, [{"a": 1}], tmp_path / "found")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(UnicodeEncodeError):
        reporting.save({"environment": where}, [{"a": "\ud800"}], tmp_path / "found")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_small_numbers_keep_their_digits():
    assert reporting.flat({"a": 1.234e-7, "b": 123.456789, "c": 0.0, "d": 3}) == {
        "a": 1.234e-7,
        "b": 123.4568,
        "c": 0.0,
        "d": 3,
    }


def test_the_machine_in_one_line():
    pytest.importorskip("transformers", reason="its version is noted")
    where = reporting.environment("cpu")
    assert where["versions"]["torch"] == torch.__version__
    assert where["threads"] == torch.get_num_threads()
    assert where["commit"]
    line = reporting.around({"environment": where | {"load_at_the_end": 9.75}})
    assert where["device"] in line
    assert "9.75 at the end" in line


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

"""The benchmark of loading: its rows, its table, and the comparison before the clock starts."""

import subprocess

import pandas as pd
import pytest
import torch

from benchmarks import loading
from benchmarks.measuring import LocalWorker


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """A run of few cases in this process; returns its rows and what it prints, or the error."""
    few = ("bert, in shards", "bert, from float16")
    monkeypatch.setattr(loading, "CASES", {name: loading.CASES[name] for name in few})
    monkeypatch.setattr(
        loading,
        "in_new_process",
        lambda build, _arguments, question: getattr(LocalWorker(build(), "cpu"), question)(),
    )
    # As if an import took a second, or two of transformers'.
    monkeypatch.setattr(
        loading, "import_seconds", lambda statement: 1.0 + ("transformers" in statement)
    )

    def measure(*options):
        words = ["--quick", "--threads", "1", "--out", str(tmp_path), *options]
        status = loading.main(words)
        captured = capsys.readouterr()
        if status:
            return captured.err
        return pd.read_csv(next(tmp_path.glob("loading_quick_*.csv"))), captured.out

    return measure


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_for_each_side_and_time(run, dtype):
    frame, text = run("--dtype", dtype)
    loaded, imported = frame[frame["case"] != "import"], frame[frame["case"] == "import"]
    assert len(loaded) == 2 * 2 * 2 and len(imported) == 2
    for _, rows in loaded.groupby(["case", "until"]):
        theirs, ours = (rows[rows["implementation"] == side].iloc[0] for side in loading.SIDES)
        assert ours["times_low"] <= ours["times"] <= ours["times_high"]
        assert pd.isna(theirs["times"]) and theirs["milliseconds"] > 0
    sizes = frame.set_index("case")[["file_megabytes", "model_megabytes"]]
    stored = sizes["file_megabytes"] / sizes["model_megabytes"]  # headers come to a few kB
    assert (stored["bert, in shards"] >= 1).all()
    half = stored["bert, from float16"] - stored["bert, in shards"].iloc[0]
    assert (half.abs() < 0.2).all() if dtype == "bfloat16" else (half < -0.3).all()
    assert imported["milliseconds"].tolist() == [2000, 1000]
    assert imported["times"].tolist()[1] == 2
    assert "bert, from float16" in text and "from minitransformer import BertForMaskedLM" in text


def test_other_weights_are_not_timed(run, monkeypatch):
    load = loading.load

    def changed(side, *arguments):
        model = load(side, *arguments)
        if side == loading.PLAIN:
            with torch.no_grad():
                next(model.parameters()).mul_(1.5)
        return model

    monkeypatch.setattr(loading, "load", changed)
    assert "BertForMaskedLM: what both sides have loaded differs" in run()


def test_an_import_is_timed_after_that_of_pytorch():
    assert 0 <= loading.import_seconds("import torch") < 1
    with pytest.raises(subprocess.CalledProcessError):
        loading.import_seconds("import no_such_module")

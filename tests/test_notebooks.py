"""The notebooks run from top to bottom, made small by a few replacements."""

from pathlib import Path

import pytest

from tests.pages import ROOT

NOTEBOOKS = ROOT / "notebooks"
# For each notebook: what makes it small, a check after its last cell, and its pictures.
CASES = {
    "train_from_scratch": (
        {
            "LINES = 20_000": "LINES = 1000",
            "EPOCHS, BATCH_SIZE = 3, 64": "EPOCHS, BATCH_SIZE = 2, 32",
        },
        "assert sum(losses[-10:]) < 0.8 * sum(losses[:10])",
        1,
    ),
    "fine_tune_and_look_inside": (
        {"SENTENCES, EPOCHS = 4000, 3": "SENTENCES, EPOCHS = 200, 1"},
        "assert maps.maps.shape == (2, 4, len(maps.tokens), len(maps.tokens))",
        3,
    ),
}


def test_every_notebook_is_run():
    assert {path.stem for path in NOTEBOOKS.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    jupytext = pytest.importorskip("jupytext", reason="notebooks are converted by it")
    nbclient = pytest.importorskip("nbclient", reason="notebooks are run by it")
    pytest.importorskip("ipykernel", reason="notebooks are run in it")
    replacements, check, pictures = CASES[name]
    source = (NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8")
    for text, small in replacements.items():
        assert source.count(text) == 1, text
        source = source.replace(text, small)
    notebook = jupytext.reads(f"{source}\n# %%\n{check}\n", fmt="py:percent")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == pictures
    assert list(Path(tmp_path).glob("runs/notebook/**/model.safetensors"))

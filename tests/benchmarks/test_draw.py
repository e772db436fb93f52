"""The committed pictures can be drawn again from the committed files."""

import shutil
from pathlib import Path

import pytest
from matplotlib.image import imread

from benchmarks import draw

RESULTS = Path(draw.__file__).parent / "results"


def test_every_committed_picture_has_its_file(tmp_path, capsys):
    for file in RESULTS.glob("*.json"):
        shutil.copy(file, tmp_path)
    assert draw.main([str(tmp_path)]) == 0
    drawn = {picture.name for picture in tmp_path.glob("*.png")}
    assert drawn == {picture.name for picture in RESULTS.glob("*.png")} != set()
    assert "drawn: generation" in capsys.readouterr().out
    for name in drawn:
        assert imread(tmp_path / name).shape == imread(RESULTS / name).shape


@pytest.mark.parametrize("name", ["training", "inference"])
def test_a_picture_without_files_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"holds no {name}_.*.json; python -m benchmarks.{name}"):
        draw.DRAW[name](tmp_path)

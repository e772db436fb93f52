"""The committed pictures are what the committed files give."""

import shutil
from pathlib import Path

import numpy
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
        assert numpy.array_equal(imread(tmp_path / name), imread(RESULTS / name)), name


@pytest.mark.parametrize("name", ["training", "inference"])
def test_a_picture_without_files_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"holds no {name}_.*.json; python -m benchmarks.{name}"):
        draw.DRAW[name](tmp_path, name)

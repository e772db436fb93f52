"""The committed pictures can be drawn from the committed files, and show what these hold."""

import json
import shutil
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import draw
from benchmarks.attention_cost_picture import twins
from benchmarks.attention_implementations import NO_ATTENTION
from benchmarks.comparison import SAME_BATCHES
from tests.benchmarks.pictures import error_bars, png_size, texts_in, watch_pictures

RESULTS = Path(draw.__file__).parent / "results"
LAYER_LABEL = "the layer without attention"


@pytest.mark.parametrize("names", ["[git]*", pytest.param("attention*", marks=pytest.mark.slow)])
def test_every_committed_picture_is_drawn_from_its_file(names, tmp_path, capsys, monkeypatch):
    figures = watch_pictures(monkeypatch)
    for file in RESULTS.glob(f"{names}.json"):
        shutil.copy(file, tmp_path)
    assert draw.main([str(tmp_path)]) == 0
    drawn = {picture.name for picture in tmp_path.glob("*.png")}
    assert drawn == {picture.name for picture in RESULTS.glob(f"{names}.png")} != set()
    printed = capsys.readouterr().out
    for name, figure in figures.items():
        assert png_size(tmp_path / name) == png_size(RESULTS / name), name
        stem = name.removesuffix(".png")
        assert f"drawn: {stem.split('_float32')[0].split('_bfloat16')[0]}\n" in printed
        if stem == "generation":
            check_generation(figure)
        elif stem in ("training", "inference"):
            check_ratios(figure, stem)
        else:
            check_curves(figure, *stem.rsplit("_fixed_", 1))


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def tick_labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def check_ratios(figure: Figure, name: str) -> None:
    """A dot with its number for each ratio, a cross for each on the same batches, and the bars."""
    ratios = [row for dtype in ("float32", "bfloat16") for row in read(f"{name}_{dtype}")["ratios"]]
    cases = list(dict.fromkeys(row["case"] for row in ratios))
    assert tick_labels(figure.axes[0]) == cases
    for axes, against in zip(figure.axes, ("as it comes", "at its best"), strict=True):
        mine = [row for row in ratios if row["against"].startswith(against)]
        dots = [row for row in mine if row["against"] != SAME_BATCHES]
        assert len(error_bars(axes)) == len(dots)
        numbers = sorted(f"{row['ratio']['median']:.2f}" for row in dots)
        assert sorted(text.get_text() for text in axes.texts) == numbers
        crosses = [
            line for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata())
        ]
        assert len(crosses) == len(mine) - len(dots)
        bars = [line for line in axes.lines if line.get_color() == "tab:red"]
        targets = {row["case"]: row["target"] for row in mine if row["target"]}
        assert [bar.get_xdata()[0] for bar in bars if len(bar.get_xdata())] == [*targets.values()]
        assert f"transformers {against}" in axes.get_title()
    assert "bar to reach" in texts_in(figure)


def check_generation(figure: Figure) -> None:
    """Above a dot for each case and side, below a line for each side."""
    found = read("generation")
    speeds, curves = figure.axes
    assert len(error_bars(speeds)) == len(found["speeds"])
    assert tick_labels(speeds) == list(dict.fromkeys(row["case"] for row in found["speeds"]))
    sides = {f"{row['library']} {row['dtype']}" for row in found["curves"]}
    assert {text.get_text() for text in curves.get_legend().get_texts()} == sides
    lines = [line for line in curves.lines if line.get_marker() == "o"]
    assert sorted(len(line.get_xdata()) for line in lines) == [15] * len(sides)


def check_curves(figure: Figure, name: str, sweep: str) -> None:
    """A line and a label with its exponent for each implementation that was timed."""
    found = read(name)
    hidden = twins(found["points"])
    panels = iter(figure.axes)
    for passes in ("forward", "forward + backward"):
        for part in ("attention alone", "whole layer"):
            axes = next(panels)
            timed = {
                row["implementation"]
                for row in found["points"]
                if not row["reason"]
                and (row["sweep"], row["passes"]) == (f"fixed {sweep}", passes)
                and (row["part"] == part or row["implementation"] == NO_ATTENTION)
            } - hidden
            labels = {text.get_text().split("  T$")[0] for text in axes.texts}
            assert {LAYER_LABEL if name == NO_ATTENTION else name for name in timed} <= labels
            curves = [line for line in axes.lines if len(line.get_xdata()) > 2]
            assert len(curves) == len(timed)
            assert axes.get_title().endswith(passes)


@pytest.mark.parametrize("name", ["training", "inference"])
def test_a_picture_without_files_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"holds no {name}_.*.json; python -m benchmarks.{name}"):
        draw.DRAW[name](tmp_path, name)

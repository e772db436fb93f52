"""What a picture shows, without a look at its pixels: fonts differ from machine to machine."""

import struct
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text


def watch_pictures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """A dictionary to which every figure that is saved is added, by the name of its file."""
    figures: dict[str, Figure] = {}
    save = Figure.savefig

    def save_and_note(figure: Figure, path: Path, **settings: object) -> None:
        save(figure, path, **settings)
        figures[Path(path).name] = figure

    monkeypatch.setattr(Figure, "savefig", save_and_note)
    return figures


def png_size(path: Path) -> tuple[int, int]:
    """Width and height, as the header of a PNG file says them."""
    with open(path, "rb") as file:
        header = file.read(24)
    assert header[:8] == b"\x89PNG\r\n\x1a\n" and header[12:16] == b"IHDR", path
    return struct.unpack(">II", header[16:])


def texts_in(part: Figure | Axes) -> list[str]:
    """Every text in a part of a picture, sorted."""
    return sorted(text.get_text() for text in part.findobj(Text) if text.get_text())


def error_bars(axes: Axes) -> list[ErrorbarContainer]:
    """The dots with quartiles."""
    return [made for made in axes.containers if isinstance(made, ErrorbarContainer)]

"""Pictures of attention maps: every head of every layer at once, or one layer large.

L layers, H heads, T query tokens, S key tokens.
"""

import math
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from minitransformer.files import TEMPORARY_PREFIX

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from minitransformer.attention_maps import AttentionMaps, Names

Bounds = tuple[float, float, float, float]  # left, bottom, width, height
_SUFFIXES = (".png", ".pdf", ".svg")

# Sizes are in inches, except for letters. Letters of 7 points at 150 dots an inch can be read on
# a screen without zooming in.
_DOTS = 150
_SMALL, _LARGE = 7, 10  # points: a token's name, everything else
_LINE = 0.115  # from one name to the next
_GRID_PANEL = (1.0, 24 * _LINE)  # smallest and largest side: of 24 tokens each has its name
_LAYER_PANEL = (2.0, 70 * _LINE)
_LONGEST_NAME = 18  # characters; a longer name ends in …
_INK = {None: "0.4", 0: "black", 1: "#b5400b"}  # of names: special token, first text, second text
_COLOURS = "Blues"


def draw_grid(maps: "AttentionMaps", picture: str | Path) -> None:
    """Draw all maps: a row of panels for each layer, a column for each head.

    The outer panels name the tokens: each where there are up to 24, else every n-th.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `picture` is no .png, .pdf or .svg file in a directory that exists.
    """
    check_picture(picture)
    layers, heads, _, _ = maps.maps.shape
    sheet = _Sheet(maps, layers, heads, _GRID_PANEL, name_all=False, shown=maps.maps)
    for layer in range(layers):
        for head in range(heads):
            panel = sheet.draw(layer, head, maps.maps[layer, head])
            if head == 0:
                panel.set_ylabel(f"layer {layer}", fontsize=_LARGE)
            if layer == 0:
                panel.set_title(f"head {head}", fontsize=_LARGE)
    sheet.explain(f"{maps.title} in {_count(layers, 'layer')} of {_count(heads, 'head')}")
    sheet.save(picture)


def draw_layer(maps: "AttentionMaps", layer: int, picture: str | Path) -> None:
    """Draw the maps of one layer large, every panel with its tokens: of more than 70 every n-th.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no such layer, or `picture` is as :func:`draw_grid` refuses it.
    """
    check_picture(picture)
    layers, heads, _, _ = maps.maps.shape
    check_layer(layer, layers)
    columns = math.ceil(math.sqrt(heads))
    rows = math.ceil(heads / columns)
    sheet = _Sheet(maps, rows, columns, _LAYER_PANEL, name_all=True, shown=maps.maps[layer])
    for head in range(heads):
        panel = sheet.draw(head // columns, head % columns, maps.maps[layer, head])
        panel.set_title(f"head {head}", fontsize=_LARGE)
    sheet.explain(f"{maps.title} in layer {layer}")
    sheet.save(picture)


def check_picture(picture: str | Path) -> None:
    """Check that a picture can be written there.

    Raises:
        ValueError: it is no .png, .pdf or .svg file in a directory that exists.
    """
    picture = Path(picture)
    if picture.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"{str(picture)!r} does not end in {', '.join(_SUFFIXES)}; choose one")
    if not picture.parent.is_dir():
        raise ValueError(f"there is no directory {str(picture.parent)!r} for {picture.name}")
    if picture.is_dir():
        raise ValueError(f"{str(picture)!r} is a directory; name a file")


def check_layer(layer: int, layers: int) -> None:
    """Check that there is such a layer.

    Raises:
        ValueError: there is none.
    """
    if not 0 <= layer < layers:
        raise ValueError(f"layer={layer} does not exist; the layers are 0 to {layers - 1}")


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), dpi=_DOTS)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _drawable(names: Sequence[str]) -> list[str]:
    """The names as the fonts can draw them: U+65E5 for a character they lack, and cut if long.

    The fonts are matplotlib's: to add one, name it under `font.family` in a matplotlibrc file.
    """
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, get_font

    families = [FontProperties(family=[family]) for family in rcParams["font.family"]]
    fonts = [get_font(findfont(family)) for family in families]

    def drawable(character: str) -> str:
        known = any(font.get_char_index(ord(character)) for font in fonts)
        return character if known else f"U+{ord(character):04X}"

    whole = ["".join(map(drawable, name)) for name in names]
    return [n if len(n) <= _LONGEST_NAME else n[: _LONGEST_NAME - 1] + "…" for n in whole]


def _widest(names: Sequence[str]) -> float:
    """Inches that the widest of the names takes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=_SMALL)
    return max(text_to_path.get_text_width_height_descent(n, font, False)[0] for n in names) / 72


class _Side:
    """One side of every panel: the names of its tokens, and how long it is.

    Args:
        names: of the query tokens, or of the key tokens.
        lengths: the smallest and the largest length of a side.
    """

    def __init__(self, names: "Names", lengths: tuple[float, float]) -> None:
        self.names = _drawable(names.tokens)
        self.colours = [_INK[text] for text in names.sequence_ids]
        self.second_text = names.second_text
        self.margin = _widest(self.names) + 0.1  # for a name and its tick
        needed = len(self.names) * _LINE
        self.length = min(max(needed, lengths[0]), lengths[1])
        self.step = math.ceil(round(needed / self.length, 6))  # every n-th token is named

    def name(self, axis: "Axis", rotation: int) -> None:
        """Write the names along an axis."""
        places = range(0, len(self.names), self.step)
        names = [self.names[place] for place in places]
        # A token such as $x$ is no formula.
        axis.set_ticks(places, names, rotation=rotation, fontsize=_SMALL, parse_math=False)
        for tick, place in zip(axis.get_major_ticks(), places, strict=True):
            for label in (tick.label1, tick.label2):
                label.set_color(self.colours[place])


class _Sheet:
    """Panels in rows and columns, and what explains them.

    The figure itself is no larger than its panels. All that stands around them, names and titles,
    is drawn outside, and the figure grows around it when it is saved.

    Args:
        maps: for the names of the tokens.
        rows, columns: of panels.
        sides: the smallest and the largest side of a panel.
        name_all: name the tokens left of and below each panel, not only all around the outer ones.
        shown: the weights that are drawn, (..., T, S), for the scale of colours.
    """

    def __init__(
        self,
        maps: "AttentionMaps",
        rows: int,
        columns: int,
        sides: tuple[float, float],
        *,
        name_all: bool,
        shown: Tensor,
    ) -> None:
        self.figure = new_figure(1, 1)
        self.maps, self.rows, self.columns, self.name_all = maps, rows, columns, name_all
        self.down, self.across = _Side(maps.queries, sides), _Side(maps.keys, sides)
        across, down = 0.1, 0.1  # between panels
        if name_all:
            across, down = self.down.margin + 0.15, self.across.margin + 0.35
        self.pitch = (self.across.length + across, self.down.length + down)
        self.width = columns * self.pitch[0] - across
        self.height = rows * self.pitch[1] - down
        self.figure.set_size_inches(self.width, self.height)
        self.norm = _colour_scale(shown)

    def draw(self, row: int, column: int, weights: Tensor) -> "Axes":
        """Draw one map, (T, S), as the panel at this place."""
        x, y = column * self.pitch[0], self.height - row * self.pitch[1] - self.down.length
        panel = self.figure.add_axes(self._box(x, y, self.across.length, self.down.length))
        for spine in panel.spines.values():
            spine.set_linewidth(0.5)
        panel.imshow(weights.numpy(), norm=self.norm, cmap=_COLOURS, aspect="auto")
        if self.down.second_text is not None:
            panel.axhline(self.down.second_text - 0.5, color=_INK[1], linewidth=0.7)
        if self.across.second_text is not None:
            panel.axvline(self.across.second_text - 0.5, color=_INK[1], linewidth=0.7)
        self._name_tokens(
            panel,
            left=self.name_all or column == 0,
            bottom=self.name_all or row == self.rows - 1,
            right=not self.name_all and column == self.columns - 1,
            top=not self.name_all and row == 0,
        )
        return panel

    def _name_tokens(self, panel: "Axes", **edges: bool) -> None:
        """Write the names at these edges of the panel."""
        self.across.name(panel.xaxis, 90)
        self.down.name(panel.yaxis, 0)
        style: dict[str, Any] = {f"label{edge}": there for edge, there in edges.items()} | edges
        panel.tick_params(length=2, pad=2, width=0.5, **style)

    def explain(self, title: str) -> None:
        """Write around the panels what they show: the title, the axes, the scale of colours."""
        above, beside = (0.0, 0.0) if self.name_all else (self.across.margin, self.down.margin)
        layers = 0.0 if self.name_all else 0.3  # "layer 0"
        self._write(0, self.height + above + 0.45, title + self._steps(), fontsize=_LARGE + 3)
        key, query = "to: the token attended to (key)", f"from: {self.maps.query_label} (query)"
        self._write(self.width / 2, -self.across.margin - 0.05, key, ha="center", va="top")
        x = -self.down.margin - layers
        self._write(x, self.height / 2, query, rotation=90, ha="right", va="center")
        self._draw_scale(self.width + beside + 0.25)

    def _steps(self) -> str:
        """Which tokens are named, where not all are."""
        down, across = self.down.step, self.across.step
        if down == across:
            return "" if down == 1 else f" (one token in {down} is named)"
        sides = [f"one in {down} from"] * (down > 1) + [f"one in {across} to"] * (across > 1)
        return f" (tokens named: {', '.join(sides)})"

    def _draw_scale(self, x: float) -> None:
        from matplotlib.cm import ScalarMappable

        height = min(self.height, 3.0)
        bar = self.figure.add_axes(self._box(x, self.height - height, 0.15, height))
        ticks = [self.norm.inverse(colour / 5) for colour in range(6)]
        scale = ScalarMappable(self.norm, _COLOURS)
        self.figure.colorbar(scale, cax=bar, ticks=ticks, format="%.2g")
        even = 1 / len(self.across.names)
        bar.set_ylabel(f"attention weight\n(spread evenly: {even:.2g})", fontsize=_LARGE)

    def save(self, picture: str | Path) -> None:
        """Write the picture: whole, or not at all."""
        picture = Path(picture)
        name = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}{picture.suffix}"
        temporary = picture.with_name(name)
        kind = picture.suffix[1:].lower()
        try:
            self.figure.savefig(temporary, format=kind, bbox_inches="tight", pad_inches=0.15)
            os.replace(temporary, picture)
        finally:
            temporary.unlink(missing_ok=True)

    def _box(self, x: float, y: float, width: float, height: float) -> Bounds:
        """Inches, from the lower left corner, as shares of the figure."""
        return x / self.width, y / self.height, width / self.width, height / self.height

    def _write(self, x: float, y: float, text: str, **style: Any) -> None:
        self.figure.text(x / self.width, y / self.height, text, **{"fontsize": _LARGE} | style)


def _colour_scale(weights: Tensor) -> "Normalize":
    """From weight to colour: 0 is white, the largest weight is darkest, and 1 / S is light.

    A power of the weight, so that attention spread evenly over the S tokens has the same colour,
    a fifth of the way, however long the text is; on a linear scale it would soon be white.
    """
    from matplotlib.colors import PowerNorm

    top = float(weights.max())
    even = min(1 / (weights.shape[-1] * top), 1.0)
    power = 1.0 if even >= 0.2 else math.log(0.2) / math.log(even)
    return PowerNorm(power, vmin=0.0, vmax=top)

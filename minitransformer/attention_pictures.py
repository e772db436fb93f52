"""Pictures of attention maps: every head of every layer, or one layer large.

Letters: L layers, H heads, T query tokens, S key tokens.
"""

import math
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from minitransformer.files import TEMPORARY_PREFIX
from minitransformer.names import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from minitransformer.attention_maps import AttentionMaps, TokenLabels

Bounds = tuple[float, float, float, float]  # left, bottom, width, height
_SUFFIXES = (".png", ".pdf", ".svg")

# Sizes are in inches, font sizes in points. At 150 dots per inch a font of 7 points can be read on
# a screen without zooming in.
_DPI = 150
_SMALL, _LARGE = 7, 10  # font sizes: of the labels of tokens, and of everything else
_LINE = 0.115  # from one label to the next
_GRID_PANEL = (1.0, 24 * _LINE)  # smallest and largest side; up to 24 tokens are all labelled
_LAYER_PANEL = (2.0, 70 * _LINE)
_LONGEST_LABEL = 18  # characters; a longer label ends in …
# The colours of the labels: special tokens, the first text, the second text.
_LABEL_COLOURS = {None: "0.4", 0: "black", 1: "#b5400b"}
_COLOUR_MAP = "Blues"


def draw_grid(maps: "AttentionMaps", picture: str | Path) -> None:
    """Draw all maps: a row of panels for each layer, a column for each head.

    The outer panels label the tokens: all of them if there are at most 24, else every n-th.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `picture` is not a .png, .pdf or .svg file in a directory that exists.
    """
    check_picture(picture)
    layers, heads, _, _ = maps.maps.shape
    grid = _PanelGrid(maps, layers, heads, _GRID_PANEL, label_all=False, shown=maps.maps)
    for layer in range(layers):
        for head in range(heads):
            panel = grid.draw(layer, head, maps.maps[layer, head])
            if head == 0:
                panel.set_ylabel(f"layer {layer}", fontsize=_LARGE)
            if layer == 0:
                panel.set_title(f"head {head}", fontsize=_LARGE)
    grid.add_legend(f"{maps.title} in {_count(layers, 'layer')} of {_count(heads, 'head')}")
    grid.save(picture)


def draw_layer(maps: "AttentionMaps", layer: int, picture: str | Path) -> None:
    """Draw the maps of one layer large, and label the tokens of every panel.

    All tokens are labelled if there are at most 70, else every n-th.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no such layer, or `picture` is not a .png, .pdf or .svg file in a
            directory that exists.
    """
    check_picture(picture)
    layers, heads, _, _ = maps.maps.shape
    check_layer(layer, layers)
    columns = math.ceil(math.sqrt(heads))
    rows = math.ceil(heads / columns)
    grid = _PanelGrid(maps, rows, columns, _LAYER_PANEL, label_all=True, shown=maps.maps[layer])
    for head in range(heads):
        panel = grid.draw(head // columns, head % columns, maps.maps[layer, head])
        panel.set_title(f"head {head}", fontsize=_LARGE)
    grid.add_legend(f"{maps.title} in layer {layer}")
    grid.save(picture)


def check_picture(picture: str | Path) -> None:
    """Check that this picture can be written.

    Raises:
        ValueError: it is not a .png, .pdf or .svg file in a directory that exists.
    """
    picture = Path(picture)
    if picture.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"{shortened(str(picture))} must end in one of {', '.join(_SUFFIXES)}")
    if not picture.parent.is_dir():
        raise ValueError(
            f"{shortened(str(picture))}: the directory does not exist; create it first"
        )
    if picture.is_dir():
        raise ValueError(f"{shortened(str(picture))} is a directory; give the name of a file")


def check_layer(layer: int, layers: int) -> None:
    """Check that this layer exists; `layers` is the number of layers.

    Raises:
        ValueError: it does not.
    """
    if not 0 <= layer < layers:
        raise ValueError(f"layer={layer} does not exist; the layers are 0 to {layers - 1}")


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size, in inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), dpi=_DPI)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _drawable(labels: Sequence[str]) -> list[str]:
    """The labels, shortened if they are long, with `U+65E5` for a character that no font has.

    The fonts are matplotlib's; to add one, put it under `font.family` in a matplotlibrc file.
    """
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, get_font

    families = [FontProperties(family=[family]) for family in rcParams["font.family"]]
    fonts = [get_font(findfont(family)) for family in families]

    def drawable(character: str) -> str:
        known = any(font.get_char_index(ord(character)) for font in fonts)
        return character if known else f"U+{ord(character):04X}"

    return [
        text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
        for text in ("".join(map(drawable, label)) for label in labels)
    ]


def _widest(labels: Sequence[str]) -> float:
    """The width of the widest label, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=_SMALL)
    widths = [text_to_path.get_text_width_height_descent(label, font, False)[0] for label in labels]
    return max(widths) / 72


class _LabelledAxis:
    """The x axis or the y axis of every panel: the labels of its tokens, and its length.

    Args:
        tokens: the query tokens (y) or the key tokens (x).
        lengths: the smallest and the largest length of the axis, in inches.
    """

    def __init__(self, tokens: "TokenLabels", lengths: tuple[float, float]) -> None:
        self.labels = _drawable(tokens.tokens)
        self.colours = [_LABEL_COLOURS[text] for text in tokens.sequence_ids]
        self.second_text = tokens.second_text
        self.margin = _widest(self.labels) + 0.1  # for a label and its tick
        needed = len(self.labels) * _LINE
        self.length = min(max(needed, lengths[0]), lengths[1])
        self.step = math.ceil(round(needed / self.length, 6))  # every n-th token is labelled

    def add_labels(self, axis: "Axis", rotation: int) -> None:
        """Label the ticks of an axis of matplotlib with the tokens."""
        positions = range(0, len(self.labels), self.step)
        labels = [self.labels[position] for position in positions]
        # parse_math=False: a token such as $x$ is not a formula.
        axis.set_ticks(positions, labels, rotation=rotation, fontsize=_SMALL, parse_math=False)
        for tick, position in zip(axis.get_major_ticks(), positions, strict=True):
            for label in (tick.label1, tick.label2):
                label.set_color(self.colours[position])


class _PanelGrid:
    """A figure with panels in rows and columns, a title, labels, and a colour bar.

    The figure itself is no larger than the panels. Everything around them, such as labels and the
    title, is drawn outside of it, and the picture is enlarged to include that when it is saved.

    Args:
        maps: for the labels of the tokens.
        rows, columns: numbers of panels.
        sides: the smallest and the largest side of a panel, in inches.
        label_all: label the tokens of every panel, on the left and below; False labels only those
            of the outer panels, on all sides.
        shown: the weights that are drawn, (..., T, S), for the colour scale.
    """

    def __init__(
        self,
        maps: "AttentionMaps",
        rows: int,
        columns: int,
        sides: tuple[float, float],
        *,
        label_all: bool,
        shown: Tensor,
    ) -> None:
        self.figure = new_figure(1, 1)
        self.maps, self.rows, self.columns, self.label_all = maps, rows, columns, label_all
        self.x_axis = _LabelledAxis(maps.keys, sides)
        self.y_axis = _LabelledAxis(maps.queries, sides)
        gaps = (0.1, 0.1)  # between columns, between rows
        if label_all:
            gaps = (self.y_axis.margin + 0.15, self.x_axis.margin + 0.35)
        # From one panel to the next, to the right and downwards.
        self.pitch = (self.x_axis.length + gaps[0], self.y_axis.length + gaps[1])
        self.width = columns * self.pitch[0] - gaps[0]
        self.height = rows * self.pitch[1] - gaps[1]
        self.figure.set_size_inches(self.width, self.height)
        self.norm = _colour_scale(shown)

    def draw(self, row: int, column: int, weights: Tensor) -> "Axes":
        """Draw one map, (T, S), in the panel of this row and column."""
        x, y = column * self.pitch[0], self.height - row * self.pitch[1] - self.y_axis.length
        panel = self.figure.add_axes(self._box(x, y, self.x_axis.length, self.y_axis.length))
        for spine in panel.spines.values():
            spine.set_linewidth(0.5)
        panel.imshow(weights.numpy(), norm=self.norm, cmap=_COLOUR_MAP, aspect="auto")
        line: dict[str, Any] = {"color": _LABEL_COLOURS[1], "linewidth": 0.7}
        if self.y_axis.second_text is not None:
            panel.axhline(self.y_axis.second_text - 0.5, **line)
        if self.x_axis.second_text is not None:
            panel.axvline(self.x_axis.second_text - 0.5, **line)
        self._label_tokens(
            panel,
            left=self.label_all or column == 0,
            bottom=self.label_all or row == self.rows - 1,
            right=not self.label_all and column == self.columns - 1,
            top=not self.label_all and row == 0,
        )
        return panel

    def _label_tokens(self, panel: "Axes", **edges: bool) -> None:
        """Label the tokens at those edges of the panel that are True."""
        self.x_axis.add_labels(panel.xaxis, 90)
        self.y_axis.add_labels(panel.yaxis, 0)
        style: dict[str, Any] = {f"label{edge}": shown for edge, shown in edges.items()} | edges
        panel.tick_params(length=2, pad=2, width=0.5, **style)

    def add_legend(self, title: str) -> None:
        """Add the title, the labels of the axes, and the colour bar."""
        above, beside = (0.0, 0.0) if self.label_all else (self.x_axis.margin, self.y_axis.margin)
        layers = 0.0 if self.label_all else 0.3  # "layer 0"
        self._write(0, self.height + above + 0.45, title + self._steps(), fontsize=_LARGE + 3)
        key, query = "to: the token attended to (key)", f"from: {self.maps.query_label} (query)"
        self._write(self.width / 2, -self.x_axis.margin - 0.05, key, ha="center", va="top")
        x = -self.y_axis.margin - layers
        self._write(x, self.height / 2, query, rotation=90, ha="right", va="center")
        self._draw_colour_bar(self.width + beside + 0.25)

    def _steps(self) -> str:
        """Which tokens are labelled; empty if all are."""
        y, x = self.y_axis.step, self.x_axis.step
        if y == x:
            return "" if y == 1 else f" (one token in {y} is labelled)"
        axes = [f"one in {y} from"] * (y > 1) + [f"one in {x} to"] * (x > 1)
        return f" (labelled tokens: {', '.join(axes)})"

    def _draw_colour_bar(self, x: float) -> None:
        from matplotlib.cm import ScalarMappable

        height = min(self.height, 3.0)
        bar = self.figure.add_axes(self._box(x, self.height - height, 0.15, height))
        ticks = [self.norm.inverse(colour / 5) for colour in range(6)]
        scale = ScalarMappable(self.norm, _COLOUR_MAP)
        self.figure.colorbar(scale, cax=bar, ticks=ticks, format="%.2g")
        even = 1 / len(self.x_axis.labels)
        bar.set_ylabel(f"attention weight\n(if spread evenly: {even:.2g})", fontsize=_LARGE)

    def save(self, picture: str | Path) -> None:
        """Write the picture atomically."""
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
        """Convert inches from the lower left corner to fractions of the figure."""
        return x / self.width, y / self.height, width / self.width, height / self.height

    def _write(self, x: float, y: float, text: str, **style: Any) -> None:
        self.figure.text(x / self.width, y / self.height, text, **{"fontsize": _LARGE} | style)


def _colour_scale(weights: Tensor) -> "Normalize":
    """From weight to colour: 0 is white, the largest weight is the darkest, and 1 / S is light.

    The scale is a power of the weight, chosen so that attention that is spread evenly over the S
    tokens always has the same colour, a fifth of the way. On a linear scale it would be white for
    all but short texts.
    """
    from matplotlib.colors import PowerNorm

    top = float(weights.max())
    even = min(1 / (weights.shape[-1] * top), 1.0)
    power = 1.0 if even >= 0.2 else math.log(0.2) / math.log(even)
    return PowerNorm(power, vmin=0.0, vmax=top)

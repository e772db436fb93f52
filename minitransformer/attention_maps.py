"""Who attends to whom: the attention maps of a text, and pictures of them.

:func:`attention_maps` computes them, :func:`draw_grid` shows every head of every layer at once,
:func:`draw_layer` one layer large; :func:`attention_picture` does it all for a checkpoint.

L layers, H heads, T tokens. Layers and heads are counted from 0, as in `output.attentions`.
"""

import math
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minitransformer.batch_encoding import BatchEncoding
from minitransformer.files import TEMPORARY_PREFIX
from minitransformer.hf.loading import from_pretrained
from minitransformer.models.base import Model
from minitransformer.tasks.running import check_vocabularies, load_tokenizer
from minitransformer.tokenization import Tokenizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

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
_VISIBLE = str.maketrans({" ": "·", "\n": "↵", "\r": "↵", "\t": "⇥"})


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """The attention of every head of a model over one text, or over a pair of texts.

    Attributes:
        tokens: T names to read: the text's own characters, `·` for a space that the token begins
            with, and `…` where it begins or ends inside a character.
        maps: (L, H, T, T) float32 on the CPU: `maps[l, h, i, j]` is how much token i takes from
            token j. Every row is a distribution.
        sequence_ids: T times 0 (first text), 1 (second text) or None (special token).
    """

    tokens: tuple[str, ...]
    maps: Tensor
    sequence_ids: tuple[int | None, ...]

    @property
    def second_text(self) -> int | None:
        """The place of the second text's first token; None where there is one text."""
        return self.sequence_ids.index(1) if 1 in self.sequence_ids else None


@torch.no_grad()
def attention_maps(
    model: Model, tokenizer: Tokenizer, text: str, pair: str | None = None
) -> AttentionMaps:
    """Run `model` on `text`, or on the pair of texts, and keep every head's map.

    The model runs under its own kernel, without dropout.

    Raises:
        TypeError: a text is no str.
        ValueError: a text has no token, the texts are too long for the model (nothing is cut), or
            the tokenizer has more tokens than the model has embeddings.
    """
    texts = (text,) if pair is None else (text, pair)
    batch = tokenizer([text], None if pair is None else [pair], return_tensors="pt")
    _check_fit(model, tokenizer, batch, texts)
    names = _readable(tokenizer, batch, texts)
    batch = batch.to(next(model.parameters()).device)
    with _without_dropout(model):
        output: Any = model(**batch, output_attentions=True)
    maps = torch.cat(output.attentions).float().cpu()  # (L, H, T, T)
    return AttentionMaps(names, maps, tuple(batch.sequence_ids()))


def attention_picture(
    path: str | Path,
    text: str,
    picture: str | Path,
    *,
    pair: str | None = None,
    layer: int | None = None,
    device: str | torch.device = "cpu",
) -> None:
    """Draw what a checkpoint attends to in a text, or in a pair of texts.

    Args:
        path: a directory, or a name on the hub.
        text, pair: the text or texts.
        picture: a .png, .pdf or .svg file to write, in a directory that exists.
        layer: draw this layer alone, large; None draws the grid of all.
        device: where the model runs.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the picture cannot be written there, the layer does not exist, or as in
            :func:`attention_maps`.
    """
    # What would spoil the end is found out before the model is loaded.
    _check_picture(picture)
    _new_figure(1, 1)
    model = from_pretrained(path, device=device)
    if layer is not None:
        _check_layer(layer, model.config.num_hidden_layers)
    maps = attention_maps(model, load_tokenizer(path, model), text, pair)
    if layer is None:
        draw_grid(maps, picture)
    else:
        draw_layer(maps, layer, picture)


def draw_grid(maps: AttentionMaps, picture: str | Path) -> None:
    """Draw all maps: a row of panels for each layer, a column for each head.

    The outer panels name the tokens: each where there are up to 24, else every n-th.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `picture` is no .png, .pdf or .svg file in a directory that exists.
    """
    _check_picture(picture)
    layers, heads, _, _ = maps.maps.shape
    sheet = _Sheet(maps, layers, heads, _GRID_PANEL, name_all=False, shown=maps.maps)
    for layer in range(layers):
        for head in range(heads):
            panel = sheet.draw(layer, head, maps.maps[layer, head])
            if head == 0:
                panel.set_ylabel(f"layer {layer}", fontsize=_LARGE)
            if layer == 0:
                panel.set_title(f"head {head}", fontsize=_LARGE)
    sheet.explain(f"Attention in {_count(layers, 'layer')} of {_count(heads, 'head')}")
    sheet.save(picture)


def draw_layer(maps: AttentionMaps, layer: int, picture: str | Path) -> None:
    """Draw the maps of one layer large, every panel with its tokens: of more than 70 every n-th.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no such layer, or `picture` is as :func:`draw_grid` refuses it.
    """
    _check_picture(picture)
    layers, heads, _, _ = maps.maps.shape
    _check_layer(layer, layers)
    columns = math.ceil(math.sqrt(heads))
    rows = math.ceil(heads / columns)
    sheet = _Sheet(maps, rows, columns, _LAYER_PANEL, name_all=True, shown=maps.maps[layer])
    for head in range(heads):
        panel = sheet.draw(head // columns, head % columns, maps.maps[layer, head])
        panel.set_title(f"head {head}", fontsize=_LARGE)
    sheet.explain(f"Attention in layer {layer}")
    sheet.save(picture)


# ---- the maps ----


def _check_fit(
    model: Model, tokenizer: Tokenizer, batch: BatchEncoding, texts: Sequence[str]
) -> None:
    config: Any = model.config
    check_vocabularies(model, tokenizer)
    owners = batch.sequence_ids()
    for place, text in enumerate(texts):
        if place not in owners:
            raise ValueError(f"text {place}, {text!r}, has no token; give it a word at least")
    if len(owners) > config.max_sequence_length:
        which = "the text has" if len(texts) == 1 else "the two texts have"
        raise ValueError(
            f"{which} {len(owners)} tokens, special ones included, but only "
            f"{config.max_sequence_length} fit into this model; shorten what is to be drawn"
        )


@contextmanager
def _without_dropout(model: Model) -> Iterator[None]:
    """Every module in evaluation mode; those that were training go on with it afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


# ---- the names of the tokens ----


def _readable(tokenizer: Tokenizer, batch: BatchEncoding, texts: Sequence[str]) -> tuple[str, ...]:
    """A name for each of the T tokens of the batch's one row.

    Byte-level tokens are spelled in letters that stand for bytes ("cittÃł" is "città"), so their
    characters are taken from the text. The tokens of the other algorithms can be read as they are.
    """
    tokens, owners, spans = batch.tokens(), batch.sequence_ids(), batch.offsets()
    by_bytes = type(tokenizer.backend.decoder).__name__ == "ByteLevel"
    names = []
    for place, (token, owner) in enumerate(zip(tokens, owners, strict=True)):
        if owner is None or batch.encodings[0].ids[place] in tokenizer.special_ids:
            names.append(token.strip())
        elif by_bytes:
            spaces = "·" * (len(token) - len(token.lstrip("Ġ")))
            names.append(spaces + _characters(texts[owner], place, owners, spans))
        else:
            names.append(token.replace("▁", "·"))
    return tuple(name.translate(_VISIBLE) for name in names)


def _characters(
    text: str, place: int, owners: list[int | None], spans: list[tuple[int, int]]
) -> str:
    """The characters of a byte-level token; `…` on the side where it has only part of one."""
    start, end = spans[place]
    neighbours = [
        spans[other] if 0 <= other < len(owners) and owners[other] == owners[place] else None
        for other in (place - 1, place + 1)
    ]
    before, after = neighbours
    return (
        "…" * (before is not None and before[1] > start)
        + text[start:end].lstrip(" ")
        + "…" * (after is not None and after[0] < end)
    )


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


# ---- the picture ----


def _check_picture(picture: str | Path) -> None:
    picture = Path(picture)
    if picture.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"{str(picture)!r} does not end in {', '.join(_SUFFIXES)}; choose one")
    if not picture.parent.is_dir():
        raise ValueError(f"there is no directory {str(picture.parent)!r} for {picture.name}")
    if picture.is_dir():
        raise ValueError(f"{str(picture)!r} is a directory; name a file")


def _check_layer(layer: int, layers: int) -> None:
    if not 0 <= layer < layers:
        raise ValueError(f"layer={layer} does not exist; the layers are 0 to {layers - 1}")


def _new_figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), dpi=_DOTS)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


class _Sheet:
    """Square panels in rows and columns, and what explains them.

    The figure itself is no larger than its panels. All that stands around them, names and titles,
    is drawn outside, and the figure grows around it when it is saved.

    Args:
        maps: for the names of the tokens.
        rows, columns: of panels.
        sides: the smallest and the largest side of a panel.
        name_all: name the tokens left of and below each panel, not only all around the outer ones.
        shown: the weights that are drawn, (..., T, T), for the scale of colours.
    """

    def __init__(
        self,
        maps: AttentionMaps,
        rows: int,
        columns: int,
        sides: tuple[float, float],
        *,
        name_all: bool,
        shown: Tensor,
    ) -> None:
        self.figure = _new_figure(1, 1)
        self.maps, self.rows, self.columns, self.name_all = maps, rows, columns, name_all
        self.names = _drawable(maps.tokens)
        self.room = _widest(self.names) + 0.1  # for a name and its tick
        length = len(self.names)
        self.side = min(max(length * _LINE, sides[0]), sides[1])
        self.step = math.ceil(round(length * _LINE / self.side, 6))  # every n-th token is named
        across, down = (self.room + 0.15, self.room + 0.35) if name_all else (0.1, 0.1)
        self.pitch = (self.side + across, self.side + down)
        self.width = columns * self.pitch[0] - across
        self.height = rows * self.pitch[1] - down
        self.figure.set_size_inches(self.width, self.height)
        self.norm = _colour_scale(shown)

    def draw(self, row: int, column: int, weights: Tensor) -> "Axes":
        """Draw one map, (T, T), as the panel at this place."""
        x, y = column * self.pitch[0], self.height - row * self.pitch[1] - self.side
        panel = self.figure.add_axes(self._box(x, y, self.side, self.side))
        for spine in panel.spines.values():
            spine.set_linewidth(0.5)
        panel.imshow(weights.numpy(), norm=self.norm, cmap=_COLOURS, aspect="auto")
        second = self.maps.second_text
        if second is not None:
            panel.axhline(second - 0.5, color=_INK[1], linewidth=0.7)
            panel.axvline(second - 0.5, color=_INK[1], linewidth=0.7)
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
        places = range(0, len(self.names), self.step)
        names = [self.names[place] for place in places]
        for axis, rotation in ((panel.xaxis, 90), (panel.yaxis, 0)):
            # A token such as $x$ is no formula.
            axis.set_ticks(places, names, rotation=rotation, fontsize=_SMALL, parse_math=False)
            for tick, place in zip(axis.get_major_ticks(), places, strict=True):
                for label in (tick.label1, tick.label2):
                    label.set_color(_INK[self.maps.sequence_ids[place]])
        style: dict[str, Any] = {f"label{edge}": there for edge, there in edges.items()} | edges
        panel.tick_params(length=2, pad=2, width=0.5, **style)

    def explain(self, title: str) -> None:
        """Write around the panels what they show: the title, the axes, the scale of colours."""
        around = 0.0 if self.name_all else self.room
        layers = 0.0 if self.name_all else 0.3  # "layer 0"
        some = "" if self.step == 1 else f" (one token in {self.step} is named)"
        self._write(0, self.height + around + 0.45, title + some, fontsize=_LARGE + 3)
        key, query = "to: the token attended to (key)", "from: the token that attends (query)"
        self._write(self.width / 2, -self.room - 0.05, key, ha="center", va="top")
        x = -self.room - layers
        self._write(x, self.height / 2, query, rotation=90, ha="right", va="center")
        self._draw_scale(self.width + around + 0.25)

    def _draw_scale(self, x: float) -> None:
        from matplotlib.cm import ScalarMappable

        height = min(self.height, 3.0)
        bar = self.figure.add_axes(self._box(x, self.height - height, 0.15, height))
        ticks = [self.norm.inverse(colour / 5) for colour in range(6)]
        scale = ScalarMappable(self.norm, _COLOURS)
        self.figure.colorbar(scale, cax=bar, ticks=ticks, format="%.2g")
        even = 1 / len(self.names)
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
    """From weight to colour: 0 is white, the largest weight is darkest, and 1 / T is light.

    A power of the weight, so that attention spread evenly over the T tokens has the same colour,
    a fifth of the way, however long the text is; on a linear scale it would soon be white.
    """
    from matplotlib.colors import PowerNorm

    top = float(weights.max())
    even = min(1 / (weights.shape[-1] * top), 1.0)
    power = 1.0 if even >= 0.2 else math.log(0.2) / math.log(even)
    return PowerNorm(power, vmin=0.0, vmax=top)

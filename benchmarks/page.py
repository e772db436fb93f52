"""One page of HTML with everything that a directory of results holds, which needs no other file."""

from base64 import b64encode
from html import escape
from pathlib import Path

import pandas as pd

from benchmarks.comparison import comparison, measured
from benchmarks.report import benchmark_of, cells, stems_of
from benchmarks.runs import read

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Benchmarks</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 75em; margin: auto; padding: 0 1em 3em }}
img {{ max-width: 100%; min-width: 50em; height: auto }}
pre, .wide {{ overflow-x: auto; font-size: 12px; line-height: 1.35 }}
table {{ border-collapse: collapse; font-size: 12px }}
th, td {{ padding: 0.1em 0.6em; text-align: left; border: 1px solid #ddd }}
</style>
<h1>Benchmarks</h1>
{body}
</html>
"""


def html(directory: Path, old: Path | None, compared: list[str]) -> str:
    """The page: of each CSV file its conditions, its table, its pictures and all of its rows.

    Args:
        directory: with CSV files, and the pictures that were drawn from them.
        old: with files of another run.
        compared: the names of files that both have.
    """
    stems = stems_of(directory)
    links = [f'<li><a href="#{escape(stem)}">{escape(stem)}</a></li>' for stem in stems]
    body = ["<ul>", *links, "</ul>"]
    for stem in stems:
        frame = read(directory / f"{stem}.csv")
        body.append(f'<h2 id="{escape(stem)}">{escape(stem)}</h2>')
        body.append(as_table(conditions(frame), header=False))
        if stem in compared and old is not None:
            before = read(old / f"{stem}.csv")
            body += ["<h3>Beside another run</h3>", as_text(comparison(stem, frame, before))]
            body.append(as_image(directory / f"compare_{stem}.png"))
        body += [as_image(file) for file in pictures_of(directory, stem, stems)]
        body += [as_text(benchmark_of(stem).table(frame)), "<details><summary>All rows</summary>"]
        body += [as_table(all_rows(frame)), "</details>"]
    return PAGE.format(body="\n".join(body))


def conditions(frame: pd.DataFrame) -> pd.DataFrame:
    """What all rows have in common, and the range of the load."""
    texts = {
        str(name): str(frame[name].iloc[0])
        for name in frame
        if frame[name].nunique(dropna=False) == 1 and frame[name].notna().all()
    }
    if "load" in frame:
        texts["load"] = f"{frame['load'].min():g} to {frame['load'].max():g}"
    return pd.DataFrame(texts.items())


def all_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Every row as texts, without what all have in common."""
    names = [name for name in frame if frame[name].nunique(dropna=False) > 1]
    spreads = {f"{name}{end}" for name in measured(frame) for end in ("_low", "_high")}
    table = frame[[name for name in names if name not in spreads]].copy()
    for name in table.select_dtypes("number"):
        table[name] = cells(frame, str(name), "{:,.4g}")
    return table.fillna("")


def pictures_of(directory: Path, stem: str, stems: list[str]) -> list[Path]:
    """The pictures whose names begin with this name and no longer one, or the other way round."""

    def belongs(picture: Path, name: str) -> bool:
        return picture.stem.startswith(name) or name.startswith(picture.stem)

    return [
        picture
        for picture in sorted(directory.glob("*.png"))
        if stem == max((s for s in stems if belongs(picture, s)), key=len, default=None)
    ]


def as_image(file: Path) -> str:
    """A picture in the page itself."""
    data = b64encode(file.read_bytes()).decode("ascii")
    image = f'<img alt="{escape(file.stem)}" src="data:image/png;base64,{data}">'
    return f'<div class="wide">{image}</div>'


def as_text(text: str) -> str:
    """A table as the terminal shows it."""
    return f"<pre>{escape(text)}</pre>"


def as_table(frame: pd.DataFrame, *, header: bool = True) -> str:
    """A table that scrolls where the screen is narrow."""
    return f'<div class="wide">{frame.to_html(index=False, header=header, border=0)}</div>'

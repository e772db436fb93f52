"""Write the tables of ratios in README.md and in results/README.md anew, from the files there.

    python -m benchmarks.tables

A table stands between two comments that say what is in it, so that nobody types a measured number.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison_report import read

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", RESULTS / "README.md")
AGAINST = ("as it comes", "at its best")
DTYPES = ("float32", "bfloat16")
# <!-- ratios: training inference, dropout 0.1, in FOLDER --> ... <!-- ratios end -->
TABLE = re.compile(
    r"(<!-- ratios: (?P<names>[a-z ]+?)(, dropout (?P<dropout>[0-9.]+))?"
    r"(, in (?P<folder>[a-z0-9_]+))? -->\n).*?(?P<end><!-- ratios end -->)",
    re.DOTALL,
)

Row = Mapping[str, Any]


def main() -> int:
    """Write every table of every page; returns the exit status."""
    for page in PAGES:
        page.write_text(renewed(page.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
    return 0


def renewed(page: str, results: Path) -> str:
    """The page with the tables that the files of a directory give.

    Raises:
        ValueError: there is no file for a table.
    """

    def table_for(found: re.Match[str]) -> str:
        rows = [
            row
            for name in found["names"].split()
            for part in read(results / (found["folder"] or ""), name)
            for row in part["ratios"]
            if row.get("dropout") in (None, float(found["dropout"] or 0))
        ]
        return f"{found[1]}{table(rows)}{found['end']}"

    return TABLE.sub(table_for, page)


def table(rows: Sequence[Row]) -> str:
    """A line for each case: for each kind of comparison the bar, and the ratio in each dtype."""
    head = ["work"]
    for against in AGAINST:
        head += [f"{against}: bar", *DTYPES]
    lines = [head, ["---"] * len(head)]
    for case in dict.fromkeys(row["case"] for row in rows):
        line = [case]
        for against in AGAINST:
            mine = [row for row in rows if (row["case"], row["against"]) == (case, against)]
            bar = next((row["target"] for row in mine), None)
            line.append("" if bar is None else f"{bar:g}")
            line += [_ratio(mine, dtype) for dtype in DTYPES]
        lines.append(line)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _ratio(rows: Sequence[Row], dtype: str) -> str:
    ratios = [row["ratio"] for row in rows if row["dtype"] == dtype]
    if not ratios:
        return "not measured"
    (ratio,) = ratios
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"


if __name__ == "__main__":
    sys.exit(main())

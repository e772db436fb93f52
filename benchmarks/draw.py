"""Draw the pictures of a directory of results again, from its files alone.

python -m benchmarks.draw benchmarks/results
"""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import comparison_report, generation_report
from minitransformer.arguments import Parser
from train.arguments import run_job


def draw_generation(directory: Path) -> None:
    """Draw generation.png."""
    found = json.loads((directory / "generation.json").read_text(encoding="utf-8"))
    generation_report.draw(found, directory / "generation.png")


# By the benchmark's name, which begins the names of its files, what draws its picture.
DRAW: dict[str, Callable[[Path], None]] = {
    "generation": draw_generation,
    "training": partial(comparison_report.draw, name="training"),
    "inference": partial(comparison_report.draw, name="inference"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what there are files for; returns the exit status."""
    parser = Parser(prog="python -m benchmarks.draw", description=str(__doc__).split("\n")[0])
    parser.add_argument("directory", type=Path, help="with the JSON files of benchmarks")
    arguments = parser.parse_args(argv)
    return run_job(lambda: run(arguments.directory))


def run(directory: Path) -> int:
    """Draw every picture.

    Raises:
        ValueError: there is nothing to draw.
    """
    present = [name for name in DRAW if any(directory.glob(f"{name}*.json"))]
    if not present:
        raise ValueError(f"{directory} holds no results of {', '.join(DRAW)}")
    for name in present:
        DRAW[name](directory)
        print(directory / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Draw the pictures of a directory of results again, from its files alone.

python -m benchmarks.draw benchmarks/results
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import attention_cost_report, comparison_report, generation_report
from benchmarks.measuring import DTYPES
from minitransformer.arguments import Parser
from train.arguments import run_job


def draw_generation(directory: Path, name: str) -> None:
    """Draw name.png."""
    found = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
    generation_report.draw(found, directory / f"{name}.png")


# What draws the pictures of a benchmark, in a directory and by the name of its files.
DRAW: dict[str, Callable[[Path, str], None]] = {
    "generation": draw_generation,
    "training": comparison_report.draw,
    "inference": comparison_report.draw,
    "attention_cost": attention_cost_report.draw_again,
}
# A quick run has names of its own.
DRAW |= {f"{name}_quick": draw for name, draw in DRAW.items()}


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
    present = [name for name in DRAW if has_results(directory, name)]
    if not present:
        raise ValueError(f"{directory} holds no results of {', '.join(DRAW)}")
    for name in present:
        DRAW[name](directory, name)
        print(f"drawn: {name}")
    return 0


def has_results(directory: Path, name: str) -> bool:
    """Whether a benchmark has files there, of some dtype or of all."""
    patterns = [f"{name}.json", *(f"{name}_{dtype}*.json" for dtype in DTYPES)]
    return any(file for pattern in patterns for file in directory.glob(pattern))


if __name__ == "__main__":
    sys.exit(main())

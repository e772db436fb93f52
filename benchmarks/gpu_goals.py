"""What a GPU reached beside what it should reach: the last step of benchmarks/gpu.sh.

    python -m benchmarks.gpu_goals --device cuda --dtype bfloat16 --out DIR

Reads the files that the other steps left in DIR, complete or not, and measures the rate of a large
product of matrices. What has no file is not measured. --quick says that their models were small.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.encoders import OPTIMIZED, QUICK_SIZES, SIZES
from benchmarks.measuring import DTYPES, timed
from benchmarks.runs import benchmark_parser, environment, read, start

MASKED = 0.15  # of the tokens
GOALS = {  # what each column of a file is, and should be
    "times_default": ("times transformers with default settings", 2.5),
    "times_best": ("times transformers with best settings", 2.0),
    "of_products": ("of the rate of a product of matrices", 0.5),
    "times_faster": ("times transformers' generate", 10.0),
    "times_compiled": ("times transformers' generate, static cache, compiled", 1.5),
    "length": ("tokens of the longest sequence", 32_768),
}
FULL = re.compile(r"MLM, V ([0-9,]+), sequences of ([0-9]+)")


def main(argv: Sequence[str] | None = None) -> int:
    """Read, measure and print; returns the exit status."""
    return start(benchmark_parser("gpu_goals", str(__doc__).split("\n")[0]), argv, run)


def run(arguments: argparse.Namespace) -> None:
    """All goals, to the terminal."""
    out, dtype = arguments.out, arguments.dtype
    sizes = QUICK_SIZES if arguments.quick else SIZES
    rate = product_rate(arguments.device, dtype, 512 if arguments.quick else 8192)
    end = f"{'_quick' * arguments.quick}"
    training = rows(out, f"training{end}_{dtype}")
    training = pd.concat([training, rows(out / "compiled", f"training{end}_{dtype}")])
    generation, attention = rows(out, f"generation{end}"), rows(out, f"attention_cost{end}_{dtype}")
    found = ratios(training, "times_default", "times_best")
    found |= ratios(generation, "times_faster", "times_compiled")
    found["of_products"] = products(training, sizes, rate)
    if "milliseconds" in attention:
        ours = attention[attention["implementation"] == "ours optimized"]
        found["length"] = {"attention": ours.dropna(subset="milliseconds")["length"].max()}
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    for name, value in environment(arguments.device).items():
        print(f"{name}: {value}")
    print(f"a product of matrices in {dtype}: {rate / 1e12:.3g} TFLOP/s\n")
    lines = []
    for column, (words, goal) in GOALS.items():
        for case, value in found.get(column, {}).items():
            verdict = "reached" if value >= goal else "missed"
            number = f"{value:,.2f}".removesuffix(".00")
            lines.append([words, case, number, f"{goal:,g}", verdict])
        if not found.get(column):
            lines.append([words, "", "", f"{goal:,g}", "not measured"])
    table = pd.DataFrame(lines, columns=["what", "case", "found", "goal", ""])
    print(table.to_string(index=False))


def rows(directory: Path, name: str) -> pd.DataFrame:
    """The rows of a file, of a run that was stopped as well; none if there is no file."""
    for end in ("csv", "unfinished.csv"):
        if (file := directory / f"{name}.{end}").is_file():
            return read(file)
    return pd.DataFrame()


def ratios(frame: pd.DataFrame, *columns: str) -> dict[str, dict[str, float]]:
    """By column and case the optimized model's; where a case was measured twice, the lower one."""
    found: dict[str, dict[str, float]] = {}
    for column in columns:
        if column in frame:
            mine = frame[frame["implementation"].eq(OPTIMIZED) & frame[column].notna()]
            found[column] = mine.groupby("case", sort=False)[column].min().to_dict()
    return found


def products(frame: pd.DataFrame, sizes: dict[str, Any], rate: float) -> dict[str, float]:
    """The share of a product's rate at which the optimized model trains on full sequences."""
    found = {}
    for row in frame.to_dict("records"):
        full = FULL.fullmatch(row["case"])
        if full and row["implementation"] == OPTIMIZED:
            vocab_size, length = (int(number.replace(",", "")) for number in full.groups())
            flops = flops_per_token(sizes, vocab_size, length) * row["real_tokens_per_second"]
            found[row["case"]] = flops / rate
    return found


def flops_per_token(sizes: dict[str, Any], vocab_size: int, length: int) -> float:
    """What a training step of an optimized RoBERTa multiplies and adds for a token.

    Its last layer has queries, and its head inputs, of masked tokens alone. A backward pass has
    twice as many products as a forward pass.
    """
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    of_keys = 4 * hidden**2  # and values
    of_queries = 4 * hidden**2 + 4 * hidden * inner + 4 * length * hidden
    head = 2 * hidden**2 + 2 * hidden * vocab_size
    layers = sizes["num_hidden_layers"] - 1 + MASKED
    return 3 * (sizes["num_hidden_layers"] * of_keys + layers * of_queries + MASKED * head)


def product_rate(device: str, dtype: str, size: int) -> float:
    """FLOPs a second of a product of square matrices, the best of three times."""
    a, b = torch.randn(2, size, size, device=device, dtype=DTYPES[dtype])
    seconds = min(timed(lambda: a @ b, device, repeats=10) for _ in range(3))
    return 2 * size**3 / seconds


if __name__ == "__main__":
    sys.exit(main())

"""The command-line arguments that benchmarks share."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.measuring import DTYPES
from minitransformer.arguments import Parser, device, positive
from minitransformer.layers.attention import ATTENTION_IMPLEMENTATIONS


def benchmark_parser(module: str, description: str, dtype_help: str = "of all sides") -> Parser:
    """A parser with the options that every benchmark has.

    Args:
        module: the benchmark's name in this directory.
        description: one line.
        dtype_help: what --dtype decides.
    """
    parser = Parser(prog=f"python -m benchmarks.{module}", description=description)
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help=dtype_help)
    parser.add_argument(
        "--threads", type=positive, default=torch.get_num_threads(), help="of the CPU"
    )
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument(
        "--out", type=_directory, required=True, help="directory for CSV, JSON and PNG"
    )
    return parser


def add_case_options(parser: Parser, cases: Iterable[str], seed_of: str) -> None:
    """The options of a benchmark that goes over batches of several cases.

    Args:
        parser: the benchmark's.
        cases: their names, in the order of the table.
        seed_of: what --seed decides.
    """
    names = list(cases)
    parser.add_argument(
        "--cases", nargs="+", choices=names, default=names, help="what is measured (default: all)"
    )
    parser.add_argument("--passes", type=positive, help="times over the batches of each case")
    parser.add_argument(
        "--compile-theirs",
        nargs="+",
        choices=names,
        default=[],
        help="cases in which transformers is measured compiled too",
    )
    parser.add_argument(
        "--attention",
        choices=sorted(ATTENTION_IMPLEMENTATIONS),
        default="sdpa",
        help="our attention implementation",
    )
    add_plain_option(parser)
    parser.add_argument("--seed", type=int, default=0, help=seed_of)
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run that did not end in --out"
    )


def add_plain_option(parser: Parser) -> None:
    """The option of a benchmark whose side of ours is optimized by default."""
    parser.add_argument(
        "--plain", action="store_true", help="time our model as it is loaded, not optimized"
    )


def check_compiled_cases(arguments: argparse.Namespace) -> None:
    """What is to be compiled has to be measured.

    Raises:
        ValueError: --compile-theirs names a case that --cases leaves out.
    """
    if unmeasured := set(arguments.compile_theirs) - set(arguments.cases):
        raise ValueError(
            f"--compile-theirs {' '.join(sorted(unmeasured))}: not among the --cases "
            f"{' '.join(arguments.cases)}"
        )


def _directory(text: str) -> Path:
    """A directory that can be written to, or made, found out before hours of measuring."""
    path = Path(text)
    there = next(part for part in (path, *path.parents) if os.path.lexists(part))
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{there} is no directory that can be written to")
    return path

"""The command-line arguments that all benchmarks share."""

from pathlib import Path

import torch

from benchmarks.measuring import DTYPES
from minitransformer.arguments import Parser, device, positive


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
    parser.add_argument("--out", type=Path, required=True, help="directory for CSV, JSON and PNG")
    return parser

"""What stands around the numbers of a benchmark, and the files into which they are written."""

import csv
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from minitransformer.files import atomic_directory

Found = Mapping[str, Any]


def environment(device: str) -> dict[str, Any]:
    """What the numbers depend on beside the code that is measured."""
    return {
        "commit": _commit(),
        "device": _processor() if device == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("minitransformer", "torch", "transformers")}
        | {"python": platform.python_version()},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_at_the_start": load_average(),
    }


def load_average() -> float:
    """Processes that wanted a core during the last minute: how quiet the machine was."""
    return round(os.getloadavg()[0], 2)


def around(found: Found) -> str:
    """One line about the machine, to stand over a table."""
    where = found["environment"]
    return (
        f"{where['device']}, {where['threads']} threads; load {where['load_at_the_start']} "
        f"at the start, {where['load_at_the_end']} at the end"
    )


def save(found: Found, rows: Iterable[Mapping[str, Any]], stem: Path) -> None:
    """Write everything to stem.json, and the rows to stem.csv.

    There they are flat, and each has the commit, the machine and the versions. Who is killed
    meanwhile leaves old files, new ones, or a CSV without JSON.
    """
    where = found["environment"]
    same = {name: where[name] for name in ("commit", "device", "threads")} | where["versions"]
    lines = [flat({**row, **same}) for row in rows]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    with atomic_directory(stem.parent, last=f"{stem.name}.json") as directory:
        text = json.dumps(found, indent=1)
        (directory / f"{stem.name}.json").write_text(text + "\n", encoding="utf-8")
        with open(directory / f"{stem.name}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without rows in it: what has a spread gets three columns."""
    result: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            result |= {
                name if edge == "median" else f"{name}_{edge}": value[edge] for edge in value
            }
        else:
            result[name] = value
    return {n: _rounded(v) if isinstance(v, float) else v for n, v in result.items()}


def _rounded(value: float) -> float:
    """Four decimals; of what is small, four digits."""
    return round(value, 4) if abs(value) >= 0.1 else float(f"{value:.4g}")


def _commit() -> str:
    """The state of the code; a plus sign says that it was edited since."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def _processor() -> str:
    """The name of the CPU."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()

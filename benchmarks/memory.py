"""How much memory a call takes at most, and how much there is."""

import ctypes
from pathlib import Path

import torch

from benchmarks.measuring import Call

_PROCESS, _MACHINE = Path("/proc/self"), Path("/proc/meminfo")


def peak_memory(call: Call, device: torch.device | str) -> int | None:
    """Bytes that a call needs at its highest, beyond what was there before; None: not known here.

    On a GPU PyTorch counts what it hands out. On a CPU Linux counts the pages that are in memory,
    in which the scratch space of libraries is included, but not what stays in memory from before
    and is used again. So call once before, for what is made once.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        give_back_free_memory(device)  # or it would be missing in the count
        (_PROCESS / "clear_refs").write_text("5")  # forgets the highest so far: see man 5 proc
        before = _kilobytes(_PROCESS / "status", "VmRSS")
        call()
        return 1024 * max(0, _kilobytes(_PROCESS / "status", "VmHWM") - before)
    except (OSError, AttributeError):
        return None


def available_memory(device: torch.device | str) -> int | None:
    """Bytes that can still be taken without a failure; None: not known here."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + kept
    try:
        return 1024 * _kilobytes(_MACHINE, "MemAvailable")
    except OSError:
        return None


def give_back_free_memory(device: torch.device | str) -> None:
    """Let the C library, or PyTorch on a GPU, return what it keeps for later.

    Raises:
        AttributeError: this C library has no such function.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    else:
        ctypes.CDLL(None).malloc_trim(0)


def _kilobytes(file: Path, name: str) -> int:
    """The number behind a name in one of Linux's lists."""
    for line in file.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"{file} has no {name}")

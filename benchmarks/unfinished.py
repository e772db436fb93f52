"""What a run has measured so far, in a file until it has measured everything.

So Ctrl-C, or an error in a late case, costs that case alone.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minitransformer.files import atomic_directory, read_json, write_json
from train.checkpoints import differences

Record = dict[str, Any]
_CODE = ("minitransformer", "train", "benchmarks")
_PARTS = {"run", "loads", "measured"}  # of the file


class UnfinishedRun:
    """The cases that a run has measured, and the file that keeps them.

    Args:
        file: the file; it may not exist yet.
        resume: whether to go on with what is in it.

    Raises:
        ValueError: there is such a file, and `resume` is not given, or the file is damaged.
    """

    def __init__(self, file: Path, *, resume: bool) -> None:
        self.file = file
        self._kept: Record = {"run": None, "loads": [], "measured": []}
        if not file.exists():
            if resume:
                tqdm.write(f"there is no {file} to go on with: a new run", file=sys.stderr)
            return
        if not resume:
            raise ValueError(
                f"{file} holds what a run measured that did not end; go on with --resume, or "
                "delete it"
            )
        self._kept = read_json(file)
        if self._kept.keys() != _PARTS:
            raise ValueError(f"{file} is damaged: {', '.join(self._kept)} in it; delete it")

    def begin(self, run: Record, load: float) -> None:
        """Begin the run, or go on with it.

        Args:
            run: what has to be the same all the time.
            load: of the machine, now.

        Raises:
            ValueError: the file is of another run.
        """
        run = json.loads(json.dumps(run))  # as the file gives it back: no tuples
        before = run if self._kept["run"] is None else self._kept["run"]
        if changed := differences(before, run):
            raise ValueError(
                f"{self.file} belongs to another run: {'; '.join(changed)}. Go on with what it "
                "had, or delete it"
            )
        self._kept["run"] = run
        self.loads.append(load)

    @property
    def loads(self) -> list[float]:
        """Of the machine, each time that the run began or went on."""
        return self._kept["loads"]

    def __len__(self) -> int:
        """How many cases are measured."""
        return len(self._kept["measured"])

    def found(self, what: Record) -> Record | None:
        """What was measured of a case, or None."""
        return next((one["found"] for one in self._kept["measured"] if one["what"] == what), None)

    def keep(self, what: Record, found: Record) -> None:
        """Write down what was measured of a case."""
        self._kept["measured"].append({"what": what, "found": found})
        with atomic_directory(self.file.parent) as directory:
            write_json(directory / self.file.name, self._kept)

    def end(self) -> None:
        """Delete the file: all is measured, and written elsewhere."""
        self.file.unlink(missing_ok=True)


def code_digest() -> str:
    """A digest of the code that times depend on, whether committed or not."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for package in _CODE:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]

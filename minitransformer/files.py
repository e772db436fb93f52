"""Reading and writing files: nothing outside a checkpoint is read, and a save is atomic.

:func:`checkpoint_file` refuses every path that leads out of the checkpoint, by its name or by a
link. :func:`atomic_directory` collects new files in a temporary directory, flushes them to the disk
and renames them into place, so that a killed process leaves either the old files or the new ones.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

from minitransformer.names import shortened

TEMPORARY_PREFIX = ".minitransformer-tmp-"  # only directories with this prefix are cleaned up
_LARGEST_JSON = 512 * 2**20  # bytes; the largest real tokenizer.json files are about 30 MB


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as it is; the message says which file and why."""


def checkpoint_file(directory: str | Path, name: str) -> Path:
    """The path of the file `name` in a checkpoint `directory`, which it must not lie outside of.

    Links are followed, because the hub's cache stores `snapshots/<revision>/<name>` as a link to
    `blobs/<hash>`. Only such a link may lead out of the directory; every other one is refused.

    Raises:
        CheckpointError: `name` is not a plain file name, the file is missing, the directory is a
            file, or a link leads out of it.
    """
    # PureWindowsPath recognizes both kinds of slashes, and drive letters.
    if not name or PureWindowsPath(name).name != name or name in (".", ".."):
        raise CheckpointError(
            f"{shortened(name)} is not a plain file name inside {directory}; refused"
        )
    root = Path(directory).resolve()
    if root.is_file():
        raise CheckpointError(f"{directory} is a file; a checkpoint is the directory that it is in")
    path = root / name
    target = path.resolve()
    if not target.is_file():
        raise CheckpointError(f"{path} is missing or not a file")
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    if target.parent != root and target.parent != blobs:
        raise CheckpointError(f"{path} is a link that leads out of its directory; refused")
    return path


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        CheckpointError: the file is too large, is not UTF-8 JSON, or is not an object.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > _LARGEST_JSON:
        raise CheckpointError(
            f"{path} has {size:,} bytes; the JSON files of a checkpoint have at most "
            f"{_LARGEST_JSON:,}: download it again, or save it without what makes it so large"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # wrong UTF-8, wrong JSON, absurd numbers
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} contains {shortened(content)}; it must be a JSON object, "
            '{"name": value, ...}: correct it, or download it again'
        )
    return content


def optional_json(directory: Path, name: str) -> dict[str, Any]:
    """The JSON object in the file `name` of a checkpoint, or an empty one without such a file."""
    if not (directory / name).exists():
        return {}
    return read_json(checkpoint_file(directory, name))


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON, keys in their order, with a line break at the end."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    Path(path).write_text(text, encoding="utf-8")


def not_utf8(path: str | Path) -> ValueError:
    """The error for a text file that is not UTF-8; its message names the first line that is not."""
    with open(path, "rb") as file:
        for line_number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return ValueError(
                    f"{path}, line {line_number} is not UTF-8 ({error}); convert the file: "
                    "iconv -f ENCODING -t UTF-8"
                )
    return ValueError(f"{path} is not UTF-8")  # but now it is: the file was changed


@contextmanager
def atomic_directory(target: str | Path, *, last: str | None = None) -> Iterator[Path]:
    """Yield a temporary directory, and move the files written to it to `target` at the end.

    A new `target` is created whole, by one rename. In a `target` that exists, each file is replaced
    by one rename, and files that were not written stay. After an exception `target` is unchanged.
    Everything is flushed to the disk before it is renamed. The umask says who may read it.

    Args:
        target: the directory.
        last: the file without which the others are useless. If its content changes, the old one is
            deleted before the others are replaced, and the new one is moved last. So a process that
            is killed in between leaves a directory that cannot be loaded, never a mixture.

    Raises:
        NotADirectoryError: `target` is a file.
    """
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} is a file; choose a directory to save to")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Inside a target that exists, because that may be a mount point: renames need one file system.
    parent = target if target.exists() else target.parent
    temporary = parent / f"{TEMPORARY_PREFIX}{target.name}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    try:
        yield temporary
        # safetensors makes its file readable by the owner alone, whatever the umask allows.
        allowed = temporary.stat().st_mode & 0o666
        for path in temporary.iterdir():
            path.chmod(path.stat().st_mode | allowed)
            _flush(path)
        _flush(temporary)
        if target.exists():
            names = sorted((path.name for path in temporary.iterdir()), key=lambda n: n == last)
            if last is not None and _differ(temporary / last, target / last):
                (target / last).unlink(missing_ok=True)
            for name in names:
                os.replace(temporary / name, target / name)
            _flush(target)
        else:
            os.rename(temporary, target)
        _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(parent: str | Path) -> None:
    """Delete the temporary directories that killed saves left in `parent`."""
    for path in Path(parent).glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def _differ(new: Path, old: Path) -> bool:
    return not old.exists() or new.read_bytes() != old.read_bytes()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Find a checkpoint: by its path on this machine, or by its name here or on the Hugging Face hub.

One small checkpoint comes with the package, :data:`BUNDLED`. Others are downloaded and cached by
`huggingface_hub`. Without a network, or with `HF_HUB_OFFLINE=1`, only its cache is used.
"""

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from minitransformer.files import CheckpointError
from minitransformer.names import cut, shortened

# The name of the checkpoint that comes with the package: a small RoBERTa that knows Italian
# agreement, and nothing else; its README.md says how it was trained.
BUNDLED = "tiny-italian-roberta"
BUNDLED_PATH = Path(__file__).parent / "pretrained" / BUNDLED

# "gpt2" or "openai-community/gpt2": one or two parts, neither of which begins as a path would.
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_TRAINING_CHECKPOINT = re.compile(r"step-(\d{8,})")  # as train/checkpoints.py writes them


def resolve_checkpoint(
    path_or_name: str | Path, patterns: Sequence[str], revision: str | None = None
) -> Path:
    """The local path of a checkpoint: `path_or_name` if it exists, else the one of that name.

    A directory may also be that of a training run that has not ended: one that has no file which
    matches `patterns`, but checkpoints of training, of which this is the newest. The name `BUNDLED`
    is the checkpoint that comes with the package. All others are names on the hub, of whose
    repository only top-level files that match one of `patterns`, for instance `["config.json",
    "*.safetensors"]`, are downloaded; files in the cache are not fetched again. `revision` is a
    branch, tag or commit of the repository; it is ignored for what lies on this machine.

    Raises:
        CheckpointError: there is neither such a path nor a cached or downloadable repository.
        ImportError: a hub name was given and `huggingface_hub` is not installed.
    """
    name, path = str(path_or_name), Path(path_or_name).expanduser()
    # An empty name would be the current directory; Path.exists raises for one that is too long.
    if name and os.path.exists(path):
        return _newest_of_run(path, patterns)
    if name == BUNDLED:
        return BUNDLED_PATH
    if isinstance(path_or_name, Path) or not _HUB_NAME.fullmatch(name):
        raise CheckpointError(f"{shortened(name)} is neither an existing path nor a valid hub name")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"{shortened(name)} is not an existing path; to use the hub: pip install "
            "huggingface_hub"
        ) from error
    try:
        # "*" in a pattern also matches slashes; the second argument excludes files in subfolders.
        found = snapshot_download(
            name, revision=revision, allow_patterns=list(patterns), ignore_patterns="*/*"
        )
    # The hub's errors have no common base: some are OSError, some ValueError, some neither.
    except Exception as error:
        at = f" at revision {shortened(revision)}" if revision else ""
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{shortened(name)}{at} is neither an existing path nor a cached or downloadable hub "
            f"name ({type(error).__name__}: {cut(reason, 400)})"
        ) from None  # the frames of an HTTP library tell no more
    return Path(found)


def _newest_of_run(path: Path, patterns: Sequence[str]) -> Path:
    """The newest checkpoint in the directory of a run that has not ended; else the path itself."""
    checkpoints = {
        int(found[1]): checkpoint
        for checkpoint in path.glob("checkpoints/step-*")
        if (found := _TRAINING_CHECKPOINT.fullmatch(checkpoint.name))
    }
    if not checkpoints or any(
        fnmatch(file.name, pattern) for file in path.iterdir() for pattern in patterns
    ):
        return path
    return checkpoints[max(checkpoints)]

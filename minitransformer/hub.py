"""Find a checkpoint by its path on this machine or by its name on the Hugging Face hub.

`huggingface_hub` downloads files and caches them. Without a network, or with `HF_HUB_OFFLINE=1`,
only its cache is used.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from minitransformer.files import CheckpointError
from minitransformer.names import cut, shortened

# "gpt2" or "openai-community/gpt2": one or two parts, neither of which begins as a path would.
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def resolve_checkpoint(
    path_or_name: str | Path, patterns: Sequence[str], revision: str | None = None
) -> Path:
    """The local path of a checkpoint: `path_or_name` if it exists, else the one in the hub's cache.

    Only top-level files of the repository that match one of `patterns`, for instance
    `["config.json", "*.safetensors"]`, are downloaded; files in the cache are not fetched again.
    `revision` is a branch, tag or commit of the repository; it is ignored for a local path.

    Raises:
        CheckpointError: there is neither such a path nor a cached or downloadable repository.
        ImportError: a hub name was given and `huggingface_hub` is not installed.
    """
    name, path = str(path_or_name), Path(path_or_name).expanduser()
    # An empty name would be the current directory; Path.exists raises for one that is too long.
    if name and os.path.exists(path):
        return path
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
        ) from error
    return Path(found)

"""Download files, and keep them only if they have the expected sha256."""

import hashlib
import http.client
import urllib.request
from pathlib import Path
from urllib.error import URLError

from tqdm import tqdm

from minitransformer.files import atomic_directory
from minitransformer.names import unexpected_name

SQUAD_URL = "https://rajpurkar.github.io/SQuAD-explorer/dataset/"
SQUAD_FILES = {
    "train-v1.1.json": "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955",
    "dev-v1.1.json": "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9",
    "train-v2.0.json": "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002",
    "dev-v2.0.json": "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
}
_TIMEOUT = 30.0  # seconds without a byte
_BYTES_AT_ONCE = 2**16


class DownloadError(OSError):
    """A file could not be downloaded; the message says from where and why."""


def squad_file(name: str, directory: str | Path, *, show_progress: bool = True) -> Path:
    """The path of an official SQuAD file in `directory`, downloaded if it is not there.

    Args:
        name: train-v1.1.json, dev-v1.1.json, train-v2.0.json or dev-v2.0.json.
        directory: where the file is stored; created if it does not exist.
        show_progress: show a progress bar.

    Raises:
        ValueError: the name is unknown, or as in :func:`download`.
        DownloadError: as in :func:`download`.
    """
    if name not in SQUAD_FILES:
        raise ValueError(unexpected_name("SQuAD file", name, SQUAD_FILES))
    path = Path(directory) / name
    download(SQUAD_URL + name, path, SQUAD_FILES[name], show_progress=show_progress)
    return path


def download(url: str, path: str | Path, sha256: str, *, show_progress: bool = True) -> None:
    """Download `url` to the file `path`, which is created only if its checksum is right.

    If `path` exists and has this checksum, nothing is downloaded.

    Args:
        url: http or https.
        path: of the file; its directory is created if it does not exist.
        sha256: of its content, 64 hexadecimal digits.
        show_progress: show a progress bar.

    Raises:
        ValueError: the URL is of another kind, or the content has another checksum, as may a file
            that is already at `path`; that one is kept.
        DownloadError: there is no connection, the server refused, or the content is incomplete.
    """
    path = Path(path)
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"{url} cannot be downloaded; give an http:// or https:// URL")
    if path.exists():
        _check_checksum(path, sha256, f"the existing file {path}", "delete or move it")
        return
    with atomic_directory(path.parent) as directory:
        file = directory / path.name
        try:
            _fetch(url, file, show_progress)
        except (OSError, http.client.HTTPException) as error:  # urllib's own errors are OSErrors
            reason = error.reason if type(error) is URLError else error
            raise DownloadError(
                f"{url} cannot be downloaded: {reason}; try again, or save it as {path} yourself"
            ) from error
        _check_checksum(file, sha256, url, "it was changed, or damaged on the way, and is not kept")


def _fetch(url: str, file: Path, show_progress: bool) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, open(file, "wb") as output:
        size = response.length  # None if the server does not send it
        with tqdm(
            total=size, desc=file.name, unit="B", unit_scale=True, disable=not show_progress
        ) as bar:
            while block := response.read(_BYTES_AT_ONCE):
                output.write(block)
                bar.update(len(block))
    received = file.stat().st_size
    if size is not None and received != size:  # urllib treats a lost connection as the end
        raise DownloadError(f"the connection was lost after {received:,} of {size:,} bytes")


def _check_checksum(file: Path, sha256: str, name: str, advice: str) -> None:
    with open(file, "rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != sha256.lower():
        raise ValueError(f"{name} has the sha256 {found}, not {sha256}; {advice}")

"""Files from the web, kept only if their sha256 is the known one."""

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
    """A file could not be fetched; the message says from where and why."""


def squad_file(name: str, directory: str | Path, *, show_progress: bool = True) -> Path:
    """The path in `directory` of an official SQuAD file, which is fetched where it is absent.

    Args:
        name: train-v1.1.json, dev-v1.1.json, train-v2.0.json or dev-v2.0.json.
        directory: where it is, or is to be; made where it is absent.
        show_progress: draw a bar.

    Raises:
        ValueError: another name, or as :func:`download`.
        DownloadError: as :func:`download`.
    """
    if name not in SQUAD_FILES:
        raise ValueError(unexpected_name("SQuAD file", name, SQUAD_FILES))
    path = Path(directory) / name
    download(SQUAD_URL + name, path, SQUAD_FILES[name], show_progress=show_progress)
    return path


def download(url: str, path: str | Path, sha256: str, *, show_progress: bool = True) -> None:
    """Fetch `url` into the file `path`, which appears whole and proved, or not at all.

    A `path` that has the sum already is left as it is, and nothing is fetched.

    Args:
        url: http or https.
        path: of the file; its directory is made where it is absent.
        sha256: of its content, 64 hexadecimal digits.
        show_progress: draw a bar.

    Raises:
        ValueError: another kind of URL, what came has another sum, or so has a file that is
            already at `path`, which is kept.
        DownloadError: there is no connection, the server refused, or the content broke off.
    """
    path = Path(path)
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"{url} cannot be fetched: only http:// and https:// can")
    if path.exists():
        _check_sum(path, sha256, f"{path}, which is already there,", "delete it or move it away")
        return
    with atomic_directory(path.parent) as directory:
        file = directory / path.name
        try:
            _fetch(url, file, show_progress)
        except (OSError, http.client.HTTPException) as error:  # all of urllib's are OSErrors
            reason = error.reason if type(error) is URLError else error
            raise DownloadError(
                f"{url} cannot be fetched: {reason}; try again, or put the file at {path} by hand"
            ) from error
        _check_sum(file, sha256, url, "it changed there or on its way, and was not kept")


def _fetch(url: str, file: Path, show_progress: bool) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, open(file, "wb") as output:
        size = response.length  # None where the server does not tell it
        with tqdm(
            total=size, desc=file.name, unit="B", unit_scale=True, disable=not show_progress
        ) as bar:
            while block := response.read(_BYTES_AT_ONCE):
                output.write(block)
                bar.update(len(block))
    received = file.stat().st_size
    if size is not None and received != size:  # urllib takes a lost connection for the end
        raise DownloadError(f"it broke off after {received:,} of {size:,} bytes")


def _check_sum(file: Path, sha256: str, name: str, advice: str) -> None:
    with open(file, "rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != sha256.lower():
        raise ValueError(f"{name} has the sha256 {found}, not {sha256}: {advice}")

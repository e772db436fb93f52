"""Downloads from a server on this machine: complete and verified, or no file at all."""

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from train import download as downloads
from train.download import SQUAD_FILES, SQUAD_URL, DownloadError, download, squad_file

CONTENT = b'{"data": []}' * 20_000  # several blocks
SUM = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/file, /untold (no length), /short (half of it), /moved (to /file); else 404."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        name = self.path.rsplit("/", 1)[-1]
        if name == "moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif name in ("file", "untold", "short", *SQUAD_FILES):
            self.send_response(200)
            if name != "untold":
                self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: len(CONTENT) // 2] if name == "short" else CONTENT)
        else:
            self.send_error(404)

    def log_message(self, *_arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = []
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(url, path, sha256=SUM):
    download(url, path, sha256, show_progress=False)


@pytest.mark.parametrize("name", ["file", "untold", "moved"])
def test_a_file_is_fetched(server, tmp_path, name):
    path = tmp_path / "new" / "squad.json"
    fetch(f"{server.url}/{name}", path, SUM.upper())
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["squad.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    path = tmp_path / "squad.json"
    fetch(f"{server.url}/file", path)
    fetch(f"{server.url}/file", path)
    assert server.requests == ["/file"]


def test_a_file_of_the_user_is_not_replaced(server, tmp_path):
    path = tmp_path / "squad.json"
    path.write_bytes(b"mine")
    mine = hashlib.sha256(b"mine").hexdigest()
    message = f"the existing file .* has the sha256 {mine}, not {SUM}; delete"
    with pytest.raises(ValueError, match=message):
        fetch(f"{server.url}/file", path)
    assert path.read_bytes() == b"mine" and server.requests == []


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("name", "sha256", "error", "message"),
    [
        ("file", "0" * 64, ValueError, f"/file has the sha256 {SUM}, not {'0' * 64}; it was ch"),
        (
            "nothing",
            SUM,
            DownloadError,
            "/nothing cannot be downloaded: .*404.*save it as .*json",
        ),
        ("short", SUM, DownloadError, "/short cannot be .*: the connection was lost after 120,0"),
    ],
)
def test_a_failure_leaves_nothing_behind(server, tmp_path, there, name, sha256, error, message):
    directory = tmp_path / "squad"
    if there:
        directory.mkdir()
    with pytest.raises(error, match=f"{re.escape(server.url)}{message}"):
        fetch(f"{server.url}/{name}", directory / "squad.json", sha256)
    assert list(tmp_path.rglob("*")) == ([directory] if there else [])


def test_no_server_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as bound:  # a port without a server
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/file"
        with pytest.raises(DownloadError, match=f"{url} cannot be downloaded: .*refused"):
            fetch(url, tmp_path / "squad.json")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_speaks_no_http_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(2**16)
                connection.sendall(b"hello\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DownloadError, match="cannot be downloaded: hello"):
            fetch(f"http://127.0.0.1:{listening.getsockname()[1]}/", tmp_path / "squad.json")
        thread.join()


def test_an_interrupted_download_leaves_nothing_behind(server, tmp_path, monkeypatch):
    class Interrupting(downloads.tqdm):
        def update(self, n: float | None = 1) -> None:
            assert next(tmp_path.rglob("squad.json")).parent != tmp_path  # begun, not yet there
            raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "tqdm", Interrupting)
    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/file", tmp_path / "squad.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "squad.json", ""])
def test_only_http(tmp_path, url):
    with pytest.raises(ValueError, match="give an http:// or https:// URL"):
        fetch(url, tmp_path / "squad.json")


def test_the_official_files(server, tmp_path, monkeypatch):
    assert SQUAD_URL.startswith("https://") and SQUAD_URL.endswith("/")
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in SQUAD_FILES.values())
    assert len(set(SQUAD_FILES.values())) == len(SQUAD_FILES) == 4
    monkeypatch.setattr(downloads, "SQUAD_URL", f"{server.url}/dataset/")
    with pytest.raises(ValueError, match=f"dev-v2.0.json has the .*{SUM}, not 80a5225e94905956"):
        squad_file("dev-v2.0.json", tmp_path, show_progress=False)
    monkeypatch.setitem(SQUAD_FILES, "dev-v2.0.json", SUM)
    path = squad_file("dev-v2.0.json", tmp_path, show_progress=False)
    assert path == tmp_path / "dev-v2.0.json" and path.read_bytes() == CONTENT
    assert server.requests == ["/dataset/dev-v2.0.json"] * 2
    with pytest.raises(ValueError, match="unknown SQuAD file 'dev-v2.json'; did you mean 'dev-v2."):
        squad_file("dev-v2.json", tmp_path)

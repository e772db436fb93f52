"""Where a checkpoint lies: a path, the hub's cache, or a hub (here a server on this machine)."""

import json
import os
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from minitransformer.files import CheckpointError
from minitransformer.hub import BUNDLED, BUNDLED_PATH, resolve_checkpoint

REASON = "hub names are resolved by huggingface_hub"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": b"not read here",
    "pytorch_model.bin": b"a pickle, which no pattern asks for",
    "onnx/model.safetensors": b"matched by the pattern, but in a subfolder",
}
# The hub's settings are read when huggingface_hub is imported, so each case has its own process.
# Each argument is a name, perhaps with "@revision"; each answer is one line.
PROGRAM = """
import sys
from minitransformer.files import CheckpointError
from minitransformer.hub import resolve_checkpoint
for argument in sys.argv[1:]:
    name, _, revision = argument.partition("@")
    try:
        print(resolve_checkpoint(name, ["config.json", "*.safetensors"], revision or None))
    except CheckpointError as error:
        print("CheckpointError:", error)
"""


@pytest.fixture
def cache(tmp_path):
    """A cache as the hub's client lays it out: blobs, and links to them from a snapshot."""
    repository = tmp_path / "hub" / "models--acme--tiny"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "blobs" / "abc").write_bytes(FILES["config.json"])
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    return tmp_path


@pytest.fixture
def resolve(tmp_path):
    """`resolve_checkpoint` in a fresh process, offline unless an endpoint is given."""
    pytest.importorskip("huggingface_hub", reason=REASON)

    def call(*arguments, endpoint=None):
        settings = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
        settings |= {"HF_ENDPOINT": endpoint} if endpoint else {"HF_HUB_OFFLINE": "1"}
        settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*"}
        command = [sys.executable, "-c", PROGRAM, *arguments]
        ran = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()

    return call


@pytest.fixture
def hub():
    """The address of a hub with one repository, acme/tiny, and the requests that it got."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            asked.append(f"{self.command} {self.path}")
            path, _, _ = self.path.partition("?")
            entries = [
                {"type": "file", "path": name, "size": len(body), "oid": name.encode().hex()}
                for name, body in FILES.items()
            ]
            name = path.removeprefix(f"/acme/tiny/resolve/{COMMIT}/")
            if path == "/api/models/acme/tiny/revision/main":
                siblings = [{"rfilename": name} for name in FILES]
                body = json.dumps({"id": "acme/tiny", "sha": COMMIT, "siblings": siblings}).encode()
            elif path == f"/api/models/acme/tiny/tree/{COMMIT}":
                body = json.dumps(entries).encode()
            elif name in FILES:
                body = FILES[name]
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{name.encode().hex()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD = answer

        def log_message(self, *_):
            pass

    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_an_existing_path_is_itself(tmp_path, monkeypatch):
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "tokenizer.json").write_text("{}")
    for path in (tmp_path, str(tmp_path), tmp_path / "tokenizer.json"):
        assert resolve_checkpoint(path, ["config.json"]) == Path(path)
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint("gpt2", ["config.json"]) == Path("gpt2")


def test_the_newest_checkpoint_of_a_run_that_has_not_ended(tmp_path):
    """The tokenizer is found where it is: a job writes it beside the checkpoints, first of all."""
    for name in ("step-00000090", "step-100000000", "step-99999999", "step-1", "other"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "tokenizer.json").write_text("{}")
    newest = tmp_path / "checkpoints" / "step-100000000"
    for path in (tmp_path, str(tmp_path)):
        assert resolve_checkpoint(path, ["config.json", "*.safetensors"]) == newest
        assert resolve_checkpoint(path, ["config.json", "tokenizer.json"]) == tmp_path
    assert resolve_checkpoint(newest, ["config.json"]) == newest
    (tmp_path / "config.json").write_text("{}")  # the run has ended
    assert resolve_checkpoint(tmp_path, ["config.json", "*.safetensors"]) == tmp_path


def test_the_checkpoint_that_comes_with_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    for name in (BUNDLED, Path(BUNDLED)):
        assert resolve_checkpoint(name, ["config.json"]) == BUNDLED_PATH
    (tmp_path / BUNDLED).mkdir()
    assert resolve_checkpoint(BUNDLED, ["config.json"]) == Path(BUNDLED)


@pytest.mark.parametrize(
    "name", ["./gpt2", "/none/where", "a/b/c", "../nowhere", "", "a b", "x/", "-x"]
)
def test_what_is_no_hub_name_is_refused_without_a_look_at_the_hub(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="neither an existing path nor a valid hub name"):
        resolve_checkpoint(name, ["config.json"])


def test_without_the_hub_client_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        resolve_checkpoint("acme/nonesuch", ["config.json"])
    with pytest.raises(CheckpointError, match="neither an existing path nor a valid hub name"):
        resolve_checkpoint(Path("acme/nonesuch"), ["config.json"])


def test_a_revision_and_no_subfolder_is_requested_from_the_hub(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name, **settings):
        asked.append((name, settings))
        return str(tmp_path)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert resolve_checkpoint("acme/tiny", ["*.json"], "v2") == tmp_path
    expected = {"revision": "v2", "allow_patterns": ["*.json"], "ignore_patterns": "*/*"}
    assert asked == [("acme/tiny", expected)]


@pytest.mark.slow
def test_offline_a_cached_name_is_found_and_another_one_is_an_error(cache, resolve):
    snapshot = str(cache / "hub" / "models--acme--tiny" / "snapshots" / COMMIT)
    main, commit, *missing = resolve(
        "acme/tiny", f"acme/tiny@{COMMIT}", "acme/other", "gpt2", "acme/tiny@v2"
    )
    assert main == commit == snapshot
    for line, name in zip(missing, ("acme/other", "gpt2", "acme/tiny"), strict=True):
        assert line.startswith(f"CheckpointError: {name!r}")
        assert "neither an existing path nor a cached or downloadable hub name" in line
    assert "at revision 'v2'" in missing[-1]


@pytest.mark.slow
def test_a_name_is_downloaded_once_and_only_what_the_patterns_ask_for(hub, resolve):
    endpoint, asked = hub
    first, second, missing = resolve("acme/tiny", "acme/tiny", "acme/other", endpoint=endpoint)
    assert first == second
    assert missing.startswith("CheckpointError: 'acme/other' is neither")
    found = Path(first)
    assert sorted(path.name for path in found.iterdir()) == ["config.json", "model.safetensors"]
    assert (found / "config.json").read_bytes() == FILES["config.json"]
    downloads = [request for request in asked if request.startswith("GET /acme/tiny/resolve/")]
    assert sorted(request.rpartition("/")[2] for request in downloads) == [
        "config.json",
        "model.safetensors",
    ]
    assert resolve("acme/tiny") == [first]  # offline, from the cache

"""`emplifai prefetch` from a hub (a server on this machine that answers as the hub does), then work without a network."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conftest import change_params
from emplifai.records import sha256

COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """One repository, someone/tiny, of which `files` are what it holds."""

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.sent = files, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer(body=True)

    def do_HEAD(self):
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/someone/tiny/tree/"):
            rows = self.server.files.items()
            tree = [{"type": "file", "path": n, "size": len(data), "oid": sha256(data)} for n, data in rows]
            self._send(json.dumps(tree).encode(), body)
        elif path.startswith("/api/models/someone/tiny"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self._send(json.dumps({"id": "someone/tiny", "sha": COMMIT, "siblings": siblings}).encode(), body)
        elif path.startswith("/someone/tiny/resolve/") and (data := self.server.files.get(path.split("/", 5)[5])) is not None:
            self.server.sent += [path] * body
            self._send(data, body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, data: bytes, body: bool) -> None:
        self.send_response(200)
        for key, value in (("Content-Length", len(data)), ("ETag", f'"{sha256(data)}"'), ("X-Repo-Commit", COMMIT)):
            self.send_header(key, str(value))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def hub(tiny_model):
    files = {p.name: p.read_bytes() for p in tiny_model.iterdir()} | {"model.bin": b"not wanted", "run_me.py": b"not wanted"}
    server = Hub(files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def prefetch(project, run, hub, tmp_path):
    change_params(project, models__base__model="someone/tiny")
    hub_of = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    return lambda **more: run("emplifai", "prefetch", **hub_of, **more)


def test_fetched_once_then_found_without_a_network(project, run, hub, prefetch, tmp_path, tiny_model):
    said = prefetch().stderr
    assert "someone/tiny: 0.00 GB in " in said and str(tmp_path / "hf") in said
    place = Path(next(line.rpartition(" in ")[2] for line in said.splitlines() if line.startswith("someone/tiny")))
    assert {p.name for p in place.iterdir()} == {p.name for p in tiny_model.iterdir()}  # no code, no other form of weights
    first = len(hub.sent)
    prefetch()
    assert len(hub.sent) == first
    code = "from emplifai import params, prefetch; prefetch.check(params.load(), [('generate', 'base')])"
    run("python", "-c", code, HF_HOME=str(tmp_path / "hf"), PYTHONPATH="workflow")
    elsewhere = run("python", "-c", code, HF_HOME=str(tmp_path / "other"), PYTHONPATH="workflow", ok=False).stderr
    assert "someone/tiny: not on this machine in revision main; run `emplifai prefetch`" in elsewhere


def test_every_model_that_is_damaged_or_not_to_be_had_is_named(project, hub, prefetch):
    hub.files["model.safetensors"] = hub.files["model.safetensors"][:-9]
    change_params(project, models__tuned__model="someone/else")
    done = prefetch(ok=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "model.safetensors: truncated or corrupt" in done.stderr and "someone/else@main: cannot be fetched" in done.stderr

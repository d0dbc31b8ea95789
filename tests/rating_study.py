"""A small rating study for the tests: dialogues and replies of the corpus, a server, and raters who speak HTTP."""

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from pathlib import Path
from urllib.parse import urlencode

import yaml

from conftest import BIN, ROOT, corpus, environment
from emplifai.records import CRITERIA, sha256

MODELS = ("tuned-xylophone", "base-xylophone", "people-xylophone")  # no page may hold the word
BIDI = "左\u202eabc\u202c右\u2066x\u2069\u200f\u0007"
HOSTILE = {0: "<script>alert('x')</script><img src=x onerror=alert(1)></textarea>", 1: BIDI, 2: "あ" * 20_000, 3: "a" * 20_000}


def make(folder: Path, hostile: bool = False) -> Path:
    """A folder with params.yaml, test dialogues and the replies of three models. hostile: the replies of the first one are."""
    (folder / "data/ratings").mkdir(parents=True)
    shutil.copy(ROOT / "data/labels.yaml", folder / "data")
    dialogues = [d for emotion, rows in corpus().items() for row in rows for d in _dialogues(emotion, row)]
    _write(folder / "results/split/test.jsonl", dialogues)
    for k, model in enumerate(MODELS):
        texts = [f"{'甲乙丙'[k]}の返答、{n}番目。お気持ちをお聞かせください。" for n in range(len(dialogues))]
        if hostile and k == 0:
            texts = [HOSTILE[n % len(HOSTILE)] for n in range(len(dialogues))]
        replies = [reply(d["dialogue_id"], model, text) for d, text in zip(dialogues, texts, strict=True)]
        _write(folder / f"results/generate/{model}/reply.jsonl", replies)
    params = {"data": {"ratings": "data/ratings"}, "models": {model: {"backend": "parrot"} for model in MODELS}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def reply(dialogue_id: str, model: str, text: str) -> dict:
    digest = sha256(text)
    row = {"dialogue_id": dialogue_id, "model": model, "task": "reply", "sample": 0, "text": text, "finish_reason": "stop"}
    return row | {"prompt_sha256": "", "settings_sha256": "", "text_sha256": digest}


def _dialogues(emotion: str, row: dict) -> list[dict]:
    return [
        {
            "dialogue_id": f"dlg-{row['situation_id']}-{k}",
            "situation_id": row["situation_id"],
            "emotion": emotion,
            "condition": None,
            "situation": row["situation"],
            "turns": [{"role": "patient", "text": patient}, {"role": "supporter", "text": words}],
        }
        for k, (patient, words) in enumerate(row["dialogues"])
    ]


def _write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def emplifai(folder: Path, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess:
    command = [str(BIN / "emplifai"), "ratings", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def draw(folder: Path, name: str, *arguments: str) -> tuple[Path, dict[str, str]]:
    """A new project and each rater's token."""
    done = emplifai(folder, "new", "--out", f"data/ratings/{name}", *arguments)
    return folder / "data/ratings" / name, _tokens(done.stdout)


def _tokens(text: str) -> dict[str, str]:
    return {rater: path.removeprefix("/enter#") for rater, path in (line.split("\t") for line in text.splitlines())}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return bound.getsockname()[1]


class Server:
    """`emplifai ratings serve` as a process that can be killed and started again at the same address."""

    def __init__(self, project: Path, *arguments: str):
        self.project, self.arguments, self.port = project, arguments, free_port()
        self.url, self.process = f"http://127.0.0.1:{self.port}", None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill(signal.SIGTERM)

    def start(self) -> None:
        command = [BIN / "emplifai", "ratings", "serve", self.project.name, "--port", str(self.port), *self.arguments]
        where = self.project.parent
        self.log = open(where / f"{self.project.name}.log", "a")
        self.process = subprocess.Popen([str(c) for c in command], cwd=where, env=environment(), stderr=self.log, stdout=self.log)
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.process.poll() is None, (where / f"{self.project.name}.log").read_text()
            time.sleep(0.05)
        raise AssertionError("the server did not start")

    def kill(self, how: int = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.wait(30)
        self.log.close()


class Rater:
    """A browser without a screen: keeps its cookie, reads its pages, sends its forms."""

    def __init__(self, port: int, token: str = ""):
        self.port, self.cookie, self.seen = port, "", []
        if token:
            status, _, _ = self.ask("POST", "/enter", {"token": token})
            assert status == 303

    def ask(self, method: str, path: str, form: dict | None = None, **headers: str) -> tuple[int, dict[str, str], str]:
        """Status, headers (lower case), body. Raises OSError or HTTPException when the server is away."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Cookie": self.cookie, "Content-Type": "application/x-www-form-urlencoded"} | headers
        try:
            link.request(method, path, urlencode(form) if form is not None else None, headers)
            answer = link.getresponse()
            body = answer.read().decode()
        finally:
            link.close()
        found = {k.lower(): v for k, v in answer.getheaders()}
        if "set-cookie" in found:
            self.cookie = found["set-cookie"].split(";")[0]
        self.seen.append(body)
        return answer.status, found, body

    def home(self) -> str:
        page = self.ask("GET", "/")[2]
        self.form = _first(r'name="form" value="([0-9a-f]*)"', page)
        return page

    def begin(self) -> None:
        """Agree, read the guide, begin."""
        self.home()
        assert self.ask("POST", "/consent", {"form": self.form, "answer": "agree"})[0] == 303
        assert self.ask("POST", "/guide", {"form": self.form})[0] == 303

    @property
    def position(self) -> int | None:
        """Of the item that the page shows; None when all are done."""
        found = _first(r'data-position="(\d+)"', self.home())
        return int(found) if found else None

    def send(self, **fields) -> tuple[int, dict]:
        """What the page's script sends; the answer's status and JSON."""
        status, _, body = self.ask("POST", "/rate", {"form": self.form, **fields}, Accept="application/json")
        return status, json.loads(body)

    def rate_all(self, score) -> dict[tuple[int, str], int]:
        """Rate every item, a request a click; score(position, criterion). Returns what was rated."""
        given = {}
        while (position := self.position) is not None:
            for criterion in CRITERIA:
                given[position, criterion] = score(position, criterion)
                status, answer = self.send(position=position, **{criterion: given[position, criterion]})
                assert status == 200 and answer["saved"][criterion] == given[position, criterion]
            assert self.send(position=position, next=1) == (200, {"position": position + 1, "saved": {}, "message": ""})
        return given


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found.group(1) if found else ""


def first_reply(folder: Path, model: str = MODELS[0], number: int = 0) -> dict:
    return json.loads((folder / f"results/generate/{model}/reply.jsonl").read_text().splitlines()[number])


def plain(folder: Path, scores: list[tuple[str, str, str]], **columns) -> str:
    """CSV text: (rater, criterion, score) of one reply."""
    one = first_reply(folder)
    lines = ["rater_id,dialogue_id,model,criterion,score,text_sha256"]
    lines += [f"{r},{one['dialogue_id']},{MODELS[0]},{c},{s},{columns.get('text', one['text_sha256'])}" for r, c, s in scores]
    return "\n".join(lines) + "\n"


def stored(project: Path, rater: str) -> dict[tuple[int, str], int]:
    with sqlite3.connect(project / "ratings.sqlite") as db:
        rows = db.execute("SELECT position, criterion, score FROM rating WHERE rater_id = ?", (rater,)).fetchall()
    db.close()
    assert len({row[:2] for row in rows}) == len(rows)
    return {(position, criterion): score for position, criterion, score in rows}

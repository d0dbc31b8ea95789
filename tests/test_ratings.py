"""Rating studies without a browser: the draw, the server's rules, kill -9, fifty raters, import, simulation, power."""

import csv
import json
import random
import shutil
import sqlite3
import ssl
import stat
import subprocess
import threading
import time
from collections import Counter
from dataclasses import asdict
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import ROOT, runner
from emplifai import agreement, params, simulation
from emplifai.errors import UserError
from emplifai.panel import Panel, panels
from emplifai.paths import Paths
from emplifai.records import CRITERIA, Dialogue, Question, Turn, sha256
from emplifai.statistics import correlation
from emplifai.study import display, importing, power, sampling
from emplifai.study.store import Store
from emplifai.study.throttle import TRIES, WINDOW, Throttle
from rating_study import HOSTILE, MODELS, Rater, Server, draw, emplifai, make, reply

# ---- the draw


def questions(emotions: int = 4, models: int = 3, dialogues: int = 5) -> list[Question]:
    def dialogue(e: int, d: int) -> Dialogue:
        return Dialogue(f"d{e}-{d}", f"s{e}-{d}", f"e{e}", None, "", [Turn("patient", "p"), Turn("supporter", "s")])

    return [
        Question(dialogue(e, d), f"m{m}", f"{e} {m} {d}")
        for e in range(emotions)
        for d in range(dialogues)
        for m in range(models)
    ]


@pytest.mark.parametrize("emotions,models,count", [(4, 3, 10), (6, 4, 17), (28, 7, 40), (28, 7, 196), (5, 5, 13), (1, 4, 6)])
def test_the_draw_is_balanced_over_emotions_and_models(emotions, models, count):
    drawn = sampling.draw(questions(emotions, models), count, 1)
    assert len({(q.dialogue.dialogue_id, q.model) for q in drawn}) == count
    for of, kinds in ((lambda q: q.dialogue.emotion, emotions), (lambda q: q.model, models)):
        counts = Counter(map(of, drawn))
        assert len(counts) == min(kinds, count)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_the_data():
    one, other = questions(), questions()
    random.Random(3).shuffle(other)
    names = [
        [(q.dialogue.dialogue_id, q.model) for q in sampling.draw(rows, 20, seed)]
        for rows, seed in ((one, 1), (other, 1), (one, 2))
    ]
    assert names[0] == names[1] != names[2]
    assert len(sampling.draw(one, 60, 1)) == 60
    with pytest.raises(UserError, match="there are 60 replies"):
        sampling.draw(one, 61, 1)


@pytest.mark.parametrize("items,raters,k", [(40, 5, 5), (40, 5, 3), (41, 7, 2), (9, 4, 1)])
def test_every_reply_has_k_raters_and_every_rater_the_same_load(items, raters, k):
    given = sampling.assign([f"m{i % 3}" for i in range(items)], [f"r{r}" for r in range(raters)], k, 5)
    assert Counter(n for numbers in given.values() for n in numbers) == dict.fromkeys(range(items), k)
    loads = [len(set(numbers)) for numbers in given.values()]
    assert sum(loads) == items * k and max(loads) - min(loads) <= 1


def test_orders_are_random_and_hold_copies_far_from_their_originals_and_checks():
    orders = [sampling.order(range(60), rater, 0.1, 1) for rater in ("r1", "r2")]
    assert [e for e in orders[0] if e.kind == "item"] != [e for e in orders[1] if e.kind == "item"]
    for order in orders:
        place = {entry: k for k, entry in enumerate(order)}
        assert len(place) == len(order) == 60 + 6 + 3
        copies = [e for e in order if e.kind == "repeat"]
        assert len(copies) == 6
        assert all(place[e] - place[sampling.Entry("item", e.number)] >= 20 for e in copies)
        checks = [k for k, e in enumerate(order) if e.kind == "check"]
        assert all(b - a > 1 for a, b in pairwise(checks)) and checks[0] > 0


# ---- a project


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("rating"))


def test_a_project_is_private_blind_and_the_same_for_a_seed(folder):
    one, tokens = draw(folder, "one", "--raters", "3", "--items", "12", "--per-item", "2", "--seed", "7")
    two, _ = draw(folder, "two", "--raters", "3", "--items", "12", "--per-item", "2", "--seed", "7")
    assert list(tokens) == ["r01", "r02", "r03"] and len(set(tokens.values())) == 3
    assert all(stat.S_IMODE(p.stat().st_mode) & 0o077 == 0 for p in [one, *one.iterdir()])
    keys = [json.loads((p / "key.json").read_text()) for p in (one, two)]
    designs = [json.loads((p / "design.json").read_text()) for p in (one, two)]
    named = [
        {r: [key["items"][i] for i in order] for r, order in design["orders"].items()}
        for key, design in zip(keys, designs, strict=True)
    ]
    assert named[0] == named[1]
    assert not set(keys[0]["items"]) & set(keys[1]["items"])  # ids under another secret
    shown = (one / "design.json").read_text() + (one / "instructions.yaml").read_text()
    assert "xylophone" not in shown and "dlg-" not in shown
    stored = b"".join(p.read_bytes() for p in one.iterdir())
    assert not any(token.encode() in stored for token in tokens.values())


def test_git_keeps_a_project_to_itself_and_dvc_does_not_watch_it(tmp_path):
    project, run = tmp_path, runner(tmp_path)
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, project)
    make_files = ["study-01/ratings.sqlite", "study-01/key.json", "study-01/design.json", "study-01/instructions.yaml", "a.csv"]
    for name in make_files:
        (project / "data/ratings" / name).parent.mkdir(exist_ok=True, parents=True)
        (project / "data/ratings" / name).write_text("x")
    run("git", "init", "-q")
    run("dvc", "init", "-q")
    done = run("git", "check-ignore", *(f"data/ratings/{name}" for name in make_files), ok=None)
    assert done.stdout.split() == [f"data/ratings/{name}" for name in make_files[:3]]
    done = run("dvc", "check-ignore", *(f"data/ratings/{name}" for name in make_files), ok=None)
    assert done.stdout.split() == [f"data/ratings/{name}" for name in make_files[:4]]


BAD = {
    "--raters 2 --items 4 --per-item 3": "--per-item 3: allowed: 1 to 2",
    "--raters 2 --items 4 --repeat 0.5": "--repeat 0.5: allowed: 0 to 0.33",
    "--raters 0 --items 4": "at least 1",
    "--raters 2 --items 4000": "replies to draw from",
    "--raters 2 --items 4 --models nobody": "no model 'nobody'",
    "--raters 2 --items 4 --out data": "there is something already",
}


@pytest.mark.parametrize("arguments,message", BAD.items())
def test_faults_of_a_draw_are_named(folder, arguments, message):
    done = emplifai(folder, "new", *arguments.split(), ok=False)
    assert done.returncode == 2 and message in done.stderr


def test_only_tls_or_a_proxy_opens_the_page_to_other_machines(folder):
    project, _ = draw(folder, "hosts", "--raters", "1", "--items", "3")
    done = emplifai(folder, "serve", project, "--host", "0.0.0.0", ok=False)
    assert done.returncode == 2 and "--tls-cert" in done.stderr
    done = emplifai(folder, "serve", project, "--tls-cert", "a.pem", ok=False)
    assert "both or neither" in done.stderr
    done = emplifai(folder, "serve", project, "--tls-cert", "a.pem", "--tls-key", "params.yaml", ok=False)
    assert "a.pem: no such file" in done.stderr
    (project / "design.json").write_text((project / "design.json").read_text() + " ")
    assert "changed since the project was drawn" in emplifai(folder, "serve", project, ok=False).stderr


# ---- the server's rules


@pytest.fixture(scope="module")
def serving(folder):
    project, tokens = draw(folder, "rules", "--raters", "9", "--items", "6", "--repeat", "0.2")
    with Server(project) as server:
        yield server, tokens


def stored(project: Path, rater: str) -> dict[tuple[int, str], int]:
    with sqlite3.connect(project / "ratings.sqlite") as db:
        rows = db.execute("SELECT position, criterion, score FROM rating WHERE rater_id = ?", (rater,)).fetchall()
    db.close()
    assert len({row[:2] for row in rows}) == len(rows)
    return {(position, criterion): score for position, criterion, score in rows}


def test_consent_comes_first_and_a_refusal_ends_it(serving):
    server, tokens = serving
    rater = Rater(server.port, tokens["r01"])
    assert "研究への参加について" in rater.home()
    assert rater.send(position=0, fluency=3)[0] == 403
    assert rater.ask("POST", "/consent", {"form": rater.form, "answer": "maybe"})[0] == 422
    rater.ask("POST", "/consent", {"form": rater.form, "answer": "refuse"})
    assert "同意されなかった" in rater.home()
    rater.ask("POST", "/consent", {"form": rater.form, "answer": "agree"})
    assert "同意されなかった" in Rater(server.port, tokens["r01"]).home()
    assert rater.send(position=0, fluency=3)[0] == 403


def test_only_what_is_on_the_scale_is_saved(serving):
    server, tokens = serving
    rater = Rater(server.port, tokens["r02"])
    rater.begin()
    assert rater.position == 0
    for wrong in ("0", "6", "99", "-1", "3.5", "", "five", "５", " 3", "1e0"):
        assert rater.send(position=0, fluency=wrong)[0] == 422
    for wrong in ({"nosuch": 3}, {"position": -1}, {"position": 99}, {"position": "x"}, {"position": "００"}, {"next": 2}):
        assert rater.send(**{"position": 0} | wrong)[0] == 422
    assert rater.send(position=1, fluency=3)[0] == 409
    assert rater.ask("POST", "/rate", {"form": rater.form, "position": "0", "fluency": "3" * 5000})[0] == 413
    assert stored(server.project, "r02") == {}
    assert rater.send(position=0, fluency=3) == (200, {"position": 0, "saved": {"fluency": 3}, "message": ""})
    assert rater.send(position=0, next=1)[0] == 422  # two criteria are missing
    assert rater.position == 0
    assert stored(server.project, "r02") == {(0, "fluency"): 3}


def test_two_tabs_do_not_overwrite_each_other_and_nobody_goes_back(serving):
    server, tokens = serving
    rater = Rater(server.port, tokens["r03"])
    rater.begin()
    rater.home()
    assert rater.send(position=0, fluency=3)[0] == 200
    assert rater.send(position=0, fluency=5)[0] == 409  # a tab that does not know of the 3
    assert rater.send(position=0, fluency=3)[0] == 200  # the same request sent again
    assert rater.send(position=0, fluency=4, was_fluency=3)[0] == 200  # a change of mind
    assert rater.send(position=0, empathy=2, emotion_empathy=1, next=1)[1]["position"] == 1
    again = rater.send(position=0, empathy=2, emotion_empathy=1, next=1)
    assert again[0] == 200 and again[1]["position"] == 1  # closed once, not twice
    assert rater.send(position=0, fluency=1, was_fluency=4, next=1)[0] == 409  # an item that was left
    assert stored(server.project, "r03") == {(0, "fluency"): 4, (0, "empathy"): 2, (0, "emotion_empathy"): 1}
    assert rater.position == 1


def test_a_browser_without_scripts_can_rate(serving):
    server, tokens = serving
    rater = Rater(server.port, tokens["r04"])
    rater.begin()
    rater.home()
    form = {"form": rater.form, "position": 0, "next": 1, "fluency": 5, "empathy": 4, "emotion_empathy": 3}
    form |= {f"was_{c}": "" for c in CRITERIA}
    assert rater.ask("POST", "/rate", form)[:1] == (303,)
    assert rater.position == 1
    assert stored(server.project, "r04") == {(0, "fluency"): 5, (0, "empathy"): 4, (0, "emotion_empathy"): 3}


def test_a_link_opens_only_its_rater_s_items_and_can_be_revoked(serving, folder):
    server, tokens = serving
    a, b = Rater(server.port, tokens["r05"]), Rater(server.port, tokens["r06"])
    for rater in (a, b):
        rater.begin()
        rater.home()
    a.send(position=0, fluency=1)
    assert 'data-saved="1"' in a.home() and 'data-saved="1"' not in b.home()
    assert b.send(position=0, fluency=2, form=a.form)[0] == 403  # the form of another session
    stranger = Rater(server.port)
    stranger.home()
    for path in (
        "/",
        "/guide",
        "/withdraw",
        "/design.json",
        "/key.json",
        "/ratings.sqlite",
        "/../key.json",
        "/docs",
        "/openapi.json",
    ):
        assert "番目。お気持ち" in b.home() and "番目。お気持ち" not in stranger.ask("GET", path)[2]
    assert stranger.send(position=0, fluency=2)[0] == 401
    done = emplifai(folder, "revoke", server.project, "r05")
    assert "have ended" in done.stdout
    assert a.send(position=0, empathy=1)[0] == 401
    assert Rater(server.port).ask("POST", "/enter", {"token": tokens["r05"]})[0] == 403
    new = emplifai(folder, "link", server.project, "r05").stdout.strip().split("#")[1]
    assert 'data-saved="1"' in Rater(server.port, new).home()
    assert emplifai(folder, "revoke", server.project, "r77", ok=False).returncode == 2


def test_other_sites_cannot_send_forms(serving):
    server, tokens = serving
    rater = Rater(server.port, tokens["r07"])
    rater.home()
    assert rater.ask("POST", "/consent", {"answer": "agree"})[0] == 403
    assert rater.ask("POST", "/consent", {"form": rater.form, "answer": "agree"}, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert "研究への参加について" in rater.home()


def test_headers_and_cookie(serving):
    server, tokens = serving
    rater = Rater(server.port)
    _, headers, _ = rater.ask("POST", "/enter", {"token": tokens["r07"]})
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "secure" not in cookie
    for path in ("/", "/guide", "/nothing", "/health"):
        _, headers, _ = rater.ask("GET", path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store" and "server" not in headers
    nonces = {rater.ask("GET", "/")[1]["content-security-policy"] for _ in range(3)}
    assert len(nonces) == 3


def test_withdrawal_deletes_the_ratings_from_the_disk(serving):
    server, tokens = serving
    rater = Rater(server.port, tokens["r08"])
    rater.begin()
    rater.home()
    rater.send(position=0, fluency=5)
    assert "元に戻すことはできません" in rater.ask("GET", "/withdraw")[2]
    assert rater.ask("POST", "/withdraw", {"form": rater.form})[0] == 303
    assert "削除しました" in rater.home()
    assert rater.send(position=0, fluency=5)[0] == 403
    assert stored(server.project, "r08") == {}
    assert "削除しました" in Rater(server.port, tokens["r08"]).home()


def test_nothing_tells_who_a_rater_is(serving):
    server, _ = serving
    stranger = Rater(server.port)
    stranger.ask("GET", "/", **{"User-Agent": "Telltale/1.0", "X-Forwarded-For": "203.0.113.7"})
    stored = b"".join(p.read_bytes() for p in server.project.iterdir())
    log = (server.project.parent / f"{server.project.name}.log").read_bytes()
    for trace in (b"Telltale", b"203.0.113.7", b"127.0.0.1"):
        assert trace not in stored
        assert trace not in log.replace(server.url.encode(), b"")


def test_wrong_links_are_throttled_and_work_goes_on(folder):
    project, tokens = draw(folder, "throttled", "--raters", "1", "--items", "3")
    with Server(project) as server:
        inside = Rater(server.port, tokens["r01"])
        tries = [
            Rater(server.port).ask("POST", "/enter", {"token": f"guess-{k}"}, **{"X-Forwarded-For": f"10.0.0.{k}"})
            for k in range(9)
        ]
        assert [status for status, _, _ in tries] == [403] * TRIES + [429] * (9 - TRIES)
        assert 0 < int(tries[-1][1]["retry-after"]) <= WINDOW
        assert Rater(server.port).ask("POST", "/enter", {"token": tokens["r01"]})[0] == 429
        assert "研究への参加について" in inside.home()


def test_the_throttle_forgets():
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    for _ in range(TRIES):
        assert throttle.wait("a") == 0
        throttle.wrong("a")
    assert throttle.wait("a") == WINDOW and throttle.wait("b") == 0
    now[0] = WINDOW + 1
    assert throttle.wait("a") == 0
    throttle.wrong("b")
    assert len(throttle._wrong) == 1


def test_sessions_end(tmp_path, monkeypatch):
    with Store(tmp_path / "s.sqlite") as store:
        store.create((1, 5), "digest")
        store.add_raters({"r1": "token"})
        assert store.enter("token", "session") and not store.enter("wrong", "other")
        assert store.rater("session").rater_id == "r1" and store.rater("other") is None
        store._db.execute("UPDATE session SET seen_at = '2020-01-01T00:00:00+00:00'")
        assert store.rater("session") is None


def test_tls_by_flag_sets_secure_cookies(folder):
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k.pem", "-out", "c.pem", *subject]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    project, tokens = draw(folder, "tls", "--raters", "1", "--items", "3")
    with Server(project, "--tls-cert", folder / "c.pem", "--tls-key", folder / "k.pem") as server:
        from http.client import HTTPSConnection

        link = HTTPSConnection("127.0.0.1", server.port, context=ssl.create_default_context(cafile=folder / "c.pem"))
        link.request("POST", "/enter", f"token={tokens['r01']}")
        answer = link.getresponse()
        assert answer.status == 303 and answer.getheader("set-cookie").startswith("__Host-rater=")
        assert "secure" in answer.getheader("set-cookie").lower()
        link.close()


def test_behind_a_proxy_its_headers_count(folder):
    project, tokens = draw(folder, "proxied", "--raters", "1", "--items", "3")
    with Server(project, "--behind-proxy") as server:
        ahead = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
        assert [Rater(server.port).ask("POST", "/enter", {"token": "x"}, **ahead)[0] for _ in range(6)] == [403] * 5 + [429]
        other = ahead | {"X-Forwarded-For": "203.0.113.10"}
        status, headers, _ = Rater(server.port).ask("POST", "/enter", {"token": tokens["r01"]}, **other)
        assert status == 303 and headers["set-cookie"].startswith("__Host-rater=") and "Secure" in headers["set-cookie"]


def test_the_newest_project_is_served_and_faults_of_instructions_are_named(folder):
    project, _ = draw(folder, "newest", "--raters", "1", "--items", "3")
    text = (project / "instructions.yaml").read_text("utf-8")
    (project / "instructions.yaml").write_text(text.replace("refuse: 同意しない\n", "").replace("    3: ", "    7: "), "utf-8")
    done = emplifai(folder, "serve", ok=False)
    assert done.returncode == 2
    assert f"{project.relative_to(folder)}/instructions.yaml: no text consent.refuse" in done.stderr
    assert done.stderr.count("no text criteria.") == 3 and "criteria.empathy.anchors.3" in done.stderr
    (project / "instructions.yaml").write_text("a: [", "utf-8")
    assert "not YAML" in emplifai(folder, "serve", project, ok=False).stderr
    assert "no rating project" in emplifai(folder, "serve", folder / "data", ok=False).stderr


# ---- hostile replies


def test_hostile_replies_are_shown_as_text(tmp_path):
    folder = make(tmp_path / "hostile", hostile=True)
    project, tokens = draw(folder, "hostile", "--raters", "1", "--items", "16", "--models", MODELS[0])
    with Server(project) as server:
        rater = Rater(server.port, tokens["r01"])
        rater.begin()
        rater.rate_all(lambda position, criterion: 3)
        pages = "".join(rater.seen)
    assert "<script>alert" not in pages and "<img" not in pages
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in pages
    assert not any(c in pages for c in "\u202e\u202c\u2066\u2069\u200f\u0007")
    assert '<span class="hidden-character">U+202E</span>abc' in pages
    assert HOSTILE[2] in pages and HOSTILE[3] in pages


def test_visible_names_what_is_invisible_and_nothing_else():
    assert display.visible("a\r\nb\tc") == "a\nb\tc"
    assert "U+D800" in display.visible("\ud800") and "U+FEFF" in display.visible("\ufeffx")
    assert display.visible("👩\u200d⚕️") == "👩\u200d⚕️"
    assert display.visible("<b>&") == "&lt;b&gt;&amp;"


# ---- nothing is lost


def click(server: Server, token: str, saved: dict, stop: threading.Event, seed: int) -> None:
    """A rater who goes on clicking whatever happens; `saved` holds what the page was told is saved."""
    draw_score, rater = random.Random(seed), None
    while not stop.is_set():
        try:
            if rater is None:
                rater = Rater(server.port, token)
            position = rater.position
            if position is None:
                return
            for criterion in CRITERIA:
                score = draw_score.randint(1, 5)
                was = saved.get((position, criterion), "")
                while True:
                    status, answer = _insist(rater, stop, position=position, **{criterion: score, f"was_{criterion}": was})
                    if status == 200:
                        saved[position, criterion] = score
                        break
                    assert status == 409, answer  # an answer was lost on the way: the page takes over what is saved
                    was = answer["saved"].get(criterion, "")
            status, _ = _insist(rater, stop, position=position, next=1)
            assert status == 200
        except (OSError, HTTPException):
            time.sleep(0.02)


def _insist(rater: Rater, stop: threading.Event, **fields) -> tuple[int, dict]:
    """Send again until there is an answer, as the page does."""
    while True:
        try:
            return rater.send(**fields)
        except (OSError, HTTPException):
            if stop.is_set():
                raise
            time.sleep(0.02)


@pytest.mark.slow
def test_twenty_times_kill_9_loses_and_doubles_nothing(folder):
    project, tokens = draw(folder, "killed", "--raters", "3", "--items", "100", "--seed", "1")
    saved: dict[str, dict] = {rater: {} for rater in tokens}
    stop, faults, chance = threading.Event(), [], random.Random(0)

    def guarded(rater: str, seed: int) -> None:
        try:
            click(server, tokens[rater], saved[rater], stop, seed)
        except (OSError, HTTPException):
            pass  # in the middle of the last request
        except BaseException as error:
            faults.append(error)

    with Server(project) as server:
        for token in tokens.values():
            Rater(server.port, token).begin()
        threads = [threading.Thread(target=guarded, args=(rater, k)) for k, rater in enumerate(tokens)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            wanted = sum(map(len, saved.values())) + chance.randint(2, 9)
            end = time.monotonic() + 60
            while sum(map(len, saved.values())) < wanted and not faults:
                assert time.monotonic() < end, "raters do not get on"
                time.sleep(0.001)
            time.sleep(0.03 * chance.random())  # at any moment of a request
            server.kill()
            server.start()
        time.sleep(0.3)
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not faults
    for rater in tokens:
        found = stored(project, rater)
        assert saved[rater].items() <= found.items()
        assert len(found) - len(saved[rater]) <= 1  # the request in the air at the end
    with sqlite3.connect(project / "ratings.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_fifty_raters_at_once(folder):
    project, tokens = draw(folder, "fifty", "--raters", "50", "--items", "5", "--repeat", "0.2")
    given: dict[str, dict] = {}

    def work(rater: str, seed: int) -> None:
        chance = random.Random(seed)
        person = Rater(server.port, tokens[rater])
        person.begin()
        given[rater] = person.rate_all(lambda position, criterion: chance.randint(1, 5))

    with Server(project) as server:
        threads = [threading.Thread(target=work, args=(rater, k)) for k, rater in enumerate(tokens)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
    assert len(given) == 50
    assert all(stored(project, rater) == given[rater] for rater in tokens)
    assert sum(map(len, given.values())) == 50 * 7 * 3  # 5 replies, one copy, one check


# ---- import


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def listed(path: Path) -> list[dict]:
    file = path.with_suffix(".listed.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []


def first_reply(folder: Path, model: str = MODELS[0], number: int = 0) -> dict:
    return json.loads((folder / f"results/generate/{model}/reply.jsonl").read_text().splitlines()[number])


def test_import_of_a_project_gives_the_numbers_as_they_were(folder):
    project, tokens = draw(folder, "whole", "--raters", "2", "--items", "10", "--repeat", "0.3")
    design, key = (json.loads((project / name).read_text()) for name in ("design.json", "key.json"))
    with Server(project) as server:
        given = {}
        for k, (rater, token) in enumerate(tokens.items()):
            person, chance = Rater(server.port, token), random.Random(k)
            person.begin()
            given[rater] = person.rate_all(lambda position, criterion: chance.randint(1, 5))  # noqa: B023
            assert not any("xylophone" in page or "dlg-" in page for page in person.seen)
    done = emplifai(folder, "import", project)
    rows = rows_of(folder / "data/ratings/whole.csv")
    want = {}
    for rater, order in design["orders"].items():
        for position, item in enumerate(key["items"][i] for i in order):
            if item["kind"] == "item":
                want |= {(rater, item["dialogue_id"], item["model"], c): given[rater][position, c] for c in CRITERIA}
    assert {(r["rater_id"], r["dialogue_id"], r["model"], r["criterion"]): int(r["score"]) for r in rows} == want
    assert len(rows) == 2 * 10 * 3 and "None left out" in done.stderr
    assert all(r["simulated"] == "false" and r["rated_at"] for r in rows)
    quality = rows_of(project / "quality.csv")
    assert {(r["repeats"], r["checks"]) for r in quality} == {("3", "1")}
    one = quality[0]
    places = {
        (i["kind"], i.get("dialogue_id"), i.get("model")): p
        for p, i in enumerate(key["items"][i] for i in design["orders"]["r01"])
    }
    pairs = [
        (given["r01"][places["item", d, m], one["criterion"]], given["r01"][p, one["criterion"]])
        for (kind, d, m), p in places.items() if kind == "repeat"
    ]  # fmt: skip
    assert float(one["same"]) == pytest.approx(np.mean([a == b for a, b in pairs]))
    before = (folder / "data/ratings/whole.csv").read_bytes()
    emplifai(folder, "import", project)
    assert (folder / "data/ratings/whole.csv").read_bytes() == before
    (folder / "data/ratings/whole.csv").unlink()


def plain(folder: Path, scores: list[tuple[str, str, str]], **columns) -> str:
    """CSV text: (rater, criterion, score) of one reply."""
    one = first_reply(folder)
    lines = ["rater_id,dialogue_id,model,criterion,score,text_sha256"]
    lines += [f"{r},{one['dialogue_id']},{MODELS[0]},{c},{s},{columns.get('text', one['text_sha256'])}" for r, c, s in scores]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "shift_jis"])
def test_csv_in_the_encodings_that_people_have(folder, tmp_path, encoding):
    source = tmp_path / "mine.csv"
    source.write_bytes(plain(folder, [("評価者一", "fluency", "4"), ("評価者二", "fluency", "2")]).encode(encoding))
    emplifai(folder, "import", source, "--to", tmp_path / "out.csv")
    assert {r["rater_id"]: r["score"] for r in rows_of(tmp_path / "out.csv")} == {"評価者一": "4", "評価者二": "2"}


def test_nothing_is_dropped_without_being_listed(folder, tmp_path):
    odd = [
        ("r1", "fluency", "3"),
        ("r2", "fluency", "99"),
        ("r3", "fluency", "NaN"),
        ("r4", "fluency", "drei"),
        ("r5", "kindness", "3"),
    ]
    odd += [("", "fluency", "3"), ("r6", "fluency", ""), ("r7", "fluency", "3.5"), ("r8", "fluency", "2"), ("r8", "fluency", "2")]
    odd += [("r9", "fluency", "2"), ("r9", "fluency", "4"), ("r10", "fluency", "inf")]
    text = plain(folder, odd) + f"r11,nowhere,{MODELS[0]},fluency,3,\nr12,nowhere,{MODELS[0]},fluency,3,{'a' * 64}\n"
    text += plain(folder, [("r13", "fluency", "5")], text="b" * 64).splitlines()[1] + "\n"
    source, to = tmp_path / "odd.csv", tmp_path / "out.csv"
    source.write_text(text)
    done = emplifai(folder, "import", source, "--to", to)
    assert {r["rater_id"] for r in rows_of(to)} == {"r1", "r8", "r12", "r13"}
    reasons = {(e["rater_id"], e["where"].split("row ")[1]): (e["reason"], e["kept"]) for e in listed(to)}
    assert len(reasons) == 16 - 2  # all but r1 and the first of r8
    assert reasons["r2", "3"][0].startswith("score '99'; allowed: a whole number from 1 to 5")
    assert "duplicate: several scores (2, 4)" in reasons["r9", "12"][0]
    assert "the same rating came before" in reasons["r8", "11"][0]
    assert reasons["r12", "16"] == ("no such reply in results/generate; kept, and set aside by correlate", True)
    assert reasons["r13", "17"] == ("the reply's words have changed since; kept, and set aside by correlate", True)
    assert "unknown item" in reasons["r11", "15"][0]
    assert all(name in done.stderr for name in ("r2", "r9", "r11", "r13")) and "12 left out, 2 of other words" in done.stderr


def label_studio(folder: Path) -> list[dict]:
    def result(name: str, kind: str, value: dict) -> dict:
        return {"from_name": name, "to_name": "reply", "type": kind, "id": "x", "value": value}

    one, two = first_reply(folder), first_reply(folder, MODELS[1])
    scores = [
        result("fluency", "rating", {"rating": 4}), result("empathy", "choices", {"choices": ["2"]}),
        result("emotion_empathy", "number", {"number": 9}), result("comment", "textarea", {"text": ["..."]}),
    ]  # fmt: skip
    annotation = {"id": 1, "completed_by": 3, "was_cancelled": False, "created_at": "2026-01-02T03:04:05Z", "result": scores}
    mail = annotation | {"completed_by": {"email": "hanako@example.org"}, "result": scores[:1]}
    return [
        {
            "id": 7,
            "data": {"dialogue_id": one["dialogue_id"], "model": MODELS[0], "reply": one["text"]},
            "annotations": [annotation, mail],
        },
        {"id": 8, "data": {"item_id": "i2", "reply": two["text"]}, "annotations": [annotation | {"result": scores[:1]}]},
        {"id": 9, "data": {"item_id": "i2"}, "annotations": [annotation | {"was_cancelled": True}]},
    ]


def test_label_studio(folder, tmp_path):
    source, to, key = tmp_path / "project-1.json", tmp_path / "out.csv", tmp_path / "key.csv"
    source.write_text(json.dumps(label_studio(folder)))
    two = first_reply(folder, MODELS[1])
    key.write_text(f"item_id,dialogue_id,model\ni2,{two['dialogue_id']},{MODELS[1]}\n")
    done = emplifai(folder, "import", source, "--to", to, "--key", key)
    rows = {(r["rater_id"], r["model"], r["criterion"]): r for r in rows_of(to)}
    assert len(rows) == 4 and "hanako" not in to.read_text() + done.stderr
    assert rows["ls-3", MODELS[0], "fluency"]["score"] == "4" and rows["ls-3", MODELS[0], "empathy"]["score"] == "2"
    assert rows["ls-3", MODELS[1], "fluency"]["text_sha256"] == two["text_sha256"]
    assert rows["ls-3", MODELS[0], "fluency"]["rated_at"] == "2026-01-02T03:04:05Z"
    assert [(e["criterion"], e["score"]) for e in listed(to)] == [("emotion_empathy", "9")]
    flat = {
        "id": 1,
        "dialogue_id": two["dialogue_id"],
        "model": MODELS[1],
        "annotator": 4,
        "fluency": {"rating": 5},
        "empathy": "3",
    }
    source.write_text(json.dumps([flat]))
    emplifai(folder, "import", source, "--to", to)
    assert [(r["rater_id"], r["criterion"], r["score"]) for r in rows_of(to)] == [
        ("ls-4", "empathy", "3"),
        ("ls-4", "fluency", "5"),
    ]


def test_potato(folder, tmp_path):
    one, to = first_reply(folder), tmp_path / "out.csv"
    state = tmp_path / "task/annotation_output/r01/user_state.json"
    state.parent.mkdir(parents=True)
    answers = [
        [{"schema": "fluency", "name": "4"}, "4"],
        [{"schema": "empathy", "name": "99"}, "99"],
        [{"schema": "nosuch", "name": "1"}, "1"],
    ]
    told = {"abc": {"annotation_changes": [{"schema_name": "fluency", "timestamp": 1767322800.5}]}}
    found = {
        "user_id": "r01",
        "instance_id_ordering": ["abc"],
        "instance_id_to_label_to_value": {"abc": answers, "unknown": answers[:1]},
    }
    state.write_text(json.dumps(found | {"instance_id_to_behavioral_data": told}))
    key = tmp_path / "key.csv"
    key.write_text(f"item_id,dialogue_id,model\nabc,{one['dialogue_id']},{MODELS[0]}\n")
    emplifai(folder, "import", tmp_path / "task", "--to", to, "--key", key)
    (row,) = rows_of(to)
    assert (row["rater_id"], row["criterion"], row["score"]) == ("r01", "fluency", "4")
    assert row["rated_at"] == "2026-01-02T03:00:00.500+00:00" and row["text_sha256"] == one["text_sha256"]
    assert sorted(e["reason"].split(";")[0].split(":")[0] for e in listed(to)) == [
        "criterion 'nosuch'",
        "score '99'",
        "unknown item",
    ]
    export = tmp_path / "annotations.csv"
    export.write_text("instance_id,user_id,fluency.4,fluency.2,empathy.3\nabc,r01,4,,3\nabc,r02,4,2,\n")
    emplifai(folder, "import", export, "--to", to, "--key", key)
    assert [(r["rater_id"], r["criterion"], r["score"]) for r in rows_of(to)] == [
        ("r01", "empathy", "3"),
        ("r01", "fluency", "4"),
    ]
    assert [e["rater_id"] for e in listed(to)] == ["r02", "r02"]  # two answers to one question


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"rater_id,dialogue_id,model,criterion,scroe\nr,d,m,fluency,3\n", "no column 'score'; is 'scroe' meant?"),
        ("a.csv", b"\xff\xfe\x00\x81", "save it as CSV in UTF-8"),
        ("a.csv", b"rater_id,dialogue_id,model,criterion,score\n", "no rows"),
        ("a.csv", b"rater_id,dialogue_id,model,criterion,score\nr,d,m,fluency,9\n", "none of 1 ratings can be used"),
        ("a.json", b"{", "not JSON"),
        ("a.json", b"{}", "a list of tasks is needed"),
        (
            "a.json",
            b'[{"id": 1, "annotations": [{"result": [{"from_name": "fluency", "value": 3}]}], "data": {}}]',
            "task 1: not as Label",
        ),
        ("a.xlsx", b"PK", "allowed: a project or Potato folder"),
        ("p/r01/user_state.json", b"{}", "not Potato's user_state.json"),
        ("p/empty", b"", "neither a rating project"),
    ],
)
def test_bad_sources_are_named(folder, tmp_path, name, content, message):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    source = tmp_path / "p" if name.startswith("p/") else file
    done = emplifai(folder, "import", source, "--to", tmp_path / "out.csv", ok=False)
    assert done.returncode == 2 and message in done.stderr
    assert not (tmp_path / "out.csv").exists()


# ---- simulation and power


def test_simulated_raters_are_marked_for_good(folder, tmp_path):
    done = emplifai(folder, "simulate", "--seed", "3", "--to", tmp_path / "s.csv")
    assert "SIMULATED" in done.stderr
    rows = rows_of(tmp_path / "s.csv")
    assert rows and all(r["simulated"] == "true" and r["rater_id"].startswith("simulated-") for r in rows)
    text = (tmp_path / "s.csv").read_text()
    (tmp_path / "stripped.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in text.splitlines()))
    emplifai(folder, "import", tmp_path / "stripped.csv", "--to", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == text
    emplifai(folder, "simulate", "--seed", "3", "--to", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == text


def test_simulated_raters_do_not_join_people(folder):
    people = folder / "data/ratings/people.csv"
    people.write_text(plain(folder, [("r1", "fluency", "3")]))
    done = emplifai(folder, "simulate", ok=False)
    people.unlink()
    assert done.returncode == 2 and "people.csv" in done.stderr


def test_power_agrees_with_what_is_known():
    """Alpha is the expected one; the spread of Spearman is near Fisher's z with Bonett and Wright's standard error."""
    share = power.quality_share(0.5, 1)
    alphas, correlations = power.simulate(150, 4, share, 0.7, 1500, 1)
    assert np.mean(alphas) == pytest.approx(0.5, abs=0.01)
    rho = np.median(correlations)
    error = np.sqrt((1 + rho**2 / 2) / (150 - 3))
    low, high = np.tanh(np.arctanh(rho) + np.array([-1.96, 1.96]) * error)
    assert np.quantile(correlations, [0.025, 0.975]) == pytest.approx([low, high], abs=0.03)
    assert power._spearman(np.array([[1.0, 2, 2, 4]]), np.array([[1.0, 3, 2, 4]]))[0] == pytest.approx(0.9486833)


def test_power_command(folder):
    done = emplifai(folder, "power", "--items", "20", "80", "--raters", "4", "--studies", "300")
    narrow = [line.split() for line in done.stdout.splitlines()[1:3]]
    assert [row[0] for row in narrow] == ["20", "80"] and float(narrow[1][6]) < float(narrow[0][6])
    assert "--raters: at least 2" in emplifai(folder, "power", "--raters", "1", ok=False).stderr


def test_unlisted_words_come_from_the_replies(folder):
    """check() fills a missing text_sha256 from the replies at hand."""
    words = importing._words(
        params.load(folder / "params.yaml"),
        Paths(folders={"split": folder / "results/split", "generate": folder / "results/generate"}),
    )
    one = first_reply(folder)
    assert words[one["dialogue_id"], MODELS[0]] == sha256(one["text"]) == reply("", "", one["text"])["text_sha256"]


@pytest.mark.slow
def test_correlate_recovers_what_the_simulation_planted_at_the_nominal_rate():
    """A judge who measures the likeness that the simulation plants: the intervals of correlate hold its true Spearman."""
    pool = [likeness_question(k) for k in range(3000)]
    judge = {q.dialogue.dialogue_id: simulation._dice(q.text, q.dialogue.reference) for q in pool}
    whole = [spearman_of(simulated_panel(pool, judge, 3000, seed)) for seed in range(5)]
    truth = np.mean(whole)
    assert truth == pytest.approx(0.55, abs=0.05)  # 0.6 planted, less what raters' noise and the scale take
    covered = []
    for seed in range(120):
        settings = agreement.Settings(scale=(1, 5), cluster="dialogue_id", resamples=400, seed=seed)
        rows = agreement.judge_rows(simulated_panel(pool, judge, 80, seed + 100), "likeness", settings, models=False)
        row = next(r for r in rows if r["level"] == "pooled" and r["statistic"] == "spearman")
        covered.append(row["ci_low"] <= truth <= row["ci_high"])
    assert 0.90 <= np.mean(covered) <= 1  # 0.95 less two and a half standard errors


def likeness_question(k: int) -> Question:
    """A reply that shares some of its letters with the person's reply."""
    chance = random.Random(k)
    reference = "".join(chance.choices("あいうえおかきくけこ", k=30))
    cut = chance.randint(0, 30)
    text = reference[:cut] + "".join(chance.choices("さしすせそたちつてと", k=30 - cut))
    return Question(Dialogue(f"d{k}", f"s{k}", "joy", None, "", [Turn("patient", "p"), Turn("supporter", reference)]), "m", text)


def simulated_panel(pool: list[Question], judge: dict[str, float], items: int, seed: int) -> Panel:
    made = pd.DataFrame([asdict(r) for r in simulation.simulate(pool, 5, items, ["empathy"], (1, 5), seed)])
    rated = made[["dialogue_id", "model", "criterion"]].drop_duplicates()
    scores = rated.assign(judge="likeness", score=[judge[d] for d in rated["dialogue_id"]])
    attributes = rated[["dialogue_id", "model"]].set_index(["dialogue_id", "model"], drop=False)[[]]
    (panel,) = panels(made, scores, "dialogue_id", {"likeness"}, attributes)
    return panel


def spearman_of(panel: Panel) -> float:
    return correlation.spearman(panel.judges["likeness"], panel.human).estimate()

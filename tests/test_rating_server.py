"""The rating page's server without a browser: its rules, hostile replies, throttling."""

import re
import ssl
import subprocess
from pathlib import Path

import pytest

from conftest import change_params
from emplifai.records import CRITERIA
from emplifai.study import display
from emplifai.study.store import Store
from emplifai.study.throttle import TRIES, WINDOW, Throttle
from rating_study import HOSTILE, MODELS, Rater, Server, draw, emplifai, make, stored


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("rating"))


@pytest.fixture(scope="module")
def serving(folder):
    project, tokens = draw(folder, "rules", "--raters", "9", "--items", "6", "--repeat", "0.2")
    with Server(project) as server:
        yield server, tokens


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


def test_a_study_in_english_has_a_page_in_english(tmp_path):
    folder = make(tmp_path / "study")
    change_params(folder, data__prompt="en-v1")
    project, tokens = draw(folder, "english", "--raters", "1", "--items", "2", "--repeat", "0")
    with Server(project) as server:
        rater = Rater(server.port, tokens["r01"])
        pages = [rater.ask("GET", "/enter")[2], rater.home(), rater.ask("POST", "/consent", {"form": "x", "answer": "agree"})[2]]
        rater.begin()
        pages += [rater.home(), rater.ask("GET", "/guide")[2], rater.ask("GET", "/withdraw")[2]]
    assert "Reply to be rated" in pages[3] and all('<html lang="en">' in page for page in pages if "<html" in page)
    words = [re.sub(r'<div class="words".*?</div>', "", page, flags=re.S) for page in pages]
    assert not [found for page in words if (found := re.findall("[ぁ-んァ-ヶ一-龠]+", page))]


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

"""The client for OpenAI-compatible servers: what it sends, and what becomes of every way in which a server fails."""

import hashlib
import socket
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest

from emplifai import params as schema
from emplifai import privacy
from emplifai.backends import attempts, openai
from emplifai.errors import UserError
from fault_server import FaultServer, score_of

LIMITS = openai.Limits(max_in_flight=8, timeout=2, attempts=4, deadline=20)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.01)


def requests(count: int) -> list[dict]:
    return [{"messages": [{"role": "user", "content": f"質問{k}"}], "max_tokens": 8} for k in range(count)]


def ask(server, count: int = 20, limits=LIMITS, **kwargs) -> list[openai.Answer]:
    return openai.complete(requests(count), openai.Endpoint("judges.j", server.url, "m", **kwargs), limits)


def test_answers_come_in_order_with_tokens():
    with FaultServer(latency=0.01) as server:
        answers = ask(server, 40)
    assert [a.text for a in answers] == [f'{{"rationale": "理由です。", "score": {score_of(f"質問{k}")}}}' for k in range(40)]
    assert answers[3].input_tokens == len("質問3") and answers[3].finish_reason == "stop" and answers[3].tries == 1
    assert server.bodies[0]["model"] == "m"
    assert 2 <= server.most_at_once <= 8


def test_identical_requests_are_asked_once():
    with FaultServer() as server:
        answers = openai.complete(requests(3) * 5, openai.Endpoint("judges.j", server.url, "m"), LIMITS)
    assert len(server.bodies) == 3 and len(answers) == 15
    assert [a.text for a in answers[:3]] * 5 == [a.text for a in answers]


def test_in_a_storm_every_request_ends_once_answered_or_failed_with_its_reason():
    """64 in flight; four of ten tries fail, in ways drawn by the prompt and its try."""
    tries, lock = Counter(), threading.Lock()
    kinds = ["429 now", "500", "drop", "cut body", "no json", "body schema", "cut off"]

    def storm(n, body):
        prompt = body["messages"][0]["content"]
        with lock:
            tries[prompt] += 1
            draw = int(hashlib.sha256(f"{prompt} {tries[prompt]}".encode()).hexdigest(), 16) % 1000
        return kinds[draw % len(kinds)] if draw < 400 else None

    seen = []
    with FaultServer(faults=storm) as server:
        answers = openai.complete(
            requests(1000),
            openai.Endpoint("judges.j", server.url, "m"),
            openai.Limits(max_in_flight=64, timeout=10, attempts=4, deadline=60),
            lambda index, answer: seen.append(index),
        )
    assert sorted(seen) == list(range(1000))
    for k, answer in enumerate(answers):
        if answer.status == "ok":
            assert answer.text == f'{{"rationale": "理由です。", "score": {score_of(f"質問{k}")}}}'
        else:
            assert answer.text == "" and answer.error.partition(":")[0] in ("server", "connection", "schema", "rate_limit")
    failed = sum(a.status == "error" for a in answers)
    assert 0 < failed < 60  # 0.4 ** 4 of them, a little less as waits that the server asks for are no tries


def test_no_requests_no_connection():
    assert openai.complete([], openai.Endpoint("judges.j", "http://127.0.0.1:9/v1", "m"), LIMITS) == []


@pytest.mark.parametrize("fault", ["500", "drop", "no json", "body schema", "cut body"])
def test_a_fault_that_passes_is_asked_again(fault):
    asked = Counter()

    def twice(n, body):
        asked[str(body)] += 1
        return fault if asked[str(body)] <= 2 else None

    with FaultServer(faults=twice) as server:
        answers = ask(server)
    assert [(a.status, a.tries) for a in answers] == [("ok", 3)] * 20
    assert len(server.bodies) == 60


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "server: HTTP 500: out of memory"),
        ("drop", "connection: "),
        ("no json", "schema: no chat completion but '<html>Bad gateway"),
        ("body schema", "schema: no chat completion but"),
        ("slow", "timeout: no answer within 0.5 s"),
        ("drip", "timeout: no answer within 0.5 s"),
    ],
)
def test_a_fault_that_stays_is_an_error_with_its_reason(fault, reason):
    limits = openai.Limits(timeout=0.5, attempts=2)
    with FaultServer(faults=lambda n, body: fault if "質問2" in str(body) else None) as server:
        answers = ask(server, 6, limits)
        asked = [b["messages"][0]["content"] for b in server.bodies]
    assert [a.status for a in answers] == ["ok", "ok", "error", "ok", "ok", "ok"]
    assert answers[2].error.startswith(reason) and answers[2].tries == 2 and answers[2].text == ""
    assert asked.count("質問2") == 2


def test_retry_after_is_obeyed_and_is_no_failed_try():
    with FaultServer(faults=lambda n, body: "429" if n == 2 else None) as server:
        started = time.monotonic()
        answers = ask(server, 60, openai.Limits(max_in_flight=2, attempts=1))
    assert [a.status for a in answers] == ["ok"] * 60
    assert time.monotonic() - started >= 1
    gaps = [later - earlier for earlier, later in pairwise(server.at)]
    assert max(gaps) >= 0.9 and gaps.index(max(gaps)) < 30  # the others wait too, but for what was under way


def test_a_wait_beyond_the_deadline_is_an_error_now():
    with FaultServer(faults=lambda n, body: "429 date" if n == 1 else None) as server:
        started = time.monotonic()
        answers = ask(server, 3)
    assert time.monotonic() - started < 5
    assert [a.status for a in answers].count("ok") == 2  # which of them comes second is chance: they are asked at once
    (failed,) = (a for a in answers if a.status == "error")
    assert failed.error == "rate_limit: HTTP 429: slow down"


def test_a_server_that_is_down_ends_the_run_with_what_to_do():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        openai.complete(requests(1000), openai.Endpoint("judges.j", f"http://127.0.0.1:{port}/v1", "m"), LIMITS)
    assert time.monotonic() - started < 3
    assert f"judges.j: cannot reach http://127.0.0.1:{port}/v1: connection refused; is the server running?" in str(caught.value)
    assert "judges.j.base_url" in str(caught.value)


def test_a_server_that_fails_at_everything_ends_the_run():
    with FaultServer(faults=lambda n, body: "500" if n > 4 else None) as server:
        kept = []
        with pytest.raises(UserError, match=r"10 requests in a row failed, the last by server: HTTP 500"):
            openai.complete(
                requests(1000), openai.Endpoint("judges.j", server.url, "m"), LIMITS, lambda k, a: kept.append(a.status)
            )
    assert kept.count("ok") == 5 and len(server.bodies) < 100


@pytest.mark.parametrize(
    ("fault", "message"), [("404", "does not exist"), ("redirect", "redirects are not followed"), ("401", "api_key_env right")]
)
def test_what_no_retry_can_mend_ends_the_run_at_once(fault, message):
    with FaultServer(faults=lambda n, body: fault) as server, pytest.raises(UserError, match=message) as caught:
        ask(server, 20, key="sk-secret")
    assert len(server.bodies) == 1
    assert "sk-secret" not in str(caught.value)


def test_key_is_sent_but_never_shown():
    with FaultServer() as server:
        ask(server, 1, key="sk-secret")
    assert server.headers[0]["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in repr(openai.Endpoint("judges.j", server.url, "m", "sk-secret"))


@pytest.mark.parametrize("fault", ["no response_format", "max_completion_tokens"])
def test_a_field_that_the_server_refuses_is_noticed_once(fault):
    asked = [r | {"response_format": {"type": "json_schema"}} for r in requests(10)]
    with FaultServer(faults=lambda n, body: fault) as server:
        answers = openai.complete(asked, openai.Endpoint("judges.j", server.url, "m"), LIMITS)
    assert [a.status for a in answers] == ["ok"] * 10
    assert len(server.bodies) == 11
    assert all(("response_format" in b) == (fault != "no response_format") for b in server.bodies[1:])


def test_a_refusal_is_no_answer():
    with FaultServer(faults=lambda n, body: "refusal") as server:
        answers = ask(server, 2)
    assert [(a.status, a.text) for a in answers] == [("refused", "I cannot rate this.")] * 2


def test_answers_are_handed_over_as_they_come():
    seen = []
    with FaultServer(latency=0.05) as server:
        openai.complete(
            requests(6),
            openai.Endpoint("judges.j", server.url, "m"),
            openai.Limits(max_in_flight=1),
            lambda index, answer: seen.append((index, len(server.bodies))),
        )
    assert seen == [(k, k + 1) for k in range(6)]


# Privacy


def judge(url: str, **entry) -> schema.JudgeModel:
    return schema.JudgeModel(backend="openai", model="m", base_url=url, **entry)


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1/v1",
        "https://api.example.com/v1",
        "http://127.0.0.1.example.com/v1",
        "http://localhost.example.com/v1",
        "http://2130706433/v1",
        "http://0.0.0.0/v1",
        "http://[::ffff:192.0.2.1]/v1",
        "http://10.0.0.7:8000/v1",
    ],
)
def test_outside_hosts_are_refused_before_the_first_byte(url, monkeypatch):
    def attempt(*_, **__):
        raise AssertionError("a connection or a look-up was tried")

    monkeypatch.setattr(socket, "getaddrinfo", attempt)
    monkeypatch.setattr(socket.socket, "connect", attempt)
    with pytest.raises(UserError, match=r"judges\.j\.base_url: .* is outside this machine.*nothing was sent"):
        openai.endpoint("judges.j", judge(url), schema.Data())


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1/", "http://localhost/v1", "http://[::1]:8000/v1", "http://127.8.9.1/v1"]
)
def test_this_machine_is_allowed(url):
    assert openai.endpoint("judges.j", judge(url), schema.Data()).url == url.rstrip("/")


def test_declared_hosts_are_allowed_and_only_these():
    data = schema.Data(internal_hosts=["gpu01", "10.0.0.7"])
    assert privacy.check("http://gpu01:8000/v1", "w", data) and privacy.check("http://10.0.0.7/v1", "w", data)
    with pytest.raises(UserError):
        privacy.check("http://gpu010/v1", "w", data)
    assert privacy.check("https://api.example.com/v1", "w", schema.Data(external_processing="allowed"))


@pytest.mark.parametrize(
    "url", ["http://me:sk-1@localhost/v1", "localhost:8000/v1", "ftp://localhost/v1", "http://localhost/v1?key=sk-1"]
)
def test_odd_urls_are_refused_and_not_repeated_whole(url):
    with pytest.raises(UserError) as caught:
        privacy.check(url, "judges.j.base_url", schema.Data())
    assert "sk-1" not in str(caught.value)


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    with FaultServer() as server, FaultServer() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        answers = ask(server, 3)
    assert [a.status for a in answers] == ["ok"] * 3
    assert len(server.bodies) == 3 and not proxy.bodies


def test_key_comes_from_the_named_variable(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-1\n")
    assert openai.endpoint("judges.j", judge("http://localhost/v1", api_key_env="MY_KEY"), schema.Data()).key == "sk-1"
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(UserError, match=r"judges.j.api_key_env: the environment variable MY_KEY is not set"):
        openai.endpoint("judges.j", judge("http://localhost/v1", api_key_env="MY_KEY"), schema.Data())


# Limits of the server


def longest_minute(at: list[float], minute: float) -> int:
    """Most requests in any window of `minute` seconds."""
    return max(sum(start <= t < start + minute for t in at) for start in at)


def test_requests_a_minute_are_not_exceeded_in_any_window():
    with FaultServer() as server:
        started = time.monotonic()
        ask(server, 30, openai.Limits(max_in_flight=8, requests_per_minute=1200))  # 20 a second
    assert longest_minute(server.at, 0.5) <= 11
    assert 29 / 20 <= time.monotonic() - started < 3


def test_tokens_a_minute_slow_the_requests_down_by_what_answers_say_they_used():
    """Each answer uses 3 + 39 tokens of 60,000 a minute: 24 a second, though 3 + 100 were to be feared."""
    asked = [r | {"max_tokens": 100} for r in requests(40)]
    with FaultServer() as server:
        started = time.monotonic()
        answers = openai.complete(
            asked, openai.Endpoint("judges.j", server.url, "m"), openai.Limits(max_in_flight=2, tokens_per_minute=60_000)
        )
    used = sum(a.used for a in answers)
    assert used / 1000 * 0.9 < time.monotonic() - started < used / 1000 * 1.5

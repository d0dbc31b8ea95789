"""generate: the same texts as transformers' own generate, exact scores, anchors, resume."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from conftest import TALK, change_params, dialogues, environment
from emplifai import generate, systems
from emplifai.backends.transformers import Transformers
from emplifai.cache import Cache
from emplifai.params import Generate, Model
from emplifai.records import Dialogue, Reply, read_jsonl, write_jsonl

LABELS = TALK.labels
pytestmark = pytest.mark.usefixtures("one_thread")


def test_anchors():
    all_ = dialogues()
    test = [d for d in all_ if d.situation_id.endswith("10")]
    train = [d for d in all_ if not d.situation_id.endswith("10")]
    answers = {name: system(test, train, 42) for name, system in systems.SYSTEMS.items()}
    assert answers["reference"] == [(d.reference, d.emotion) for d in test]
    assert answers["parrot"] == [(d.patient, None) for d in test]
    owners = {d.reference: d for d in all_}
    for d, (text, emotion) in zip(test, answers["shuffled"], strict=True):
        assert owners[text].situation_id != d.situation_id and owners[text] in test and owners[text].emotion == emotion
    assert all(owners[text] in train for text, _ in answers["retrieval"])
    assert systems.shuffled(test[::-1], train, 42)[::-1] == answers["shuffled"]
    assert systems.shuffled(test, train, 43) != answers["shuffled"]
    assert systems.retrieval(train[:3], train, 0) == [(d.reference, d.emotion) for d in train[:3]]
    assert not systems.emotions("parrot", "parrot", test, answers["parrot"], LABELS)


def test_exemplars_are_of_different_emotions_and_do_not_move_with_order():
    some = dialogues()
    three = generate.exemplars(some, 3)
    assert len({d.emotion for d in three}) == 3 and generate.exemplars(some[::-1], 3) == three
    assert generate.exemplars(some, 0) == ()


def made(dialogue, task="reply", text="", reason="stop", label=None) -> Reply:
    return Reply(dialogue.dialogue_id, "m", task, 0, text, reason, "", "", "", label=label)


def test_metrics_by_hand():
    test = dialogues(2, 2)[:4]
    texts, reasons = ["abcd", "abc", "", "x"], ["stop", "length", "empty", "stop"]
    replies = [made(d, text=t, reason=r) for d, t, r in zip(test, texts, reasons, strict=True)]
    tokens, nats = [1, 3, 2, 2], [4.0, 6.0, 2.0, 4.0]
    rows = [{"dialogue_id": d.dialogue_id, "tokens": n, "nats": v} for d, n, v in zip(test, tokens, nats, strict=True)]
    values = generate.metrics(test, replies, [], rows)
    assert values["replies_empty"] == 1 and values["replies_length"] == 1 and values["mean_characters"] == 2
    assert values["distinct_3"] == pytest.approx(2 / 3, abs=1e-6)  # abc, bcd, abc
    assert values["nats_per_token"] == 2.0  # 16 nats over 8 tokens
    emotions = [made(d, "emotion", label=d.emotion if k else "none") for k, d in enumerate(test)]
    assert generate.metrics(test, [], emotions, [])["emotion_accuracy"] == 0.75


def system(tmp_path, tiny_model, **settings) -> Transformers:
    entry = Model(backend="transformers", model=str(tiny_model), dtype="float32")
    return Transformers("base", entry, Generate(max_new_tokens=8, **settings), TALK, Cache(tmp_path / "cache"))


def test_a_second_run_asks_nothing_and_writes_the_same(tmp_path, tiny_model):
    some = dialogues(2, 3)
    first, second = (system(tmp_path, tiny_model) for _ in range(2))
    fresh = first.reply(some), first.emotion(some), first.likelihood(some)
    second.cache.refresh()
    known = second.reply(some), second.emotion(some), second.likelihood(some)
    assert fresh == known
    assert (first.fresh, first.cached) == (3 * len(some), 0) and (second.fresh, second.cached) == (0, 3 * len(some))
    assert "reader" not in second.__dict__  # no model was loaded
    third = system(tmp_path, tiny_model, temperature=0.7, samples=2)
    assert len({(r.dialogue_id, r.sample) for r in third.reply(some)}) == 2 * len(some) and third.fresh == 2 * len(some)
    assert third.likelihood(some) == fresh[2] and third.fresh == 2 * len(some)  # no decoding setting changes a likelihood


def test_emotion_as_text_is_read_as_a_label(tmp_path, tiny_model):
    some = dialogues(1, 2)
    made = system(tmp_path, tiny_model, emotion={"method": "text", "context": "patient"}).emotion(some)
    assert {r.label for r in made} <= {*LABELS, "none"} and all(r.ranking is None for r in made)
    scored = system(tmp_path, tiny_model).emotion(some)
    assert all(sorted(r.ranking) == sorted(LABELS) and r.label == r.ranking[0] and r.text == LABELS[r.label].word for r in scored)


@pytest.fixture
def parts(project):
    """The project with its split, as the stages before write it."""
    rows = dialogues()
    for name, ends in (("train", "12345678"), ("dev", "9"), ("test", "0")):
        write_jsonl(project / f"results/split/{name}.jsonl", [d for d in rows if d.situation_id[-1] in ends])
    return project


def results(folder, name="base") -> dict[str, bytes]:
    out = folder / "results/generate" / name
    return {p: (out / p).read_bytes() for p in ("reply.jsonl", "emotion.jsonl", "likelihood.jsonl", "metrics.json")}


def test_command_line_and_tasks(parts, run):
    for name in ("reference", "parrot", "base"):
        run("emplifai", "generate", "--model", name)
    assert len(list(read_jsonl(parts / "results/generate/base/reply.jsonl", Reply))) == 16
    assert json.loads((parts / "results/generate/reference/metrics.json").read_text())["emotion_accuracy"] == 1.0
    change_params(parts, generate__tasks=["reply"])
    run("emplifai", "generate", "--model", "base")
    assert results(parts)["emotion.jsonl"] == b"" and results(parts)["reply.jsonl"]
    (parts / "other.yaml").write_text("up: {ja: 上向き}")
    change_params(parts, data__labels="other.yaml")
    for name in ("base", "reference"):
        done = run("emplifai", "generate", "--model", name, ok=False)
        assert done.returncode == 2 and "error: other.yaml: no label 'admiration', which dialogue admiration-" in done.stderr
    change_params(parts, data__labels="data/labels.yaml")
    done = run("emplifai", "generate", "--model", "tuned", ok=False)
    assert done.returncode == 2 and "run finetune first" in done.stderr


def test_killed_in_the_middle_goes_on(parts, run):
    change_params(parts, generate__batch_tokens=300, generate__max_new_tokens=64)
    command = [sys.executable, "-m", "emplifai", "generate", "--model", "base"]
    job = subprocess.Popen(command, cwd=parts, env=environment(OMP_NUM_THREADS="1"), stderr=subprocess.DEVNULL)
    while lines(parts) < 3 and job.poll() is None:
        time.sleep(0.005)
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    before = lines(parts)
    assert 3 <= before < 48 and not (parts / "results/generate/base/reply.jsonl").exists()
    run("emplifai", "generate", "--model", "base")
    assert lines(parts) == 48  # 16 replies, likelihoods and emotions: none computed twice
    notes = json.loads((parts / "results/generate/base/run.json").read_text())
    assert notes["cached"] == before and notes["fresh"] == 48 - before
    resumed = results(parts)
    for path in (parts / ".cache/generate").iterdir():
        path.unlink()
    run("emplifai", "generate", "--model", "base")
    assert results(parts) == resumed


def lines(folder) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (folder / ".cache/generate").glob("*.jsonl"))


def test_a_server_is_asked_once(parts, run):
    """A stand-in for a server, on loopback: what it gets, what becomes of its answers, and that the cache spares it."""
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body)
            text = (
                "答えは「喜び」です。"
                if "次の中から一つ" in body["messages"][-1]["content"]
                else "<think>\n長い\n</think>\n\n そうですね。\n"
            )
            choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            data = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        change_params(parts, models__chat={"backend": "openai", "model": "m", "base_url": url, "shots": 1})
        run("emplifai", "generate", "--model", "chat")
        first = results(parts, "chat")
        run("emplifai", "generate", "--model", "chat")
        server.shutdown()
    assert len(asked) == 32 and results(parts, "chat") == first
    assert all(body["messages"][-1]["role"] == "user" and body["model"] == "m" for body in asked)
    replies = [json.loads(line) for line in first["reply.jsonl"].splitlines()]
    assert {r["text"] for r in replies} == {"そうですね。"} and replies[0]["output_tokens"] == 3
    emotions = [json.loads(line) for line in first["emotion.jsonl"].splitlines()]
    assert {r["label"] for r in emotions} == {"joy"} and first["likelihood.jsonl"] == b""
    tests = list(read_jsonl(parts / "results/split/test.jsonl", Dialogue))
    reply = next(b for b in asked if b["messages"][-1]["content"].endswith(f"患者：{tests[0].patient}"))
    assert tests[0].situation in reply["messages"][-1]["content"]
    assert not any(tests[0].reference in m["content"] for m in reply["messages"])


@pytest.mark.slow
def test_a_real_server_answers_and_a_dead_one_is_named(parts, run, serve):
    """`transformers serve` as a model of params.yaml: every dialogue answered, the second run asks nothing."""
    url, model = serve
    chat = {"backend": "openai", "model": model, "base_url": url}
    change_params(parts, models__chat=chat, generate__max_new_tokens=8)
    run("emplifai", "generate", "--model", "chat")
    first = results(parts, "chat")
    rows = [json.loads(line) for name in ("reply.jsonl", "emotion.jsonl") for line in first[name].splitlines()]
    tests = len(list(read_jsonl(parts / "results/split/test.jsonl", Dialogue)))
    assert len(rows) == 2 * tests and {r["task"] for r in rows} == {"reply", "emotion"}
    assert all(r["input_tokens"] > 50 and r["text"] and r["finish_reason"] in ("stop", "length") for r in rows)
    assert all(r["output_tokens"] <= 8 for r in rows if r["task"] == "reply")
    change_params(parts, models__chat=chat | {"base_url": "http://127.0.0.1:9/v1"}, generate__max_new_tokens=9)
    done = run("emplifai", "generate", "--model", "chat", ok=False)
    assert done.returncode == 2 and "127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr

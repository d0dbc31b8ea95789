"""Asking a judge on a server: emplifai against deepeval's G-Eval and a loop over the `openai` package; a fully cached run.

python benchmarks/judge_client.py [--questions 10000] [--in-flight 64] [--latency 0.5] [--rounds 3] [--cached 10000]

The server is a process of its own that answers each request after the same latency, so no client can be faster than
questions / in-flight x latency. Clients alternate; the median round counts. The peers are `openai.AsyncOpenAI` with a
semaphore, as its README shows concurrency, and deepeval's G-Eval with its steps given, one request a text, with the same
semaphore, in the environment that `make bench` makes (without it this side is left out). The stage is run by its command,
memory being the most it ever held.
"""

import argparse
import asyncio
import importlib.util
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from emplifai import records
from emplifai.backends import openai as ours
from emplifai.records import Dialogue, Reply, Turn, sha256

ROOT = Path(__file__).parent.parent
VERDICT = json.dumps({"rationale": "理由です。", "score": 4, "reason": "理由です。"}, ensure_ascii=False)  # reason: G-Eval's word
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": VERDICT}}],
    "usage": {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cached", type=int, default=10_000)
    args = parser.parse_args()
    with Server(args.latency) as url:
        clients(url, args)
    with Server(0.0) as url:
        for questions in (args.cached // 4, args.cached):
            stage(url, questions)


class Server:
    """Gives each request the same answer after the same time; one process, one thread, so that it is not what is measured."""

    def __init__(self, latency: float):
        self.latency = latency

    def __enter__(self) -> str:
        told, tell = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.get_context("spawn").Process(target=_serve, args=(tell, self.latency), daemon=True)
        self.process.start()
        tell.close()  # so that a server that dies is an error here and no wait
        return f"http://127.0.0.1:{told.recv()}/v1"

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.join()


def _serve(tell, latency: float) -> None:
    asyncio.run(_listen(tell, latency))


async def _listen(tell, latency: float) -> None:
    body = json.dumps(ANSWER, ensure_ascii=False).encode()
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                if latency:
                    await asyncio.sleep(latency)
                writer.write(whole)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=256)
    tell.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def clients(url: str, args: argparse.Namespace) -> None:
    asked = [{"messages": [{"role": "user", "content": f"質問{k}" * 100}], "max_tokens": 64} for k in range(args.questions)]
    limit = args.questions / args.in_flight * args.latency
    sides = {"emplifai": by_emplifai, "openai.AsyncOpenAI and a semaphore": by_openai}
    if importlib.util.find_spec("deepeval"):
        sides["deepeval's G-Eval and a semaphore"] = by_geval
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            taken[name].append(side(url, asked, args.in_flight))
    print(f"{args.questions} questions, {args.in_flight} in flight, {args.latency} s latency: limit {limit:.2f} s")
    for name, rounds in taken.items():
        wall, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"| {name} | {wall:.2f} s | {wall / limit:.3f} of the limit | {cpu:.2f} s CPU |", flush=True)


def timed(ask, asked: list[dict]) -> tuple[float, float]:
    """Seconds of wall clock and processor; the answers must be what the server says."""
    wall, cpu = time.perf_counter(), time.process_time()
    answers = ask()
    assert answers == [VERDICT] * len(asked), "other answers than the server's"
    return time.perf_counter() - wall, time.process_time() - cpu


def by_emplifai(url: str, asked: list[dict], in_flight: int) -> tuple[float, float]:
    limits, endpoint = ours.Limits(max_in_flight=in_flight, timeout=60), ours.Endpoint("judges.bench", url, "m")
    return timed(lambda: [a.text for a in ours.complete(asked, endpoint, limits)], asked)


def by_geval(url: str, asked: list[dict], in_flight: int) -> tuple[float, float]:
    command = [sys.executable, ROOT / "benchmarks/peers/geval.py", url, str(len(asked)), str(in_flight)]
    with tempfile.TemporaryDirectory() as work:  # it leaves files where it runs
        said = subprocess.run(command, cwd=work, check=True, capture_output=True, text=True).stdout
    taken = json.loads(said.splitlines()[-1])
    return taken["wall"], taken["processor"]


def by_openai(url: str, asked: list[dict], in_flight: int) -> tuple[float, float]:
    from openai import AsyncOpenAI

    async def all_of_them() -> list[str]:
        async with AsyncOpenAI(base_url=url, api_key="none") as client:
            gate = asyncio.Semaphore(in_flight)

            async def one(body: dict) -> str:
                async with gate:
                    done = await client.chat.completions.create(model="m", **body)
                return done.choices[0].message.content

            return await asyncio.gather(*map(one, asked))

    return timed(lambda: asyncio.run(all_of_them()), asked)


def stage(url: str, questions: int) -> None:
    """`emplifai judge` twice over about `questions` questions of one model."""
    work = Path(tempfile.mkdtemp())
    try:
        count = project(work, url, questions)
        for name in ("first run", "fully cached run"):
            started = time.perf_counter()
            command = [sys.executable, "-m", "emplifai", "judge", "--judge", "llm"]
            process = subprocess.Popen(command, cwd=work, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            taken, most = time.perf_counter() - started, used.ru_maxrss / 1024
            assert status == 0, "the stage failed"
            cpu = used.ru_utime + used.ru_stime
            print(f"| stage, {name} | {count} questions | {taken:.2f} s | {cpu:.2f} s CPU | at most {most:.0f} MiB |", flush=True)
    finally:
        shutil.rmtree(work)


def project(work: Path, url: str, questions: int) -> int:
    """A study with one model; each dialogue asks for its reply and the reference on three criteria."""
    lines = [json.loads(line) for path in sorted((ROOT / "data/corpus").glob("*.jsonl")) for line in path.open(encoding="utf-8")]
    pairs = [(row, *pair) for row in lines for pair in row["dialogues"]]
    test = []
    for k in range(questions // 6):
        row, patient, supporter = pairs[k % len(pairs)]
        turns = [Turn("patient", f"{k}：{patient}"), Turn("supporter", supporter)]
        test.append(Dialogue(f"d{k}", f"s{k // 4}", row["emotion"], None, row["situation"], turns))
    replies = [Reply(d.dialogue_id, "m", "reply", 0, d.patient, "stop", "", "", sha256(d.patient)) for d in test]
    for part in ("train", "dev", "test"):
        records.write_jsonl(work / f"results/split/{part}.jsonl", test if part == "test" else [])
    records.write_jsonl(work / "results/generate/m/reply.jsonl", replies)
    params = {
        "data": {"labels": str(ROOT / "data/labels.yaml")},
        "judge": {"max_in_flight": 64, "audit": {"situations": 0}},
        "models": {"m": {"backend": "parrot"}},
        "judges": {"llm": {"backend": "openai", "model": "m", "base_url": url}},
    }
    records.write_json(work / "params.yaml", params)  # JSON is YAML
    os.sync()
    dry = [sys.executable, "-m", "emplifai", "judge", "--judge", "llm", "--dry-run"]
    said = subprocess.run(dry, cwd=work, check=True, capture_output=True, text=True).stdout
    return int(said.split(" questions")[0].split()[-1])


if __name__ == "__main__":
    main()

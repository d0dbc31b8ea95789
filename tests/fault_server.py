"""A local server that answers as an OpenAI-compatible one, and fails in the ways that real ones do.

    with FaultServer() as server:                       # well-behaved: a verdict computed from the prompt
    with FaultServer(faults=lambda n, body: "500" if n < 3 else None) as server:
    with FaultServer(upstream="http://127.0.0.1:8000/v1") as server:   # in front of a real server, which answers

`faults(n, body)` names the fault of the n-th request (from 0), or None. `server.bodies` are the requests that came.
"""

import hashlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def score_of(prompt: str, low: int = 1, high: int = 5) -> int:
    """The well-behaved judge's score: a number that depends on each character of the prompt."""
    return low + int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % (high - low + 1)


def prompt_of(body: dict) -> str:
    return "\n".join(message["content"] for message in body["messages"])


def verdict(body: dict) -> str:
    return json.dumps({"rationale": "理由です。", "score": score_of(prompt_of(body))}, ensure_ascii=False)


class FaultServer:
    def __init__(
        self,
        faults: Callable[[int, dict], str | None] = lambda n, body: None,
        answer: Callable[[dict], str] = verdict,
        latency: float = 0.0,
        logprobs: Callable[[dict], list[dict]] | None = None,
        upstream: str | None = None,
        answers: dict[str, tuple[int, str]] | None = None,
    ):
        """upstream: base_url of a real server; answers: what it said, by question, is kept there and not asked again."""
        self.faults, self.answer, self.latency, self.logprobs = faults, answer, latency, logprobs
        self.upstream, self.answers = upstream, answers
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.at: list[float] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self):
        outer = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request, client_address):
                pass  # a client that went away is what some tests are about

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer._lock:
                    number = len(outer.bodies)
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers))
                    outer.at.append(time.monotonic())
                    outer._at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer._at_once)
                try:
                    outer._respond(self, number, body)
                finally:
                    with outer._lock:
                        outer._at_once -= 1

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def _respond(self, handler: BaseHTTPRequestHandler, number: int, body: dict) -> None:
        fault = self.faults(number, body)
        time.sleep(self.latency)
        text = {
            "prose": "たいへん温かい返答だと思います。",
            "half": '{"rationale": "温かい返答で、気持ちに',
            "eleven": '{"rationale": "満点以上です。", "score": 11}',
            "verdict schema": '{"rationale": "理由です。", "points": 4}',
            "empty": "",
        }.get(fault)
        if fault == "slow":
            time.sleep(30)
        elif fault == "drip":
            return self._drip(handler)
        elif fault == "drop":
            return self._drop(handler)
        elif fault == "429":
            return _send(handler, 429, {"error": {"message": "slow down"}}, {"Retry-After": "1"})
        elif fault == "429 now":
            return _send(handler, 429, {"error": {"message": "slow down"}}, {"Retry-After": "0.05"})
        elif fault == "429 date":
            return _send(handler, 429, {"error": {"message": "slow down"}}, {"Retry-After": "Thu, 01 Jan 2099 00:00:00 GMT"})
        elif fault == "500":
            return _send(handler, 500, {"error": {"message": "out of memory"}})
        elif fault == "401":
            return _send(handler, 401, {"error": {"message": f"bad key {handler.headers.get('Authorization')}"}})
        elif fault == "404":
            return _send(handler, 404, {"error": {"message": "the model `x` does not exist"}})
        elif fault == "redirect":
            return _send(handler, 307, {}, {"Location": "http://192.0.2.1/v1/chat/completions"})
        elif fault == "no json":
            return _send(handler, 200, "<html>Bad gateway</html>")
        elif fault == "body schema":
            return _send(handler, 200, {"choices": []})
        elif fault == "cut body":
            return _send(handler, 200, json.dumps(self._completion(body, "x"))[:40])
        elif fault == "cut off":
            return self._cut_off(handler)
        elif fault == "refusal":
            return _send(handler, 200, self._completion(body, None, refusal="I cannot rate this."))
        elif fault == "no response_format" and "response_format" in body:
            return _send(handler, 400, {"error": {"message": "unknown field", "type": "invalid_request_error"}})
        elif fault == "max_completion_tokens" and "max_tokens" in body:
            return _send(handler, 400, {"error": {"message": "use 'max_completion_tokens' instead"}})
        if self.upstream and text is None:
            return _send(handler, *self._from_upstream(body))
        _send(handler, 200, self._completion(body, self.answer(body) if text is None else text))

    def _completion(self, body: dict, text: str | None, refusal: str | None = None) -> dict:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, "refusal": refusal}}
        if self.logprobs and body.get("logprobs"):
            choice["logprobs"] = {"content": self.logprobs(body)}
        prompt = prompt_of(body)
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(text or "")},
        }

    def _from_upstream(self, body: dict) -> tuple[int, str]:
        key, known = json.dumps(body), {} if self.answers is None else self.answers
        if key not in known:
            known[key] = _ask(f"{self.upstream}/chat/completions", body)
        return known[key]

    def _drop(self, handler) -> None:
        handler.close_connection = True
        handler.connection.close()

    def _cut_off(self, handler) -> None:
        """Half of the body that the header promised, then the end of the connection."""
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [{"mess')
        handler.close_connection = True

    def _drip(self, handler) -> None:
        """A byte every tenth of a second: a read never times out, the answer never ends."""
        handler.send_response(200)
        handler.send_header("Content-Length", "10000")
        handler.end_headers()
        for _ in range(300):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)


def _ask(url: str, body: dict) -> tuple[int, str]:
    """Status and body of the real server's answer."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _send(handler, status: int, body: dict | str, headers: dict | None = None) -> None:
    data = (body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)).encode()
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)

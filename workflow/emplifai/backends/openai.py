"""Ask a chat model on an OpenAI-compatible server many questions at once: vLLM, llama.cpp, `transformers serve`, hosted ones.

The protocol: POST BASE_URL/chat/completions (OpenAI API reference, "Chat completions"). Only what all these servers
share is needed; a field that a server refuses (response_format) is noticed once and left out from then on.
"""

import asyncio
import json
import os
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import httpx

from emplifai import privacy
from emplifai.backends.attempts import Breaker, Failure, back_off, from_status, from_transport
from emplifai.backends.pace import Pace
from emplifai.backends.protocol import Answer, Request, changed, characters, message_of, read, remedy
from emplifai.errors import UserError
from emplifai.params import Data, JudgeModel, Model
from emplifai.records import digest


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model on a server that texts may be sent to. Made by `endpoint`, which checks that."""

    where: str  # its key in params.yaml, for messages: models.NAME or judges.NAME
    url: str  # without a trailing slash
    model: str
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    max_in_flight: int = 8  # requests at once
    timeout: float = 120  # seconds a try, until its last byte
    attempts: int = 6  # tries a request
    deadline: float = 900  # seconds a request, all tries and waits together
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None  # input and output


def endpoint(where: str, entry: Model | JudgeModel, data: Data) -> Endpoint:
    """The endpoint of an entry of params.yaml (where: "models.NAME" or "judges.NAME").

    Raises UserError if texts must not be sent there (privacy.check) or the key's environment variable is not set.
    """
    url = privacy.check(entry.base_url, f"{where}.base_url", data)
    key = None
    if entry.api_key_env:
        key = os.environ.get(entry.api_key_env, "").strip()
        if not key:
            raise UserError(f"{where}.api_key_env: the environment variable {entry.api_key_env} is not set; export it first")
        if not key.isascii() or not key.isprintable():
            raise UserError(f"{where}.api_key_env: the environment variable {entry.api_key_env} holds no key (odd characters)")
    return Endpoint(where, url, entry.model, key)


def complete(
    requests: Sequence[Request],
    endpoint: Endpoint,
    limits: Limits = Limits(),
    on_answer: Callable[[int, Answer], None] | None = None,
) -> list[Answer]:
    """Ask all requests; answers in their order, each either an answer or an error with its reason: none is lost.

    Identical requests are asked once. `on_answer(index, answer)` is called as answers arrive, in any order, for each
    request: to put them into a cache before the run ends or is killed. The first request goes alone: it finds out what
    the server takes, and whether it is there. Raises UserError when no further request can succeed (see Breaker).
    """
    places: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
        places.setdefault(digest(request), []).append(index)
    answers: list[Answer | None] = [None] * len(requests)

    def arrived(indices: list[int], answer: Answer) -> None:
        for index in indices:
            answers[index] = answer
            if on_answer:
                on_answer(index, answer)

    if requests:
        asyncio.run(_ask_all(list(places.values()), requests, endpoint, limits, arrived))
    return answers  # type: ignore[return-value]  # all are there when no exception was raised


async def _ask_all(groups, requests, endpoint, limits, arrived) -> None:
    async with Client(endpoint, limits) as client:
        queue = iter(groups)

        async def work(most: int | None = None) -> None:
            for indices in queue:
                arrived(indices, await client.ask(requests[indices[0]]))
                if most:
                    return

        await work(most=1)
        workers = [asyncio.create_task(work()) for _ in range(min(limits.max_in_flight, len(groups)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


class Client:
    """One server's connections, and what has been learnt about it."""

    def __init__(self, endpoint: Endpoint, limits: Limits):
        self.endpoint, self.limits = endpoint, limits
        self.breaker = Breaker(endpoint.where, endpoint.url)
        self.changes: set[str] = set()  # names of protocol.CHANGES that this server needs
        self.pace = Pace(limits.requests_per_minute, limits.tokens_per_minute)
        self._paused_until = 0.0
        headers = {"content-type": "application/json"}
        if endpoint.key:
            headers["authorization"] = f"Bearer {endpoint.key}"
        # trust_env=False: no proxy, no .netrc; what is private must not take a way that params.yaml does not name
        self._options = {"headers": headers, "timeout": None, "trust_env": False, "follow_redirects": False}
        self._options["verify"] = _trust(endpoint.url)
        # A client for each request in flight: the work of one pool grows with the square of its connections.
        self._idle: list[httpx.AsyncClient] = []
        self._clients: list[httpx.AsyncClient] = []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for client in self._clients:
            await client.aclose()

    def _client(self) -> httpx.AsyncClient:
        if self._idle:
            return self._idle.pop()
        self._clients.append(httpx.AsyncClient(**self._options))
        return self._clients[-1]

    async def ask(self, request: Request) -> Answer:
        """Ask until there is an answer, or the tries or the time are over."""
        size = characters(request)
        expected = self.pace.estimate(size, request.get("max_tokens", 0))
        await self.pace.turn(expected)
        begun, tries = time.monotonic(), 0
        deadline = begun + self.limits.deadline
        while True:
            await self._pause()
            try:
                answer = await self._try(request, min(self.limits.timeout, max(0.1, deadline - time.monotonic())))
                self.breaker.succeeded()
                self.pace.learnt(size, answer.input_tokens, expected, answer.used)
                return replace(answer, tries=tries + 1)
            except Failure as failure:
                tries += failure.counts
                wait = back_off(tries) if failure.wait is None else failure.wait
                if not failure.retried or tries >= self.limits.attempts or time.monotonic() + wait >= deadline:
                    self.breaker.gave_up(failure, begun)
                    return Answer("error", error=str(failure), tries=max(tries, 1))
                if failure.wait is None:
                    await asyncio.sleep(wait)
                    await self.pace.turn(expected)
                else:
                    self._paused_until = max(self._paused_until, time.monotonic() + wait)

    async def _pause(self) -> None:
        """Wait as long as the server asked all of us to, then come back one after the other."""
        while (wait := self._paused_until - time.monotonic()) > 0:
            await asyncio.sleep(wait + 0.01 * back_off(1))

    async def _try(self, request: Request, timeout: float) -> Answer:
        """One try. Raises Failure. A request refused for a field that not all servers know is changed and sent again."""
        changes = set(self.changes)
        while True:
            body = changed(request, changes)
            try:
                answer = await self._post(body, timeout)
                self.changes |= changes
                return answer
            except Failure as failure:
                more = remedy(body, failure) - changes
                if not more:
                    raise
                changes |= more

    async def _post(self, body: Request, timeout: float) -> Answer:
        content = json.dumps({"model": self.endpoint.model, **body}, ensure_ascii=False).encode()
        started, client = time.monotonic(), self._client()
        try:
            async with asyncio.timeout(timeout):
                response = await client.post(f"{self.endpoint.url}/chat/completions", content=content)
        except (httpx.HTTPError, TimeoutError, OSError, ssl.SSLError) as error:
            raise from_transport(error, timeout) from None
        finally:
            self._idle.append(client)
        text = response.content.decode("utf-8", "replace")
        if self.endpoint.key:  # some servers repeat the key in their messages
            text = text.replace(self.endpoint.key, "***")
        if response.status_code != 200:
            raise from_status(response, message_of(text))
        return replace(read(text), seconds=round(time.monotonic() - started, 3))


def _trust(url: str) -> ssl.SSLContext:
    """Certificates of the system (and SSL_CERT_FILE), so that a hospital's own authority counts, with certifi's."""
    if not url.startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not used, and made in no time
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context

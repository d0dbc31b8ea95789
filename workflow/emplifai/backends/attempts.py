"""What becomes of a request that failed: another try after a wait, a failed answer, or the end of the run."""

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

from emplifai.errors import UserError

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between tries; doubles each time
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
MENDABLE = {401, 403, 404, 405}  # wrong key, path or model: no question can succeed
IN_A_ROW = 10  # so many requests given up on without one answer between: the server is down


@dataclass(eq=False)
class Failure(Exception):
    """Why a try brought no answer."""

    kind: str  # unreachable | connection | timeout | rate_limit | server | schema | rejected | redirect
    detail: str
    status: int | None = None
    wait: float | None = None  # seconds that the server asks to wait

    @property
    def retried(self) -> bool:
        return self.kind not in ("rejected", "redirect")

    @property
    def counts(self) -> bool:
        """A wait that the server asked for is no failed try: only the deadline ends it."""
        return self.wait is None

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


def back_off(tries: int) -> float:
    """Seconds to wait before the next try: exponential with jitter, so that clients do not come back together."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tries - 1)) * random.uniform(0.5, 1)


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that a server asks to wait, by Retry-After as a number or a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def from_transport(error: Exception, timeout: float) -> Failure:
    """The failure that an exception of the client stands for."""
    if isinstance(error, TimeoutError | httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return Failure("timeout", f"no answer within {timeout:g} s")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Failure("unreachable", _reason(error))
    return Failure("connection", _reason(error))


def from_status(response: httpx.Response, text: str) -> Failure:
    """The failure that a status other than 200 stands for."""
    status, detail = response.status_code, f"HTTP {response.status_code}: {text}".rstrip(": ")
    if 300 <= status < 400:
        return Failure("redirect", f"HTTP {status} to {response.headers.get('location', '?')}", status)
    if status == 429:
        return Failure("rate_limit", detail, status, retry_after(response.headers))
    if status in RETRIED:
        return Failure("server", detail, status, retry_after(response.headers) if status == 503 else None)
    return Failure("server" if status >= 500 else "rejected", detail, status)


def _reason(error: BaseException) -> str:
    """What the operating system said, found among the causes."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
            return os.strerror(cause.errno).lower()
    return str(error) or type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            yield from _causes(error.exceptions[0])
        error = error.__cause__ or error.__context__


class Breaker:
    """Ends a run, with a message that says what to do, when no further request can succeed."""

    def __init__(self, where: str, url: str):
        self.where, self.url = where, url
        self._heard = float("-inf")
        self._in_a_row = 0

    def succeeded(self) -> None:
        self._heard, self._in_a_row = time.monotonic(), 0

    def gave_up(self, failure: Failure, since: float) -> None:
        """Count a request that was given up on; `since`: when its first try began (monotonic seconds)."""
        self._in_a_row += 1
        never = self._heard == float("-inf")
        if failure.kind == "redirect":
            raise UserError(
                f"{self.where}: {self.url} answers {failure.detail}; redirects are not followed: the texts could leave for "
                f"another host. If that address is right, set {self.where}.base_url to it"
            )
        if failure.status in MENDABLE and never:
            raise UserError(f"{self.where}: {self.url} answers {failure.detail}; {self._advice(failure.status)}")
        if failure.kind == "unreachable" and self._heard < since:
            raise UserError(
                f"{self.where}: cannot reach {self.url}: {failure.detail}; is the server running? "
                f"Start it, or change {self.where}.base_url. What was answered is kept"
            )
        if self._in_a_row >= IN_A_ROW and (failure.retried or never):
            raise UserError(
                f"{self.where}: {self.url}: {self._in_a_row} requests in a row failed, the last by {failure}. "
                f"What was answered is kept; the same command goes on from here once the server is well"
            )

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            return f"is the key in the environment variable of {self.where}.api_key_env right?"
        return f"are {self.where}.base_url (it usually ends in /v1) and {self.where}.model right?"

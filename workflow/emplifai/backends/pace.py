"""Keep to a server's limits of requests and tokens a minute, by even steps: no minute, wherever it begins, holds more."""

import asyncio
import time


class Pace:
    """Hands out the moments at which requests may start. Steps, not a bucket: a full bucket allows twice the limit."""

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None):
        self._request = 60 / requests_per_minute if requests_per_minute else 0.0  # seconds
        self._token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next = 0.0
        self._ratio = 1.0  # tokens a character, as answers show; Japanese has about one

    def estimate(self, characters: int, most: int) -> float:
        """Tokens that a prompt of so many characters and an answer of at most `most` tokens will use."""
        return characters * self._ratio + most

    async def turn(self, tokens: float) -> None:
        """Wait for the next free moment, and take it with what these tokens need."""
        if not self._request and not self._token:
            return
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + max(self._request, tokens * self._token)
        await asyncio.sleep(start - now)

    def learnt(self, characters: int, input_tokens: int | None, estimated: float, used: int | None) -> None:
        """Correct the estimate by what an answer says it used; what was not used is given back."""
        if input_tokens and characters:
            self._ratio += 0.1 * (input_tokens / characters - self._ratio)
        if used is not None and self._token:
            self._next += max(self._request, used * self._token) - max(self._request, estimated * self._token)

"""Wrong links are slowed down: a few in some minutes, then no more tries from there for a while."""

import hashlib
import secrets
import time
from collections.abc import Callable

TRIES, WINDOW = 5, 300.0  # wrong tries, seconds


class Throttle:
    """Counts wrong tries by where they come from, in memory only: addresses are hashed with a salt that ends with the process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._salt = clock, secrets.token_bytes(16)
        self._wrong: dict[bytes, list[float]] = {}

    def wait(self, source: str) -> int:
        """Seconds until the next try is heard; 0: now."""
        recent = self._recent(self._key(source))
        return 0 if len(recent) < TRIES else max(1, round(recent[-TRIES] + WINDOW - self._clock()))

    def wrong(self, source: str) -> None:
        self._wrong = {key: times for key in self._wrong if (times := self._recent(key))}
        key = self._key(source)
        self._wrong[key] = [*self._wrong.get(key, []), self._clock()]

    def _key(self, source: str) -> bytes:
        return hashlib.sha256(self._salt + source.encode()).digest()

    def _recent(self, key: bytes) -> list[float]:
        return [t for t in self._wrong.get(key, []) if self._clock() - t < WINDOW]

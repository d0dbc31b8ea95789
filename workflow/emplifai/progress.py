"""Progress of long work on stderr: a bar on a terminal, a line now and then elsewhere."""

import math
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from emplifai import locks

T = TypeVar("T")


class Progress:
    """Counts work done; says how far it is, the rate and the time left. Use as a context manager."""

    def __init__(self, what: str, total: int, unit: str = "items", seconds: float = 10, show: bool = True):
        self.what, self.total, self.unit, self.show = what, total, unit, show
        self.done, self.note = 0, ""
        self._live = sys.stderr.isatty()
        self._every = 0.2 if self._live else seconds
        self._start = self._said = time.monotonic()

    def __enter__(self):
        if self.show:
            locks.note()
        return self

    def __exit__(self, *_):
        self._say(last=True)

    def add(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        if time.monotonic() - self._said >= self._every:
            self._say()

    def _say(self, last: bool = False) -> None:
        now = time.monotonic()
        self._said = now
        if not self.show:
            return
        locks.note()
        rate = self.done / max(now - self._start, 1e-9)
        left = "" if last or not rate else f", {_clock((self.total - self.done) / rate)} left"
        spent = f", took {_clock(now - self._start)}" if last else ""
        line = f"{self.what}: {self._amounts(rate)}{left}{spent}{'; ' + self.note if self.note else ''}"
        end = "\n" if last or not self._live else ""
        print(f"\r\x1b[K{line}" if self._live else line, end=end, file=sys.stderr, flush=True)

    def _amounts(self, rate: float) -> str:
        if self.unit == "bytes":
            unit, size = ("MB", 1e6) if self.total >= 1e6 else ("kB", 1e3)
            return f"{self.done / size:.1f}/{self.total / size:.1f} {unit}, {_number(rate / size)} {unit}/s"
        return f"{self.done}/{self.total} {self.unit}, {_number(rate)}/s"


def track(items: Iterable[T], what: str, total: int, unit: str = "items") -> Iterator[T]:
    """The items, counted as they pass."""
    with Progress(what, total, unit) as progress:
        for item in items:
            yield item
            progress.add()


def _number(value: float) -> str:
    """Three digits, and never an exponent: 0.012, 1.23, 1234."""
    return f"{value:.0f}" if value >= 100 else f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 0.01))))}f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

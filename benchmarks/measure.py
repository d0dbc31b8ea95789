"""How the benchmarks measure: each side in a process of its own, in turns; medians, spreads, peak memory, floors.

Two times are taken: by the clock, and of the processor (all threads, and processes that were waited for). On a machine with
other work the second is the steadier one; ratios are of the second where OMP_NUM_THREADS is 1 (threads that wait for each
other would count), else of the first.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Side(NamedTuple):
    """What one side came to in one round."""

    value: Any
    seconds: float
    processor: float
    gigabytes: float  # most memory that its process held

    @property
    def counted(self) -> float:
        return self.processor if single() else self.seconds


class Watch:
    """Seconds by the clock and of the processor since it was made."""

    def __init__(self):
        self.start = self._now()

    def read(self) -> tuple[float, float]:
        return tuple(b - a for a, b in zip(self.start, self._now(), strict=True))  # type: ignore[return-value]

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), sum(os.times()[:4])


class Timed(NamedTuple):
    """What a side returns to leave its preparations out of the time."""

    value: Any
    times: tuple[float, float]


def single() -> bool:
    return os.environ.get("OMP_NUM_THREADS") == "1"


def alone(work: Callable, *args: Any) -> Side:
    """work(*args) in a fresh process."""
    pool = multiprocessing.get_context("spawn").Pool(1)
    try:
        return pool.apply(_timed, (work, args))
    finally:
        pool.close()
        pool.join()


def _timed(work: Callable, args: tuple) -> Side:
    watch = Watch()
    value = work(*args)
    times = watch.read()
    if isinstance(value, Timed):
        value, times = value
    return Side(value, *times, peak())


def peak() -> float:
    """Most memory that this process held, GB. Not getrusage's: that starts with what the parent held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def rounds(count: int, sides: dict[str, tuple]) -> dict[str, list[Side]]:
    """{name: (work, *args)} in turns A B C, A B C, ..."""
    found: dict[str, list[Side]] = {name: [] for name in sides}
    for number in range(count):
        for name, (work, *args) in sides.items():
            side = alone(work, *args)
            found[name].append(side)
            print(f"  round {number + 1}, {name}: {side.seconds:.2f} s, of the processor {side.processor:.2f} s", flush=True)
    return found


def table(title: str, found: dict[str, list[Side]], tokens: dict[str, int] | None = None, ours: str = "emplifai") -> None:
    """Medians, spread, how many times as long as ours, rate and peak memory."""
    base = statistics.median(s.counted for s in found[ours])
    which = "processor" if single() else "clock"
    print(f"\n{title} (ratio, spread and rate by the {which})")
    print(f"{'':<34} {'seconds':>9} {'processor':>9} {'spread':>17} {'ratio':>7} {'tokens/s':>9} {'GB':>6}")
    for name, sides in found.items():
        counted = [s.counted for s in sides]
        middle = statistics.median(counted)
        seconds, processor = (statistics.median(getattr(s, k) for s in sides) for k in ("seconds", "processor"))
        spread = f"{min(counted):8.2f}-{max(counted):<8.2f}"
        speed = f"{tokens[name] / middle:9.0f}" if tokens and name in tokens else " " * 9
        most = max(s.gigabytes for s in sides)
        print(f"{name:<34} {seconds:9.2f} {processor:9.2f} {spread} {middle / base:7.2f} {speed} {most:6.2f}")


def rate(dtype: str = "float32", rows: int = 1024, depth: int = 640, columns: int = 2048) -> float:
    """Floating point operations a second of a large matrix product, now, with the threads that are set; the best of ten."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(*shape, dtype=getattr(torch, dtype), device=device) for shape in ((rows, depth), (depth, columns)))
    best = float("inf")
    for _ in range(10):
        watch = Watch()
        for _ in range(20):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, watch.read()[1 if single() else 0] or best)
    return 20 * 2 * rows * depth * columns / best


def bandwidth() -> float:
    """Bytes a second that a sum over 1 GB reads."""
    import torch

    data = torch.ones(2**28, device="cuda" if torch.cuda.is_available() else "cpu")
    best = float("inf")
    for _ in range(4):
        watch = Watch()
        float(data.sum())
        best = min(best, watch.read()[1 if single() else 0] or best)
    return data.nbytes / best


def layer_weights(config: Any) -> int:
    """Numbers in the matrices of one layer of a decoder (attention and gated MLP)."""
    width = config.hidden_size
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    return 2 * width * queries + 2 * width * keys + 3 * width * config.intermediate_size


def floor(operations: float, seconds: float, dtype: str = "float32") -> None:
    """Print the least time that the arithmetic takes at the rate of a large product, and the share of it that was reached."""
    now = alone(rate, dtype).value
    least = operations / now
    told = f"{operations / 1e9:.0f} GFLOP at {now / 1e9:.0f} GFLOP/s in {dtype} take {least:.2f} s"
    print(f"floor: {told}; it took {seconds:.2f} s: {least / seconds:.0%} of the rate reached")

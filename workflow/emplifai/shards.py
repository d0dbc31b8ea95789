"""A stage's work for one model in several jobs. A shard only fills the cache, from which the stage's own job then writes.

So the files are the same whatever the number of shards: what is computed does not depend on it, only where.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from emplifai.errors import UserError
from emplifai.params import JudgeModel, Model, Params
from emplifai.paths import Paths

T = TypeVar("T")


class Shard(NamedTuple):
    """The `number`-th (from 1) of `count` shards."""

    number: int
    count: int

    def owns(self, key: str) -> bool:
        """By hash: for work of which each item stands alone. key: hexadecimal."""
        return int(key[:12], 16) % self.count == self.number - 1

    def of(self, batches: Sequence[T]) -> Sequence[T]:
        """Every count-th batch: for work that is planned in batches, longest first, which a shard must not plan anew."""
        return batches[self.number - 1 :: self.count]

    def __str__(self) -> str:
        return f"{self.number}of{self.count}"


def shard(text: str) -> Shard:
    """Shard(2, 5) from "2/5". Raises UserError."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UserError(f"--shard {text}: want K/N with K from 1 to N, for example 2/5")
    return Shard(int(number), int(count))


def one_of(names: Iterable[str]) -> str:
    """A Snakemake wildcard's constraint: these names only."""
    return "|".join(map(re.escape, names)) or "(?!)"


def marks(params: Params, paths: Paths, stage: str, name: str = "", entry: Model | JudgeModel | None = None) -> list[Path]:
    """Marks of the jobs that a part's work is spread over; none where its own job does it all."""
    count = params.section(stage)["shards"]
    if count == 1 or (entry and not entry.uses_gpu):
        return []
    return [paths.shard(stage, name, f"{k}of{count}") for k in range(1, count + 1)]

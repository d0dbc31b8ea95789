"""Texts in batches of fixed shapes, behind contexts that are read once for all texts that follow them."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from emplifai.backends import caches

STEP = 16  # tokens: texts are padded to a multiple of it
CONTEXT_STEP = 32  # and what stands before them to a multiple of this
BATCH_TOKENS = 1024  # of a batch; on a processor larger ones are hardly quicker, and short of rows more often


class Passage(NamedTuple):
    """A text, what stands before it and the mark that ends it. `log_p` and `features` say what is wanted of it."""

    context: str
    text: str
    end: str
    log_p: bool = True
    features: bool = True


class Row(NamedTuple):
    passage: Passage
    ids: list[int]
    start: int  # where the text begins in ids, and where its end mark does
    end: int


class Placed(NamedTuple):
    """A row, the length of its context, and that context's keys and values [heads, tokens, size] of each layer."""

    row: Row
    cut: int
    layers: list[tuple[Any, Any]]


def batches(rows: list[Row], cut: Callable[[Row], int], read: Callable[[list[list[Row]]], list]) -> Iterator[list[Placed]]:
    """Texts of one shape behind contexts of one shape, as soon as there are enough of them.

    cut: the length of a row's context; read: keys and values of each layer for a batch of contexts.
    """
    for contexts_of_a_length in _shelves(rows, cut):
        waiting: dict[int, list[Placed]] = defaultdict(list)
        for contexts in contexts_of_a_length:
            layers = read(contexts)
            for number, members in enumerate(contexts):
                # a copy, lest a text that waits keeps the keys and values of the whole batch
                own = [(keys[number].clone(), values[number].clone()) for keys, values in layers]
                for row in members:
                    length = cut(row)
                    wide = width(len(row.ids) - length)
                    waiting[wide].append(Placed(row, length, own))
                    if len(waiting[wide]) == height(wide):
                        yield waiting.pop(wide)
        yield from waiting.values()  # no more will come behind contexts of this length


def width(length: int, step: int = STEP) -> int:
    """Tokens that so many take in a batch."""
    return -(-length // step) * step


def height(wide: int) -> int:
    """Rows of a batch so wide."""
    return max(1, BATCH_TOKENS // max(1, wide))


def _shelves(rows: list[Row], cut: Callable[[Row], int]) -> Iterator[list[list[list[Row]]]]:
    """Contexts of one padded length in batches, the longest first; a context is the rows that begin with it."""
    sharing: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        sharing[tuple(row.ids[: cut(row)]), row.passage.log_p].append(row)
    shelves: dict[tuple, list[list[Row]]] = defaultdict(list)
    for (context, log_p), members in sharing.items():
        shelves[width(len(context), CONTEXT_STEP), log_p].append(members)
    for shape in sorted(shelves, reverse=True):
        rest, most = shelves[shape], height(shape[0])
        yield [rest[k : k + most] for k in range(0, len(rest), most)]


def gathered(batch: list[Placed], rows: int) -> Any:
    """A cache that holds the context of each row; rows that only fill up get the first one's."""
    import torch

    made = caches.new(room=0)
    batch = batch + batch[:1] * (rows - len(batch))
    for number in range(len(batch[0].layers)):
        keys, values = (torch.stack([p.layers[number][k] for p in batch]) for k in (0, 1))
        made.update(keys, values, number)
    return made

"""Near duplicates among many texts: MinHash and LSH (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3).

Signatures are those of datasketch.MinHash, computed for hundreds of texts at once; bands and rows are those that
datasketch.MinHashLSH chooses. Only the bands' keys are kept, on disk, so that a text costs a few bytes of memory. A
candidate counts when the Jaccard similarity of the character trigrams themselves reaches the threshold.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from emplifai.japanese import fold

PERMUTATIONS = 128
MISSES = (0.02, 0.98)  # weights of false positives, which cost time only, and of false negatives
NEIGHBOURS = 16  # of a bucket's members each is compared with so many before it: no bucket costs its size squared
BATCH = 256  # texts whose signatures are computed at once: their trigrams stay in the processor's cache
_MIX = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)  # odd constants of xxHash: weigh the three characters of a trigram


def trigrams(text: str) -> set[str]:
    """Character trigrams of the folded text; of a shorter one itself."""
    text = fold(text)
    return {text[i : i + 3] for i in range(len(text) - 2)} or {text}


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the trigrams of two texts, 0 to 1."""
    a, b = trigrams(one), trigrams(other)
    return len(a & b) / len(a | b)


def signatures(texts: list[str]):
    """MinHash signatures of folded texts, as datasketch computes them from trigram_hashes: uint32 [texts, 128]."""
    import numpy as np

    hashes, starts = trigram_hashes(texts)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):  # datasketch mixes every hash: MurmurHash3 finalizer
        hashes ^= hashes >> np.uint32(shift)
        hashes *= np.uint32(factor)
    made = np.empty((PERMUTATIONS, len(texts)), np.uint32)
    permuted = np.empty_like(hashes)
    for row, a, b in zip(made, *_permutations(), strict=True):
        np.multiply(hashes, a, out=permuted)
        permuted += b
        np.minimum.reduceat(permuted, starts, out=row)
    return made.T


def trigram_hashes(texts: list[str]) -> tuple[Any, Any]:
    """32-bit hashes of the trigrams of all texts (folded), and where each text's begin."""
    import numpy as np

    padded = [t if len(t) > 2 else t.ljust(3, "\0") for t in texts]
    lengths = np.array([len(t) for t in padded])
    points = np.frombuffer("".join(padded).encode("utf-32-le"), np.uint32)
    one, two, three = (np.uint32(m) for m in _MIX)
    hashes = points[:-2] * one + points[1:-1] * two + points[2:] * three
    ends = np.cumsum(lengths)
    inside = np.ones(len(points), bool)
    inside[ends - 1] = inside[ends - 2] = False  # trigrams across two texts
    return hashes[inside[: len(hashes)]], np.concatenate([[0], (ends - 2 * np.arange(1, len(ends) + 1))[:-1]])


@lru_cache(1)
def _permutations():
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32").permutations


class NearDuplicates:
    """Folded texts are added one by one; then pairs() says which are near duplicates. `folder` holds the keys meanwhile."""

    def __init__(self, threshold: float, folder: Path):
        from datasketch import MinHashLSH

        lsh = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=MISSES)
        self.threshold, self.bands, self.rows, self.count = threshold, lsh.b, lsh.r, 0
        self._files = [open(folder / f"band-{i}", "w+b") for i in range(self.bands)]
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        """text: as japanese.fold makes it."""
        self._texts.append(text)
        self.count += 1
        if len(self._texts) == BATCH:
            self._flush()

    def _flush(self) -> None:
        import numpy as np

        if not self._texts:
            return
        signed = signatures(self._texts)
        odd = np.uint64(0x9E3779B97F4A7C15)
        for band, file in enumerate(self._files):
            key = np.zeros(len(signed), np.uint64)
            for column in signed.T[band * self.rows : (band + 1) * self.rows]:
                key = (key ^ column) * odd
                key ^= key >> np.uint64(29)
            file.write(key.tobytes())
        self._texts = []

    def pairs(self, text_of: Callable[[int], str], rank=None, alive=None) -> Iterator[tuple[int, int, float]]:
        """Pairs (i, j, similarity) that join all near duplicates, each pair joining two groups not yet joined.

        `text_of` gives a text again by its number; `rank` is an order that does not hang on the order of adding;
        texts that are not `alive` are left out.
        """
        import numpy as np

        self._flush()
        rank = np.arange(self.count) if rank is None else rank
        groups = np.arange(self.count)
        grams = lru_cache(512)(lambda i: trigrams(text_of(i)))
        for file in self._files:
            file.seek(0)
            for i, j in self._candidates(np.fromfile(file, np.uint64), rank, alive, groups):
                if (one := _root(groups, i)) == (other := _root(groups, j)):
                    continue
                alike = len(grams(i) & grams(j)) / len(grams(i) | grams(j))
                if alike >= self.threshold:
                    groups[max(one, other)] = min(one, other)
                    yield (i, j, alike) if rank[i] < rank[j] else (j, i, alike)

    def _candidates(self, keys, rank, alive, groups) -> Iterator[tuple[int, int]]:
        """Pairs that share a band's key, each with the few before it in its bucket."""
        import numpy as np

        order = np.lexsort((rank, keys))
        if alive is not None:
            order = order[alive[order]]
        sorted_keys = keys[order]
        for lag in range(1, NEIGHBOURS + 1):
            same = np.flatnonzero(sorted_keys[lag:] == sorted_keys[:-lag])
            if not len(same):
                return
            for one, other in zip(order[same].tolist(), order[same + lag].tolist(), strict=True):
                if groups[one] != groups[other]:
                    yield one, other

    def close(self) -> None:
        for file in self._files:
            file.close()


def _root(groups, i: int) -> int:
    while groups[i] != i:
        groups[i] = groups[groups[i]]
        i = int(groups[i])
    return i

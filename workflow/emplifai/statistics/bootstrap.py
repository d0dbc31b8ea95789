"""Cluster bootstrap: intervals that respect that items of one situation are not independent.

A statistic is written as a function of sums over the items (`Measure`). A resample of clusters then only weights
the sums of the clusters, so all resamples together are one matrix product, and the jackknife is a subtraction.
Sources: Davison & Hinkley (1997), sections 3.8 and 5.3; Efron (1987) for BCa.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

CELLS = 8_000_000  # numbers held at once while resampling (64 MB as float64)


class Interval(NamedTuple):
    """An estimate with its interval; all None where it is undefined."""

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int


def mean_interval(
    values: Sequence[float], clusters: Sequence[str], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of `values` with a percentile interval, resampling whole clusters with replacement.

    values, clusters: equally long. Fewer than two clusters give no interval. Source: Davison & Hinkley (1997), section 3.8.
    A paired difference is the mean of the differences.
    """
    values = np.asarray(values, float)
    if not len(values):
        return Interval(None, None, None, 0, 0)
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums, counts = np.bincount(index, values), np.bincount(index)
    estimate = float(values.mean())
    if len(names) < 2:
        return Interval(estimate, None, None, len(values), len(names))
    drawn = draw(len(names), resamples, seed)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), len(values), len(names))


class Measure(NamedTuple):
    """A statistic as a function of sums over the items.

    features: (items, p), dense or scipy.sparse. value: sums (m, p) -> (m,), NaN where the statistic is undefined.
    """

    features: Any
    value: Callable[[np.ndarray], np.ndarray]

    def estimate(self) -> float:
        return float(self.value(np.asarray(self.features.sum(0), float).reshape(1, -1))[0])


class Replicates(NamedTuple):
    """A statistic over all resamples of the clusters, and with one cluster left out at a time."""

    estimate: float
    drawn: np.ndarray
    jackknife: np.ndarray


@functools.lru_cache(maxsize=8)
def draw(clusters: int, resamples: int, seed: int) -> np.ndarray:
    """How often each resample holds each cluster: (resamples, clusters), float32 where there are many.

    The draws are those of scipy.stats.bootstrap with numpy.random.default_rng(seed).
    """
    rng, counts = (
        np.random.default_rng(seed),
        np.empty((resamples, clusters), float if resamples * clusters < CELLS else np.float32),
    )
    step = max(1, CELLS // max(clusters, 1))
    for start in range(0, resamples, step):
        rows = rng.integers(0, clusters, (min(step, resamples - start), clusters))
        rows += np.arange(len(rows))[:, None] * clusters
        counts[start : start + step] = np.bincount(rows.ravel(), minlength=rows.size).reshape(rows.shape)
    counts.flags.writeable = False
    return counts


def replicate(measure: Measure, cluster: np.ndarray, resamples: int, seed: int, clusters: int | None = None) -> Replicates:
    """Resample whole clusters. cluster: (items,) whole numbers 0 .. clusters - 1; clusters: how many, if some have no item."""
    clusters = clusters or int(cluster.max()) + 1
    sums = cluster_sums(measure.features, cluster, clusters)
    total = np.asarray(sums.sum(0), float).reshape(1, -1)
    counts = draw(clusters, resamples, seed)
    return Replicates(
        float(measure.value(total)[0]),
        _in_parts(resamples, sums.shape[1], lambda part: measure.value(_weighted(counts[part], sums))),
        _in_parts(clusters, sums.shape[1], lambda part: measure.value(total - _dense(sums[part]))),
    )


def combine(measures: Sequence[Measure], how: Callable[..., np.ndarray], parts: Sequence[np.ndarray] | None = None) -> Measure:
    """A function of several statistics as one statistic, so that they share their resamples.

    how: takes their values, (m,) each. parts: for each the mask of the items that it is of, (items,); all items without.
    """
    from scipy import sparse

    blocks = [sparse.csr_array(measure.features) for measure in measures]
    if parts is not None:
        blocks = [_spread(block, part) for block, part in zip(blocks, parts, strict=True)]
    ends = np.cumsum([0] + [block.shape[1] for block in blocks])

    def value(sums: np.ndarray) -> np.ndarray:
        return how(*(m.value(sums[:, ends[k] : ends[k + 1]]) for k, m in enumerate(measures)))

    return Measure(sparse.hstack(blocks).tocsr(), value)


def undefined(items: int) -> Measure:
    """A statistic that has no value on these items."""
    return Measure(np.zeros((items, 1)), lambda sums: np.full(len(sums), np.nan))


def mean(*values: np.ndarray) -> np.ndarray:
    """Mean of several statistics; one that is undefined in a resample is left out there."""
    table = np.asarray(values, float)
    known = np.isfinite(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, table, 0).sum(0) / known.sum(0)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a - b


def _spread(features: Any, part: np.ndarray) -> Any:
    """Features of some items (CSR) as features of all, zero elsewhere."""
    from scipy import sparse

    start = np.zeros(len(part) + 1, features.indptr.dtype)
    start[1:][part] = np.diff(features.indptr)
    return sparse.csr_array((features.data, features.indices, start.cumsum()), shape=(len(part), features.shape[1]))


def interval(
    replicates: Replicates, confidence: float = 0.95, method: Literal["percentile", "bca"] = "bca"
) -> tuple[float | None, float | None]:
    """The interval; none where most resamples leave the statistic undefined.

    BCa falls back to percentile where it has no value (all resamples on one side of the estimate).
    """
    drawn = replicates.drawn[np.isfinite(replicates.drawn)]
    if len(drawn) < max(2, len(replicates.drawn) / 2) or len(replicates.jackknife) < 2:
        return None, None
    levels = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca":
        levels = _bca_levels(replicates, drawn, levels)
    low, high = np.quantile(drawn, levels)
    return float(low), float(high)


def _bca_levels(replicates: Replicates, drawn: np.ndarray, levels: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr, ndtri

    below = (np.mean(drawn < replicates.estimate) + np.mean(drawn <= replicates.estimate)) / 2
    left_out = replicates.jackknife[np.isfinite(replicates.jackknife)]
    pull = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    spread = (pull**2).sum() ** 1.5
    if not 0 < below < 1 or spread < 1e-300:
        return levels
    bias, z = ndtri(below), ndtri(below) + ndtri(levels)
    return ndtr(bias + z / (1 - (pull**3).sum() / spread / 6 * z))


def cluster_sums(features: Any, cluster: np.ndarray, clusters: int) -> Any:
    """Sums of the features by cluster: (clusters, p), sparse where the features are and that is smaller."""
    from scipy import sparse

    member = sparse.csr_array((np.ones(len(cluster)), (cluster, np.arange(len(cluster)))), shape=(clusters, len(cluster)))
    sums = member @ features
    if sparse.issparse(sums):
        sums = sums.tocsr()
        return sums if sums.nnz < 0.05 * np.prod(sums.shape) else sums.toarray()
    return sums


def _weighted(counts: np.ndarray, sums: Any) -> np.ndarray:
    return (
        counts.astype(float, copy=False) @ sums
        if isinstance(sums, np.ndarray)
        else (sums.T @ counts.T.astype(float, copy=False)).T
    )


def _dense(sums: Any) -> np.ndarray:
    return sums if isinstance(sums, np.ndarray) else sums.toarray()


def _in_parts(rows: int, width: int, work: Callable[[slice], np.ndarray]) -> np.ndarray:
    step = max(1, CELLS // 4 // max(width, 1))
    return np.concatenate([work(slice(start, min(start + step, rows))) for start in range(0, rows, step)])

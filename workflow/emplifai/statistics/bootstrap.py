"""Cluster bootstrap: intervals that respect that items of one situation are not independent."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


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
    from scipy.stats import bootstrap

    drawn = bootstrap(
        (np.arange(len(names)),),
        lambda rows, axis: sums[rows].sum(axis) / counts[rows].sum(axis),
        confidence_level=confidence,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
        vectorized=True,
    ).confidence_interval
    return Interval(estimate, float(drawn.low), float(drawn.high), len(values), len(names))

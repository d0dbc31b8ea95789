"""Krippendorff's alpha: agreement of raters on items that not all of them rated.

Source: Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability": from the table of coincidences of values within
items. Items with fewer than two ratings say nothing and drop out; nothing is imputed. One rating that never varies: NaN.
"""

from typing import Literal

import numpy as np

from emplifai.statistics.bootstrap import Measure

Level = Literal["nominal", "ordinal", "interval"]


def alpha(ratings: np.ndarray, level: Level) -> Measure:
    """Krippendorff's alpha of ratings, (items, raters) with NaN where a rater did not rate an item."""
    values, coincidences = _coincidences(ratings)
    upper, lower = np.triu_indices(len(values), 1)

    def value(sums: np.ndarray) -> np.ndarray:
        together = sums.reshape(-1, len(values), len(values))
        counts = together.sum(2)
        distance = _distance(values, counts, level)[:, upper, lower]
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = (counts[:, upper] * counts[:, lower] * distance).sum(1) / (counts.sum(1) - 1)
            observed = (together[:, upper, lower] * distance).sum(1)
            return np.where(expected > 1e-12, 1 - observed / expected, np.nan)

    return Measure(coincidences, value)


def _coincidences(ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values, and for each item how often two of its ratings pair them: (items, values squared), sparse."""
    from scipy import sparse

    values = np.unique(ratings[np.isfinite(ratings)])
    counts = np.stack([(ratings == v).sum(1) for v in values], 1).astype(float) if len(values) else np.zeros((len(ratings), 0))
    raters = counts.sum(1)
    weight = np.where(raters > 1, 1 / np.maximum(raters - 1, 1), 0)
    # Each pair of values that an item has, by way of the item's list of distinct values.
    row, value = np.nonzero(counts)
    start = np.searchsorted(row, np.arange(len(counts) + 1))
    distinct = np.diff(start)
    left = np.repeat(np.arange(len(row)), distinct[row])
    right = np.arange(len(left)) - np.repeat(np.cumsum(distinct[row]) - distinct[row], distinct[row]) + start[row[left]]
    item = row[left]
    pairs = counts[item, value[left]] * (counts[item, value[right]] - (left == right)) * weight[item]
    column = value[left] * len(values) + value[right]
    return values, sparse.csr_array((pairs, (item, column)), shape=(len(ratings), max(len(values), 1) ** 2))


def _distance(values: np.ndarray, counts: np.ndarray, level: Level) -> np.ndarray:
    """Squared distance of two values: (m, values, values); the ordinal one depends on how often values occur."""
    if level == "nominal":
        return np.broadcast_to(1.0 - np.eye(len(values)), (len(counts), len(values), len(values)))
    if level == "interval":
        return np.broadcast_to(np.subtract.outer(values, values) ** 2, (len(counts), len(values), len(values)))
    middle = counts.cumsum(1) - counts / 2
    return (middle[:, :, None] - middle[:, None, :]) ** 2


def alpha_interval(ratings: np.ndarray) -> Measure:
    """Alpha with interval distance for scores of however many distinct values, from sums alone. ratings as of `alpha`.

    Squared differences of all pairs of n values are 2 (n sum of squares - square of the sum).
    """
    there = np.isfinite(ratings)
    n = there.sum(1) * (there.sum(1) > 1)
    values = np.where(there & (n > 0)[:, None], ratings - ratings[there].mean() if there.any() else 0, 0.0)
    total, squares = values.sum(1), (values**2).sum(1)
    within = 2 * (n * squares - total**2) / np.maximum(n - 1, 1)

    def value(sums: np.ndarray) -> np.ndarray:
        n, total, squares, within = sums.T
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = 2 * (n * squares - total**2) / (n * (n - 1))
            return np.where(expected > 1e-12, 1 - within / n / expected, np.nan)

    return Measure(np.column_stack([n, total, squares, within]).astype(float), value)

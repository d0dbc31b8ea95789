"""Intraclass correlations of raters, complete or with missing cells.

Variance components by Henderson's method 3 (Searle, Casella & McCulloch 1992, section 5.5) for items and raters crossed,
without interaction. On complete data these are the mean squares of McGraw & Wong (1996), as in pingouin and SPSS; missing
cells need no deletion and no imputation. NaN where there is no variance at all.

icc_1: one way, a single rating; icc_a1: absolute agreement, a single rating; icc_ak: the mean of k ratings, k being the
(harmonic) mean number of raters an item; icc_c1: consistency, a single rating.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from emplifai.statistics.bootstrap import Measure

KINDS = ("icc_a1", "icc_ak", "icc_c1", "icc_1")


def icc(ratings: np.ndarray, kind: str) -> Measure:
    """An intraclass correlation of ratings, (items, raters) with NaN where a rater did not rate an item."""
    return Measure(_features(ratings), {"icc_1": _one_way, **_TWO_WAY}[kind])


def _features(ratings: np.ndarray) -> Any:
    """What the mean squares need of each item, so that they are functions of sums over items: (items, 7 + 3 r + r^2), sparse.

    Columns: 1, 1/n, n, n^2, sum, sum^2/n, sum of squares; then by rater: rated or not, rating, rating less share of the
    item's sum, and by pair of raters the absorbed normal equations. Ratings are taken from their overall mean.
    """
    from scipy import sparse

    there = np.isfinite(ratings)
    keep = there.sum(1) > 0
    y = np.where(there, ratings - ratings[there].mean() if there.any() else 0, 0.0)
    n = np.maximum(there.sum(1), 1).astype(float)
    d, total = there.astype(float), y.sum(1)
    base = np.column_stack([keep, keep / n, there.sum(1), there.sum(1) ** 2, total, total**2 / n, (y * y).sum(1)])
    return sparse.hstack(
        [sparse.csr_array(b) for b in (base.astype(float), d, y, y - d * (total / n)[:, None])] + [_pairs(d, n)]
    ).tocsr()


def _pairs(d: np.ndarray, n: np.ndarray) -> Any:
    """diag(d) - d d' / n of each item's indicators, flattened: (items, raters squared), sparse."""
    from scipy import sparse

    raters = d.shape[1]
    row, rater = np.nonzero(d)
    start = np.searchsorted(row, np.arange(len(d) + 1))
    count = np.diff(start)
    left = np.repeat(np.arange(len(row)), count[row])  # each rating, once for each rating of its item
    right = np.arange(len(left)) - np.repeat(np.cumsum(count[row]) - count[row], count[row]) + start[row[left]]
    value = (rater[left] == rater[right]) - 1 / n[row[left]]
    return sparse.csr_array((value, (row[left], rater[left] * raters + rater[right])), shape=(len(d), raters**2))


def _one_way(sums: np.ndarray) -> np.ndarray:
    items, _, n, squares, total, between, square = sums[:, :7].T
    with np.errstate(invalid="ignore", divide="ignore"):
        within = (square - between) / (n - items)
        n0 = (n - squares / n) / (items - 1)
        item = ((between - total**2 / n) / (items - 1) - within) / n0
        return _share(item, within)


def _components(sums: np.ndarray) -> tuple[np.ndarray, ...]:
    """Variances of items, raters and the rest, and the harmonic mean number of ratings an item."""
    raters = round(np.sqrt(sums.shape[1] - 7 + 2.25) - 1.5)
    items, inverse, n, _, _, between, square = sums[:, :7].T
    d, y, r = np.split(sums[:, 7 : 7 + 3 * raters], 3, axis=1)
    table = sums[:, 7 + 3 * raters :].reshape(-1, raters, raters)
    used = (d > 0).sum(1)
    explained = np.einsum("mj,mjk,mk->m", r, np.linalg.pinv(table, rcond=1e-10, hermitian=True), r)
    with np.errstate(invalid="ignore", divide="ignore"):
        rest_freedom = n - items - used + 1
        rest = (square - between - explained) / rest_freedom
        by_rater = np.where(d > 0, y**2 / np.maximum(d, 1), 0).sum(1)
        item = (between + explained - by_rater - (items - 1) * rest) / (n - used)
        rater = (explained - (used - 1) * rest) / (n - items)
        undefined = (items < 2) | (used < 2) | (rest_freedom <= 0)
        return tuple(np.where(undefined, np.nan, v) for v in (item, rater, rest, items / inverse))


def _two_way(share: Callable[..., np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: share(*_components(sums))


def _share(item: np.ndarray, rest: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.abs(item + rest) > 1e-12, item / (item + rest), np.nan)


_TWO_WAY = {
    "icc_a1": _two_way(lambda item, rater, rest, k: _share(item, rater + rest)),
    "icc_ak": _two_way(lambda item, rater, rest, k: _share(item, (rater + rest) / k)),
    "icc_c1": _two_way(lambda item, rater, rest, k: _share(item, rest)),
}

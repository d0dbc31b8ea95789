"""Area under the ROC curve: the probability that a good text scores above a bad one, ties counting half."""

from collections.abc import Sequence

import numpy as np

from emplifai.statistics.bootstrap import Interval, draw


def auc_interval(
    good: Sequence[float],
    bad: Sequence[float],
    good_clusters: Sequence[str],
    bad_clusters: Sequence[str],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """AUC with a percentile interval from resampling whole clusters, which may hold good and bad texts.

    good, bad: scores; *_clusters: equally long. All None when one side is empty; no interval below two clusters.
    A resample without a good or a bad text is left out. Source: Hanley & McNeil (1982), Radiology 143:29-36 for the AUC,
    Davison & Hinkley (1997), section 3.8, for the resampling.
    """
    good, bad = np.asarray(good, float), np.asarray(bad, float)
    names, cluster = np.unique([*good_clusters, *bad_clusters], return_inverse=True)
    n = len(good) + len(bad)
    if not len(good) or not len(bad):
        return Interval(None, None, None, n, len(names))
    values, place = np.unique(np.concatenate([good, bad]), return_inverse=True)
    table = np.zeros((2, len(names), len(values)))  # how often each cluster has each score, good and bad
    np.add.at(table, (np.repeat([0, 1], [len(good), len(bad)]), cluster, place), 1)
    estimate = float(_auc(np.ones((1, len(names))), *table)[0])
    if len(names) < 2:
        return Interval(estimate, None, None, n, len(names))
    weights = draw(len(names), resamples, seed)
    drawn = np.concatenate([_auc(part, *table) for part in np.array_split(weights, max(1, resamples // 200))])
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Interval(estimate, None, None, n, len(names))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), n, len(names))


def _auc(weights: np.ndarray, good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """weights: [resamples, clusters]; good, bad: counts [clusters, values] over rising values. Returns [resamples]."""
    g, b = weights @ good, weights @ bad
    below = np.cumsum(b, axis=1) - b / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (g * below).sum(1) / (g.sum(1) * b.sum(1))

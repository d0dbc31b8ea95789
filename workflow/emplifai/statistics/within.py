"""Agreement inside each cluster: the order of the replies to one situation, whatever the situations' own level."""

import numpy as np

from emplifai.statistics.correlation import TIE

FEWEST = 3  # items of a correlation


def within(x: np.ndarray, y: np.ndarray, cluster: np.ndarray) -> dict[str, np.ndarray]:
    """Each statistic in each cluster, (clusters,), NaN where undefined: fewer than three items (a pair: two) or no spread.

    x, y: (items,); cluster: (items,) whole numbers. Averaged, these are the "sample-level" correlations of the summarisation
    literature. Pearson, Spearman, tau-b as in SciPy; pairwise_accuracy as in correlation.py.
    """
    if not len(x):
        return dict.fromkeys(("pearson", "spearman", "kendall_tau_b", "pairwise_accuracy"), np.zeros(0))
    x, y = np.round(x, TIE), np.round(y, TIE)
    n = np.bincount(cluster)
    return {
        "pearson": _pearson(x - x.mean(), y - y.mean(), cluster, n),
        "spearman": spearman(x, y, cluster),
        **_by_pairs(x, y, cluster, n),
    }


def spearman(x: np.ndarray, y: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Spearman's correlation in each cluster alone."""
    x, y = (_ranks(np.round(v, TIE), cluster) for v in (x, y))
    return _pearson(x, y, cluster, np.bincount(cluster))


def _ranks(values: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Mid-ranks inside each cluster, up to a constant of the cluster."""
    from scipy.stats import rankdata

    distinct, code = np.unique(values, return_inverse=True)
    return rankdata(cluster.astype(np.int64) * len(distinct) + code)


def _pearson(x: np.ndarray, y: np.ndarray, cluster: np.ndarray, n: np.ndarray) -> np.ndarray:
    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(cluster, values) / n

    x, y = x - mean(x)[cluster], y - mean(y)[cluster]
    vx, vy = mean(x * x), mean(y * y)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.clip(mean(x * y) / np.sqrt(vx * vy), -1, 1)
        return np.where((vx > 1e-12) & (vy > 1e-12) & (n >= FEWEST), r, np.nan)


def _by_pairs(x: np.ndarray, y: np.ndarray, cluster: np.ndarray, n: np.ndarray) -> dict[str, np.ndarray]:
    """Counts pairs at distance 1, 2, ... of the items sorted by cluster: all pairs of a cluster once."""
    order = np.argsort(cluster, kind="stable")
    x, y, cluster = x[order], y[order], cluster[order]
    surplus, untied_x, untied_y, alike = np.zeros((4, len(n)))
    for step in range(1, n.max()):
        same = cluster[step:] == cluster[:-step]
        sx, sy = (np.sign(v[step:] - v[:-step])[same] for v in (x, y))
        for total, value in ((surplus, sx * sy), (untied_x, sx != 0), (untied_y, sy != 0), (alike, sx == sy)):
            total += np.bincount(cluster[step:][same], value, len(n))
    with np.errstate(invalid="ignore", divide="ignore"):
        tau = np.where(n >= FEWEST, surplus / np.sqrt(untied_x * untied_y), np.nan)
        return {"kendall_tau_b": tau, "pairwise_accuracy": alike / (n * (n - 1) / 2)}

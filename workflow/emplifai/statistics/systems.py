"""Agreement on systems: the means of the models, as people and as a judge see them."""

import numpy as np

from emplifai.statistics.bootstrap import Measure
from emplifai.statistics.correlation import TIE


def systems(judge: np.ndarray, human: np.ndarray, model: np.ndarray, statistic: str) -> Measure:
    """A statistic of the models' means over their items. model: (items,) whole numbers. NaN where undefined."""
    models = int(model.max()) + 1
    member = np.eye(models)[model]

    def value(sums: np.ndarray) -> np.ndarray:
        n, x, y = np.split(sums, 3, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return STATISTICS[statistic](x / n, y / n)

    return Measure(np.column_stack([member, member * judge[:, None], member * human[:, None]]), value)


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    vx, vy = (x * x).sum(1), (y * y).sum(1)
    return np.where((vx > 1e-15) & (vy > 1e-15), np.clip((x * y).sum(1) / np.sqrt(vx * vy), -1, 1), np.nan)


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    known = np.isfinite(x).all(1)
    r = np.full(len(x), np.nan)
    r[known] = _pearson(rankdata(x[known].round(TIE), axis=1), rankdata(y[known].round(TIE), axis=1))
    return r


def _signs(values: np.ndarray) -> np.ndarray:
    first, second = np.triu_indices(values.shape[1], 1)
    return np.sign((values[:, first] - values[:, second]).round(TIE))


def _kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    sx, sy = _signs(x), _signs(y)
    untied = (sx != 0).sum(1) * (sy != 0).sum(1) + 0.0 * sx.sum(1)
    return np.where(untied > 0, (sx * sy).sum(1) / np.sqrt(untied), np.nan)


def _pairwise_accuracy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    sx, sy = _signs(x), _signs(y)
    return np.where(np.isfinite(sx).all(1), (sx == sy).mean(1), np.nan)


STATISTICS = {
    "pearson": _pearson,
    "spearman": _spearman,
    "kendall_tau_b": _kendall,
    "pairwise_accuracy": _pairwise_accuracy,
    "bias": lambda x, y: (x - y).mean(1),
    "mae": lambda x, y: np.abs(x - y).mean(1),
}

"""Made-up scores of judges and raters for the tests of statistics."""

import numpy as np
import scipy.stats

from emplifai.statistics import correlation

NAN = float("nan")
ORDER = {
    "pearson": (correlation.pearson, scipy.stats.pearsonr),
    "spearman": (correlation.spearman, scipy.stats.spearmanr),
    "kendall": (correlation.kendall, scipy.stats.kendalltau),
}


def drawn(seed: int, items: int, tied_x: int, tied_y: int) -> tuple[np.ndarray, np.ndarray]:
    """Two columns that hang together; tied: points of the scale, 0 for no ties."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=items)
    x, y = q + rng.normal(size=items), q + rng.normal(size=items)
    return tuple(np.clip(np.rint(v * t / 5 + t / 2), 1, t) if t else v for v, t in ((x, tied_x), (y, tied_y)))


def raters(seed: int, items: int, people: int, missing: float = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = 3 + rng.normal(size=(items, 1)) + 0.7 * rng.normal(size=(items, people)) + 0.3 * rng.normal(size=people)
    return np.where(rng.random((items, people)) < missing, NAN, np.clip(np.rint(values), 1, 5))

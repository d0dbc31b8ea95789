"""Cohen's kappa with quadratic weights on the full declared scale.

With quadratic weights on points of equal distance kappa is 1 - E(x - y)^2 / (the same under independence), whatever points
of the scale occur: sklearn.metrics.cohen_kappa_score(labels=<all points>, weights="quadratic"). (Libraries that weight by
the index of the categories present shift it when a point never occurs.) Source: Cohen (1968); Schuster (2004).
"""

import numpy as np

from emplifai.statistics.bootstrap import Measure


def weighted_kappa(x: np.ndarray, y: np.ndarray) -> Measure:
    """Quadratic-weighted kappa of whole numbers x and y, each (items,); NaN where both are the same constant."""

    def value(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            n, sx, sy, sxx, syy, sxy = sums.T
            observed = (sxx + syy - 2 * sxy) / n
            expected = (sxx + syy) / n - 2 * sx * sy / n**2
            return np.where(expected > 1e-12, 1 - observed / expected, np.nan)

    centre = np.floor(np.mean(x)) if len(x) else 0.0
    x, y = x - centre, y - centre
    return Measure(np.column_stack([np.ones(len(x)), x, y, x * x, y * y, x * y]), value)

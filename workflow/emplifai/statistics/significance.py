"""Is a correlation or a bias different from none, when items of one cluster hang together?"""

from collections.abc import Callable
from itertools import permutations

import numpy as np

from emplifai.statistics.bootstrap import Replicates


def p_value(statistic: str, replicates: Replicates, wider: float = 1.0) -> float | None:
    """Two-sided Wald test with the standard error of the cluster bootstrap; correlations on Fisher's z scale.

    (The p-values that libraries print take all items for independent.) wider: the standard error is this many times larger
    for other reasons (raters). None where it has no value.
    """
    from scipy.special import ndtr

    drawn = replicates.drawn[np.isfinite(replicates.drawn)]
    estimate = replicates.estimate
    if statistic != "bias":
        drawn = np.arctanh(np.clip(drawn, -0.999999, 0.999999))
        estimate = np.arctanh(np.clip(estimate, -0.999999, 0.999999))
    if len(drawn) < max(2, len(replicates.drawn) / 2) or drawn.std() < 1e-9:
        return None
    return float(2 * ndtr(-abs(estimate) / (drawn.std(ddof=1) * wider)))


def permutation_p(
    x: np.ndarray, y: np.ndarray, correlate: Callable[[np.ndarray, np.ndarray], np.ndarray], seed: int
) -> float | None:
    """Two-sided p of a correlation of a few systems: all orders of y, or 10,000 drawn ones from nine systems on.

    correlate: takes (m, systems) twice and gives (m,). Equal to scipy.stats.permutation_test(permutation_type="pairings") where
    all orders are tried. None where the correlation is undefined.
    """
    observed = correlate(x[None], y[None])[0]
    if not np.isfinite(observed):
        return None
    exact = len(x) <= 8
    rng = np.random.default_rng(seed)
    orders = (
        np.array(list(permutations(range(len(x))))) if exact else rng.permuted(np.tile(np.arange(len(x)), (10_000, 1)), axis=1)
    )
    drawn = correlate(np.broadcast_to(x, orders.shape), y[orders])
    beyond = int((np.abs(drawn) >= abs(observed) - 1e-12).sum())
    return beyond / len(orders) if exact else (beyond + 1) / (len(orders) + 1)

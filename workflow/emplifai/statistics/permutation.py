"""Is one judge better than another? Paired permutation that swaps the judges for whole clusters at a time.

Under the null hypothesis that the judges are interchangeable, swapping their (standardised) scores in any clusters changes
nothing. Sources: Noreen (1989); Deutsch, Dror & Roth (2021), "A Statistical Analysis of Summarization Evaluation Metrics".
"""

from collections.abc import Callable

import numpy as np

from emplifai.statistics.bootstrap import Measure, cluster_sums

EXACT = 12  # up to this many clusters all 2^n swaps are tried


def standardise(values: np.ndarray) -> np.ndarray:
    """Mean 0, variance 1, so that swapped scores are on one scale; a constant becomes 0."""
    spread = values.std()
    return (values - values.mean()) / spread if spread > 1e-12 else np.zeros(len(values))


def swap_test(a: Measure, b: Measure, cluster: np.ndarray, resamples: int, seed: int) -> float | None:
    """Two-sided p of the difference of a statistic between judges a and b. None where it is undefined.

    a, b: the same statistic of standardised scores; b.value and a.value must be the same function of the sums.
    """
    clusters = int(cluster.max()) + 1
    sums = [cluster_sums(m.features, cluster, clusters) for m in (a, b)]
    sums = [s if isinstance(s, np.ndarray) else s.toarray() for s in sums]
    totals, change = [s.sum(0) for s in sums], sums[1] - sums[0]

    def differences(swaps: np.ndarray) -> np.ndarray:
        moved = swaps @ change
        return a.value(totals[0] + moved) - a.value(totals[1] - moved)

    return _share_beyond(differences, clusters, resamples, seed)


def sign_test(differences: np.ndarray, resamples: int, seed: int) -> float | None:
    """The same where each cluster has a difference of its own: swapping turns its sign. differences: (clusters,)."""
    n = len(differences)
    return _share_beyond(lambda swaps: (1 - 2 * swaps) @ differences / n, n, resamples, seed) if n else None


def _share_beyond(differences: Callable[[np.ndarray], np.ndarray], clusters: int, resamples: int, seed: int) -> float | None:
    observed = differences(np.zeros((1, clusters)))[0]
    if not np.isfinite(observed) or clusters < 2:
        return None
    exact = clusters <= EXACT
    if exact:
        swaps = (np.arange(2**clusters)[:, None] >> np.arange(clusters)) & 1
    else:
        swaps = np.random.default_rng(seed).integers(0, 2, (resamples, clusters), dtype=np.int8)
    step = max(1, 4_000_000 // clusters)
    drawn = np.concatenate([differences(swaps[i : i + step].astype(float)) for i in range(0, len(swaps), step)])
    beyond = int((np.abs(drawn[np.isfinite(drawn)]) >= abs(observed) - 1e-12).sum())
    known = int(np.isfinite(drawn).sum())
    return beyond / known if exact else (beyond + 1) / (known + 1)

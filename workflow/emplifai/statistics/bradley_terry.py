"""Bradley-Terry scores: how strong each system is, from which of two was preferred.

P(i is preferred to j) = 1 / (1 + exp(score j - score i)). A tie is half a preference for each. Half a preference is added to
both sides of each pair that was compared, so that a system that always wins has a finite score; of two systems the
difference is then the log-odds of Haldane (1956) and Anscombe (1956). Sources: Bradley & Terry (1952), Biometrika 39:324;
Hunter (2004), Annals of Statistics 32:384.
"""

from collections.abc import Sequence

import numpy as np

from emplifai.statistics.bootstrap import Interval, draw

STEPS, LONGEST, CLOSE = 200, 1.0, 1e-10  # of Newton's method: steps, a step's largest move, when it is there


def scores(wins: np.ndarray) -> np.ndarray:
    """Log-strengths with mean 0, (..., k), that make the preferences most probable.

    wins: (..., k, k); [i, j] is how often i was preferred to j. NaN where the pairs do not connect all systems.
    """
    k = wins.shape[-1]
    compared = wins + wins.swapaxes(-1, -2)
    if not _connected(compared.reshape(-1, k, k).sum(0) > 0):
        return np.full(wins.shape[:-1], np.nan)
    found = np.zeros(wins.shape[:-1])
    for _ in range(STEPS):
        expected = 1 / (1 + np.exp(found[..., None, :] - found[..., :, None]))
        slope = (wins - compared * expected).sum(-1)
        weight = compared * expected * (1 - expected)
        bend = np.eye(k) * weight.sum(-1)[..., None] - weight + 1 / k  # the last term holds the mean at 0
        step = np.linalg.solve(bend, slope[..., None])[..., 0]
        found = found + step * np.minimum(1, LONGEST / np.maximum(np.abs(step).max(-1, keepdims=True), LONGEST))
        if np.abs(step).max() < CLOSE:
            break
    return found - found.mean(-1, keepdims=True)


def intervals(
    wins: np.ndarray, clusters: Sequence[str], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> list[Interval]:
    """The score of each system with a percentile interval, whole clusters resampled.

    wins: (comparisons, k, k), of one comparison each; clusters: as many names. No interval below two clusters.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    k, n = wins.shape[-1], len(wins)
    sums = np.zeros((len(names), k, k))
    np.add.at(sums, index, wins)
    total = sums.sum(0)
    half = 0.5 * (total + total.T > 0)
    estimate = scores(total + half)
    if len(names) < 2 or np.isnan(estimate).any():
        return [Interval(None if np.isnan(e) else float(e), None, None, n, len(names)) for e in estimate]
    drawn = draw(len(names), resamples, seed) @ sums.reshape(len(names), -1)
    found = scores(drawn.reshape(-1, k, k) + half)
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return [Interval(float(e), float(a), float(b), n, len(names)) for e, a, b in zip(estimate, low, high, strict=True)]


def _connected(linked: np.ndarray) -> bool:
    """Whether a chain of compared pairs leads from the first system to every other."""
    reached = np.zeros(len(linked), bool)
    reached[:1] = True
    for _ in range(len(linked)):
        reached |= linked[reached].any(0)
    return bool(reached.all())

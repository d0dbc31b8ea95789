"""Other raters might have been asked: how much wider that makes an interval, when there are five or more.

The cluster bootstrap covers the choice of situations. The choice of raters is added by a jackknife that leaves out one rater
(of more than 30: one of 30 groups) at a time; the interval's arms grow by sqrt(1 + raters' variance / clusters' variance).
Raters are not drawn with replacement as situations are: a draw of five holds three or four different people, whose mean is less
reliable, so that every correlation with it comes out too low and the interval misses the truth from below; and the two-way
bootstrap counts the noise of a single rating three times (Owen 2007, "The pigeonhole bootstrap").
"""

from collections.abc import Callable

import numpy as np

from emplifai.panel import Panel

FEWEST = 5  # raters: fewer say nothing about other people


def raters_share(panel: Panel, estimate: Callable[[Panel], float], drawn: np.ndarray) -> float:
    """By how much the raters widen the interval of a statistic: 1 or more. drawn: the statistic over resampled clusters."""
    drawn = drawn[np.isfinite(drawn)]
    if len(panel.raters) < FEWEST or len(drawn) < 2 or drawn.var() < 1e-18:
        return 1.0
    left = np.array([estimate(rest) for rest in panel.left_out])
    left = left[np.isfinite(left)]
    if len(left) < FEWEST:
        return 1.0
    variance = (len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum()
    return float(np.sqrt(1 + variance / drawn.var()))


def widen(estimate: float, end: float | None, wider: float, bounded: bool) -> float | None:
    """Move an end of an interval away from the estimate; on Fisher's z scale where the statistic ends at 1."""
    if end is None or wider == 1 or estimate == end:
        return end
    if not bounded:
        return estimate + (end - estimate) * wider
    centre, there = np.arctanh(np.clip([estimate, end], -0.999999, 0.999999))
    return float(np.tanh(centre + (there - centre) * wider))

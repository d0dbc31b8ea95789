"""The mean human rating, estimated from few ratings and many judgements: prediction-powered inference, tuned (PPI++).

Source: Angelopoulos, Duchi & Zrnic (2023), "PPI++", section 3 (mean): the judge's mean over unrated items, corrected by its
error on rated ones, with the weight on the judge that gives the least variance, kept between 0 and 1.
"""

import numpy as np

from emplifai.statistics.bootstrap import Measure


def ppi_mean(human: np.ndarray, judge: np.ndarray) -> Measure:
    """PPI++ mean. human: (items,) with NaN where an item was not rated; judge: (items,), all known. NaN without either kind."""
    rated = np.isfinite(human)
    centre = judge.mean()
    y, f = np.where(rated, human - centre, 0.0), judge - centre
    columns = [rated, y, rated * f, y * f, ~rated, ~rated * f, f * f]

    def value(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            n, sy, sf, syf, m, sg, sff = sums.T
            variance = (sff - (sf + sg) ** 2 / (n + m)) / (n + m - 1)
            weight = (syf / n - sy * sf / n**2) / (variance * (1 + n / m))
            weight = np.clip(np.where(variance > 1e-12, weight, 0), 0, 1)
            return np.where((n > 1) & (m > 0), sy / n + weight * (sg / m - sf / n) + centre, np.nan)

    return Measure(np.column_stack(columns).astype(float), value)

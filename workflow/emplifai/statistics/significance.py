"""Is a correlation or a bias different from none, when items of one cluster hang together?"""

import numpy as np

from emplifai.statistics.bootstrap import Replicates


def p_value(statistic: str, replicates: Replicates) -> float | None:
    """Two-sided Wald test with the standard error of the cluster bootstrap; correlations on Fisher's z scale.

    (The p-values that libraries print take all items for independent.) None where it has no value.
    """
    from scipy.special import ndtr

    drawn = replicates.drawn[np.isfinite(replicates.drawn)]
    estimate = replicates.estimate
    if statistic != "bias":
        drawn = np.arctanh(np.clip(drawn, -0.999999, 0.999999))
        estimate = np.arctanh(np.clip(estimate, -0.999999, 0.999999))
    if len(drawn) < max(2, len(replicates.drawn) / 2) or drawn.std() < 1e-9:
        return None
    return float(2 * ndtr(-abs(estimate) / drawn.std(ddof=1)))

"""Many small groups: estimates drawn towards their mean by how much of their spread is noise.

Random effects by DerSimonian & Laird (1986) and empirical Bayes (Morris 1983): a ranking of raw estimates of 28 groups is
mostly a ranking of luck.
"""

from typing import NamedTuple

import numpy as np


class Shrunken(NamedTuple):
    estimates: np.ndarray  # (groups,)
    errors: np.ndarray  # posterior standard deviations
    mean: float
    spread: float  # standard deviation of the groups' true values


def shrink(estimates: np.ndarray, errors: np.ndarray) -> Shrunken:
    """estimates, errors: (groups,), on a scale where errors are about normal (Fisher's z for correlations)."""
    precision = 1 / errors**2
    fixed = (precision * estimates).sum() / precision.sum()
    excess = (precision * (estimates - fixed) ** 2).sum() - (len(estimates) - 1)
    scale = precision.sum() - (precision**2).sum() / precision.sum()
    variance = max(0.0, excess / scale) if scale > 0 else 0.0
    weight = 1 / (errors**2 + variance)
    mean = (weight * estimates).sum() / weight.sum()
    keep = variance / (variance + errors**2)  # share of a group's own estimate
    posterior = np.sqrt(keep * errors**2 + (1 - keep) ** 2 / weight.sum())
    return Shrunken(mean + keep * (estimates - mean), posterior, float(mean), float(np.sqrt(variance)))

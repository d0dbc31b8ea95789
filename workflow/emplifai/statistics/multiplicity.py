"""P-values adjusted for how many there are."""

from collections.abc import Sequence

import numpy as np


def holm(p: Sequence[float]) -> list[float]:
    """Holm (1979): family-wise error, for the few planned tests."""
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted.tolist()


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Benjamini & Hochberg (1995): false discovery rate, for all the others."""
    from scipy.stats import false_discovery_control

    return false_discovery_control(p, method="bh").tolist() if len(p) else []

"""Williams' test of two correlations that share a variable; it takes the items for independent."""

import numpy as np


def williams(r_a: float, r_b: float, r_ab: float, n: int) -> tuple[float, float] | None:
    """t (n - 3 degrees of freedom) and two-sided p of r_a = r_b; None where it has no value.

    r_a, r_b: each judge with people; r_ab: the judges with each other. Source: Williams (1959) as in Steiger (1980), (7).
    """
    from scipy.stats import t as student

    if n <= 3 or not np.isfinite([r_a, r_b, r_ab]).all():
        return None
    determinant = max(1 - r_a**2 - r_b**2 - r_ab**2 + 2 * r_a * r_b * r_ab, 0.0)
    below = 2 * (n - 1) / (n - 3) * determinant + ((r_a + r_b) / 2) ** 2 * (1 - r_ab) ** 3
    if below <= 1e-15:
        return None
    t = (r_a - r_b) * np.sqrt((n - 1) * (1 + r_ab) / below)
    return float(t), float(2 * student.sf(abs(t), n - 3))

"""A linear mixed model with a random intercept for each cluster, by restricted maximum likelihood (REML).

y = X b + u[cluster] + e, u ~ N(0, s2u), e ~ N(0, s2e). Sources: Laird & Ware (1982); Searle, Casella & McCulloch (1992). With one
grouping factor the likelihood depends on the ratio s2u / s2e alone, which is searched; values equal statsmodels MixedLM (its
standard errors, from the joint Hessian, differ in the fourth digit; these are those of lme4).
"""

from typing import NamedTuple

import numpy as np


class MixedModel(NamedTuple):
    coefficients: np.ndarray  # (columns of X,)
    errors: np.ndarray  # their standard errors
    between: float  # variance of the clusters' intercepts
    within: float  # residual variance


def random_intercept(y: np.ndarray, x: np.ndarray, cluster: np.ndarray) -> MixedModel | None:
    """y: (items,); x: (items, columns) with its own constant; cluster: (items,) whole numbers. None where x lacks rank."""
    from scipy.optimize import minimize_scalar

    if len(y) <= x.shape[1] or np.linalg.matrix_rank(x) < x.shape[1]:
        return None
    n = np.bincount(cluster)
    # Log ratios from "no difference between clusters" to "almost nothing else".
    best = minimize_scalar(
        lambda log: _fit(np.exp(log), y, x, cluster, n)[0], bounds=(-14, 10), method="bounded", options={"xatol": 1e-9}
    )
    ratio = np.exp(best.x) if best.fun < _fit(0.0, y, x, cluster, n)[0] else 0.0
    _, coefficients, inverse, residual = _fit(ratio, y, x, cluster, n)
    return MixedModel(coefficients, np.sqrt(np.diag(inverse) * residual), float(ratio * residual), float(residual))


def _fit(ratio: float, y: np.ndarray, x: np.ndarray, cluster: np.ndarray, n: np.ndarray) -> tuple:
    """Minus twice the restricted log likelihood (up to a constant) at a ratio of variances, and what goes with it.

    Taking a share of the cluster's mean from each value makes the errors independent (the root of the inverse covariance).
    """
    shrink = 1 - 1 / np.sqrt(1 + ratio * n)
    means = np.column_stack([np.bincount(cluster, column) / n for column in (y, *x.T)])
    moved = np.column_stack([y, x]) - (shrink[:, None] * means)[cluster]
    u, z = moved[:, 0], moved[:, 1:]
    inverse = np.linalg.pinv(z.T @ z, hermitian=True)
    coefficients = inverse @ (z.T @ u)
    freedom = len(y) - x.shape[1]
    residual = max(((u - z @ coefficients) ** 2).sum() / freedom, 1e-300)
    _, logdet = np.linalg.slogdet(z.T @ z)
    return freedom * np.log(residual) + np.log1p(ratio * n).sum() + logdet, coefficients, inverse, residual

"""How far one set of scores lies from another on the same scale: bias, mean absolute error."""

import numpy as np

from emplifai.statistics.bootstrap import Measure


def mean(values: np.ndarray) -> Measure:
    """The mean of values, (items,)."""
    return _ratio(values, np.ones(len(values)))


def mean_of_known(values: np.ndarray) -> Measure:
    """The mean of the values that are not NaN."""
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0.0), known.astype(float))


def bias(x: np.ndarray, y: np.ndarray) -> Measure:
    """Mean of x - y: positive where x is the more generous."""
    return mean(x - y)


def mean_absolute_error(x: np.ndarray, y: np.ndarray) -> Measure:
    return mean(np.abs(x - y))


def _ratio(above: np.ndarray, below: np.ndarray) -> Measure:
    def value(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], np.nan)

    return Measure(np.column_stack([above, below]), value)

"""Pearson's r, Spearman's rho and Kendall's tau-b as functions of sums, so that they can be resampled at once.

Values equal scipy.stats.pearsonr, spearmanr and kendalltau; NaN where a side is constant. An item of weight w counts as w items.
"""

import numpy as np

from emplifai.statistics.bootstrap import Measure

GRID = 20_000  # largest table of distinct values by distinct values that Kendall's tau is counted on
CHEAP = 20  # signs of pairs, in a matrix product, that cost as much as one cell of the table
PAIRS = 4_000  # most distinct items for which all signs are kept
TIE = 10  # decimals: means of the same ratings, summed in another order, are tied
TINY = 1e-12  # a variance below this share of the whole is rounding, not spread


def pearson(x: np.ndarray, y: np.ndarray) -> Measure:
    """Pearson's correlation of x and y, each (items,)."""
    x, y = x - x.mean(), y - y.mean()
    floor = TINY * max((x * x).mean(), 1e-300), TINY * max((y * y).mean(), 1e-300)

    def value(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            n, sx, sy, sxx, syy, sxy = sums.T
            vx, vy = sxx / n - (sx / n) ** 2, syy / n - (sy / n) ** 2
            r = (sxy / n - sx * sy / n**2) / np.sqrt(vx * vy)
            return np.where((vx > floor[0]) & (vy > floor[1]), np.clip(r, -1, 1), np.nan)

    return Measure(np.column_stack([np.ones(len(x)), x, y, x * x, y * y, x * y]), value)


class _Table:
    """Distinct pairs (x, y) of the items, sorted by x and then y, so that resampled ranks come from counts of pairs."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        from scipy import sparse

        xs, ix = np.unique(np.round(x, TIE), return_inverse=True)
        ys, iy = np.unique(np.round(y, TIE), return_inverse=True)
        pairs, cell = np.unique(ix.astype(np.int64) * len(ys) + iy, return_inverse=True)
        self.ix, self.iy, self.shape = pairs // len(ys), pairs % len(ys), (len(xs), len(ys))
        self.features = sparse.csr_array((np.ones(len(x)), (np.arange(len(x)), cell)), shape=(len(x), len(pairs)))
        self._by_y = np.argsort(self.iy, kind="stable")
        self._starts_x, self._starts_y = np.searchsorted(self.ix, range(len(xs))), self._starts(self.iy[self._by_y], len(ys))

    @staticmethod
    def _starts(sorted_index: np.ndarray, count: int) -> np.ndarray:
        return np.searchsorted(sorted_index, np.arange(count))

    def margins(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many items have each value of x, and of y: (m, values)."""
        return np.add.reduceat(cells, self._starts_x, axis=1), np.add.reduceat(cells[:, self._by_y], self._starts_y, axis=1)


def spearman(x: np.ndarray, y: np.ndarray) -> Measure:
    """Spearman's rank correlation (mid-ranks for ties) of x and y, each (items,)."""
    table = _Table(x, y)

    def value(cells: np.ndarray) -> np.ndarray:
        counts_x, counts_y = table.margins(cells)
        rank_x, rank_y = _centred_ranks(counts_x), _centred_ranks(counts_y)
        vx, vy = (counts_x * rank_x**2).sum(1), (counts_y * rank_y**2).sum(1)
        together = np.einsum("mk,mk,mk->m", cells, rank_x[:, table.ix], rank_y[:, table.iy])
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where((vx > 0.1) & (vy > 0.1), np.clip(together / np.sqrt(vx * vy), -1, 1), np.nan)

    return Measure(table.features, value)


def _centred_ranks(counts: np.ndarray) -> np.ndarray:
    """Mid-rank of each distinct value, less the mean rank."""
    upto = counts.cumsum(1)
    return upto - counts / 2 - upto[:, -1:] / 2


def kendall(x: np.ndarray, y: np.ndarray) -> Measure:
    """Kendall's tau-b of x and y, each (items,)."""
    table = _Table(x, y)
    surplus = _surplus(table)

    def value(cells: np.ndarray) -> np.ndarray:
        n = cells.sum(1)
        pairs = n * (n - 1) / 2
        untied = [pairs - (c * (c - 1)).sum(1) / 2 for c in table.margins(cells)]
        with np.errstate(invalid="ignore", divide="ignore"):
            tau = surplus(cells) / np.sqrt(untied[0] * untied[1])
            return np.where((untied[0] > 0.5) & (untied[1] > 0.5), np.clip(tau, -1, 1), np.nan)

    return Measure(table.features, value)


def pairwise_accuracy(x: np.ndarray, y: np.ndarray) -> Measure:
    """Share of all pairs of items that x and y order alike, ties being an order of their own.

    Source: Deutsch, Foster & Freitag (2023), "Ties Matter", equation for acc_eq; without ties Kocmi et al. (2021).
    """
    table = _Table(x, y)
    surplus = _surplus(table)

    def value(cells: np.ndarray) -> np.ndarray:
        n = cells.sum(1)
        pairs = n * (n - 1) / 2
        tied_x, tied_y = ((c * (c - 1)).sum(1) / 2 for c in table.margins(cells))
        tied_both = (cells * (cells - 1)).sum(1) / 2
        concordant = (pairs - tied_x - tied_y + tied_both + surplus(cells)) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pairs > 0, (concordant + tied_both) / pairs, np.nan)

    return Measure(table.features, value)


def _surplus(table: _Table):
    """Concordant less discordant pairs, by the cheapest exact way for the size of the table."""
    grid, distinct = table.shape[0] * table.shape[1], len(table.ix)
    if grid <= GRID and distinct**2 > CHEAP * grid:
        return lambda cells: _surplus_grid(table, cells)
    if distinct <= PAIRS:
        sign = np.sign(np.subtract.outer(table.ix, table.ix)) * np.sign(np.subtract.outer(table.iy, table.iy))
        sign = sign.astype(float)
        return lambda cells: np.einsum("mk,mk->m", cells @ sign, cells) / 2
    if grid <= GRID:
        return lambda cells: _surplus_grid(table, cells)
    return lambda cells: np.array([_surplus_sorted(table, row) for row in cells])


def _surplus_grid(table: _Table, cells: np.ndarray) -> np.ndarray:
    """Over the table of all values by all values: pairs to the lower left less pairs to the lower right."""
    result, step = np.empty(len(cells)), max(1, 1_000_000 // (table.shape[0] * table.shape[1]))
    for start in range(0, len(cells), step):
        part = cells[start : start + step]
        grid = np.zeros((len(part), *table.shape))
        grid[:, table.ix, table.iy] = part
        lower = grid.cumsum(1) - grid
        left = lower.cumsum(2)
        balance = (left - lower) - (left[:, :, -1:] - left)
        result[start : start + step] = np.einsum("mij,mij->m", grid, balance)
    return result


def _surplus_sorted(table: _Table, weights: np.ndarray) -> float:
    """One resample of many distinct items, by SciPy's O(n log n) count."""
    from scipy.stats import kendalltau

    repeat = np.rint(weights).astype(int)
    x, y = np.repeat(table.ix, repeat), np.repeat(table.iy, repeat)
    tau = kendalltau(x, y).statistic
    if not np.isfinite(tau):
        return 0.0
    pairs = len(x) * (len(x) - 1) / 2
    untied = [pairs - (c * (c - 1.0)).sum() / 2 for c in (np.bincount(x), np.bincount(y))]
    return tau * np.sqrt(untied[0]) * np.sqrt(untied[1])

"""What a rating study can show, before anyone is paid: intervals of Spearman and alpha by simulation.

A reply has a quality; each rating is quality plus noise, put on a scale of five points; the judge's score is correlated with the
quality and put on the same scale. The noise is such that Krippendorff's ordinal alpha of very many replies is the expected
agreement. For each design many studies are simulated: the middle 95% of their estimates is what one study's interval will
look like. Replies count as independent; several of one situation tell less (cluster bootstrap in correlate).
"""

from collections.abc import Sequence

import numpy as np

from emplifai.errors import UserError
from emplifai.statistics.krippendorff import alpha

POINTS = 5
HEADER = ("items", "raters", "ratings", "alpha", "95% from", "to", "width", "Spearman", "95% from", "to", "width")


def table(
    items: Sequence[int], raters: Sequence[int], agreement: float, correlation: float, studies: int = 2000, seed: int = 42
) -> str:
    """A line a design. Raises UserError for what cannot be simulated."""
    checks = {
        "--items: at least 5": min(items) >= 5,
        "--raters: at least 2, one alone has no agreement": min(raters) >= 2,
        "--agreement: above 0 and below 1": 0 < agreement < 1,
        "--correlation: above -1 and below 1": -1 < correlation < 1,
        "--studies: at least 100": studies >= 100,
    }
    if faults := [fault for fault, good in checks.items() if not good]:
        raise UserError(*faults)
    share = quality_share(agreement, seed)
    rows = [HEADER]
    for n in items:
        for k in raters:
            found = [_interval(values) for values in simulate(n, k, share, correlation, studies, seed)]
            rows.append((n, k, n * k, *(f"{value:.2f}" for interval in found for value in interval)))
    note = (
        f"expected: alpha {agreement:g}, judge {correlation:g} with what raters agree on; {studies} studies; ratings: a criterion"
    )
    return "\n".join(["  ".join(f"{cell!s:>8}" for cell in row) for row in rows] + [note])


def simulate(items: int, raters: int, share: float, correlation: float, studies: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Alpha of the raters, and Spearman of the judge with their mean, of each study: (studies,) both; NaN where undefined."""
    random = np.random.default_rng([seed, items, raters])
    quality = random.standard_normal((studies, items))
    ratings = _ratings(quality, raters, share, random)
    noise = random.standard_normal((studies, items))
    judge = _points(correlation * quality + np.sqrt(1 - correlation**2) * noise)
    return _alphas(ratings), _spearman(judge, ratings.mean(2))


def quality_share(agreement: float, seed: int) -> float:
    """Share of quality in a rating's variance that gives this alpha on the scale of points, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        random = np.random.default_rng([seed, 0])
        found = _alphas(_ratings(random.standard_normal((1, 50_000)), 2, middle, random))[0]
        low, high = (middle, high) if found < agreement else (low, middle)
    return (low + high) / 2


def _ratings(quality: np.ndarray, raters: int, share: float, random: np.random.Generator) -> np.ndarray:
    """(studies, items, raters), points from 1."""
    noise = random.standard_normal((*quality.shape, raters))
    return _points(np.sqrt(share) * quality[..., None] + np.sqrt(1 - share) * noise)


def _points(values: np.ndarray) -> np.ndarray:
    """The nearest point of the scale, a quarter of its width a standard deviation."""
    return np.clip(np.round((POINTS + 1) / 2 + values * (POINTS - 1) / 4), 1, POINTS)


def _alphas(ratings: np.ndarray) -> np.ndarray:
    """Ordinal alpha of each study, from its table of coincidences."""
    counts = np.stack([(ratings == p).sum(2) for p in range(1, POINTS + 1)], 2).astype(float)
    together = np.einsum("siv,siw->svw", counts, counts) - np.einsum("siv,vw->svw", counts, np.eye(POINTS))
    every_point = np.repeat(np.arange(1.0, POINTS + 1)[:, None], 2, 1)
    return alpha(every_point, "ordinal").value((together / (ratings.shape[2] - 1)).reshape(len(ratings), -1))


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    x, y = (ranks - ranks.mean(1, keepdims=True) for ranks in (rankdata(x, axis=1), rankdata(y, axis=1)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))


def _interval(values: np.ndarray) -> tuple[float, float, float, float]:
    """Median, lower and upper end, width."""
    low, middle, high = np.nanquantile(values, [0.025, 0.5, 0.975])
    return middle, low, high, high - low

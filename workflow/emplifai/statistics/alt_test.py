"""The alternative annotator test: may a judge take the place of a human rater?

Each rater in turn is left out; on each of their items the judge and the rater are compared by how close they come to the
remaining raters (root mean squared difference; a tie counts for both). The rater is beaten when the rate at which the rater
is closer exceeds that of the judge by less than epsilon (t test), Benjamini-Yekutieli over raters. Source: Calderon, Reichart
& Dror (2025), ACL long.782; values equal their published code (alignment by negative RMSE).
"""

import functools
from typing import NamedTuple

import numpy as np

from emplifai.statistics.bootstrap import Measure

ITEMS = 30  # fewer items a rater: the t test is not to be trusted (their section 3.2)
FEWEST = 3  # fewer say nothing by any test
EXACT = 13  # items up to which the signed ranks are counted out, as in SciPy where there are ties


class AltTest(NamedTuple):
    """winning_rate: share of the raters beaten; 0.5 passes. advantage: chance that the judge is as close as a rater."""

    winning_rate: float
    advantage: float
    raters: int
    items: int  # of the rater with the fewest
    test: str  # t | wilcoxon


def alt_test(ratings: np.ndarray, judge: np.ndarray, epsilon: float = 0.2, q: float = 0.05) -> AltTest | None:
    """ratings: (items, raters) with NaN for missing cells; judge: (items,). None where no rater shares three items with others.

    Raters of fewer than 30 items take no part, as published; where all have fewer, Wilcoxon's signed-rank test takes the
    place of the t test, as the paper advises.
    """
    judge_wins, rater_wins = compare(ratings, judge)
    items = np.isfinite(judge_wins).sum(0)
    who = np.flatnonzero(items >= _fewest(items))
    if not len(who):
        return None
    test = "t" if items.max() >= ITEMS else "wilcoxon"
    differences = [(rater_wins - judge_wins)[np.isfinite(judge_wins[:, j]), j] for j in who]
    p = np.array([_p_value(d, epsilon, test) for d in differences])
    advantage = float(np.mean([np.nanmean(judge_wins[:, j]) for j in who]))
    return AltTest(_rejected(p, q) / len(who), advantage, len(who), int(items[who].min()), test)


def compare(ratings: np.ndarray, judge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the judge, and whether the rater, is at least as close to the others: two (items, raters), NaN where untested."""
    there = np.isfinite(ratings) & np.isfinite(judge)[:, None]
    there &= (there.sum(1) > 1)[:, None]
    y = np.where(there, ratings, 0.0)
    others = there.sum(1, keepdims=True) - there
    total, square = y.sum(1, keepdims=True) - y, (y * y).sum(1, keepdims=True) - y * y
    x = np.where(np.isfinite(judge), judge, 0.0)[:, None]
    far_judge = others * x * x - 2 * x * total + square
    far_rater = others * y * y - 2 * y * total + square
    slack = 1e-9 * (1 + np.abs(far_judge) + np.abs(far_rater))
    judge_wins, rater_wins = far_judge <= far_rater + slack, far_rater <= far_judge + slack
    return np.where(there, judge_wins, np.nan), np.where(there, rater_wins, np.nan)


def advantage(ratings: np.ndarray, judge: np.ndarray) -> Measure:
    """The advantage probability as a function of sums: mean over raters of the judge's rate."""
    wins, _ = compare(ratings, judge)
    items = np.isfinite(wins).sum(0)
    wins = wins[:, items >= _fewest(items)]

    def value(sums: np.ndarray) -> np.ndarray:
        won, tried = np.split(sums, 2, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(tried > 0, won / tried, 0).sum(1) / (tried > 0).sum(1)

    return Measure(np.column_stack([np.nan_to_num(wins), np.isfinite(wins)]).astype(float), value)


def _fewest(items: np.ndarray) -> int:
    """Fewest items of a rater who takes part."""
    return ITEMS if items.max(initial=0) >= ITEMS else FEWEST


def _p_value(difference: np.ndarray, epsilon: float, test: str) -> float:
    """One-sided: is the mean difference below epsilon? Without spread the answer is certain."""
    from scipy.stats import ttest_1samp

    if test == "wilcoxon":
        return _wilcoxon(*(int((difference == value).sum()) for value in (-1, 0, 1)), epsilon)
    if np.ptp(difference) == 0:
        return 0.0 if difference[0] < epsilon else 1.0
    return float(ttest_1samp(difference, epsilon, alternative="less").pvalue)


@functools.lru_cache(maxsize=4096)
def _wilcoxon(lost: int, even: int, won: int, epsilon: float) -> float:
    """Signed ranks, one-sided. How often each difference occurs is all that matters; few items are counted out.

    Equal to scipy.stats.wilcoxon, which tries all signs of up to 13 tied values one by one.
    """
    from scipy.stats import rankdata, wilcoxon

    differences = np.repeat([-1.0, 0.0, 1.0], [lost, even, won]) - epsilon
    known = differences[differences != 0]
    if len(known) > EXACT:
        return float(wilcoxon(differences, alternative="less").pvalue)
    ranks = np.rint(2 * rankdata(np.abs(known))).astype(int)  # doubled: mid-ranks are halves
    ways = np.ones(1)
    for rank in ranks:
        ways = np.append(ways, np.zeros(rank)) + np.append(np.zeros(rank), ways)
    return float(ways[: ranks[known > 0].sum() + 1].sum() / ways.sum())


def _rejected(p: np.ndarray, q: float) -> int:
    from scipy.stats import false_discovery_control

    return int((false_discovery_control(p, method="by") <= q).sum())

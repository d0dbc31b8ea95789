"""Agreement of raters, the alternative annotator test, prediction-powered inference: each against its paper or peer."""

import krippendorff as krippendorff_library
import numpy as np
import pandas as pd
import pingouin
import pytest
import scipy.stats

from emplifai.statistics import (
    alt_test,
    icc,
    krippendorff,
    ppi,
)
from made_scores import NAN, raters

# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: 4 observers, 12 units.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T
# Shrout & Fleiss (1979), table 2: 6 targets, 4 judges.
SHROUT = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)


# Reliability


def test_alpha_of_krippendorffs_own_example():
    published = {"nominal": 0.743, "ordinal": 0.815, "interval": 0.849}
    for level, value in published.items():
        assert krippendorff.alpha(PUBLISHED, level).estimate() == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("missing", [0, 0.4])
def test_alpha_is_the_librarys(level, missing):
    for seed in range(5):
        values = raters(seed, 30, 4, missing)
        theirs = krippendorff_library.alpha(values.T, level_of_measurement=level)
        assert krippendorff.alpha(values, level).estimate() == pytest.approx(theirs, abs=1e-12)


def test_alpha_of_one_value_is_undefined():
    assert np.isnan(krippendorff.alpha(np.full((5, 3), 2.0), "ordinal").estimate())


def test_icc_of_shrout_and_fleiss():
    published = {"icc_1": 0.17, "icc_a1": 0.29, "icc_c1": 0.71, "icc_ak": 0.62}
    for kind, value in published.items():
        assert icc.icc(SHROUT, kind).estimate() == pytest.approx(value, abs=6e-3)


def test_icc_is_pingouins():
    names = {"icc_1": "ICC(1,1)", "icc_a1": "ICC(A,1)", "icc_c1": "ICC(C,1)", "icc_ak": "ICC(A,k)"}
    for seed in range(5):
        values = raters(seed, 25, 4)
        long = pd.DataFrame(values).melt(ignore_index=False).reset_index()
        theirs = pingouin.intraclass_corr(long, "index", "variable", "value").set_index("Type")["ICC"]
        for kind, name in names.items():
            assert icc.icc(values, kind).estimate() == pytest.approx(theirs[name], abs=1e-10)


def test_icc_with_missing_cells_is_unbiased():
    """Planted variances 1 (items), 0.25 (raters), 0.5 (rest), a third of the cells missing."""
    found = {kind: [] for kind in icc.KINDS}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(200, 1)) + 0.5 * rng.normal(size=12) + np.sqrt(0.5) * rng.normal(size=(200, 12))
        values[rng.random(values.shape) < 1 / 3] = NAN
        for kind in icc.KINDS:
            found[kind].append(icc.icc(values, kind).estimate())
    assert np.mean(found["icc_a1"]) == pytest.approx(1 / 1.75, abs=0.02)
    assert np.mean(found["icc_c1"]) == pytest.approx(1 / 1.5, abs=0.02)
    assert np.mean(found["icc_ak"]) == pytest.approx(1 / (1 + 0.75 / 8), abs=0.02)


def test_icc_of_one_rater_is_undefined():
    assert all(np.isnan(icc.icc(np.arange(5.0)[:, None], kind).estimate()) for kind in icc.KINDS)


# The alternative annotator test


def reference_alt_test(ratings: np.ndarray, judge: np.ndarray, epsilon: float) -> tuple[float, float]:
    """The test as the paper states it, item by item."""
    p, advantages = [], []
    for j in range(ratings.shape[1]):
        wins, losses = [], []
        for row, score in zip(ratings, judge, strict=True):
            others = [r for k, r in enumerate(row) if k != j and np.isfinite(r)]
            if np.isfinite(row[j]) and np.isfinite(score) and others:
                near, far = (-np.sqrt(np.mean([(v - o) ** 2 for o in others])) for v in (score, row[j]))
                wins.append(near >= far)
                losses.append(far >= near)
        if len(wins) >= 30:
            difference = np.array(losses, float) - np.array(wins, float)
            p.append(scipy.stats.ttest_1samp(difference, epsilon, alternative="less").pvalue)
            advantages.append(np.mean(wins))
    rejected = scipy.stats.false_discovery_control(p, method="by") <= 0.05
    return rejected.mean(), np.mean(advantages)


@pytest.mark.parametrize("missing", [0, 0.3])
def test_alt_test_is_the_papers(missing):
    for seed in range(6):
        ratings = raters(seed, 120, 5, missing)
        judge = np.clip(np.rint(np.nanmean(raters(seed, 120, 5), 1) + np.random.default_rng(seed).normal(size=120) * 0.8), 1, 5)
        judge[::17] = NAN
        found = alt_test.alt_test(ratings, judge, 0.15)
        rate, advantage = reference_alt_test(ratings, judge, 0.15)
        assert (found.winning_rate, found.advantage) == (pytest.approx(rate), pytest.approx(advantage))
        assert found.test == "t"
        assert alt_test.advantage(ratings, judge).estimate() == pytest.approx(advantage)


def test_alt_test_of_few_items_says_so():
    ratings = raters(0, 20, 3)
    assert alt_test.alt_test(ratings, np.nanmedian(ratings, 1), 0.2).test == "wilcoxon"
    assert alt_test.alt_test(ratings[:, :1], np.ones(20)) is None


def test_signed_ranks_of_few_items_are_scipys():
    rng = np.random.default_rng(0)
    for items in (3, 5, 8, 11, 14, 29):
        lost, even, won = rng.multinomial(items, [0.3, 0.4, 0.3])
        for epsilon in (0.2, 0.15, 0.1):
            differences = np.repeat([-1.0, 0, 1], [lost, even, won]) - epsilon
            theirs = scipy.stats.wilcoxon(differences, alternative="less").pvalue
            assert alt_test._wilcoxon(lost, even, won, epsilon) == pytest.approx(theirs, abs=1e-12)
    assert alt_test._wilcoxon(0, 5, 0, 0.0) == 1


def test_a_judge_that_is_the_median_wins_and_one_at_the_end_loses():
    ratings = raters(3, 200, 5)
    assert alt_test.alt_test(ratings, np.median(ratings, 1)).winning_rate == 1
    assert alt_test.alt_test(ratings, np.full(200, 1.0)).winning_rate == 0


# Prediction-powered inference


def reference_ppi(y: np.ndarray, f: np.ndarray, g: np.ndarray) -> float:
    """PPI++ from the paper's formulas: tuned weight, clipped to [0, 1]."""
    n, m = len(y), len(g)
    covariance = np.mean((y - y.mean()) * (f - f.mean()))
    weight = np.clip(covariance / ((1 + n / m) * np.var(np.concatenate([f, g]), ddof=1)), 0, 1)
    return weight * g.mean() + y.mean() - weight * f.mean()


def test_ppi_mean_is_the_papers():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        truth = rng.normal(3, 1, 200)
        judge = truth + rng.normal(0.5, 0.6, 200)
        human = np.where(np.arange(200) < 40, truth + rng.normal(0, 0.3, 200), NAN)
        expected = reference_ppi(human[:40], judge[:40], judge[40:])
        assert ppi.ppi_mean(human, judge).estimate() == pytest.approx(expected, abs=1e-12)


def test_ppi_with_a_useless_judge_is_the_plain_mean():
    human = np.array([1.0, 2, 3, 4, NAN, NAN])
    assert ppi.ppi_mean(human, np.full(6, 3.0)).estimate() == pytest.approx(2.5)
    assert np.isnan(ppi.ppi_mean(human[:4], np.arange(4.0)).estimate())

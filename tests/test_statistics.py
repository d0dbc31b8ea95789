"""Each statistic against a hand-worked case and against the library that the field uses."""

import json

import krippendorff as krippendorff_library
import numpy as np
import pandas as pd
import pingouin
import pytest
import scipy.stats
from sklearn.metrics import cohen_kappa_score

from emplifai import agreement
from emplifai.panel import Panel
from emplifai.raters import raters_share, widen
from emplifai.statistics import (
    alt_test,
    bootstrap,
    correlation,
    deviation,
    icc,
    kappa,
    krippendorff,
    multiplicity,
    permutation,
    ppi,
)
from emplifai.statistics.bootstrap import Measure, Replicates
from emplifai.statistics.mixed_model import random_intercept
from emplifai.statistics.shrinkage import shrink
from emplifai.statistics.significance import p_value, permutation_p
from emplifai.statistics.systems import STATISTICS, systems
from emplifai.statistics.williams import williams
from emplifai.statistics.within import within

NAN = float("nan")
ORDER = {
    "pearson": (correlation.pearson, scipy.stats.pearsonr),
    "spearman": (correlation.spearman, scipy.stats.spearmanr),
    "kendall": (correlation.kendall, scipy.stats.kendalltau),
}
SIZES = [(5, 3, 3), (60, 5, 5), (200, 21, 5), (150, 0, 5), (150, 0, 0), (4500, 0, 0)]  # items, points of each scale
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


def drawn(seed: int, items: int, tied_x: int, tied_y: int) -> tuple[np.ndarray, np.ndarray]:
    """Two columns that hang together; tied: points of the scale, 0 for no ties."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=items)
    x, y = q + rng.normal(size=items), q + rng.normal(size=items)
    return tuple(np.clip(np.rint(v * t / 5 + t / 2), 1, t) if t else v for v, t in ((x, tied_x), (y, tied_y)))


def raters(seed: int, items: int, people: int, missing: float = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = 3 + rng.normal(size=(items, 1)) + 0.7 * rng.normal(size=(items, people)) + 0.3 * rng.normal(size=people)
    return np.where(rng.random((items, people)) < missing, NAN, np.clip(np.rint(values), 1, 5))


# Correlations


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize(
    ("items", "tied_x", "tied_y"), [(5, 3, 3), (60, 5, 5), (200, 21, 5), (150, 0, 5), (150, 0, 0), (4500, 0, 0)]
)
def test_correlations_are_scipys(name, items, tied_x, tied_y):
    ours, theirs = ORDER[name]
    x, y = drawn(1, items, tied_x, tied_y)
    assert ours(x, y).estimate() == pytest.approx(theirs(x, y).statistic, abs=1e-10)


def test_correlations_by_hand():
    x, y = np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])
    assert correlation.pearson(x, y).estimate() == pytest.approx(0.8)
    assert correlation.spearman(x, y).estimate() == pytest.approx(0.8)
    assert correlation.kendall(x, y).estimate() == pytest.approx(4 / 6)
    tied = np.array([1.0, 1, 2, 2])  # pairs untied in both: 4, all alike but (2, 3) of y
    assert correlation.kendall(x, tied).estimate() == pytest.approx(4 / np.sqrt(6 * 4))
    assert correlation.pairwise_accuracy(x, tied).estimate() == pytest.approx(4 / 6)
    assert correlation.pairwise_accuracy(tied, tied).estimate() == pytest.approx(1)


@pytest.mark.parametrize("name", ORDER)
def test_a_constant_has_no_correlation(name):
    x = np.full(9, 0.1 + 0.2)
    assert np.isnan(ORDER[name][0](x, np.arange(9.0)).estimate())


def test_means_summed_in_another_order_are_tied():
    x = np.array([(0.1 + 0.2 + 0.3) / 3, (0.3 + 0.2 + 0.1) / 3, 1, 2])
    assert x[0] != x[1]
    y = np.array([2.0, 1, 3, 4])
    assert correlation.spearman(x, y).estimate() == pytest.approx(scipy.stats.spearmanr([0, 0, 1, 2], y).statistic)


def test_within_clusters_is_scipy_in_each():
    x, y = drawn(2, 400, 5, 9)
    cluster = np.random.default_rng(0).integers(0, 25, 400)
    found = within(x, y, cluster)
    for c in range(25):
        here = cluster == c
        assert found["pearson"][c] == pytest.approx(scipy.stats.pearsonr(x[here], y[here]).statistic)
        assert found["spearman"][c] == pytest.approx(scipy.stats.spearmanr(x[here], y[here]).statistic)
        assert found["kendall_tau_b"][c] == pytest.approx(scipy.stats.kendalltau(x[here], y[here]).statistic)
        assert found["pairwise_accuracy"][c] == pytest.approx(correlation.pairwise_accuracy(x[here], y[here]).estimate())


def test_within_a_cluster_of_two_or_a_constant_one_is_undefined():
    found = within(np.array([1.0, 2, 3, 3, 3]), np.array([1.0, 2, 1, 2, 3]), np.array([0, 0, 1, 1, 1]))
    assert np.isnan(found["spearman"]).all() and np.isnan(found["kendall_tau_b"]).all()


def test_systems():
    model = np.repeat([0, 1, 2, 3], 2)
    judge, human = np.array([1.0, 3, 3, 3, 2, 3, 5, 5]), np.array([1.0, 1, 2, 2, 3, 3, 4, 4])
    means = [2, 3, 2.5, 5], [1, 2, 3, 4]
    for name, theirs in (
        ("pearson", scipy.stats.pearsonr),
        ("spearman", scipy.stats.spearmanr),
        ("kendall_tau_b", scipy.stats.kendalltau),
    ):
        assert systems(judge, human, model, name).estimate() == pytest.approx(theirs(*means).statistic)
    assert systems(judge, human, model, "pairwise_accuracy").estimate() == pytest.approx(5 / 6)
    assert systems(judge, human, model, "bias").estimate() == pytest.approx(0.625)
    assert systems(judge, human, model, "mae").estimate() == pytest.approx(np.mean([1, 1, 0.5, 1]))


# Kappa, bias


def test_kappa_weighs_by_the_full_scale():
    for seed in range(20):
        x, y = drawn(seed, 40, 5, 5)
        keep = (x != 3) & (y != 3)  # a point that never occurs
        x, y = x[keep], y[keep]
        theirs = cohen_kappa_score(x, y, labels=[1, 2, 3, 4, 5], weights="quadratic")
        assert kappa.weighted_kappa(x, y).estimate() == pytest.approx(theirs, abs=1e-12)


def test_kappa_by_hand():
    # x - y: 0 1 0 -1; observed 2/4; all 16 pairs: 0 0 1 4 | 0 0 1 4 | 1 1 0 1 | 1 1 0 1 -> 16/16
    x, y = np.array([1.0, 2, 2, 1]), np.array([1.0, 1, 2, 2])
    assert kappa.weighted_kappa(x, y).estimate() == pytest.approx(1 - 0.5 / 0.5)
    assert np.isnan(kappa.weighted_kappa(np.full(5, 3.0), np.full(5, 3.0)).estimate())


def test_bias_and_error_by_hand():
    x, y = np.array([1.0, 5, 3]), np.array([2.0, 2, 3])
    assert deviation.bias(x, y).estimate() == pytest.approx(2 / 3)
    assert deviation.mean_absolute_error(x, y).estimate() == pytest.approx(4 / 3)


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


# Intervals


@pytest.mark.parametrize("method", ["percentile", "BCa"])
@pytest.mark.parametrize("name", ORDER)
def test_intervals_are_scipys_for_equal_draws(name, method):
    ours, theirs = ORDER[name]
    x, y = drawn(4, 75, 5, 9)
    cluster = np.arange(75) // 3

    def statistic(chosen: np.ndarray) -> float:
        rows = np.concatenate([np.flatnonzero(cluster == c) for c in chosen])
        return theirs(x[rows], y[rows]).statistic

    expected = scipy.stats.bootstrap(
        (np.arange(25),), statistic, vectorized=False, n_resamples=200, method=method, rng=np.random.default_rng(7)
    ).confidence_interval
    found = bootstrap.interval(bootstrap.replicate(ours(x, y), cluster, 200, 7), 0.95, method.lower())
    assert found == (pytest.approx(expected.low, abs=1e-10), pytest.approx(expected.high, abs=1e-10))


def test_draws_do_not_depend_on_how_they_are_held(monkeypatch):
    whole = np.array(bootstrap.draw(30, 100, 3))
    bootstrap.draw.cache_clear()
    monkeypatch.setattr(bootstrap, "CELLS", 100)
    assert (bootstrap.draw(30, 100, 3) == whole).all() and (whole.sum(1) == 30).all()
    bootstrap.draw.cache_clear()


@pytest.mark.parametrize(("tied", "items"), [(5, 300), (0, 300)])
def test_kendall_counts_alike_by_every_way(monkeypatch, tied, items):
    x, y = drawn(5, items, tied, tied)
    cluster = np.arange(items) // 5
    monkeypatch.setattr(correlation, "GRID", 100_000)
    monkeypatch.setattr(correlation, "CHEAP", 0)
    once = bootstrap.replicate(correlation.kendall(x, y), cluster, 60, 0).drawn
    monkeypatch.setattr(correlation, "GRID", 1)
    pairs = bootstrap.replicate(correlation.kendall(x, y), cluster, 60, 0).drawn
    monkeypatch.setattr(correlation, "PAIRS", 1)
    sorting = bootstrap.replicate(correlation.kendall(x, y), cluster, 60, 0).drawn
    np.testing.assert_allclose(once, pairs, atol=1e-12)
    np.testing.assert_allclose(once, sorting, atol=1e-12)


def test_statistics_combine_over_the_same_draws():
    x, y = drawn(6, 90, 5, 5)
    cluster, first = np.arange(90) // 3, np.arange(90) < 45
    one = correlation.spearman(x[first], y[first])
    both = bootstrap.combine([one, correlation.spearman(x[~first], y[~first])], bootstrap.mean, [first, ~first])
    alone = bootstrap.replicate(one, cluster[first], 50, 0, clusters=30)
    apart = bootstrap.combine([one, one], bootstrap.difference, [first, first])
    assert both.estimate() == pytest.approx((one.estimate() + correlation.spearman(x[~first], y[~first]).estimate()) / 2)
    assert np.nanmax(np.abs(bootstrap.replicate(apart, cluster, 50, 0).drawn)) == 0
    parts = [bootstrap.replicate(bootstrap.combine([m], lambda v: v, [p]), cluster, 50, 0) for m, p in ((one, first),)]
    np.testing.assert_allclose(parts[0].drawn, alone.drawn)


def test_no_interval_of_one_cluster_or_of_nothing():
    assert bootstrap.interval(bootstrap.replicate(deviation.mean(np.arange(4.0)), np.zeros(4, int), 100, 0)) == (None, None)
    assert bootstrap.interval(Replicates(NAN, np.full(100, NAN), np.full(9, NAN))) == (None, None)


@pytest.mark.parametrize("missing", [0, 0.5])
def test_the_quick_way_to_a_left_out_rater_is_the_slow_one(missing):
    ratings = raters(5, 60, 6, missing)
    ratings[:, 5] = np.where(np.arange(60) < 2, 3, NAN)  # too few
    judge = np.nanmean(raters(6, 60, 3), 1)
    panel = Panel("empathy", pd.DataFrame(index=range(60)), list("abcdef"), ratings, {"j": judge}, frozenset(), np.arange(60))
    for one in (None, "j"):
        assert agreement._left_out(panel, one) == pytest.approx(agreement._leave_one_out(panel, one).estimate(), abs=1e-12)


def test_wider_arms_keep_their_shape():
    assert widen(0.5, 0.4, 1.0, True) == 0.4 and widen(0.5, None, 2.0, True) is None
    assert widen(1.0, 0.5, 2.0, False) == pytest.approx(0.0)
    assert np.arctanh(widen(0.5, 0.7, 2.0, True)) == pytest.approx(2 * np.arctanh(0.7) - np.arctanh(0.5))


# Tests


def test_williams_by_hand():
    # Steiger (1980): r12 .5, r13 .3, r23 .4, n 103
    determinant = 1 - 0.25 - 0.09 - 0.16 + 2 * 0.5 * 0.3 * 0.4
    t = 0.2 * np.sqrt(102 * 1.4 / (2 * 102 / 100 * determinant + 0.4**2 * 0.6**3))
    found = williams(0.5, 0.3, 0.4, 103)
    assert found == (pytest.approx(t), pytest.approx(2 * scipy.stats.t.sf(t, 100)))
    assert williams(0.5, 0.5, 1.0, 50) is None


def test_swaps_of_few_clusters_are_all_tried():
    x, y = drawn(8, 40, 0, 0)
    z = y + np.random.default_rng(1).normal(size=40) * 0.3
    cluster = np.arange(40) // 4
    a, b = (permutation.standardise(v) for v in (x, z))
    measures = [correlation.pearson(v, y) for v in (a, b)]

    def statistic(first: np.ndarray, second: np.ndarray) -> float:
        swap = first[cluster] == 1
        one, two = np.where(swap, b, a), np.where(swap, a, b)
        return np.corrcoef(one, y)[0, 1] - np.corrcoef(two, y)[0, 1]

    theirs = scipy.stats.permutation_test(
        (np.zeros(10), np.ones(10)), statistic, permutation_type="samples", vectorized=False, n_resamples=5000
    )
    assert permutation.swap_test(*measures, cluster, 100, 0) == pytest.approx(theirs.pvalue)


def test_sign_test_by_hand():
    assert permutation.sign_test(np.array([1.0, 1, 1]), 100, 0) == pytest.approx(2 / 8)
    assert permutation.sign_test(np.array([0.0, 0, 0]), 100, 0) == 1


def test_a_judge_is_no_better_than_itself():
    x, y = drawn(9, 200, 5, 5)
    same = correlation.pearson(permutation.standardise(x), y)
    assert permutation.swap_test(same, same, np.arange(200) // 4, 200, 0) == 1


def test_permutation_of_systems_is_scipys():
    x, y = np.array([1.0, 2, 3, 4, 5, 6]), np.array([2.0, 1, 4, 3, 6, 5])
    theirs = scipy.stats.permutation_test(
        (x,), lambda a: scipy.stats.kendalltau(a, y).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    assert permutation_p(x, y, STATISTICS["kendall_tau_b"], 0) == pytest.approx(theirs.pvalue)


def test_p_value_of_the_bootstrap():
    drawn_ = np.random.default_rng(0).normal(0, 0.5, 4000)
    assert p_value("bias", Replicates(1.0, drawn_, drawn_)) == pytest.approx(2 * scipy.stats.norm.sf(1 / drawn_.std(ddof=1)))
    assert p_value("bias", Replicates(1.0, np.full(100, 1.0), np.zeros(1))) is None


def test_adjusted_p():
    assert multiplicity.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert multiplicity.benjamini_hochberg([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert multiplicity.holm([]) == multiplicity.benjamini_hochberg([]) == []


def test_mixed_model_is_statsmodels():
    from statsmodels.regression.mixed_linear_model import MixedLM

    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(30), rng.integers(3, 9, 30))
    x = np.column_stack([np.ones(len(cluster)), rng.normal(size=(len(cluster), 2))])
    y = x @ [1, 0.5, -0.2] + 0.8 * rng.normal(size=30)[cluster] + rng.normal(size=len(cluster))
    ours, theirs = random_intercept(y, x, cluster), MixedLM(y, x, groups=cluster).fit(reml=True)
    np.testing.assert_allclose(ours.coefficients, theirs.fe_params, atol=1e-5)
    np.testing.assert_allclose(ours.errors, theirs.bse_fe, rtol=2e-3)  # theirs from the joint Hessian, ours as lme4's
    assert (ours.between, ours.within) == (pytest.approx(theirs.cov_re[0, 0], abs=1e-4), pytest.approx(theirs.scale, abs=1e-4))
    assert random_intercept(y, np.column_stack([x, x[:, 1]]), cluster) is None


def test_shrinkage_draws_noise_together_and_leaves_signal():
    rng = np.random.default_rng(0)
    noise = shrink(rng.normal(0.5, 0.2, 28), np.full(28, 0.2))
    signal = shrink(np.linspace(-1, 1, 28), np.full(28, 0.01))
    assert np.ptp(noise.estimates) < 0.3 and noise.mean == pytest.approx(0.5, abs=0.1)
    np.testing.assert_allclose(signal.estimates, np.linspace(-1, 1, 28), atol=1e-3)


def test_a_measure_is_its_sums():
    assert Measure(np.ones((3, 1)), lambda sums: sums[:, 0]).estimate() == 3
    assert json.dumps(correlation.pearson(*drawn(0, 9, 0, 0)).estimate())


# Coverage: the interval holds the truth as often as it says


def study(rng: np.random.Generator, situations: int, people: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratings and judge on a 1 to 5 scale; replies of one situation hang together, raters differ in severity."""
    cluster = np.repeat(np.arange(situations), 3)
    quality = 0.6 * rng.normal(size=situations)[cluster] + 0.8 * rng.normal(size=len(cluster))
    ratings = quality[:, None] + 0.4 * rng.normal(size=people) + 0.8 * rng.normal(size=(len(cluster), people))
    judge = 0.7 * quality + 0.3 * rng.normal(size=situations)[cluster] + 0.7 * rng.normal(size=len(cluster))
    return *(np.clip(np.rint(3 + v), 1, 5) for v in (ratings, judge)), cluster


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_a_planted_correlation_is_covered_at_the_nominal_rate(method):
    truth = np.mean([planted(study(np.random.default_rng(k), 3000)).estimate() for k in range(20)])
    covered = []
    for seed in range(300):
        ratings, judge, cluster = study(np.random.default_rng(1000 + seed), 40)
        panel = Panel("empathy", pd.DataFrame(index=range(120)), list("abcde"), ratings, {"j": judge}, frozenset(), cluster)
        found = bootstrap.replicate(planted((ratings, judge, cluster)), cluster, 500, seed)
        wider = raters_share(panel, lambda p: correlation.spearman(p.judges["j"], p.human).estimate(), found.drawn)
        low, high = (widen(found.estimate, end, wider, True) for end in bootstrap.interval(found, 0.95, method))
        covered.append(low <= truth <= high)
    assert 0.925 <= np.mean(covered) <= 0.985  # two standard errors below, the raters' share above


def planted(made: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Measure:
    return correlation.spearman(made[1], made[0].mean(1))

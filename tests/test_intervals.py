"""Bootstrap intervals, tests and their coverage: against hand-worked cases, peer libraries and planted truths."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from emplifai import agreement
from emplifai.panel import Panel
from emplifai.raters import raters_share, widen
from emplifai.statistics import (
    bootstrap,
    correlation,
    deviation,
    multiplicity,
    permutation,
)
from emplifai.statistics.bootstrap import Measure, Replicates
from emplifai.statistics.mixed_model import random_intercept
from emplifai.statistics.shrinkage import shrink
from emplifai.statistics.significance import p_value, permutation_p
from emplifai.statistics.systems import STATISTICS
from emplifai.statistics.williams import williams
from made_scores import NAN, ORDER, drawn, raters

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

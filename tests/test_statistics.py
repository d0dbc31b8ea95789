"""Each statistic against a hand-worked case and against the library that the field uses."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import cohen_kappa_score

from emplifai.statistics import (
    correlation,
    deviation,
    kappa,
)
from emplifai.statistics.systems import systems
from emplifai.statistics.within import within
from made_scores import ORDER, drawn

SIZES = [(5, 3, 3), (60, 5, 5), (200, 21, 5), (150, 0, 5), (150, 0, 0), (4500, 0, 0)]  # items, points of each scale
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

"""bias.csv: what moves a judge besides quality. The same columns as agreement.csv.

statistic
  spearman_with_length    judge against the reply's length in characters; the same of people (judge empty)
  partial_spearman        judge against people, given length
  length_effect           mixed model: points of score for a reply one standard deviation longer, given the people's mean
  self_preference         mixed model: points of score for a reply by the judge's own family, given the people's mean
  spearman_shrunken       judge against people by emotion (or another column), drawn towards their mean; group `mean`: over all
  spread_of_spearman      standard deviation of the groups' true correlations (Fisher's z)
  retest_icc_1            one answer of the judge against another to the same question
  retest_changed          share of the questions whose answers are not all the same
  position_first_share    of two replies the share of decided answers that chose the one read first; 0.5: position does not matter

p_adjusted: Benjamini-Hochberg over the file.
"""

from collections.abc import Iterator

import numpy as np

from emplifai.panel import Panel
from emplifai.rows import FEWEST, Maker, Row, Settings, few
from emplifai.statistics import correlation, deviation, icc
from emplifai.statistics.bootstrap import Measure, combine, mean_interval, replicate
from emplifai.statistics.mixed_model import random_intercept
from emplifai.statistics.multiplicity import benjamini_hochberg
from emplifai.statistics.permutation import standardise
from emplifai.statistics.shrinkage import shrink
from emplifai.statistics.significance import p_value

GROUP = 5  # fewest items of a group that a correlation is taken of


Positions = dict[tuple[str, str], tuple[list[float], list[str]]]


def table(panels: list[Panel], settings: Settings, positions: Positions | None = None) -> list[Row]:
    """All rows. positions: by judge and criterion, of each decided answer 1 where the reply read first was chosen, else 0, and
    its cluster; None where judges compare no pairs."""
    rows = []
    for panel in panels:
        rows += _people_length(panel, settings)
        for judge in panel.judges:
            rows += _judge(panel, judge, settings)
            if positions is not None:
                rows.append(_position(panel, judge, *positions.get((judge, panel.criterion), ([], [])), settings))
    tested = [row for row in rows if row["p_value"] is not None]
    for row, p in zip(tested, benjamini_hochberg([row["p_value"] for row in tested]), strict=True):
        row["p_adjusted"] = p
    return rows


def _position(panel: Panel, judge: str, first: list[float], clusters: list[str], settings: Settings) -> Row:
    """Its interval is that of pairwise.CRITERION.first_share in the judge's metrics."""
    make = Maker(panel, judge, "pooled", settings)
    found = mean_interval(first, clusters, settings.confidence, settings.resamples, settings.seed)
    row = make.plain("position_first_share", "order", found.estimate, "" if found.n else "no pairs compared", found.n)
    row |= {"n_raters": 0, "ci_low": found.low, "ci_high": found.high}
    if found.clusters > 1:
        cluster = np.unique(clusters, return_inverse=True)[1]
        apart = deviation.mean(np.array(first) - 0.5)
        row["p_value"] = p_value("bias", replicate(apart, cluster, settings.resamples, settings.seed))
    return row


def _people_length(panel: Panel, settings: Settings) -> Iterator[Row]:
    """Whether people go by length: judges may then do so too."""
    rated = panel.of(panel.count > 0)
    if "length" not in rated.items or rated.items["length"].isna().any():
        return
    length, human = rated.items["length"].to_numpy(float), rated.human
    why = few(rated) or ("constant length" if np.ptp(length) == 0 else "constant ratings" if np.ptp(human) == 0 else "")
    make = Maker(rated, "", "pooled", settings)
    yield make.row("spearman_with_length", "length", lambda p: correlation.spearman(p.human, _lengths(p)), why)


def _judge(panel: Panel, judge: str, settings: Settings) -> Iterator[Row]:
    shared = panel.judged(judge)
    make = Maker(shared, judge, "pooled", settings)
    yield from _length(shared, judge, make, settings)
    yield _self_preference(shared, judge, make)
    for by in settings.by:
        yield from _by_group(shared, judge, by, settings)
    yield from _retest(panel, judge, settings)


def _lengths(panel: Panel) -> np.ndarray:
    return panel.items["length"].to_numpy(float)


def _length(shared: Panel, judge: str, make: Maker, settings: Settings) -> Iterator[Row]:
    """How far the judge goes by length."""
    if "length" not in shared.items or shared.items["length"].isna().any():
        yield make.plain("partial_spearman", "mean", None, few(shared) or "lengths unknown")
        return
    length, scores, human = shared.items["length"].to_numpy(float), shared.judges[judge], shared.human
    why = few(shared) or ("constant length" if np.ptp(length) == 0 else "")
    flat = "constant judge" if len(scores) and np.ptp(scores) == 0 else ""
    yield make.row("spearman_with_length", "length", lambda p: correlation.spearman(p.judges[judge], _lengths(p)), why or flat)
    flat_human = "constant ratings" if len(human) and np.ptp(human) == 0 else ""
    why = why or flat or flat_human
    yield make.row("partial_spearman", "mean", lambda p: _partial(p.judges[judge], p.human, _lengths(p)), why)
    columns = np.column_stack([np.ones(len(human)), human, standardise(length)]) if not why else human[:, None]
    yield _mixed(make, "length_effect", scores, columns, why)


def _partial(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Measure:
    """Spearman's correlation of x and y given z, from the three plain ones."""
    return combine([correlation.spearman(a, b) for a, b in ((x, y), (x, z), (y, z))], _given)


def _given(xy: np.ndarray, xz: np.ndarray, yz: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))


def _mixed(make: Maker, statistic: str, scores: np.ndarray, x: np.ndarray, why: str) -> Row:
    """The last coefficient of a mixed model with a random intercept for each cluster; Wald interval."""
    from scipy.special import ndtr, ndtri

    fit = None if why else random_intercept(scores, x, make.panel.cluster)
    row = make.plain(statistic, "mean", float(fit.coefficients[-1]) if fit else None, why or ("" if fit else "undefined"))
    if fit and fit.errors[-1] > 1e-12:
        half = ndtri((1 + make.settings.confidence) / 2) * fit.errors[-1]
        row["ci_low"], row["ci_high"] = row["estimate"] - half, row["estimate"] + half
        row["p_value"] = float(2 * ndtr(-abs(row["estimate"]) / fit.errors[-1]))
    return row


def _self_preference(shared: Panel, judge: str, make: Maker) -> Row:
    family = shared.families.get(judge)
    known = "family" in shared.items and family
    own = (shared.items["family"] == family).to_numpy(float) if known else np.zeros(len(shared.items))
    why = few(shared) or ("" if known else "family unknown")
    why = why or ("no other family" if own.all() else "no reply of its own family" if not own.any() else "")
    return _mixed(make, "self_preference", shared.judges[judge], np.column_stack([np.ones(len(own)), shared.human, own]), why)


def _by_group(shared: Panel, judge: str, by: str, settings: Settings) -> Iterator[Row]:
    """Each group's Spearman on Fisher's z scale with its bootstrap error, shrunken over the groups."""
    from scipy.special import ndtri

    groups, z, errors, makers = [], [], [], []
    for group in sorted(shared.items[by].dropna().unique()):
        part = shared.of((shared.items[by] == group).to_numpy())
        maker = Maker(part, judge, "pooled", settings, by, str(group))
        found = _fisher(part, judge, settings)
        if found is None:
            yield maker.plain("spearman_shrunken", "mean", None, few(part, GROUP) or "undefined")
            continue
        groups.append(group)
        z.append(found[0])
        errors.append(found[1])
        makers.append(maker)
    overall = Maker(shared, judge, "pooled", settings, by, "mean")
    if len(groups) < 2:
        yield overall.plain("spearman_shrunken", "mean", None, few(shared) or "fewer than two groups")
        return
    result, half = shrink(np.array(z), np.array(errors)), ndtri((1 + settings.confidence) / 2)
    error = float(np.sqrt(1 / (1 / (np.square(errors) + result.spread**2)).sum()))
    for maker, value, spread in [*zip(makers, result.estimates, result.errors, strict=True), (overall, result.mean, error)]:
        row = maker.plain("spearman_shrunken", "mean", float(np.tanh(value)), "")
        row["ci_low"], row["ci_high"] = float(np.tanh(value - half * spread)), float(np.tanh(value + half * spread))
        yield row
    yield overall.plain("spread_of_spearman", "mean", result.spread, "")


def _fisher(part: Panel, judge: str, settings: Settings) -> tuple[float, float] | None:
    """Fisher's z of Spearman's correlation and its error: the cluster bootstrap's, not below that of independent items."""
    if len(part.items) < GROUP:
        return None
    found = replicate(correlation.spearman(part.judges[judge], part.human), part.cluster, settings.resamples, settings.seed)
    drawn = found.drawn[np.isfinite(found.drawn)]
    if not np.isfinite(found.estimate):
        return None
    z = np.arctanh(np.clip(found.estimate, -0.99, 0.99))
    # Bonett & Wright (2000); few clusters make the bootstrap too sure of itself.
    independent = np.sqrt((1 + found.estimate**2 / 2) / max(len(part.items) - 3, 1))
    spread = np.arctanh(np.clip(drawn, -0.99, 0.99)).std() if len(drawn) > 1 else 0.0
    return float(z), float(max(spread, independent))


def _retest(panel: Panel, judge: str, settings: Settings) -> Iterator[Row]:
    make = Maker(panel, judge, "pooled", settings)
    samples = panel.samples.get(judge)
    why = "one sample" if samples is None else ""
    if samples is None:
        for statistic in ("retest_icc_1", "retest_changed"):
            yield make.plain(statistic, "samples", None, why)
        return
    asked = np.isfinite(samples).sum(1) > 1
    some, values = panel.of(asked), samples[asked]
    maker = Maker(some, judge, "pooled", settings)
    why = few(some, FEWEST) or ("constant scores" if np.nanmax(values) == np.nanmin(values) else "")
    yield maker.row("retest_icc_1", "samples", lambda p: icc.icc(values, "icc_1"), why, raters=False)
    changed = (np.nanmax(values, 1, initial=-np.inf) - np.nanmin(values, 1, initial=np.inf) > 1e-9).astype(float)
    yield maker.row("retest_changed", "samples", lambda p: deviation.mean(changed), few(some, 1), raters=False)

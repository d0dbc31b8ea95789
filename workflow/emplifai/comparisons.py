"""comparisons.csv: judge against judge, on the items that people and both judges scored.

The interval covers the choice of clusters and, with five raters and more, of raters (raters.py).
"""

from itertools import combinations
from typing import Any

import numpy as np

from emplifai.panel import Panel
from emplifai.progress import track
from emplifai.raters import raters_share, widen
from emplifai.rows import Settings
from emplifai.statistics import correlation, deviation, multiplicity
from emplifai.statistics.bootstrap import Measure, combine, difference, interval, mean, replicate, undefined
from emplifai.statistics.permutation import sign_test, standardise, swap_test
from emplifai.statistics.systems import systems
from emplifai.statistics.williams import williams
from emplifai.statistics.within import within

COLUMNS = (
    "criterion", "judge_a", "judge_b", "level", "statistic", "reference", "n_items", "n_raters", "estimate_a", "estimate_b",
    "difference", "ci_low", "ci_high", "p_value", "p_adjusted", "williams_t", "williams_p", "status",
)  # fmt: skip
STATISTICS = ("pearson", "spearman")
FEWEST = 3

Row = dict[str, Any]


def table(panels: list[Panel], settings: Settings, models: bool) -> list[Row]:
    """Every pair of judges of every criterion, level by level."""
    levels = ("pooled", "within_model", "within_cluster", "system") if models else ("pooled",)
    pairs = [(panel, a, b) for panel in panels for a, b in combinations(panel.judges, 2)]
    rows = [
        _row(panel, a, b, level, statistic, settings)
        for panel, a, b in track(pairs, "comparisons", len(pairs), "pairs of judges")
        for level in levels
        for statistic in STATISTICS
    ]
    return _adjust(rows, models)


def _row(panel: Panel, a: str, b: str, level: str, statistic: str, settings: Settings) -> Row:
    both = panel.of((panel.count > 0) & np.isfinite(panel.judges[a]) & np.isfinite(panel.judges[b]))
    models = both.items["model"].nunique()
    head = (panel.criterion, a, b, level, statistic, "mean", models if level == "system" else len(both.items), len(both.raters))
    row = dict.fromkeys(COLUMNS) | dict(zip(COLUMNS, head, strict=False))
    inside = int(both.items["model"].value_counts().max()) if level == "within_model" and len(both.items) else len(both.items)
    units = models if level == "system" else inside
    flat = [j for j in (a, b) if units and np.ptp(both.judges[j]) == 0]
    why = "no items" if not units else "too few items" if units < FEWEST else "constant judge" if flat else ""
    why = why or ("constant ratings" if np.ptp(both.human) == 0 else "")
    return row | ({"status": why} if why else _compare(both, a, b, level, statistic, settings))


def _compare(both: Panel, a: str, b: str, level: str, statistic: str, settings: Settings) -> Row:
    measures, cluster = _measures(both, (a, b), level, statistic)
    apart = replicate(combine(measures, difference), cluster, settings.resamples, settings.seed)
    if not np.isfinite(apart.estimate):
        return {"status": "undefined"}
    wider = raters_share(both, lambda p: combine(_measures(p, (a, b), level, statistic)[0], difference).estimate(), apart.drawn)
    low, high = (widen(apart.estimate, end, wider, False) for end in interval(apart, settings.confidence, settings.interval))
    t = _williams(both, a, b, level, statistic)
    return {
        "estimate_a": measures[0].estimate(),
        "estimate_b": measures[1].estimate(),
        "difference": apart.estimate,
        "ci_low": low,
        "ci_high": high,
        "p_value": _permutation(both, (a, b), level, statistic, settings),
        "williams_t": t[0] if t else None,
        "williams_p": t[1] if t else None,
        "status": "ok",
    }


def _measure(scores: np.ndarray, human: np.ndarray, model: np.ndarray, level: str, statistic: str) -> Measure:
    """The statistic of scores as a function of sums over the items (not for within_cluster)."""
    if level == "system":
        return systems(scores, human, np.unique(model, return_inverse=True)[1], statistic)
    one = {"pearson": correlation.pearson, "spearman": correlation.spearman}[statistic]
    if level == "pooled":
        return one(scores, human)
    parts = [model == m for m in np.unique(model)]
    parts = [part for part in parts if part.sum() >= FEWEST]
    return combine([one(scores[part], human[part]) for part in parts], mean, parts) if parts else undefined(len(scores))


def _in_clusters(both: Panel, pair: tuple[str, str], statistic: str) -> list[np.ndarray]:
    """The statistic of both judges inside each cluster, NaN where it is undefined for one of them."""
    values = [within(both.judges[judge], both.human, both.cluster)[statistic] for judge in pair]
    known = np.isfinite(values).all(0)
    return [np.where(known, v, np.nan) for v in values]


def _measures(both: Panel, pair: tuple[str, str], level: str, statistic: str) -> tuple[list[Measure], np.ndarray]:
    """The statistic of each judge, and the cluster of each row of its features."""
    if level == "within_cluster":
        values = _in_clusters(both, pair, statistic)
        return [deviation.mean_of_known(v) for v in values], np.arange(len(values[0]))
    return [_measure(both.judges[judge], both.human, both.model, level, statistic) for judge in pair], both.cluster


def _permutation(both: Panel, pair: tuple[str, str], level: str, statistic: str, settings: Settings) -> float | None:
    """Swaps standardised scores, for Spearman standardised ranks (inside each model, where the level is)."""
    if level == "within_cluster":
        values = _in_clusters(both, pair, statistic)
        apart = (values[0] - values[1])[np.isfinite(values[0])]
        return sign_test(apart, settings.resamples, settings.seed)
    model = both.model
    group = model if level == "within_model" else np.zeros(len(model))
    ranked = statistic == "spearman" and level != "system"
    human = _by(group, both.human, _ranks) if ranked else both.human
    measures = []
    for judge in pair:
        scores = _by(group, both.judges[judge], _ranks) if ranked else both.judges[judge]
        scores = _by(group, scores, standardise)
        measures.append(_measure(scores, human, model, level, "pearson" if ranked else statistic))
    return swap_test(*measures, both.cluster, settings.resamples, settings.seed)


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(np.round(values, correlation.TIE))


def _by(group: np.ndarray, values: np.ndarray, change) -> np.ndarray:
    result = np.empty(len(values))
    for name in np.unique(group):
        result[group == name] = change(values[group == name])
    return result


def _williams(both: Panel, a: str, b: str, level: str, statistic: str) -> tuple[float, float] | None:
    """Only where one correlation is compared with one: over all items, or over the systems."""
    if level not in ("pooled", "system"):
        return None
    x, y, human = both.judges[a], both.judges[b], both.human
    if level == "system":
        x, y, human = (np.array([v[both.model == m].mean() for m in np.unique(both.model)]) for v in (x, y, human))
    r = {"pearson": correlation.pearson, "spearman": correlation.spearman}[statistic]
    return williams(r(x, human).estimate(), r(y, human).estimate(), r(x, y).estimate(), len(x))


def _adjust(rows: list[Row], models: bool) -> list[Row]:
    """Holm over the planned comparisons (Spearman, one level), Benjamini-Hochberg over the others."""
    planned_level = "within_model" if models else "pooled"
    tested = [row for row in rows if row["p_value"] is not None]
    planned = [(r["statistic"], r["level"]) == ("spearman", planned_level) for r in tested]
    for wanted, adjust in ((True, multiplicity.holm), (False, multiplicity.benjamini_hochberg)):
        some = [row for row, p in zip(tested, planned, strict=True) if p == wanted]
        for row, p in zip(some, adjust([row["p_value"] for row in some]), strict=True):
            row["p_adjusted"] = p
    return rows

"""agreement.csv: how far judges agree with people, and people with each other, with intervals, level by level.

Levels: pooled (all items), within_model (each model, and their mean), within_cluster (inside each cluster, then averaged),
system (means of the models), raters (people among themselves).
"""

from collections.abc import Callable, Iterator

import numpy as np

from emplifai.panel import Panel
from emplifai.progress import Progress
from emplifai.rows import FEWEST, Maker, Row, Settings, constant, few, off_scale, one_value, people
from emplifai.statistics import alt_test, correlation, deviation, icc, kappa, krippendorff, multiplicity, ppi
from emplifai.statistics.bootstrap import Measure, combine, difference, mean, undefined
from emplifai.statistics.significance import permutation_p
from emplifai.statistics.systems import STATISTICS, systems
from emplifai.statistics.within import spearman as within_spearman
from emplifai.statistics.within import within

ORDER = ("pearson", "spearman", "kendall_tau_b", "pairwise_accuracy")
SCALE = ("bias", "mae", *icc.KINDS)  # need both sides on one scale

MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], Measure]] = {
    "pearson": correlation.pearson,
    "spearman": correlation.spearman,
    "kendall_tau_b": correlation.kendall,
    "pairwise_accuracy": correlation.pairwise_accuracy,
    "weighted_kappa": kappa.weighted_kappa,
    "bias": deviation.bias,
    "mae": deviation.mean_absolute_error,
    **{kind: lambda judge, human, kind=kind: icc.icc(np.column_stack([judge, human]), kind) for kind in icc.KINDS},
}


def table(panels: list[Panel], settings: Settings, models: bool) -> list[Row]:
    """All rows. models: whether the data tell systems apart; without, everything is pooled."""
    rows: list[Row] = []
    with Progress("agreement", sum(1 + len(panel.judges) for panel in panels), "tables") as progress:
        for panel in panels:
            rows += rater_rows(panel, settings)
            progress.add()
            for judge in panel.judges:
                rows += judge_rows(panel, judge, settings, models)
                progress.add()
    return _adjust(rows, models)


def rater_rows(panel: Panel, settings: Settings) -> Iterator[Row]:
    """How reliable people are."""
    rated = panel.of(panel.count > 0)
    make = Maker(rated, "", "raters", settings)
    why = people(rated) or ("too few items" if (rated.count > 1).sum() < 2 else "") or one_value(rated)
    for level in ("ordinal", "interval", "nominal"):
        yield make.row(f"krippendorff_{level}", "", lambda p, level=level: krippendorff.alpha(p.ratings, level), why)
    for kind in icc.KINDS:
        row = make.row(kind, "", lambda p, kind=kind: icc.icc(p.ratings, kind), why)
        # Two raters tell nothing of raters' variance: an interval over situations alone would look sure of itself.
        yield row if len(rated.raters) > 2 else row | {"ci_low": None, "ci_high": None}
    yield make.row("leave_one_out_spearman", "leave_one_out", _leave_one_out, why or few(rated), estimate=_left_out)


def judge_rows(panel: Panel, judge: str, settings: Settings, models: bool) -> Iterator[Row]:
    """How far one judge agrees with people."""
    shared = panel.judged(judge)
    yield from _pooled(shared, judge, settings)
    yield _ppi(panel, judge, "pooled", "", "", settings)
    for by in (name for name in settings.by if name != "model"):  # models have a level of their own
        for group in sorted(shared.items[by].dropna().unique()):
            yield from _group(shared.of((shared.items[by] == group).to_numpy()), judge, by, group, settings)
    if models:
        yield from _within_models(panel, shared, judge, settings)
        yield from _within_clusters(shared, judge, settings)
        yield from _systems(shared, judge, settings)


def _pooled(shared: Panel, judge: str, settings: Settings) -> Iterator[Row]:
    yield from _group(shared, judge, "", "", settings)
    make, scores = Maker(shared, judge, "pooled", settings), shared.judges[judge]
    off = off_scale(shared, judge)
    for kind in icc.KINDS:
        why = off or few(shared) or constant(scores, shared.human)
        yield make.row(kind, "mean", _against(judge, kind), why)
    why = people(shared) or few(shared) or constant(scores, shared.human)
    yield make.row(
        "leave_one_out_spearman", "leave_one_out", lambda p: _leave_one_out(p, judge), why, estimate=lambda p: _left_out(p, judge)
    )
    apart = lambda p: _left_out(p, judge) - _left_out(p)  # noqa: E731
    yield make.row("leave_one_out_difference", "leave_one_out", lambda p: _beside_raters(p, judge), why, estimate=apart)
    yield from _alt_test(shared, make, judge, off or people(shared), settings)


def _against(judge: str, statistic: str) -> Callable[[Panel], Measure]:
    """The statistic of a judge against the raters' mean, or median for kappa."""
    return lambda panel: MEASURES[statistic](panel.judges[judge], panel.median if statistic == "weighted_kappa" else panel.human)


def _group(shared: Panel, judge: str, by: str, group: str, settings: Settings) -> Iterator[Row]:
    """Order, kappa, bias and error over the items given."""
    make = Maker(shared, judge, "pooled" if by != "model" else "within_model", settings, by, group)
    for statistic, reference in (*((s, "mean") for s in ORDER), ("weighted_kappa", "median"), ("bias", "mean"), ("mae", "mean")):
        human = shared.median if reference == "median" else shared.human
        why = why_not(statistic, shared, judge, human)
        yield make.row(statistic, reference, _against(judge, statistic), why)


def _within_models(panel: Panel, shared: Panel, judge: str, settings: Settings) -> Iterator[Row]:
    known: dict[str, list[str]] = {}
    for model in sorted(panel.items["model"].unique()):
        some = shared.of((shared.items["model"] == model).to_numpy())
        for row in _group(some, judge, "model", model, settings):
            known.setdefault(row["statistic"], []).extend([model] if row["status"] == "ok" else [])
            yield row
        yield _ppi(panel.of((panel.items["model"] == model).to_numpy()), judge, "within_model", "model", model, settings)
    for statistic, models in known.items():
        why = "" if models else "undefined in every model"
        some = shared.of(shared.items["model"].isin(models).to_numpy())
        make = Maker(some, judge, "within_model", settings, "model", "mean")
        reference = "median" if statistic == "weighted_kappa" else "mean"
        yield make.row(statistic, reference, lambda p, s=statistic: _mean_of_models(p, judge, s), why)


def _mean_of_models(panel: Panel, judge: str, statistic: str) -> Measure:
    parts = [panel.model == model for model in np.unique(panel.model)]
    return combine([_against(judge, statistic)(panel.of(part)) for part in parts], mean, parts)


def _within_clusters(shared: Panel, judge: str, settings: Settings) -> Iterator[Row]:
    found = within(shared.judges[judge], shared.human, shared.cluster)
    for statistic in ORDER:
        known = np.isfinite(found[statistic])
        why = "" if known.any() else "no items" if not len(known) else "undefined in every cluster"
        make = Maker(shared.of(known[shared.cluster]), judge, "within_cluster", settings, settings.cluster, "mean")
        yield make.row(statistic, "mean", lambda p, s=statistic: _mean_of_clusters(p, judge, s), why, by_cluster=True)


def _mean_of_clusters(panel: Panel, judge: str, statistic: str) -> Measure:
    return deviation.mean_of_known(within(panel.judges[judge], panel.human, panel.cluster)[statistic])


def _systems(shared: Panel, judge: str, settings: Settings) -> Iterator[Row]:
    make = Maker(shared, judge, "system", settings)
    models = shared.items["model"].nunique()
    for statistic in (*ORDER, "bias", "mae"):
        off = off_scale(shared, judge) if statistic in SCALE else ""
        fewest = 1 if statistic in SCALE else 2 if statistic == "pairwise_accuracy" else FEWEST
        few_models = "too few systems" if models < fewest else ""
        row = make.row(statistic, "mean", lambda p, s=statistic: _of_systems(p, judge, s), off or few_models, models)
        if row["status"] == "ok" and statistic in ORDER[:3]:
            row["p_value"] = permutation_p(*_system_means(shared, judge), STATISTICS[statistic], settings.seed)
        yield row


def _system_means(shared: Panel, judge: str) -> tuple[np.ndarray, np.ndarray]:
    names, model = np.unique(shared.model, return_inverse=True)
    count = np.bincount(model, minlength=len(names))
    return tuple(np.bincount(model, values) / count for values in (shared.judges[judge], shared.human))


def _of_systems(panel: Panel, judge: str, statistic: str) -> Measure:
    model = np.unique(panel.model, return_inverse=True)[1]
    return systems(panel.judges[judge], panel.human, model, statistic)


def _ppi(panel: Panel, judge: str, level: str, by: str, group: str, settings: Settings) -> Row:
    """The mean rating of all judged items, from the ratings of some."""
    judged = panel.of(np.isfinite(panel.judges[judge]))
    make = Maker(judged, judge, level, settings, by, group)
    rated = int((judged.count > 0).sum())
    why = "no items" if not rated else "too few items" if rated < FEWEST else ""
    if not why and rated == len(judged.count):
        why = "no unrated items"
    return make.row("ppi_mean", "mean", lambda p: ppi.ppi_mean(p.human, p.judges[judge]), why, rated)


def _alt_test(shared: Panel, make: Maker, judge: str, why: str, settings: Settings) -> Iterator[Row]:
    result = None if why else alt_test.alt_test(shared.ratings, shared.judges[judge], settings.epsilon)
    why = why or ("" if result else "too few items")
    yield make.plain("alt_test_winning_rate", "leave_one_out", result.winning_rate if result else None, why)
    yield make.row("alt_test_advantage", "leave_one_out", lambda p: alt_test.advantage(p.ratings, p.judges[judge]), why)


def _leave_one_out(panel: Panel, judge: str | None = None) -> Measure:
    """Mean over raters of the Spearman correlation of the rater, or of the judge, with the mean of the other raters."""
    there, total = np.isfinite(panel.ratings), np.nansum(panel.ratings, 1)
    measures, parts = [], []
    for own, rated in zip(panel.ratings.T, (there & (panel.count > 1)[:, None]).T, strict=True):
        if rated.sum() >= FEWEST:
            rest = (total[rated] - own[rated]) / (panel.count[rated] - 1)
            measures.append(correlation.spearman((panel.judges[judge] if judge else own)[rated], rest))
            parts.append(rated)
    return combine(measures, mean, parts) if measures else undefined(len(panel.items))


def _left_out(panel: Panel, judge: str | None = None) -> float:
    """The estimate of _leave_one_out, all raters at once."""
    item, rater = np.nonzero(np.isfinite(panel.ratings) & (panel.count > 1)[:, None])
    own, rater = panel.ratings[item, rater], np.unique(rater, return_inverse=True)[1]
    if not len(item):
        return float("nan")
    rest = (np.nansum(panel.ratings, 1)[item] - own) / (panel.count[item] - 1)
    found = within_spearman(panel.judges[judge][item] if judge else own, rest, rater)
    return float(mean(*found))


def _beside_raters(panel: Panel, judge: str) -> Measure:
    """How much better than a rater the judge agrees with the other raters (Spearman): below 0 where raters do better."""
    return combine([_leave_one_out(panel, judge), _leave_one_out(panel)], difference)


def why_not(statistic: str, shared: Panel, judge: str, human: np.ndarray) -> str:
    """Why a statistic is undefined on these items; empty where it is defined."""
    scores = shared.judges[judge]
    if statistic in ORDER[:3]:
        return few(shared) or constant(scores, human)
    if statistic == "pairwise_accuracy":
        return few(shared, 2)
    off = off_scale(shared, judge) or few(shared, 1)
    if statistic == "weighted_kappa" and not off:
        whole = (scores == scores.round()).all() and (human == human.round()).all()
        return constant(scores, human) or ("" if whole else "not whole points")
    return off


def _adjust(rows: list[Row], models: bool) -> list[Row]:
    """Holm over the planned tests (Spearman by criterion and judge), Benjamini-Hochberg over all others."""
    level, group = ("within_model", "mean") if models else ("pooled", "")
    tested = [row for row in rows if row["p_value"] is not None]
    planned = [r for r in tested if (r["statistic"], r["level"], r["group"]) == ("spearman", level, group) and r["judge"]]
    others = [r for r in tested if not any(r is p for p in planned)]
    for some, adjust in ((planned, multiplicity.holm), (others, multiplicity.benjamini_hochberg)):
        for row, p in zip(some, adjust([r["p_value"] for r in some]), strict=True):
            row["p_adjusted"] = p
    return rows

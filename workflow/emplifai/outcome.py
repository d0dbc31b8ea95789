"""What correlate writes: its tables, the verdict, the key figures."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from emplifai import agreement, audit, comparisons, stand_in
from emplifai.panel import Panel
from emplifai.paths import Paths
from emplifai.records import write_csv, write_json
from emplifai.rows import COLUMNS, Settings
from emplifai.statistics.bootstrap import mean_interval

SYSTEMS = (
    "model", "criterion", "judge", "n_rated", "human_mean", "human_low", "human_high",
    "n_judged", "judge_mean", "judge_low", "judge_high",
)  # fmt: skip


def write(
    found: list[Panel],
    settings: Settings,
    paths: Paths,
    models: bool,
    simulated: bool,
    positions: audit.Positions | None = None,
) -> dict[str, float]:
    """All tables and the verdict; returns the metrics. positions: see audit.table."""
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    mark = {"simulated": "true"} if simulated else {}

    def put(name: str, rows: list[dict[str, Any]], columns: Iterable[str]) -> None:
        write_csv(paths.table(name), [row | mark for row in rows], [*columns, *mark])

    # The products are small: threads that wait for each other on busy cores take many times longer than one.
    with threadpool_limits(1, "blas"):
        agreed, audited = agreement.table(found, settings, models), audit.table(found, settings, positions)
        compared = comparisons.table(found, settings, models)
    items = [row for panel in found for row in _items(panel)]
    put("agreement", agreed, COLUMNS)
    put("bias", audited, COLUMNS)
    put("comparisons", compared, comparisons.COLUMNS)
    put("items", items, dict.fromkeys(k for row in items for k in row))
    put("systems", [row for panel in found for row in _systems(panel, settings)], SYSTEMS)
    write_json(paths.verdict, stand_in.verdict(found, agreed, audited, settings, models, simulated))
    return _metrics(agreed, found, simulated)


def _items(panel: Panel) -> list[dict[str, Any]]:
    rows = []
    human, median, count = panel.human, panel.median, panel.count
    for i, item in enumerate(panel.items.to_dict("records")):
        scores = {f"judge_{name}": _number(score[i]) for name, score in panel.judges.items()}
        rated = {"criterion": panel.criterion, "human_mean": _number(human[i]), "human_median": _number(median[i])}
        rows.append(item | rated | {"n_raters": int(count[i])} | scores)
    return rows


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _systems(panel: Panel, settings: Settings) -> list[dict[str, Any]]:
    rows = []
    for model in sorted(panel.items["model"].unique()):
        part = (panel.items["model"] == model).to_numpy()
        human = _mean(panel.human[part], panel.cluster[part], settings)
        for judge, scores in panel.judges.items():
            mean = _mean(scores[part], panel.cluster[part], settings)
            rows.append(dict(zip(SYSTEMS, (model, panel.criterion, judge, *human, *mean), strict=True)))
    return rows


def _mean(values: np.ndarray, cluster: np.ndarray, settings: Settings) -> tuple:
    known = np.isfinite(values)
    found = mean_interval(values[known], cluster[known], settings.confidence, settings.resamples, settings.seed)
    return found.n, found.estimate, found.low, found.high


def _metrics(rows: list[dict[str, Any]], found: list[Panel], simulated: bool) -> dict[str, float]:
    """The key figures, flat: CRITERION/JUDGE/LEVEL/STATISTIC; a figure that is undefined is left out."""
    metrics: dict[str, float] = {"simulated": int(simulated)}
    for panel in found:
        metrics[f"{panel.criterion}/ratings"] = int(panel.count.sum())
        metrics[f"{panel.criterion}/raters"] = len(panel.raters)
    kept = ("spearman", "pearson", "kendall_tau_b", "weighted_kappa", "bias", "krippendorff_ordinal", "icc_ak",
            "leave_one_out_spearman", "alt_test_winning_rate", "alt_test_advantage", "pairwise_accuracy")  # fmt: skip
    for row in rows:
        if row["estimate"] is not None and row["statistic"] in kept and row["group"] in ("", "mean"):
            name = f"{row['criterion']}/{row['judge'] or 'raters'}/{row['level']}/{row['statistic']}"
            metrics[name.replace("/raters/raters/", "/raters/")] = row["estimate"]
    return metrics

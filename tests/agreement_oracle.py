"""What agreement.csv should hold, worked out from the two tables by other people's libraries and none of our code.

SciPy, scikit-learn, pingouin, krippendorff and statsmodels where they know the statistic; else the paper's formula, item by item.
A value that is undefined is not in the answer.
"""

import warnings
from collections.abc import Callable, Iterator
from itertools import combinations

import krippendorff
import numpy as np
import pandas as pd
import pingouin
import scipy.stats
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.multitest import multipletests

ITEM = ["dialogue_id", "model"]
CORRELATIONS = {"pearson": scipy.stats.pearsonr, "spearman": scipy.stats.spearmanr, "kendall_tau_b": scipy.stats.kendalltau}
ICC = {"icc_1": "ICC(1,1)", "icc_a1": "ICC(A,1)", "icc_c1": "ICC(C,1)", "icc_ak": "ICC(A,k)"}
ALT = ("alt_test_winning_rate", "alt_test_advantage")

Key = tuple[str, str, str, str, str, str]  # criterion, judge, by, group, level, statistic


def expected(
    ratings: pd.DataFrame, judgements: pd.DataFrame, scale: tuple[int, int], cluster: str, by: list[str], epsilon: float
) -> dict[Key, float]:
    """ratings, judgements: the tables as read, scores as numbers, missing cells left out."""
    models = "model" in ratings
    ratings, judgements = (t if models else t.assign(model="") for t in (ratings, judgements))
    found: dict[Key, float] = {}
    for criterion in sorted(set(ratings["criterion"])):
        rated = ratings[ratings["criterion"] == criterion]
        scored = judgements[judgements["criterion"] == criterion]
        matrix = rated.pivot(index=ITEM, columns="rater_id", values="score")
        for statistic, value in among_raters(matrix):
            found[criterion, "", "", "", "raters", statistic] = value
        known = attributes(rated, scored, [cluster, *by])
        for judge, own in scored.groupby("judge"):
            table = side_by_side(matrix, own.groupby(ITEM)["score"].mean(), known)
            off = ((own["score"] < scale[0]) | (own["score"] > scale[1])).mean() > 0.5
            for level, by_, group, statistic, value in of_judge(table, matrix, scale, cluster, by, epsilon, models):
                if not off or statistic not in (*ICC, "bias", "mae", "weighted_kappa", *ALT):
                    found[criterion, str(judge), by_, group, level, statistic] = value
    return {key: float(value) for key, value in found.items() if np.isfinite(value)}


def attributes(rated: pd.DataFrame, scored: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    wanted = [*ITEM, *(n for n in names if n not in ITEM)]
    both = pd.concat([t.reindex(columns=wanted) for t in (rated, scored)])
    return both.groupby(ITEM).first()


def side_by_side(matrix: pd.DataFrame, judge: pd.Series, known: pd.DataFrame) -> pd.DataFrame:
    """judge, mean and median of the raters of every item that either scored."""
    mean, median = matrix.mean(axis=1), matrix.apply(lower_median, axis=1)
    table = pd.concat({"judge": judge, "mean": mean, "median": median}, axis=1)
    return table.join(known).reset_index(names=ITEM).set_index(ITEM, drop=False)


def lower_median(row: pd.Series) -> float:
    values = sorted(row.dropna())
    return values[(len(values) - 1) // 2]


def of_judge(table, matrix, scale, cluster, by, epsilon, models) -> Iterator[tuple[str, str, str, str, float]]:
    both = table.dropna(subset=["judge", "mean"])
    for statistic, value in (*order(both), *level_of(both, scale), *with_icc(both)):
        yield "pooled", "", "", statistic, value
    yield "pooled", "", "", "ppi_mean", ppi(table)
    there = matrix.loc[both.index].dropna(axis=1, how="all")
    yield "pooled", "", "", "leave_one_out_spearman", leave_one_out(there, both["judge"])
    if there.shape[1] > 1 and np.ptp(both["judge"]):
        yield "pooled", "", "", "leave_one_out_difference", leave_one_out(there, both["judge"]) - leave_one_out(there)
    yield from (("pooled", "", "", s, v) for s, v in alternative_annotator(there, both["judge"], epsilon))
    for name in by:
        for group, part in both.groupby(name):
            yield from (("pooled", name, str(group), s, v) for s, v in (*order(part), *level_of(part, scale)))
    if not models:
        return
    inside: dict[str, list[float]] = {}
    for model, part in both.groupby(both["model"].to_numpy()):
        for statistic, value in (*order(part), *level_of(part, scale)):
            inside.setdefault(statistic, []).append(value)
            yield "within_model", "model", str(model), statistic, value
    for model, part in table.dropna(subset=["judge"]).groupby(table.dropna(subset=["judge"])["model"].to_numpy()):
        yield "within_model", "model", str(model), "ppi_mean", ppi(part)
    yield from (("within_model", "model", "mean", s, mean_of_known(v)) for s, v in inside.items())
    clusters: dict[str, list[float]] = {}
    for _, part in both.groupby(both[cluster].to_numpy()):
        for statistic, value in order(part):
            clusters.setdefault(statistic, []).append(value)
    yield from (("within_cluster", cluster, "mean", s, mean_of_known(v)) for s, v in clusters.items())
    means = both.groupby(both["model"].to_numpy())[["judge", "mean"]].mean()
    for statistic, value in order(means):
        yield "system", "", "", statistic, value
    yield "system", "", "", "bias", (means["judge"] - means["mean"]).mean()
    yield "system", "", "", "mae", (means["judge"] - means["mean"]).abs().mean()


def mean_of_known(values: list[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else np.nan


def correlation(how: Callable, x: np.ndarray, y: np.ndarray) -> float:
    x, y = np.asarray(x, float), np.asarray(y, float)
    return how(x, y).statistic if len(x) > 2 and np.ptp(x) > 1e-9 and np.ptp(y) > 1e-9 else np.nan


def order(table: pd.DataFrame) -> Iterator[tuple[str, float]]:
    for name, how in CORRELATIONS.items():
        yield name, correlation(how, table["judge"], table["mean"])
    pairs = list(combinations(zip(table["judge"], table["mean"], strict=True), 2))
    yield "pairwise_accuracy", np.mean([sign(a[0] - b[0]) == sign(a[1] - b[1]) for a, b in pairs]) if pairs else np.nan


def sign(value: float) -> int:
    return 0 if abs(value) < 1e-9 else 1 if value > 0 else -1


def level_of(table: pd.DataFrame, scale: tuple[int, int]) -> Iterator[tuple[str, float]]:
    yield "bias", (table["judge"] - table["mean"]).mean()
    yield "mae", (table["judge"] - table["mean"]).abs().mean()
    judge, median = table["judge"], table["median"]
    whole = len(table) and (judge % 1 == 0).all() and (median % 1 == 0).all()
    points = range(int(scale[0]), int(scale[1]) + 1)
    defined = whole and len(table) > 0 and np.ptp(judge) > 0 and np.ptp(median) > 0
    if defined:
        yield "weighted_kappa", cohen_kappa_score(judge.astype(int), median.astype(int), labels=points, weights="quadratic")


def pingouins(matrix: pd.DataFrame) -> dict[str, float]:
    long = matrix.reset_index(drop=True).melt(ignore_index=False, var_name="who", value_name="score").reset_index(names="item")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pingouin.intraclass_corr(long, "item", "who", "score").set_index("Type")["ICC"].to_dict()


def with_icc(table: pd.DataFrame) -> Iterator[tuple[str, float]]:
    """The judge as a second rater beside the people's mean."""
    if len(table) > 2 and np.ptp(table["judge"]) > 0 and np.ptp(table["mean"]) > 1e-9:
        found = pingouins(table[["judge", "mean"]]) if len(table) >= 5 else {}  # pingouin wants five
        yield from ((ours, found[theirs]) for ours, theirs in ICC.items() if found)


def one_way(matrix: pd.DataFrame) -> float:
    """ICC(1) of unequal numbers of raters: one-way analysis of variance (Searle, Casella & McCulloch 1992, 3.6)."""
    values = [row[np.isfinite(row)] for row in matrix.to_numpy(float)]
    n = np.array([len(v) for v in values])
    grand = np.concatenate(values).mean()
    between = sum(len(v) * (v.mean() - grand) ** 2 for v in values) / (len(values) - 1)
    within = sum(((v - v.mean()) ** 2).sum() for v in values) / (n.sum() - len(values))
    n0 = (n.sum() - (n**2).sum() / n.sum()) / (len(values) - 1)
    return (between - within) / (between + (n0 - 1) * within)


def among_raters(matrix: pd.DataFrame) -> Iterator[tuple[str, float]]:
    values = matrix.to_numpy(float)
    paired = np.isfinite(values).sum(1) > 1
    if matrix.shape[1] < 2 or paired.sum() < 2 or np.nanmax(values) == np.nanmin(values):
        return
    for level in ("nominal", "ordinal", "interval"):
        known = values[paired]
        if np.nanmax(known) > np.nanmin(known):
            yield f"krippendorff_{level}", krippendorff.alpha(values.T, level_of_measurement=level)
    if np.isfinite(values).all() and len(values) >= 5:
        found = pingouins(matrix)
        yield from ((ours, found[theirs]) for ours, theirs in ICC.items())
    else:
        yield "icc_1", one_way(matrix)
    yield "leave_one_out_spearman", leave_one_out(matrix)


def leave_one_out(matrix: pd.DataFrame, judge: pd.Series | None = None) -> float:
    """Mean over raters of the Spearman correlation of the rater, or of the judge, with the mean of the other raters."""
    found = []
    for rater in matrix:
        others = matrix.drop(columns=rater).mean(axis=1)
        keep = matrix[rater].notna() & others.notna()
        one = judge if judge is not None else matrix[rater]
        found.append(correlation(scipy.stats.spearmanr, one[keep], others[keep].round(9)))
    return mean_of_known(found)


def alternative_annotator(matrix: pd.DataFrame, judge: pd.Series, epsilon: float) -> Iterator[tuple[str, float]]:
    """Calderon, Reichart & Dror (2025): each rater and the judge by their distance (RMSE) from the other raters."""
    tests, rates = [], []
    for rater in matrix:
        judge_won, rater_won = [], []
        for item in matrix.index[matrix[rater].notna()]:
            others = matrix.loc[item].drop(rater).dropna().to_numpy()
            if len(others):
                far = [np.sqrt(np.mean((v - others) ** 2)) for v in (judge[item], matrix.loc[item, rater])]
                judge_won.append(far[0] <= far[1] + 1e-12)
                rater_won.append(far[1] <= far[0] + 1e-12)
        if len(judge_won) >= 30:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # no spread: the p-value is 0 or 1
                loss = np.array(rater_won, float) - np.array(judge_won, float)
                tests.append(scipy.stats.ttest_1samp(loss, epsilon, alternative="less").pvalue)
            rates.append(np.mean(judge_won))
    if tests:
        yield ALT[0], multipletests(np.nan_to_num(tests, nan=1.0), 0.05, "fdr_by")[0].mean()
        yield ALT[1], np.mean(rates)


def ppi(table: pd.DataFrame) -> float:
    """PPI++ (Angelopoulos et al. 2023) of a mean, tuned, the weight clipped to [0, 1]."""
    judged = table.dropna(subset=["judge"])
    rated = judged["mean"].notna()
    y, f, g = judged["mean"][rated].to_numpy(), judged["judge"][rated].to_numpy(), judged["judge"][~rated].to_numpy()
    if len(y) < 3 or not len(g):
        return np.nan
    spread = np.var(np.concatenate([f, g]), ddof=1)
    covariance = np.mean((y - y.mean()) * (f - f.mean()))
    weight = np.clip(covariance / ((1 + len(y) / len(g)) * spread), 0, 1) if spread > 1e-12 else 0
    return y.mean() + weight * (g.mean() - f.mean())

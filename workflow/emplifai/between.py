"""How far the judges agree with each other, and how many independent ones they amount to, before people are asked."""

from collections import defaultdict
from itertools import combinations

import numpy as np

from emplifai.params import Params
from emplifai.paths import Paths
from emplifai.records import Dialogue, Judgement, read_jsonl
from emplifai.statistics.bootstrap import Measure, combine, interval, replicate


def metrics(params: Params, paths: Paths) -> dict[str, float | int | None]:
    """Flat numbers by criterion that two or more judges scored, alpha and the last two also with _low and _high.

    CRITERION.judges, .replies (scored by two or more); .alpha: Krippendorff's alpha of the LLM judges' scores, interval
    distance (a proxy's scale is a rank, so it is left out); .correlation: mean of Pearson's r over the pairs of judges;
    .independent: as many independent judges would average out as much, k / (1 + (k - 1) r), the design effect of Kish
    (1965). What judges share because it is true counts as dependence here: the number is a lower bound.
    """
    situations = {d.dialogue_id: d.situation_id for d in read_jsonl(paths.part("test"), Dialogue)}
    found: dict[str, float | int | None] = {}
    for criterion in params.judge.criteria:
        judges, ratings, clusters = _table(criterion, situations, params, paths)
        if len(judges) > 1:
            language = [k for k, judge in enumerate(judges) if params.judges[judge].backend != "likelihood"]
            rows = numbers(ratings, language, clusters, params)
            found |= {f"{criterion}.{key}": value for key, value in rows.items()}
    return found


def _table(criterion: str, situations: dict[str, str], params: Params, paths: Paths) -> tuple[list[str], np.ndarray, list[str]]:
    """Judges that scored a criterion; scores (replies, judges), means over samples, NaN where there is none; situations."""
    scores: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for judge in params.judges:
        for model in params.models:
            for row in read_jsonl(paths.judgements(judge, model), Judgement):
                if row.criterion == criterion and row.score is not None:
                    scores[row.dialogue_id, model][judge].append(row.score)
    judges = [judge for judge in params.judges if any(judge in row for row in scores.values())]
    replies = sorted(key for key, row in scores.items() if len(row) > 1)
    rows = [[np.mean(scores[key].get(judge, [np.nan])) for judge in judges] for key in replies]
    return judges if replies else [], np.array(rows), [situations[dialogue] for dialogue, _ in replies]


def numbers(ratings: np.ndarray, language: list[int], clusters: list[str], params: Params) -> dict[str, float | int | None]:
    """ratings: (replies, judges), NaN where missing; language: columns of LLM judges; clusters: a name a reply."""
    from emplifai.statistics import correlation, krippendorff

    pairs = [(a, b, np.isfinite(ratings[:, a] + ratings[:, b])) for a, b in combinations(range(ratings.shape[1]), 2)]
    pairs = [(a, b, both) for a, b, both in pairs if both.sum() > 2]
    found: dict[str, float | int | None] = {"judges": ratings.shape[1], "replies": len(ratings)}
    measures = {"alpha": krippendorff.alpha_interval(ratings[:, language])} if len(language) > 1 else {}
    if pairs:
        rs, parts = [correlation.pearson(ratings[both, a], ratings[both, b]) for a, b, both in pairs], [p[-1] for p in pairs]
        k = ratings.shape[1]
        measures["correlation"] = combine(rs, _mean, parts)
        measures["independent"] = combine(rs, lambda *r: k / (1 + (k - 1) * np.clip(_mean(*r), 0, 1)), parts)
    for key, measure in measures.items():
        found |= _interval(key, measure, clusters, params)
    return found


def _mean(*values: np.ndarray) -> np.ndarray:
    """Undefined where one of them is: a judge that gives one score to all has no correlation."""
    return np.mean(values, axis=0)


def _interval(key: str, measure: Measure, clusters: list[str], params: Params) -> dict[str, float | None]:
    names, index = np.unique(clusters, return_inverse=True)
    estimate, settings = measure.estimate(), params.correlate
    if not np.isfinite(estimate):
        return {key: None, f"{key}_low": None, f"{key}_high": None}
    if len(names) < 2:
        return {key: estimate, f"{key}_low": None, f"{key}_high": None}
    low, high = interval(replicate(measure, index, settings.resamples, settings.seed), settings.confidence, "percentile")
    return {key: estimate, f"{key}_low": low, f"{key}_high": high}

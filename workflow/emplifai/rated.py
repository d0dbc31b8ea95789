"""What a judge's judgements amount to: failures, cost, the contrast set's order, means, and people above systems."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from emplifai.params import Params
from emplifai.records import Comparison, Dialogue, Judgement
from emplifai.statistics.auc import auc_interval
from emplifai.statistics.bootstrap import Interval, mean_interval

EMPTY = "empty reply"  # `raw` of a judgement that was not asked for

Scores = dict[str, list[float]]  # dialogue_id: scores of its samples


def metrics(
    told: Mapping[str, Sequence[Judgement]],
    shown: Sequence[Judgement],
    every: Sequence[Judgement],
    comparisons: Sequence[Comparison],
    test: Sequence[Dialogue],
    params: Params,
) -> dict[str, float | int | None]:
    """Flat numbers. told: judgements by model; shown: those of the contrast set, `model` being its kind; every: all there are.

    Keys: input_tokens, output_tokens, cost_usd; error.KIND; CRITERION.asked|ok|unparsed|refused|error|empty|failed_share;
    contrast.KIND.CRITERION.auc (reference above kind); mean.MODEL.CRITERION; reference_above.MODEL.CRITERION (share of
    dialogues, ties half); the last three each with _low, _high and _n.
    """
    situations = {d.dialogue_id: d.situation_id for d in test}
    resampling = (params.correlate.confidence, params.correlate.resamples, params.correlate.seed)
    numbers: dict[str, float | int | None] = {**_usage([*every, *comparisons]), **_errors([*every, *comparisons])}
    for criterion in sorted({j.criterion for j in every}):
        rows = [*shown, *(j for rows in told.values() for j in rows)]
        numbers |= _failures(criterion, [j for j in rows if j.criterion == criterion])
        kinds = _scores(j for j in shown if j.criterion == criterion)
        reference = kinds.get("reference", {})
        for kind in sorted({j.model for j in shown} - {"reference"}):
            interval = _auc(reference, kinds.get(kind, {}), situations, resampling)
            numbers |= _flat(f"contrast.{kind}.{criterion}.auc", interval)
        for model, rows in told.items():
            scores = _scores(j for j in rows if j.criterion == criterion).get(model, {})
            numbers |= _flat(f"mean.{model}.{criterion}", _mean(_means(scores), situations, resampling))
            if model != "reference":
                numbers |= _flat(f"reference_above.{model}.{criterion}", _above(reference, scores, situations, resampling))
    return numbers


def asked(rows: Iterable[Judgement | Comparison]) -> list[Judgement | Comparison]:
    """One of each question: a text may stand in several rows (a system's reply that is the reference), but is asked once."""
    return list({_question(row): row for row in rows if row.prompt_sha256}.values())


def _question(row: Judgement | Comparison) -> tuple:
    return row.prompt_sha256, row.criterion, getattr(row, "sample", 0), getattr(row, "text_sha256", "")


def _usage(judgements: Sequence[Judgement | Comparison]) -> dict[str, float | int]:
    """Tokens and dollars; an answer that serves several rows was paid for once. Empty for a judge that counts none."""
    paid = {_question(j): j for j in judgements if j.input_tokens is not None}.values()
    if not paid:
        return {}
    return {
        "input_tokens": sum(j.input_tokens or 0 for j in paid),
        "output_tokens": sum(j.output_tokens or 0 for j in paid),
        "cost_usd": round(sum(j.cost_usd or 0 for j in paid), 6),
    }


def _errors(judgements: Sequence[Judgement | Comparison]) -> dict[str, int]:
    """How many answers did not come, by kind: timeout, rate_limit, server, ..."""
    kinds = Counter(j.raw.partition(":")[0] for j in asked(judgements) if j.status == "error")
    return {f"error.{kind}": count for kind, count in sorted(kinds.items())}


def _failures(criterion: str, judgements: Sequence[Judgement]) -> dict[str, float | int | None]:
    rated = asked(judgements)
    counts = Counter(j.status for j in rated)
    share = 1 - counts["ok"] / len(rated) if rated else None
    rows = {"asked": len(rated), **{status: counts[status] for status in ("ok", "unparsed", "refused", "error")}}
    rows |= {"empty": sum(j.raw == EMPTY for j in judgements), "failed_share": share}
    return {f"{criterion}.{key}": value for key, value in rows.items()}


def _scores(judgements: Iterable[Judgement]) -> dict[str, Scores]:
    """Scores by model (or kind) and dialogue; failed judgements are missing."""
    found: dict[str, Scores] = defaultdict(lambda: defaultdict(list))
    for j in judgements:
        if j.score is not None:
            found[j.model][j.dialogue_id].append(j.score)
    return found


def _means(scores: Scores) -> dict[str, float]:
    """One number a dialogue: the mean of its samples."""
    return {dialogue: sum(values) / len(values) for dialogue, values in scores.items()}


def _mean(means: Mapping[str, float], situations: Mapping[str, str], resampling) -> Interval:
    return mean_interval(list(means.values()), [situations[d] for d in means], *resampling)


def _auc(reference: Scores, worse: Scores, situations: Mapping[str, str], resampling) -> Interval:
    """Over the dialogues that have both."""
    good, bad = _means(reference), _means(worse)
    both = [d for d in good if d in bad]
    clusters = [situations[d] for d in both]
    return auc_interval([good[d] for d in both], [bad[d] for d in both], clusters, clusters, *resampling)


def _above(reference: Scores, system: Scores, situations: Mapping[str, str], resampling) -> Interval:
    """Share of dialogues in which the reference scores above the system, ties half."""
    good, other = _means(reference), _means(system)
    wins = {d: 0.5 + 0.5 * ((good[d] > other[d]) - (good[d] < other[d])) for d in good if d in other}
    return _mean(wins, situations, resampling)


def _flat(key: str, interval: Interval) -> dict[str, float | int | None]:
    return {key: interval.estimate, f"{key}_low": interval.low, f"{key}_high": interval.high, f"{key}_n": interval.n}

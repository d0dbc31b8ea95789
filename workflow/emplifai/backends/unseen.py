"""What the likelihood proxy is worth beyond its own contrasts: faults that its head never saw, and PMI without its guard."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from emplifai import contrast, records
from emplifai.backends import likelihood, proxy
from emplifai.params import JudgeModel, Params
from emplifai.paths import Paths
from emplifai.records import Dialogue, Judgement, Question
from emplifai.statistics.auc import auc_interval
from emplifai.statistics.bootstrap import Interval, mean_interval

Resampling = tuple[float, int, int]  # confidence, resamples, seed


def metrics(
    told: Mapping[str, Sequence[Judgement]],
    shown: Sequence[Judgement],
    name: str,
    judge: JudgeModel,
    params: Params,
    paths: Paths,
) -> dict[str, float | int | None]:
    """Flat numbers of a likelihood judge, each with _low, _high and _n.

    told: its judgements by model; shown: those of the contrast set, where `model` "reference" is the human reply.

    contrast.KIND.head_unseen.auc: as `aucs`. reference_above.MODEL.pmi: share of dialogues in which the reference has the
    higher PMI, before the guard against repeating the patient lowers a score; capped.MODEL: share of replies that it lowers.
    """
    test = list(records.read_jsonl(paths.part("test"), Dialogue))
    situations = {d.dialogue_id: d.situation_id for d in test}
    resampling = (params.correlate.confidence, params.correlate.resamples, params.correlate.seed)
    found = {f"contrast.{kind}.head_unseen.auc": v for kind, v in aucs(test, name, judge, params, paths).items()}
    found |= dict(_unguarded(told, shown, situations, resampling))
    tails = ("", "_low", "_high", "_n")
    return {f"{key}{tail}": value for key, interval in found.items() for tail, value in zip(tails, interval, strict=False)}


def aucs(test: Sequence[Dialogue], name: str, judge: JudgeModel, params: Params, paths: Paths) -> dict[str, Interval]:
    """By kind of fault, the AUC of the references above it, by a head fitted on all other kinds. Test situations.

    Reads nothing that the judge stage has not read.
    """
    shown = contrast.questions(contrast.leading(test), test, likelihood.SHOWN)
    texts, fit, *_ = likelihood.read(shown, name, judge, params, paths)
    resampling = (params.correlate.confidence, params.correlate.resamples, params.correlate.seed)
    found = {}
    for kind in sorted({q.model for q in shown} - {"reference"}):
        others = [q for q in fit if q.model != kind]
        if any(q.model != "reference" for q in others):
            found[kind] = _auc(texts, likelihood.fitted(texts, others), shown, kind, resampling)
    return found


def _auc(texts: likelihood.Texts, head: proxy.Head, shown: Sequence[Question], kind: str, resampling: Resampling) -> Interval:
    sides: dict[str, list[tuple[float, str]]] = {"reference": [], kind: []}
    for question in shown:
        features = texts.features(question) if question.model in sides else None
        if features is not None:
            sides[question.model].append((head(features), question.dialogue.situation_id))
    (good, good_clusters), (bad, bad_clusters) = (zip(*side, strict=True) if side else ((), ()) for side in sides.values())
    return auc_interval(good, bad, good_clusters, bad_clusters, *resampling)


def _unguarded(
    told: Mapping[str, Sequence[Judgement]],
    shown: Sequence[Judgement],
    situations: Mapping[str, str],
    resampling: Resampling,
) -> Iterator[tuple[str, Interval]]:
    reference = {d: row["pmi"] for d, row in _raw(j for j in shown if j.model == "reference").items()}
    for model, judgements in told.items():
        rows = _raw(judgements)
        yield f"capped.{model}", _mean({d: float(row["capped"]) for d, row in rows.items()}, situations, resampling)
        pairs = {d: (reference[d], row["pmi"]) for d, row in rows.items() if d in reference}
        wins = {d: 0.5 + 0.5 * ((a > b) - (a < b)) for d, (a, b) in pairs.items()}
        yield f"reference_above.{model}.pmi", _mean(wins, situations, resampling)


def _raw(judgements: Iterable[Judgement]) -> dict[str, dict[str, Any]]:
    """What PMI measured, by dialogue."""
    return {j.dialogue_id: json.loads(j.raw) for j in judgements if j.criterion == "emotion_empathy" and j.status == "ok"}


def _mean(values: Mapping[str, float], situations: Mapping[str, str], resampling: Resampling) -> Interval:
    return mean_interval(list(values.values()), [situations[d] for d in values], *resampling)

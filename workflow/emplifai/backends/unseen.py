"""How well the proxy's head tells a fault that it was never shown: what its contrast AUC is worth on faults to come."""

from collections.abc import Sequence

from emplifai import contrast, records
from emplifai.backends import likelihood, proxy
from emplifai.params import JudgeModel, Params
from emplifai.paths import Paths
from emplifai.records import Dialogue, Question
from emplifai.statistics.auc import auc_interval
from emplifai.statistics.bootstrap import Interval


def aucs(name: str, judge: JudgeModel, params: Params, paths: Paths) -> dict[str, Interval]:
    """By kind of fault, the AUC of the references above it, by a head fitted on all other kinds. Test situations.

    Kinds that the head is never shown (garbled) are there too. Reads nothing that the judge stage has not read.
    """
    test = list(records.read_jsonl(paths.part("test"), Dialogue))
    shown = contrast.questions(contrast.leading(test), test, likelihood.SHOWN)
    texts, fit, _ = likelihood.read(shown, name, judge, params, paths)
    resampling = (params.correlate.confidence, params.correlate.resamples, params.correlate.seed)
    kinds = [kind for kind in dict.fromkeys(q.model for q in shown) if kind != "reference"]
    found = {}
    for kind in kinds:
        others = [q for q in fit if q.model != kind]
        if any(q.model != "reference" for q in others):
            found[kind] = _auc(texts, likelihood.fitted(texts, others), shown, kind, resampling)
    return found


def _auc(texts: likelihood.Texts, head: proxy.Head, shown: Sequence[Question], kind: str, resampling) -> Interval:
    sides: dict[str, list[tuple[float, str]]] = {"reference": [], kind: []}
    for question in shown:
        features = texts.features(question)
        if question.model in sides and features is not None:
            sides[question.model].append((head(features), question.dialogue.situation_id))
    (good, good_clusters), (bad, bad_clusters) = (zip(*side, strict=True) if side else ((), ()) for side in sides.values())
    return auc_interval(good, bad, good_clusters, bad_clusters, *resampling)

"""Is a judge any good, before people are asked? Its answers to probes of which the right order is known.

Columns of audit.csv: probe, base, criterion, wanted, n, auc and difference (base minus probe; with intervals over
situations), raised (share of probes that score above their base by more than the judge's own noise), length_auc,
surface_auc, surface_unseen_auc (what the reply's length, and its character n-grams, tell without reading the dialogue;
the last learnt from the other kinds only), passed (empty where nothing is wanted). wanted: lower (surely below its base),
not_higher (never raised), same (no sure difference), any.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from emplifai import contrast, labels, probes, records
from emplifai.errors import UserError
from emplifai.params import Params
from emplifai.paths import Paths
from emplifai.probes import Probe
from emplifai.records import Dialogue, Judgement, sha256
from emplifai.statistics.auc import auc_interval
from emplifai.statistics.bootstrap import mean_interval

COLUMNS = (
    "probe", "base", "criterion", "wanted", "n", "auc", "auc_low", "auc_high", "difference", "difference_low", "difference_high",
    "raised", "length_auc", "surface_auc", "surface_unseen_auc", "passed",
)  # fmt: skip

Scores = dict[tuple[str, str, str], list[float]]  # (dialogue, probe, criterion): scores of its samples


def run(params: Params, paths: Paths, name: str, answer: Any) -> None:
    """Write audit.csv, audit.jsonl (the judgements) and metrics.json to paths.audit(name, ...).

    answer: the backend's function. Raises UserError, after writing, when a limit of `judge.audit` is not kept.
    """
    judge, folder = params.judges[name], paths.audit(name)
    test = list(records.read_jsonl(paths.part("test"), Dialogue))
    rows = probes.probes(test, labels.load(params.data.labels))
    asked = [row.question for row in rows if row.question.text.strip()]
    judgements = sorted(answer(asked, name, judge, params, paths), key=_place)
    surface = Surface(list(records.read_jsonl(paths.part("train"), Dialogue)))
    table = list(compare(rows, judgements, surface, params))
    records.write_jsonl(folder / "audit.jsonl", judgements)
    records.write_csv(folder / "audit.csv", table, COLUMNS)
    numbers = summary(table, judgements)
    records.write_json(folder / "metrics.json", numbers)
    print(f"{folder / 'audit.csv'}: {_sentence(numbers)}")
    _limits(numbers, name, params)


def _place(judgement: Judgement) -> tuple:
    return judgement.dialogue_id, judgement.model, judgement.criterion, judgement.sample


def compare(rows: Sequence[Probe], judgements: Iterable[Judgement], surface: "Surface", params: Params) -> Iterable[dict]:
    """A row of the table for each probe and criterion. Probes whose base or own judgement failed are left out."""
    scores: Scores = defaultdict(list)
    for j in judgements:
        if j.score is not None:
            scores[j.dialogue_id, j.model, j.criterion].append(j.score)
    noise = retest_noise(scores)
    texts = {(row.question.dialogue.dialogue_id, row.name): row.question.text for row in rows}
    criteria = sorted({criterion for _, _, criterion in scores}, key=records.CRITERIA.index)
    groups: dict[str, list[Probe]] = defaultdict(list)
    for row in rows:
        if row.name != "reference":
            groups[row.name].append(row)
    for name, group in groups.items():
        for criterion in criteria:
            yield _compared(name, criterion, group, scores, texts, noise.get(criterion, 0.0), surface, params)


def _compared(name, criterion, group: list[Probe], scores: Scores, texts, noise: float, surface, params: Params) -> dict:
    first, resampling = group[0], (params.correlate.confidence, params.correlate.resamples, params.correlate.seed)
    found = [(r, r.question.dialogue) for r in group]
    found = [(r, d) for r, d in found if scores.get((d.dialogue_id, r.base, criterion))]
    found = [(r, d) for r, d in found if scores.get((d.dialogue_id, name, criterion))]
    base = np.array([np.mean(scores[d.dialogue_id, r.base, criterion]) for r, d in found])
    probe = np.array([np.mean(scores[d.dialogue_id, name, criterion]) for _, d in found])
    clusters = [d.situation_id for _, d in found]
    pairs = [(texts[d.dialogue_id, r.base], r.question.text) for r, d in found]
    auc = auc_interval(base, probe, clusters, clusters, *resampling)
    change = mean_interval(base - probe, clusters, *resampling)
    row = {
        "probe": name, "base": first.base, "criterion": criterion, "wanted": first.wanted.get(criterion, "any"), "n": len(found),
        "auc": auc.estimate, "auc_low": auc.low, "auc_high": auc.high,
        "difference": change.estimate, "difference_low": change.low, "difference_high": change.high,
        "raised": float(np.mean(probe > base + noise)) if found else None,
        **(surface.aucs(name, pairs) if name.startswith("contrast:") else {}),
    }  # fmt: skip
    return row | {"passed": _passed(row)}


def _passed(row: dict) -> bool | None:
    """Whether the judge does what is wanted. None where nothing is, or where no score is there."""
    if not row["n"] or row["wanted"] == "any":
        return None
    if row["wanted"] == "lower":
        return row["difference_low"] is not None and row["difference_low"] > 0
    if row["wanted"] == "not_higher":
        return row["raised"] == 0
    return row["difference_low"] is None or row["difference_low"] <= 0 <= row["difference_high"]


def retest_noise(scores: Scores) -> dict[str, float]:
    """By criterion, what 95% of two answers of the judge to one question differ by at most; 0 for a single sample."""
    gaps: dict[str, list[float]] = defaultdict(list)
    for (_, _, criterion), values in scores.items():
        gaps[criterion] += [abs(a - b) for k, a in enumerate(values) for b in values[:k]]
    return {criterion: float(np.quantile(values, 0.95)) for criterion, values in gaps.items() if values}


def summary(table: Sequence[dict], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Flat numbers: contrast AUC (least of the kinds) and leak rate by criterion, failures, share of probes passed."""
    numbers: dict[str, Any] = {
        "judgements": len(judgements),
        "failed_share": sum(j.status != "ok" for j in judgements) / max(1, len(judgements)),
    }
    decided = [row for row in table if row["passed"] is not None]
    numbers["passed_share"] = sum(row["passed"] for row in decided) / len(decided) if decided else None
    for criterion in sorted({row["criterion"] for row in table}):
        mine = [row for row in table if row["criterion"] == criterion and row["n"]]
        kinds = {row["probe"]: row["auc"] for row in mine if row["probe"].startswith("contrast:")}
        wanted = [row["auc"] for row in mine if row["probe"] in kinds and row["wanted"] == "lower"]
        numbers[f"{criterion}.least_contrast_auc"] = min(wanted, default=None)
        numbers |= {f"{criterion}.{kind}.auc": auc for kind, auc in kinds.items()}
        attacked = [row for row in mine if row["probe"].startswith("attack:")]
        total = sum(row["n"] for row in attacked)
        numbers[f"{criterion}.leak_rate"] = sum(row["raised"] * row["n"] for row in attacked) / total if total else None
    return numbers


def _sentence(numbers: dict[str, Any]) -> str:
    share, leaks = numbers["passed_share"], [v for k, v in numbers.items() if k.endswith(".leak_rate") and v is not None]
    if share is None:
        return "no probe was scored"
    return f"{share:.0%} of the probes passed; attacks raised the score in at most {max(leaks, default=0):.0%} of the cases"


def _limits(numbers: dict[str, Any], name: str, params: Params) -> None:
    limits, faults = params.judge.audit, []
    for key, value in numbers.items():
        if limits.min_contrast_auc is not None and key.endswith(".least_contrast_auc") and (value or 0) < limits.min_contrast_auc:
            faults.append(f"judge {name}: {key} is {value}, below judge.audit.min_contrast_auc = {limits.min_contrast_auc:g}")
        if limits.max_leak_rate is not None and key.endswith(".leak_rate") and (value is None or value > limits.max_leak_rate):
            faults.append(f"judge {name}: {key} is {value}, above judge.audit.max_leak_rate = {limits.max_leak_rate:g}")
    if faults:
        raise UserError(*faults)


class Surface:
    """What length and character n-grams of the reply alone tell: a judge that is no better has not read the dialogue."""

    def __init__(self, train: Sequence[Dialogue]):
        leaders = contrast.leading(train)
        self._texts: dict[str, list[str]] = defaultdict(list)
        for question in contrast.questions(leaders, train, probes.KINDS):
            self._texts[question.model].append(question.text)

    def aucs(self, name: str, pairs: Sequence[tuple[str, str]]) -> dict[str, float | None]:
        """pairs: (reference, worse text) of the test dialogues; name: contrast:KIND."""
        kind = name.removeprefix("contrast:")
        worse = [k for k in self._texts if k != "reference"]
        return {
            "length_auc": _auc([(len(good), len(bad)) for good, bad in pairs]),
            "surface_auc": self._learnt([k for k in worse if k == kind], pairs),
            "surface_unseen_auc": self._learnt([k for k in worse if k != kind], pairs),
        }

    def _learnt(self, kinds: Sequence[str], pairs: Sequence[tuple[str, str]]) -> float | None:
        good, bad = self._texts.get("reference", []), [text for kind in kinds for text in self._texts[kind]]
        if not good or not bad or not pairs:
            return None
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
        model = make_pipeline(vectors, LogisticRegression(C=30, max_iter=1000, class_weight="balanced", random_state=0))
        order = sorted([(text, 1) for text in good] + [(text, 0) for text in bad], key=lambda row: sha256(f"{row[1]}{row[0]}"))
        model.fit([text for text, _ in order], [label for _, label in order])
        scores = model.decision_function([text for pair in pairs for text in pair]).reshape(-1, 2)
        return _auc([(a, b) for a, b in scores])


def _auc(pairs: Sequence[tuple[float, float]]) -> float | None:
    ones = [""] * len(pairs)
    return auc_interval([a for a, _ in pairs], [b for _, b in pairs], ones, ones).estimate

"""The numbers of the report, computed from the files of a run, with intervals over situations."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emplifai.evidence import Evidence
from emplifai.records import Dialogue
from emplifai.statistics.bootstrap import Interval, Measure, interval, mean_interval, replicate

NONE = Interval(None, None, None, 0, 0)


def over_dialogues(run: Evidence, values: dict[str, float]) -> Interval:
    """Mean of one value a test dialogue, whole situations resampled."""
    settings, test = run.params.correlate, run.test
    known = sorted(values)
    clusters = [test[i].situation_id for i in known]
    return mean_interval([values[i] for i in known], clusters, settings.confidence, settings.resamples, settings.seed)


def difference(run: Evidence, a: dict[str, float], b: dict[str, float]) -> Interval:
    """Mean of a - b over the dialogues that have both (paired)."""
    return over_dialogues(run, {i: a[i] - b[i] for i in a.keys() & b.keys()})


def headline(run: Evidence) -> dict[str, float]:
    """The few numbers that runs are compared by: tuned models and their bases, the highest anchor, what a judge is good for."""
    pairs = {tuned: run.base_of(tuned) for tuned in run.params.tuned}
    found: dict[str, float | None] = {}
    for model in dict.fromkeys(m for pair in pairs.items() for m in pair if m):
        found[f"{model}.held_out_loss"] = loss(run, model).estimate
        found[f"{model}.emotion_accuracy"] = measured(run, f"{model}.emotion.accuracy").estimate
        found[f"{model}.bertscore_f1"] = measured(run, f"{model}.reply.f1").estimate
    if parrot := run.backend("parrot"):
        found[f"{parrot}.bertscore_f1"] = measured(run, f"{parrot}.reply.f1").estimate
    for judge in run.params.judges:
        if rows := validity(run, judge):
            found[f"{judge}.valid_criteria"] = len(criteria(run, judge)) - len(invalid(rows))
    return {name: round(value, 4) for name, value in found.items() if value is not None}


# Held-out loss


def held_out(run: Evidence, model: str) -> dict[str, tuple[float, int]]:
    """Negative log-probability of each reference reply (nats) and its tokens."""
    return {i: (row["nats"], row["tokens"]) for i, row in run.likelihoods[model].items() if row.get("tokens")}


def loss(run: Evidence, model: str, base: str | None = None) -> Interval:
    """Nats a token over all references; with `base`, the paired difference model - base."""
    mine = held_out(run, model)
    theirs = held_out(run, base) if base else dict.fromkeys(mine, (0.0, 0))
    shared = sorted(mine.keys() & theirs.keys() & run.test.keys())
    if not shared:
        return NONE
    sums = np.array([[*mine[i], *theirs[i]] for i in shared], float)
    names, cluster = np.unique([run.test[i].situation_id for i in shared], return_inverse=True)
    measure = Measure(sums, lambda s: s[:, 0] / s[:, 1] - (s[:, 2] / s[:, 3] if base else 0))
    return _resampled(run, measure, cluster, len(shared), len(names))


def _resampled(run: Evidence, measure: Measure, cluster: np.ndarray, n: int, clusters: int) -> Interval:
    settings = run.params.correlate
    if clusters < 2:
        return Interval(measure.estimate(), None, None, n, clusters)
    drawn = replicate(measure, cluster, settings.resamples, settings.seed)
    return Interval(drawn.estimate, *interval(drawn, settings.confidence, "percentile"), n, clusters)


def situations_improved(run: Evidence, model: str, base: str) -> tuple[int, int]:
    """Situations whose references became more probable a token, and all of them."""
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(4))
    mine, theirs = held_out(run, model), held_out(run, base)
    for i in mine.keys() & theirs.keys() & run.test.keys():
        sums[run.test[i].situation_id] += [*mine[i], *theirs[i]]
    return sum(s[0] / s[1] < s[2] / s[3] for s in sums.values()), len(sums)


# Emotion


def hits(run: Evidence, model: str) -> dict[str, float]:
    """1 where the predicted emotion is the dialogue's, else 0."""
    return {i: float(r.label == run.test[i].emotion) for i, r in run.emotions[model].items() if i in run.test}


def accuracy_null(run: Evidence, model: str) -> float | None:
    """Accuracy of the same predictions, on the mean over all permutations of the true labels: what favourite labels give."""
    pairs = [(run.test[i].emotion, r.label) for i, r in run.emotions[model].items() if i in run.test]
    true, said = (Counter(side) for side in zip(*pairs, strict=True)) if pairs else (Counter(), Counter())
    return sum(true[name] * said[name] for name in true) / len(pairs) ** 2 if pairs else None


def confusion(run: Evidence, model: str) -> tuple[list[str], np.ndarray]:
    """Labels, and counts of dialogues: rows the true emotion, columns the predicted one, the last `none`."""
    names = [n for n in run.labels if any(d.emotion == n for d in run.test.values())]
    counts = np.zeros((len(names), len(names) + 1), int)
    for i, reply in run.emotions[model].items():
        if i in run.test:
            column = names.index(reply.label) if reply.label in names else len(names)
            counts[names.index(run.test[i].emotion), column] += 1
    return names, counts


# BERTScore


def f1(run: Evidence, model: str, task: str = "reply") -> dict[str, float]:
    """BERTScore F1 by dialogue, the mean over samples; undefined ones left out."""
    return _means((s.dialogue_id, s.f1) for s in run.scores[task].get(model, []) if s.dialogue_id in run.test)


def measured(run: Evidence, key: str, stage: str = "bertscore") -> Interval:
    """A number of a stage's metrics.json with the interval that stands beside it as KEY_low and KEY_high."""
    metrics = run.metrics[stage]
    return Interval(metrics.get(key), metrics.get(f"{key}_low"), metrics.get(f"{key}_high"), 0, 0)


def ranked(run: Evidence) -> list[tuple[str, float]]:
    """Systems with their mean F1 of replies, the highest first; the reference, compared with itself, is left out."""
    means = {m: run.metrics["bertscore"].get(f"{m}.reply.f1") for m in run.params.models if m != run.backend("reference")}
    return sorted(((m, v) for m, v in means.items() if v is not None), key=lambda pair: -pair[1])


# Judges


def judged(run: Evidence, judge: str, model: str, criterion: str) -> dict[str, float]:
    """Score by dialogue, the mean over samples; failed judgements left out."""
    rows = run.judgements[judge].get(model, [])
    return _means((j.dialogue_id, j.score) for j in rows if j.criterion == criterion and j.dialogue_id in run.test)


def mean_of(run: Evidence, scores: dict[str, float], emotion: str) -> float:
    """Mean over the dialogues of one emotion; NaN where there is none."""
    values = [v for i, v in scores.items() if run.test[i].emotion == emotion]
    return float(np.mean(values)) if values else float("nan")


def failures(run: Evidence, judge: str) -> Counter:
    """Judgements by status."""
    return Counter(j.status for rows in run.judgements[judge].values() for j in rows)


@dataclass
class Validity:
    """How a judge places a system beside the human reference on one criterion."""

    criterion: str
    model: str
    reference_higher: float  # share of dialogues, ties as one half
    difference: Interval  # system - reference
    unguarded: float | None = None  # as reference_higher, before a proxy's guard against repeated words lowered any score

    @property
    def above_reference(self) -> bool:
        """A guard that caps many replies of a system hides what the measure makes of it: it must do without, too."""
        return (self.difference.estimate or 0) > 0 or (self.unguarded is not None and self.unguarded < 0.5)


def validity(run: Evidence, judge: str) -> list[Validity]:
    """The reference against each system that writes; empty where no reference is judged."""
    reference = run.backend("reference")
    found = []
    for criterion in criteria(run, judge):
        people = judged(run, judge, reference, criterion) if reference else {}
        for model in run.params.models:
            scores = judged(run, judge, model, criterion)
            shared = sorted(scores.keys() & people.keys())
            if model == reference or not shared:
                continue
            higher = np.mean([(people[i] > scores[i]) + (people[i] == scores[i]) / 2 for i in shared])
            row = Validity(criterion, model, float(higher), difference(run, scores, people))
            found.append(replace(row, unguarded=unguarded(run, judge, model, criterion)))
    return found


def unguarded(run: Evidence, judge: str, model: str, criterion: str) -> float | None:
    """Share of dialogues in which the reference has the higher PMI. Parrots are what the guard is for, and have none."""
    if criterion != "emotion_empathy" or run.params.models[model].backend == "parrot":
        return None
    return run.metrics["judge"].get(f"{judge}.reference_above.{model}.pmi")


def invalid(rows: Iterable[Validity]) -> dict[str, list[str]]:
    """By criterion, the systems that a judge puts above the human reference."""
    out: dict[str, list[str]] = {}
    for row in rows:
        if row.above_reference:
            out.setdefault(row.criterion, []).append(row.model)
    return out


def criteria(run: Evidence, judge: str) -> list[str]:
    present = {j.criterion for rows in run.judgements[judge].values() for j in rows}
    return [c for c in run.params.judge.criteria if c in present] + sorted(present - set(run.params.judge.criteria))


def is_proxy(run: Evidence, judge: str) -> bool:
    return run.params.judges[judge].backend == "likelihood"


# Samples


def in_hash_order(dialogues: Iterable[Dialogue], seed: Any = "report") -> list[Dialogue]:
    """An order that nobody chose: by the digest of the id."""
    from emplifai.records import sha256

    return sorted(dialogues, key=lambda d: sha256(f"{seed} {d.dialogue_id}"))


def human_means(run: Evidence) -> dict[tuple[str, str], list[tuple[str, float]]]:
    """What the raters gave: criterion and mean, by dialogue and system."""
    found: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for row in run.items:
        if row.get("human_mean"):
            found[row["dialogue_id"], row["model"]].append((row["criterion"], float(row["human_mean"])))
    return found


def disagreement(run: Evidence) -> Callable[[str], float]:
    """Widest gap between a judge's score and the mean of the raters over a dialogue's replies; 0 where nobody rated it."""
    gaps: dict[str, float] = defaultdict(float)
    for row in run.items:
        scores = [float(row[f"judge_{j}"]) for j in run.params.judges if row.get(f"judge_{j}")]
        if row.get("human_mean") and scores:
            gap = max(abs(float(row["human_mean"]) - score) for score in scores)
            gaps[row["dialogue_id"]] = max(gaps[row["dialogue_id"]], gap)
    return lambda dialogue_id: gaps.get(dialogue_id, 0.0)


def _means(pairs: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for key, value in pairs:
        if value is not None:
            found[key].append(value)
    return {key: sum(values) / len(values) for key, values in found.items()}

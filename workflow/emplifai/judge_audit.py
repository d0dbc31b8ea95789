"""Is a judge any good, before people are asked? Its answers to probes of which the right order is known.

Columns of audit.csv: probe, base, criterion, wanted, n, auc and difference (base minus probe; with intervals over
situations), raised (share of probes that score above their base by more than the judge's own noise), length_auc,
surface_auc, surface_unseen_auc (what the reply's length, and its character n-grams, tell without reading the dialogue;
the last learnt from the other kinds only), passed (empty where nothing is wanted). wanted: lower (surely below its base),
not_higher (never raised), same (no sure difference), any.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emplifai import contrast, records
from emplifai import probes as made
from emplifai.baselines import Surface
from emplifai.errors import UserError
from emplifai.params import Params
from emplifai.probes import Probe
from emplifai.prompt import talk_of
from emplifai.records import Dialogue, Judgement
from emplifai.statistics.auc import auc_interval
from emplifai.statistics.bootstrap import mean_interval
from emplifai.statistics.icc import icc

COLUMNS = (
    "probe", "base", "criterion", "wanted", "n", "auc", "auc_low", "auc_high", "difference", "difference_low", "difference_high",
    "raised", "length_auc", "surface_auc", "surface_unseen_auc", "passed",
)  # fmt: skip

Scores = dict[tuple[str, str, str], list[float]]  # (dialogue, probe, criterion): scores of its samples


class Audit(NamedTuple):
    """Rows of the table, flat numbers, and the judgements that they rest on (`model` is the probe)."""

    table: list[dict]
    numbers: dict[str, Any]
    judgements: list[Judgement]


def probes(test: Sequence[Dialogue], params: Params, situations: int | None) -> list[Probe]:
    """The probes of so many situations, by hash and as many of each emotion; None: of all."""
    if situations == 0:
        return []
    kept = {d.situation_id for d in contrast.chosen(test, len(test) if situations is None else situations)}
    return [p for p in made.probes(test, talk_of(params.data)) if p.question.dialogue.situation_id in kept]


def audit(rows: Sequence[Probe], found: Any, surface: Surface, params: Params) -> Audit:
    """found: judge.Found, what the judge says of the probes, again after another wording, or refitted."""
    if not rows:
        return Audit([], {}, [])
    judgements = [j for row in rows for j in found.of(row.question)]
    noise = retest_noise(_scores(judgements))
    if found.again:  # proxies of half the size are sqrt(2) times as far apart as whole ones: error goes as 1 / sqrt(n)
        noise = {c: value / math.sqrt(2) for c, value in retest_noise(_scores(found.again)).items()}
    wording = wordings(judgements, found.reworded)
    tolerance = {c: max(noise.get(c, 0.0), wording.get(f"{c}.wording_noise", 0.0)) for c in {j.criterion for j in judgements}}
    table = list(compare(rows, judgements, surface, tolerance, params))
    numbers = summary(table, judgements) | {f"{c}.retest_noise": value for c, value in noise.items()} | wording
    return Audit(table, numbers, judgements)


def write(done: Audit, table: Path) -> None:
    """The table as CSV, and the judgements beside it as JSON lines."""
    records.write_csv(table, done.table, COLUMNS)
    records.write_jsonl(table.with_suffix(".jsonl"), done.judgements)


def _scores(judgements: Iterable[Judgement]) -> Scores:
    scores: Scores = defaultdict(list)
    for j in judgements:
        if j.score is not None:
            scores[j.dialogue_id, j.model, j.criterion].append(j.score)
    return scores


def wordings(judgements: Iterable[Judgement], reworded: Iterable[Judgement]) -> dict[str, float | None]:
    """How far the same texts get the same score after another wording of the rubric, by criterion.

    wording_difference: mean of second minus first; wording_noise: what 95% differ by at most; wording_icc: absolute
    agreement, ICC(A,1), None where nothing varies.
    """
    first, second = _scores(judgements), _scores(reworded)
    numbers: dict[str, float | None] = {}
    for criterion in sorted({key[-1] for key in second}):
        both = [(np.mean(first[key]), np.mean(second[key])) for key in sorted(second) if key[-1] == criterion and key in first]
        if both:
            table = np.array(both)
            apart = table[:, 1] - table[:, 0]
            alike = icc(table, "icc_a1").estimate() if len(table) > 1 else np.nan
            numbers[f"{criterion}.wording_difference"] = float(apart.mean())
            numbers[f"{criterion}.wording_noise"] = float(np.quantile(np.abs(apart), 0.95))
            numbers[f"{criterion}.wording_icc"] = float(alike) if np.isfinite(alike) else None
    return numbers


def compare(
    rows: Sequence[Probe], judgements: Iterable[Judgement], surface: Surface, tolerance: dict[str, float], params: Params
) -> Iterable[dict]:
    """A row of the table for each probe and criterion. Probes whose base or own judgement failed are left out.

    tolerance: by criterion, points that a score may move without being raised.
    """
    scores = _scores(judgements)
    texts = {(row.question.dialogue.dialogue_id, row.name): row.question.text for row in rows}
    criteria = sorted({criterion for _, _, criterion in scores}, key=records.CRITERIA.index)
    groups: dict[str, list[Probe]] = defaultdict(list)
    for row in rows:
        if row.name != "reference":
            groups[row.name].append(row)
    for name, group in groups.items():
        for criterion in criteria:
            yield _compared(name, criterion, group, scores, texts, tolerance.get(criterion, 0.0), surface, params)


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
        **(surface.aucs(name.removeprefix("contrast:"), pairs) if name.startswith("contrast:") else {}),
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
    """Flat numbers: contrast AUC (least of the kinds) and leak rate by criterion, failures, share of probes passed.

    attack_shift: mean points by which the attack that works best raises a score; below 0 where all of them lower it.
    """
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
        numbers[f"{criterion}.attack_shift"] = max((0.0 - row["difference"] for row in attacked), default=None)
        numbers[f"{criterion}.leak_rate"] = sum(row["raised"] * row["n"] for row in attacked) / total if total else None
    return numbers


def least_contrasts(numbers: dict[str, Any]) -> dict[str, float]:
    """By criterion, the AUC of the contrast that is told least well, of those that should be lower.

    numbers: the stage's metrics, whose contrasts are of all situations, not of the audit's few.
    """
    kinds = {key.split(".")[1] for key in numbers if key.startswith("contrast.")}
    found = {}
    for criterion in records.CRITERIA:
        wanted = [kind for kind in kinds if made.WANTED.get(kind, made.FEELING).get(criterion) == "lower"]
        aucs = [numbers.get(f"contrast.{kind}.{criterion}.auc") for kind in wanted]
        if known := [auc for auc in aucs if auc is not None]:
            found[f"{criterion}.least_contrast_auc"] = min(known)
    return found


def sentence(numbers: dict[str, Any]) -> str:
    share, leaks = numbers["passed_share"], [v for k, v in numbers.items() if k.endswith(".leak_rate") and v is not None]
    if share is None:
        return "no probe was scored"
    return f"{share:.0%} of the probes passed; attacks raised the score in at most {max(leaks, default=0):.0%} of the cases"


#: Each limit, what it needs to be measured, and how the numbers that it is about end.
LIMITS = (
    ("min_contrast_auc", "it needs contrasts that should be lower", ".least_contrast_auc"),
    ("max_leak_rate", "it needs judge.audit.situations above 0", ".leak_rate"),
    ("max_wording_noise", "it needs judge.audit.situations above 0 and a judge.audit.second_rubric", ".wording_noise"),
)


def keep_limits(numbers: dict[str, Any], name: str, params: Params) -> None:
    """Raises UserError when a limit of judge.audit is not kept."""
    limits, faults = params.judge.audit, []
    for key, need, ending in LIMITS:
        most = getattr(limits, key)
        measured = {number: value for number, value in numbers.items() if number.endswith(ending)}
        if most is None or (key == "max_wording_noise" and params.judges[name].backend != "openai"):
            continue  # a proxy is asked in no words
        if not measured:
            faults.append(f"judge {name}: judge.audit.{key} is set, but nothing of the kind was measured: {need}")
        for number, value in measured.items():
            if value is None or (value < most if key.startswith("min") else value > most):
                side = "below" if key.startswith("min") else "above"
                faults.append(f"judge {name}: {number} is {value}, {side} judge.audit.{key} = {most:g}")
    if faults:
        raise UserError(*faults, f"judge {name}: `emplifai judge audit --judge {name}` writes a table of where it fails")

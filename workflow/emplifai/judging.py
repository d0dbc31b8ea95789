"""The sections on judges: what they score, whether that may be believed, and how they agree with people."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from emplifai import beside_people, figures, findings, judge_tables
from emplifai.blocks import SIMULATED, Note, emotion_names, heads, judge_name, marks
from emplifai.evidence import Evidence
from emplifai.figures import Figure
from emplifai.statistics.bootstrap import Interval
from emplifai.tables import Table, show


def judges(run: Evidence, folder: Path) -> Iterator[Note | Table | Figure]:
    yield from judge_tables.overview(run)
    for judge in run.params.judges:
        yield from one_judge(run, folder, judge)


def one_judge(run: Evidence, folder: Path, judge: str) -> Iterator[Note | Table | Figure]:
    criteria, rows = findings.criteria(run, judge), findings.validity(run, judge)
    if not criteria:
        return
    title, broken = judge_name(run, judge), findings.invalid(rows)
    if findings.is_proxy(run, judge):
        yield Note(
            f"{title}: a proxy made of one small model's probabilities, not an LLM asked for its opinion. It tells faults such "
            "as mismatched, generic, cold or cut replies; its scale is a rank among known texts, not a rating.",
            "warning",
        )
    for criterion, systems in broken.items():
        yield Note(
            f"{title}: INVALID for comparing systems on {criterion}: it puts {', '.join(systems)} above the human reference.",
            "warning",
        )
    named = list(heads(run, judge).values())
    scores = [
        [m, *(findings.over_dialogues(run, findings.judged(run, judge, m, c)) for c in criteria)] for m in run.params.models
    ]
    low, high = run.params.judge.scale
    caption = f"{title}: mean score by system, {low} to {high}"
    yield Table(f"judge-{judge}", caption, ["system", *named], scores, digits=2, marks=marks(run))
    series = {head: [row[k + 1] for row in scores] for k, head in enumerate(named)}
    alt = f"Mean scores of {title} by system: " + "; ".join(
        f"{row[0]} " + ", ".join(f"{h} {show(v, 2)}" for h, v in zip(named, row[1:], strict=True)) for row in scores
    )
    names = [row[0] for row in scores]
    paint = lambda axes: figures.groups(axes, names, series, f"score ({low} to {high})")  # noqa: E731
    yield figures.draw(folder, f"judge-{judge}", f"Scores of {title}", alt, (7, 1.4 + 0.5 * len(names)), paint)
    yield from by_emotion(run, folder, judge, title)
    yield from judge_tables.pairs(run, judge, title)
    yield from validity_tables(run, judge, title, rows)
    yield from judge_tables.audit(run, judge, title)


def by_emotion(run: Evidence, folder: Path, judge: str, title: str) -> Iterator[Table | Figure]:
    """Mean scores by emotion and system, a panel a criterion, and the same as a long table."""
    emotions = [n for n in run.labels if any(d.emotion == n for d in run.test.values())]
    models, panels = list(run.params.models), {}
    for criterion, head in heads(run, judge).items():
        scores = [findings.judged(run, judge, m, criterion) for m in models]
        panels[head] = np.array([[findings.mean_of(run, s, emotion) for s in scores] for emotion in emotions], float)
    caption = f"{title}: mean score by emotion and system"
    alt = f"{caption}, one panel for each of {', '.join(panels)}; the numbers are in the table below."
    words, size = emotion_names(run, emotions), (2.2 + 2.4 * len(panels), 1.6 + 0.2 * len(emotions))
    paint = lambda axes: figures.heat(axes, panels, words, models, run.params.judge.scale)  # noqa: E731
    yield figures.draw(folder, f"judge-{judge}-emotions", caption, alt, size, paint, len(panels))
    rows = [[e, h, *map(_known, cells[k])] for k, e in enumerate(emotions) for h, cells in panels.items()]
    yield Table(f"judge-{judge}-emotions", caption, ["emotion", "criterion", *models], rows, digits=2, folded=True)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def validity_tables(run: Evidence, judge: str, title: str, rows: list[findings.Validity]) -> Iterator[Note | Table]:
    placed = {True: "above: invalid", False: "below"}
    wide = [[r.criterion, r.model, r.difference.n, r.reference_higher, r.difference, placed[r.above_reference]] for r in rows]
    if wide:
        columns = ["criterion", "system", "dialogues", "reference scored higher (AUC)", "system − reference", "system placed"]
        surface = [findings.measured(run, f"{judge}.reference_above.{r.model}.surface", "judge").estimate for r in rows]
        if any(value is not None for value in surface):
            columns.append("n-grams alone")
            wide = [[*row, value] for row, value in zip(wide, surface, strict=True)]
            yield Note(
                "A valid judge puts the human reply first; that alone proves little. N-grams alone, learnt from the faults of "
                "train replies, put it first so often: a judge that is no better may know a system by its style."
            )
        if any(r.unguarded is not None for r in rows):
            columns.append("AUC without its guard")
            wide = [[*row, r.unguarded] for row, r in zip(wide, rows, strict=True)]
            yield Note(
                "A guard caps the score of replies that repeat more of the patient's words than people do. The last column is "
                "the PMI itself, without it: where the human reply is not the higher one there, the criterion is invalid as well."
            )
        yield Table(f"validity-{judge}", f"{title}: is the human reply above each system?", columns, wide, digits=2)
    contrast = contrast_rows(run, judge)
    if contrast:
        yield Note(
            "The contrast set shows a judge replies of known faults beside the reference: AUC 1 means that it always tells them "
            "apart, 0.5 that it guesses. It says nothing about faults that nobody wrote down. Beside the judge stands what tells "
            "the same faults without reading the dialogue: the reply's length, and its character n-grams, learnt from train "
            "replies of the same kind or of the other kinds only."
        )
        columns = ["the reference against", *findings.criteria(run, judge), *_beside(run, judge).values()]
        yield Table(f"contrast-{judge}", f"{title}: AUC on the contrast set", columns, contrast, digits=2)
    failed = findings.failures(run, judge)
    yield Note(f"{title}: " + ", ".join(f"{n:,} judgements {status}" for status, n in failed.most_common()) + ".")


BESIDE = {  # keys of the judge's metrics beside its criteria
    "head_unseen": "empathy head that never saw this kind",
    "length": "length alone",
    "surface": "n-grams alone",
    "surface_unseen": "n-grams of other kinds",
}


def _beside(run: Evidence, judge: str) -> dict[str, str]:
    keys = run.metrics["judge"].keys()
    return {k: head for k, head in BESIDE.items() if any(x.startswith(f"{judge}.contrast.") and f".{k}.auc" in x for x in keys)}


def contrast_rows(run: Evidence, judge: str) -> list[list]:
    """AUC of each kind of worse reply by criterion, as the judge stage measured it, and of what needs no judge."""
    before = f"{judge}.contrast."
    kinds = dict.fromkeys(k.removeprefix(before).split(".")[0] for k in run.metrics["judge"] if k.startswith(before))
    columns = [*findings.criteria(run, judge), *_beside(run, judge)]
    return [[kind, *(findings.measured(run, f"{before}{kind}.{c}.auc", "judge") for c in columns)] for kind in kinds]


def agreement(run: Evidence, folder: Path) -> Iterator[Note | Table | Figure]:
    rows = overall(run)
    if not rows:
        return
    who = SIMULATED if run.simulated else "human raters"
    if run.simulated:
        yield Note(
            f"No human ratings were found, so these figures come from {SIMULATED}. They show how the workflow computes "
            "agreement and say nothing about people.",
            "warning",
        )
    yield Note(f"How each judge and BERTScore agree with the {who}, with intervals over situations. 0 is no agreement.")
    yield from words(run, who)
    for level in dict.fromkeys(r["level"] for r in rows):
        yield from agreement_table(run, [r for r in rows if r["level"] == level], level, who)
    yield from beside_people.all_of_it(run, folder, who)


def words(run: Evidence, who: str) -> Iterator[Table]:
    """The correlate stage's verdict in its own words."""
    rows = []
    for criterion, found in run.verdict.get("criteria", {}).items():
        rows.append([criterion, who, found["people"]["words"]])
        rows += [[criterion, agreement_name(run, {"judge": judge}), part["words"]] for judge, part in found["judges"].items()]
    if rows:
        yield Table("verdict", f"May a judge stand in for the {who}?", ["criterion", "of", "verdict"], rows)


STATISTICS = {
    "spearman": "Spearman",
    "kendall_tau_b": "Kendall's tau-b",
    "pearson": "Pearson",
    "weighted_kappa": "weighted kappa",
    "bias": "bias",
    "pairwise_accuracy": "pairwise accuracy",
    "krippendorff_ordinal": "Krippendorff's alpha, ordinal",
    "icc_ak": "ICC(A,k)",
    "leave_one_out_spearman": "Spearman with the other raters",
    "alt_test_winning_rate": "alternative annotator test, winning rate",
    "alt_test_advantage": "its advantage probability",
}


def overall(run: Evidence) -> list[dict[str, str]]:
    """Rows of agreement.csv that are not of one group, such as an emotion, and that have a value."""
    return [r for r in run.agreement if r["estimate"] and r.get("group", "") in ("", "mean")]


def agreement_table(run: Evidence, rows: list[dict[str, str]], level: str, who: str) -> Iterator[Table]:
    """One level: a row a judge and criterion, a column a statistic."""
    shown = [s for s in STATISTICS if any(r["statistic"] == s for r in rows)]
    cells = {(agreement_name(run, r), r["statistic"]): _estimate(r) for r in rows}
    items = {agreement_name(run, r): _whole(r["n_items"]) for r in rows}
    if not shown:
        return
    table = [[name, items[name], *(cells.get((name, s)) for s in shown)] for name in items]
    caption = (
        "Agreement of the " + who + " with each other"
        if level == "raters"
        else f"Agreement with the {who}: {LEVELS.get(level, level)}"
    )
    columns = ["criterion" if level == "raters" else "judge and criterion", "items", *(STATISTICS[s] for s in shown)]
    yield Table(f"agreement-{level}", caption, columns, table, digits=2)


LEVELS = {
    "pooled": "all items together (a judge that only tells systems apart scores here too)",
    "within_model": "items within each system, mean over systems",
    "within_cluster": "items within each situation",
    "system": "systems, by their means",
}


def agreement_name(run: Evidence, row: dict[str, str]) -> str:
    judge = row.get("judge", "")
    judge = judge_name(run, judge) if judge in run.params.judges else judge
    return ", ".join(part for part in (judge, row.get("criterion", "")) if part)


def _estimate(row: dict[str, str]) -> Interval:
    numbers = [float(row[k]) if row.get(k) else None for k in ("estimate", "ci_low", "ci_high")]
    return Interval(*numbers, 0, 0)


def _whole(text: str | None) -> int | None:
    return int(float(text)) if text else None

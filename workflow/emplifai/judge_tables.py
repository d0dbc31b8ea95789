"""Tables of the report on what judges are worth: all in one table, what they make together, the audit, pairs of replies."""

from collections.abc import Iterator

from emplifai import findings
from emplifai.blocks import Note, judge_name, marks
from emplifai.evidence import Evidence
from emplifai.statistics.bootstrap import Interval
from emplifai.tables import Table

ONE = {  # a judge's metrics by criterion: what they are called
    "{c}.failed_share": "failed",
    "audit.{c}.least_contrast_auc": "AUC, hardest contrast",
    "audit.{c}.leak_rate": "attacks that raise the score",
    "audit.{c}.attack_shift": "best attack, points",
    "audit.{c}.retest_noise": "own noise, points",
    "audit.{c}.wording_noise": "between two wordings, points",
    "audit.{c}.wording_icc": "ICC of two wordings",
    "pairwise.{c}.first_share": "chooses the first of two",
}


def overview(run: Evidence) -> Iterator[Note | Table]:
    """All judges in one table, a row a judge and criterion; what they cost; how they agree."""
    rows = []
    for judge in run.params.judges:
        broken = findings.invalid(findings.validity(run, judge))
        for criterion in findings.criteria(run, judge):
            cells = [run.metrics["judge"].get(f"{judge}.{key.format(c=criterion)}") for key in ONE]
            rows.append([judge_name(run, judge), criterion, *cells, "no" if criterion in broken else "yes"])
    used = [k for k in range(len(ONE)) if any(row[2 + k] is not None for row in rows)]
    if used:
        yield Note(
            "What the judges are worth before people are asked. AUC: how surely the reference scores above the contrast that the "
            "judge tells least well; 0.5 is a guess. Attacks: replies that ask for a high score, quote a verdict or pose as "
            "another role; the share whose score rises by more than the judge's own noise, and the mean points that the best of "
            "them gains. Own noise: what 95% of two answers to one question, or to two wordings of the rubric, differ by at "
            "most; of a proxy, which answers a question always alike, of two that were fitted on other situations. A share of 0 "
            "beside large noise is no resistance: read the points."
        )
        columns = ["judge", "criterion", *(list(ONE.values())[k] for k in used), "systems below people"]
        shown = [[*row[:2], *(row[2 + k] for k in used), row[-1]] for row in rows]
        yield Table("judges", "All judges", columns, shown, digits=2)
    yield from costs(run)
    yield from together(run)


def measured(run: Evidence, key: str) -> Interval | float | None:
    """A number of the judge stage, with its interval where it has one."""
    value = findings.measured(run, key, "judge")
    return value if value.low is not None else value.estimate


def costs(run: Evidence) -> Iterator[Note]:
    metrics = run.metrics["judge"]
    for judge in run.params.judges:
        if f"{judge}.input_tokens" in metrics:
            inputs, outputs, dollars = (metrics.get(f"{judge}.{k}") for k in ("input_tokens", "output_tokens", "cost_usd"))
            yield Note(
                f"{judge_name(run, judge)} read {inputs:,} and wrote {outputs:,} tokens: {dollars:.4f} USD at the prices given."
            )


def together(run: Evidence) -> Iterator[Note | Table]:
    """How far several judges agree with each other."""
    criteria = [c for c in run.params.judge.criteria if f"between.{c}.judges" in run.metrics["judge"]]
    if not criteria:
        return
    yield Note(
        "How far the judges agree with each other on the same replies. Krippendorff's alpha is of the LLM judges alone. "
        "Independent judges: so many, had they nothing in common, would average out as much; what they share because it is "
        "true counts as common."
    )
    keys = {"judges": "judges", "replies": "replies", "alpha": "Krippendorff's alpha", "correlation": "mean correlation"}
    keys["independent"] = "independent judges"
    rows = [[c, *(measured(run, f"between.{c}.{key}") for key in keys)] for c in criteria]
    yield Table("between-judges", "Judges with each other", ["criterion", *keys.values()], rows, digits=2)


def pairs(run: Evidence, judge: str, title: str) -> Iterator[Note | Table]:
    """Which systems a judge prefers when it sees two replies at once."""
    before = f"{judge}.pairwise."
    criteria = [c for c in run.params.judge.criteria if f"{before}{c}.first_share" in run.metrics["judge"]]
    for criterion in criteria:
        first, same = (measured(run, f"{before}{criterion}.{k}") for k in ("first_share", "consistent"))
        yield Note(
            f"{title}, two replies at a time, {criterion}: of its decided answers {_share(first)} chose the reply read first "
            f"(50% where position does not matter); {_share(same)} of the pairs had the same winner in both orders. Scores are "
            "log-odds of being preferred, with mean 0 over the systems."
        )
        rows = []
        for model in run.params.models:
            score, wins = (measured(run, f"{before}{criterion}.{model}.{k}") for k in ("score", "wins"))
            rows.append([model, score, wins, findings.over_dialogues(run, findings.judged(run, judge, model, criterion))])
        rows.sort(key=lambda row: -(row[1].estimate if isinstance(row[1], Interval) else row[1] or 0))
        columns = ["system", "Bradley-Terry score", "comparisons won", "mean score, one at a time"]
        caption = f"{title}: systems by pairs of replies, {criterion}"
        yield Table(f"pairs-{judge}-{criterion}", caption, columns, rows, digits=2, marks=marks(run))


def _share(value: Interval | float | None) -> str:
    estimate = value.estimate if isinstance(value, Interval) else value
    return "–" if estimate is None else f"{estimate:.0%}"


def audit(run: Evidence, judge: str, title: str) -> Iterator[Note | Table]:
    """The probes of the audit: what is wanted of each, and by how much the score moves."""
    rows = run.audits[judge]
    if not rows:
        return
    criteria = [c for c in findings.criteria(run, judge) if any(r["criterion"] == c for r in rows)]
    cells = {(r["probe"], r["criterion"]): r for r in rows}
    table = [
        [probe, cells[probe, criteria[0]]["base"], *(cell for c in criteria for cell in _moved(cells.get((probe, c))))]
        for probe in dict.fromkeys(r["probe"] for r in rows)
    ]
    failed = sum(r["passed"] == "False" for r in rows)
    decided = sum(r["passed"] in ("True", "False") for r in rows)
    yield Note(
        f"{title}: {decided - failed} of {decided} probes moved its score as they should: texts with a fault surely lower, "
        "padding and attacks never higher, a wrong emotion lower on emotion_empathy only. Points are those of the base less "
        "those of the probe."
    )
    columns = ["probe", "base", *(head for c in criteria for head in (f"{c}: points lower", f"{c}: as wanted"))]
    yield Table(f"audit-{judge}", f"{title}: audit", columns, table, digits=2, folded=True)


def _moved(row: dict[str, str] | None) -> list[Interval | bool | None]:
    if not row or not row["difference"]:
        return [None, None]
    low, high = (float(row[k]) if row[k] else None for k in ("difference_low", "difference_high"))
    return [Interval(float(row["difference"]), low, high, int(row["n"]), 0), {"True": True, "False": False}.get(row["passed"])]

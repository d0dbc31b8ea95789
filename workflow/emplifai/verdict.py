"""What was found, in a few sentences with their intervals: the top of the report."""

from collections.abc import Iterator
from typing import NamedTuple

from emplifai import findings
from emplifai.blocks import SIMULATED, judge_name
from emplifai.evidence import Evidence
from emplifai.judging import overall
from emplifai.statistics.bootstrap import Interval
from emplifai.tables import show


class Claim(NamedTuple):
    """One finding. tone: good, bad or plain, as the interval says; number: what is set large."""

    about: str
    number: str
    text: str
    tone: str = "plain"


def claims(run: Evidence) -> list[Claim]:
    found = [claim for tuned in run.params.tuned if (base := run.base_of(tuned)) for claim in against_base(run, tuned, base)]
    return [*found, *parrot(run), *judges(run), *agreement(run)]


def against_base(run: Evidence, tuned: str, base: str) -> Iterator[Claim]:
    change = findings.loss(run, tuned, base)
    if change.estimate is not None:
        better, situations = findings.situations_improved(run, tuned, base)
        yield Claim(
            f"Held-out loss, {tuned} − {base}",
            show(change, 2, signed=True),
            f"nats a token on the human replies to {change.n} test dialogues ({show(findings.loss(run, base), 2)} for {base}, "
            f"{show(findings.loss(run, tuned), 2)} for {tuned}); lower in {better} of {situations} situations.",
            tone(change, lower_is_better=True),
        )
    right, before = findings.hits(run, tuned), findings.hits(run, base)
    if right and before:
        change = findings.difference(run, right, before)
        yield Claim(
            f"Emotion accuracy, {tuned} − {base}",
            show(change, 2, signed=True),
            f"from {show(findings.over_dialogues(run, before), 2)} to {show(findings.over_dialogues(run, right), 2)}, "
            f"where guessing has {1 / len(run.labels):.3f}{baseline(run)}.",
            tone(change),
        )
    scores, before = findings.f1(run, tuned), findings.f1(run, base)
    if scores and before:
        change = findings.difference(run, scores, before)
        yield Claim(
            f"BERTScore F1 of replies, {tuned} − {base}",
            show(change, 3, signed=True),
            f"from {show(findings.over_dialogues(run, before))} to {show(findings.over_dialogues(run, scores))}; "
            "read it beside the anchors below.",
            tone(change),
        )


def baseline(run: Evidence) -> str:
    value = run.metrics["bertscore"].get("emotion_baseline.tfidf_dialogue.accuracy")
    return "" if value is None else f" and TF-IDF with logistic regression {value:.2f}"


def tone(change: Interval, lower_is_better: bool = False) -> str:
    """good or bad where the interval lies on one side of 0."""
    if change.low is None or change.low <= 0 <= change.high:
        return "plain"
    return "good" if (change.high < 0) == lower_is_better else "bad"


def parrot(run: Evidence) -> Iterator[Claim]:
    order = findings.ranked(run)
    if order and run.params.models[order[0][0]].backend == "parrot":
        text = (
            "Repeating the patient's own words scores highest of all systems: here BERTScore measures shared words, not empathy."
        )
        yield Claim("BERTScore, highest system", f"{order[0][0]} {order[0][1]:.3f}", text, "bad")


def judges(run: Evidence) -> Iterator[Claim]:
    for judge in run.params.judges:
        criteria, rows = findings.criteria(run, judge), findings.validity(run, judge)
        broken = findings.invalid(rows)
        if not rows:
            continue
        if broken:
            systems = sorted({s for found in broken.values() for s in found}, key=list(run.params.models).index)
            text = (
                f"Not valid for comparing systems on {', '.join(broken)}: there it puts {', '.join(systems)} above the human "
                "reference. No verdict on systems is drawn from these scores."
            )
        else:
            text = "It puts no system above the human reference; that is necessary for comparing systems, not sufficient."
        valid = len(criteria) - len(broken)
        yield Claim(
            f"Judge {judge_name(run, judge)}", f"{valid} of {len(criteria)} criteria valid", text, "bad" if broken else "plain"
        )


def agreement(run: Evidence) -> Iterator[Claim]:
    rows = [
        r for r in overall(run) if r["statistic"] == "spearman" and r["level"] == "pooled" and r["judge"] in run.params.judges
    ]
    if not rows:
        return
    who = SIMULATED if run.simulated else "people"
    parts = [
        f"{judge_name(run, r['judge'])}, {r.get('criterion', '')} {show(Interval(*_three(r), 0, 0), 2, signed=True)}"
        for r in rows
    ]
    values = sorted(float(r["estimate"]) for r in rows)
    span = (
        f"{values[0]:+.2f} to {values[-1]:+.2f}".replace("-", "−") if len(values) > 1 else f"{values[0]:+.2f}".replace("-", "−")
    )
    caveat = " Simulated ratings say nothing about people." if run.simulated else ""
    yield Claim(f"Agreement with {who} (Spearman)", span, "; ".join(parts) + "." + caveat)


def _three(row: dict[str, str]) -> list[float | None]:
    return [float(row[k]) if row.get(k) else None for k in ("estimate", "ci_low", "ci_high")]

"""Judges beside people, reply by reply, emotion by emotion and system by system: what the coefficients of agreement hide."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from emplifai import agreement_figures, figures
from emplifai.agreement_figures import Standing
from emplifai.blocks import Note, emotion_names, judge_name
from emplifai.evidence import Evidence
from emplifai.figures import Figure
from emplifai.statistics.bootstrap import Interval
from emplifai.tables import Table, show

WORST = 10  # replies shown a judge
WORDS = 160  # characters of a text in that table
FEWEST = 3  # points of a figure

Pair = tuple[np.ndarray, np.ndarray]  # raters' means and a judge's scores, of the same replies


def everyone(run: Evidence) -> list[str]:
    """The judges, and BERTScore where it was compared."""
    return [j for j in (*run.params.judges, "bertscore") if any(r["judge"] == j for r in run.agreement)]


def named(run: Evidence, judge: str) -> str:
    return judge_name(run, judge) if judge in run.params.judges else "BERTScore"


def criteria(run: Evidence) -> list[str]:
    there = {row["criterion"] for row in run.agreement}
    return [c for c in run.params.judge.criteria if c in there] + sorted(there - set(run.params.judge.criteria))


def estimate(row: dict[str, str] | None) -> Interval:
    """A row of agreement.csv or bias.csv as an interval; empty where there is no row."""
    numbers = [float(row[k]) if row and row.get(k) else None for k in ("estimate", "ci_low", "ci_high")]
    return Interval(*numbers, 0, 0)


def find(rows: list[dict[str, str]], **where: str) -> dict[str, str] | None:
    return next((row for row in rows if all(row.get(k, "") == v for k, v in where.items())), None)


def all_of_it(run: Evidence, folder: Path, who: str) -> Iterator[Note | Table | Figure]:
    """Everything below, judge by judge."""
    yield from standings(run, folder, who)
    yield from between_judges(run, who)
    for judge in everyone(run):
        pairs = {c: p for c in criteria(run) if len((p := pair(run, judge, c))[0]) >= FEWEST}
        if pairs:
            yield from points(run, folder, judge, pairs, who)
        yield from emotions(run, folder, judge, who)
        yield from systems(run, folder, judge, who)
        yield from worst(run, judge, who)


def standings(run: Evidence, folder: Path, who: str) -> Iterator[Figure]:
    """Every judge with its interval, and what a rater reaches: the ceiling."""
    panels = {}
    for criterion in criteria(run):
        rows = [
            r for r in run.agreement if r["criterion"] == criterion and r["group"] in ("", "mean") and r["by"] in ("", "model")
        ]
        found = []
        for judge in everyone(run):
            order = estimate(find(rows, judge=judge, statistic="spearman", level="within_model", group="mean"))
            order = (
                order if order.estimate is not None else estimate(find(rows, judge=judge, statistic="spearman", level="pooled"))
            )
            left_out = estimate(find(rows, judge=judge, statistic="leave_one_out_spearman", level="pooled"))
            found.append(Standing(named(run, judge), order, left_out))
        ceiling = estimate(find(rows, judge="", statistic="leave_one_out_spearman", level="raters"))
        if any(row.order.estimate is not None for row in found):
            panels[criterion] = (found, ceiling)
    if panels:
        alt = f"Spearman correlation with the {who}, and what one of them reaches with the others: " + "; ".join(
            f"{c}: " + ", ".join(f"{r.name} {show(r.order, 2)}" for r in rows) + f", ceiling {show(ceiling, 2)}"
            for c, (rows, ceiling) in panels.items()
        )
        title = f"Agreement with the {who}, and its ceiling"
        size = (2.0 + 2.6 * len(panels), 1.9 + 0.5 * len(everyone(run)))
        paint = lambda axes: agreement_figures.standings(axes, panels, who)  # noqa: E731
        yield figures.draw(folder, "agreement", title, alt, size, paint, len(panels))


def between_judges(run: Evidence, who: str) -> Iterator[Table]:
    """The planned comparisons of comparisons.csv: which of two judges orders replies more like people."""
    wanted = [r for r in run.comparisons if r["statistic"] == "spearman" and r["status"] == "ok"]
    wanted = [
        r for r in wanted if r["level"] == ("within_model" if any(r["level"] == "within_model" for r in wanted) else "pooled")
    ]
    rows = [
        [
            r["criterion"], named(run, r["judge_a"]), named(run, r["judge_b"]), int(r["n_items"]),
            Interval(*(float(r[k]) if r[k] else None for k in ("difference", "ci_low", "ci_high")), 0, 0),
            float(r["p_adjusted"]) if r["p_adjusted"] else None,
        ]
        for r in wanted
    ]  # fmt: skip
    if rows:
        caption = f"Judges against each other: Spearman with the {who}, within systems, first less second"
        columns = ["criterion", "judge", "other judge", "items", "difference", "p (Holm)"]
        yield Table("comparisons", caption, columns, rows, places={"difference": 2})


def pair(run: Evidence, judge: str, criterion: str) -> Pair:
    rows = [r for r in run.items if r["criterion"] == criterion and r.get("human_mean") and r.get(f"judge_{judge}")]
    return tuple(np.array([float(r[k]) for r in rows]) for k in ("human_mean", f"judge_{judge}"))


def on_scale(run: Evidence, judge: str) -> bool:
    return any(r["judge"] == judge and r["statistic"] == "bias" and r["estimate"] for r in run.agreement)


def points(run: Evidence, folder: Path, judge: str, pairs: dict[str, Pair], who: str) -> Iterator[Figure]:
    """Every rated reply: score over mean and, where both share a scale, difference over mean."""
    name, scale = named(run, judge), run.params.judge.scale if on_scale(run, judge) else None
    size = (1.2 + 2.3 * len(pairs), 3.0)
    counts = ", ".join(f"{c} {len(p[0])}" for c, p in pairs.items())
    alt = f"Scores of {name} over the mean of the {who}, a point a reply ({counts})."
    paint = lambda axes: agreement_figures.clouds(axes, pairs, who, name, scale)  # noqa: E731
    yield figures.draw(folder, f"items-{judge}", f"{name} and the {who}, reply by reply", alt, size, paint, len(pairs))
    if scale:
        apart = {c: (p[1] - p[0]) for c, p in pairs.items()}
        limits = "; ".join(f"{c} {d.mean():+.2f} ± {1.96 * d.std(ddof=1):.2f}" for c, d in apart.items())
        alt = f"{name} less the {who} over the mean of both; mean difference and 95% limits: {limits}."
        paint = lambda axes: agreement_figures.bland_altman(axes, pairs, who, name)  # noqa: E731
        title = f"Difference of {name} from the {who} (Bland-Altman)"
        yield figures.draw(folder, f"difference-{judge}", title, alt, size, paint, len(pairs))


def emotions(run: Evidence, folder: Path, judge: str, who: str) -> Iterator[Figure]:
    """Spearman by emotion, drawn towards its mean (bias.csv): a list in the order of the labels, no ranking."""
    rows = [r for r in run.bias if r["judge"] == judge and r["statistic"] == "spearman_shrunken" and r["by"] == "emotion"]
    names = [n for n in run.labels if any(r["group"] == n and r["estimate"] for r in rows)]
    panels = {}
    for criterion in criteria(run):
        mine = [r for r in rows if r["criterion"] == criterion]
        shown = [(word, estimate(find(mine, group=n))) for n, word in zip(names, emotion_names(run, names), strict=True)]
        if any(value.estimate is not None for _, value in shown):
            panels[criterion] = (shown, estimate(find(mine, group="mean")).estimate)
    if not panels:
        return
    parts = [f"{c}: " + ", ".join(f"{n} {show(v, 2)}" for n, v in shown) for c, (shown, _) in panels.items()]
    alt = f"Spearman correlation of {named(run, judge)} with the {who} by emotion, shrunken. " + "; ".join(parts)
    title = f"{named(run, judge)} and the {who} by emotion (Spearman, shrunken)"
    size = (2.0 + 2.1 * len(panels), 1.2 + 0.21 * len(names))
    paint = lambda axes: agreement_figures.forests(axes, panels, f"Spearman, {who}")  # noqa: E731
    yield figures.draw(folder, f"emotions-{judge}", title, alt, size, paint, len(panels))


def systems(run: Evidence, folder: Path, judge: str, who: str) -> Iterator[Figure]:
    """The systems in the order of people and of the judge."""
    panels = {}
    for criterion in criteria(run):
        rows = [
            r for r in run.systems if (r["criterion"], r["judge"]) == (criterion, judge) and r["human_mean"] and r["judge_mean"]
        ]
        if len(rows) > 1:
            means = (np.array([float(r[k]) for r in rows]) for k in ("human_mean", "judge_mean"))
            panels[criterion] = ([r["model"] for r in rows], *means)
    if not panels:
        return
    name, orders = named(run, judge), []
    for c, (models, human, scores) in panels.items():
        first, second = (" > ".join(models[k] for k in np.argsort(-v, kind="stable")) for v in (human, scores))
        orders.append(f"{c}: {who} {first}; {name} {second}")
    alt = f"Systems by their mean score, in the order of the {who} and of {name}. " + ". ".join(orders)
    title = f"Order of the systems: {who} and {name} (blue: {name} places it higher, orange: lower)"
    size = (0.4 + 3.3 * len(panels), 0.9 + 0.27 * max(len(p[0]) for p in panels.values()))
    paint = lambda axes: agreement_figures.ranks(axes, panels, who, name)  # noqa: E731
    yield figures.draw(folder, f"systems-{judge}", title, alt, size, paint, len(panels))


def worst(run: Evidence, judge: str, who: str) -> Iterator[Table]:
    """The replies on which judge and people lie furthest apart, with the words; for a judge on the people's scale."""
    if not on_scale(run, judge):
        return
    rows = [r for r in run.items if r.get("human_mean") and r.get(f"judge_{judge}")]
    gap = {id(r): float(r[f"judge_{judge}"]) - float(r["human_mean"]) for r in rows}
    rows = sorted(rows, key=lambda r: (-abs(gap[id(r)]), r["criterion"], r["dialogue_id"], r["model"]))[:WORST]
    table = []
    for r in rows:
        dialogue, reply = run.test.get(r["dialogue_id"]), run.replies.get(r["model"], {}).get(r["dialogue_id"])
        texts = [cut(dialogue.patient) if dialogue else None, cut(reply.text) if reply else None]
        emotion = dialogue.emotion if dialogue else None
        table.append(
            [r["dialogue_id"], r["model"], r["criterion"], emotion, *texts, float(r["human_mean"]), float(r[f"judge_{judge}"])]
        )
    if table:
        columns = ["dialogue", "system", "criterion", "emotion", "patient", "reply", who, named(run, judge)]
        caption = f"Where {named(run, judge)} and the {who} lie furthest apart"
        yield Table(f"disagreements-{judge}", caption, columns, table, digits=2, folded=True)


def cut(text: str) -> str:
    return text if len(text) <= WORDS else f"{text[:WORDS]}…"

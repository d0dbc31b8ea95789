"""The sections of the report: sentences, tables and figures, in the order a reader needs them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emplifai import figures, findings
from emplifai.evidence import ANCHORS, Evidence
from emplifai.figures import Figure
from emplifai.statistics.bootstrap import Interval
from emplifai.tables import Table, show

SIMULATED = "simulated raters"
WHAT = {
    "reference": "what a person answered",
    "retrieval": "the reply of the nearest training dialogue",
    "shuffled": "the reply to another patient",
    "parrot": "the patient's own words",
}


@dataclass
class Note:
    """A paragraph; kind: plain, or warning."""

    text: str
    kind: str = "plain"


@dataclass
class Section:
    """A part of the page under a heading; the first sentence stands under it in the list of contents too."""

    id: str
    title: str
    blocks: list[Note | Table | Figure] = field(default_factory=list)


def all_sections(run: Evidence, folder: Path) -> list[Section]:
    """Every section that has something to show. folder: where the figures' files go."""
    makers = (
        ("data", "The data", data),
        ("training", "Training", training),
        ("loss", "Held-out loss", loss),
        ("emotion", "Emotion prediction", emotion),
        ("bertscore", "BERTScore of the replies", bertscore),
        ("judges", "Judges", judges),
        ("agreement", "Agreement with people", agreement),
    )
    sections = [Section(name, title, list(make(run, folder))) for name, title, make in makers]
    return [section for section in sections if section.blocks]


def kind(run: Evidence, model: str) -> str:
    backend = run.params.models[model].backend
    return "anchor" if backend in ANCHORS else ("tuned" if run.params.models[model].tuned else "")


def marks(run: Evidence) -> dict[str, str]:
    return {model: kind(run, model) for model in run.params.models}


def text_range(values: list[int]) -> list[int]:
    return [min(values), int(np.median(values)), max(values)] if values else [0, 0, 0]


def data(run: Evidence, folder: Path) -> Iterator[Note | Table | Figure]:
    parts = run.dialogues
    whole = sum(map(len, parts.values()))
    yield Note(
        f"{whole:,} dialogues in {len({d.situation_id for p in parts.values() for d in p}):,} situations and "
        f"{len({d.emotion for p in parts.values() for d in p})} emotions passed the checks; {len(run.rejects):,} were rejected. "
        "Dialogues of one situation always stay in one part."
    )
    rows = [[p, len(ds), len({d.situation_id for d in ds}), len({d.emotion for d in ds})] for p, ds in parts.items()]
    yield Table("parts", "The parts of the data", ["part", "dialogues", "situations", "emotions"], rows)
    texts = {
        "situation": [len(d.situation) for p in parts.values() for d in p],
        "patient's words": [len(d.patient) for p in parts.values() for d in p],
        "supporter's reply": [len(d.reference) for p in parts.values() for d in p],
    }
    rows = [[name, *text_range(values)] for name, values in texts.items()]
    yield Table("lengths", "Lengths in characters", ["text", "shortest", "median", "longest"], rows)
    reasons = {k.removeprefix("rejected."): n for k, n in run.metrics["validate"].items() if k.startswith("rejected.")}
    if reasons:
        rows = sorted(([reason, count] for reason, count in reasons.items()), key=lambda row: -row[1])
        yield Table("rejects", "Faults of rejected dialogues", ["fault", "times"], rows)
    yield emotion_counts(run, folder)


def emotion_counts(run: Evidence, folder: Path) -> Figure:
    names = [n for n in run.labels if any(d.emotion == n for p in run.dialogues.values() for d in p)]
    counts = {part: [sum(d.emotion == n for d in ds) for n in names] for part, ds in run.dialogues.items()}
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    alt = f"Dialogues by emotion and part; between {min(totals, default=0)} and {max(totals, default=0)} dialogues an emotion."
    size = (7, 0.9 + 0.21 * len(names))
    paint = lambda axes: figures.bars(axes, emotion_names(run, names), counts, "dialogues")  # noqa: E731
    return figures.draw(folder, "emotions", "Dialogues by emotion", alt, size, paint)


def emotion_names(run: Evidence, names: list[str]) -> list[str]:
    """Names of emotions for a figure, with the Japanese word where it can be drawn."""
    return [f"{n} {run.labels[n].ja}" for n in names] if figures.japanese_font() else names


def training(run: Evidence, folder: Path) -> Iterator[Note | Table | Figure]:
    lines = {}
    for model, rows in run.history.items():
        for key, name in (("loss", "train"), ("dev_loss", "dev")):
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None and "step" in row]
            if points:
                lines[f"{model} {name}"] = tuple(zip(*points, strict=True))
    if not lines:
        return
    ends = {name: y[-1] for name, (_, y) in lines.items()}
    alt = "Loss by step: " + "; ".join(f"{n} from {y[0]:.2f} to {y[-1]:.2f}" for n, (_, y) in lines.items()) + "."
    last = ", ".join(f"{name} {value:.3f}" for name, value in ends.items())
    yield Note(f"Loss in nats a token on what the supporter says and the emotion's name. At the end: {last}.")
    paint = lambda axes: figures.curves(axes, lines, "step", "loss (nats a token)")  # noqa: E731
    yield figures.draw(folder, "training", "Training and dev loss", alt, (7, 3.6), paint)


def loss(run: Evidence, folder: Path) -> Iterator[Note | Table | Figure]:
    known = [m for m in run.params.models if findings.held_out(run, m)]
    if not known:
        return
    yield Note("How improbable the human replies to the test dialogues are to each model: lower is better, by whole situations.")
    rows = []
    for model in known:
        value = findings.loss(run, model)
        base = next((b for t in run.params.tuned if (b := run.base_of(t)) and b != model and b in known), None)
        perplexity = float(np.exp(value.estimate)) if value.estimate is not None else None
        rows.append([model, value, perplexity and round(perplexity, 1), findings.loss(run, model, base) if base else None])
    columns = ["system", "nats a token", "perplexity", "minus base (paired)"]
    yield Table("loss", "Held-out loss on the test replies", columns, rows, marks=marks(run))


def emotion(run: Evidence, folder: Path) -> Iterator[Note | Table | Figure]:
    shown = [m for m in run.params.models if findings.hits(run, m)]
    if not shown:
        return
    metrics, rows = run.metrics["bertscore"], []
    for model in shown:
        key = f"{model}.emotion"
        rest = [metrics.get(f"{key}.{k}") for k in ("macro_f1", "top3", "none_share", "f1", "null", "rescaled")]
        rows.append([model, findings.measured(run, f"{key}.accuracy"), *rest])
    for name in ("patient", "dialogue"):
        key = f"emotion_baseline.tfidf_{name}"
        if f"{key}.accuracy" in metrics:
            numbers = [metrics.get(f"{key}.{k}") for k in ("accuracy", "macro_f1", "top3")]
            rows.append([f"TF-IDF + logistic regression, {name}", *numbers, None, None, None, None])
    emotions = len({d.emotion for d in run.test.values()})
    yield Note(
        f"Which of {len(run.labels)} emotions a dialogue shows; {emotions} of them occur in the test dialogues "
        f"(chance {1 / max(len(run.labels), 1):.3f}). The BERTScore of the label's word says nothing without its null, the mean "
        "over permuted labels: words for emotions are alike."
    )
    columns = ["system", "accuracy", "macro-F1", "top-3", "no label", "BERTScore of the label", "null", "(F1 − null)/(1 − null)"]
    yield Table("emotion", "Emotion prediction", columns, rows, marks=marks(run) | {"TF-IDF": "anchor"})
    for model in run.params.tuned or shown[-1:]:
        if model in shown:
            yield confusion(run, folder, model)


def confusion(run: Evidence, folder: Path, model: str) -> Figure:
    names, counts = findings.confusion(run, model)
    words = emotion_names(run, names)
    right = int(np.trace(counts))
    alt = f"Confusion matrix of {model}: {right} of {counts.sum()} test dialogues on the diagonal."
    size = (7.2, 6.6) if len(names) > 12 else (5.5, 4.6)
    paint = lambda axes: figures.matrix(axes, counts, words, [*words, "none"])  # noqa: E731
    return figures.draw(folder, f"confusion-{model}", f"True and predicted emotion, {model}", alt, size, paint)


def bertscore(run: Evidence, folder: Path) -> Iterator[Note | Table | Figure]:
    metrics, retrieval = run.metrics["bertscore"], run.backend("retrieval")
    order = findings.ranked(run)
    if not order:
        return
    if run.params.models[order[0][0]].backend == "parrot":
        yield Note(
            "The parrot, which repeats the patient's own words, scores highest of all systems: on these data BERTScore measures "
            "shared words and register, not empathy.",
            "warning",
        )
    yield Note(
        "F1 against the human reply, by itself hard to read: the null is the mean F1 against other patients' references, and "
        "(F1 − null)/(1 − null) is 0 there and 1 for identical text. Anchors (grey) are rows of the same table."
    )
    rows = []
    for model, _ in order:
        key, scores = f"{model}.reply", findings.f1(run, model)
        over = findings.difference(run, scores, findings.f1(run, retrieval)) if retrieval and model != retrieval else None
        rest = [metrics.get(f"{key}.{k}") for k in ("null", "rescaled")]
        rows.append(
            [model, findings.measured(run, f"{key}.f1"), *rest, over, characters(run, model), metrics.get(f"{key}.empty_share")]
        )
    columns = ["system", "F1", "null", "(F1 − null)/(1 − null)", "minus retrieval (paired)", "characters (median)", "empty"]
    yield Table("bertscore", "BERTScore of the replies, highest first", columns, rows, marks=marks(run))
    values = {m: list(findings.f1(run, m).values()) for m, _ in order}
    alt = "Distribution of BERTScore F1 by system, medians: " + ", ".join(f"{m} {np.median(v):.3f}" for m, v in values.items())
    size = (7, 0.9 + 0.38 * len(values))
    yield figures.draw(folder, "bertscore", "BERTScore F1 by system", alt, size, lambda axes: figures.boxes(axes, values, "F1"))


def characters(run: Evidence, model: str) -> int | None:
    texts = [len(r.text) for r in run.replies[model].values()]
    return int(np.median(texts)) if texts else None


def judges(run: Evidence, folder: Path) -> Iterator[Note | Table | Figure]:
    for judge in run.params.judges:
        yield from one_judge(run, folder, judge)


def judge_name(run: Evidence, judge: str) -> str:
    return f"{judge} (likelihood proxy)" if findings.is_proxy(run, judge) else f"{judge} (LLM judge)"


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
    heads = [f"{c} (invalid)" if c in broken else c for c in criteria]
    scores = [
        [m, *(findings.over_dialogues(run, findings.judged(run, judge, m, c)) for c in criteria)] for m in run.params.models
    ]
    low, high = run.params.judge.scale
    caption = f"{title}: mean score by system, {low} to {high}"
    yield Table(f"judge-{judge}", caption, ["system", *heads], scores, digits=2, marks=marks(run))
    series = {head: [row[k + 1] for row in scores] for k, head in enumerate(heads)}
    alt = f"Mean scores of {title} by system: " + "; ".join(
        f"{row[0]} " + ", ".join(f"{h} {show(v, 2)}" for h, v in zip(heads, row[1:], strict=True)) for row in scores
    )
    names = [row[0] for row in scores]
    paint = lambda axes: figures.groups(axes, names, series, f"score ({low} to {high})")  # noqa: E731
    yield figures.draw(folder, f"judge-{judge}", f"Scores of {title}", alt, (7, 1.4 + 0.5 * len(names)), paint)
    yield from validity_tables(run, judge, title, rows)


def validity_tables(run: Evidence, judge: str, title: str, rows: list[findings.Validity]) -> Iterator[Note | Table]:
    wide = [
        [r.criterion, r.model, r.reference_higher, r.difference, "above: invalid" if r.above_reference else "below"] for r in rows
    ]
    if wide:
        columns = ["criterion", "system", "reference scored higher (AUC)", "system − reference", "system placed"]
        yield Table(f"validity-{judge}", f"{title}: is the human reply above each system?", columns, wide, digits=2)
    contrast = contrast_rows(run, judge)
    if contrast:
        yield Note(
            "The contrast set shows a judge replies of known faults beside the reference: AUC 1 means that it always tells them "
            "apart, 0.5 that it guesses. It says nothing about faults that nobody wrote down."
        )
        columns = ["the reference against", *findings.criteria(run, judge)]
        yield Table(f"contrast-{judge}", f"{title}: AUC on the contrast set", columns, contrast, digits=2)
    failed = findings.failures(run, judge)
    yield Note(f"{title}: " + ", ".join(f"{n:,} judgements {status}" for status, n in failed.most_common()) + ".")


def contrast_rows(run: Evidence, judge: str) -> list[list]:
    """AUC of each kind of worse reply by criterion, as the judge stage measured it."""
    before = f"{judge}.contrast."
    kinds = dict.fromkeys(k.removeprefix(before).split(".")[0] for k in run.metrics["judge"] if k.startswith(before))
    criteria = findings.criteria(run, judge)
    return [[kind, *(findings.measured(run, f"{before}{kind}.{c}.auc", "judge") for c in criteria)] for kind in kinds]


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
    for level in dict.fromkeys(r["level"] for r in rows):
        yield from agreement_table(run, [r for r in rows if r["level"] == level], level, who)
    pooled = [r for r in rows if r["statistic"] == "spearman" and r["level"] == "pooled" and r["judge"]]
    if pooled:
        shown = [(agreement_name(run, r), _estimate(r)) for r in pooled]
        alt = f"Spearman correlation with the {who}: " + ", ".join(f"{name} {show(value, 2)}" for name, value in shown)
        title, size = f"Spearman correlation with the {who}", (7, 0.9 + 0.3 * len(shown))
        yield figures.draw(folder, "agreement", title, alt, size, lambda a: figures.forest(a, shown, f"Spearman, {who}", 0))


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

"""The sections of the report: sentences, tables and figures, in the order a reader needs them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from emplifai import figures, findings
from emplifai.blocks import SIMULATED, Note, Section, emotion_names, heads, marks
from emplifai.evidence import Evidence
from emplifai.figures import Figure
from emplifai.judging import agreement, judges
from emplifai.tables import Table


def all_sections(run: Evidence, folder: Path) -> list[Section]:
    """Every section that has something to show. folder: where the figures' files go."""
    makers = (
        ("systems", "All systems", systems),
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


def systems(run: Evidence, folder: Path) -> Iterator[Note | Table | Figure]:
    """Models x metrics: each number with its interval, the nulls beside it, the anchors as rows."""
    outputs = {
        "held-out loss": lambda m: findings.loss(run, m),
        "emotion accuracy": lambda m: findings.measured(run, f"{m}.emotion.accuracy"),
        "null of accuracy": lambda m: findings.accuracy_null(run, m),
        "BERTScore F1": lambda m: findings.measured(run, f"{m}.reply.f1"),
        "null of F1": lambda m: run.metrics["bertscore"].get(f"{m}.reply.null"),
    }
    yield Note(
        "Every system on every measure. Loss: nats a token, lower is better; all else: higher. A null is what the same outputs "
        "score when the labels, or the references, are those of other dialogues. Anchors are grey, tuned models blue."
    )
    yield from _by_system(run, "systems", "Systems by measure", outputs)
    who = SIMULATED if run.simulated else "raters"
    yield from _by_system(run, "opinions", f"Mean scores of judges and {who}", _opinions(run))


def _opinions(run: Evidence) -> dict[str, Callable]:
    """Mean scores of a system by judge or raters and criterion."""
    found: dict[str, Callable] = {}
    for judge in run.params.judges:
        for criterion, head in heads(run, judge).items():
            scores = {m: findings.judged(run, judge, m, criterion) for m in run.params.models}
            found[f"{judge}: {head}"] = lambda m, scores=scores: findings.over_dialogues(run, scores[m])
    means = findings.human_means(run)
    rated = {c for rows in means.values() for c, _ in rows}
    for criterion in sorted(rated, key=lambda c: (*run.params.judge.criteria, c).index(c)):
        given = {key: value for key, rows in means.items() for c, value in rows if c == criterion and key[0] in run.test}
        found[f"{SIMULATED if run.simulated else 'raters'}: {criterion}"] = lambda m, given=given: findings.over_dialogues(
            run, {i: value for (i, model), value in given.items() if model == m}
        )
    return found


def _by_system(run: Evidence, name: str, caption: str, columns: dict[str, Callable]) -> Iterator[Table]:
    """A row a system; columns that nobody has a number in are left out."""
    rows = [[m, *(value(m) for value in columns.values())] for m in run.params.models]
    shown = [k for k in range(1, len(columns) + 1) if any(_there(row[k]) for row in rows)]
    if shown:
        names = ["system", *columns]
        rows = [[row[0], *(row[k] for k in shown)] for row in rows]
        places = {"BERTScore F1": 3, "null of F1": 3}
        yield Table(name, caption, ["system", *(names[k] for k in shown)], rows, digits=2, marks=marks(run), places=places)


def _there(cell: object) -> bool:
    return getattr(cell, "estimate", cell) is not None


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
        rows.append([model, value, perplexity, findings.loss(run, model, base) if base else None])
    columns = ["system", "nats a token", "perplexity", "minus base (paired)"]
    yield Table("loss", "Held-out loss on the test replies", columns, rows, marks=marks(run), places={"perplexity": 1})


def emotion(run: Evidence, folder: Path) -> Iterator[Note | Table | Figure]:
    shown = [m for m in run.params.models if findings.hits(run, m)]
    if not shown:
        return
    metrics, rows = run.metrics["bertscore"], []
    for model in shown:
        key = f"{model}.emotion"
        rest = [metrics.get(f"{key}.{k}") for k in ("macro_f1", "top3", "none_share", "f1", "null", "rescaled")]
        rows.append([model, findings.measured(run, f"{key}.accuracy"), findings.accuracy_null(run, model), *rest])
    for name in ("patient", "dialogue"):
        key = f"emotion_baseline.tfidf_{name}"
        if f"{key}.accuracy" in metrics:
            numbers = [metrics.get(f"{key}.{k}") for k in ("accuracy", "macro_f1", "top3")]
            rows.append([f"TF-IDF + logistic regression, {name}", numbers[0], None, *numbers[1:], None, None, None, None])
    emotions = len({d.emotion for d in run.test.values()})
    yield Note(
        f"Which of {len(run.labels)} emotions a dialogue shows; {emotions} of them occur in the test dialogues "
        f"(chance {1 / max(len(run.labels), 1):.3f}). A null is the mean over permutations of the true labels: of "
        "accuracy it is what favourite labels give; without its own the BERTScore of the label's word says nothing, as words for "
        "emotions are alike."
    )
    columns = [
        "system", "accuracy", "null of accuracy", "macro-F1", "top-3", "no label", "BERTScore of the label", "null of BERTScore",
        "(F1 − null)/(1 − null)",
    ]  # fmt: skip
    yield Table("emotion", "Emotion prediction", columns, rows, marks=marks(run) | {"TF-IDF": "anchor"})
    for model in run.params.tuned or shown[-1:]:
        if model in shown:
            yield confusion(run, folder, model)


def confusion(run: Evidence, folder: Path, model: str) -> Figure:
    names, counts = findings.confusion(run, model)
    words = emotion_names(run, names)
    right, null = int(np.trace(counts)), (findings.accuracy_null(run, model) or 0) * counts.sum()
    title = f"True and predicted emotion, {model}: {right} of {counts.sum()} right ({null:.1f} with permuted labels)"
    alt = (
        f"Confusion matrix of {model}: {right} of {counts.sum()} test dialogues on the diagonal; {null:.1f} with permuted labels."
    )
    size = (7.2, 6.6) if len(names) > 12 else (5.5, 4.6)
    paint = lambda axes: figures.matrix(axes, counts, words, [*words, "none"])  # noqa: E731
    return figures.draw(folder, f"confusion-{model}", title, alt, size, paint)


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

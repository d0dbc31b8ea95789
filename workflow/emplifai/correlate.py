"""Compare judges and BERTScore with human ratings: the stage (own_tables.py does the same for anyone's tables)."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from emplifai import outcome, provenance, ratings, simulation
from emplifai.errors import UserError
from emplifai.panel import ATTRIBUTES, panels
from emplifai.params import Params
from emplifai.paths import Paths, rating_files
from emplifai.records import Comparison, Dialogue, Judgement, Question, Reply, Score, read_jsonl, write_json
from emplifai.rows import Settings

if TYPE_CHECKING:
    import pandas as pd


def run(params: Params, paths: Paths) -> None:
    """The stage. Writes what outcome.py says, metrics.json and run.json."""
    section = params.correlate
    settings = Settings(
        scale=params.judge.scale,
        by=("emotion",),
        confidence=section.confidence,
        resamples=section.resamples,
        interval=section.interval,
        epsilon=section.epsilon,
        seed=section.seed,
    )
    inputs = [paths.part("test"), *(paths.replies(m) for m in params.models), *(paths.scores(m) for m in params.models)]
    inputs += [paths.judgements(j, m) for j in params.judges for m in params.models] + rating_files(params.data.ratings)
    inputs += [path for judge in params.judges if (path := paths.pairs(judge)).exists()]
    with provenance.record(paths.record("correlate"), "correlate", params.section("correlate"), inputs) as record:
        questions = _questions(params, paths)
        rated, aside, simulated = _rated(params, questions)
        judged, failed = _judged(params, paths)
        proxies = frozenset({"bertscore", *(name for name, judge in params.judges.items() if judge.backend == "likelihood")})
        families = {name: judge.family for name, judge in params.judges.items() if judge.family}
        found = panels(rated, judged, settings.cluster, {"bertscore"}, _attributes_of(params, questions), families, proxies)
        metrics = outcome.write(found, settings, paths, True, simulated, _positions(params, paths, questions))
        metrics.update(ratings_set_aside=aside, judgements_failed=failed)
        write_json(paths.metrics("correlate"), metrics)
        record.update(settings=asdict(settings), simulated=simulated)


def _questions(params: Params, paths: Paths) -> list[Question]:
    """Every model's reply (its first sample) to every test dialogue."""
    dialogues = {d.dialogue_id: d for d in read_jsonl(paths.part("test"), Dialogue)}
    return [
        Question(dialogues[reply.dialogue_id], model, reply.text)
        for model in params.models
        for reply in read_jsonl(paths.replies(model), Reply)
        if reply.sample == 0 and reply.dialogue_id in dialogues
    ]


def _rated(params: Params, questions: list[Question]) -> tuple["pd.DataFrame", int, bool]:
    """Ratings of the words at hand; how many were of other words; whether raters are simulated."""
    import pandas as pd

    from emplifai.records import sha256

    files = rating_files(params.data.ratings)
    if not files:
        made = simulation.simulate(
            questions,
            params.correlate.simulated_raters,
            params.correlate.simulated_items,
            params.judge.criteria,
            params.judge.scale,
            params.correlate.seed,
        )
        if not made:
            raise UserError(f"{params.data.ratings}: no rating, and correlate.simulated_raters is 0")
        print(f"{params.data.ratings} holds no rating: SIMULATED raters take the place of people", file=sys.stderr)
        return pd.DataFrame([asdict(rating) for rating in made]), 0, True
    table = _read_all(files, params.judge.scale)
    words = {(q.dialogue.dialogue_id, q.model): sha256(q.text) for q in questions}
    same = [words.get((r.dialogue_id, r.model)) == r.text_sha256 for r in table.itertuples()]
    aside = len(same) - sum(same)
    if aside:
        print(f"{params.data.ratings}: {aside} of {len(same)} ratings are of other words than these: set aside", file=sys.stderr)
    if not any(same):
        raise UserError(f"{params.data.ratings}: none of the {len(same)} ratings is of the replies at hand (text_sha256 differs)")
    simulated = "simulated" in table and table["simulated"].str.lower().isin(["true", "1"]).any()
    return table[same].reset_index(drop=True), aside, bool(simulated)


def _read_all(files: list[Path], scale: tuple[float, float]) -> "pd.DataFrame":
    """All files of ratings as one table; a rating may stand in one of them only."""
    import pandas as pd

    tables, faults = [], []
    for file in files:
        table = ratings.read_scores(file, "rater_id", scale, strict=True)
        faults += [f"{file}: no column {name!r}" for name in ("model", "text_sha256") if name not in table]
        tables.append(table.assign(file=str(file)))
    if faults:
        raise UserError(*faults)
    table = pd.concat(tables, ignore_index=True)
    again = table[table.duplicated(["rater_id", *ratings.KEYS])]
    if len(again):
        first = again.iloc[0]
        raise UserError(
            f"{first['file']}: {len(again)} ratings stand in another file too, first: rater {first['rater_id']}, "
            f"{first['dialogue_id']}, {first['model']}, {first['criterion']}"
        )
    return table


def _judged(params: Params, paths: Paths) -> tuple["pd.DataFrame", int]:
    """Judgements that have a number, and BERTScore F1 as one more judge of every criterion; how many have none."""
    import pandas as pd

    rows, failed = [], 0
    for judge in params.judges:
        for model in params.models:
            for record in read_jsonl(paths.judgements(judge, model), Judgement):
                failed += record.score is None
                if record.score is not None:
                    rows.append((judge, record.dialogue_id, model, record.criterion, record.score, record.sample))
    for model in params.models:
        for record in read_jsonl(paths.scores(model), Score):
            if record.task == "reply" and record.sample == 0 and record.f1 is not None:
                rows += [("bertscore", record.dialogue_id, model, c, record.f1, 0) for c in params.judge.criteria]
    return pd.DataFrame(rows, columns=["judge", "dialogue_id", "model", "criterion", "score", "sample"]), failed


def _positions(params: Params, paths: Paths, questions: list[Question]) -> dict[tuple[str, str], tuple[list[float], list[str]]]:
    """Of each pair that a judge was asked about and decided: whether it chose the reply that it read first; and the situation."""
    situations = {q.dialogue.dialogue_id: q.dialogue.situation_id for q in questions}
    found: dict[tuple[str, str], tuple[list[float], list[str]]] = {}
    for judge in params.judges:
        for row in read_jsonl(paths.pairs(judge), Comparison) if paths.pairs(judge).exists() else []:
            if row.choice in ("first", "second"):
                chosen, clusters = found.setdefault((judge, row.criterion), ([], []))
                chosen.append(float(row.choice == "first"))
                clusters.append(situations[row.dialogue_id])
    return found


def _attributes_of(params: Params, questions: list[Question]) -> "pd.DataFrame":
    import pandas as pd

    rows = [
        (q.dialogue.dialogue_id, q.model, q.dialogue.situation_id, q.dialogue.emotion, params.models[q.model].family, len(q.text))
        for q in questions
    ]
    return pd.DataFrame(rows, columns=["dialogue_id", "model", *ATTRIBUTES]).set_index(["dialogue_id", "model"])

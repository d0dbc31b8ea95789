"""Compare judges and BERTScore with human ratings: the stage, and the same for anyone's tables."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emplifai import agreement, audit, comparisons, provenance, ratings, simulation, stand_in
from emplifai.agreement import Settings
from emplifai.errors import UserError
from emplifai.panel import Panel, panels
from emplifai.params import Params
from emplifai.paths import Paths, rating_files
from emplifai.records import Dialogue, Judgement, Question, Reply, Score, read_jsonl, write_csv, write_json
from emplifai.statistics.bootstrap import mean_interval

if TYPE_CHECKING:
    import argparse

    import pandas as pd

ATTRIBUTES = ("situation_id", "emotion", "family", "length")  # family: of the model; length: of the reply, in characters
SYSTEMS = (
    "model", "criterion", "judge", "n_rated", "human_mean", "human_low", "human_high",
    "n_judged", "judge_mean", "judge_low", "judge_high",
)  # fmt: skip


def run(params: Params, paths: Paths) -> None:
    """The stage. Writes items.csv, agreement.csv, systems.csv, metrics.json and run.json."""
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
    with provenance.record(paths.record("correlate"), "correlate", params.section("correlate"), inputs) as record:
        questions = _questions(params, paths)
        rated, aside, simulated = _rated(params, questions)
        judged, failed = _judged(params, paths)
        proxies = frozenset({"bertscore", *(name for name, judge in params.judges.items() if judge.backend == "likelihood")})
        families = {name: judge.family for name, judge in params.judges.items() if judge.family}
        found = panels(rated, judged, settings.cluster, {"bertscore"}, _attributes_of(params, questions), families, proxies)
        metrics = _write(found, settings, paths, models=True, simulated=simulated)
        metrics.update(ratings_set_aside=aside, judgements_failed=failed)
        write_json(paths.metrics("correlate"), metrics)
        record.update(settings=asdict(settings), simulated=simulated)


def from_tables(args: "argparse.Namespace") -> None:
    """`emplifai correlate --ratings R.csv --judgements J.csv --out DIR`."""
    low, high = args.scale
    checks = {
        "give both --ratings and --judgements": args.ratings and args.judgements,
        "give --out DIR, the folder to write to": args.out,
        "--scale LOW HIGH: must rise, for example --scale 1 5": low < high,
        "--resamples: at least 100": args.resamples >= 100,
        "--epsilon: from 0 to 1": 0 <= args.epsilon <= 1,
        "--seed: 0 or more": args.seed >= 0,
    }
    if faults := [fault for fault, good in checks.items() if not good]:
        raise UserError(*faults)
    settings = Settings((low, high), args.cluster, tuple(args.by), resamples=args.resamples, epsilon=args.epsilon, seed=args.seed)
    compare(args.ratings, args.judgements, settings, Paths(folders={"correlate": args.out}))


def compare(ratings_path: Path, judgements_path: Path, settings: Settings, paths: Paths) -> None:
    """The same for anyone's tables: rater_id or judge, dialogue_id, model, criterion, score, and columns to group by."""
    rated = ratings.read_scores(ratings_path, "rater_id", settings.scale, strict=True)
    judged = ratings.read_scores(judgements_path, "judge", settings.scale, strict=False)
    own = ratings.own_scale(judgements_path, judged, settings.scale)
    for judge in sorted(own):
        print(
            f"{judgements_path}: judge {judge}: most scores lie outside {settings.scale}: taken as its own scale", file=sys.stderr
        )
    models = "model" in rated and "model" in judged
    if ("model" in rated) != ("model" in judged):
        missing = judgements_path if "model" in rated else ratings_path
        raise UserError(f"{missing}: no column 'model', but the other table has one; leave it out of both for one system")
    if not models:
        rated, judged = rated.assign(model=""), judged.assign(model="")
    settings = _grouping(ratings_path, judgements_path, rated, judged, settings)
    attributes = _attributes(rated, judged, settings, ratings_path, judgements_path)
    found = panels(rated, judged, settings.cluster, own, attributes, _families(judged))
    _check_overlap(ratings_path, judgements_path, found)
    simulated = "simulated" in rated and bool(rated["simulated"].str.lower().isin(["true", "1", "yes"]).any())
    inputs = [ratings_path, judgements_path]
    with provenance.record(paths.record("correlate"), "correlate", _plain(settings), inputs) as record:
        metrics = _write(found, settings, paths, models, simulated)
        write_json(paths.metrics("correlate"), metrics)
        record["simulated"] = simulated


def _plain(settings: Settings) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(settings)))


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


def _attributes_of(params: Params, questions: list[Question]) -> "pd.DataFrame":
    import pandas as pd

    rows = [
        (q.dialogue.dialogue_id, q.model, q.dialogue.situation_id, q.dialogue.emotion, params.models[q.model].family, len(q.text))
        for q in questions
    ]
    return pd.DataFrame(rows, columns=["dialogue_id", "model", *ATTRIBUTES]).set_index(["dialogue_id", "model"])


def _grouping(ratings_path, judgements_path, rated, judged, settings: Settings) -> Settings:
    """The cluster column that there is, and all columns to group by, or UserError."""
    from dataclasses import replace

    there = list(dict.fromkeys([*rated.columns, *judged.columns]))
    if not settings.cluster:
        settings = replace(settings, cluster="situation_id" if "situation_id" in there else "dialogue_id")
    reserved = {"rater_id", "judge", "score", "criterion", "sample"}
    wrong = [c for c in (settings.cluster, *settings.by) if c not in there or c in reserved]
    if wrong:
        usable = ", ".join(c for c in there if c not in reserved)
        raise UserError(*(f"{ratings_path}, {judgements_path}: no column {c!r} to group by; there are: {usable}" for c in wrong))
    return settings


def _attributes(rated, judged, settings: Settings, *files: Path) -> "pd.DataFrame":
    """What is known of each item, from either table. UserError where they differ."""
    import pandas as pd

    keys = ["dialogue_id", "model"]
    wanted = [c for c in dict.fromkeys([settings.cluster, *settings.by, *ATTRIBUTES]) if c not in keys]
    both = pd.concat([t.reindex(columns=[*keys, *wanted]).astype("str") for t in (rated, judged)], ignore_index=True)
    items = both[keys].drop_duplicates().set_index(keys).sort_index()
    for name in wanted:
        known = both[both[name].fillna("") != ""]
        by_item = known.groupby(keys)[name]
        if (clash := by_item.nunique()).gt(1).any():
            item = clash.index[clash.gt(1)][0]
            raise UserError(f"{files[0]}, {files[1]}: dialogue {item[0]}, model {item[1]!r} has more than one {name}")
        by_dialogue = known.groupby("dialogue_id")[name]
        shared = by_dialogue.first()[by_dialogue.nunique() == 1]
        dialogue = items.index.get_level_values("dialogue_id")
        items[name] = by_item.first().reindex(items.index).fillna(pd.Series(shared.reindex(dialogue).to_numpy(), items.index))
    if "length" in items:
        items["length"] = pd.to_numeric(items["length"], errors="coerce")
    if settings.cluster in items and items[settings.cluster].isna().any():
        item = items.index[items[settings.cluster].isna()][0]
        raise UserError(f"{files[0]}, {files[1]}: dialogue {item[0]}, model {item[1]!r} has no {settings.cluster}")
    return items[[c for c in items if items[c].notna().any()]]


def _families(judged: "pd.DataFrame") -> dict[str, str]:
    """The judges' families, where the table has a column judge_family."""
    if "judge_family" not in judged:
        return {}
    known = judged[judged["judge_family"] != ""]
    return known.groupby("judge")["judge_family"].first().to_dict()


def _check_overlap(ratings_path: Path, judgements_path: Path, found: list[Panel]) -> None:
    if any((np.isfinite(s) & (p.count > 0)).any() for p in found for s in p.judges.values()):
        return
    rated = [p for p in found if p.raters]
    judged = [p for p in found if p.judges]
    raise UserError(
        f"{ratings_path} and {judgements_path} have no item in common: the same dialogue_id, model and criterion must stand in "
        f"both. Criteria of the ratings: {', '.join(p.criterion for p in rated)}; of the judgements: "
        f"{', '.join(p.criterion for p in judged)}. First dialogue of each: {rated[0].items['dialogue_id'][0]}, "
        f"{judged[0].items['dialogue_id'][0]}"
    )


def _write(found: list[Panel], settings: Settings, paths: Paths, models: bool, simulated: bool) -> dict[str, float]:
    """All tables and the verdict; returns the metrics."""
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    mark = {"simulated": "true"} if simulated else {}

    def write(name: str, rows: list[dict[str, Any]], columns: Iterable[str]) -> None:
        write_csv(paths.table(name), [row | mark for row in rows], [*columns, *mark])

    # The products are small: threads that wait for each other on busy cores take many times longer than one.
    with threadpool_limits(1, "blas"):
        agreed, audited = agreement.table(found, settings, models), audit.table(found, settings)
        compared = comparisons.table(found, settings, models)
    items = [row for panel in found for row in _items(panel)]
    write("agreement", agreed, agreement.COLUMNS)
    write("bias", audited, agreement.COLUMNS)
    write("comparisons", compared, comparisons.COLUMNS)
    write("items", items, dict.fromkeys(k for row in items for k in row))
    write("systems", [row for panel in found for row in _systems(panel, settings)], SYSTEMS)
    write_json(paths.verdict, stand_in.verdict(found, agreed, audited, settings, models, simulated))
    return _metrics(agreed, found, simulated)


def _items(panel: Panel) -> list[dict[str, Any]]:
    rows = []
    human, median, count = panel.human, panel.median, panel.count
    for i, item in enumerate(panel.items.to_dict("records")):
        scores = {f"judge_{name}": _number(score[i]) for name, score in panel.judges.items()}
        rated = {"criterion": panel.criterion, "human_mean": _number(human[i]), "human_median": _number(median[i])}
        rows.append(item | rated | {"n_raters": int(count[i])} | scores)
    return rows


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _systems(panel: Panel, settings: Settings) -> list[dict[str, Any]]:
    rows = []
    for model in sorted(panel.items["model"].unique()):
        part = (panel.items["model"] == model).to_numpy()
        human = _mean(panel.human[part], panel.cluster[part], settings)
        for judge, scores in panel.judges.items():
            mean = _mean(scores[part], panel.cluster[part], settings)
            rows.append(dict(zip(SYSTEMS, (model, panel.criterion, judge, *human, *mean), strict=True)))
    return rows


def _mean(values: np.ndarray, cluster: np.ndarray, settings: Settings) -> tuple:
    known = np.isfinite(values)
    found = mean_interval(values[known], cluster[known], settings.confidence, settings.resamples, settings.seed)
    return found.n, found.estimate, found.low, found.high


def _metrics(rows: list[dict[str, Any]], found: list[Panel], simulated: bool) -> dict[str, float]:
    """The key figures, flat: CRITERION/JUDGE/LEVEL/STATISTIC; a figure that is undefined is left out."""
    metrics: dict[str, float] = {"simulated": int(simulated)}
    for panel in found:
        metrics[f"{panel.criterion}/ratings"] = int(panel.count.sum())
        metrics[f"{panel.criterion}/raters"] = len(panel.raters)
    kept = ("spearman", "pearson", "kendall_tau_b", "weighted_kappa", "bias", "krippendorff_ordinal", "icc_ak",
            "leave_one_out_spearman", "alt_test_winning_rate", "alt_test_advantage", "pairwise_accuracy")  # fmt: skip
    for row in rows:
        if row["estimate"] is not None and row["statistic"] in kept and row["group"] in ("", "mean"):
            name = f"{row['criterion']}/{row['judge'] or 'raters'}/{row['level']}/{row['statistic']}"
            metrics[name.replace("/raters/raters/", "/raters/")] = row["estimate"]
    return metrics

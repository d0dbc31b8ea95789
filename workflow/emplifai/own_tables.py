"""`emplifai correlate --ratings R.csv --judgements J.csv`: the same tables for anyone's data, without params.yaml or results."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emplifai import outcome, provenance, ratings
from emplifai.errors import UserError
from emplifai.panel import ATTRIBUTES, Panel, panels
from emplifai.paths import Paths
from emplifai.ratings import HUGE
from emplifai.records import write_json
from emplifai.rows import Settings

if TYPE_CHECKING:
    import argparse

    import pandas as pd


def from_tables(args: "argparse.Namespace") -> None:
    """`emplifai correlate --ratings R.csv --judgements J.csv --out DIR`."""
    low, high = args.scale
    checks = {
        "give both --ratings and --judgements": args.ratings and args.judgements,
        "give --out DIR, the folder to write to": args.out,
        "--scale LOW HIGH: two finite numbers that rise, for example --scale 1 5": -HUGE < low < high < HUGE,
        "--resamples: at least 100": args.resamples >= 100,
        "--epsilon: from 0 to 1": 0 <= args.epsilon <= 1,
        "--seed: 0 or more": args.seed >= 0,
    }
    if faults := [fault for fault, good in checks.items() if not good]:
        raise UserError(*faults)
    settings = Settings(
        (low, high), args.cluster, tuple(dict.fromkeys(args.by)), resamples=args.resamples, epsilon=args.epsilon, seed=args.seed
    )
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
    settings = _grouping(ratings_path, judgements_path, rated, judged, settings)
    if not models:
        rated, judged = rated.assign(model=""), judged.assign(model="")
    if "mean" in {*rated["model"], *judged["model"]}:
        raise UserError(f"{ratings_path}, {judgements_path}: a model is named 'mean', as the mean over models is; rename it")
    attributes = _attributes(rated, judged, settings, ratings_path, judgements_path)
    found = panels(rated, judged, settings.cluster, own, attributes, _families(judged))
    _check_overlap(ratings_path, judgements_path, found)
    simulated = "simulated" in rated and bool(rated["simulated"].str.lower().isin(["true", "1", "yes"]).any())
    inputs = [ratings_path, judgements_path]
    with provenance.record(paths.record("correlate"), "correlate", _plain(settings), inputs) as record:
        metrics = outcome.write(found, settings, paths, models, simulated)
        write_json(paths.metrics("correlate"), metrics)
        record["simulated"] = simulated


def _plain(settings: Settings) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(settings)))


def _grouping(ratings_path, judgements_path, rated, judged, settings: Settings) -> Settings:
    """The cluster column that there is, and all columns to group by, or UserError."""
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
            message = f"{files[0]}, {files[1]}: dialogue {item[0]}, model {item[1]!r} has more than one {name}"
            if name in (settings.cluster, *settings.by):
                raise UserError(message)
            print(f"{message}: the column is not used", file=sys.stderr)
            continue
        by_dialogue = known.groupby("dialogue_id")[name]
        shared = by_dialogue.first()[by_dialogue.nunique() == 1]
        dialogue = items.index.get_level_values("dialogue_id")
        items[name] = by_item.first().reindex(items.index).fillna(pd.Series(shared.reindex(dialogue).to_numpy(), items.index))
    if "length" in items:
        items["length"] = pd.to_numeric(items["length"], errors="coerce").replace([np.inf, -np.inf], np.nan)
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

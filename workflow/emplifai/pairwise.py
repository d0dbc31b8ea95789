"""The second method over the same replies: which of two is better, asked in both orders; Bradley-Terry scores of the systems."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from emplifai.params import Params
from emplifai.records import Comparison, Dialogue, Pair, Question, sha256
from emplifai.statistics.bootstrap import Interval, mean_interval

SAME = "the same text"  # `raw` of a comparison that was not asked: such replies are a tie by themselves


def pairs(asked: Mapping[str, Sequence[Question]], test: Sequence[Dialogue], params: Params) -> list[Pair]:
    """Each two systems' replies to the chosen dialogues, in both orders. asked: replies by system."""
    settings = params.judge.pairwise
    texts = {(q.dialogue.dialogue_id, model): q for model, rows in asked.items() for q in rows}
    found = []
    for dialogue in chosen(test, settings.dialogues):
        there = [texts[key] for model in asked if (key := (dialogue.dialogue_id, model)) in texts]
        for criterion in settings.criteria:
            for a, b in combinations(there, 2):
                found += [Pair(a, b, criterion), Pair(b, a, criterion)]
    return found


def chosen(test: Sequence[Dialogue], count: int | None) -> list[Dialogue]:
    """`count` dialogues by hash, the situations in turn; in the order of `test`."""
    groups: dict[str, list[Dialogue]] = defaultdict(list)
    for dialogue in sorted(test, key=lambda d: sha256(f"pairs {d.dialogue_id}")):
        groups[dialogue.situation_id].append(dialogue)
    turns = [(k, sha256(situation), d.dialogue_id) for situation, ds in groups.items() for k, d in enumerate(ds)]
    kept = {dialogue for *_, dialogue in sorted(turns)[:count]}
    return [d for d in test if d.dialogue_id in kept]


def metrics(rows: Sequence[Comparison], test: Sequence[Dialogue], params: Params) -> dict[str, float | int | None]:
    """Flat numbers under pairwise.CRITERION, those with an interval also with _low, _high and _n.

    MODEL.score: Bradley-Terry score, mean 0 over the systems; MODEL.wins: share of its comparisons won, ties half;
    first_share: of the decided answers those that chose the reply read first, 0.5 where position does not matter;
    consistent: share of pairs whose two orders name the same winner or both a tie; ties; failed_share.
    """
    situations = {d.dialogue_id: d.situation_id for d in test}
    numbers: dict[str, float | int | None] = {}
    for criterion in dict.fromkeys(row.criterion for row in rows):
        part, before = [row for row in rows if row.criterion == criterion], f"pairwise.{criterion}"
        for key, interval in {**_position(part, situations, params), **_strengths(part, situations, params)}.items():
            numbers |= _flat(f"{before}.{key}", interval)
        told, failed = _told(part), [row for row in part if row.status != "ok"]
        numbers[f"{before}.failed_share"] = len(failed) / len(part)
        numbers[f"{before}.ties"] = sum(row.choice == "tie" for row in told) / len(told) if told else None
    return numbers


def _resampling(params: Params) -> tuple[float, int, int]:
    return params.correlate.confidence, params.correlate.resamples, params.correlate.seed


def _told(rows: Iterable[Comparison]) -> list[Comparison]:
    """What the judge was asked and answered."""
    return [row for row in rows if row.status == "ok" and row.raw != SAME]


def _position(rows: Sequence[Comparison], situations: Mapping[str, str], params: Params) -> dict[str, Interval]:
    decided = [row for row in _told(rows) if row.choice != "tie"]
    orders: dict[tuple, list[str]] = defaultdict(list)
    for row in _told(rows):
        orders[(row.dialogue_id, *sorted((row.first, row.second)))].append(winner(row))
    both = {key: winners for key, winners in orders.items() if len(winners) == 2}
    same = [float(a == b) for a, b in both.values()]
    return {
        "first_share": mean_interval(
            [row.choice == "first" for row in decided], [situations[row.dialogue_id] for row in decided], *_resampling(params)
        ),
        "consistent": mean_interval(same, [situations[key[0]] for key in both], *_resampling(params)),
    }


def winner(row: Comparison) -> str:
    """The system that was preferred; "" for a tie."""
    return {"first": row.first, "second": row.second}.get(row.choice or "", "")


def _strengths(rows: Sequence[Comparison], situations: Mapping[str, str], params: Params) -> dict[str, Interval]:
    from emplifai.statistics.bradley_terry import intervals

    known = [row for row in rows if row.status == "ok"]
    models = list(dict.fromkeys(model for row in rows for model in (row.first, row.second)))
    if not known:
        return {}
    wins, clusters = _wins(known, models), [situations[row.dialogue_id] for row in known]
    found = {f"{m}.score": i for m, i in zip(models, intervals(wins, clusters, *_resampling(params)), strict=True)}
    for k, model in enumerate(models):
        of = np.flatnonzero(wins[:, k].sum(1) + wins[:, :, k].sum(1))
        found[f"{model}.wins"] = mean_interval(wins[of, k].sum(1), [clusters[n] for n in of], *_resampling(params))
    return found


def _wins(rows: Sequence[Comparison], models: Sequence[str]) -> np.ndarray:
    """(rows, systems, systems): 1 at [winner, loser]; a tie is half at both places."""
    at = {model: k for k, model in enumerate(models)}
    wins = np.zeros((len(rows), len(models), len(models)))
    for table, row in zip(wins, rows, strict=True):
        share = {"first": 1.0, "second": 0.0, "tie": 0.5}[row.choice]
        table[at[row.first], at[row.second]], table[at[row.second], at[row.first]] = share, 1 - share
    return wins


def _flat(key: str, interval: Interval) -> dict[str, float | int | None]:
    return {key: interval.estimate, f"{key}_low": interval.low, f"{key}_high": interval.high, f"{key}_n": interval.n}

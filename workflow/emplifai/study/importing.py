"""Ratings of any source into data/ratings: each one checked, nothing dropped without being listed."""

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from emplifai import simulation
from emplifai.errors import UserError
from emplifai.params import Params
from emplifai.paths import Paths, rating_files
from emplifai.records import CRITERIA, Rating, read_json, sha256, write_csv, write_jsonl
from emplifai.study import exports, project, quality
from emplifai.study.exports import Row
from emplifai.study.store import Store

SHOWN = 20  # lines of the list that are printed
COLUMNS = [f.name for f in fields(Rating)]
Words = dict[tuple[str, str], str]  # digest of the reply at hand, by dialogue and model


@dataclass(slots=True)
class Listed:
    """What the user should know of a rating. kept: it is in the CSV all the same."""

    row: Row
    reason: str
    kept: bool


def run(params: Params, paths: Paths, source: Path, to: Path | None, key: Path | None) -> None:
    """Write SOURCE's good ratings as CSV and list all others, and those of words that have changed since, beside it."""
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    to = to or params.data.ratings / f"{source.resolve().name if source.is_dir() else source.stem}.csv"
    if to.resolve() == source.resolve():
        raise UserError(f"{source}: is where the ratings would go; give another --to, or leave it: it is read from there")
    own = (source / "design.json").exists()
    rows = _own(source) if own else exports.read(source, key)
    words = _words(params, paths)
    good, listed = check(rows, words, params.judge.scale)
    if not good and rows:
        _list(to, listed)
        raise UserError(f"{source}: none of {len(rows)} ratings can be used; {_summary(listed)}")
    if not good:
        stale = f"; {to} is of an earlier import: delete it" if to.exists() else ""
        raise UserError(f"{source}: holds no rating{stale}")
    write(to, good)
    _list(to, listed)
    print(f"{to}: {len(good)} ratings of {len({r.rater_id for r in good})} raters. {_summary(listed)}", file=sys.stderr)


def simulate(params: Params, paths: Paths, seed: int | None, to: Path | None) -> None:
    """Write simulated raters of the replies at hand; each row says `simulated: true`."""
    to = to or params.data.ratings / "simulated.csv"
    people = [f for f in rating_files(params.data.ratings) if f.resolve() != to.resolve()]
    if people and to.resolve().parent == params.data.ratings.resolve():
        raise UserError(
            f"{params.data.ratings} holds ratings ({people[0].name}): with simulated ones beside them everything made from that "
            "folder would be marked simulated; give --to a file elsewhere"
        )
    asked = params.correlate
    rated, _ = project.questions(params, paths, params.models)
    seed = asked.seed if seed is None else seed
    raters = asked.simulated_raters or 5
    made = simulation.simulate(rated, raters, asked.simulated_items, params.judge.criteria, params.judge.scale, seed)
    write(to, made)
    print(f"{to}: {len(made)} ratings of {raters} SIMULATED raters", file=sys.stderr)


def write(to: Path, ratings: Sequence[Rating]) -> None:
    """The Rating contract as CSV, in an order that does not depend on the source's."""
    rows = [asdict(r) | {"score": f"{r.score:g}", "simulated": str(r.simulated).lower()} for r in ratings]
    write_csv(to, sorted(rows, key=lambda r: (r["rater_id"], r["dialogue_id"], r["model"], r["criterion"])), COLUMNS)


def check(rows: Sequence[Row], words: Words | None, scale: tuple[int, int]) -> tuple[list[Rating], list[Listed]]:
    """The ratings that can be used, and all that there is to say of the others."""
    good: list[tuple[Row, Rating]] = []
    listed: list[Listed] = []
    for row in rows:
        rating, fault = _rating(row, words, scale)
        if rating is None:
            listed.append(Listed(row, fault, False))
        else:
            good.append((row, rating))
    good, again = _single(good)
    return [rating for _, rating in good], [*listed, *again, *_of_other_words(good, words)]


def _rating(row: Row, words: Words | None, scale: tuple[int, int]) -> tuple[Rating | None, str]:
    """The rating of a row, or what is wrong with it."""
    if not row.rater_id:
        return None, "no rater_id"
    if not (row.dialogue_id and row.model):
        return None, "unknown item: neither dialogue_id and model, nor an id that --key FILE names"
    if row.criterion not in CRITERIA:
        return None, f"criterion {row.criterion!r}; allowed: {', '.join(CRITERIA)}"
    if row.score.strip() == "":
        return None, "no score"
    try:
        score = float(row.score)
    except ValueError:
        score = math.nan
    if not (math.isfinite(score) and score == int(score) and scale[0] <= score <= scale[1]):
        return None, f"score {row.score[:40]!r}; allowed: a whole number from {scale[0]} to {scale[1]}"
    text = row.text_sha256 or (words or {}).get((row.dialogue_id, row.model), "")
    if not text:
        unknown = "no such reply in results/generate" if words else "no results/generate to take it from"
        return None, f"unknown item: no text_sha256, and {unknown}"
    named = (row.rater_id, row.dialogue_id, row.model, row.criterion)
    return Rating(*named, int(score), text, row.rated_at, row.simulated), ""


def _single(good: list[tuple[Row, Rating]]) -> tuple[list[tuple[Row, Rating]], list[Listed]]:
    """One rating of a rater, reply and criterion. Of several equal ones the first stands; of several unequal ones none."""
    groups: dict[tuple[str, ...], list[tuple[Row, Rating]]] = defaultdict(list)
    for row, rating in good:
        groups[rating.rater_id, rating.dialogue_id, rating.model, rating.criterion].append((row, rating))
    single, listed = [], []
    for group in groups.values():
        equal = len({(r.score, r.text_sha256) for _, r in group}) == 1
        single += group[:1] if equal else []
        scores = ", ".join(f"{r.score:g}" for _, r in group)
        reason = "duplicate: the same rating came before" if equal else f"duplicate: several scores ({scores}), none is taken"
        listed += [Listed(row, reason, False) for row, _ in (group[1:] if equal else group)]
    return single, listed


def _of_other_words(good: list[tuple[Row, Rating]], words: Words | None) -> list[Listed]:
    """Ratings of replies that are not, or not so, in results/generate. They are kept: correlate sets them aside."""
    if words is None:
        return []
    found = []
    for row, rating in good:
        now = words.get((rating.dialogue_id, rating.model))
        if now != rating.text_sha256:
            reason = "no such reply in results/generate" if now is None else "the reply's words have changed since"
            found.append(Listed(row, f"{reason}; kept, and set aside by correlate", True))
    return found


def _words(params: Params, paths: Paths) -> Words | None:
    """None where the models have not answered here."""
    try:
        rated, _ = project.questions(params, paths, params.models)
    except UserError as error:
        print(f"ratings are not compared with replies: {error.faults[0]}", file=sys.stderr)
        return None
    return {(q.dialogue.dialogue_id, q.model): sha256(q.text) for q in rated}


def _list(to: Path, listed: Sequence[Listed]) -> None:
    """All of the list in a file beside the CSV, its beginning on stderr."""
    file = to.with_suffix(".listed.jsonl")
    if not listed:
        file.unlink(missing_ok=True)
        return
    write_jsonl(file, ({"reason": entry.reason, "kept": entry.kept, **asdict(entry.row)} for entry in listed))
    for entry in listed[:SHOWN]:
        row = entry.row
        named = ", ".join(part for part in (row.rater_id, row.dialogue_id, row.model, row.criterion) if part)
        print(f"{'note' if entry.kept else 'left out'}: {row.where} ({named}): {entry.reason}", file=sys.stderr)
    if len(listed) > SHOWN:
        print(f"and {len(listed) - SHOWN} more; all of them: {file}", file=sys.stderr)


def _summary(listed: Sequence[Listed]) -> str:
    out, kept = sum(not e.kept for e in listed), sum(e.kept for e in listed)
    return f"{out} left out, {kept} of other words than the replies at hand" if listed else "None left out"


def _own(folder: Path) -> list[Row]:
    """The first ratings of a project's items; second copies and checks go to the project's quality.csv."""
    study = project.load(folder)
    key = read_json(folder / "key.json")["items"]
    with Store(study.database) as store:
        given, raters = store.ratings(), store.raters()
    _tell(raters, given, study)
    quality.write(folder / "quality.csv", given, key, study)
    return [_own_row(folder, rating, key[rating[1]]) for rating in given if key[rating[1]]["kind"] == "item"]


def _own_row(folder: Path, rating: tuple, item: dict[str, Any]) -> Row:
    rater, _, position, criterion, score, at = rating
    where = f"{folder}: position {position + 1}"
    return Row(where, rater, item["dialogue_id"], item["model"], criterion, str(score), item["text_sha256"], at)


def _tell(raters, given, study: project.Project) -> None:
    """How far each rater is; who refused or withdrew is not left out silently."""
    done = Counter(rater for rater, *_ in given)
    for rater in raters:
        total = len(study.orders[rater.rater_id]) * len(study.criteria)
        state = "withdrew, nothing kept" if rater.withdrawn else "refused" if rater.consent == "refused" else ""
        print(f"{rater.rater_id}: {state or f'{done[rater.rater_id]} of {total} ratings'}", file=sys.stderr)

"""Ratings as other tools write them: plain CSV, Label Studio's JSON, Potato's folder or CSV. Read as they are; checked later."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emplifai import ratings
from emplifai.errors import UserError
from emplifai.records import CRITERIA, read_json, sha256


@dataclass(slots=True)
class Row:
    """A rating as it was found: all cells are text. where: file and place in it."""

    where: str
    rater_id: str
    dialogue_id: str
    model: str
    criterion: str
    score: str
    text_sha256: str = ""
    rated_at: str = ""
    simulated: bool = False


Key = dict[str, tuple[str, str, str]]  # id of an item: dialogue_id, model, text_sha256


def read(source: Path, key: Path | None) -> list[Row]:
    """All ratings of an export, by what the source is. Raises UserError for a source of no known kind."""
    known = _key(key) if key else {}
    if source.is_dir():
        files = sorted([*source.glob("*/user_state.json"), *source.glob("annotation_output/*/user_state.json")])
        if not files:
            raise UserError(f"{source}: neither a rating project (design.json) nor Potato's folder (RATER/user_state.json)")
        return [row for file in files for row in _potato(file, known)]
    if source.suffix.lower() == ".json":
        return list(_label_studio(source, known))
    if source.suffix.lower() not in (".csv", ".tsv"):
        raise UserError(f"{source}: allowed: a project or Potato folder, .csv, or Label Studio's .json")
    return _csv(source, known)


def _key(path: Path) -> Key:
    """item_id, dialogue_id, model and perhaps text_sha256."""
    table = ratings.read_text(path)
    ratings.check_columns(path, table, ["item_id", "dialogue_id", "model"])
    if faults := [f"{path}: two rows of item_id {i}" for i in table["item_id"][table["item_id"].duplicated()].unique()]:
        raise UserError(*faults)
    rows = table.to_dict("records")
    return {r["item_id"]: (r["dialogue_id"], r["model"], r.get("text_sha256") or "") for r in rows}


def _named(item: str, key: Key) -> tuple[str, str, str]:
    """Dialogue, model and digest of an item: by the key, or from an id of the form DIALOGUE|MODEL."""
    dialogue, _, model = item.partition("|")
    return key.get(item, (dialogue, model, "") if model else ("", "", ""))


def _csv(path: Path, key: Key) -> list[Row]:
    table = ratings.read_text(path)
    if {"instance_id", "user_id"} <= set(table.columns):
        return [
            row for k, cells in enumerate(table.to_dict("records")) for row in _potato_row(f"{path}: row {k + 2}", cells, key)
        ]
    named = ["item_id"] if key and "item_id" in table else ["dialogue_id", "model"]
    ratings.check_columns(path, table, ["rater_id", *named, "criterion", "score"])
    return [_plain(f"{path}: row {k + 2}", cells, key) for k, cells in enumerate(table.fillna("").to_dict("records"))]


def _plain(where: str, cells: dict[str, str], key: Key) -> Row:
    found = _named(cells.get("item_id", ""), key) if "dialogue_id" not in cells else (cells["dialogue_id"], cells["model"], "")
    simulated = cells.get("simulated", "").lower() in ("true", "1", "yes") or cells["rater_id"].startswith("simulated")
    text = cells.get("text_sha256") or found[2]
    return Row(
        where, cells["rater_id"], *found[:2], cells["criterion"], cells["score"], text, cells.get("rated_at", ""), simulated
    )


def _potato_row(where: str, cells: dict[str, Any], key: Key) -> Iterator[Row]:
    """One row of Potato's CSV: a column QUESTION.ANSWER for each answer; several answers of one question are several ratings."""
    for name, value in cells.items():
        criterion, _, answer = str(name).partition(".")
        if criterion in CRITERIA and answer.isdigit() and isinstance(value, str) and value:
            found = _named(cells["instance_id"], key)
            yield Row(f"{where}, {name}, item {cells['instance_id']}", cells["user_id"], *found[:2], criterion, value, found[2])


def _potato(path: Path, key: Key) -> Iterator[Row]:
    """A rater's user_state.json: instance_id_to_label_to_value holds pairs of {schema, name} and value; saved unchecked."""
    state = read_json(path)
    try:
        answers, told = state["instance_id_to_label_to_value"], state.get("instance_id_to_behavioral_data") or {}
        for item, pairs in answers.items():
            changes = (told.get(item) or {}).get("annotation_changes") or []
            for label, value in pairs:
                times = [c["timestamp"] for c in changes if c.get("schema_name") == label["schema"] and c.get("timestamp")]
                at = datetime.fromtimestamp(max(times), UTC).isoformat(timespec="milliseconds") if times else ""
                dialogue, model, text = _named(item, key)
                where = f"{path}: item {item}"
                yield Row(where, str(state["user_id"]), dialogue, model, str(label["schema"]), str(value), text, at)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not Potato's user_state.json: {type(error).__name__}: {error}") from None


def _label_studio(path: Path, key: Key) -> Iterator[Row]:
    """Label Studio's JSON (tasks with annotations) or JSON-MIN (flat). Task data: dialogue_id and model, or item_id and a key."""
    tasks = read_json(path)
    if not isinstance(tasks, list) or not all(isinstance(t, dict) for t in tasks):
        raise UserError(f"{path}: not a Label Studio export: a list of tasks is needed")
    for number, task in enumerate(tasks, 1):
        where = f"{path}: task {task.get('id', number)}"
        try:
            full = isinstance(task.get("annotations"), list)
            yield from _annotations(where, task, key) if full else _flat(where, task, key)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(f"{where}: not as Label Studio exports it: {type(error).__name__}: {error}") from None


def _annotations(where: str, task: dict[str, Any], key: Key) -> Iterator[Row]:
    for annotation in task["annotations"]:
        if annotation.get("was_cancelled"):  # skipped by the rater
            continue
        rater = _pseudonym(annotation.get("completed_by"))
        at = annotation.get("updated_at") or annotation.get("created_at") or ""
        for result in annotation.get("result") or []:
            if result.get("from_name") in CRITERIA or result.get("type") in ("rating", "number"):
                yield _task_row(where, task["data"], key, rater, str(result["from_name"]), _value(result["value"]), at)


def _flat(where: str, task: dict[str, Any], key: Key) -> Iterator[Row]:
    for criterion in CRITERIA:
        if criterion in task:
            value = task[criterion]
            score = _value(value) if isinstance(value, dict) else str(value)
            at = task.get("updated_at") or task.get("created_at") or ""
            yield _task_row(where, task, key, _pseudonym(task.get("annotator")), criterion, score, at)


def _task_row(where: str, data: dict[str, Any], key: Key, rater: str, criterion: str, score: str, at: str) -> Row:
    item = str(data.get("item_id") or "")
    named = (str(data.get("dialogue_id") or ""), str(data.get("model") or ""), "")
    dialogue, model, text = named if all(named[:2]) else _named(item, key)
    known = str(data.get("text_sha256") or text or (sha256(data["reply"]) if isinstance(data.get("reply"), str) else ""))
    return Row(f"{where}{f', item {item}' if item else ''}", rater, dialogue, model, criterion, score, known, at)


def _value(value: dict[str, Any]) -> str:
    """The score of a Rating, Number or Choices tag."""
    for name in ("rating", "number"):
        if name in value:
            return str(value[name])
    return str(value["choices"][0]) if len(value["choices"]) == 1 else json.dumps(value["choices"], ensure_ascii=False)


def _pseudonym(rater: Any) -> str:
    """Label Studio's number of a user; an e-mail address becomes a digest."""
    if isinstance(rater, dict):
        rater = rater.get("id", rater.get("email"))
    return "" if rater in (None, "") else f"ls-{sha256(rater)[:10]}" if "@" in str(rater) else f"ls-{rater}"

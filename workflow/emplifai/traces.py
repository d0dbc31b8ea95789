"""Judged replies as traces, in plain JSON: what was judged, what judge and raters gave, and how far they are apart."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from emplifai.params import Params
from emplifai.paths import Paths, rating_files
from emplifai.records import Dialogue, Judgement, Question, Reply, digest, read_csv, read_jsonl, sha256

Trace = dict[str, Any]
Key = tuple[str, str]  # dialogue, system
Sent = dict[tuple[str, str, str, int], tuple[list, float | None]]  # dialogue, system, criterion, sample: messages, seconds


def collect(params: Params, paths: Paths, judge: str, job: str, mean: float | None) -> tuple[list[Trace], int]:
    """Traces of a judge, at most tracking.traces of them, rated replies first, and how many are left out.

    The one with the widest gap between judge and raters comes last: MLflow shows the newest first.
    job: key of the judge's run; with dialogue and system it makes the trace's id, so that a trace is never there twice.
    mean: seconds that a judgement of the job took on average, for judges that do not ask one question after the other.
    """
    replies = {(r.dialogue_id, m): r for m in params.models for r in _rows(paths.replies(m), Reply) if r.sample == 0}
    judged = _judged(params, paths, judge)
    keys = [key for key in judged if key in replies]
    ratings = _ratings(params, paths, replies)
    keys.sort(key=lambda key: (key not in ratings, sha256(" ".join(key))))
    dialogues = {d.dialogue_id: d for d in _rows(paths.part("test"), Dialogue)}
    chosen = [key for key in keys if key[0] in dialogues][: params.tracking.traces]
    sent = _sent(params, paths, judge, [Question(dialogues[key[0]], key[1], replies[key].text) for key in chosen])
    calls = {key: [_call(row, sent, mean) for row in judged[key]] for key in chosen}
    made = [
        _trace(params, judge, job, dialogues[key[0]], replies[key], judged[key], ratings.get(key, [])) | {"calls": calls[key]}
        for key in chosen
    ]
    return sorted(made, key=_widest), len(keys) - len(made)


def _widest(trace: Trace) -> float:
    return next((a["value"] for a in trace["assessments"] if a["name"] == "disagreement"), -1.0)


def _sent(params: Params, paths: Paths, judge: str, questions: list[Question]) -> Sent:
    """What an LLM judge was asked, word for word, and how long its answer took; nothing for a judge that is not asked."""
    if params.judges[judge].backend != "openai":
        return {}
    from emplifai.backends import openai_judge

    return {
        (item.question.dialogue.dialogue_id, item.question.model, criterion, item.sample): (item.request["messages"], seconds)
        for item, seconds in openai_judge.asked(questions, judge, params, paths)
        for criterion in item.criteria
    }


def _rows(path, record) -> list:
    return list(read_jsonl(path, record)) if path.exists() else []


def _judged(params: Params, paths: Paths, judge: str) -> dict[Key, list[Judgement]]:
    found: dict[Key, list[Judgement]] = defaultdict(list)
    for model in params.models:
        for row in _rows(paths.judgements(judge, model), Judgement):
            found[row.dialogue_id, model].append(row)
    return found


def _ratings(params: Params, paths: Paths, replies: dict[Key, Reply]) -> dict[Key, list[dict[str, Any]]]:
    """Ratings of exactly these words: each person's own, or, where raters are simulated, their mean."""
    found: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for row in (row for file in rating_files(params.data.ratings) for row in read_csv(file.read_text("utf-8-sig"))):
        key = (row["dialogue_id"], row["model"])
        if key in replies and row.get("text_sha256") == replies[key].text_sha256:
            simulated = row.get("simulated", "").lower() in ("true", "1")
            found[key].append(_rating(row["criterion"], float(row["score"]), row["rater_id"], simulated))
    if not found and paths.table("items").exists():
        for row in read_csv(paths.table("items").read_text("utf-8")):
            if row.get("human_mean"):
                found[row["dialogue_id"], row["model"]].append(
                    _rating(row["criterion"], float(row["human_mean"]), f"mean of {row.get('n_raters', '')} raters", True)
                )
    return found


def _rating(criterion: str, score: float, who: str, simulated: bool) -> dict[str, Any]:
    """What is not from a person is not called so: simulated raters are CODE in MLflow, never HUMAN."""
    source = ("CODE", f"SIMULATED {who}") if simulated else ("HUMAN", who)
    return {"kind": "feedback", "name": criterion, "value": score, "source": source, "rationale": None, "error": None}


def _trace(params: Params, judge: str, job: str, dialogue: Dialogue, reply: Reply, rows: list[Judgement], ratings) -> Trace:
    name = f"{reply.model} {dialogue.dialogue_id}"
    key = sha256(f"{job} {dialogue.dialogue_id} {reply.model}")[:32]
    talk = [{"role": turn.role, "text": turn.text} for turn in dialogue.turns[:-1]]
    tags = {"judge": judge, "model": reply.model, "emotion": dialogue.emotion, "dialogue_id": dialogue.dialogue_id}
    return {
        "id": key,
        "name": name,
        "tags": tags | {"situation_id": dialogue.situation_id},
        "inputs": {"situation": dialogue.situation, "dialogue": talk, "reply": reply.text},
        "outputs": {r.criterion: r.score for r in rows},
        "assessments": [*_scores(params, judge, rows), *ratings, *_gap(rows, ratings), _reference(dialogue)],
    }


def _call(row: Judgement, sent: Sent, mean: float | None) -> dict[str, Any]:
    """One question to the judge. Its prompt stands there where it is still the one of this judgement; else by its digest."""
    messages, seconds = sent.get((row.dialogue_id, row.model, row.criterion, row.sample), (None, None))
    prompt = {"messages": messages} if messages and digest(messages) == row.prompt_sha256 else {}
    return {
        "name": row.criterion,
        "inputs": prompt | {"criterion": row.criterion, "sample": row.sample, "prompt_sha256": row.prompt_sha256},
        "outputs": {"score": row.score, "status": row.status, "rationale": row.rationale, "raw": row.raw},
        "tokens": [row.input_tokens, row.output_tokens],
        "cost_usd": row.cost_usd,
        "seconds": seconds or mean,
        "latency": "measured" if seconds else "mean over the job" if mean else "not known",
        "ok": row.status == "ok",
    }


def _scores(params: Params, judge: str, rows: list[Judgement]) -> list[dict[str, Any]]:
    """The judge's score of each criterion, the mean of its samples; a failed judgement is an error, not a number."""
    entry, found = params.judges[judge], []
    proxy = entry.backend == "likelihood"
    source = ("CODE", f"{judge} (likelihood proxy)") if proxy else ("LLM_JUDGE", f"{judge}: {entry.model}, {params.judge.rubric}")
    for criterion in dict.fromkeys(r.criterion for r in rows):
        part = [r for r in rows if r.criterion == criterion]
        scores = [r.score for r in part if r.score is not None]
        value = sum(scores) / len(scores) if scores else None
        error = None if scores else part[0].status
        found.append({"kind": "feedback", "name": criterion, "value": value, "source": source, "error": error})
        found[-1]["rationale"] = part[0].rationale
    return found


def _gap(rows: list[Judgement], ratings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The widest gap between judge and raters over the criteria: a column to sort by."""
    gaps = []
    for criterion in {r.criterion for r in rows}:
        mine = [r.score for r in rows if r.criterion == criterion and r.score is not None]
        theirs = [r["value"] for r in ratings if r["name"] == criterion]
        if mine and theirs:
            gaps.append(abs(_mean(mine) - _mean(theirs)))
    if not gaps:
        return []
    source = ("CODE", "|judge - raters|, the widest of the criteria")
    return [
        {
            "kind": "feedback",
            "name": "disagreement",
            "value": round(max(gaps), 4),
            "source": source,
            "rationale": None,
            "error": None,
        }
    ]


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _reference(dialogue: Dialogue) -> dict[str, Any]:
    return {"kind": "expectation", "name": "reference", "value": dialogue.reference, "source": ("HUMAN", "the data's own reply")}

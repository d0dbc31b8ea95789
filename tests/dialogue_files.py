"""Dialogues as files of many forms, and validate on them."""

import json
from pathlib import Path

from conftest import ROOT
from emplifai import params, validate
from emplifai.errors import UserError
from emplifai.paths import Paths
from emplifai.records import Dialogue, read_json, read_jsonl

PATIENT = "検査の数値が下がっていて、帰り道にひとりで小さくガッツポーズをしました。"
REPLY = "数値が下がったんですね。続けてこられた毎日が形になって、こちらまでうれしくなります。"
GOOD = {
    "dialogue_id": "a-01-1",
    "situation_id": "a-01",
    "emotion": "joy",
    "condition": "2型糖尿病",
    "situation": "定期検査で数値が目標に届いたと聞かされた人が、家族に知らせる前の帰り道を歩いている。",
    "turns": [{"role": "patient", "text": PATIENT}, {"role": "supporter", "text": REPLY}],
}
FLAT = {k: v for k, v in GOOD.items() if k != "turns"} | {"patient": PATIENT, "supporter": REPLY}


def dialogue(**values) -> dict:
    return {**GOOD, **values}


def turns(patient=PATIENT, supporter=REPLY) -> list[dict]:
    return [{"role": "patient", "text": patient}, {"role": "supporter", "text": supporter}]


def write(path: Path, rows: list) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in rows), "utf-8")
    return path


def check(path: Path, out: Path, data=None, **settings) -> tuple[list[Dialogue], list[dict], dict, UserError | None]:
    """Run the stage: dialogues, rejects, metrics and the error it ended with."""
    values = {"data": {"path": str(path), "labels": str(ROOT / "data/labels.yaml"), **(data or {})}, "validate": settings}
    error = None
    try:
        validate.run(params.Params(**values, models={"r": {"backend": "reference"}}), Paths(folders={"validate": out}))
    except UserError as raised:
        error = raised
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text("utf-8").splitlines()]
    return list(read_jsonl(out / "dialogues.jsonl", Dialogue)), rejects, read_json(out / "metrics.json"), error

"""Ratings from a project, plain CSV, Label Studio and Potato: nothing is dropped without being listed."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from csv_files import rows as rows_of
from emplifai import params
from emplifai.paths import Paths
from emplifai.records import CRITERIA, sha256
from emplifai.study import importing
from rating_study import MODELS, Rater, Server, draw, emplifai, first_reply, make, plain, reply


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("rating"))


def listed(path: Path) -> list[dict]:
    file = path.with_suffix(".listed.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []


def test_import_of_a_project_gives_the_numbers_as_they_were(folder):
    project, tokens = draw(folder, "whole", "--raters", "2", "--items", "10", "--repeat", "0.3")
    design, key = (json.loads((project / name).read_text()) for name in ("design.json", "key.json"))
    with Server(project) as server:
        given = {}
        for k, (rater, token) in enumerate(tokens.items()):
            person, chance = Rater(server.port, token), random.Random(k)
            person.begin()
            given[rater] = person.rate_all(lambda position, criterion: chance.randint(1, 5))  # noqa: B023
            assert not any("xylophone" in page or "dlg-" in page for page in person.seen)
    done = emplifai(folder, "import", project)
    rows = rows_of(folder / "data/ratings/whole.csv")
    want = {}
    for rater, order in design["orders"].items():
        for position, item in enumerate(key["items"][i] for i in order):
            if item["kind"] == "item":
                want |= {(rater, item["dialogue_id"], item["model"], c): given[rater][position, c] for c in CRITERIA}
    assert {(r["rater_id"], r["dialogue_id"], r["model"], r["criterion"]): int(r["score"]) for r in rows} == want
    assert len(rows) == 2 * 10 * 3 and "None left out" in done.stderr
    assert all(r["simulated"] == "false" and r["rated_at"] for r in rows)
    quality = rows_of(project / "quality.csv")
    assert {(r["repeats"], r["checks"]) for r in quality} == {("3", "1")}
    one = quality[0]
    places = {
        (i["kind"], i.get("dialogue_id"), i.get("model")): p
        for p, i in enumerate(key["items"][i] for i in design["orders"]["r01"])
    }
    pairs = [
        (given["r01"][places["item", d, m], one["criterion"]], given["r01"][p, one["criterion"]])
        for (kind, d, m), p in places.items() if kind == "repeat"
    ]  # fmt: skip
    assert float(one["same"]) == pytest.approx(np.mean([a == b for a, b in pairs]))
    before = (folder / "data/ratings/whole.csv").read_bytes()
    emplifai(folder, "import", project)
    assert (folder / "data/ratings/whole.csv").read_bytes() == before
    (folder / "data/ratings/whole.csv").unlink()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "shift_jis"])
def test_csv_in_the_encodings_that_people_have(folder, tmp_path, encoding):
    source = tmp_path / "mine.csv"
    source.write_bytes(plain(folder, [("評価者一", "fluency", "4"), ("評価者二", "fluency", "2")]).encode(encoding))
    emplifai(folder, "import", source, "--to", tmp_path / "out.csv")
    assert {r["rater_id"]: r["score"] for r in rows_of(tmp_path / "out.csv")} == {"評価者一": "4", "評価者二": "2"}


def test_nothing_is_dropped_without_being_listed(folder, tmp_path):
    odd = [
        ("r1", "fluency", "3"),
        ("r2", "fluency", "99"),
        ("r3", "fluency", "NaN"),
        ("r4", "fluency", "drei"),
        ("r5", "kindness", "3"),
    ]
    odd += [("", "fluency", "3"), ("r6", "fluency", ""), ("r7", "fluency", "3.5"), ("r8", "fluency", "2"), ("r8", "fluency", "2")]
    odd += [("r9", "fluency", "2"), ("r9", "fluency", "4"), ("r10", "fluency", "inf")]
    text = plain(folder, odd) + f"r11,nowhere,{MODELS[0]},fluency,3,\nr12,nowhere,{MODELS[0]},fluency,3,{'a' * 64}\n"
    text += plain(folder, [("r13", "fluency", "5")], text="b" * 64).splitlines()[1] + "\n"
    source, to = tmp_path / "odd.csv", tmp_path / "out.csv"
    source.write_text(text)
    done = emplifai(folder, "import", source, "--to", to)
    assert {r["rater_id"] for r in rows_of(to)} == {"r1", "r8", "r12", "r13"}
    reasons = {(e["rater_id"], e["where"].split("row ")[1]): (e["reason"], e["kept"]) for e in listed(to)}
    assert len(reasons) == 16 - 2  # all but r1 and the first of r8
    assert reasons["r2", "3"][0].startswith("score '99'; allowed: a whole number from 1 to 5")
    assert "duplicate: several scores (2, 4)" in reasons["r9", "12"][0]
    assert "the same rating came before" in reasons["r8", "11"][0]
    assert reasons["r12", "16"] == ("no such reply in results/generate; kept, and set aside by correlate", True)
    assert reasons["r13", "17"] == ("the reply's words have changed since; kept, and set aside by correlate", True)
    assert "unknown item" in reasons["r11", "15"][0]
    assert all(name in done.stderr for name in ("r2", "r9", "r11", "r13")) and "12 left out, 2 of other words" in done.stderr


def label_studio(folder: Path) -> list[dict]:
    def result(name: str, kind: str, value: dict) -> dict:
        return {"from_name": name, "to_name": "reply", "type": kind, "id": "x", "value": value}

    one, two = first_reply(folder), first_reply(folder, MODELS[1])
    scores = [
        result("fluency", "rating", {"rating": 4}), result("empathy", "choices", {"choices": ["2"]}),
        result("emotion_empathy", "number", {"number": 9}), result("comment", "textarea", {"text": ["..."]}),
    ]  # fmt: skip
    annotation = {"id": 1, "completed_by": 3, "was_cancelled": False, "created_at": "2026-01-02T03:04:05Z", "result": scores}
    mail = annotation | {"completed_by": {"email": "hanako@example.org"}, "result": scores[:1]}
    return [
        {
            "id": 7,
            "data": {"dialogue_id": one["dialogue_id"], "model": MODELS[0], "reply": one["text"]},
            "annotations": [annotation, mail],
        },
        {"id": 8, "data": {"item_id": "i2", "reply": two["text"]}, "annotations": [annotation | {"result": scores[:1]}]},
        {"id": 9, "data": {"item_id": "i2"}, "annotations": [annotation | {"was_cancelled": True}]},
    ]


def test_label_studio(folder, tmp_path):
    source, to, key = tmp_path / "project-1.json", tmp_path / "out.csv", tmp_path / "key.csv"
    source.write_text(json.dumps(label_studio(folder)))
    two = first_reply(folder, MODELS[1])
    key.write_text(f"item_id,dialogue_id,model\ni2,{two['dialogue_id']},{MODELS[1]}\n")
    done = emplifai(folder, "import", source, "--to", to, "--key", key)
    rows = {(r["rater_id"], r["model"], r["criterion"]): r for r in rows_of(to)}
    assert len(rows) == 4 and "hanako" not in to.read_text() + done.stderr
    assert rows["ls-3", MODELS[0], "fluency"]["score"] == "4" and rows["ls-3", MODELS[0], "empathy"]["score"] == "2"
    assert rows["ls-3", MODELS[1], "fluency"]["text_sha256"] == two["text_sha256"]
    assert rows["ls-3", MODELS[0], "fluency"]["rated_at"] == "2026-01-02T03:04:05Z"
    assert [(e["criterion"], e["score"]) for e in listed(to)] == [("emotion_empathy", "9")]
    flat = {
        "id": 1,
        "dialogue_id": two["dialogue_id"],
        "model": MODELS[1],
        "annotator": 4,
        "fluency": {"rating": 5},
        "empathy": "3",
    }
    source.write_text(json.dumps([flat]))
    emplifai(folder, "import", source, "--to", to)
    assert [(r["rater_id"], r["criterion"], r["score"]) for r in rows_of(to)] == [
        ("ls-4", "empathy", "3"),
        ("ls-4", "fluency", "5"),
    ]


def test_potato(folder, tmp_path):
    one, to = first_reply(folder), tmp_path / "out.csv"
    state = tmp_path / "task/annotation_output/r01/user_state.json"
    state.parent.mkdir(parents=True)
    answers = [
        [{"schema": "fluency", "name": "4"}, "4"],
        [{"schema": "empathy", "name": "99"}, "99"],
        [{"schema": "nosuch", "name": "1"}, "1"],
    ]
    told = {"abc": {"annotation_changes": [{"schema_name": "fluency", "timestamp": 1767322800.5}]}}
    found = {
        "user_id": "r01",
        "instance_id_ordering": ["abc"],
        "instance_id_to_label_to_value": {"abc": answers, "unknown": answers[:1]},
    }
    state.write_text(json.dumps(found | {"instance_id_to_behavioral_data": told}))
    key = tmp_path / "key.csv"
    key.write_text(f"item_id,dialogue_id,model\nabc,{one['dialogue_id']},{MODELS[0]}\n")
    emplifai(folder, "import", tmp_path / "task", "--to", to, "--key", key)
    (row,) = rows_of(to)
    assert (row["rater_id"], row["criterion"], row["score"]) == ("r01", "fluency", "4")
    assert row["rated_at"] == "2026-01-02T03:00:00.500+00:00" and row["text_sha256"] == one["text_sha256"]
    assert sorted(e["reason"].split(";")[0].split(":")[0] for e in listed(to)) == [
        "criterion 'nosuch'",
        "score '99'",
        "unknown item",
    ]
    export = tmp_path / "annotations.csv"
    export.write_text("instance_id,user_id,fluency.4,fluency.2,empathy.3\nabc,r01,4,,3\nabc,r02,4,2,\n")
    emplifai(folder, "import", export, "--to", to, "--key", key)
    assert [(r["rater_id"], r["criterion"], r["score"]) for r in rows_of(to)] == [
        ("r01", "empathy", "3"),
        ("r01", "fluency", "4"),
    ]
    assert [e["rater_id"] for e in listed(to)] == ["r02", "r02"]  # two answers to one question


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"rater_id,dialogue_id,model,criterion,scroe\nr,d,m,fluency,3\n", "no column 'score'; is 'scroe' meant?"),
        ("a.csv", b"\xff\xfe\x00\x81", "save it as CSV in UTF-8"),
        ("a.csv", b"rater_id,dialogue_id,model,criterion,score\n", "no rows"),
        ("a.csv", b"rater_id,dialogue_id,model,criterion,score\nr,d,m,fluency,9\n", "none of 1 ratings can be used"),
        ("a.json", b"{", "not JSON"),
        ("a.json", b"{}", "a list of tasks is needed"),
        (
            "a.json",
            b'[{"id": 1, "annotations": [{"result": [{"from_name": "fluency", "value": 3}]}], "data": {}}]',
            "task 1: not as Label",
        ),
        ("a.xlsx", b"PK", "allowed: a project or Potato folder"),
        ("p/r01/user_state.json", b"{}", "not Potato's user_state.json"),
        ("p/empty", b"", "neither a rating project"),
    ],
)
def test_bad_sources_are_named(folder, tmp_path, name, content, message):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    source = tmp_path / "p" if name.startswith("p/") else file
    done = emplifai(folder, "import", source, "--to", tmp_path / "out.csv", ok=False)
    assert done.returncode == 2 and message in done.stderr
    assert not (tmp_path / "out.csv").exists()


def test_unlisted_words_come_from_the_replies(folder):
    """check() fills a missing text_sha256 from the replies at hand."""
    words = importing._words(
        params.load(folder / "params.yaml"),
        Paths(folders={"split": folder / "results/split", "generate": folder / "results/generate"}),
    )
    one = first_reply(folder)
    assert words[one["dialogue_id"], MODELS[0]] == sha256(one["text"]) == reply("", "", one["text"])["text_sha256"]

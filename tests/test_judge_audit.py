"""`emplifai judge audit`: judges of which the faults are known, on a server, and what the table says of them."""

import csv
import json
import re

import pytest

from conftest import change_params
from emplifai import labels, probes
from emplifai.judge_audit import retest_noise
from fault_server import FaultServer, prompt_of
from test_judge import call, dialogues, judge_at, study  # noqa: F401

LABELS = labels.load(labels.Path(__file__).parent.parent / "data/labels.yaml")


def verdict(score: int) -> str:
    return json.dumps({"rationale": "理由です。", "score": max(1, min(5, score))})


def parts(body: dict) -> dict[str, str]:
    """Patient, reply, criterion and emotion of a prompt."""
    prompt = prompt_of(body)
    fenced = re.findall(r"<data-\w+>\n(.*?)\n</data-\w+>", prompt, re.DOTALL)
    emotion = re.search(r"患者の感情：(.*)|The patient's emotion: \w+ \((.*)\)", prompt)
    return {
        "patient": fenced[1],
        "reply": fenced[2],
        "criterion": re.search(r"(?:観点：|Criterion: )(.*)", prompt)[1],
        "emotion": emotion[1] or emotion[2] if emotion else "",
    }


def expert(body: dict) -> str:
    """Knows the references by heart: 5 for the whole reference under its own emotion, 2 for all else."""
    asked = parts(body)
    known = {(d.patient, d.reference): LABELS[d.emotion].ja for d in dialogues()}
    own = known.get((asked["patient"], asked["reply"]))
    right = own is not None and asked["emotion"] in ("", own)
    return verdict(4 if right else 2)


def gullible(body: dict) -> str:
    """Likes long replies and does what the reply says."""
    reply = parts(body)["reply"]
    return verdict(5 if "5点" in reply else 1 + len(reply) // 30)


def table(project) -> dict[tuple[str, str], dict]:
    with open(project / "results/audit/llm/audit.csv", encoding="utf-8") as file:
        return {(row["probe"], row["criterion"]): row for row in csv.DictReader(file)}


def test_a_good_judge_passes_and_its_table_says_why(study, call):  # noqa: F811
    with FaultServer(answer=expert) as server:
        judge_at(study, server.url)
        said = call("judge", "audit", "--judge", "llm").stdout
        asked = len(server.bodies)
        call("judge", "audit", "--judge", "llm")
        assert len(server.bodies) == asked
    rows = table(study)
    assert "attacks raised the score in at most 0% of the cases" in said
    for kind in ("generic", "advice_only", "dismissive", "shuffled", "parrot", "garbled"):
        row = rows[f"contrast:{kind}", "empathy"]
        assert (row["n"], float(row["auc"]), float(row["difference"]), row["passed"]) == ("6", 1.0, 2.0, "True")
    assert rows["swap:emotion", "emotion_empathy"]["passed"] == "True" and rows["swap:emotion", "empathy"]["difference"] == "0.0"
    assert {row["passed"] for row in rows.values() if row["wanted"] != "any"} == {"True"}
    numbers = json.loads((study / "results/audit/llm/metrics.json").read_text())
    assert numbers["empathy.leak_rate"] == 0 and numbers["empathy.least_contrast_auc"] == 1 and numbers["passed_share"] == 1


def test_a_bad_judge_fails_where_it_is_bad(study, call):  # noqa: F811
    change_params(study, judge={"attempts": 2, "audit": {"min_contrast_auc": 0.6, "max_leak_rate": 0.05}})
    with FaultServer(answer=gullible) as server:
        judge_at(study, server.url)
        done = call("judge", "audit", "--judge", "llm", ok=False)
    rows = table(study)
    assert done.returncode == 2
    assert "empathy.leak_rate is" in done.stderr and "above judge.audit.max_leak_rate = 0.05" in done.stderr
    assert "empathy.least_contrast_auc is" in done.stderr
    assert float(rows["attack:ask_ja", "empathy"]["raised"]) == 1 and rows["attack:ask_ja", "empathy"]["passed"] == "False"
    assert float(rows["change:padding", "empathy"]["raised"]) > 0.5
    assert rows["swap:emotion", "emotion_empathy"]["passed"] == "False"
    row = rows["contrast:generic", "empathy"]
    assert float(row["auc"]) == pytest.approx(float(row["length_auc"]), abs=0.1)  # it reads length only, and the table shows it


def test_attacks_are_told_from_the_reply_and_the_emotion_is_swapped_to_the_other_polarity():
    rows = probes.probes(dialogues(), LABELS)
    names = {row.name for row in rows}
    assert {f"attack:{name}" for name in probes.attacks()} <= names and len(probes.attacks()) >= 12
    for row in rows:
        if row.name.startswith("attack:"):
            poor = next(r.question.text for r in rows if r.name == row.base and r.question.dialogue == row.question.dialogue)
            assert poor in row.question.text and row.question.text != poor
        if row.name == "swap:emotion":
            own = next(d for d in dialogues() if d.dialogue_id == row.question.dialogue.dialogue_id)
            assert LABELS[own.emotion].polarity != LABELS[row.question.dialogue.emotion].polarity
            assert row.question.text == own.reference


def test_noise_is_what_two_answers_to_one_question_differ_by():
    scores = {("d", "p", "empathy"): [3, 3], ("e", "p", "empathy"): [2, 4], ("f", "p", "fluency"): [5]}
    assert retest_noise(scores) == {"empathy": pytest.approx(1.9)}  # 95% quantile of the gaps 0 and 2

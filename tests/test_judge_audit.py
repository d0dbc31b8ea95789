"""`emplifai judge audit`: judges of which the faults are known, on a server, and what the table says of them."""

import csv
import json
import re

import numpy as np
import pytest

from conftest import TALK, change_params
from emplifai import params, probes
from emplifai.backends import rubric
from emplifai.errors import UserError
from emplifai.judge_audit import keep_limits, retest_noise, wordings
from emplifai.records import Judgement
from fault_server import FaultServer, prompt_of
from judge_study import call, dialogues, judge_at, study  # noqa: F401


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
    known = {(d.patient, d.reference): TALK.labels[d.emotion].word for d in dialogues()}
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


def test_a_good_judge_passes_and_its_table_says_why(study, call):
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


def test_a_bad_judge_fails_where_it_is_bad(study, call):
    change_params(study, judge={"attempts": 2, "audit": {"min_contrast_auc": 0.6, "max_leak_rate": 0.05}})
    with FaultServer(answer=gullible) as server:
        judge_at(study, server.url)
        done = call("judge", "audit", "--judge", "llm", ok=False)
    rows = table(study)
    assert done.returncode == 2
    assert "empathy.leak_rate is" in done.stderr and "above judge.audit.max_leak_rate = 0.05" in done.stderr
    assert "empathy.least_contrast_auc is" in done.stderr
    assert float(rows["attack:ask_ja", "empathy"]["raised"]) == 1 and rows["attack:ask_ja", "empathy"]["passed"] == "False"
    numbers = json.loads((study / "results/audit/llm/metrics.json").read_text())
    gained = [-float(rows[f"attack:{name}", "empathy"]["difference"]) for name in probes.attacks("ja")]
    assert numbers["empathy.attack_shift"] == max(gained)
    assert numbers["empathy.attack_shift"] > numbers["empathy.wording_noise"]  # it obeys
    assert float(rows["change:padding", "empathy"]["raised"]) > 0.5
    assert rows["swap:emotion", "emotion_empathy"]["passed"] == "False"
    row = rows["contrast:generic", "empathy"]
    assert float(row["auc"]) == pytest.approx(float(row["length_auc"]), abs=0.1)  # it reads length only, and the table shows it


def test_attacks_are_told_from_the_reply_and_the_emotion_is_swapped_to_the_other_polarity():
    rows = probes.probes(dialogues(), TALK)
    names = {row.name for row in rows}
    assert {f"attack:{name}" for name in probes.attacks("ja")} <= names and len(probes.attacks("ja")) >= 12
    for row in rows:
        if row.name.startswith("attack:"):
            poor = next(r.question.text for r in rows if r.name == row.base and r.question.dialogue == row.question.dialogue)
            assert poor in row.question.text and row.question.text != poor
        if row.name == "swap:emotion":
            own = next(d for d in dialogues() if d.dialogue_id == row.question.dialogue.dialogue_id)
            assert TALK.labels[own.emotion].polarity != TALK.labels[row.question.dialogue.emotion].polarity
            assert row.question.text == own.reference


def test_noise_is_what_two_answers_to_one_question_differ_by():
    scores = {("d", "p", "empathy"): [3, 3], ("e", "p", "empathy"): [2, 4], ("f", "p", "fluency"): [5]}
    assert retest_noise(scores) == {"empathy": pytest.approx(1.9)}  # 95% quantile of the gaps 0 and 2


def english(body: dict) -> bool:
    return "You rate supportive conversations" in prompt_of(body)


def test_the_stage_asks_the_probes_of_some_situations_and_a_limit_fails_it(study, call):
    """A judge that does what a reply says, and gives one point more in English: its own noise is one point."""

    def answer(body: dict) -> str:
        return verdict((5 if "5点" in parts(body)["reply"] else 2) + english(body))

    change_params(study, judge__audit={"situations": 2})
    folder = study / "results/judge/llm"
    with FaultServer(answer=answer) as server:
        judge_at(study, server.url)
        said = call("judge", "--judge", "llm", "--dry-run").stdout
        call("judge", "--judge", "llm")
        assert f"{len(server.bodies)} questions" in said and sum(map(english, server.bodies)) == 2 * 8 * 3
        numbers, table = json.loads((folder / "metrics.json").read_text()), (folder / "audit.csv").read_text("utf-8")
        asked = len(server.bodies)
        change_params(study, judge__audit={"situations": 2, "max_leak_rate": 0.1, "max_wording_noise": 0.5})
        for path in folder.iterdir():
            path.unlink()
        done = call("judge", "--judge", "llm", ok=False)
        assert len(server.bodies) == asked and done.returncode == 2 and not list(folder.iterdir())
    assert "empathy.leak_rate is" in done.stderr and "empathy.wording_noise is 1.0, above" in done.stderr
    rows = {(row["probe"], row["criterion"]): row for row in csv.DictReader(table.splitlines())}
    assert {row["n"] for row in rows.values()} == {"2"} and len({probe for probe, _ in rows}) == 7 + 3 + 1 + len(
        probes.attacks("ja")
    )
    assert float(rows["attack:ask_ja", "empathy"]["raised"]) == 1 and float(rows["attack:threat", "empathy"]["raised"]) == 1
    assert float(rows["attack:ask_en", "empathy"]["raised"]) == 0
    obeyed = sum("5点" in rubric.neutral(form) for form in probes.attacks("ja").values())  # hidden signs are gone before it reads
    assert numbers["audit.empathy.leak_rate"] == pytest.approx(obeyed / len(probes.attacks("ja")))
    assert numbers["audit.empathy.wording_difference"] == 1 and numbers["audit.empathy.wording_noise"] == 1
    told = [numbers[f"contrast.{kind}.empathy.auc"] for kind in ("generic", "advice_only", "dismissive", "shuffled", "parrot")]
    assert numbers["audit.empathy.least_contrast_auc"] == min(told)  # of all situations, not of the two


def test_a_judge_that_is_asked_in_english_is_asked_again_in_japanese(study, call):
    with FaultServer(answer=lambda body: verdict(3)) as server:
        judge_at(study, server.url)
        change_params(study, judge__rubric="en-v1", judge__audit={"situations": 2})
        call("judge", "--judge", "llm")
        assert sum(not english(body) for body in server.bodies) == 2 * 8 * 3
        server.bodies.clear()
        change_params(study, data__prompt="en-v1")  # of an English study no Japanese question is asked
        call("judge", "--judge", "llm")
        assert server.bodies and all(english(body) for body in server.bodies)


def test_a_limit_of_what_is_not_measured_is_refused_before_a_question_is_paid_for(study, call):
    with FaultServer(answer=lambda body: verdict(3)) as server:
        judge_at(study, server.url)
        change_params(study, judge__audit={"situations": 0, "max_leak_rate": 0.1, "second_rubric": None, "max_wording_noise": 1})
        said = call("judge", "--judge", "llm", ok=False).stderr
        assert not server.bodies
    for key in ("max_leak_rate needs judge.audit.situations", "max_wording_noise needs judge.audit.situations"):
        assert f"judge.audit.{key} above 0" in said
    assert "judge.audit.max_wording_noise needs a judge.audit.second_rubric" in said


def test_a_limit_that_is_not_kept_fails(study, call):
    with FaultServer(answer=lambda body: verdict(3)) as server:
        judge_at(study, server.url)
        change_params(study, judge__audit={"situations": 0, "min_contrast_auc": 0.9})
        assert "empathy.least_contrast_auc is 0.5, below" in call("judge", "--judge", "llm", ok=False).stderr


def test_a_limit_of_what_was_not_measured_fails(study, monkeypatch):
    """As where the data has no contrast that should be lower."""
    judge_at(study, "http://127.0.0.1:9")
    change_params(study, judge__audit={"min_contrast_auc": 0.9, "max_leak_rate": 0.1})
    monkeypatch.chdir(study)
    read = params.load()
    with pytest.raises(UserError) as caught:
        keep_limits({}, "llm", read)
    said = str(caught.value)
    for key, need in (
        ("min_contrast_auc", "contrasts that should be lower"),
        ("max_leak_rate", "judge.audit.situations above 0"),
    ):
        assert f"judge.audit.{key} is set, but nothing of the kind was measured: it needs {need}" in said


def test_a_move_within_the_judges_own_noise_is_no_leak(study, call):
    """Two points more for an attack, by a judge whose two wordings are two points apart."""

    def answer(body: dict) -> str:
        return verdict(1 + 2 * ("5点" in parts(body)["reply"]) + 2 * english(body))

    with FaultServer(answer=answer) as server:
        judge_at(study, server.url)
        call("judge", "audit", "--judge", "llm")
        noisy = json.loads((study / "results/audit/llm/metrics.json").read_text())
        change_params(study, judge__audit__second_rubric=None)
        call("judge", "audit", "--judge", "llm")
    alone = json.loads((study / "results/audit/llm/metrics.json").read_text())
    assert noisy["empathy.leak_rate"] == 0 and noisy["empathy.wording_noise"] == 2
    assert alone["empathy.leak_rate"] > 0.3 and "empathy.wording_noise" not in alone


def test_agreement_of_two_wordings_is_the_peer_librarys():
    import pandas as pd
    import pingouin

    rng = np.random.default_rng(0)
    first = rng.integers(1, 6, 40).astype(float)
    second = np.clip(first + rng.integers(-1, 2, 40), 1, 5)

    def rows(scores):
        common = {"criterion": "empathy", "sample": 0, "status": "ok", "method": "stated", "rationale": "", "raw": ""}
        return [
            Judgement(judge="j", dialogue_id=f"d{k}", model="reference", score=s, prompt_sha256="", text_sha256="", **common)
            for k, s in enumerate(scores)
        ]

    numbers = wordings(rows(first), rows(second))
    long = pd.DataFrame({"t": np.tile(np.arange(40), 2), "w": np.repeat(["a", "b"], 40), "s": np.concatenate([first, second])})
    peer = pingouin.intraclass_corr(long, "t", "w", "s").set_index("Type")["ICC"]
    assert numbers["empathy.wording_icc"] == pytest.approx(peer["ICC(A,1)"], abs=1e-6)
    assert numbers["empathy.wording_difference"] == pytest.approx((second - first).mean())

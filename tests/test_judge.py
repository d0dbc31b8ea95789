"""The judge stage with an LLM judge on a server: asked as a user asks it, against a server that fails as real ones do."""

import json
import math
import random
import shutil
import subprocess
import time

import numpy as np
import pytest

from conftest import BIN, change_params, environment
from emplifai import labels as emotions
from emplifai import records
from emplifai.backends import rubric
from emplifai.records import Judgement, Question, sha256
from fault_server import FaultServer, prompt_of, score_of
from judge_study import CRITERIA, SYSTEMS, call, dialogues, judge_at, judgements, reply, study, tables  # noqa: F401


def test_scores_are_what_the_judge_said(study, run):
    with FaultServer() as server:
        judge_at(study, server.url, usd_per_million_input=2.0, usd_per_million_output=10.0)
        run("emplifai", "judge", "--judge", "llm")
    known = emotions.load(study / "data/labels.yaml")
    rows = judgements(study, "tuned")
    assert [(j.dialogue_id, j.criterion) for j in rows] == [(d.dialogue_id, c) for d in dialogues() for c in CRITERIA]
    for j, (dialogue, criterion) in zip(rows, [(d, c) for d in dialogues() for c in CRITERIA], strict=True):
        question = Question(dialogue, "tuned", reply(dialogue, "tuned").text)
        asked = rubric.messages(question, criterion, "ja-v1", known, (1, 5))
        assert (j.score, j.status, j.method) == (score_of(prompt_of({"messages": asked})), "ok", "stated")
        assert j.text_sha256 == sha256(question.text) and j.rationale == "理由です。"
        assert j.cost_usd == pytest.approx((j.input_tokens * 2 + j.output_tokens * 10) / 1e6)
    numbers = json.loads((study / "results/judge/llm/metrics.json").read_text())
    for criterion in CRITERIA:
        scores = [j.score for j in rows if j.criterion == criterion]
        above = [
            0.5 + 0.5 * np.sign(r.score - s.score)
            for r, s in zip(judgements(study, "reference"), rows, strict=True)
            if r.criterion == criterion
        ]
        assert numbers[f"mean.tuned.{criterion}"] == pytest.approx(np.mean(scores))
        assert numbers[f"reference_above.tuned.{criterion}"] == pytest.approx(np.mean(above))
        assert numbers[f"{criterion}.failed_share"] == 0
    # 12 dialogues: reference, parrot and tuned replies, and four further contrasts of each of the 6 situations
    # (three written, shuffled, truncated; parrot is there already), each text asked once a criterion
    assert len(server.bodies) == 3 * (12 * 3 + 6 * 5)
    assert numbers["input_tokens"] == sum(len(prompt_of(b)) for b in server.bodies)
    assert server.most_at_once <= 4
    told = json.loads((study / "results/judge/llm/run.json").read_text())  # times are not reproducible: not in metrics.json
    assert told["answers"] == told["tries"] == 198 and 0 < told["latency_s"]["p50"] <= told["latency_s"]["p99"] <= 30


def test_contrast_set_is_judged_and_its_order_measured(study, call):
    from sklearn.metrics import roc_auc_score

    with FaultServer() as server:
        judge_at(study, server.url)
        call("judge", "--judge", "llm")
    rows = list(records.read_jsonl(study / "results/judge/llm/contrast.jsonl", Judgement))
    numbers = json.loads((study / "results/judge/llm/metrics.json").read_text())
    assert {j.model for j in rows} == {"reference", "generic", "advice_only", "dismissive", "shuffled", "truncated", "parrot"}
    for kind in ("generic", "advice_only", "dismissive", "shuffled"):
        bad = {j.dialogue_id: j.score for j in rows if j.model == kind and j.criterion == "empathy"}
        good = {j.dialogue_id: j.score for j in rows if j.model == "reference" and j.criterion == "empathy"}
        values = [good[d] for d in bad] + list(bad.values())
        auc = roc_auc_score([1] * len(bad) + [0] * len(bad), values)
        assert numbers[f"contrast.{kind}.empathy.auc"] == pytest.approx(auc) and len(bad) == 6


def test_a_second_run_asks_nothing_and_writes_the_same(study, call):
    with FaultServer() as server:
        judge_at(study, server.url)
        call("judge", "--judge", "llm")
        first, asked = tables(study), len(server.bodies)
        call("judge", "--judge", "llm")
        assert tables(study) == first and len(server.bodies) == asked
        change_params(study, judge__temperature=0.7)
        call("judge", "--judge", "llm")
        assert len(server.bodies) == 2 * asked


def test_order_of_replies_does_not_matter(study, call):
    with FaultServer() as server:
        judge_at(study, server.url)
        call("judge", "--judge", "llm")
        first = {(j.dialogue_id, j.criterion): j for j in judgements(study, "tuned")}
        path = study / "results/generate/tuned/reply.jsonl"
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
        asked = len(server.bodies)
        call("judge", "--judge", "llm")
        assert {(j.dialogue_id, j.criterion): j for j in judgements(study, "tuned")} == first and len(server.bodies) == asked


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        ("prose", "unparsed", "no verdict in the answer: 'たいへん温かい返答だと思います。'"),
        ("half", "unparsed", "no verdict in the answer"),
        ("eleven", "unparsed", "outside the scale of 1 to 5: 11"),
        ("verdict schema", "unparsed", "no verdict in the answer"),
        ("empty", "unparsed", "empty answer"),
        ("refusal", "refused", "I cannot rate this."),
    ],
)
def test_a_bad_answer_is_missing_with_its_reason(study, call, fault, status, said):
    with FaultServer(faults=lambda n, body: fault) as server:
        judge_at(study, server.url)
        done = call("judge", "--judge", "llm", ok=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert f"198 of 198 judgements failed (100%), more than judge.max_failed_share = 0.2: 198 {status}" in done.stderr
        assert said in done.stderr
        assert not (study / "results/judge/llm/metrics.json").exists()
        change_params(study, judge__max_failed_share=1.0)
        call("judge", "--judge", "llm")
        assert len(server.bodies) == 198  # bad answers are answers: they are not asked for again
    assert {(j.status, j.score) for j in judgements(study, "tuned")} == {(status, None)}
    numbers = json.loads((study / "results/judge/llm/metrics.json").read_text())
    assert numbers[f"empathy.{status}"] == numbers["empathy.asked"] == 66
    assert numbers["mean.tuned.empathy"] is None and numbers["contrast.generic.empathy.auc"] is None


def test_transport_failures_are_errors_and_are_asked_again(study, call):
    ill = reply(dialogues()[0], "tuned").text
    with FaultServer(faults=lambda n, body: "500" if ill in prompt_of(body) else None) as server:
        judge_at(study, server.url)
        call("judge", "--judge", "llm")
        failed = [j for j in judgements(study, "tuned") if j.status == "error"]
        assert len(failed) == 3 and {j.raw for j in failed} == {"server: HTTP 500: out of memory"}
        assert json.loads((study / "results/judge/llm/metrics.json").read_text())["error.server"] == 3
        server.faults = lambda n, body: None
        asked = len(server.bodies)
        call("judge", "--judge", "llm")
        assert len(server.bodies) == asked + 3
    assert {j.status for j in judgements(study, "tuned")} == {"ok"}


def test_an_empty_reply_is_not_asked_and_has_no_score(study, call):
    rows = [reply(d, "tuned") for d in dialogues()]
    rows[0].text = " \n"
    records.write_jsonl(study / "results/generate/tuned/reply.jsonl", rows)
    with FaultServer() as server:
        judge_at(study, server.url)
        call("judge", "--judge", "llm")
    assert len(server.bodies) == 198 - 3
    assert {(j.status, j.score, j.raw) for j in judgements(study, "tuned")[:3]} == {("refused", None, "empty reply")}
    numbers = json.loads((study / "results/judge/llm/metrics.json").read_text())
    assert numbers["empathy.empty"] == 1 and numbers["empathy.asked"] == 65 and numbers["mean.tuned.empathy_n"] == 11


def test_files_of_models_that_are_gone_are_removed(study, call):
    with FaultServer() as server:
        judge_at(study, server.url)
        call("judge", "--judge", "llm")
        change_params(study, models={"reference": {"backend": "reference"}, "parrot": {"backend": "parrot"}})
        call("judge", "--judge", "llm")
    assert set(tables(study)) == {
        *("reference.jsonl", "parrot.jsonl", "contrast.jsonl", "pairs.jsonl", "audit.csv", "audit.jsonl", "metrics.json")
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"judges__llm__base_url": "http://192.0.2.1/v1"}, "judges.llm.base_url: 192.0.2.1 is outside this machine"),
        ({"judges__llm__base_url": "http://127.0.0.1:9/v1"}, "cannot reach http://127.0.0.1:9/v1: connection refused"),
        ({"judges__llm__api_key_env": "NO_SUCH_KEY"}, "the environment variable NO_SUCH_KEY is not set"),
        ({"judge__scale": [1, 10]}, "judge.scale is [1, 10], but rubric ja-v1 has anchors for 1 to 5 of fluency"),
        ({"judge__rubric": "fr-v1"}, "judge-fr-v1.yaml; there are: en-v1, ja-v1"),
        ({"judge__audit__second_rubric": "ja-v1"}, "audit.second_rubric must be another wording than rubric, or null"),
    ],
)
def test_a_users_mistake_has_its_message(study, call, values, said):
    judge_at(study, "http://127.0.0.1:9/v1")
    change_params(study, **values)
    done = call("judge", "--judge", "llm", ok=False)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_the_key_is_in_no_file(study, run):
    with FaultServer(answer=lambda body: '{"rationale": "sk-very-secret", "score": 3}') as server:
        judge_at(study, server.url, api_key_env="JUDGE_KEY")
        done = run("emplifai", "judge", "--judge", "llm", JUDGE_KEY="sk-very-secret")
        assert server.headers[0]["authorization"] == "Bearer sk-very-secret"
    texts = [p.read_bytes() for p in study.rglob("*") if p.is_file()]
    assert not any(b"sk-very-secret" in text for text in [*texts, done.stderr.encode(), done.stdout.encode()])


# Expected scores


def alternatives(body: dict) -> list[dict]:
    """Tokens of '{"rationale": "3", "score": 4}' with what else could have stood at the score: 0.5 x 4, 0.25 x 2, 0.25 x 9."""
    options = [(" 4", 0.5), ("2", 0.25), ("9", 0.25)]
    tops = [{"token": token, "logprob": math.log(p)} for token, p in options]
    texts = ['{"rationale": "', "3", '", "', 'score": ', " 4", "}"]
    return [{"token": t, "logprob": -0.1, "top_logprobs": tops if t == " 4" else [{"token": "3", "logprob": 0.0}]} for t in texts]


def test_an_expected_score_weighs_the_points_of_the_scale(study, call):
    with FaultServer(answer=lambda body: '{"rationale": "3", "score":  4}', logprobs=alternatives) as server:
        judge_at(study, server.url, method="expected")
        call("judge", "--judge", "llm")
        assert server.bodies[0]["logprobs"] is True and server.bodies[0]["top_logprobs"] == 20
        first = tables(study)
        call("judge", "--judge", "llm")
        assert len(server.bodies) == 198 and tables(study) == first
    rows = judgements(study, "tuned")
    assert {j.method for j in rows} == {"expected"} and {j.status for j in rows} == {"ok"}
    assert {j.score for j in rows} == {round((0.5 * 4 + 0.25 * 2) / 0.75, 6)}


def test_a_server_that_ignores_logprobs_is_noticed_at_the_first_answer(study, call):
    with FaultServer() as server:
        judge_at(study, server.url, method="expected")
        done = call("judge", "--judge", "llm", ok=False)
    assert len(server.bodies) == 1 and done.returncode == 2
    assert "judges.llm: this server ignores 'logprobs'" in done.stderr and "set judges.llm.method: stated" in done.stderr


# All criteria in one answer


def of_each(body: dict) -> dict[str, int]:
    """A score a criterion that depends on the prompt."""
    return {c: 1 + (score_of(prompt_of(body)) + k) % 5 for k, c in enumerate(CRITERIA)}


def test_together_one_answer_has_the_score_of_each_criterion(study, call):
    with FaultServer(answer=lambda body: json.dumps({"rationale": "理由です。", **of_each(body)})) as server:
        judge_at(study, server.url, usd_per_million_input=2.0)
        change_params(study, judge__together=True)
        call("judge", "--judge", "llm")
        form = server.bodies[0]["response_format"]["json_schema"]["schema"]
        assert len(server.bodies) == 66 and form["required"] == ["rationale", *CRITERIA]
        tokens = sum(len(prompt_of(b)) for b in server.bodies)
    known = emotions.load(study / "data/labels.yaml")
    rows = judgements(study, "tuned")
    assert [(j.dialogue_id, j.criterion) for j in rows] == [(d.dialogue_id, c) for d in dialogues() for c in CRITERIA]
    for k, dialogue in enumerate(dialogues()):
        question = Question(dialogue, "tuned", reply(dialogue, "tuned").text)
        talk = rubric.together(question, CRITERIA, "ja-v1", known, (1, 5))
        assert {j.criterion: j.score for j in rows[3 * k : 3 * k + 3]} == of_each({"messages": talk})
        assert known[dialogue.emotion].definition_ja in talk[1]["content"]
    numbers = json.loads((study / "results/judge/llm/metrics.json").read_text())
    assert numbers["input_tokens"] == tokens and numbers["cost_usd"] == pytest.approx(tokens * 2 / 1e6)


def test_together_a_criterion_that_is_not_answered_is_missing_alone(study, call):
    with FaultServer(answer=lambda body: '{"rationale": "…", "fluency": 4, "emotion_empathy": 9}') as server:
        judge_at(study, server.url)
        change_params(study, judge__together=True, judge__max_failed_share=1.0)
        call("judge", "--judge", "llm")
    found = {(j.criterion, j.score, j.status, j.rationale) for j in judgements(study, "tuned")}
    assert found == {
        ("fluency", 4, "ok", "…"),
        ("empathy", None, "unparsed", "no verdict with 'empathy' in the answer"),
        ("emotion_empathy", None, "unparsed", "outside the scale of 1 to 5: 9"),
    }


def test_together_expected_scores_are_read_at_their_own_place(study, call):
    def tokens(body: dict) -> list[dict]:
        found = []
        for k, criterion in enumerate(CRITERIA):
            tops = [{"token": str(point), "logprob": math.log(0.5)} for point in (k + 1, k + 3)]
            found += [{"token": f'"{criterion}": ', "logprob": 0.0, "top_logprobs": []}]
            found += [{"token": str(k + 1), "logprob": 0.0, "top_logprobs": tops}, {"token": ", ", "logprob": 0.0}]
        return found

    said = json.dumps(dict.fromkeys(CRITERIA, 3))
    with FaultServer(answer=lambda body: said, logprobs=tokens) as server:
        judge_at(study, server.url, method="expected")
        change_params(study, judge__together=True)
        call("judge", "--judge", "llm")
    assert {(j.criterion, j.score) for j in judgements(study, "tuned")} == {(c, k + 2) for k, c in enumerate(CRITERIA)}


# Cost


def test_dry_run_says_what_a_run_takes_and_sends_nothing(study, call):
    with FaultServer() as server:
        judge_at(study, server.url, usd_per_million_input=2.0, usd_per_million_output=10.0)
        said = call("judge", "--judge", "llm", "--dry-run").stdout
        assert not server.bodies and not (study / "results/judge").exists()
        assert "198 questions, 0 of 198 answers cached, 198 to ask" in said and f"{198 * 512:,} output tokens" in said
        expected = float(said.split("), ")[-1].split(" USD")[0])
        call("judge", "--judge", "llm")
        cost = json.loads((study / "results/judge/llm/metrics.json").read_text())["cost_usd"]
        assert cost < expected
        assert "198 of 198 answers cached, 0 to ask" in call("judge", "--judge", "llm", "--dry-run").stdout
        change_params(study, judge__samples=2)
        said = call("judge", "--judge", "llm", "--dry-run").stdout
    assert "396 questions, 198 of 396 answers cached, 198 to ask" in said and "as the cached answers" in said
    assert float(said.split("), ")[-1].split(" USD")[0]) == pytest.approx(cost, rel=0.01)


def test_a_judge_beyond_the_budget_is_not_asked(study, call):
    with FaultServer() as server:
        judge_at(study, server.url, usd_per_million_input=2.0, usd_per_million_output=10.0)
        change_params(study, judge__max_cost_usd=0.6)
        done = call("judge", "--judge", "llm", ok=False)
        assert not server.bodies and done.returncode == 2
        assert "198 questions would cost about" in done.stderr
        assert "more than judge.max_cost_usd = 0.6; nothing was sent" in done.stderr
        change_params(study, judge__max_tokens=64)
        call("judge", "--judge", "llm")
    assert len(server.bodies) == 198


# A real server


STORM = (
    *("429 now", "500", "drop", "cut off", "cut body", "no json", "body schema"),  # what a next try may mend
    *("refusal", "half", "verdict schema", "slow", "drip"),
)


def storm(number: int, body: dict) -> str | None:
    """Every second request meets a fault."""
    draw = int(sha256(f"{number} {prompt_of(body)}")[:8], 16)
    return STORM[draw // 2 % len(STORM)] if draw % 2 else None


def items(project) -> dict[tuple, tuple]:
    """Status, score and words of each item, by the file that it stands in and what was asked."""
    rows = [
        (path.stem, j)
        for path in sorted((project / "results/judge/llm").glob("*.jsonl"))
        if path.stem not in ("audit", "pairs")
        for j in records.read_jsonl(path, Judgement)
    ]
    keys = [(name, j.dialogue_id, j.model, j.criterion, j.text_sha256) for name, j in rows]
    assert len(set(keys)) == len(keys)
    return {key: (j.status, j.score, j.raw, j.rationale) for key, (_, j) in zip(keys, rows, strict=True)}


@pytest.mark.slow
def test_through_a_storm_of_faults_and_ten_kills_the_table_is_that_of_a_quiet_day(study, call, serve):
    """A real server with faults before it, 64 requests in flight: each item ends with an answer or a reason; none twice, none
    lost, none invented. Killed with -9 ten times at random moments, the final table is the undisturbed one's, byte by byte."""
    url, model = serve
    change_params(study, judge={"max_tokens": 1, "max_in_flight": 64, "attempts": 3, "timeout": 60, "max_failed_share": 1.0})
    change_params(study, judge__criteria=["empathy", "emotion_empathy"])
    change_params(study, judge__audit={"situations": 0}, judge__pairwise={"criteria": ["empathy"], "dialogues": 2})
    cache, answers = study / ".cache/judge", {}
    with FaultServer(upstream=url, answers=answers) as server:
        judge_at(study, server.url, model=model)
        call("judge", "--judge", "llm")
        quiet, known = tables(study), items(study)
        assert len(known) == 2 * (12 * 4 + 6 * 6) and sum(status == "ok" for status, *_ in known.values()) > 100
        shutil.rmtree(cache)
    with FaultServer(upstream=url, faults=storm) as server:
        judge_at(study, server.url, model=model)
        change_params(study, judge__timeout=6)
        call("judge", "--judge", "llm")
        assert server.most_at_once > 32
    change_params(study, judge__timeout=60)
    stormy = items(study)
    assert list(stormy) == list(known)
    for key, (status, score, raw, reason) in stormy.items():
        assert stormy[key] == known[key] or (status in ("error", "refused", "unparsed") and score is None and raw + reason)
    assert {status for status, *_ in stormy.values()} == {"ok", "error", "refused", "unparsed"}
    shutil.rmtree(cache)
    draw = random.Random(0)
    transport = lambda n, body: fault if (fault := storm(n, body)) in STORM[:7] else None  # noqa: E731
    with FaultServer(upstream=url, faults=transport, answers=answers, latency=0.05) as server:
        judge_at(study, server.url, model=model)
        for _ in range(10):
            before = len(server.bodies)
            job = subprocess.Popen(
                [BIN / "emplifai", "judge", "--judge", "llm"], cwd=study, env=environment(), stderr=subprocess.DEVNULL
            )
            stop = before + draw.randrange(1, 40)
            while len(server.bodies) < stop and job.poll() is None:
                time.sleep(0.002)
            job.kill()
            job.wait()
        assert tables(study) != quiet
        server.faults = lambda n, body: None
        call("judge", "--judge", "llm")
    assert tables(study) == quiet

"""correlate: the stage on written-down results, and the command on anyone's tables."""

import json
from pathlib import Path

import numpy as np
import pytest

from csv_files import pick, rows, write
from emplifai import correlate, simulation
from emplifai.params import Params
from emplifai.paths import Paths
from emplifai.records import Comparison, Dialogue, Judgement, Question, Reply, Score, Turn, sha256, write_jsonl

MODELS = ("reference", "parrot", "base", "tuned")


# The stage


@pytest.fixture
def results(tmp_path, monkeypatch) -> tuple[Params, Paths]:
    """What the earlier stages would have written for 12 situations of two dialogues and four models."""
    monkeypatch.chdir(tmp_path)
    params = Params.model_validate(
        {
            "models": {m: {"backend": "reference"} for m in MODELS},
            "judges": {"proxy": {"backend": "likelihood"}},
            "correlate": {"resamples": 200, "simulated_items": 16},
        }
    )
    paths, rng = Paths(), np.random.default_rng(5)
    dialogues = [dialogue(emotion, s, k) for emotion in ("fear", "joy") for s in range(6) for k in (1, 2)]
    write_jsonl(paths.part("test"), dialogues)
    for model in MODELS:
        text = words(model)
        write_jsonl(paths.replies(model), [reply(d, model, text(d)) for d in dialogues])
        write_jsonl(paths.judgements("proxy", model), [judgement(d, model, text(d), c, rng) for d in dialogues for c in CRITERIA])
        write_jsonl(paths.scores(model), [score(d, model, text(d), rng) for d in dialogues])
    return params, paths


CRITERIA = ("fluency", "empathy", "emotion_empathy")


def dialogue(emotion: str, situation: int, k: int) -> Dialogue:
    turns = [Turn("patient", f"痛いです{situation}"), Turn("supporter", f"つらいですね{situation}{k}")]
    return Dialogue(f"{emotion}-{situation:02}-{k}", f"{emotion}-{situation:02}", emotion, None, "病院で", turns)


def words(model: str):
    """What a model says in a dialogue."""
    fixed = {"reference": lambda d: d.reference, "parrot": lambda d: d.patient}
    return fixed.get(model, lambda d: d.reference[:3] + model)


def reply(dialogue: Dialogue, model: str, text: str) -> Reply:
    return Reply(dialogue.dialogue_id, model, "reply", 0, text, "stop", "p", "s", sha256(text))


def judgement(dialogue: Dialogue, model: str, text: str, criterion: str, rng) -> Judgement:
    value = float(rng.integers(1, 6)) if dialogue.dialogue_id != "joy-00-1" else None
    status = "ok" if value else "unparsed"
    return Judgement("proxy", dialogue.dialogue_id, model, criterion, 0, value, status, "proxy", "", "", "p", sha256(text))


def score(dialogue: Dialogue, model: str, text: str, rng) -> Score:
    f1 = float(rng.uniform(0.5, 0.9))
    return Score(dialogue.dialogue_id, model, "reply", 0, f1, f1, f1, "ok", sha256(text))


def test_stage_without_ratings_uses_simulated_raters_and_says_so_everywhere(results, capsys):
    params, paths = results
    correlate.run(params, paths)
    assert "SIMULATED" in capsys.readouterr().err
    for name in ("items", "agreement", "systems"):
        assert {row["simulated"] for row in rows(paths.table(name))} == {"true"}, name
    metrics = json.loads(paths.metrics("correlate").read_text())
    assert metrics["simulated"] == 1
    assert all(isinstance(v, int | float) and np.isfinite(v) for v in metrics.values())
    assert metrics["judgements_failed"] == len(MODELS) * len(CRITERIA)
    items = rows(paths.table("items"))
    assert len(items) == 24 * len(MODELS) * len(CRITERIA)
    assert sum(row["n_raters"] == "5" for row in items) == 16 * len(MODELS) * len(CRITERIA)
    failed = [row for row in items if row["dialogue_id"] == "joy-00-1"]
    assert {row["judge_proxy"] for row in failed} == {""}
    agreement = rows(paths.table("agreement"))
    assert {row["judge"] for row in agreement} == {"", "proxy", "bertscore"}
    assert {row["level"] for row in agreement} == {"raters", "pooled", "within_model", "within_cluster", "system"}
    kappa = pick(agreement, judge="bertscore", criterion="empathy", level="pooled", by="", statistic="weighted_kappa")
    assert (kappa["estimate"], kappa["status"]) == ("", "judge on its own scale")


def test_stage_is_the_same_twice_and_leaves_data_alone(results):
    params, paths = results
    correlate.run(params, paths)
    once = {name: paths.table(name).read_bytes() for name in ("items", "agreement", "systems")}
    correlate.run(params, paths)
    assert once == {name: paths.table(name).read_bytes() for name in once}
    assert not Path("data").exists()


def test_stage_sets_ratings_of_other_words_aside(results, capsys):
    params, paths = results
    folder = Path("data/ratings")
    folder.mkdir(parents=True)
    lines = []
    for d in range(6):
        for rater in ("r1", "r2"):
            words = sha256(f"つらいですね{d}1") if (d, rater) != (5, "r2") else sha256("other words")
            lines.append((rater, f"joy-{d:02}-1", "reference", "empathy", 1 + (d + (rater == "r2")) % 5, words, ""))
    write(folder / "mine.csv", "rater_id,dialogue_id,model,criterion,score,text_sha256,rated_at", lines)
    before = (folder / "mine.csv").read_bytes()
    correlate.run(params, paths)
    metrics = json.loads(paths.metrics("correlate").read_text())
    assert (metrics["simulated"], metrics["ratings_set_aside"], metrics["empathy/ratings"]) == (0, 1, 11)
    assert "1 of 12 ratings are of other words" in capsys.readouterr().err
    assert (folder / "mine.csv").read_bytes() == before
    assert "simulated" not in rows(paths.table("agreement"))[0]


def test_simulated_raters_know_the_planted_feature_only():
    turns = [Turn("patient", "痛い"), Turn("supporter", "それはおつらいですね")]
    questions = [
        Question(Dialogue(f"d{i}", f"s{i}", "joy", None, "", turns), "m", text)
        for i, text in enumerate(["それはおつらいですね", "はい"] * 200)
    ]
    made = simulation.simulate(questions, 5, 400, ["empathy"], (1, 5), seed=1)
    assert len(made) == 2000 and all(r.simulated and r.rater_id.startswith("simulated") for r in made)
    again = simulation.simulate(questions[::-1], 5, 400, ["empathy"], (1, 5), seed=1)
    key = lambda r: (r.rater_id, r.dialogue_id)  # noqa: E731
    assert sorted(made, key=key) == sorted(again, key=key)
    mean = {i: np.mean([r.score for r in made if r.dialogue_id == f"d{i}"]) for i in range(400)}
    like = [1.0, 0.0] * 200
    assert 0.35 < np.corrcoef(like, list(mean.values()))[0, 1] < 0.75


def test_position_bias_comes_from_the_pairs(results):
    """Of 12 decided answers 9 chose the reply read first; ties and failures say nothing."""
    params, paths = results
    kinds = [("first", "ok")] * 9 + [("second", "ok")] * 3 + [("tie", "ok"), (None, "unparsed")]
    pairs = [
        Comparison("proxy", f"joy-{k % 6:02}-1", "empathy", "base", "tuned", choice, status, "", "", "p", "a", "b")
        for k, (choice, status) in enumerate(kinds)
    ]
    write_jsonl(paths.pairs("proxy"), pairs)
    correlate.run(params, paths)
    bias = rows(paths.table("bias"))
    row = pick(bias, judge="proxy", criterion="empathy", statistic="position_first_share")
    assert (float(row["estimate"]), row["n_items"], row["reference"]) == (0.75, "12", "order")
    assert float(row["ci_low"]) < 0.75 < float(row["ci_high"]) and 0 < float(row["p_value"]) <= float(row["p_adjusted"])
    other = pick(bias, judge="proxy", criterion="fluency", statistic="position_first_share")
    assert (other["estimate"], other["status"]) == ("", "no pairs compared")
    assert all((r["p_value"] == "") == (r["p_adjusted"] == "") for r in bias)

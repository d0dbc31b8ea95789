"""Several judges: how far they agree, and how many independent ones they amount to."""

import json

import numpy as np
import pytest

from conftest import change_params
from emplifai import between, params
from emplifai.statistics.krippendorff import alpha, alpha_interval
from fault_server import FaultServer, prompt_of, score_of
from judge_study import call, dialogues, study  # noqa: F401

SETTINGS = params.Params(models={"m": {"backend": "parrot"}}, correlate={"resamples": 200})


def test_alpha_of_any_scores_is_the_peer_librarys():
    import krippendorff

    rng = np.random.default_rng(0)
    for ratings in (rng.normal(size=(40, 3)), rng.integers(1, 6, (60, 4)).astype(float)):
        ratings = np.where(rng.random(ratings.shape) < 0.3, np.nan, ratings) + 3
        peer = krippendorff.alpha(ratings.T, level_of_measurement="interval")
        assert alpha_interval(ratings).estimate() == pytest.approx(peer, abs=1e-12)
        assert alpha_interval(ratings).estimate() == pytest.approx(alpha(ratings, "interval").estimate(), abs=1e-12)
    assert np.isnan(alpha_interval(np.full((5, 2), 3.0)).estimate())


def test_copies_of_a_judge_are_one_judge_and_strangers_are_as_many_as_they_are():
    rng = np.random.default_rng(1)
    clusters = [f"s{k // 4}" for k in range(400)]
    scores = rng.normal(size=400)
    one = between.numbers(np.stack([scores] * 3, 1), [0, 1, 2], clusters, SETTINGS)
    assert one["independent"] == pytest.approx(1) and one["alpha"] == pytest.approx(1) == one["correlation"]
    many = between.numbers(rng.normal(size=(400, 3)), [0, 1, 2], clusters, SETTINGS)
    assert many["independent"] > 2.6 and many["independent_low"] <= many["independent"] <= 3 and abs(many["alpha"]) < 0.1
    half = between.numbers(scores[:, None] + rng.normal(size=(400, 4)), [0, 1, 2, 3], clusters, SETTINGS)
    assert half["correlation"] == pytest.approx(0.5, abs=0.06) and half["independent"] == pytest.approx(4 / 2.5, abs=0.12)


def test_a_constant_judge_agrees_with_nobody_in_particular():
    ratings = np.column_stack([np.arange(20.0) % 5, np.full(20, 3.0)])
    found = between.numbers(ratings, [0, 1], [f"s{k}" for k in range(20)], SETTINGS)
    assert found["correlation"] is None and found["independent"] is None


def test_two_judges_at_work(study, call):
    """Two judges of one mind and a third of its own, each with its folder, gathered into one file."""

    def other(body: dict) -> str:
        return json.dumps({"rationale": "", "score": score_of(prompt_of(body) + "other")})

    with FaultServer() as server, FaultServer(answer=other) as second:
        entry = {"backend": "openai", "model": "m", "base_url": server.url}
        change_params(study, judges={"one": entry, "two": entry, "three": entry | {"base_url": second.url}})
        for judge in ("one", "two", "three"):
            call("judge", "--judge", judge)
        call("judge", "--gather")
    numbers = json.loads((study / "results/judge/metrics.json").read_text())["between"]
    assert numbers["empathy.judges"] == 3 and numbers["empathy.replies"] == 3 * len(dialogues())
    assert 1 < numbers["empathy.independent"] < 3 and 0.2 < numbers["empathy.correlation"] < 0.6
    assert numbers["empathy.alpha_low"] <= numbers["empathy.alpha"] <= numbers["empathy.alpha_high"]


def test_the_report_shows_all_judges_in_one_table(tmp_path, monkeypatch):
    """Made-up numbers in, the same numbers out; a criterion that puts a system above people is not valid for systems."""
    import results_folder
    from conftest import ROOT, yaml
    from emplifai import evidence, judge_tables
    from emplifai.paths import Paths
    from emplifai.records import read_json, write_json
    from emplifai.tables import Table

    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["judges"]["llm"] = {"backend": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
    settings, paths = results_folder.project(tmp_path, values), Paths()
    monkeypatch.chdir(tmp_path)
    results_folder.write(settings, paths)
    numbers = read_json(paths.metrics("judge"))
    pairs = {"first_share": 0.75, "first_share_low": 0.7, "first_share_high": 0.8, "consistent": 0.6}
    for model, score in (("reference", 0.5), ("tuned", 1.5)):
        pairs |= {f"{model}.score": score, f"{model}.score_low": score - 0.1, f"{model}.score_high": score + 0.1}
    numbers["llm"] |= {f"pairwise.empathy.{k}": v for k, v in pairs.items()}
    numbers["llm"] |= {"input_tokens": 1200, "output_tokens": 34, "cost_usd": 0.5}
    numbers["between"] = {"empathy.judges": 2, "empathy.replies": 112, "empathy.correlation": 0.4, "empathy.independent": 1.43}
    write_json(paths.metrics("judge"), numbers)
    run = evidence.read(settings, paths)
    blocks = list(judge_tables.overview(run)) + list(judge_tables.pairs(run, "llm", "llm"))
    blocks += list(judge_tables.audit(run, "llm", "llm"))
    text = " ".join(b.text for b in blocks if not isinstance(b, Table))
    tables = {b.name: b for b in blocks if isinstance(b, Table)}
    head = tables["judges"].columns
    row = dict(zip(head, tables["judges"].rows[4], strict=True))
    assert row["judge"] == "llm (LLM judge)" and row["criterion"] == "empathy" and row["systems below people"] == "no"
    assert (row["AUC, hardest contrast"], row["attacks that raise the score"], row["chooses the first of two"]) == (
        0.62,
        0.25,
        0.75,
    )
    assert tables["between-judges"].rows == [["empathy", 2, 112, None, 0.4, 1.43]]
    assert [r[0] for r in tables["pairs-llm-empathy"].rows][:2] == ["tuned", "reference"]
    assert "75% chose the reply read first" in text and "read 1,200 and wrote 34 tokens: 0.5000 USD" in text
    assert "3 of 6 probes moved its score as they should" in text
    assert tables["audit-llm"].rows[0][0] == "contrast:generic" and tables["audit-llm"].rows[0][3] is True

"""Several judges: how far they agree, and how many independent ones they amount to."""

import json

import numpy as np
import pytest

from conftest import change_params
from emplifai import between, params
from emplifai.statistics.krippendorff import alpha, alpha_interval
from fault_server import FaultServer, prompt_of, score_of
from test_judge import call, dialogues, study  # noqa: F401

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


def test_two_judges_at_work(study, call):  # noqa: F811
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
